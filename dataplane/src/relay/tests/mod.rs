//! Tests of the relay: directed ones that read like its documentation, and properties of random
//! runs.

mod directed;
mod faults;
mod laggard;
mod model;
mod properties;
