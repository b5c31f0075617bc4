//! The trees of one image with their nodes, and what each node was told last.
//!
//! # Upstreams, and why they make no circle
//!
//! For the stripe of tree *i* a node is told its parent, grandparent and so on in that tree. Who
//! has nobody below it there, a leaf, is told its parent in the other tree last: it reads from that
//! one already, whatever has happened in tree *i*.
//!
//! However many nodes have lost their parents and read from any of those that they were told,
//! nobody waits for itself. Who has children in tree *i* reads from above in tree *i*, from nodes
//! that have children there too, and so on to the root. A leaf of tree *i* reads from such a node,
//! or from its parent in the other tree; that one may be a leaf of tree *i* as well and read from
//! its own parent in the other tree, but that way leads up in the other tree and ends at its root.
//! A node with children in tree *i* must not be told its parent in the other tree: it may stand
//! below it.
//!
//! The node itself sees to the times in which some have heard of a change and others have not.

use std::collections::{BTreeSet, HashMap};

use super::{NodeId, Standing};
use crate::limits::{BRANCHES_MAX, UPSTREAMS_MAX};
use crate::tree::shape::Shape;
use crate::tree::{Edge, Place, ShapeKind, TreeError};

/// Upstreams for one stripe, nearest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Upstreams {
    nodes: [NodeId; UPSTREAMS_MAX as usize],
    len: u8,
}

impl Upstreams {
    pub(super) fn as_slice(&self) -> &[NodeId] {
        &self.nodes[..usize::from(self.len)]
    }

    fn push(&mut self, node: NodeId) {
        if let Some(slot) = self.nodes.get_mut(usize::from(self.len)) {
            *slot = node;
            self.len += 1;
        }
    }
}

/// Upstreams in each tree; none in trees that there are not.
pub(super) type Branches = [Upstreams; BRANCHES_MAX as usize];

#[derive(Clone, Copy, Debug)]
struct Seat {
    node: NodeId,
    /// What the node was told last.
    told: Branches,
}

/// The trees of one image.
#[derive(Debug)]
pub(super) struct Planted {
    pub(super) shape: Shape,
    pub(super) epoch: u64,
    places: HashMap<NodeId, Place>,
    /// By [`Place::index`].
    seats: Vec<Seat>,
}

impl Planted {
    pub(super) fn new(kind: ShapeKind) -> Self {
        Self { shape: Shape::new(kind), epoch: 0, places: HashMap::new(), seats: Vec::new() }
    }

    pub(super) fn place(&self, node: NodeId) -> Option<Place> {
        self.places.get(&node).copied()
    }

    /// Remembers who has a place; it has been told nothing yet.
    pub(super) fn settle(&mut self, node: NodeId, place: Place) {
        let seat = Seat { node, told: Branches::default() };
        let index = place.index() as usize;
        if index >= self.seats.len() {
            self.seats.resize(index + 1, seat);
        }
        self.seats[index] = seat;
        self.places.insert(node, place);
    }

    /// Takes a node out of the shape; answers who else may have to be told.
    pub(super) fn leave(
        &mut self,
        node: NodeId,
        edges: &mut Vec<Edge>,
    ) -> Result<BTreeSet<NodeId>, TreeError> {
        let place = self.place(node).ok_or(TreeError::Unknown)?;
        edges.clear();
        self.shape.leave(place, edges)?;
        self.places.remove(&node);
        // Whoever had only this one below it is a leaf now.
        let above = self.seats[place.index() as usize].told;
        let above = above.iter().filter_map(|told| told.as_slice().first().copied());
        let mut near = self.near(edges);
        near.extend(above.filter(|node| self.places.contains_key(node)));
        Ok(near)
    }

    fn seat(&self, place: Place) -> &Seat {
        &self.seats[place.index() as usize]
    }

    fn node(&self, place: Place) -> NodeId {
        self.seat(place).node
    }

    fn trees(&self) -> std::ops::Range<u8> {
        0..self.shape.trees()
    }

    /// What a node is to be told.
    fn branches(&self, place: Place) -> Branches {
        let mut branches = Branches::default();
        for (tree, branch) in self.trees().zip(&mut branches) {
            *branch = self.upstreams(tree, place);
        }
        branches
    }

    fn upstreams(&self, tree: u8, place: Place) -> Upstreams {
        let mut upstreams = Upstreams::default();
        let parent = self.shape.parent(tree, place);
        let is_leaf = parent.is_some() && self.shape.children(tree, place).next().is_none();
        let aside = self.trees().find(|&other| is_leaf && other != tree);
        let aside = aside.and_then(|other| self.shape.parent(other, place));
        let most = UPSTREAMS_MAX as usize - usize::from(aside.is_some());
        let above = std::iter::successors(parent, |&above| self.shape.parent(tree, above));
        above.take(most).for_each(|above| upstreams.push(self.node(above)));
        if let Some(aside) = aside.map(|aside| self.node(aside))
            && !upstreams.as_slice().contains(&aside)
        {
            upstreams.push(aside);
        }
        upstreams
    }

    /// All whose upstreams these edges may have changed: who moved, who is below within reach, and
    /// who has got or lost a child.
    pub(super) fn near(&self, edges: &[Edge]) -> BTreeSet<NodeId> {
        let mut near = BTreeSet::new();
        for &Edge { tree, child, parent } in edges {
            self.add_below(tree, child, &mut near);
            let before = self.seat(child).told.get(usize::from(tree));
            let before = before.and_then(|told| told.as_slice().first().copied());
            near.extend(before.filter(|node| self.places.contains_key(node)));
            near.extend(parent.map(|parent| self.node(parent)));
        }
        near
    }

    /// A node and those below it in whose upstreams for that tree it or its parent may stand.
    fn add_below(&self, tree: u8, place: Place, all: &mut BTreeSet<NodeId>) {
        let mut level = vec![place];
        for _ in 0..UPSTREAMS_MAX {
            all.extend(level.iter().map(|&place| self.node(place)));
            level = level.iter().flat_map(|&place| self.shape.children(tree, place)).collect();
        }
    }

    /// Those who were told of a node.
    pub(super) fn readers(&self, node: NodeId) -> Vec<NodeId> {
        let mut below = BTreeSet::new();
        for tree in self.trees() {
            let children = self.place(node).into_iter();
            let children = children.flat_map(|place| self.shape.children(tree, place));
            children.for_each(|child| self.add_below(tree, child, &mut below));
        }
        let reads = |reader: &NodeId| {
            let told = self.place(*reader).map(|place| self.seat(place).told);
            told.iter().flatten().any(|branch| branch.as_slice().contains(&node))
        };
        below.into_iter().filter(reads).collect()
    }

    /// What a node is to be told, if that is something new or if it has asked; remembered as told.
    pub(super) fn news(&mut self, node: NodeId, asked: bool) -> Option<Vec<Vec<NodeId>>> {
        let place = self.place(node)?;
        let branches = self.branches(place);
        let told = &mut self.seats[place.index() as usize].told;
        if !asked && *told == branches {
            return None;
        }
        *told = branches;
        let trees = branches.iter().take(usize::from(self.shape.trees()));
        Some(trees.map(|branch| branch.as_slice().to_vec()).collect())
    }

    pub(super) fn level_order(&self, tree: u8) -> impl Iterator<Item = Standing> + '_ {
        self.shape.level_order(tree).map(move |(place, level)| Standing {
            node: self.node(place),
            parent: self.shape.parent(tree, place).map(|parent| self.node(parent)),
            children: self.shape.children(tree, place).map(|child| self.node(child)).collect(),
            level,
        })
    }
}
