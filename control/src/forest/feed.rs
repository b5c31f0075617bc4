//! Who feeds which group of an image, and who is put by itself. See `planted` for why.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::NodeId;
use super::group::{Door, Feeders, Group, Index, NOWHERE};
use super::planted::{Member, Planted};
use crate::limits::{OVERLOAD_MS_MIN, REFEED_MS_MIN};
use crate::placement::{FULL, Load, Nodes, Zone};

impl Planted {
    /// The group that a newcomer joins, or zone, door and feeders of the one that it begins.
    pub(super) fn spot(
        &mut self,
        node: NodeId,
        nodes: &mut Nodes,
    ) -> Result<Index, (Zone, Door, Feeders)> {
        let zone = nodes.zone(node);
        if !self.is_grouped() {
            return self.only_group().ok_or((zone, self.open_door(nodes), Feeders::default()));
        }
        if nodes.is_slow(node) && !self.members.is_empty() {
            return Err((zone, Door::Aside, self.host(zone, &BTreeSet::new(), nodes)));
        }
        let door = self.open_door(nodes);
        if let Some(seed) = self.pool.seed(Some(zone), nodes, |_| true) {
            return Err((zone, door, [Some(seed); 2]));
        }
        while let Some(index) = self.pool.smallest(zone) {
            if !self.close_if_due(index, nodes) {
                return Ok(index);
            }
        }
        Err((zone, door, self.feeders(zone, &BTreeSet::new(), nodes)))
    }

    /// Who may feed a group of that zone, other than from the groups in `avoid`: an idle seed, else
    /// who has most room, else the registry.
    fn feeders(&mut self, zone: Zone, avoid: &BTreeSet<Index>, nodes: &Nodes) -> Feeders {
        if let Some(seed) = self.seed(zone, avoid, nodes) {
            return [Some(seed); 2];
        }
        let first = self.spare(zone, avoid, None, nodes);
        [first, self.spare(zone, avoid, first, nodes)]
    }

    fn seed(&mut self, zone: Zone, avoid: &BTreeSet<Index>, nodes: &Nodes) -> Option<NodeId> {
        let members = &self.members;
        // Who is being moved is in no group, and cannot feed itself.
        let may = |node| {
            let group = members.get(&node).map(|member| member.group);
            group.is_some_and(|group| group != NOWHERE && !avoid.contains(&group))
        };
        let near = self.pool.seed(Some(zone), nodes, may);
        near.or_else(|| self.pool.seed(None, nodes, may))
    }

    /// Who has most room for one more stripe, in that zone if there is anybody. `taken` has been
    /// given one already that is not counted yet, and gets this one too if it has room.
    fn spare(
        &self,
        zone: Zone,
        avoid: &BTreeSet<Index>,
        taken: Option<NodeId>,
        nodes: &Nodes,
    ) -> Option<NodeId> {
        let rank = |(&node, member): (&NodeId, &Member)| {
            self.group(member.group)?;
            if avoid.contains(&member.group) || nodes.is_slow(node) || self.is_steward(node) {
                return None;
            }
            let load = member.load + self.weight() * (1 + Load::from(taken == Some(node)));
            let room = FULL.saturating_sub(load);
            let far = nodes.zone(node) != zone;
            // Where nobody has room: who feeds the steward, whom somebody below can feed then.
            let is_over = load > FULL;
            let can_pass_on = is_over && member.feeds.iter().any(|&fed| self.is_of_steward(fed));
            let is_other = !can_pass_on && taken != Some(node);
            Some((is_over, far, !can_pass_on, is_other, Reverse(room), load, node))
        };
        let least = self.members.iter().filter_map(rank).min();
        least.map(|(.., node)| node)
    }

    pub(super) fn is_of_steward(&self, index: Index) -> bool {
        let steward = self.steward.and_then(|steward| self.members.get(&steward));
        steward.is_some_and(|steward| steward.group == index)
    }

    pub(super) fn is_steward(&self, node: NodeId) -> bool {
        self.steward == Some(node)
    }

