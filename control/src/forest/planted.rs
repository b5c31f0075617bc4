//! One image: its nodes, in groups that feed each other.
//!
//! # Groups
//!
//! Every node belongs to one group, and a group has trees of its own. Their roots read the registry
//! or are *fed*: by a *seed*, a node that has all of the image and sends nothing of it, or by a
//! node of another group that has room for it. In twin trees of n nodes 2n - 2 stripes are sent
//! from node to node, and the uplinks could send 2n: the two that are over are what the roots of
//! one more group need. So groups that feed each other, each the next, run at full rate, each node
//! sends no more than it receives, and the registry sends the image once.
//!
//! New groups are begun
//! - at a seed, for a newcomer that finds an idle one: so a burst is spread over all of them first,
//!   and trees grow below them when none is left;
//! - in each zone, so that one node per tree reads from another zone;
//! - when the last one has taken newcomers for a while: whoever comes later has nothing yet, and
//!   nobody who is half through is put below it;
//! - for each node whose uplink is slow, so that nobody reads from it. These are fed by one node
//!   that sends to nobody else, the *steward*: whatever they share, the others do not notice.
//!
//! No group feeds one that it depends on. Function trees are planted as published: one group, fed
//! by the registry.

use std::collections::{BTreeSet, HashMap};

use super::NodeId;
use super::group::{Door, Feeders, Group, Index, NOWHERE};
use super::tell::News;
use crate::limits::{BRANCHES_MAX, GROUP_OPEN_MS};
use crate::placement::{FULL, Load, Nodes, Pool, Zone};
use crate::tree::{Edge, Place, ShapeKind, TreeError};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) group: Index,
    pub(super) place: Place,
    /// Has all of the image.
    pub(super) complete: bool,
    /// What it sends of this image.
    pub(super) load: Load,
    pub(super) parents: [Option<NodeId>; BRANCHES_MAX as usize],
    /// Groups of which it feeds one tree or both.
    pub(super) feeds: Vec<Index>,
    pub(super) told: Option<News>,
}

/// A node that has got another parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) tree: u8,
    pub(super) node: NodeId,
    pub(super) before: Option<NodeId>,
    pub(super) after: Option<NodeId>,
}

/// The nodes of one image.
#[derive(Debug)]
pub(super) struct Planted {
    pub(super) kind: ShapeKind,
    pub(super) epoch: u64,
    pub(super) members: HashMap<NodeId, Member>,
    /// Since [`Self::take_near`].
    pub(super) changed: Vec<Changed>,
    groups: Vec<Option<Group>>,
    unused: Vec<Index>,
    pub(super) numbers: HashMap<u64, Index>,
    pub(super) pool: Pool,
    pub(super) steward: Option<NodeId>,
    /// Since when somebody has sent too much, though feeders were changed.
    pub(super) overload_ms: Option<u64>,
    incomplete: u32,
    edges: Vec<Edge>,
}

impl Planted {
    pub(super) fn new(kind: ShapeKind) -> Self {
        Self {
            kind,
            epoch: 0,
            members: HashMap::new(),
            changed: Vec::new(),
            groups: Vec::new(),
            unused: Vec::new(),
            numbers: HashMap::new(),
            pool: Pool::default(),
            steward: None,
            overload_ms: None,
            incomplete: 0,
            edges: Vec::new(),
        }
    }

    /// Nodes in each of the trees.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Whether groups are made and fed; function trees are as published.
    pub(super) fn is_grouped(&self) -> bool {
        self.kind == ShapeKind::Twin
    }

    pub(super) const fn trees(&self) -> std::ops::Range<u8> {
        match self.kind {
            ShapeKind::Ft => 0..1,
            ShapeKind::Twin => 0..2,
        }
    }

    /// Whether somebody has not all of the image yet.
    pub(super) fn is_moving(&self) -> bool {
        self.incomplete > 0
    }

    /// What a child adds to the load of its parent in one tree.
    pub(super) const fn weight(&self) -> Load {
        FULL / self.trees().end as Load
    }

    pub(super) fn group(&self, index: Index) -> Option<&Group> {
        self.groups.get(index as usize)?.as_ref()
    }

