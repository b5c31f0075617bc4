//! The groups of an image from what their nodes say of their places. The trees within a group are
//! the shape's.

use std::collections::{BTreeMap, HashMap};

use super::group::{Door, Feeders, Index};
use super::planted::Planted;
use super::{Claim, Claimed, NodeId};
use crate::placement::Nodes;
use crate::tree::{self, Above};

impl Planted {
    /// Adds nodes that come with places from before, each of which is no member yet and comes once.
    /// Groups come back by their numbers; a root is fed by whom it claims, if that one is here and
    /// does not depend on it.
    pub(super) fn restore(&mut self, claims: &[Claim], nodes: &mut Nodes) {
        let known: HashMap<NodeId, &Claim> =
            claims.iter().map(|claim| (claim.node, claim)).collect();
        let mut groups: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
        for &claim in claims {
            let number = if self.is_grouped() { claim.group } else { 0 };
            groups.entry(number).or_default().push(claim);
        }
        let mut begun = Vec::new();
        for (number, claims) in groups {
            let known_group = match self.is_grouped() {
                true => self.numbers.get(&number).copied(),
                false => self.only_group(),
            };
            let index = known_group.unwrap_or_else(|| {
                let zone = claims.first().map(|claim| nodes.zone(claim.node)).unwrap_or_default();
                let door = if self.is_grouped() { Door::Closed } else { self.open_door(nodes) };
                let index = self.begin(number, zone, door, Feeders::default());
                begun.push(index);
                index
            });
            self.restore_group(index, &claims, &known, nodes);
        }
        for claim in claims.iter().filter(|claim| claim.complete) {
            self.complete(claim.node, nodes);
        }
        if self.is_grouped() {
            let claimed = self.claimed_feeders(claims);
            let lost: Vec<_> = begun
                .into_iter()
                .filter(|&index| !self.feed_as_claimed(index, &claimed, nodes))
                .collect();
            lost.into_iter().for_each(|index| self.feed_anew(index, nodes));
        }
    }

    fn restore_group(
        &mut self,
        index: Index,
        claims: &[Claim],
        known: &HashMap<NodeId, &Claim>,
        nodes: &mut Nodes,
    ) {
        let fellows: HashMap<NodeId, u32> =
            claims.iter().zip(0..).map(|(claim, nth)| (claim.node, nth)).collect();
        let above = |claimed| match claimed {
            Claimed::Registry => Above::Registry,
            Claimed::Stranger => Above::Stranger,
            Claimed::Node(node) => {
                let member = self.members.get(&node);
                match (fellows.get(&node), member) {
                    (Some(&fellow), _) => Above::Fellow(fellow),
                    (None, Some(member)) if member.group == index => Above::Member(member.place),
                    // It feeds this group, so its child is a root.
                    (None, Some(_)) => Above::Registry,
                    (None, None) if known.contains_key(&node) => Above::Registry,
                    (None, None) => Above::Stranger,
                }
            }
        };
        let above: Vec<tree::Claim> = claims.iter().map(|claim| claim.parents.map(above)).collect();
        let mut edges = Vec::new();
        let Some(group) = self.group_mut(index) else { return };
        let places = group.shape.restore(&above, &mut edges);
        for (claim, place) in claims.iter().zip(places) {
            if let Ok(place) = place {
                self.seat(index, claim.node, place);
            }
        }
        self.apply(index, &edges, nodes);
        self.end_if_empty(index);
    }

    /// Whom the nodes of each group name as feeder of each tree: a node outside, or the registry.
    fn claimed_feeders(&self, claims: &[Claim]) -> HashMap<(Index, u8), Claimed> {
        let group_of = |node: NodeId| self.members.get(&node).map(|member| member.group);
        let mut feeders = HashMap::new();
        for claim in claims {
            let Some(group) = group_of(claim.node) else { continue };
            for (tree, claimed) in self.trees().zip(claim.parents) {
                let outside = match claimed {
                    Claimed::Registry => true,
                    Claimed::Stranger => false,
                    Claimed::Node(node) => group_of(node).is_some_and(|of| of != group),
                };
                if outside {
                    feeders.entry((group, tree)).or_insert(claimed);
                }
            }
        }
        feeders
    }

    /// Whether all trees of a group are fed as its nodes claim.
    fn feed_as_claimed(
        &mut self,
        index: Index,
        claimed: &HashMap<(Index, u8), Claimed>,
        nodes: &mut Nodes,
    ) -> bool {
        let mut all = true;
        for tree in self.trees() {
            match claimed.get(&(index, tree)) {
                Some(Claimed::Registry) => {}
                Some(&Claimed::Node(node)) if self.may_feed(node, index) => {
                    self.set_feeder(index, tree, Some(node), nodes);
                }
                _ => all = false,
            }
        }
        all
    }

    fn may_feed(&self, node: NodeId, index: Index) -> bool {
        let group = self.members.get(&node).map(|member| member.group);
        group.is_some_and(|group| !self.downstream(index).contains(&group))
    }
}
