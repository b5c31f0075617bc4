//! Tests of the relay.

mod faults;
mod model;
