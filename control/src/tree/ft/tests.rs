//! The function tree against the published vectors, and at its limits.

use super::*;

/// The levels of the tree after `joins`, then `leaves` in order, then `more` joins; nodes count
/// from 0.
fn levels(joins: usize, leaves: &[usize], more: usize) -> Vec<Vec<usize>> {
    let (mut tree, mut places, mut edges) = (Ft::new(), Vec::new(), Vec::new());
    for _ in 0..joins {
        places.push(tree.join(&mut edges).unwrap());
    }
    for &node in leaves {
        tree.leave(places[node], &mut edges).unwrap();
        assert_eq!(tree.leave(places[node], &mut edges), Err(TreeError::Unknown));
    }
    let mut names: Vec<usize> = vec![usize::MAX; joins];
    for (node, place) in places.iter().enumerate().filter(|(node, _)| !leaves.contains(node)) {
        names[place.index() as usize] = node;
    }
    for node in joins..joins + more {
        let place = tree.join(&mut edges).unwrap();
        names.resize(names.len().max(place.index() as usize + 1), usize::MAX);
        names[place.index() as usize] = node;
    }
    let mut levels: Vec<Vec<usize>> = Vec::new();
    for (place, level) in tree.level_order() {
        levels.resize(level as usize + 1, Vec::new());
        levels[level as usize].push(names[place.index() as usize]);
    }
    assert_eq!(levels.iter().map(Vec::len).sum::<usize>(), tree.len() as usize);
    levels
}

#[test]
fn joins_fill_level_by_level() {
    assert_eq!(levels(0, &[], 0), Vec::<Vec<usize>>::new());
    assert_eq!(levels(7, &[], 0), [vec![0], vec![1, 2], vec![3, 4, 5, 6]]);
}

#[test]
fn published_leaves() {
    const SEVEN: &[usize] = &[8, 9, 10, 11, 12, 13, 14];
    type Case = (usize, &'static [usize], &'static [&'static [usize]]);
    let cases: [Case; 6] = [
        (15, &[1, 2, 3], &[&[0], &[7, 11], &[8, 4, 5, 6], &[9, 10, 12, 13, 14]]),
        (15, &[0], &[&[7], &[1, 2], &[3, 4, 5, 6], SEVEN]),
        (10, &[5, 6, 9], &[&[1], &[3, 0], &[7, 8, 4, 2]]),
        (9, &[6, 5, 2], &[&[1], &[3, 0], &[7, 8, 4]]),
        (7, &[0], &[&[3], &[1, 2], &[4, 5, 6]]),
        (8, &[3, 4], &[&[0], &[1, 2], &[7, 5, 6]]),
    ];
    for (joins, leaves, expected) in cases {
        assert_eq!(levels(joins, leaves, 0), expected, "{joins}; {leaves:?}");
    }
    let twelve = [vec![0], vec![1, 5], vec![3, 4, 11, 6], vec![7, 8, 9, 10]];
    assert_eq!(levels(12, &[2], 0), twelve);
}

#[test]
fn published_leaves_and_joins() {
    let expected = [vec![1], vec![3, 0], vec![7, 8, 4, 9], vec![10, 11]];
    assert_eq!(levels(9, &[6, 5, 2], 3), expected);
}

#[test]
fn the_last_nodes_leave() {
    assert_eq!(levels(1, &[0], 0), Vec::<Vec<usize>>::new());
    assert_eq!(levels(2, &[0], 0), [vec![1]]);
    assert_eq!(levels(2, &[0, 1], 1), [vec![2]]);
    assert_eq!(levels(3, &[0, 1, 2], 2), [vec![3], vec![4]]);
}

#[test]
fn foreign_places_are_refused() {
    let (mut tree, mut edges) = (Ft::new(), Vec::new());
    let place = tree.join(&mut edges).unwrap();
    let (mut other, mut ignored) = (Ft::new(), Vec::new());
    assert_eq!(other.leave(place, &mut ignored), Err(TreeError::Unknown));
    assert_eq!(other.join_under(place, &mut ignored), Err(TreeError::Unknown));
    assert!(ignored.is_empty() && other.is_empty());
    tree.leave(place, &mut edges).unwrap();
    let again = tree.join(&mut edges).unwrap();
    assert_eq!(again.index(), place.index());
    assert_ne!(again, place);
    assert_eq!(tree.leave(place, &mut edges), Err(TreeError::Unknown));
}

#[test]
fn a_chosen_parent_needs_room() {
    let (mut tree, mut edges) = (Ft::new(), Vec::new());
    let root = tree.join(&mut edges).unwrap();
    tree.join_under(root, &mut edges).unwrap();
    let mut last = tree.join_under(root, &mut edges).unwrap();
    assert_eq!(tree.join_under(root, &mut edges), Err(TreeError::NoRoom), "a third child");
    for _ in 1..HEIGHT_MAX {
        let below = tree.join_under(last, &mut edges).unwrap();
        assert_eq!(tree.parent(below), Some(last));
        last = below;
    }
    assert_eq!(tree.join_under(last, &mut edges), Err(TreeError::NoRoom), "too deep");
    assert_eq!(edges.len(), 2 + HEIGHT_MAX as usize);
    assert_eq!(tree.level_order().last(), Some((last, HEIGHT_MAX)));
}

#[test]
fn leaves_mend_a_chain() {
    let (mut tree, mut edges) = (Ft::new(), Vec::new());
    let mut last = tree.join(&mut edges).unwrap();
    for _ in 0..HEIGHT_MAX {
        last = tree.join_under(last, &mut edges).unwrap();
    }
    let (mut left, mut deepest) = (tree.len(), HEIGHT_MAX);
    while let Some((place, level)) = tree.level_order().last() {
        assert!(level <= deepest, "never taller than before");
        deepest = level;
        edges.clear();
        tree.leave(place, &mut edges).unwrap();
        assert!(edges.len() <= EDGES_MAX as usize);
        left -= 1;
        assert_eq!(tree.level_order().count(), left as usize, "all still connected");
    }
    assert_eq!(left, 0);
}

#[test]
fn a_full_tree_refuses() {
    let (mut tree, mut edges) = (Ft::new(), Vec::new());
    for _ in 0..TREE_NODES_MAX {
        tree.join(&mut edges).unwrap();
    }
    assert_eq!(tree.join(&mut edges), Err(TreeError::Full));
    assert_eq!(tree.len(), TREE_NODES_MAX);
    let deepest = tree.level_order().last().map(|(_, level)| level);
    assert_eq!(deepest, Some(TREE_NODES_MAX.ilog2()));
}
