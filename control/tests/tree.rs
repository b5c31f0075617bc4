//! The function tree against the slow reference: every tree of up to eleven nodes, and long random
//! churn.

mod reference;

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;
use reference::Reference;
use xylem_control::tree::ft::Ft;
use xylem_control::tree::{EDGES_MAX, Edge, HEIGHT_MAX, Place, TreeError};

#[derive(Clone, Copy, Debug)]
enum Change {
    Join,
    /// The node that stands there in level order, counted modulo the size.
    Leave(usize),
}

/// Both trees, and what a listener who only hears of changed edges believes.
#[derive(Default)]
struct Pair {
    fast: Ft,
    slow: Reference,
    places: HashMap<usize, Place>,
    labels: HashMap<Place, usize>,
    heard: HashMap<usize, Option<usize>>,
    gone: Vec<Place>,
    /// Most edges of one change so far.
    most_edges: usize,
}

impl Pair {
    fn apply(&mut self, change: Change) {
        let mut edges = Vec::new();
        match change {
            Change::Join => {
                let label = self.slow.join();
                let place = self.fast.join(&mut edges).unwrap();
                assert_eq!(self.places.insert(label, place), None);
                assert_eq!(self.labels.insert(place, label), None, "a place is handed out once");
            }
            Change::Leave(nth) => {
                let order = self.slow.level_order();
                if order.is_empty() {
                    return;
                }
                let label = order[nth % order.len()];
                let place = self.places.remove(&label).unwrap();
                self.slow.leave(label);
                self.fast.leave(place, &mut edges).unwrap();
                assert_eq!(self.fast.leave(place, &mut edges), Err(TreeError::Unknown));
                self.heard.remove(&label);
                self.gone.push(place);
            }
        }
        self.hear(&edges);
        self.check();
    }

    fn hear(&mut self, edges: &[Edge]) {
        assert!(edges.len() <= EDGES_MAX as usize);
        self.most_edges = self.most_edges.max(edges.len());
        let distinct: HashSet<_> = edges.iter().map(|edge| edge.child).collect();
        assert_eq!(distinct.len(), edges.len(), "each node is moved once");
        for edge in edges {
            let parent = edge.parent.map(|parent| self.labels[&parent]);
            let before = self.heard.insert(self.labels[&edge.child], parent);
            assert_ne!(before, Some(parent), "an edge that did not change is not reported");
        }
    }

    fn check(&self) {
        let order: Vec<_> = self.fast.level_order().collect();
        let labels: Vec<_> = order.iter().map(|(place, _)| self.labels[place]).collect();
        assert_eq!(labels, self.slow.level_order(), "connected, and in the same order");
        assert_eq!(self.fast.len() as usize, self.places.len());
        assert_eq!(labels.len(), self.places.len());
        assert_eq!(self.heard.len(), self.places.len());
        for &(place, level) in &order {
            let label = self.labels[&place];
            assert!(level <= HEIGHT_MAX);
            assert!(self.slow.lean(label).abs() <= 1, "balanced");
            let parent = self.fast.parent(place).map(|parent| self.labels[&parent]);
            assert_eq!(parent, self.slow.up[label]);
            assert_eq!(self.heard[&label], parent, "who hears only of changes knows the tree");
            let children: Vec<_> = self.fast.children(place).collect();
            assert!(children.len() <= 2);
            for child in children {
                assert_eq!(self.fast.parent(child), Some(place));
            }
        }
        assert!(self.gone.iter().all(|&place| self.fast.parent(place).is_none()));
        assert!(self.gone.iter().all(|&place| self.fast.children(place).next().is_none()));
    }

    fn after(changes: &[Change]) -> Self {
        let mut pair = Self::default();
        changes.iter().for_each(|&change| pair.apply(change));
        pair
    }

