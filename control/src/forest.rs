//! One tree per image: events about nodes and images in, places of nodes out. Pure: no clock, name,
//! address or message.

use std::collections::{BTreeSet, HashMap};

use xylem_protocol::Digest;

use crate::limits::{TREES_MAX, TREES_PER_NODE_MAX, UPSTREAMS_MAX};
use crate::tree::shape::Shape;
use crate::tree::{self, Above, Edge, Place, ShapeKind, TreeError};

/// A node, as the state numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// A node's word about its place in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub node: NodeId,
    /// Below whom.
    pub parent: Claimed,
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
    /// For each tree parent, grandparent and so on, at most [`UPSTREAMS_MAX`]; empty at the root.
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

#[derive(Debug)]
struct Planted {
    shape: Shape,
    places: HashMap<NodeId, Place>,
    /// By [`Place::index`].
    nodes: Vec<NodeId>,
    epoch: u64,
}

/// All trees.
#[derive(Debug)]
pub struct Forest {
    trees: HashMap<TreeKey, Planted>,
    memberships: HashMap<NodeId, BTreeSet<TreeKey>>,
    epoch: u64,
    /// Scratch for the edges of one change.
    edges: Vec<Edge>,
}

/// One node of a tree, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub node: NodeId,
    /// Below whom; `None` at the root.
    pub parent: Option<NodeId>,
    /// Left before right.
    pub children: Vec<NodeId>,
    /// Edges to the root.
    pub level: u32,
}

impl Forest {
    /// No trees. `epoch` must be above any that nodes may have heard of before.
    pub fn new(epoch: u64) -> Self {
        Self { trees: HashMap::new(), memberships: HashMap::new(), epoch, edges: Vec::new() }
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
            Event::Restore { key, claims } => {
                self.restore(key, claims, out);
                Ok(())
            }
        }
    }

    /// Trees that stand.
    pub fn keys(&self) -> impl Iterator<Item = TreeKey> + '_ {
        self.trees.keys().copied()
    }

    /// Whether a tree for that key stands.
    pub fn contains(&self, key: TreeKey) -> bool {
        self.trees.contains_key(&key)
    }

    /// Nodes in a tree.
    pub fn len(&self, key: TreeKey) -> u32 {
        self.trees.get(&key).map_or(0, |tree| tree.shape.len())
    }

    /// Whether that node is in that tree.
    pub fn is_member(&self, node: NodeId, key: TreeKey) -> bool {
        self.memberships.get(&node).is_some_and(|keys| keys.contains(&key))
    }

    /// The trees that a node is in.
    pub fn memberships(&self, node: NodeId) -> impl Iterator<Item = TreeKey> + '_ {
        self.memberships.get(&node).into_iter().flatten().copied()
    }

    /// Epoch of a tree: that of its latest change.
    pub fn epoch(&self, key: TreeKey) -> Option<u64> {
        self.trees.get(&key).map(|tree| tree.epoch)
    }

    /// A tree in level order; empty if there is none.
    pub fn level_order(&self, key: TreeKey) -> impl Iterator<Item = Standing> + '_ {
        self.trees.get(&key).into_iter().flat_map(Planted::level_order)
    }

    fn join(
        &mut self,
        node: NodeId,
        key: TreeKey,
        out: &mut Vec<Assignment>,
    ) -> Result<(), ForestError> {
        if !self.is_member(node, key) {
            self.check_room(node, key)?;
            self.place(node, key)?;
            self.advance(key);
        }
        self.tell(key, &[node], out);
        Ok(())
    }

    fn leave(
        &mut self,
        node: NodeId,
        key: TreeKey,
        out: &mut Vec<Assignment>,
    ) -> Result<(), ForestError> {
        let tree = self.trees.get_mut(&key).ok_or(ForestError::NotMember)?;
        let place = *tree.places.get(&node).ok_or(ForestError::NotMember)?;
        self.edges.clear();
        tree.shape.leave(place, &mut self.edges)?;
        tree.places.remove(&node);
        let moved: Vec<_> = self.edges.iter().map(|edge| edge.child).collect();
        let told = tree.down_to_last_reader(&moved);
        if tree.shape.is_empty() {
            self.trees.remove(&key);
        }
        if let Some(keys) = self.memberships.get_mut(&node) {
            keys.remove(&key);
            if keys.is_empty() {
                self.memberships.remove(&node);
            }
        }
        self.advance(key);
        self.tell(key, &told, out);
        Ok(())
    }

    fn moved(&mut self, node: NodeId, out: &mut Vec<Assignment>) {
        for key in self.memberships.get(&node).cloned().unwrap_or_default() {
            let Some(tree) = self.trees.get(&key) else { continue };
            let below: Vec<_> = tree.shape.children(0, tree.places[&node]).collect();
            let readers = tree.down_to_last_reader(&below);
            self.advance(key);
            self.tell(key, &readers, out);
        }
    }

    fn restore(&mut self, key: TreeKey, claims: &[Claim], out: &mut Vec<Assignment>) {
        let mut told = Vec::with_capacity(claims.len());
        let mut coming: Vec<(NodeId, Claimed)> = Vec::new();
        let mut fellows: HashMap<NodeId, u32> = HashMap::new();
        for &Claim { node, parent } in claims {
            if self.is_member(node, key) {
                told.push(node);
            } else if self.check_room(node, key).is_ok() && !fellows.contains_key(&node) {
                fellows.insert(node, u32::try_from(coming.len()).unwrap_or(u32::MAX));
                coming.push((node, parent));
                told.push(node);
            }
        }
        if !coming.is_empty() {
            let planted = self.trees.entry(key).or_insert_with(Planted::new);
            let above = |claimed| match claimed {
                Claimed::Registry => Above::Registry,
                Claimed::Stranger => Above::Stranger,
                Claimed::Node(node) => match (planted.places.get(&node), fellows.get(&node)) {
                    (Some(&place), _) => Above::Member(place),
                    (None, Some(&fellow)) => Above::Fellow(fellow),
                    (None, None) => Above::Stranger,
                },
            };
            let above: Vec<tree::Claim> =
                coming.iter().map(|&(_, claimed)| [above(claimed), Above::Stranger]).collect();
            self.edges.clear();
            let places = planted.shape.restore(&above, &mut self.edges);
            for (&(node, _), place) in coming.iter().zip(places) {
                if let Ok(place) = place {
                    planted.settle(node, place);
                    self.memberships.entry(node).or_default().insert(key);
                }
            }
        }
        told.retain(|&node| self.is_member(node, key));
        self.advance(key);
        self.tell(key, &told, out);
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

    /// Adds a node that is not in the tree.
    fn place(&mut self, node: NodeId, key: TreeKey) -> Result<(), TreeError> {
        let planted = self.trees.entry(key).or_insert_with(Planted::new);
        self.edges.clear();
        let place = planted.shape.join(&mut self.edges)?;
        debug_assert_eq!(self.edges.len(), 1, "a join moves nobody else");
        planted.settle(node, place);
        self.memberships.entry(node).or_default().insert(key);
        Ok(())
    }

    fn advance(&mut self, key: TreeKey) {
        self.epoch += 1;
        if let Some(tree) = self.trees.get_mut(&key) {
            tree.epoch = self.epoch;
        }
    }

    fn tell(&self, key: TreeKey, nodes: &[NodeId], out: &mut Vec<Assignment>) {
        let Some(tree) = self.trees.get(&key) else { return };
        out.extend(nodes.iter().map(|&node| Assignment {
            node,
            key,
            epoch: tree.epoch,
            branches: vec![tree.upstreams(tree.places[&node])],
        }));
    }
}

