//! Trees for each image, of one shape: events about nodes and images in, places of nodes out. Pure:
//! no clock, name, address or message.

mod feed;
mod group;
mod planted;
mod restore;
mod shift;
mod tell;

use std::collections::{BTreeSet, HashMap};

use xylem_protocol::Digest;

use crate::limits::{BRANCHES_MAX, TREES_MAX, TREES_PER_NODE_MAX};
use crate::placement::{Nodes, Zone};
use crate::tree::{self, ShapeKind, TreeError};
use planted::Planted;

const _: () = assert!(BRANCHES_MAX == tree::BRANCHES_MAX as u32);

/// A node, as the state numbers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// What a tree is for. The one place that grows when trees get a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeKey {
    /// Digest of the platform's image manifest.
    pub image: Digest,
}

/// Whom a node that is in a tree already reads from, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The registry: it is the root.
    Registry,
    /// That node.
    Node(NodeId),
    /// A node that nobody here has heard of.
    Stranger,
}

/// A node's word about its place in the trees of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub node: NodeId,
    /// Below whom in each tree; what is beyond the trees of the shape is ignored.
    pub parents: [Claimed; BRANCHES_MAX as usize],
    /// The group of its assignment; 0: it knows of none.
    pub group: u64,
    /// Whether it has all of the image.
    pub complete: bool,
}

/// All that can happen to trees.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A node wants an image. Asked again, it gets the same place again.
    Join {
        /// Who.
        node: NodeId,
        /// Which tree.
        key: TreeKey,
    },
    /// A node wants an image no longer.
    Leave {
        /// Who.
        node: NodeId,
        /// Which tree.
        key: TreeKey,
    },
    /// A node is gone from all trees.
    Down {
        /// Who.
        node: NodeId,
    },
    /// A node has another address: whoever reads from it must be told.
    Moved {
        /// Who.
        node: NodeId,
    },
    /// A node has all of an image.
    Complete {
        /// Who.
        node: NodeId,
        /// Of which image.
        key: TreeKey,
    },
    /// A node's uplink was found to be slow, or is to be tried again.
    Uplink {
        /// Whose.
        node: NodeId,
        /// Which.
        slow: bool,
    },
    /// Nodes that hold places in one tree, from before this forest knew of it.
    Restore {
        /// Which tree.
        key: TreeKey,
        /// Who is where.
        claims: &'a [Claim],
    },
}

/// A node's place, to be told to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Who is told.
    pub node: NodeId,
    /// In which tree.
    pub key: TreeKey,
    /// Grows with each change in the forest.
    pub epoch: u64,
    /// Number of the node's group.
    pub group: u64,
    /// Whether blobs that are well on their way are to follow.
    pub at_once: bool,
    /// For each tree parent, grandparent and so on, a leaf's parent in the other tree last, at most
    /// [`UPSTREAMS_MAX`](crate::limits::UPSTREAMS_MAX); empty at the root.
    pub branches: Vec<Vec<NodeId>>,
}

/// Why an event was refused; the forest is then as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForestError {
    /// [`TREES_MAX`] trees stand.
    #[error("there are {TREES_MAX} trees already")]
    TreesFull,
    /// The node is in [`TREES_PER_NODE_MAX`] trees.
    #[error("the node is in {TREES_PER_NODE_MAX} trees already")]
    NodeFull,
    /// The node is not in that tree.
    #[error("the node is not in the tree of this image")]
    NotMember,
    /// The tree itself refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// All trees.
#[derive(Debug)]
pub struct Forest {
    kind: ShapeKind,
    trees: HashMap<TreeKey, Planted>,
    memberships: HashMap<NodeId, BTreeSet<TreeKey>>,
    nodes: Nodes,
    epoch: u64,
}

/// One node in one tree, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub node: NodeId,
    /// Below whom; `None` at the root.
    pub parent: Option<NodeId>,
    /// Left before right.
    pub children: Vec<NodeId>,
    /// Edges to the registry's reader.
    pub level: u32,
    /// Number of its group.
    pub group: u64,
    /// Whether it has all of the image.
    pub complete: bool,
}

impl Forest {
    /// No trees; those to come have that shape. `epoch` must be above any that nodes may have heard
    /// of before.
    pub fn new(kind: ShapeKind, epoch: u64) -> Self {
        let (trees, memberships) = (HashMap::new(), HashMap::new());
        Self { kind, trees, memberships, nodes: Nodes::new(epoch), epoch }
    }