    /// Who feeds a slow node: an idle seed, else somebody who sends to slow nodes only.
    fn host(&mut self, zone: Zone, avoid: &BTreeSet<Index>, nodes: &mut Nodes) -> Feeders {
        if let Some(seed) = self.seed(zone, avoid, nodes) {
            return [Some(seed); 2];
        }
        let depends = |steward: &NodeId| {
            self.members.get(steward).is_none_or(|member| avoid.contains(&member.group))
        };
        let host = match self.steward {
            Some(steward) => Some(steward).filter(|steward| !depends(steward)),
            None => {
                let free = self.free_of_duty(avoid, nodes);
                free.or_else(|| self.make_steward(avoid, nodes))
            }
        };
        match host {
            Some(host) => [Some(host); 2],
            None => self.feeders(zone, avoid, nodes),
        }
    }

    /// What a member sends to others than slow nodes.
    fn duty(&self, node: NodeId, member: &Member) -> Load {
        let fed = member.feeds.iter().filter_map(|&fed| self.group(fed));
        let aside = fed.filter(|fed| self.is_of_slow(fed) && fed.incomplete > 0);
        let stripes: Load = aside
            .flat_map(|fed| &fed.feeders)
            .map(|&feeder| if feeder == Some(node) { self.weight() } else { 0 })
            .sum();
        member.load.saturating_sub(stripes)
    }

    /// A member that sends nothing, but perhaps to slow nodes.
    fn free_of_duty(&self, avoid: &BTreeSet<Index>, nodes: &Nodes) -> Option<NodeId> {
        let may = |&(&node, member): &(&NodeId, &Member)| {
            let group = self.group(member.group).filter(|_| !avoid.contains(&member.group));
            group.is_some() && !nodes.is_slow(node) && self.duty(node, member) == 0
        };
        let free = self.members.iter().filter(may);
        free.map(|(&node, member)| (member.load, node)).min().map(|(_, node)| node)
    }

    /// Takes a member that sends little out of its group, to feed slow nodes and nobody else. The
    /// others' uplinks suffice for all the rest.
    fn make_steward(&mut self, avoid: &BTreeSet<Index>, nodes: &mut Nodes) -> Option<NodeId> {
        let may = |&(&node, member): &(&NodeId, &Member)| {
            let group = self.group(member.group).filter(|_| !avoid.contains(&member.group));
            let in_trees = group.is_some_and(|group| group.shape.len() > 1);
            in_trees && !nodes.is_slow(node) && member.feeds.is_empty()
        };
        let candidates = self.members.iter().filter(may);
        let (_, steward) = candidates.map(|(&node, member)| (member.load, node)).min()?;
        self.detach(steward, nodes).ok()?;
        let feeders = self.feeders(nodes.zone(steward), avoid, nodes);
        self.put_aside(steward, feeders, nodes);
        self.steward = Some(steward);
        Some(steward)
    }

    /// Puts a member that was taken out of its group into one of its own.
    fn put_aside(&mut self, node: NodeId, feeders: Feeders, nodes: &mut Nodes) {
        let group = self.begin(nodes.group_number(), nodes.zone(node), Door::Aside, feeders);
        let entered = self.enter(group, node, nodes);
        debug_assert!(entered.is_ok(), "there is room in an empty group");
    }

    /// A group has lost a feeder.
    pub(super) fn feed_again(&mut self, index: Index, lost: NodeId, nodes: &mut Nodes) {
        let Some(group) = self.group(index) else { return };
        let (zone, before) = (group.zone, group.feeders);
        let is_of_slow = self.is_of_slow(group);
        let mut feeders = Feeders::default();
        // Who has all of it needs nobody.
        if group.incomplete > 0 {
            let avoid = self.downstream(index);
            feeders = match is_of_slow {
                true => self.host(zone, &avoid, nodes),
                false => self.feeders(zone, &avoid, nodes),
            };
        }
        for (tree, (before, after)) in self.trees().zip(before.into_iter().zip(feeders)) {
            if before == Some(lost) {
                self.set_feeder(index, tree, after, nodes);
            }
        }
    }

