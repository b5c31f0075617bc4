//! Feeders in a row, where room is at the wrong end of it: all who send too much feed groups on
//! which those depend who have room.
//!
//! Each group has room for two stripes more than its own nodes need, and needs two, so in any order
//! in which nobody depends on a later one the groups before one suffice for it. They are gone
//! through in such an order. A stripe whose feeder has no room left after those before it gets
//! another feeder from the groups before it, if need be one that feeds a later group, whose turn
//! comes. The steward, who feeds nobody but slow nodes, is the last: what is left is for it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::NodeId;
use super::group::{Group, Index};
use super::planted::{Member, Planted};
use crate::placement::{FULL, Load, Nodes};

/// A stripe that goes into a group.
#[derive(Clone, Copy, Debug)]
struct Fed {
    group: Index,
    tree: u8,
    feeder: NodeId,
}

/// What a node that may feed groups can still send to them.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Place of its group in the order.
    nth: usize,
    left: Load,
    /// What it sends to groups whose turn has not come.
    claimed: Load,
}

impl Planted {
    /// Has groups fed by others until nobody who feeds one sends too much, or as few as can be.
    /// Answers whether some still do though there is room.
    pub(super) fn shift(&mut self, wait_ms: u64, nodes: &mut Nodes) -> bool {
        if !self.has_overload(wait_ms, nodes.now_ms) {
            return false;
        }
        let order = self.in_order();
        let stripes: Vec<Fed> = order.iter().flat_map(|&group| self.stripes_into(group)).collect();
        let mut rooms = self.rooms(&order, &stripes, nodes);
        let before: Load = rooms.values().map(|room| room.claimed.saturating_sub(room.left)).sum();
        let (mut after, mut moves) = (0, Vec::new());
        let nth: HashMap<Index, usize> = order.into_iter().zip(0..).collect();
        for fed in stripes {
            let Some(own) = rooms.get_mut(&fed.feeder) else { continue };
            own.claimed -= self.weight();
            let zone = self.group(fed.group).map(|group| group.zone);
            let feeder = if own.left >= self.weight() {
                Some(fed.feeder)
            } else {
                let rank = |(&node, room): (&NodeId, &Room)| {
                    let may = room.nth < nth[&fed.group] && room.left >= self.weight();
                    let is_claimed = room.left < room.claimed + self.weight();
                    let far = Some(nodes.zone(node)) != zone;
                    may.then_some((is_claimed, far, Reverse(room.nth), node))
                };
                rooms.iter().filter_map(rank).min().map(|(.., node)| node)
            };
            match feeder.and_then(|feeder| rooms.get_mut(&feeder)) {
                Some(room) => room.left -= self.weight(),
                None => after += self.weight(),
            }
            moves.extend(feeder.filter(|&feeder| feeder != fed.feeder).map(|to| (fed, to)));
        }
        let is_stuck = after > 0 && rooms.values().any(|room| room.left >= self.weight());
        for (Fed { group, tree, .. }, feeder) in moves.into_iter().filter(|_| after < before) {
            self.set_feeder(group, tree, Some(feeder), nodes);
            if let Some(group) = self.group_mut(group) {
                group.refed_ms = nodes.now_ms;
            }
        }
        is_stuck
    }

    /// Whether somebody who feeds a group, and has for so long, sends too much.
    pub(super) fn has_overload(&self, wait_ms: u64, now_ms: u64) -> bool {
        self.indices().any(|index| {
            let due = |group: &&Group| now_ms >= group.refed_ms + wait_ms;
            let group = self.group(index).filter(due);
            group.is_some_and(|group| !self.is_of_slow(group))
                && self.stripes_into(index).any(|fed| self.load_of(fed.feeder) > FULL)
        })
    }

    /// All groups but those of slow nodes, each behind those that feed it, the steward's last.
    fn in_order(&self) -> Vec<Index> {
        let has_turn = |group: &Group| !self.is_of_slow(group);
        let (mut last, mut waiting): (Vec<Index>, Vec<Index>) = self
            .indices()
            .filter(|&index| self.group(index).is_some_and(has_turn))
            .partition(|&index| self.is_of_steward(index));
        let (mut order, mut stands) = (Vec::with_capacity(waiting.len()), HashSet::new());
        loop {
            let before = order.len();
            waiting.retain(|&index| {
                let above = self.group(index).into_iter().flat_map(|group| group.feeders).flatten();
                let mut above = above.filter_map(|feeder| self.members.get(&feeder));
                let is_next = above.all(|above| stands.contains(&above.group));
                if is_next {
                    order.push(index);
                    stands.insert(index);
                }
                !is_next
            });
            if order.len() == before {
                order.append(&mut last);
                return order;
            }
        }
    }

    /// What others send to a group's roots.
    fn stripes_into(&self, group: Index) -> impl Iterator<Item = Fed> + '_ {
        self.trees().filter_map(move |tree| {
            let fed = self.group(group)?;
            let root = self.members.get(&fed.node(fed.shape.root(tree)?))?;
            let feeder = fed.feeders[usize::from(tree)].filter(|_| !root.complete)?;
            Some(Fed { group, tree, feeder })
        })
    }

    /// Who may feed groups, and what they can send beside what they send anyway.
    fn rooms(&self, order: &[Index], stripes: &[Fed], nodes: &Nodes) -> HashMap<NodeId, Room> {
        let nth: HashMap<Index, usize> = order.iter().copied().zip(0..).collect();
        let mut claimed: HashMap<NodeId, Load> = HashMap::new();
        for fed in stripes {
            *claimed.entry(fed.feeder).or_default() += self.weight();
        }
        let room = |(&node, member): (&NodeId, &Member)| {
            let &nth = nth.get(&member.group)?;
            let claimed = claimed.get(&node).copied().unwrap_or(0);
            let left = FULL.saturating_sub(member.load.saturating_sub(claimed));
            let may = !nodes.is_slow(node) && !self.is_steward(node) && left + claimed > 0;
            may.then_some((node, Room { nth, left, claimed }))
        };
        self.members.iter().filter_map(room).collect()
    }
}
