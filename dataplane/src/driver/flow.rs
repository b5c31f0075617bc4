//! A blob in the driver's table: its file, who waits for it, where its bytes come from.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use sha2::Sha256;
use xylem_protocol::Digest;
use xylem_protocol::http::Request;
use xylem_protocol::limits::{DIRECT_ALIGN, SLOT_BYTES};

use super::conns::State;
use super::table::Table;
use super::uplink::Uplink;
use super::{Driver, flow_token};
use crate::link::{Attempt, Source, first_attempt};
use crate::relay::{Event, FlowId};
use crate::ring::Slot;
use crate::ring::token::{Kind, Token};

/// Where a flow stands, as the driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The cold half was asked; the relay does not know of it.
    Wanted,
    /// The relay has it.
    Open,
    /// The relay has forgotten it; operations are still in flight.
    Closing,
}

/// A write that waits for its file.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) slot: Slot,
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) at: u64,
}

/// A part of a slot that is to be received into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) slot: Slot,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// A lane of a flow: what one source brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId {
    pub(super) flow: u16,
    pub(super) lane: u8,
}

/// Where the bytes of a lane come from.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) attempt: Attempt,
    pub(super) source: Option<Source>,
    /// Where to go on, once it is the flow's turn.
    pub(super) turn: Option<u64>,
    pub(super) uplink: Option<Uplink>,
    /// The slot that is being received into.
    pub(super) receiving: Option<Slot>,
    /// A receive that waits for the answer with its bytes: the next piece is being asked for.
    pub(super) pending: Option<Part>,
    /// The receive waits for the cold half: its slot is lent.
    pub(super) lent: bool,
    /// The size that a cold source has answered with, before it was the flow's turn.
    pub(super) opened: Option<u64>,
    /// Name of the hop's upper end.
    pub(super) upstream: Arc<str>,
    /// Since when no bytes come, when its source was lost.
    pub(super) gap_since: Option<Instant>,
    /// The flow is to be split once what this lane's connection is doing has ended.
    pub(super) split_due: bool,
    /// The source is left for a better one.
    pub(super) moving: bool,
}

impl Feed {
    fn new(lane: u8) -> Self {
        Self {
            attempt: first_attempt(lane),
            source: None,
            turn: None,
            uplink: None,
            receiving: None,
            pending: None,
            lent: false,
            opened: None,
            upstream: Arc::from(""),
            gap_since: None,
            split_due: false,
            moving: false,
        }
    }

    /// Takes a new source, for the next try.
    pub(super) fn take_next(&mut self, source: Source) {
        self.attempt += 1;
        self.take(source);
    }

    pub(super) fn take(&mut self, source: Source) {
        self.upstream = source.upstream().clone();
        self.source = Some(source);
    }
}

/// A blob.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) digest: Digest,
    pub(super) phase: Phase,
    /// `None` while it is being made; its source is asked meanwhile.
    pub(super) file: Option<OwnedFd>,
    pub(super) direct: bool,
    /// What waits for the file.
    pub(super) unwritten: Vec<Unwritten>,
    pub(super) size: Option<u64>,
    /// Connections that wait for the size: index and generation.
    pub(super) waiters: Vec<(u16, u32)>,
    /// Connections whose head is on its way: they will join.
    pub(super) heading: u32,
    /// Everything comes by the first, or a stripe by each.
    pub(super) feeds: [Feed; 2],
    /// Operations in flight.
    pub(super) operations: u32,
    /// Whether the file is being given its space: until then its size may still grow.
    pub(super) allocating: bool,
    /// Whether it is complete in the store.
    pub(super) complete: bool,
    pub(super) last_used: Instant,
    /// The hash of what the file holds, until the first bytes take it along.
    pub(super) hasher: Option<Box<Sha256>>,
    /// CRC32C of units since the last message about them: first unit, checksums.
    pub(super) units: (u32, Vec<u32>),
    /// When the first byte came, `CLOCK_MONOTONIC`; 0 before.
    pub(super) first_byte_ns: u64,
}

impl Flow {
    pub(super) fn new(digest: Digest, now: Instant) -> Self {
        Self {
            digest,
            phase: Phase::Wanted,
            file: None,
            direct: false,
            unwritten: Vec::new(),
            size: None,
            waiters: Vec::new(),
            heading: 0,
            feeds: [Feed::new(0), Feed::new(1)],
            operations: 0,
            allocating: false,
            complete: false,
            last_used: now,
            hasher: None,
            units: (0, Vec::new()),
            first_byte_ns: 0,
        }
    }

    pub(super) fn feed(&self, lane: u8) -> &Feed {
        &self.feeds[usize::from(lane)]
    }

    pub(super) fn feed_mut(&mut self, lane: u8) -> &mut Feed {
        &mut self.feeds[usize::from(lane)]
    }

