//! Upstream: how a lane gets from a source's address to bytes that flow. Connect, ask, look at the
//! answer's head without taking the body's first bytes with it, then hand the socket to the relay's
//! receives.
//!
//! A whole blob is one request. A stripe is one request to a node (`?stripe=`); a registry knows no
//! stripes and is asked for one piece after the other, the next one before this one is here.

use std::os::fd::AsFd;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::http::ResponseHead;
use xylem_protocol::limits::{BLOB_MAX, CONNECT_MS, HEAD_MAX};
use xylem_protocol::stripe::{STRIPE_BYTES, offset_in_stripe, piece_end, stripe_bytes};

use super::Driver;
use super::flow::{LaneId, Part, Phase};
use super::meter::Traffic;
use super::uplink::{Others, Stage, Uplink};
use crate::link::{Lost, Source, ToCold};
use crate::relay::{Event, FlowId};
use crate::ring::token::Kind;
use crate::ring::{Completion, Slot, socket};

/// What a lane asks its source for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The blob from a byte on.
    Whole(u64),
    /// A stripe, from this byte of it on.
    Stripe(u64),
    /// One piece of the blob, from this byte on.
    Piece(u64),
}

impl Driver {
    /// Connects, if it is the flow's turn and there is a source.
    pub(super) fn connect(&mut self, at: LaneId) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(at.flow) else { return };
        let (phase, known) = (flow.phase, flow.size);
        let feed = flow.feed_mut(at.lane);
        let (Some(turn), Some(source)) = (feed.turn, feed.source.as_ref()) else { return };
        if feed.uplink.is_some() || phase != Phase::Open {
            return;
        }
        let Source::Http { address, upstream, .. } = source else {
            // The cold half connects by itself, and may have answered already.
            return match feed.opened.take() {
                None => {}
                Some(size)
                    if known.is_none_or(|known| known == size)
                        && !self.is_wrongly_empty(at.flow, size) =>
                {
                    self.source_opened(at, size);
                }
                Some(_) => self.lose(at, Lost::Range),
            };
        };
        let (address, upstream) = (*address, upstream.clone());
        let kept = self.idle.iter().position(|idle| idle.uplink.address == address);
        if let Some(idle) = kept.and_then(|position| self.idle.remove(position)) {
            let mut uplink = idle.uplink;
            uplink.traffic.peer = Some(upstream);
            uplink.reused = true;
            feed.uplink = Some(uplink);
            return self.ask(at, turn);
        }
        let fd = match socket::tcp(&address) {
            Ok(fd) => fd,
            Err(error) => return self.lose(at, Lost::Connect(error)),
        };
        // Refused only by something that is no TCP socket.
        let _ = socket::no_delay(fd.as_fd());
        let mut traffic = Traffic::new(self.meter.number(), socket::cookie(fd.as_fd()));
        traffic.peer = Some(upstream);
        traffic.receiving = true;
        feed.uplink = Some(Uplink {
            fd,
            address,
            stage: Stage::Connecting,
            head: Vec::new(),
            keep_alive: false,
            reused: false,
            left: 0,
            from_start: false,
            passing: None,
            next: None,
            asked_next: false,
            since: now,
            alive_asked: None,
            others: Others::default(),
            asked: now,
            traffic,
        });
        let token = self.lane_op(Kind::Connect, at);
        let Some(uplink) = self.flows.uplink(at) else { return };
        self.ring.connect(uplink.fd.as_fd(), &address, token);
    }

    /// What is to be asked for to go on at a byte of the blob.
    fn wanted(&self, at: LaneId, from: u64) -> Wanted {
        let is_registry = |source: &Source| matches!(source, Source::Http { registry: true, .. });
        let registry = self.feed(at).and_then(|feed| feed.source.as_ref()).is_some_and(is_registry);
        match self.relay.is_striped(FlowId(at.flow)) {
            false => Wanted::Whole(from),
            true if registry => Wanted::Piece(from),
            true => Wanted::Stripe(offset_in_stripe(from, at.lane)),
        }
    }

    /// The request for the bytes from `from` on.
    fn request(&self, at: LaneId, from: u64) -> Option<Vec<u8>> {
        let Some(Source::Http { head, .. }) = &self.feed(at)?.source else { return None };
        let mut request = head.clone();
        let range = match self.wanted(at, from) {
            Wanted::Whole(0) | Wanted::Stripe(0) => String::new(),
            Wanted::Whole(from) | Wanted::Stripe(from) => format!("Range: bytes={from}-\r\n"),
            Wanted::Piece(from) => format!("Range: bytes={from}-{}\r\n", piece_end(from) - 1),
        };
        request.extend_from_slice(range.as_bytes());
        request.extend_from_slice(b"\r\n");
        Some(request)
    }

    /// Sends the request for the bytes from `from` on.
    fn ask(&mut self, at: LaneId, from: u64) {
        let now = self.now;
        let Some(mut request) = self.request(at, from) else { return };
        let Some(uplink) = self.feed_mut(at).and_then(|feed| feed.uplink.as_mut()) else { return };
        uplink.head = Vec::new();
        (uplink.since, uplink.asked) = (now, now);
        // A request fits into an empty socket; the ring sends what does not.
        let sent = socket::send_now(uplink.fd.as_fd(), &request).unwrap_or(0);
        if sent == request.len() {
            return self.peek(at);
        }
        request.drain(..sent);
        uplink.stage = Stage::Asking;
        let token = self.lane_op(Kind::Request, at);
        let Some(uplink) = self.flows.uplink(at) else { return };
        self.ring.send_bytes(uplink.fd.as_fd(), request, token);
    }

    fn peek(&mut self, at: LaneId) {
        let token = self.lane_op(Kind::ResponsePeek, at);
        let feed = self.flows.feed_mut(at);
        let Some(uplink) = feed.and_then(|feed| feed.uplink.as_mut()) else { return };
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
        // What has no slot has its lane there.
        let at = LaneId { flow: index, lane: u8::from(slot.0 == 1) };
        let mut seen = Vec::new();
        if kind == Kind::ResponsePeek {
            self.ring.take_head(completion, &mut seen);
        }
        match kind {
            Kind::Connect | Kind::Request | Kind::ResponsePeek if self.is_leaving(at) => {
                // It had gone on before it could be cancelled.
                self.lose(at, Lost::Stalled(0));
            }
            Kind::Allocate => self.allocated(index, outcome),
            Kind::Write => self.wrote(index, slot, outcome),
            Kind::Receive => {
                let lane = self.flows.get(index).and_then(|flow| flow.lane_into(slot));
                if let Some(lane) = lane {
                    self.body_received(LaneId { flow: index, lane }, slot, outcome);
                }
            }
            Kind::Connect => match outcome {
                Ok(_) => {
                    let from = self.feed(at).and_then(|feed| feed.turn).unwrap_or(0);
                    self.ask(at, from);
                }
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                    self.lose(at, Lost::Stalled(CONNECT_MS));
                }
                Err(error) => self.lose(at, Lost::Connect(error)),
            },
            Kind::Request => match outcome {
                Ok(_) => self.peek(at),
                Err(error) => self.not_answered(at, error),
            },
            Kind::ResponsePeek => match outcome {
                Ok(0) => self.lose_or_renew(at, Lost::Short),
                Ok(_) => self.peeked(at, &seen),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.peek(at),
                Err(error) => self.not_answered(at, error),
            },
            _ => debug_assert!(false, "not an operation of a flow: {kind:?}"),
        }
        self.free_flow_if_idle(index);
    }

    /// Whether a lane's source is to be left as soon as what is in flight has ended.
    fn is_leaving(&self, at: LaneId) -> bool {
        self.feed(at).is_some_and(|feed| feed.moving || feed.split_due)
    }

    /// No answer: the connection broke, or it was left before one came.
    fn not_answered(&mut self, at: LaneId, error: std::io::Error) {
        if error.raw_os_error() == Some(libc::ECANCELED) {
            let uplink = self.flows.uplink(at);
            let silence = uplink.map_or(Duration::ZERO, |uplink| self.now - uplink.since);
            let silent = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
            return self.lose(at, Lost::Stalled(silent));
        }
        self.lose_or_renew(at, Lost::Broken(error));
    }

    /// Looks at the head that lies on the socket, and takes exactly it.
    fn peeked(&mut self, at: LaneId, seen: &[u8]) {
        let now = self.now;
        let Some(uplink) = self.feed_mut(at).and_then(|feed| feed.uplink.as_mut()) else { return };
        let before = uplink.head.len();
        uplink.head.extend_from_slice(seen);
        let (answer, take) = match ResponseHead::parse(&uplink.head) {
            Ok(Some((head, length))) => (Some(head), length - before),
            Ok(None) => (None, seen.len()),
            Err(error) => return self.lose(at, Lost::Head(error)),
        };
        match socket::discard_now(uplink.fd.as_fd(), take) {
            Ok(taken) if taken == take => uplink.traffic.count(take as u64, now),
            Ok(_) => return self.lose(at, Lost::Short),
            Err(error) => return self.lose(at, Lost::Broken(error)),
        }
        match answer {
            Some(head) => self.answered(at, Box::new(head)),
            None => self.peek(at),
        }
    }

    /// The source has answered.
    fn answered(&mut self, at: LaneId, head: Box<ResponseHead>) {
        let Some(feed) = self.feed(at) else { return };
        let from = feed.turn.unwrap_or(0);
        let wanted = self.wanted(at, from);
        let whole = self.whole_instead(at, wanted, &head);
        let found = match wanted {
            _ if whole.is_some() => whole.map(|size| (size, size)),
            Wanted::Whole(from) => head.blob_size_from(from).map(|size| (size, size - from)),
            Wanted::Piece(from) => head.piece_from(from, piece_end(from)),
            Wanted::Stripe(from) => head.blob_size_from(from).and_then(|bytes| {
                let size = head
                    .blob_size
                    .filter(|&size| stripe_bytes(size, at.lane) == bytes && bytes > 0)?;
                Some((size, bytes - from))
            }),
        };
        let Some((size, left)) = found.filter(|&(size, _)| size <= BLOB_MAX) else {
            let cause = match head.status {
                200 | 206 => Lost::Range,
                _ => Lost::Status(head),
            };
            return self.lose(at, cause);
        };
        let known = self.flows.get(at.flow).and_then(|flow| flow.size);
        if known.is_some_and(|known| known != size) || self.is_wrongly_empty(at.flow, size) {
            return self.lose(at, Lost::Range);
        }
        let is_piece = matches!(wanted, Wanted::Piece(_)) && whole.is_none();
        let next = piece_end(from) + STRIPE_BYTES;
        let Some(uplink) = self.feed_mut(at).and_then(|feed| feed.uplink.as_mut()) else { return };
        uplink.stage = Stage::Receiving;
        uplink.head = Vec::new();
        uplink.keep_alive = head.keep_alive;
        uplink.left = left;
        uplink.from_start = whole.is_some();
        uplink.next = Some(next).filter(|&next| is_piece && next < size);
        uplink.asked_next = false;
        // Its end between two pieces is no fault.
        uplink.reused |= is_piece;
        self.ask_next(at);
        match self.feed_mut(at).and_then(|feed| feed.pending.take()) {
            Some(part) => {
                if let Some(feed) = self.feed_mut(at) {
                    feed.turn = None;
                }
                self.receive_into(at, part, from);
            }
            None => self.source_opened(at, size),
        }
    }

    /// The blob's size, if a registry that knows no ranges sends all of it where a part was asked
    /// for: what nobody wants is passed over.
    fn whole_instead(&self, at: LaneId, wanted: Wanted, head: &ResponseHead) -> Option<u64> {
        let is_part = match wanted {
            Wanted::Whole(from) => from > 0,
            Wanted::Piece(_) => true,
            Wanted::Stripe(_) => false,
        };
        let source = self.feed(at)?.source.as_ref()?;
        let registry = matches!(source, Source::Http { registry: true, .. });
        let size = head.blob_size_from(0).filter(|_| head.status == 200 && is_part && registry)?;
        tracing::debug!(lane = at.lane, size, "no ranges: the whole blob is read");
        Some(size)
    }

    /// Asks for the next piece while this one comes, so that the registry has no reason to pause.
    fn ask_next(&mut self, at: LaneId) {
        let Some(uplink) = self.flows.uplink(at) else { return };
        let Some(next) = uplink.next.filter(|_| uplink.keep_alive) else { return };
        let Some(request) = self.request(at, next) else { return };
        let Some(uplink) = self.feed_mut(at).and_then(|feed| feed.uplink.as_mut()) else { return };
        match socket::send_now(uplink.fd.as_fd(), &request) {
            Ok(sent) => {
                uplink.asked_next = sent == request.len();
                // Half of a request is none: this connection ends with its piece.
                uplink.keep_alive = sent == 0 || uplink.asked_next;
            }
            Err(_) => uplink.keep_alive = false,
        }
    }

    /// The relay goes on at a piece whose answer is still to come.
    pub(super) fn next_piece(&mut self, at: LaneId, from: u64, part: Part) {
        let now = self.now;
        let Some(feed) = self.feed_mut(at) else { return };
        (feed.pending, feed.turn) = (Some(part), Some(from));
        let Some(uplink) = &mut feed.uplink else { return self.connect(at) };
        (uplink.since, uplink.asked) = (now, now);
        match (uplink.keep_alive, uplink.asked_next) {
            (true, true) => self.peek(at),
            (true, false) => self.ask(at, from),
            (false, _) => {
                self.drop_uplink(at);
                self.connect(at);
            }
        }
    }

    /// Nothing, where something was asked for: its readers would be done before any verdict.
    fn is_wrongly_empty(&self, index: u16, size: u64) -> bool {
        let nothing = Digest::from_bytes(Sha256::digest([]).into());
        size == 0 && self.flows.get(index).is_some_and(|flow| flow.digest != nothing)
    }

    /// A source of either kind will bring the bytes from the lane's position on.
    pub(super) fn source_opened(&mut self, at: LaneId, size: u64) {
        let LaneId { flow: index, lane } = at;
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.feed_mut(lane).turn = None;
        let is_new = flow.size.is_none();
        flow.size = Some(size);
        let split = std::mem::take(&mut flow.feed_mut(lane).split_due);
        // The first receive goes out before the readers' heads.
        self.happen(Event::SourceReady { flow: FlowId(index), lane, size });
        if split {
            self.happen(Event::Split { flow: FlowId(index) });
        }
        if is_new {
            self.allocate(index, size);
            self.wake_waiters(index, size);
        }
        self.keep_if_done(at);
    }

    /// Receives the bytes from `from` on into a part of a slot. Where the answer's body has not
    /// come that far, what is before them goes into the same place and nobody is told.
    pub(super) fn receive_into(&mut self, at: LaneId, part: Part, from: u64) {
        let now = self.now;
        let Part { slot, offset, bytes } = part;
        let token = self.flow_op(Kind::Receive, at.flow).with_slot(slot);
        let Some(flow) = self.flows.get_mut(at.flow) else { return };
        let size = flow.size.unwrap_or(0);
        let feed = flow.feed_mut(at.lane);
        feed.receiving = Some(slot);
        let Some(uplink) = &mut feed.uplink else { return };
        uplink.traffic.wanted(now);
        let before = match uplink.from_start {
            true => from.saturating_sub(size.saturating_sub(uplink.left)),
            false => 0,
        };
        uplink.passing = (before > 0).then_some((part, from));
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let bytes = if before > 0 { bytes.min(before) } else { bytes };
        self.ring.receive(uplink.fd.as_fd(), slot, offset, bytes, token);
    }

    /// Bytes have come that nobody wants: on to those that are.
    fn passed(&mut self, at: LaneId, part: Part, from: u64) {
        let flow = FlowId(at.flow);
        let over = self.relay.is_abandoned(flow) || self.relay.is_splitting(flow);
        if over || self.is_leaving(at) {
            return self.lose(at, Lost::Stalled(0));
        }
        self.receive_into(at, part, from);
    }

    fn body_received(&mut self, at: LaneId, slot: Slot, outcome: std::io::Result<u32>) {
        let now = self.now;
        let Some(feed) = self.feed_mut(at) else { return };
        feed.receiving = None;
        let Some(uplink) = &mut feed.uplink else { return };
        match outcome {
            Ok(0) => self.lose(at, Lost::Short),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                let silent = u64::try_from((now - uplink.since).as_millis()).unwrap_or(u64::MAX);
                self.lose(at, Lost::Stalled(silent));
            }
            Err(error) => self.lose(at, Lost::Broken(error)),
            Ok(bytes) => {
                uplink.left = uplink.left.saturating_sub(u64::from(bytes));
                uplink.since = now;
                if let Some((part, from)) = uplink.passing.take() {
                    uplink.traffic.count(u64::from(bytes), now);
                    return self.passed(at, part, from);
                }
                let asked = uplink.asked;
                uplink.traffic.received_body(u64::from(bytes), asked, now);
                if let Some(since) = feed.gap_since.take() {
                    self.meter.gap(now - since);
                }
                self.meter_received(at, slot, bytes);
                let LaneId { flow, lane } = at;
                self.happen(Event::Received { flow: FlowId(flow), lane, bytes });
                self.keep_if_done(at);
            }
        }
    }

    /// The source is lost: the cold half names the next one.
    pub(super) fn lose(&mut self, at: LaneId, cause: Lost) {
        let LaneId { flow: index, lane } = at;
        let Some(flow) = self.flows.get_mut(index) else { return };
        let (phase, digest) = (flow.phase, flow.digest);
        let feed = flow.feed_mut(lane);
        let moving = std::mem::take(&mut feed.moving);
        let cause = if moving { Lost::Moved } else { cause };
        let receiving = |uplink: &&Uplink| matches!(uplink.stage, Stage::Receiving);
        // What has not begun may have waited for its turn: that is no gap.
        if let Some(uplink) = feed.uplink.as_ref().filter(receiving)
            && !moving
        {
            feed.gap_since.get_or_insert(uplink.since);
        }
        // A receive that waited for its answer ends with it.
        let waited = feed.pending.take().is_some();
        feed.receiving = None;
        feed.source = None;
        self.drop_uplink(at);
        if phase == Phase::Closing {
            return;
        }
        let abandoned = self.relay.is_abandoned(FlowId(index));
        let splitting = self.relay.is_splitting(FlowId(index));
        let edge = self.relay.edge(FlowId(index), lane);
        let Some(feed) = self.feed_mut(at) else { return };
        let (attempt, split) = (feed.attempt, std::mem::take(&mut feed.split_due));
        if split && !abandoned {
            return self.happen(Event::Split { flow: FlowId(index) });
        }
        if feed.turn.is_none() || waited {
            feed.turn = Some(edge);
            self.happen(Event::SourceLost { flow: FlowId(index), lane });
        }
        if abandoned || splitting {
            return;
        }
        self.tell(ToCold::Lost { digest, attempt, at: edge, cause });
    }
}