    pub(super) fn group_mut(&mut self, index: Index) -> Option<&mut Group> {
        self.groups.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten()
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = Index> + use<> {
        let count = u32::try_from(self.groups.len()).unwrap_or(Index::MAX);
        0..count
    }

    /// The group of an image that has one only.
    pub(super) fn only_group(&self) -> Option<Index> {
        self.indices().find(|&index| self.group(index).is_some())
    }

    /// Adds a node that is in no group.
    pub(super) fn join(&mut self, node: NodeId, nodes: &mut Nodes) -> Result<(), TreeError> {
        let group = match self.spot(node, nodes) {
            Ok(group) => group,
            Err((zone, door, feeders)) => self.begin(nodes.group_number(), zone, door, feeders),
        };
        self.enter(group, node, nodes)
    }

    /// Takes a node out; what it fed is fed by others.
    pub(super) fn leave(&mut self, node: NodeId, nodes: &mut Nodes) -> Result<(), TreeError> {
        self.detach(node, nodes)?;
        self.pool.set_idle(nodes.zone(node), node, false);
        let Some(member) = self.members.remove(&node) else { return Ok(()) };
        nodes.take_load(node, member.load);
        self.incomplete -= u32::from(!member.complete);
        if self.steward == Some(node) {
            self.steward = None;
        }
        for group in member.feeds {
            self.feed_again(group, node, nodes);
        }
        Ok(())
    }

    /// A node has all of the image now.
    pub(super) fn complete(&mut self, node: NodeId, nodes: &mut Nodes) {
        let Some(member) = self.members.get_mut(&node).filter(|member| !member.complete) else {
            return;
        };
        member.complete = true;
        let (index, parents) = (member.group, member.parents);
        for parent in parents.into_iter().flatten() {
            self.unload(parent, nodes);
        }
        self.refresh_idle(node, nodes);
        self.incomplete -= 1;
        if let Some(group) = self.group_mut(index) {
            group.incomplete -= 1;
            if group.incomplete == 0 && group.takes_newcomers() {
                group.door = Door::Closed;
            }
        }
        self.list(index);
    }

    /// A group without nodes.
    pub(super) fn begin(&mut self, number: u64, zone: Zone, door: Door, feeders: Feeders) -> Index {
        let group = Some(Group::new(self.kind, number, zone, door));
        let index = match self.unused.pop() {
            Some(index) => {
                self.groups[index as usize] = group;
                index
            }
            None => {
                self.groups.push(group);
                u32::try_from(self.groups.len() - 1).unwrap_or(Index::MAX)
            }
        };
        self.numbers.insert(number, index);
        if let Some(group) = self.group_mut(index) {
            group.feeders = feeders;
        }
        for feeder in feeders.into_iter().flatten() {
            self.add_fed(feeder, index);
        }
        index
    }

    /// The door of a group that is begun now.
    pub(super) fn open_door(&self, nodes: &Nodes) -> Door {
        let ms = if self.is_grouped() { GROUP_OPEN_MS } else { u64::MAX };
        Door::Open { until_ms: nodes.now_ms.saturating_add(ms) }
    }

    /// Adds a node to a group, whether it is new or was taken out of another one.
    pub(super) fn enter(
        &mut self,
        index: Index,
        node: NodeId,
        nodes: &mut Nodes,
    ) -> Result<(), TreeError> {
        let mut edges = std::mem::take(&mut self.edges);
        edges.clear();
        let group = self.group_mut(index).ok_or(TreeError::Unknown)?;
        let place = group.shape.join(&mut edges);
        if let Ok(place) = place {
            self.seat(index, node, place);
            self.apply(index, &edges, nodes);
        }
        self.edges = edges;
        place.map(drop)
    }

    /// Remembers a node's place; its edges are yet to be applied.
    pub(super) fn seat(&mut self, index: Index, node: NodeId, place: Place) {
        let member = self.members.entry(node).or_insert_with(|| {
            self.incomplete += 1;
            Member {
                group: index,
                place,
                complete: false,
                load: 0,
                parents: Default::default(),
                feeds: Vec::new(),
                told: None,
            }
        });
        (member.group, member.place) = (index, place);
        let incomplete = u32::from(!member.complete);
        if let Some(group) = self.group_mut(index) {
            group.seat(place, node);
            group.incomplete += incomplete;
        }
    }

    /// Takes a node out of its group. It stays a member, in none, and feeds what it has fed.
    pub(super) fn detach(&mut self, node: NodeId, nodes: &mut Nodes) -> Result<(), TreeError> {
        let member = self.members.get(&node).ok_or(TreeError::Unknown)?;
        let (index, place, complete) = (member.group, member.place, member.complete);
        let mut edges = std::mem::take(&mut self.edges);
        edges.clear();
        let group = self.group_mut(index).ok_or(TreeError::Unknown)?;
        let left = group.shape.leave(place, &mut edges);
        if left.is_ok() {
            group.incomplete -= u32::from(!complete);
            self.apply(index, &edges, nodes);
            for tree in self.trees() {
                self.set_parent(tree, node, None, nodes);
            }
            if let Some(member) = self.members.get_mut(&node) {
                member.group = NOWHERE;
            }
            self.end_if_empty(index);
        }
        self.edges = edges;
        left
    }

    /// Takes over the edges that a group's shape has changed.
    pub(super) fn apply(&mut self, index: Index, edges: &[Edge], nodes: &mut Nodes) {
        for &Edge { tree, child, parent } in edges {
            let Some(group) = self.group(index) else { return };
            let parent = match parent {
                Some(parent) => Some(group.node(parent)),
                None => group.feeders[usize::from(tree)],
            };
            let child = group.node(child);
            self.set_parent(tree, child, parent, nodes);
        }
        self.list(index);
    }

    pub(super) fn end_if_empty(&mut self, index: Index) {
        let Some(group) = self.group_mut(index).filter(|group| group.shape.is_empty()) else {
            return;
        };
        let feeders = std::mem::take(&mut group.feeders);
        group.door = Door::Closed;
        let number = group.number;
        feeders.into_iter().flatten().for_each(|feeder| self.take_fed(feeder, index));
        self.list(index);
        self.numbers.remove(&number);
        self.groups[index as usize] = None;
        self.unused.push(index);
    }

    /// From now on that node feeds that tree of a group.
    pub(super) fn set_feeder(
        &mut self,
        index: Index,
        tree: u8,
        feeder: Option<NodeId>,
        nodes: &mut Nodes,
    ) {
        let Some(group) = self.group_mut(index) else { return };
        let before = std::mem::replace(&mut group.feeders[usize::from(tree)], feeder);
        let still = group.feeders.contains(&before);
        let root = group.shape.root(tree).map(|root| group.node(root));
        if let Some(before) = before.filter(|_| !still) {
            self.take_fed(before, index);
        }
        if let Some(feeder) = feeder {
            self.add_fed(feeder, index);
        }
        if let Some(root) = root {
            self.set_parent(tree, root, feeder, nodes);
        }
    }

    fn add_fed(&mut self, feeder: NodeId, index: Index) {
        if let Some(member) = self.members.get_mut(&feeder)
            && !member.feeds.contains(&index)
        {
            member.feeds.push(index);
        }
    }

    fn take_fed(&mut self, feeder: NodeId, index: Index) {
        if let Some(member) = self.members.get_mut(&feeder) {
            member.feeds.retain(|&fed| fed != index);
        }
    }

    fn set_parent(&mut self, tree: u8, node: NodeId, after: Option<NodeId>, nodes: &mut Nodes) {
        let Some(member) = self.members.get_mut(&node) else { return };
        let before = std::mem::replace(&mut member.parents[usize::from(tree)], after);
        if before == after {
            return;
        }
        if !member.complete {
            if let Some(before) = before {
                self.unload(before, nodes);
            }
            if let Some(after) = after {
                self.load(after, nodes);
            }
        }
        self.changed.push(Changed { tree, node, before, after });
    }

    fn load(&mut self, node: NodeId, nodes: &mut Nodes) {
        let weight = self.weight();
        let Some(member) = self.members.get_mut(&node) else { return };
        member.load += weight;
        nodes.add_load(node, weight);
        self.refresh_idle(node, nodes);
    }

    fn unload(&mut self, node: NodeId, nodes: &mut Nodes) {
        let weight = self.weight();
        let Some(member) = self.members.get_mut(&node) else { return };
        member.load -= weight;
        nodes.take_load(node, weight);
        self.refresh_idle(node, nodes);
    }

    pub(super) fn refresh_idle(&mut self, node: NodeId, nodes: &Nodes) {
        let Some(member) = self.members.get(&node) else { return };
        let idle = member.complete && member.load == 0 && !nodes.is_slow(node);
        self.pool.set_idle(nodes.zone(node), node, idle && self.is_grouped());
    }

    /// Keeps the pool's list of groups that take newcomers.
    pub(super) fn list(&mut self, index: Index) {
        let Some(group) = self.group_mut(index) else { return };
        let len = group.takes_newcomers().then(|| group.shape.len());
        let (zone, before) = (group.zone, std::mem::replace(&mut group.listed, len));
        if before != len {
            if let Some(before) = before {
                self.pool.close(zone, before, index);
            }
            if let Some(len) = len {
                self.pool.open(zone, len, index);
            }
        }
    }

    /// The groups that depend on one, and that one.
    pub(super) fn downstream(&self, index: Index) -> BTreeSet<Index> {
        let mut all = BTreeSet::from([index]);
        let mut stack = vec![index];
        while let Some(index) = stack.pop() {
            let Some(group) = self.group(index) else { continue };
            for (place, _) in group.shape.level_order(0) {
                let fed = self.members.get(&group.node(place)).map(|member| &member.feeds);
                stack.extend(fed.into_iter().flatten().filter(|&&fed| all.insert(fed)));
            }
        }
        all
    }
}
