//! What the audit knows of a slot, a blob and a reader.

use std::collections::VecDeque;

use crate::relay::{FlowId, Reason};
use crate::ring::Slot;

/// A slot: what it holds and how many operations are in flight on it.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    pub(super) content: Option<Content>,
    pub(super) users: u32,
    pub(super) filling: bool,
}

/// A run of bytes of one life of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) life: u64,
    /// Offset in the blob of the slot's first byte.
    pub(super) base: u64,
    /// Offsets in the slot: first byte, behind the last byte.
    pub(super) low: u32,
    pub(super) high: u32,
}

/// One way from slots to somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) slot: Slot,
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) at: u64,
}

#[derive(Debug)]
pub(super) struct Blob {
    pub(super) life: u64,
    pub(super) size: Option<u64>,
    pub(super) striped: bool,
    /// Of each lane: whether it has a source, which byte comes next, and what is being received.
    pub(super) connected: [bool; 2],
    pub(super) next: [u64; 2],
    pub(super) receiving: [Option<Part>; 2],
    pub(super) given_to_hash: u64,
    pub(super) hashing: VecDeque<Part>,
    pub(super) finalizing: bool,
    pub(super) verified: bool,
    pub(super) wrong: bool,
    pub(super) failed: bool,
    pub(super) stored: bool,
    pub(super) writing: Vec<Part>,
    pub(super) file: Ranges,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) flow: FlowId,
    pub(super) stripe: Option<u8>,
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) sending: Option<Part>,
    pub(super) reading: Option<Part>,
    pub(super) parked: bool,
    pub(super) cancelled: bool,
    /// Why it may be cut.
    pub(super) broken: Option<Reason>,
}

/// A set of offsets: disjoint ranges in order.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a range none of which is in the set.
    pub(super) fn insert(&mut self, from: u64, to: u64) {
        if from == to {
            return;
        }
        let index = self.0.partition_point(|&(low, _)| low < from);
        assert!(index == 0 || self.0[index - 1].1 <= from, "a byte written twice");
        assert!(self.0.get(index).is_none_or(|&(low, _)| to <= low), "a byte written twice");
        self.0.insert(index, (from, to));
        self.0.dedup_by(|next, first| {
            let adjoining = first.1 == next.0;
            if adjoining {
                first.1 = next.1;
            }
            adjoining
        });
    }

    pub(super) fn covers(&self, from: u64, to: u64) -> bool {
        from >= to || self.0.iter().any(|&(low, high)| low <= from && to <= high)
    }
}

/// Length of a piece of a stripe.
pub(super) const PIECE: u64 = 2 * 1024 * 1024;

/// The first place from `at` on that is in a stripe.
pub(super) const fn in_stripe(at: u64, stripe: u8) -> u64 {
    let piece = at / PIECE;
    if piece % 2 == stripe as u64 { at } else { (piece + 1) * PIECE }
}

impl Blob {
    /// Whether the other lane's source has shown that there is nothing for this one.
    pub(super) fn is_late(&self, lane: u8) -> bool {
        let empty = self.size.is_some_and(|size| size <= PIECE * u64::from(lane));
        lane == 1 && (empty || !self.striped)
    }

    pub(super) fn split(&mut self) {
        let at = self.next[0];
        self.striped = true;
        self.next = [in_stripe(at, 0), in_stripe(at, 1)];
        self.connected = [false; 2];
    }
}
