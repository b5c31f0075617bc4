//! Tests of the relay: directed ones that read like its documentation, and properties of random
//! runs.

mod faults;
mod model;
mod properties;
