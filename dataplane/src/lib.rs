//! The node daemon of Xylem: a registry mirror whose upstream is its parent in the tree.

pub mod agent;
pub mod clock;
pub mod config;
pub mod driver;
pub mod hops;
pub mod link;
pub mod lru;
pub mod metrics;
pub mod origin;
pub mod probes;
pub mod relay;
pub mod ring;
pub mod store;
