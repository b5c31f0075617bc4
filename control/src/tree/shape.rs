//! The trees of one image, whatever their shape: what the forest plants. Decides nothing itself.

use super::ft::Ft;
use super::twin::Twin;
use super::{Claim, Edge, Place, ShapeKind, TreeError, restore};

/// The trees of one image. A node has one place, which stands for its positions in all of them.
#[derive(Clone, Debug)]
pub enum Shape {
    /// One function tree.
    Ft(Ft),
    /// Two interior-disjoint trees.
    Twin(Box<Twin>),
}

impl Shape {
    /// Empty trees.
    pub fn new(kind: ShapeKind) -> Self {
        match kind {
            ShapeKind::Ft => Self::Ft(Ft::new()),
            ShapeKind::Twin => Self::Twin(Box::default()),
        }
    }

    /// Which shape it is.
    pub const fn kind(&self) -> ShapeKind {
        match self {
            Self::Ft(_) => ShapeKind::Ft,
            Self::Twin(_) => ShapeKind::Twin,
        }
    }

    /// How many trees, each of all nodes; counted from 0 wherever a tree is named.
    pub const fn trees(&self) -> u8 {
        self.kind().trees()
    }

    /// Nodes in the trees.
    pub fn len(&self) -> u32 {
        match self {
            Self::Ft(ft) => ft.len(),
            Self::Twin(twin) => twin.len(),
        }
    }

    /// Whether nobody is in them.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node that reads the registry in that tree.
    pub fn root(&self, tree: u8) -> Option<Place> {
        match self {
            Self::Ft(ft) if tree == 0 => ft.root(),
            Self::Ft(_) => None,
            Self::Twin(twin) => twin.root(tree),
        }
    }

    /// Whom a node reads from in that tree; `None` at its root, for places that are not in it, and
    /// for trees that there are not.
    pub fn parent(&self, tree: u8, place: Place) -> Option<Place> {
        match self {
            Self::Ft(ft) if tree == 0 => ft.parent(place),
            Self::Ft(_) => None,
            Self::Twin(twin) => twin.parent(tree, place),
        }
    }

    /// Who reads from a node in that tree, at most two, left before right.
    pub fn children(&self, tree: u8, place: Place) -> impl Iterator<Item = Place> + use<> {
        let children = match self {
            Self::Ft(ft) if tree == 0 => {
                let mut children = ft.children(place);
                [children.next(), children.next()]
            }
            Self::Ft(_) => [None; 2],
            Self::Twin(twin) => twin.children(tree, place),
        };
        children.into_iter().flatten()
    }

    /// All nodes with their level in that tree, level by level from the root, left to right.
    pub fn level_order(&self, tree: u8) -> impl Iterator<Item = (Place, u32)> + '_ {
        let mut queue: std::collections::VecDeque<_> =
            self.root(tree).map(|root| (root, 0)).into_iter().collect();
        std::iter::from_fn(move || {
            let (place, level) = queue.pop_front()?;
            queue.extend(self.children(tree, place).map(|child| (child, level + 1)));
            Some((place, level))
        })
    }

    /// Whether a node may have children in that tree: with one tree every node, with two each in
    /// one. Not for places that are not in it.
    pub fn may_have_children(&self, tree: u8, place: Place) -> bool {
        match self {
            Self::Ft(ft) => tree == 0 && ft.contains(place),
            Self::Twin(twin) => twin.colour(place) == Some(tree),
        }
    }

    /// Adds a node and appends the edges that change, its own among them.
    ///
    /// # Errors
    /// [`TreeError::Full`].
    pub fn join(&mut self, edges: &mut Vec<Edge>) -> Result<Place, TreeError> {
        match self {
            Self::Ft(ft) => ft.join(edges),
            Self::Twin(twin) => twin.join(edges),
        }
    }

    /// Takes a node out and appends the edges of those that stay which change.
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn leave(&mut self, place: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        match self {
            Self::Ft(ft) => ft.leave(place, edges),
            Self::Twin(twin) => twin.leave(place, edges),
        }
    }

    /// Exchanges the positions of two nodes in all trees and appends the edges that change, at most
    /// [`SWAP_EDGES_MAX`](super::SWAP_EDGES_MAX). O(1).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn swap(&mut self, a: Place, b: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        match self {
            Self::Ft(ft) => ft.swap(a, b, edges),
            Self::Twin(twin) => twin.swap(a, b, edges),
        }
    }

    /// Adds nodes that come with places from before, and keeps as many of these as it can. Answers
    /// the place of each, in the order of the claims, and appends the edges that change, those of
    /// the nodes themselves among them. The same claims in the same order end in the same trees.
    ///
    /// Whatever is claimed, no circle comes of it: each node is placed once.
    pub fn restore(
        &mut self,
        claims: &[Claim],
        edges: &mut Vec<Edge>,
    ) -> Vec<Result<Place, TreeError>> {
        match self {
            Self::Ft(ft) => restore::ft(ft, claims, edges),
            Self::Twin(twin) => twin.restore(claims, edges),
        }
    }
}
