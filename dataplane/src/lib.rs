//! The node daemon of Xylem: a registry mirror whose upstream is its parent in the tree.

#![deny(unsafe_code)]

pub mod access;
pub mod agent;
pub mod clock;
pub mod config;
pub mod driver;
pub mod hops;
pub mod link;
pub mod lru;
pub mod metrics;
pub mod oneline;
pub mod origin;
pub mod probes;
pub mod relay;
#[expect(unsafe_code, reason = "the one place that speaks to the kernel by hand")]
pub mod ring;
pub mod store;
mod usdt;
