//! What the benches share: the data sent, the start gate, the calls to the kernel and the harness
//! that measures; the relays that are compared are programs of their own under `bin/`.

pub mod bytes;
pub mod direct;
pub mod fleet;
pub mod gate;
pub mod harness;
pub mod http;
pub mod pattern;
pub mod relay;
pub mod scale;
pub mod serve;
pub mod sim;
pub mod sys;