    pub(super) fn has_relay(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it is being fetched.
    pub(super) fn is_busy(&self) -> bool {
        !self.complete
    }

    /// The lane that receives into a slot.
    pub(super) fn lane_into(&self, slot: Slot) -> Option<u8> {
        (0..).zip(&self.feeds).find(|(_, feed)| feed.receiving == Some(slot)).map(|(lane, _)| lane)
    }
}

impl Table<Flow> {
    pub(super) fn feed(&self, at: LaneId) -> Option<&Feed> {
        self.get(at.flow).map(|flow| flow.feed(at.lane))
    }

    pub(super) fn feed_mut(&mut self, at: LaneId) -> Option<&mut Feed> {
        self.get_mut(at.flow).map(|flow| flow.feed_mut(at.lane))
    }

    pub(super) fn uplink(&self, at: LaneId) -> Option<&Uplink> {
        self.feed(at)?.uplink.as_ref()
    }
}

impl Driver {
    /// Puts a flow into the table and under its digest.
    pub(super) fn new_flow(&mut self, flow: Flow) -> Option<u16> {
        let digest = flow.digest;
        let index = match self.flows.insert(flow) {
            Ok(index) => index,
            Err(flow) => {
                // Finished blobs without readers make room.
                self.close_oldest();
                self.flows.insert(flow).ok()?
            }
        };
        self.by_digest.insert(digest, index);
        Some(index)
    }

    /// Closes the finished blob that was not used for the longest time.
    pub(super) fn close_oldest(&mut self) {
        let unused = self.flows.iter().filter(|(index, flow)| {
            flow.complete
                && flow.has_relay()
                && flow.heading == 0
                && self.relay.readers_of(FlowId(*index)) == 0
        });
        let oldest = unused.min_by_key(|(_, flow)| flow.last_used).map(|(index, _)| index);
        if let Some(index) = oldest {
            self.happen(Event::Abandon { flow: FlowId(index) });
            self.settle();
        }
    }

    pub(super) fn feed(&self, at: LaneId) -> Option<&Feed> {
        self.flows.feed(at)
    }

    pub(super) fn feed_mut(&mut self, at: LaneId) -> Option<&mut Feed> {
        self.flows.feed_mut(at)
    }

    pub(super) fn flow_op(&mut self, kind: Kind, index: u16) -> Token {
        if let Some(flow) = self.flows.get_mut(index) {
            flow.operations += 1;
        }
        flow_token(kind, &self.flows, index)
    }

    /// An operation of a lane that has no slot: the lane stands in its place.
    pub(super) fn lane_op(&mut self, kind: Kind, at: LaneId) -> Token {
        self.flow_op(kind, at.flow).with_slot(Slot(at.lane.into()))
    }

    pub(super) fn free_flow_if_idle(&mut self, index: u16) {
        let Some(flow) = self.flows.get(index) else { return };
        if flow.phase == Phase::Closing && flow.operations == 0 {
            for lane in 0..2 {
                self.drop_uplink(LaneId { flow: index, lane });
            }
            self.flows.remove(index);
        }
    }

    pub(super) fn allocate(&mut self, index: u16, size: u64) {
        let Some(flow) = self.flows.get(index) else { return };
        let bytes = if flow.direct { size.next_multiple_of(u64::from(DIRECT_ALIGN)) } else { size };
        // A blob of one slot is one write: that finds its space by itself.
        if bytes <= u64::from(SLOT_BYTES) || flow.file.is_none() {
            return;
        }
        let token = self.flow_op(Kind::Allocate, index);
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.allocating = true;
        if let Some(file) = &flow.file {
            self.ring.allocate(file.as_fd(), bytes, token);
        }
    }

    pub(super) fn allocated(&mut self, index: u16, outcome: std::io::Result<u32>) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.allocating = false;
        if flow.complete {
            // The writes were faster, and have found their space.
            return self.tell_stored(index);
        }
        match outcome {
            Ok(_) => {}
            // A file system without preallocation: the writes find their space themselves.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => {
                self.store_failed(index, error);
                if self.flows.get(index).is_some_and(Flow::has_relay) {
                    self.happen(Event::Abandon { flow: FlowId(index) });
                }
            }
        }
    }

    /// Answers those who waited for the size.
    pub(super) fn wake_waiters(&mut self, index: u16, size: u64) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        for (conn, generation) in std::mem::take(&mut flow.waiters) {
            if !self.conns.is_current(conn, generation) {
                continue;
            }
            let Some(waiter) = self.conns.get_mut(conn) else { continue };
            let state = std::mem::replace(&mut waiter.state, State::Asking);
            let State::Waiting { request } = state else {
                waiter.state = state;
                continue;
            };
            let request: &Request = &request;
            self.answer_blob(conn, index, size, request);
        }
    }
}
