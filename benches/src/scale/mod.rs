//! The simulator at scale: the relay of the data plane and the trees of control, unchanged, at
//! thousands of nodes under virtual time, to see how long a blob takes to be everywhere.
//!
//! Beside [`crate::sim`], which looks for faults in few relays under many misfortunes, this one
//! asks how a tree behaves: how close to the links' own limit, how much at the registry, what a
//! failure costs. Links, disks, hash threads and control's answers have rates and delays and know
//! counts, never bytes. Nothing here is measured on a machine: times are virtual, and the same seed
//! gives the same bytes of output anywhere.

mod agenda;
mod control;
mod driver;
mod fate;
mod hops;
mod mesh;
mod net;
mod node;
pub mod plot;
mod profile;
pub mod report;
mod run;
mod scenario;
mod source;
mod talk;
mod world;

pub use control::{Shape, ShapeError};
pub use fate::{Churn, End, Failure, Late, Slow};
pub use mesh::Mesh;
pub use profile::{Named, Profile, ProfileError};
pub use run::{Outcome, Run, run, run_all};
pub use scenario::{NODES_MAX, Scenario, ScenarioError};
use xylem_control::units;
pub use xylem_control::units::{Rate, Size, UnitError};
