//! The node daemon of Xylem: a registry mirror whose upstream is its parent in the tree.

pub mod driver;
pub mod config;
pub mod hops;
pub mod link;
pub mod relay;
pub mod ring;
pub mod store;
