//! The pure parts of the other crates once more, from the same files: to be optimised without what
//! stands around them, so that counting their instructions takes seconds.
//!
//! `cargo xtask bench --guard` runs the program of this crate under valgrind, part by part, and
//! compares the counts with `baseline.json`.

#![forbid(unsafe_code)]
// The tests of these files stand, and run, where the files belong.
#![cfg(not(test))]

// The files say `xylem_protocol`, which here is this crate.
extern crate self as xylem_protocol;

#[path = "../../../control/src/limits.rs"]
pub mod control_limits;
#[path = "../../../dataplane/protocol/src/digest.rs"]
pub mod digest;
#[path = "../../../dataplane/protocol/src/http/mod.rs"]
pub mod http;
#[path = "../../../dataplane/protocol/src/names.rs"]
pub mod names;
pub mod parts;
#[path = "../../../dataplane/protocol/src/limits.rs"]
pub mod protocol_limits;
#[path = "../../../dataplane/src/relay/mod.rs"]
pub mod relay;
#[path = "../../../dataplane/protocol/src/stripe.rs"]
pub mod stripe;
#[path = "../../../control/src/tree/mod.rs"]
pub mod tree;
#[path = "../../../dataplane/src/usdt.rs"]
mod usdt;

pub use digest::Digest;

/// The limits of both crates that these parts use.
pub mod limits {
    pub use crate::control_limits::TREE_NODES_MAX;
    pub use crate::protocol_limits::*;
}

/// What the relay knows of the ring.
pub mod ring {
    /// As `Slot` of the daemon's arena.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Slot(pub u16);
}
