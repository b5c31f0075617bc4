//! The simulator: the relay of the data plane, unchanged, at many nodes of a tree, under virtual
//! time and chance from a seed.
//!
//! A node's source is its parent's reader. Links, disks and hash threads are models with rates and
//! delays that know counts, never bytes; the audit of each relay knows which bytes of which blob a
//! slot would hold. Misfortunes come from the plan: nodes die, connections break, writes fail, the
//! registry sends wrong bytes, clients stall.

pub(crate) mod chance;
mod client;
mod driver;
mod net;
mod node;
pub mod plan;
mod source;
mod verify;
mod world;

pub use world::{Report, run};