    /// The tree without its labels: two bits for each node in level order.
    fn shape(&self) -> Vec<[bool; 2]> {
        let bits = |at: usize| self.slow.down[at].map(|child| child.is_some());
        self.slow.level_order().into_iter().map(bits).collect()
    }
}

#[test]
fn all_single_leaves_and_all_pairs() {
    for joins in 1..=16 {
        for first in 0..joins {
            let mut changes = vec![Change::Join; joins];
            changes.push(Change::Leave(first));
            Pair::after(&changes);
            for second in 0..joins - 1 {
                changes.truncate(joins + 1);
                changes.extend([Change::Leave(second), Change::Join, Change::Join]);
                Pair::after(&changes);
            }
        }
    }
}

/// Walks from the empty tree through every shape that joins and leaves can make, and tries every
/// change in each.
#[test]
fn every_reachable_tree_of_up_to_eleven_nodes() {
    const NODES: usize = 11;
    let mut seen: HashMap<Vec<[bool; 2]>, usize> = HashMap::new();
    let mut queue: VecDeque<Vec<Change>> = VecDeque::from([Vec::new()]);
    while let Some(history) = queue.pop_front() {
        let pair = Pair::after(&history);
        let nodes = pair.places.len();
        if nodes > NODES || seen.insert(pair.shape(), nodes).is_some() {
            continue;
        }
        for change in std::iter::once(Change::Join).chain((0..nodes).map(Change::Leave)) {
            queue.push_back(history.iter().copied().chain([change]).collect());
        }
    }
    let count = |nodes| seen.values().filter(|&&n| n == nodes).count();
    let counts: Vec<_> = (0..=NODES).map(count).collect();
    // No more than there are balanced binary trees of so many nodes (OEIS A006265).
    let balanced = [1, 1, 2, 1, 4, 6, 4, 17, 32, 44, 60, 70];
    assert!(
        counts.iter().zip(balanced).all(|(&count, most)| (1..=most).contains(&count)),
        "{counts:?}"
    );
}

/// All orders in which a small tree can empty.
#[test]
fn every_order_of_leaving() {
    fn leave_all(changes: &mut Vec<Change>, left: usize) {
        if left == 0 {
            assert!(Pair::after(changes).fast.is_empty());
        }
        for nth in 0..left {
            changes.push(Change::Leave(nth));
            leave_all(changes, left - 1);
            changes.pop();
        }
    }
    for joins in 1..=6 {
        leave_all(&mut vec![Change::Join; joins], joins);
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![Just(Change::Join), any::<usize>().prop_map(Change::Leave)]
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn churn(start in 0_usize..200, changes in prop::collection::vec(change(), 0..300)) {
        let mut pair = Pair::after(&vec![Change::Join; start]);
        changes.into_iter().for_each(|change| pair.apply(change));
        while !pair.places.is_empty() {
            pair.apply(Change::Leave(pair.places.len() / 2));
        }
        prop_assert!(pair.fast.is_empty());
        prop_assert!(pair.most_edges <= 40);
    }

    /// A tree built anew under the same parents, level by level, is the same tree but for left and
    /// right.
    #[test]
    fn rebuilt_under_the_same_parents(
        start in 1_usize..200,
        changes in prop::collection::vec(change(), 0..100),
    ) {
        let mut pair = Pair::after(&vec![Change::Join; start]);
        changes.into_iter().for_each(|change| pair.apply(change));
        let (mut again, mut edges) = (Ft::new(), Vec::new());
        let mut places: HashMap<Place, Place> = HashMap::new();
        for (old, _) in pair.fast.level_order() {
            let new = match pair.fast.parent(old) {
                None => again.join(&mut edges),
                Some(parent) => again.join_under(places[&parent], &mut edges),
            };
            places.insert(old, new.expect("every place fits"));
        }
        for (old, new) in &places {
            let parent = pair.fast.parent(*old).map(|parent| places[&parent]);
            prop_assert_eq!(again.parent(*new), parent);
        }
    }
}
