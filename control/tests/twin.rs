//! Twin trees: what holds after every change, in every small state and in long churn, and what
//! comes of claims. The function tree is swapped and restored beside them.

mod told;

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;
use told::Told;
use xylem_control::limits::TREE_NODES_MAX;
use xylem_control::tree::shape::Shape;
use xylem_control::tree::{Above, Place, ShapeKind, TreeError};

/// Walks from the empty trees through the states that joins and leaves make of up to so many nodes,
/// and tries every change in each. States that differ by names only are one. Answers how many there
/// are and the most moves of a leave.
fn every_state(nodes_max: usize) -> (usize, usize) {
    let start = Told::new(ShapeKind::Twin);
    let mut seen = HashSet::from([start.signature()]);
    let mut queue = VecDeque::from([start]);
    let mut most = 0;
    while let Some(told) = queue.pop_front() {
        let nodes = told.places.len();
        let mut reach = |next: Told| {
            if seen.insert(next.signature()) {
                queue.push_back(next);
            }
        };
        if nodes < nodes_max {
            let mut next = told.clone();
            next.join();
            reach(next);
        }
        for nth in 0..nodes {
            let mut next = told.clone();
            next.leave(nth);
            most = most.max(next.moved);
            reach(next);
        }
    }
    (seen.len(), most)
}

#[test]
fn every_state_of_up_to_eight_nodes() {
    let (states, most) = every_state(8);
    assert!(states > 8000, "{states}");
    assert!(most <= 4, "five takes more than eight nodes: {most}");
}

/// Every leave and every pair of leaves from filled trees, and what joins make of it.
#[test]
fn all_single_leaves_and_all_pairs() {
    for joins in 1..=24 {
        let full = Told::after(ShapeKind::Twin, joins);
        for first in 0..joins {
            let mut one = full.clone();
            one.leave(first);
            for second in 0..joins - 1 {
                let mut two = one.clone();
                two.leave(second);
                two.join();
                two.join();
            }
        }
    }
}

/// All orders in which small trees can empty.
#[test]
fn every_order_of_leaving() {
    fn leave_all(told: &Told) {
        for nth in 0..told.places.len() {
            let mut next = told.clone();
            next.leave(nth);
            leave_all(&next);
        }
    }
    for joins in 1..=6 {
        leave_all(&Told::after(ShapeKind::Twin, joins));
    }
}

#[test]
fn a_full_tree_refuses() {
    let (mut twin, mut edges) = (Shape::new(ShapeKind::Twin), Vec::new());
    let claims = vec![[Above::Stranger; 2]; TREE_NODES_MAX as usize + 1];
    let placed = twin.restore(&claims, &mut edges);
    assert_eq!(placed.last(), Some(&Err(TreeError::Full)));
    assert_eq!(placed.iter().filter(|place| place.is_ok()).count(), TREE_NODES_MAX as usize);
    assert_eq!(twin.join(&mut edges), Err(TreeError::Full));
    assert_eq!(twin.len(), TREE_NODES_MAX);
    for tree in [0, 1] {
        let deepest = twin.level_order(tree).last().map(|(_, level)| level);
        assert_eq!(deepest, Some(TREE_NODES_MAX.ilog2()), "as flat as can be");
    }
}

#[test]
fn foreign_places_are_refused() {
    for kind in ShapeKind::ALL {
        let mut told = Told::after(kind, 3);
        let (gone, mut edges) = (told.places[1], Vec::new());
        told.leave(1);
        let (a, shape) = (told.places[0], &mut told.shape);
        assert_eq!(shape.leave(gone, &mut edges), Err(TreeError::Unknown));
        assert_eq!(shape.swap(a, gone, &mut edges), Err(TreeError::Unknown));
        assert_eq!(shape.swap(gone, a, &mut edges), Err(TreeError::Unknown));
        assert_eq!(shape.parent(0, gone), None);
        assert_eq!(shape.children(0, gone).count(), 0);
        assert!(!shape.may_have_children(0, gone) && !shape.may_have_children(1, gone));
        assert_eq!(shape.root(2), None);
        assert_eq!(shape.parent(2, a), None);
        shape.swap(a, a, &mut edges).unwrap();
        assert!(edges.is_empty());
    }
}

