//! Trees, and a listener who hears of changed edges only: after each change the two must agree, and
//! all that is promised of the shape must hold.

use std::collections::{HashMap, HashSet};

use xylem_control::tree::shape::Shape;
use xylem_control::tree::twin::{JOIN_MOVES_MAX, LEAVE_MOVES_MAX};
use xylem_control::tree::{
    Above, Claim, EDGES_MAX, Edge, HEIGHT_MAX, Place, SWAP_EDGES_MAX, ShapeKind, TreeError,
};

#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) shape: Shape,
    pub(crate) places: Vec<Place>,
    heard: HashMap<(u8, Place), Option<Place>>,
    /// Nodes that stayed and got another parent in the latest change, once per tree.
    pub(crate) moved: usize,
}

impl Told {
    pub(crate) fn new(kind: ShapeKind) -> Self {
        let shape = Shape::new(kind);
        Self { shape, places: Vec::new(), heard: HashMap::new(), moved: 0 }
    }

    pub(crate) fn after(kind: ShapeKind, joins: usize) -> Self {
        let mut told = Self::new(kind);
        (0..joins).for_each(|_| told.join_unchecked());
        told.check();
        told
    }

    pub(crate) fn join(&mut self) {
        self.join_unchecked();
        self.check();
    }

    pub(crate) fn leave(&mut self, nth: usize) {
        self.leave_unchecked(nth);
        self.check();
    }

    /// A join of which only the listener is checked, not the whole trees.
    pub(crate) fn join_unchecked(&mut self) {
        let mut edges = Vec::new();
        let place = self.shape.join(&mut edges).unwrap();
        assert!(!self.places.contains(&place), "a place is handed out once");
        self.places.push(place);
        self.hear(&edges);
        let own = edges.iter().filter(|edge| edge.child == place).count();
        assert_eq!(own, self.trees());
        self.moved = edges.len() - own;
        assert!(self.moved <= self.most_moves(0, JOIN_MOVES_MAX));
    }

    pub(crate) fn leave_unchecked(&mut self, nth: usize) {
        let place = self.places.swap_remove(nth);
        let mut edges = Vec::new();
        self.shape.leave(place, &mut edges).unwrap();
        assert_eq!(self.shape.leave(place, &mut edges), Err(TreeError::Unknown));
        for tree in 0..self.shape.trees() {
            self.heard.remove(&(tree, place));
        }
        self.hear(&edges);
        self.moved = edges.len();
        assert!(self.moved <= self.most_moves(EDGES_MAX, LEAVE_MOVES_MAX));
    }

    pub(crate) fn swap(&mut self, a: usize, b: usize) {
        let (a, b) = (self.places[a], self.places[b]);
        let before = self.shape.clone();
        let mut edges = Vec::new();
        self.shape.swap(a, b, &mut edges).unwrap();
        assert!(edges.len() <= SWAP_EDGES_MAX as usize);
        self.hear(&edges);
        for tree in 0..self.shape.trees() {
            let swapped = |place| {
                if place == a {
                    b
                } else if place == b {
                    a
                } else {
                    place
                }
            };
            let expected: Vec<_> =
                before.level_order(tree).map(|(place, level)| (swapped(place), level)).collect();
            assert_eq!(self.shape.level_order(tree).collect::<Vec<_>>(), expected);
        }
        self.check();
    }

    /// Restores nodes and remembers their places; answers the places in the order of the claims.
    pub(crate) fn restore(&mut self, claims: &[Claim]) -> Vec<Place> {
        let mut edges = Vec::new();
        let placed = self.shape.restore(claims, &mut edges);
        let placed: Vec<Place> = placed.into_iter().map(|place| place.unwrap()).collect();
        self.places.extend(&placed);
        self.hear(&edges);
        self.check();
        placed
    }

    /// What each node would say of its place, in that order of the nodes.
    pub(crate) fn claims(&self, nodes: &[Place]) -> Vec<Claim> {
        let number: HashMap<Place, u32> = nodes.iter().copied().zip(0..).collect();
        let above = |tree, node| match self.shape.parent(tree, node) {
            None => Above::Registry,
            Some(parent) => number.get(&parent).map_or(Above::Stranger, |&at| Above::Fellow(at)),
        };
        nodes.iter().map(|&node| [above(0, node), above(1, node)]).collect()
    }

    pub(crate) fn trees(&self) -> usize {
        usize::from(self.shape.trees())
    }

    fn most_moves(&self, ft: u32, twin: u32) -> usize {
        match self.shape.kind() {
            ShapeKind::Ft => ft as usize,
            ShapeKind::Twin => twin as usize,
        }
    }

    pub(crate) fn hear(&mut self, edges: &[Edge]) {
        let distinct: HashSet<_> = edges.iter().map(|edge| (edge.tree, edge.child)).collect();
        assert_eq!(distinct.len(), edges.len(), "each node is moved once per tree");
        for edge in edges {
            let before = self.heard.insert((edge.tree, edge.child), edge.parent);
            assert_ne!(before, Some(edge.parent), "an edge that did not change is not told");
        }
    }

    pub(crate) fn check(&self) {
        let nodes = self.places.len();
        assert_eq!(self.shape.len() as usize, nodes);
        assert_eq!(self.shape.is_empty(), nodes == 0);
        assert_eq!(self.heard.len(), self.trees() * nodes);
        let levels_max = match self.shape.kind() {
            ShapeKind::Ft => HEIGHT_MAX + 1,
            ShapeKind::Twin => (self.shape.len() + 1).next_power_of_two().ilog2() + 1,
        };
        let mut coloured = Vec::new();
        for tree in 0..self.shape.trees() {
            let order: Vec<_> = self.shape.level_order(tree).collect();
            let distinct: HashSet<_> = order.iter().map(|&(place, _)| place).collect();
            assert_eq!((order.len(), distinct.len()), (nodes, nodes), "connected, no circle");
            for &(place, level) in &order {
                assert!(level < levels_max, "{nodes} nodes, level {level}");
                let parent = self.shape.parent(tree, place);
                assert_eq!(parent.is_none(), level == 0);
                assert_eq!(self.heard[&(tree, place)], parent, "all changes are told");
                let children: Vec<_> = self.shape.children(tree, place).collect();
                assert!(children.len() <= 2);
                assert!(
                    children.iter().all(|&child| self.shape.parent(tree, child) == Some(place))
                );
                assert!(children.is_empty() || self.shape.may_have_children(tree, place));
            }
            let interior = |place: &&Place| self.shape.may_have_children(tree, **place);
            coloured.push(self.places.iter().filter(interior).count());
        }
        assert_eq!(coloured.iter().sum::<usize>(), nodes, "interior in one tree");
        if let [first, second] = coloured[..] {
            assert!(first.abs_diff(second) <= 1, "{first} and {second} of {nodes}");
        }
    }

    /// The trees but for the names of the nodes: colour and parents of each, named by their order
    /// in the first tree.
    pub(crate) fn signature(&self) -> Vec<(bool, [usize; 2])> {
        let names: HashMap<Place, usize> =
            self.shape.level_order(0).map(|(place, _)| place).zip(1..).collect();
        let mut rows = vec![(false, [0; 2]); names.len()];
        for tree in [0, 1] {
            for (place, _) in self.shape.level_order(tree) {
                let parent = self.shape.parent(tree, place).map_or(0, |parent| names[&parent]);
                let row = &mut rows[names[&place] - 1];
                row.0 = self.shape.may_have_children(1, place);
                row.1[usize::from(tree)] = parent;
            }
        }
        rows
    }
}