    /// A group reads the registry, and perhaps need not.
    pub(super) fn feed_anew(&mut self, index: Index, nodes: &mut Nodes) {
        let Some(group) = self.group(index).filter(|group| group.incomplete > 0) else { return };
        let (zone, before, avoid) = (group.zone, group.feeders, self.downstream(index));
        let feeders = self.feeders(zone, &avoid, nodes);
        for (tree, (before, after)) in self.trees().zip(before.into_iter().zip(feeders)) {
            if before.is_none() {
                self.set_feeder(index, tree, after, nodes);
            }
        }
    }

    /// Whether a group is that of a slow node.
    pub(super) fn is_of_slow(&self, group: &Group) -> bool {
        let root = group.shape.root(0).map(|root| group.node(root));
        group.door == Door::Aside && root.is_some_and(|root| !self.is_steward(root))
    }

    /// A node's uplink is slow: nobody is to read from it, and it is to read from somebody who does
    /// so little else that nobody notices.
    pub(super) fn demote(&mut self, node: NodeId, nodes: &mut Nodes) {
        self.refresh_idle(node, nodes);
        if !self.is_grouped() || !self.is_moving() {
            return;
        }
        if self.is_steward(node) {
            self.steward = None;
        }
        let Some(member) = self.members.get(&node) else { return };
        let (index, fed) = (member.group, member.feeds.clone());
        let alone = self.group(index).is_some_and(|group| group.shape.len() == 1);
        // Before this node's children get another parent: who has nobody to send to is steward, and
        // they go to one whose uplink is known.
        let seed = self.seed(nodes.zone(node), &BTreeSet::new(), nodes);
        if !alone && seed.is_none() && self.steward.is_none() {
            self.make_steward(&BTreeSet::new(), nodes);
        }
        if !alone && self.detach(node, nodes).is_err() {
            return;
        }
        for fed in fed {
            self.feed_again(fed, node, nodes);
        }
        if alone {
            if let Some(group) = self.group_mut(index) {
                group.door = Door::Aside;
            }
            self.list(index);
            self.host_again(index, nodes);
        } else {
            let host = self.host(nodes.zone(node), &BTreeSet::new(), nodes);
            self.put_aside(node, host, nodes);
        }
        self.relieve_all(0, nodes);
    }

    /// A slow node is to be fed by whom it bothers least, unless that one has all of the image.
    fn host_again(&mut self, index: Index, nodes: &mut Nodes) {
        let Some(group) = self.group(index) else { return };
        let is_seed = |feeder: &NodeId| self.members.get(feeder).is_some_and(|it| it.complete);
        if group.incomplete == 0 || group.feeders.iter().flatten().any(is_seed) {
            return;
        }
        let (zone, avoid) = (group.zone, self.downstream(index));
        let feeders = self.host(zone, &avoid, nodes);
        for (tree, feeder) in self.trees().zip(feeders) {
            self.set_feeder(index, tree, feeder, nodes);
        }
    }

    /// Lets time pass: closes groups, and relieves who feeds a group and has got so many children
    /// of its own since that it sends more than it receives.
    pub(super) fn tick(&mut self, nodes: &mut Nodes) {
        let open: Vec<_> = self.pool.open_groups().collect();
        for index in open {
            self.close_if_due(index, nodes);
        }
        if !self.is_grouped() || !self.is_moving() {
            return;
        }
        self.relieve_all(REFEED_MS_MIN, nodes);
    }

    /// Whether a group has taken newcomers for long enough, and takes none any more.
    fn close_if_due(&mut self, index: Index, nodes: &Nodes) -> bool {
        let now_ms = nodes.now_ms;
        let due = |door| matches!(door, Door::Open { until_ms } if until_ms <= now_ms);
        let Some(group) = self.group_mut(index).filter(|group| due(group.door)) else {
            return false;
        };
        group.door = Door::Closed;
        self.list(index);
        true
    }