#[test]
fn late_claims_are_placed_like_newcomers() {
    let mut told = Told::new(ShapeKind::Twin);
    let first =
        told.restore(&[[Above::Registry, Above::Fellow(1)], [Above::Fellow(0), Above::Registry]]);
    let member = Above::Member(first[0]);
    told.restore(&[[member, Above::Stranger], [Above::Fellow(0), Above::Fellow(7)]]);
    assert_eq!(told.shape.root(0), Some(first[0]));
    assert_eq!(told.shape.root(1), Some(first[1]));
}

fn kind() -> impl Strategy<Value = ShapeKind> {
    any::<bool>().prop_map(|twin| if twin { ShapeKind::Twin } else { ShapeKind::Ft })
}

fn above() -> impl Strategy<Value = Above> {
    (0_u32..50).prop_map(|number| match number {
        0..=44 => Above::Fellow(number),
        45..=47 => Above::Registry,
        _ => Above::Stranger,
    })
}

/// Joins, leaves and swaps, as many of each, until the listed choices are used up.
fn churned(kind: ShapeKind, start: usize, choices: &[(u8, usize, usize)]) -> Told {
    let mut told = Told::after(kind, start);
    for &(change, a, b) in choices {
        let nodes = told.places.len();
        match change % 5 {
            0 | 1 => told.join(),
            _ if nodes == 0 => told.join(),
            2 | 3 => told.leave(a % nodes),
            _ => told.swap(a % nodes, b % nodes),
        }
    }
    told
}

fn choices(most: usize) -> impl Strategy<Value = Vec<(u8, usize, usize)>> {
    prop::collection::vec(any::<(u8, usize, usize)>(), 0..most)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn churn(kind in kind(), start in 0_usize..60, choices in choices(300)) {
        let mut told = churned(kind, start, &choices);
        while !told.places.is_empty() {
            told.leave(told.places.len() / 2);
        }
    }

    /// Everybody who leaves, and who joins, in runs: so a tree is nearly full, and nearly empty.
    #[test]
    fn long_churn_of_many(
        start in 1000_usize..3000,
        runs in prop::collection::vec((1_usize..400, any::<bool>(), any::<usize>()), 10..30),
    ) {
        let mut told = Told::after(ShapeKind::Twin, start);
        for (length, join, mut at) in runs {
            for _ in 0..length {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match told.places.len() {
                    3500.. => told.leave_unchecked(at % 3500),
                    0 => told.join_unchecked(),
                    _ if join => told.join_unchecked(),
                    nodes => told.leave_unchecked((at >> 20) % nodes),
                }
            }
            told.check();
        }
    }

    #[test]
    fn claims_of_all_nodes_are_kept(
        kind in kind(),
        start in 0_usize..80,
        choices in choices(150),
        order in any::<prop::sample::Index>(),
    ) {
        let before = churned(kind, start, &choices);
        let mut nodes = before.places.clone();
        if !nodes.is_empty() {
            let first = order.index(nodes.len());
            nodes.rotate_left(first);
        }
        let mut after = Told::new(kind);
        let placed = after.restore(&before.claims(&nodes));
        let new = |old: Place| placed[nodes.iter().position(|&node| node == old).unwrap()];
        for &node in &nodes {
            for tree in 0..before.shape.trees() {
                let parent = before.shape.parent(tree, node).map(new);
                prop_assert_eq!(after.shape.parent(tree, new(node)), parent);
            }
        }
    }

    #[test]
    fn any_claims_make_trees(
        kind in kind(),
        joined in 0_usize..4,
        claims in prop::collection::vec([above(), above()], 0..45),
        choices in choices(60),
    ) {
        let mut told = Told::after(kind, if joined == 3 { 10 } else { 0 });
        let mut again = told.clone();
        told.restore(&claims);
        again.restore(&claims);
        for tree in 0..told.shape.trees() {
            let order = |told: &Told| told.shape.level_order(tree).collect::<Vec<_>>();
            prop_assert_eq!(order(&told), order(&again), "the same claims make the same trees");
        }
        for (change, at, _) in choices {
            match told.places.len() {
                0 => told.join(),
                _ if change % 2 == 0 => told.join(),
                nodes => told.leave(at % nodes),
            }
        }
    }
}
