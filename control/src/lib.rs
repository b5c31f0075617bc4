//! Control: which node reads from which, per image; and the command line that shows it. Never carries a block.

pub mod forest;
pub mod limits;
pub mod tree;
