//! What is known of each hop: connection samples of the ring thread, merged with the kernel's counters.

use std::sync::Arc;

use crate::ring::socket::TcpInfo;

/// Which end of the hop this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// The upper end: bytes leave here.
    #[default]
    Sending,
    /// The lower end: bytes arrive here.
    Receiving,
}

/// One connection's counters since its beginning, as the ring thread has them.
#[derive(Debug, Clone, Default)]
pub struct ConnSample {
    /// The kernel's name of the socket.
    pub cookie: u64,
    /// Name of the node at the other end, or `registry`.
    pub peer: Arc<str>,
    /// Which end this is.
    pub direction: Direction,
    /// Payload bytes from parent to child, heads included, counted by the relay.
    pub relay_bytes: u64,
    /// Whether the connection is closed: this is its last sample.
    pub closed: bool,
    /// Time in which bodies were under way, ns.
    pub active_ns: u64,
    /// Of it, time in which this end had nothing to send, or did not read for want of a slot, ns.
    pub starved_ns: u64,
    /// What the kernel told of it.
    pub tcp: TcpInfo,
    /// Request sent to first body byte, µs; since the last sample.
    pub first_byte_us: Vec<u32>,
    /// A unit's time in this node, received to sent, µs; since the last sample.
    pub residence_us: Vec<u32>,
}
