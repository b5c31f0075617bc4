//! Tests of the relay.

mod model;
