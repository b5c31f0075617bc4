//! Who feeds whom where a rival has to be told: a binary tree, and twin trees for the models; the
//! trees of the product are control's.

/// Whom a node reads from: another node, or the registry.
pub(super) type Parent = Option<usize>;

/// The parents in a binary tree, filled breadth first; the first node reads from the registry.
pub(super) fn binary(nodes: usize) -> Vec<Parent> {
    (0..nodes).map(|node| node.checked_sub(1).map(|above| above / 2)).collect()
}

/// The children of a node of a binary tree.
pub(super) fn children(node: usize, nodes: usize) -> Vec<usize> {
    [2 * node + 1, 2 * node + 2].into_iter().filter(|child| *child < nodes).collect()
}

/// The parents in two trees. In each the nodes of one colour, every other node, are inside in heap
/// order, and those of the other hang below them as leaves.
pub(super) fn twin(nodes: usize) -> Vec<[Parent; 2]> {
    // With one node there is nobody of the second colour: it is the root of both.
    let heap = |colour: usize| -> Vec<usize> {
        let of = |wanted: usize| (0..nodes).filter(move |node| node % 2 == wanted);
        of(colour).chain(of(1 - colour)).collect()
    };
    let heaps = [heap(0), heap(1)];
    let above = |node: usize, heap: &[usize]| {
        let place = heap.iter().position(|it| *it == node)?;
        place.checked_sub(1).map(|above| heap[above / 2])
    };
    (0..nodes).map(|node| [above(node, &heaps[0]), above(node, &heaps[1])]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_tree_is_filled_breadth_first() {
        assert_eq!(binary(4), [None, Some(0), Some(0), Some(1)]);
        assert_eq!(children(0, 4), [1, 2]);
        assert_eq!(children(1, 4), [3]);
        assert!(children(2, 4).is_empty());
    }

    #[test]
    fn nobody_is_inside_both_trees_and_nobody_has_three_children() {
        for nodes in 1..40 {
            let parents = twin(nodes);
            for colour in 0..2 {
                let roots = parents.iter().filter(|it| it[colour].is_none()).count();
                assert_eq!(roots, 1, "{nodes} nodes");
                for node in 0..nodes {
                    let fed = parents.iter().filter(|it| it[colour] == Some(node)).count();
                    assert!(fed <= 2, "{nodes} nodes");
                    assert!(fed == 0 || node % 2 == colour, "{nodes} nodes, node {node}");
                }
            }
        }
    }
}
