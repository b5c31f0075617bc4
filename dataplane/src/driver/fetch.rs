//! Upstream: how a flow gets from a source's address to bytes that flow. Connect, ask, look at the
//! answer's head without taking the body's first bytes with it, then hand the socket to the relay's
//! receives.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::http::{Request, ResponseHead};
use xylem_protocol::limits::{BLOB_MAX, CONNECT_MS, DIRECT_ALIGN, HEAD_MAX, SLOT_BYTES};

use super::conns::State;
use super::meter::Traffic;
use super::uplink::{Stage, Uplink};
use super::{Driver, flow_token};
use crate::link::{Attempt, Lost, Source, ToCold};
use crate::relay::{Event, FlowId};
use crate::ring::token::{Kind, Token};
use crate::ring::{Completion, Slot, socket};

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
    pub(super) attempt: Attempt,
    pub(super) source: Option<Source>,
    /// Where to go on, once it is the flow's turn.
    pub(super) turn: Option<u64>,
    pub(super) uplink: Option<Uplink>,
    /// The slot that is being received into.
    pub(super) receiving: Slot,
    /// The receive waits for the cold half: its slot is lent.
    pub(super) lent: bool,
    /// The size that a cold source has answered with, before it was the flow's turn.
    pub(super) opened: Option<u64>,
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
    pub(super) upstream: Arc<str>,
    /// Since when no bytes come, when its source was lost.
    pub(super) gap_since: Option<Instant>,
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
            attempt: 0,
            source: None,
            turn: None,
            uplink: None,
            receiving: Slot(0),
            lent: false,
            opened: None,
            operations: 0,
            allocating: false,
            complete: false,
            last_used: now,
            hasher: None,
            units: (0, Vec::new()),
            first_byte_ns: 0,
            upstream: Arc::from(""),
            gap_since: None,
        }
    }

    pub(super) fn has_relay(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it is being fetched.
    pub(super) fn is_busy(&self) -> bool {
        !self.complete
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

    pub(super) fn flow_op(&mut self, kind: Kind, index: u16) -> Token {
        if let Some(flow) = self.flows.get_mut(index) {
            flow.operations += 1;
        }
        flow_token(kind, &self.flows, index)
    }

    /// Connects, if it is the flow's turn and there is a source.
    pub(super) fn connect(&mut self, index: u16) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(index) else { return };
        let (Some(at), Some(source)) = (flow.turn, flow.source.as_ref()) else { return };
        if flow.uplink.is_some() || flow.phase != Phase::Open {
            return;
        }
        let Source::Http { address, upstream, .. } = source else {
            // The cold half connects by itself, and may have answered already.
            return match (flow.opened.take(), flow.size) {
                (None, _) => {}
                (Some(size), known)
                    if known.is_none_or(|known| known == size)
                        && !self.is_wrongly_empty(index, size) =>
                {
                    self.source_opened(index, size);
                }
                _ => self.lose(index, Lost::Range),
            };
        };
        let (address, upstream) = (*address, upstream.clone());
        let kept = self.idle.iter().position(|idle| idle.uplink.address == address);
        if let Some(idle) = kept.and_then(|position| self.idle.remove(position)) {
            let mut uplink = idle.uplink;
            uplink.traffic.peer = Some(upstream);
            uplink.reused = true;
            flow.uplink = Some(uplink);
            return self.ask(index, at);
        }
        let fd = match socket::tcp(&address) {
            Ok(fd) => fd,
            Err(error) => return self.lose(index, Lost::Connect(error)),
        };
        // Refused only by something that is no TCP socket.
        let _ = socket::no_delay(fd.as_fd());
        let mut traffic = Traffic::new(self.meter.number(), socket::cookie(fd.as_fd()));
        traffic.peer = Some(upstream);
        traffic.receiving = true;
        flow.uplink = Some(Uplink {
            fd,
            address,
            stage: Stage::Connecting,
            head: Vec::new(),
            keep_alive: false,
            reused: false,
            left: 0,
            since: now,
            alive_asked: None,
            asked: now,
            traffic,
        });
        let token = self.flow_op(Kind::Connect, index);
        let Some(uplink) = self.flows.get(index).and_then(|flow| flow.uplink.as_ref()) else {
            return;
        };
        self.ring.connect(uplink.fd.as_fd(), &address, token);
    }

    /// Sends the request for the bytes from `at` on.
    fn ask(&mut self, index: u16, at: u64) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(index) else { return };
        let (Some(uplink), Some(Source::Http { head, .. })) = (&mut flow.uplink, &flow.source)
        else {
            return;
        };
        let mut request = head.clone();
        if at > 0 {
            request.extend_from_slice(format!("Range: bytes={at}-\r\n").as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        uplink.head = Vec::new();
        (uplink.since, uplink.asked) = (now, now);
        // A request fits into an empty socket; the ring sends what does not.
        let sent = socket::send_now(uplink.fd.as_fd(), &request).unwrap_or(0);
        if sent == request.len() {
            return self.peek(index);
        }
        request.drain(..sent);
        uplink.stage = Stage::Asking;
        let token = self.flow_op(Kind::Request, index);
        let Some(uplink) = self.flows.get(index).and_then(|flow| flow.uplink.as_ref()) else {
            return;
        };
        self.ring.send_bytes(uplink.fd.as_fd(), request, token);
    }

    fn peek(&mut self, index: u16) {
        let token = self.flow_op(Kind::ResponsePeek, index);
        let Some(uplink) = self.flows.get_mut(index).and_then(|flow| flow.uplink.as_mut()) else {
            return;
        };
        uplink.stage = Stage::Peeking;
        self.ring.receive_head(uplink.fd.as_fd(), HEAD_MAX, true, token);
    }

    pub(super) fn flow_completed(
        &mut self,
        kind: Kind,
        index: u16,
        slot: Slot,
        completion: &Completion,
    ) {
        let outcome = completion.outcome();
        if let Some(flow) = self.flows.get_mut(index) {
            flow.operations -= 1;
        }
        match kind {
            Kind::Allocate => self.allocated(index, outcome),
            Kind::Write => self.wrote(index, slot, outcome),
            Kind::Receive => self.body_received(index, slot, outcome),
            Kind::Connect => match outcome {
                Ok(_) => {
                    let at = self.flows.get(index).and_then(|flow| flow.turn).unwrap_or(0);
                    self.ask(index, at);
                }
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                    self.lose(index, Lost::Stalled(CONNECT_MS));
                }
                Err(error) => self.lose(index, Lost::Connect(error)),
            },
            Kind::Request => match outcome {
                Ok(_) => self.peek(index),
                Err(error) => self.lose_or_renew(index, Lost::Broken(error)),
            },
            Kind::ResponsePeek => {
                let mut seen = Vec::new();
                self.ring.take_head(completion, &mut seen);
                match outcome {
                    Ok(0) => self.lose_or_renew(index, Lost::Short),
                    Ok(_) => self.peeked(index, &seen),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.peek(index),
                    Err(error) => self.lose_or_renew(index, Lost::Broken(error)),
                }
            }
            _ => debug_assert!(false, "not an operation of a flow: {kind:?}"),
        }
        self.free_flow_if_idle(index);
    }

    pub(super) fn free_flow_if_idle(&mut self, index: u16) {
        let Some(flow) = self.flows.get(index) else { return };
        if flow.phase == Phase::Closing && flow.operations == 0 {
            self.drop_uplink(index);
            self.flows.remove(index);
        }
    }

    /// Looks at the head that lies on the socket, and takes exactly it.
    fn peeked(&mut self, index: u16, seen: &[u8]) {
        let now = self.now;
        let Some(uplink) = self.flows.get_mut(index).and_then(|flow| flow.uplink.as_mut()) else {
            return;
        };
        let before = uplink.head.len();
        uplink.head.extend_from_slice(seen);
        let (answer, take) = match ResponseHead::parse(&uplink.head) {
            Ok(Some((head, length))) => (Some(head), length - before),
            Ok(None) => (None, seen.len()),
            Err(error) => return self.lose(index, Lost::Head(error)),
        };
        match socket::discard_now(uplink.fd.as_fd(), take) {
            Ok(taken) if taken == take => uplink.traffic.count(take as u64, now),
            Ok(_) => return self.lose(index, Lost::Short),
            Err(error) => return self.lose(index, Lost::Broken(error)),
        }
        match answer {
            Some(head) => self.answered(index, Box::new(head)),
            None => self.peek(index),
        }
    }

    /// The source has answered.
    fn answered(&mut self, index: u16, head: Box<ResponseHead>) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let at = flow.turn.unwrap_or(0);
        let Some(size) = head.blob_size_from(at).filter(|&size| size <= BLOB_MAX) else {
            let cause = match head.status {
                200 | 206 => Lost::Range,
                _ => Lost::Status(head),
            };
            return self.lose(index, cause);
        };
        if flow.size.is_some_and(|known| known != size) || self.is_wrongly_empty(index, size) {
            return self.lose(index, Lost::Range);
        }
        let Some(flow) = self.flows.get_mut(index) else { return };
        if let Some(uplink) = &mut flow.uplink {
            uplink.stage = Stage::Receiving;
            uplink.head = Vec::new();
            uplink.keep_alive = head.keep_alive;
            uplink.left = size - at;
        }
        self.source_opened(index, size);
    }

    /// Nothing, where something was asked for: its readers would be done before any verdict.
    fn is_wrongly_empty(&self, index: u16, size: u64) -> bool {
        let nothing = Digest::from_bytes(Sha256::digest([]).into());
        size == 0 && self.flows.get(index).is_some_and(|flow| flow.digest != nothing)
    }

    /// A source of either kind will bring the bytes from the flow's position on.
    pub(super) fn source_opened(&mut self, index: u16, size: u64) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.turn = None;
        let is_new = flow.size.is_none();
        flow.size = Some(size);
        // The first receive goes out before the readers' heads.
        self.happen(Event::SourceReady { flow: FlowId(index), size });
        if is_new {
            self.allocate(index, size);
            self.wake_waiters(index, size);
        }
        self.keep_if_done(index);
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

    fn allocated(&mut self, index: u16, outcome: std::io::Result<u32>) {
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

    fn body_received(&mut self, index: u16, slot: Slot, outcome: std::io::Result<u32>) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(index) else { return };
        let Some(uplink) = &mut flow.uplink else { return };
        match outcome {
            Ok(0) => self.lose(index, Lost::Short),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                let silent = u64::try_from((now - uplink.since).as_millis()).unwrap_or(u64::MAX);
                self.lose(index, Lost::Stalled(silent));
            }
            Err(error) => self.lose(index, Lost::Broken(error)),
            Ok(bytes) => {
                uplink.left = uplink.left.saturating_sub(u64::from(bytes));
                uplink.since = now;
                let asked = uplink.asked;
                uplink.traffic.received_body(u64::from(bytes), asked, now);
                if let Some(since) = flow.gap_since.take() {
                    self.meter.gap(now - since);
                }
                self.meter_received(index, slot, bytes);
                self.happen(Event::Received { flow: FlowId(index), bytes });
                self.keep_if_done(index);
            }
        }
    }

    /// The source is lost: the cold half names the next one.
    pub(super) fn lose(&mut self, index: u16, cause: Lost) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let since = flow.uplink.as_ref().map_or(self.now, |uplink| uplink.since);
        flow.gap_since.get_or_insert(since);
        self.drop_uplink(index);
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.source = None;
        if flow.phase == Phase::Closing {
            return;
        }
        let abandoned = self.relay.is_abandoned(FlowId(index));
        let at = self.relay.received_bytes(FlowId(index));
        let (digest, attempt) = (flow.digest, flow.attempt);
        let was_flowing = flow.turn.is_none();
        if was_flowing {
            flow.turn = Some(at);
            self.happen(Event::SourceLost { flow: FlowId(index) });
        }
        if abandoned {
            return;
        }
        self.tell(ToCold::Lost { digest, attempt, at, cause });
    }
}
