//! The shapes of trees as arithmetic: which edges change when one node joins or leaves. No clock,
//! lock, log or address.

pub mod ft;

use crate::limits::TREE_NODES_MAX;

/// A node's place in one tree, valid from its join to its leave. Never reused: a place that was
/// left is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    index: u32,
    generation: u32,
}

impl Place {
    /// Position in the tree's arena: dense, and free for reuse once the place is left.
    pub const fn index(self) -> u32 {
        self.index
    }
}

/// One edge to change: from now on `child` has this parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Whose upstream changes.
    pub child: Place,
    /// Its new parent; `None` at the root.
    pub parent: Option<Place>,
}

/// Why a tree refused a change; it is then as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// [`TREE_NODES_MAX`] nodes are in the tree.
    #[error("the tree is full")]
    Full,
    /// The place was left already, or belongs to another tree.
    #[error("no such place in the tree")]
    Unknown,
    /// A node under that parent would be a third child, or too far from the root.
    #[error("the parent has no room")]
    NoRoom,
}

/// Height in edges of the tallest tree in which every node's subtrees differ by at most one level.
const fn balanced_height_max(nodes: u32) -> u32 {
    // The fewest nodes of a balanced tree of height h are 1, 2, 4, 7, 12 …: 1 + N(h - 1) + N(h -
    // 2).
    let (mut shorter, mut fewest, mut height) = (1_u64, 2_u64, 1);
    while fewest <= nodes as u64 {
        (shorter, fewest) = (fewest, 1 + fewest + shorter);
        height += 1;
    }
    height - 1
}

/// Most levels between the root and a leaf, in edges: what the largest balanced tree needs.
pub const HEIGHT_MAX: u32 = balanced_height_max(TREE_NODES_MAX);

/// Most edges that one leave changes: three for the place itself, and a double rotation on each
/// level above.
pub const EDGES_MAX: u32 = 3 + 6 * HEIGHT_MAX;

const _: () = {
    assert!(balanced_height_max(1) == 0 && balanced_height_max(3) == 1);
    assert!(balanced_height_max(4) == 2 && balanced_height_max(11) == 3);
    assert!(balanced_height_max(12) == 4);
    assert!(HEIGHT_MAX < 64, "levels are kept in a u8, with room above for `none`");
};