    /// Has groups fed by others if their feeders send too much and have for so long. Those of slow
    /// nodes first: what they let go of may be just what others need. And those twice: the last of
    /// them may have got the steward that the first ones asked for.
    fn relieve_all(&mut self, wait_ms: u64, nodes: &mut Nodes) {
        self.retire_steward();
        for slow in [true, true, false] {
            for index in self.indices() {
                let Some(group) = self.group(index) else { continue };
                let waits = nodes.now_ms < group.refed_ms + wait_ms;
                if self.is_of_slow(group) != slow || group.incomplete == 0 || waits {
                    continue;
                }
                let moved = match slow {
                    true => self.relieve_host(index, nodes),
                    false => self.relieve_feeders(index, nodes),
                };
                if let Some(group) = self.group_mut(index).filter(|_| moved) {
                    group.refed_ms = nodes.now_ms;
                }
            }
        }
        if self.is_shift_due(wait_ms, nodes.now_ms)
            && self.shift(wait_ms, nodes)
            && self.steward.is_none()
        {
            self.shift_hosts(nodes);
        }
    }

    /// Whether a whole row may be fed anew: at once if there are slow nodes, for then all uplinks
    /// are used; else room is mostly found near by, or comes with the next who join, and must have
    /// been missing for a while.
    fn is_shift_due(&mut self, wait_ms: u64, now_ms: u64) -> bool {
        if !self.has_overload(wait_ms, now_ms) {
            self.overload_ms = None;
            return false;
        }
        let since_ms = *self.overload_ms.get_or_insert(now_ms);
        let has_slow = self.steward.is_some() || !self.hosted().is_empty();
        let is_due = has_slow || now_ms >= since_ms + OVERLOAD_MS_MIN;
        if is_due {
            self.overload_ms = None;
        }
        is_due
    }

    /// Who feeds slow nodes and happens to have nothing else to do may be in the way of others: its
    /// group has no room for the next one then. A steward is fed by the last group.
    fn shift_hosts(&mut self, nodes: &mut Nodes) {
        let hosted = self.hosted();
        if !hosted.is_empty() && self.make_steward(&BTreeSet::new(), nodes).is_some() {
            hosted.into_iter().for_each(|index| self.host_again(index, nodes));
            self.shift(0, nodes);
        }
    }

    /// The groups of slow nodes that still need somebody.
    fn hosted(&self) -> Vec<Index> {
        let of_slow = |index: &Index| {
            self.group(*index).is_some_and(|it| it.incomplete > 0 && self.is_of_slow(it))
        };
        self.indices().filter(of_slow).collect()
    }

    fn relieve_feeders(&mut self, index: Index, nodes: &mut Nodes) -> bool {
        let mut moved = false;
        for tree in self.trees() {
            let Some(group) = self.group(index) else { break };
            let Some(feeder) = group.feeders[usize::from(tree)] else { continue };
            if self.load_of(feeder) <= FULL {
                continue;
            }
            let spare = self.spare(group.zone, &self.downstream(index), None, nodes);
            if let Some(spare) = spare.filter(|&spare| self.load_of(spare) + self.weight() <= FULL)
            {
                self.set_feeder(index, tree, Some(spare), nodes);
                moved = true;
            }
        }
        moved
    }

    /// A steward that has nobody to feed any more is like all others.
    fn retire_steward(&mut self) {
        let Some(steward) = self.steward else { return };
        let Some(member) = self.members.get(&steward) else { return };
        let index = member.group;
        let waits = |&fed: &Index| self.group(fed).is_some_and(|group| group.incomplete > 0);
        if !member.feeds.iter().any(waits) {
            self.steward = None;
            if let Some(group) = self.group_mut(index) {
                group.door = Door::Closed;
            }
        }
    }

    /// Who feeds a slow node is to send to slow nodes only: the steward, if there is one.
    fn relieve_host(&mut self, index: Index, nodes: &mut Nodes) -> bool {
        let Some(group) = self.group(index) else { return false };
        let on_duty = |&host: &NodeId| {
            let Some(member) = self.members.get(&host) else { return false };
            let is_other = self.steward.is_some_and(|steward| steward != host);
            !member.complete && (is_other || self.duty(host, member) > 0)
        };
        let moves = group.feeders.iter().flatten().any(on_duty);
        if moves {
            self.host_again(index, nodes);
        }
        moves
    }

    pub(super) fn load_of(&self, node: NodeId) -> Load {
        self.members.get(&node).map_or(0, |member| member.load)
    }
}
