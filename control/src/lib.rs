//! Control: which node reads from which, per image; and the command line that shows it. Never
//! carries a block.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod forest;
pub mod limits;
pub mod placement;
pub mod server;
pub mod state;
pub mod tree;
pub mod units;
