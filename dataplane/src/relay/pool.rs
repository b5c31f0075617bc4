//! The slots: which are free, what the others hold, and who waits for one.
//!
//! Memory is the sum of three holders, and each has a bound so that none starves another:
//!
//! ```text
//! receiving   at most 3/4 of the slots   the windows of the flows, oldest byte to newest
//! reading     at most 1/2 of the slots   one for each reader served from the file at this moment
//! free        the rest
//! ```

use std::collections::VecDeque;

use xylem_protocol::limits::SLOT_BYTES;

use super::{FlowId, ReaderId};
use crate::ring::Slot;

/// What a slot in a flow's window holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Offset in the blob of its first byte; its place in the slot is this modulo the slot's size.
    pub(super) begin: u64,
    /// Bytes received into it.
    pub(super) filled: u32,
    /// Live readers that have not passed its end.
    pub(super) pins: u32,
    /// Operations in flight on it: receive, write, hash, sends.
    pub(super) operations: u32,
    /// Whether its write has been issued.
    pub(super) writing: bool,
    /// Whether its write has ended.
    pub(super) stored: bool,
}

impl Held {
    /// Offset in the slot of a byte of the blob.
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a u32")]
    pub(super) const fn offset_of(at: u64) -> u32 {
        (at % SLOT_BYTES as u64) as u32
    }

    /// Offset in the blob behind the last byte received.
    pub(super) fn end(&self) -> u64 {
        self.begin + u64::from(self.filled)
    }

    /// Bytes that still fit.
    pub(super) fn room(&self) -> u32 {
        SLOT_BYTES - Self::offset_of(self.begin) - self.filled
    }
}

/// All slots.
#[derive(Debug)]
pub(super) struct Pool {
    free: Vec<Slot>,
    held: Vec<Option<Held>>,
    receiving: u16,
    reading: u16,
    receiving_max: u16,
    reading_max: u16,
    /// Flows and their lanes that want a slot to receive into.
    pub(super) flow_claims: VecDeque<(FlowId, u8)>,
    /// Readers that want a slot to read the file into.
    pub(super) reader_claims: VecDeque<ReaderId>,
}

impl Pool {
    pub(super) fn new(slots: u16) -> Self {
        assert!(slots >= 4, "fewer than four slots");
        Self {
            free: (0..slots).rev().map(Slot).collect(),
            held: vec![None; usize::from(slots)],
            receiving: 0,
            reading: 0,
            receiving_max: slots - slots / 4,
            reading_max: slots / 2,
            flow_claims: VecDeque::new(),
            reader_claims: VecDeque::new(),
        }
    }

    /// How many lanes may be fetched at once: each has room for a slot being filled and one being
    /// let go.
    pub(super) fn active_max(&self) -> usize {
        usize::from(self.receiving_max / 2)
    }

    /// How many slots have to be left for flows before one of those that do not go on gets one.
    pub(super) fn left_over(&self) -> usize {
        usize::from(self.receiving_max / 2)
    }

    pub(super) fn used(&self) -> u32 {
        u32::from(self.receiving + self.reading)
    }

    /// How many more slots flows can have now.
    pub(super) fn left_for_flows(&self) -> usize {
        usize::from(self.receiving_max - self.receiving).min(self.free.len())
    }

    /// A slot for a flow's window.
    pub(super) fn take_for_flow(&mut self, begin: u64) -> Option<Slot> {
        if self.receiving == self.receiving_max {
            return None;
        }
        let slot = self.free.pop()?;
        self.receiving += 1;
        self.held[usize::from(slot.0)] =
            Some(Held { begin, filled: 0, pins: 0, operations: 0, writing: false, stored: false });
        Some(slot)
    }

    /// A slot for a reader that is served from the file.
    pub(super) fn take_for_reader(&mut self) -> Option<Slot> {
        if self.reading == self.reading_max {
            return None;
        }
        let slot = self.free.pop()?;
        self.reading += 1;
        Some(slot)
    }

    pub(super) fn give_back_from_flow(&mut self, slot: Slot) {
        let held = self.held[usize::from(slot.0)].take().expect("a slot of a window");
        assert_eq!(held.operations, 0, "a slot that the kernel still has");
        self.receiving -= 1;
        self.free.push(slot);
    }

    pub(super) fn give_back_from_reader(&mut self, slot: Slot) {
        assert!(self.held[usize::from(slot.0)].is_none(), "a slot of a window");
        self.reading -= 1;
        self.free.push(slot);
    }

    pub(super) fn held(&self, slot: Slot) -> &Held {
        self.held[usize::from(slot.0)].as_ref().expect("a slot of a window")
    }

    pub(super) fn held_mut(&mut self, slot: Slot) -> &mut Held {
        self.held[usize::from(slot.0)].as_mut().expect("a slot of a window")
    }

    /// For the invariants: free, receiving, reading.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        (self.free.len(), usize::from(self.receiving), usize::from(self.reading))
    }

    pub(super) fn slots(&self) -> usize {
        self.held.len()
    }
}
