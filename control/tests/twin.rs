//! Twin trees: what holds after every change, in every small state and in long churn.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use xylem_control::tree::shape::Shape;
use xylem_control::tree::{Edge, HEIGHT_MAX, Place, SWAP_EDGES_MAX, ShapeKind, TreeError};

/// Trees, and what a listener who only hears of changed edges believes.
struct Told {
    shape: Shape,
    places: Vec<Place>,
    heard: HashMap<(u8, Place), Option<Place>>,
    /// Nodes that stayed and got another upstream in the latest change, once per tree.
    moved: usize,
}

impl Told {
    fn new(kind: ShapeKind) -> Self {
        let shape = Shape::new(kind);
        Self { shape, places: Vec::new(), heard: HashMap::new(), moved: 0 }
    }

    fn join(&mut self) -> Place {
        let mut edges = Vec::new();
        let place = self.shape.join(&mut edges).unwrap();
        assert!(!self.places.contains(&place));
        self.places.push(place);
        self.hear(&edges);
        assert_eq!(edges.iter().filter(|edge| edge.child == place).count(), self.trees());
        self.moved = edges.len() - self.trees();
        self.check();
        place
    }

    fn leave(&mut self, nth: usize) {
        let place = self.places.swap_remove(nth);
        let mut edges = Vec::new();
        self.shape.leave(place, &mut edges).unwrap();
        assert_eq!(self.shape.leave(place, &mut edges), Err(TreeError::Unknown));
        self.heard.retain(|&(_, child), _| child != place);
        self.hear(&edges);
        self.moved = edges.len();
        self.check();
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (a, b) = (self.places[a], self.places[b]);
        let mut edges = Vec::new();
        self.shape.swap(a, b, &mut edges).unwrap();
        assert!(edges.len() <= SWAP_EDGES_MAX as usize);
        self.hear(&edges);
        self.check();
    }

    fn trees(&self) -> usize {
        usize::from(self.shape.trees())
    }

    fn hear(&mut self, edges: &[Edge]) {
        let distinct: HashSet<_> = edges.iter().map(|edge| (edge.tree, edge.child)).collect();
        assert_eq!(distinct.len(), edges.len(), "each node is moved once per tree");
        for edge in edges {
            let before = self.heard.insert((edge.tree, edge.child), edge.parent);
            assert_ne!(before, Some(edge.parent), "an edge that did not change is not reported");
        }
    }

    fn check(&self) {
        let nodes = self.places.len();
        assert_eq!(self.shape.len() as usize, nodes);
        assert_eq!(self.heard.len(), self.trees() * nodes);
        let levels_max = match self.shape.kind() {
            ShapeKind::Ft => HEIGHT_MAX + 1,
            ShapeKind::Twin => (self.shape.len() + 1).next_power_of_two().ilog2() + 1,
        };
        let mut interior: HashMap<Place, u8> = HashMap::new();
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
                for &child in &children {
                    assert_eq!(self.shape.parent(tree, child), Some(place));
                }
                if !children.is_empty() {
                    assert_eq!(interior.insert(place, tree), None, "interior in one tree");
                }
            }
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn churn(
        twin in any::<bool>(),
        start in 0_usize..60,
        changes in prop::collection::vec((0_u8..5, any::<usize>(), any::<usize>()), 0..300),
    ) {
        let mut told = Told::new(if twin { ShapeKind::Twin } else { ShapeKind::Ft });
        for _ in 0..start {
            told.join();
            prop_assert!(told.moved <= 1);
        }
        for (kind, a, b) in changes {
            let nodes = told.places.len();
            match kind {
                _ if nodes == 0 => drop(told.join()),
                0 | 1 => drop(told.join()),
                2 | 3 => {
                    told.leave(a % nodes);
                    let most = if twin { 11 } else { 40 };
                    prop_assert!(told.moved <= most);
                }
                _ => told.swap(a % nodes, b % nodes),
            }
        }
        while !told.places.is_empty() {
            told.leave(told.places.len() / 2);
        }
    }
}
