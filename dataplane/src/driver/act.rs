//! The relay's actions, one arm each: submissions, jobs for the hash thread, messages to the cold
//! half.

use std::io;
use std::os::fd::AsFd;

use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::limits::{DIRECT_ALIGN, UNIT_BYTES};

use super::conns::State;
use super::flow::{LaneId, Part, Phase, Unwritten};
use super::hasher::Hashed;
use super::{Driver, conn_token, flow_token};
use crate::link::{Lost, Source, ToCold};
use crate::relay::{Action, Event, FlowId, ReaderId, Reason};
use crate::ring::Slot;
use crate::ring::token::Kind;
use crate::usdt;

impl Driver {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Split { flow } => self.split(flow.0),
            Action::Connect { flow, lane, at } => {
                let lane = LaneId { flow: flow.0, lane };
                if let Some(feed) = self.feed_mut(lane) {
                    feed.turn = Some(at);
                }
                self.connect(lane);
            }
            Action::Recv { flow, lane, slot, offset, bytes, at } => {
                self.receive(LaneId { flow: flow.0, lane }, Part { slot, offset, bytes }, at);
            }
            Action::CancelRecv { flow, lane } => self.cancel_receive(LaneId { flow: flow.0, lane }),
            Action::Write { flow, slot, offset, bytes, at } => {
                self.write(flow, slot, offset, bytes, at);
            }
            Action::Hash { flow, slot, offset, bytes, at: _ } => {
                if self.settings.verify {
                    let view = self.ring.arena().view(slot, offset, bytes);
                    let begin = self.flows.get_mut(flow.0).and_then(|flow| flow.hasher.take());
                    self.hasher.hash(flow, slot, view, begin);
                } else {
                    self.happen(Event::Hashed { flow, slot, bytes });
                }
            }
            Action::Finalize { flow } => {
                if self.settings.verify {
                    let begin = self.flows.get_mut(flow.0).and_then(|flow| flow.hasher.take());
                    self.hasher.finish(flow, begin);
                } else {
                    self.happen(Event::Finalized { flow, matches: true });
                }
            }
            Action::Stored { flow } => self.stored(flow),
            Action::Send { reader, slot, offset, bytes, at } => {
                let token = self.conn_op(Kind::Body, reader.0).with_slot(slot);
                let Some(conn) = self.conns.get_mut(reader.0) else { return };
                conn.sending = Some((slot, offset, at));
                conn.traffic.wanted(self.now);
                self.ring.send(conn.fd.as_fd(), slot, offset, bytes, token);
            }
            Action::CancelSend { reader } => self.cancel_send(reader),
            Action::AwaitWritable { reader } => {
                let token = self.conn_op(Kind::Writable, reader.0);
                let Some(conn) = self.conns.get(reader.0) else { return };
                self.ring.await_writable(conn.fd.as_fd(), token);
            }
            Action::Read { reader, flow, slot, at, bytes } => {
                let token = self.conn_op(Kind::FileRead, reader.0).with_slot(slot);
                if let Some(conn) = self.conns.get_mut(reader.0) {
                    conn.own_slot = Some(slot);
                }
                let file = self.flows.get(flow.0).and_then(|flow| flow.file.as_ref());
                let Some(file) = file else { return };
                self.ring.read(file.as_fd(), slot, bytes, at, token);
            }
            Action::Done { reader } => self.next_request(reader.0),
            Action::Cut { reader, reason } => self.cut(reader, reason),
            Action::Closed { flow } => self.closed(flow),
        }
    }

    fn receive(&mut self, lane: LaneId, part: Part, at: u64) {
        let Some(flow) = self.flows.get_mut(lane.flow) else { return };
        let digest = flow.digest;
        let feed = flow.feed_mut(lane.lane);
        if let Some(Source::Cold { .. }) = feed.source {
            (feed.lent, feed.receiving) = (true, Some(part.slot));
            let attempt = feed.attempt;
            let lease = self.ring.arena().lease(part.slot, part.offset, part.bytes);
            return self.tell(ToCold::Fill { digest, attempt, at, lease });
        }
        // Between two pieces an answer's head comes first.
        let left = feed.uplink.as_ref().map_or(0, |uplink| uplink.left);
        if left == 0 {
            return self.next_piece(lane, at, part);
        }
        self.receive_into(lane, part, at);
    }

    fn cancel_receive(&mut self, at: LaneId) {
        let Some(feed) = self.feed_mut(at) else { return };
        if feed.pending.take().is_some() {
            let LaneId { flow, lane } = at;
            return self.happen(Event::SourceLost { flow: FlowId(flow), lane });
        }
        // The cold half gives a lent slot back by itself.
        if let Some(slot) = feed.receiving.filter(|_| !feed.lent) {
            let token = flow_token(Kind::Receive, &self.flows, at.flow);
            self.ring.cancel(token.with_slot(slot));
        }
    }

    /// From now on each stripe has a source of its own: the cold half names both.
    fn split(&mut self, index: u16) {
        for lane in 0..2 {
            let at = LaneId { flow: index, lane };
            self.drop_uplink(at);
            let edge = self.relay.edge(FlowId(index), lane);
            let Some(flow) = self.flows.get_mut(index) else { return };
            let (digest, size) = (flow.digest, flow.size);
            let feed = flow.feed_mut(lane);
            (feed.source, feed.turn, feed.opened, feed.gap_since) = (None, None, None, None);
            let attempt = feed.attempt;
            if size.is_none_or(|size| edge < size) {
                self.tell(ToCold::Lost { digest, attempt, at: edge, cause: Lost::Split });
            }
        }
    }

    pub(super) fn write(&mut self, flow: FlowId, slot: Slot, offset: u32, bytes: u32, at: u64) {
        let Some(entry) = self.flows.get_mut(flow.0) else { return };
        if entry.file.is_none() {
            // At most the pool's slots: each has one write.
            return entry.unwritten.push(Unwritten { slot, offset, bytes, at });
        }
        let token = self.flow_op(Kind::Write, flow.0).with_slot(slot);
        let Some(entry) = self.flows.get(flow.0) else { return };
        let Some(file) = &entry.file else { return };
        // The tail of a blob is padded; the file is cut to its size when it is committed.
        let align = if entry.direct { DIRECT_ALIGN } else { 1 };
        let length = bytes.next_multiple_of(align);
        self.ring.write(file.as_fd(), slot, offset, length, at, token);
    }

    pub(super) fn wrote(&mut self, index: u16, slot: Slot, outcome: io::Result<u32>) {
        let flow = FlowId(index);
        let expected = self.relay.write_bytes(slot);
        let error = match outcome {
            // A tail is padded to the file's alignment.
            Ok(bytes) if bytes >= expected => {
                if let Some(flow) = self.flows.get(index) {
                    usdt::stored(&flow.digest, self.relay.begin(slot), expected);
                }
                return self.happen(Event::Written { flow, slot });
            }
            // A disk that is full in the middle of a write says so only at the next.
            Ok(_) => io::Error::from_raw_os_error(libc::ENOSPC),
            Err(error) => error,
        };
        self.store_failed(index, error);
        self.happen(Event::WriteFailed { flow, slot });
    }

    /// The disk refused: those who wait and the cold half are told. The flow's end is the relay's
    /// business.
    pub(super) fn store_failed(&mut self, index: u16, cause: io::Error) {
        let Some(flow) = self.flows.get(index) else { return };
        // Told once; other writes of the same flow fail as well.
        if flow.phase != Phase::Open || self.relay.is_abandoned(FlowId(index)) {
            return;
        }
        let digest = flow.digest;
        let message = format!("cannot store {digest}: {cause}; free space in the node's store");
        self.by_digest.remove(&digest);
        self.refuse_waiters(index, 507, "UNKNOWN", &message, "");
        self.tell(ToCold::StoreFailed { digest, cause });
    }

    fn cancel_send(&mut self, reader: ReaderId) {
        let Some(conn) = self.conns.get(reader.0) else { return };
        let slot = conn.sending.map_or(Slot(0), |(slot, ..)| slot);
        self.ring.cancel(conn_token(Kind::Body, &self.conns, reader.0).with_slot(slot));
    }

    fn cut(&mut self, reader: ReaderId, reason: Reason) {
        if reason == Reason::File {
            tracing::error!("a blob in the store is shorter than it was: its readers are cut off");
        }
        if let Some(conn) = self.conns.get_mut(reader.0) {
            conn.state = State::Answering;
        }
        self.close_conn(reader.0);
    }

    fn stored(&mut self, flow: FlowId) {
        let Some(entry) = self.flows.get_mut(flow.0) else { return };
        entry.complete = true;
        for feed in &mut entry.feeds {
            feed.source = None;
        }
        // The cold half cuts the file to its size: an allocation that came later would undo that.
        if !entry.allocating {
            self.tell_stored(flow.0);
        }
    }

    pub(super) fn tell_stored(&mut self, index: u16) {
        let Some(flow) = self.flows.get(index) else { return };
        let (digest, size) = (flow.digest, flow.size.unwrap_or(0));
        let first_byte_ns = flow.first_byte_ns;
        let readers = self.relay.readers_of(FlowId(index));
        let readers = u32::try_from(readers).unwrap_or(u32::MAX);
        self.tell(ToCold::Stored { digest, size, first_byte_ns, readers });
    }

    fn closed(&mut self, flow: FlowId) {
        let Some(entry) = self.flows.get_mut(flow.0) else { return };
        entry.phase = Phase::Closing;
        let digest = entry.digest;
        if self.by_digest.get(&digest) == Some(&flow.0) {
            self.by_digest.remove(&digest);
        }
        for lane in 0..2 {
            self.cancel_uplink(LaneId { flow: flow.0, lane });
        }
        self.free_flow_if_idle(flow.0);
    }

    /// An answer of the hash thread.
    pub(super) fn hashed(&mut self, hashed: Hashed) {
        match hashed {
            Hashed::Part { flow, slot, bytes, crc } => {
                if let Some(entry) = self.flows.get_mut(flow.0) {
                    entry.units.1.push(crc);
                }
                self.happen(Event::Hashed { flow, slot, bytes });
            }
            Hashed::Whole { flow, digest } => self.finalized(flow, digest),
        }
    }

    fn finalized(&mut self, flow: FlowId, actual: Digest) {
        let Some(entry) = self.flows.get(flow.0) else { return };
        let (digest, attempt) = (entry.digest, entry.feed(0).attempt);
        let matches = actual == digest;
        self.happen(Event::Finalized { flow, matches });
        if !matches {
            tracing::warn!(expected = %digest, %actual, "wrong digest");
            self.tell(ToCold::Mismatch { digest, attempt, actual });
        }
    }

    /// Sends the checksums of new units to be recorded.
    pub(super) fn tell_units(&mut self, index: u16) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        if flow.units.1.is_empty() || flow.complete {
            return;
        }
        let first = flow.units.0;
        let crc = std::mem::take(&mut flow.units.1);
        flow.units.0 += u32::try_from(crc.len()).expect("at most BLOB_MAX / UNIT_BYTES units");
        let (digest, size) = (flow.digest, flow.size.unwrap_or(0));
        self.tell(ToCold::Units { digest, size, first, crc });
    }

    /// A flow begins, or begins anew, with what its file holds.
    pub(super) fn begin_hash(&mut self, index: u16, bytes: u64, hasher: Sha256) {
        if let Some(flow) = self.flows.get_mut(index) {
            let first = u32::try_from(bytes / u64::from(UNIT_BYTES)).unwrap_or(u32::MAX);
            flow.units = (first, Vec::new());
            flow.hasher = Some(Box::new(hasher));
        }
    }

    pub(super) fn begin_hash_anew(&mut self, index: u16) {
        self.begin_hash(index, 0, Sha256::new());
    }
}
