//! The shapes of trees as arithmetic: which edges change when one node joins or leaves. No clock,
//! lock, log or address.

pub mod ft;
mod restore;
pub mod shape;
pub mod twin;

use std::fmt;
use std::str::FromStr;

use crate::limits::TREE_NODES_MAX;

/// Most trees of one shape.
pub const BRANCHES_MAX: u8 = 2;

/// How the nodes of an image are arranged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ShapeKind {
    /// One function tree, balanced, at most two children.
    #[default]
    Ft,
    /// Two trees over the same nodes, each for half of the data; who is interior in one is a leaf
    /// in the other.
    Twin,
}

impl ShapeKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ft, Self::Twin];

    /// How many trees it has.
    pub const fn trees(self) -> u8 {
        match self {
            Self::Ft => 1,
            Self::Twin => 2,
        }
    }

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ft => "ft",
            Self::Twin => "twin",
        }
    }
}

impl fmt::Display for ShapeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be ft or twin")]
pub struct NoShape;

impl FromStr for ShapeKind {
    type Err = NoShape;

    fn from_str(text: &str) -> Result<Self, NoShape> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(NoShape)
    }
}

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
    /// In which of the trees, counted from 0.
    pub tree: u8,
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

/// Whom a node that comes with a place from before says it reads from in one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Above {
    /// The registry: it is the root.
    Registry,
    /// A node that is in the tree.
    Member(Place),
    /// A node that comes with it: its index among the claims.
    Fellow(u32),
    /// A node that nobody here has heard of, or nothing that it could tell.
    Stranger,
}

/// A node's word about its parent in each tree; what is beyond the trees of the shape is ignored.
pub type Claim = [Above; BRANCHES_MAX as usize];

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

/// Most edges that one swap changes: two nodes in each of two trees, and below each of them two
/// children in one tree.
pub const SWAP_EDGES_MAX: u32 = 2 * 2 + 2 * 2;

const _: () = {
    assert!(balanced_height_max(1) == 0 && balanced_height_max(3) == 1);
    assert!(balanced_height_max(4) == 2 && balanced_height_max(11) == 3);
    assert!(balanced_height_max(12) == 4);
    assert!(HEIGHT_MAX < 64, "levels are kept in a u8, with room above for `none`");
};