    /// Lets time pass: what depends on it is done, and later events happen at that time.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Assignment>) {
        self.nodes.now_ms = now_ms;
        let keys: Vec<_> = self.trees.keys().copied().collect();
        for key in keys {
            self.change(key, BTreeSet::new(), out, |planted, nodes| {
                planted.tick(nodes);
                Ok(())
            })
            .unwrap_or_default();
        }
    }

    /// Later events happen at that time; what depends on it is done by [`Self::tick`].
    pub fn set_time(&mut self, now_ms: u64) {
        self.nodes.now_ms = now_ms;
    }

    /// Says where a node is. What it fed and read before stays.
    pub fn set_zone(&mut self, node: NodeId, zone: Zone) {
        let before = self.nodes.zone(node);
        self.nodes.set_zone(node, zone);
        for key in self.memberships.get(&node).into_iter().flatten() {
            if let Some(planted) = self.trees.get_mut(key) {
                planted.pool.set_idle(before, node, false);
                planted.refresh_idle(node, &self.nodes);
            }
        }
    }

    /// What a node sends of all images, in halves of what it receives of one.
    pub fn load(&self, node: NodeId) -> u32 {
        self.nodes.load(node)
    }

    /// Whether a node's uplink was found to be slow.
    pub fn is_slow(&self, node: NodeId) -> bool {
        self.nodes.is_slow(node)
    }

    /// Which shape the trees have.
    pub const fn kind(&self) -> ShapeKind {
        self.kind
    }

    /// Applies one event and appends the places that nodes are to be told of.
    ///
    /// # Errors
    /// [`ForestError`]; nothing has changed then. [`Event::Restore`] passes over claims that are
    /// refused.
    pub fn apply(
        &mut self,
        event: &Event<'_>,
        out: &mut Vec<Assignment>,
    ) -> Result<(), ForestError> {
        match *event {
            Event::Join { node, key } => self.join(node, key, out),
            Event::Leave { node, key } => self.leave(node, key, out),
            Event::Down { node } => {
                for key in self.memberships.get(&node).cloned().unwrap_or_default() {
                    self.leave(node, key, out)?;
                }
                Ok(())
            }
            Event::Moved { node } => {
                self.moved(node, out);
                Ok(())
            }
            Event::Complete { node, key } => {
                if let Some(planted) = self.trees.get_mut(&key) {
                    planted.complete(node, &mut self.nodes);
                }
                Ok(())
            }
            Event::Uplink { node, slow } => {
                self.uplink(node, slow, out);
                Ok(())
            }
            Event::Restore { key, claims } => {
                self.restore(key, claims, out);
                Ok(())
            }
        }
    }

    /// How many trees an image has.
    pub fn stripes(&self) -> u8 {
        self.kind.trees()
    }

    /// Images that have trees.
    pub fn keys(&self) -> impl Iterator<Item = TreeKey> + '_ {
        self.trees.keys().copied()
    }

    /// Whether trees for that key stand.
    pub fn contains(&self, key: TreeKey) -> bool {
        self.trees.contains_key(&key)
    }

    /// Nodes in each tree of an image.
    pub fn len(&self, key: TreeKey) -> u32 {
        self.trees.get(&key).map_or(0, Planted::len)
    }

    /// Whether that node is in the trees of that image.
    pub fn is_member(&self, node: NodeId, key: TreeKey) -> bool {
        self.memberships.get(&node).is_some_and(|keys| keys.contains(&key))
    }

    /// Nodes in the trees of an image, in no order.
    pub fn members(&self, key: TreeKey) -> impl Iterator<Item = NodeId> + '_ {
        self.trees.get(&key).into_iter().flat_map(|planted| planted.members.keys().copied())
    }

    /// Images that somebody in their trees has not all of.
    pub fn moving(&self) -> impl Iterator<Item = TreeKey> + '_ {
        let moving = self.trees.iter().filter(|(_, planted)| planted.is_moving());
        moving.map(|(&key, _)| key)
    }

    /// The images in whose trees a node is.
    pub fn memberships(&self, node: NodeId) -> impl Iterator<Item = TreeKey> + '_ {
        self.memberships.get(&node).into_iter().flatten().copied()
    }

    /// Epoch of an image's trees: that of their latest change.
    pub fn epoch(&self, key: TreeKey) -> Option<u64> {
        self.trees.get(&key).map(|tree| tree.epoch)
    }

    /// One of an image's trees in level order; empty if there is none.
    pub fn level_order(&self, key: TreeKey, tree: u8) -> impl Iterator<Item = Standing> + '_ {
        self.trees.get(&key).into_iter().flat_map(move |planted| planted.level_order(tree))
    }

    fn join(
        &mut self,
        node: NodeId,
        key: TreeKey,
        out: &mut Vec<Assignment>,
    ) -> Result<(), ForestError> {
        if self.is_member(node, key) {
            self.tell(key, [node], true, out);
            return Ok(());
        }
        self.check_room(node, key)?;
        self.trees.entry(key).or_insert_with(|| Planted::new(self.kind));
        self.change(key, BTreeSet::from([node]), out, |planted, nodes| planted.join(node, nodes))?;
        self.memberships.entry(node).or_default().insert(key);
        Ok(())
    }

    fn leave(
        &mut self,
        node: NodeId,
        key: TreeKey,
        out: &mut Vec<Assignment>,
    ) -> Result<(), ForestError> {
        if !self.is_member(node, key) {
            return Err(ForestError::NotMember);
        }
        let before = out.len();
        self.change(key, BTreeSet::new(), out, |planted, nodes| planted.leave(node, nodes))?;
        // Who has lost a parent has gone to somebody who has children enough, and holds them up.
        out[before..].iter_mut().for_each(|told| told.at_once = true);
        if self.len(key) == 0 {
            self.trees.remove(&key);
        }
        if let Some(keys) = self.memberships.get_mut(&node) {
            keys.remove(&key);
            if keys.is_empty() {
                self.memberships.remove(&node);
            }
        }
        Ok(())
    }

    fn moved(&mut self, node: NodeId, out: &mut Vec<Assignment>) {
        for key in self.memberships.get(&node).cloned().unwrap_or_default() {
            let Some(planted) = self.trees.get(&key) else { continue };
            let readers = planted.readers(node);
            self.advance(key);
            self.tell(key, readers, true, out);
        }
    }

    fn uplink(&mut self, node: NodeId, slow: bool, out: &mut Vec<Assignment>) {
        if self.nodes.is_slow(node) == slow {
            return;
        }
        self.nodes.set_slow(node, slow);
        let before = out.len();
        for key in self.memberships.get(&node).cloned().unwrap_or_default() {
            self.change(key, BTreeSet::new(), out, |planted, nodes| {
                if slow {
                    planted.demote(node, nodes);
                } else {
                    planted.refresh_idle(node, nodes);
                }
                Ok(())
            })
            .unwrap_or_default();
        }
        // Whoever stays with a parent that has got other children holds them up.
        out[before..].iter_mut().for_each(|told| told.at_once = true);
    }

    fn restore(&mut self, key: TreeKey, claims: &[Claim], out: &mut Vec<Assignment>) {
        let mut asked = BTreeSet::new();
        let mut coming: Vec<Claim> = Vec::new();
        for &claim in claims {
            let node = claim.node;
            let is_member = self.is_member(node, key);
            if is_member || self.check_room(node, key).is_ok() {
                let is_new = asked.insert(node) && !is_member;
                coming.extend(is_new.then_some(claim));
            }
        }
        if !coming.is_empty() {
            self.trees.entry(key).or_insert_with(|| Planted::new(self.kind));
        }
        self.change(key, asked, out, |planted, nodes| {
            planted.restore(&coming, nodes);
            Ok(())
        })
        .unwrap_or_default();
        let Some(planted) = self.trees.get(&key) else { return };
        for claim in coming.iter().filter(|claim| planted.members.contains_key(&claim.node)) {
            self.memberships.entry(claim.node).or_default().insert(key);
        }
    }

    fn check_room(&self, node: NodeId, key: TreeKey) -> Result<(), ForestError> {
        if !self.contains(key) && self.trees.len() >= TREES_MAX as usize {
            return Err(ForestError::TreesFull);
        }
        match self.memberships.get(&node) {
            Some(keys) if keys.len() >= TREES_PER_NODE_MAX as usize => Err(ForestError::NodeFull),
            _ => Ok(()),
        }
    }

    /// Changes an image's trees and tells those who asked, and all whose upstreams have changed.
    fn change(
        &mut self,
        key: TreeKey,
        asked: BTreeSet<NodeId>,
        out: &mut Vec<Assignment>,
        change: impl FnOnce(&mut Planted, &mut Nodes) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let Some(planted) = self.trees.get_mut(&key) else { return Ok(()) };
        change(planted, &mut self.nodes)?;
        let near = planted.take_near();
        if !near.is_empty() || !asked.is_empty() {
            self.advance(key);
            let near: Vec<_> = near.difference(&asked).copied().collect();
            self.tell(key, asked, true, out);
            self.tell(key, near, false, out);
        }
        Ok(())
    }

    fn advance(&mut self, key: TreeKey) {
        self.epoch += 1;
        if let Some(planted) = self.trees.get_mut(&key) {
            planted.epoch = self.epoch;
        }
    }

    /// Tells nodes of an image's trees their places: those that have asked in any case, others if
    /// there is anything new.
    fn tell(
        &mut self,
        key: TreeKey,
        nodes: impl IntoIterator<Item = NodeId>,
        asked: bool,
        out: &mut Vec<Assignment>,
    ) {
        let Some(planted) = self.trees.get_mut(&key) else { return };
        let epoch = planted.epoch;
        out.extend(nodes.into_iter().filter_map(|node| {
            let news = planted.news(node, asked)?;
            let branches = news.branches.iter().take(usize::from(planted.trees().end));
            let branches = branches.map(|branch| branch.as_slice().to_vec()).collect();
            Some(Assignment { node, key, epoch, group: news.group, at_once: false, branches })
        }));
    }
}