impl Planted {
    fn new() -> Self {
        let shape = Shape::new(ShapeKind::Ft);
        Self { shape, places: HashMap::new(), nodes: Vec::new(), epoch: 0 }
    }

    /// Remembers who has a place.
    fn settle(&mut self, node: NodeId, place: Place) {
        let index = place.index() as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, node);
        }
        self.nodes[index] = node;
        self.places.insert(node, place);
    }

    fn node(&self, place: Place) -> NodeId {
        self.nodes[place.index() as usize]
    }

    fn upstreams(&self, place: Place) -> Vec<NodeId> {
        std::iter::successors(self.shape.parent(0, place), |&above| self.shape.parent(0, above))
            .take(UPSTREAMS_MAX as usize)
            .map(|above| self.node(above))
            .collect()
    }

    /// The nodes at these places and all below them in whose upstreams they stand, each once.
    fn down_to_last_reader(&self, places: &[Place]) -> Vec<NodeId> {
        let mut level = places.to_vec();
        let mut all: BTreeSet<NodeId> = BTreeSet::new();
        for _ in 0..UPSTREAMS_MAX {
            all.extend(level.iter().map(|&place| self.node(place)));
            level = level.iter().flat_map(|&place| self.shape.children(0, place)).collect();
        }
        all.into_iter().collect()
    }

    fn level_order(&self) -> impl Iterator<Item = Standing> + '_ {
        self.shape.level_order(0).map(|(place, level)| Standing {
            node: self.node(place),
            parent: self.shape.parent(0, place).map(|parent| self.node(parent)),
            children: self.shape.children(0, place).map(|child| self.node(child)).collect(),
            level,
        })
    }
}
