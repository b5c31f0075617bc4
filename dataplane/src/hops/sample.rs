//! What the ring thread tells of one connection.

use std::sync::Arc;

pub use crate::ring::socket::TcpInfo;

/// Which way the blobs go on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// This node is the parent.
    Sending,
    /// This node is the child.
    Receiving,
}

impl TcpInfo {
    /// Payload of the hop's direction; `None` when the state does not tell what was counted.
    ///
    /// The child connects and the parent accepts, so that neither count holds a SYN.
    pub(super) fn payload(&self, direction: Direction) -> Option<u64> {
        const FIN_WAIT2: u8 = 5;
        const TIME_WAIT: u8 = 6;
        const CLOSE: u8 = 7;
        const CLOSE_WAIT: u8 = 8;
        const LAST_ACK: u8 = 9;
        const CLOSING: u8 = 11;
        let fin = match (direction, self.state) {
            // Not asked; or over, by a FIN or without.
            (_, 0 | CLOSE) => return None,
            (Direction::Sending, FIN_WAIT2 | TIME_WAIT) => 1,
            (Direction::Receiving, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT) => 1,
            _ => 0,
        };
        let counted = match direction {
            Direction::Sending => self.bytes_acked,
            Direction::Receiving => self.bytes_received,
        };
        Some(counted.saturating_sub(fin))
    }
}

/// One connection's counters, as the ring thread has them. All but the two lists are cumulative
/// since the connection was opened.
#[derive(Clone, Debug)]
pub struct ConnSample {
    /// Number of the connection, never used again.
    pub conn: u64,
    /// The kernel's name for its socket (`SO_COOKIE`).
    pub cookie: u64,
    /// The hop's other end: a node's name, or `registry`.
    pub peer: Arc<str>,
    /// Which way the blobs go.
    pub direction: Direction,
    /// When this sample was taken, monotonic clock.
    pub at_ns: u64,
    /// Heads and bodies from parent to child.
    pub relay_payload_bytes: u64,
    /// The relay has closed it: no more samples follow.
    pub closed: bool,
    /// Receiving: it was closed before its answer had ended; the relay has not seen all that came.
    pub discarded: bool,
    /// Time with a response under way: from the request to the last byte.
    pub active_ns: u64,
    /// Sending: of it, the relay had nothing at hand to send.
    pub starved_ns: u64,
    /// Receiving: of it, the relay did not read for want of a slot.
    pub withheld_ns: u64,
    /// What `TCP_INFO` says; taken before the descriptor is closed.
    pub tcp: TcpInfo,
    /// Receiving: new since the last sample, request sent to first body byte, microseconds.
    pub first_byte_us: Vec<u32>,
    /// Sending: new since the last sample, a unit received to sent, microseconds.
    pub residence_us: Vec<u32>,
}

impl Default for ConnSample {
    fn default() -> Self {
        Self {
            conn: 0,
            cookie: 0,
            peer: Arc::from(""),
            direction: Direction::Sending,
            at_ns: 0,
            relay_payload_bytes: 0,
            closed: false,
            discarded: false,
            active_ns: 0,
            starved_ns: 0,
            withheld_ns: 0,
            tcp: TcpInfo::default(),
            first_byte_us: Vec::new(),
            residence_us: Vec::new(),
        }
    }
}
