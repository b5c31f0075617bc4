//! Messages of the cold half, one arm each.

use std::os::fd::{AsFd, OwnedFd};

use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::http::error_body;

use super::conns::State;
use super::flow::{Flow, LaneId, Phase, Unwritten};
use super::uplink::Stage;
use super::{Driver, flow_token};
use crate::link::{Attempt, FillFile, Lost, Resume, Source, Ticket, ToHot, lane_of};
use crate::relay::{Event, FlowId};
use crate::ring::token::Kind;
use crate::ring::{Slot, SlotLease, socket};

impl Driver {
    pub(super) fn hear(&mut self, message: ToHot) {
        match message {
            ToHot::Answer { ticket, status, content_type, digest, extra, head_length, body } => {
                let Some(index) = self.asking(ticket) else { return };
                self.answer(
                    index,
                    status,
                    &content_type,
                    digest.as_ref(),
                    &extra,
                    head_length,
                    &body,
                );
            }
            ToHot::Grants { keys, until } => {
                for key in keys {
                    self.grants.insert(key, until);
                }
            }
            ToHot::Revoke { digest } => self.grants.revoke(&digest),
            ToHot::Vouchers(vouchers) => self.vouchers = vouchers,
            ToHot::Admitted { ticket } => self.admitted(ticket),
            ToHot::Present { digest, file, size, direct } => {
                self.present(digest, file, size, direct);
            }
            ToHot::Fetch { digest, file, resume, source, twin, splits } => {
                self.fetch(digest, file, resume, (source, twin.map(|twin| *twin), splits));
            }
            ToHot::Split { digest, attempt } => self.split_flow(&digest, attempt),
            ToHot::File { digest, file } => self.file_came(&digest, file),
            ToHot::Source { digest, attempt, restart, source } => {
                self.next_source(&digest, attempt, restart, source);
            }
            ToHot::GiveUp { digest, attempt, moved } => self.give_up(&digest, attempt, moved),
            ToHot::Refuse { digest, status, code, message, extra } => {
                self.refuse(&digest, status, code, &message, &extra);
            }
            ToHot::Committed { digest } => tracing::debug!(%digest, "committed"),
            ToHot::Opened { digest, attempt, size } => {
                if let Some(lane) = self.current(&digest, attempt) {
                    self.opened(lane, size);
                }
            }
            ToHot::Filled { digest, attempt, lease, result } => {
                self.filled(&digest, attempt, lease, result);
            }
            ToHot::Shutdown => self.finished = true,
        }
    }

    /// The connection that a ticket names, if it still waits.
    fn asking(&self, ticket: Ticket) -> Option<u16> {
        // As `route` packed it.
        let index = (ticket.0 & 0xffff) as u16;
        let generation = u32::try_from(ticket.0 >> 16).ok()?;
        let current = self.conns.is_current(index, generation);
        let state = &self.conns.get(index)?.state;
        let asks = matches!(state, State::Asking | State::Admitting { .. });
        (current && asks).then_some(index)
    }

    /// A caller may have the blob that it asked for.
    fn admitted(&mut self, ticket: Ticket) {
        let Some(index) = self.asking(ticket) else { return };
        let Some(conn) = self.conns.get_mut(index) else { return };
        match std::mem::replace(&mut conn.state, State::Asking) {
            State::Admitting { request } => self.serve_blob(index, request),
            state => conn.state = state,
        }
    }

    /// The lane of a blob's flow that a message is about, if it is about its latest try.
    pub(super) fn current(&self, digest: &Digest, attempt: Attempt) -> Option<LaneId> {
        let at = LaneId { flow: *self.by_digest.get(digest)?, lane: lane_of(attempt) };
        (self.feed(at)?.attempt == attempt).then_some(at)
    }

    fn wanted_or_new(&mut self, digest: Digest) -> Option<u16> {
        match self.by_digest.get(&digest) {
            Some(&index) => {
                let flow = self.flows.get(index)?;
                (flow.phase == Phase::Wanted).then_some(index)
            }
            None => self.new_flow(Flow::new(digest, self.now)),
        }
    }

    fn present(&mut self, digest: Digest, file: OwnedFd, size: u64, direct: bool) {
        let Some(index) = self.wanted_or_new(digest) else { return };
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.phase = Phase::Open;
        flow.file = Some(file);
        flow.direct = direct;
        flow.size = Some(size);
        flow.complete = true;
        self.happen(Event::Serve { flow: FlowId(index), size });
        self.settle();
        self.wake_waiters(index, size);
    }

    fn fetch(
        &mut self,
        digest: Digest,
        file: Option<FillFile>,
        resume: Option<Resume>,
        (source, twin, splits): (Source, Option<Source>, bool),
    ) {
        // No room: whoever asked was told by `find_or_want`; a pull asks again.
        let Some(index) = self.wanted_or_new(digest) else { return };
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.phase = Phase::Open;
        if let Some(FillFile { file, direct }) = file {
            (flow.file, flow.direct) = (Some(file), direct);
        }
        let striped = twin.is_some();
        for (feed, source) in flow.feeds.iter_mut().zip([Some(source), twin]) {
            if let Some(source) = source {
                feed.take(source);
            }
        }
        let (bytes, hasher, size) = match resume {
            Some(resume) => (resume.bytes, resume.hasher, Some(resume.size)),
            None => (0, Sha256::new(), None),
        };
        flow.size = size;
        self.begin_hash(index, bytes, hasher);
        let rank = digest.prefix();
        let flow = FlowId(index);
        self.happen(Event::Fetch { flow, resume: bytes, size, striped, splits, rank });
        self.settle();
        if let Some(size) = size {
            self.wake_waiters(index, size);
        }
    }

    /// The file of a flow that asks its source already: what waits for it is written.
    fn file_came(&mut self, digest: &Digest, file: FillFile) {
        let Some(&index) = self.by_digest.get(digest) else { return };
        let Some(flow) = self.flows.get_mut(index) else { return };
        if flow.phase != Phase::Open || flow.file.is_some() {
            return;
        }
        (flow.file, flow.direct) = (Some(file.file), file.direct);
        let (unwritten, size) = (std::mem::take(&mut flow.unwritten), flow.size);
        if let Some(size) = size {
            self.allocate(index, size);
        }
        for Unwritten { slot, offset, bytes, at } in unwritten {
            self.write(FlowId(index), slot, offset, bytes, at);
        }
    }

    /// There will be no file: what waits for it ends as a write that failed.
    fn fail_unwritten(&mut self, index: u16) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        for Unwritten { slot, .. } in std::mem::take(&mut flow.unwritten) {
            self.happen(Event::WriteFailed { flow: FlowId(index), slot });
        }
    }

    fn next_source(&mut self, digest: &Digest, attempt: Attempt, restart: bool, source: Source) {
        let Some(at) = self.current(digest, attempt) else { return };
        let Some(feed) = self.feed_mut(at) else { return };
        feed.take_next(source);
        if restart {
            if let Some(flow) = self.flows.get_mut(at.flow) {
                flow.feed_mut(1).source = None;
            }
            self.begin_hash_anew(at.flow);
            self.happen(Event::Restart { flow: FlowId(at.flow) });
        } else {
            self.connect(at);
        }
    }

    /// A whole flow gets a source for each stripe, once what its source is doing has ended.
    fn split_flow(&mut self, digest: &Digest, attempt: Attempt) {
        let Some(at) = self.current(digest, attempt) else { return };
        let flow = FlowId(at.flow);
        if !self.flows.get(at.flow).is_some_and(Flow::has_relay) || self.relay.is_striped(flow) {
            return;
        }
        let Some(feed) = self.feed_mut(at) else { return };
        let is_asking =
            feed.uplink.as_ref().is_some_and(|uplink| !matches!(uplink.stage, Stage::Receiving));
        if is_asking {
            feed.split_due = true;
            return self.cancel_stage(at);
        }
        self.happen(Event::Split { flow });
    }

    fn refuse(
        &mut self,
        digest: &Digest,
        status: u16,
        code: &'static str,
        message: &str,
        extra: &str,
    ) {
        let Some(&index) = self.by_digest.get(digest) else { return };
        self.refuse_waiters(index, status, code, message, extra);
        let Some(flow) = self.flows.get_mut(index) else { return };
        match flow.phase {
            Phase::Wanted => {
                self.by_digest.remove(digest);
                self.flows.remove(index);
            }
            Phase::Open if !self.relay.is_abandoned(FlowId(index)) => {
                // A new request for the blob starts anew, while this one ends.
                self.by_digest.remove(digest);
                self.happen(Event::Abandon { flow: FlowId(index) });
                self.fail_unwritten(index);
            }
            _ => {}
        }
    }

    /// Tells those who wait for a blob's size that it will not come.
    pub(super) fn refuse_waiters(
        &mut self,
        index: u16,
        status: u16,
        code: &str,
        message: &str,
        extra: &str,
    ) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        for (conn, generation) in std::mem::take(&mut flow.waiters) {
            let waits = |conn: &super::Conn| matches!(conn.state, State::Waiting { .. });
            let current = self.conns.is_current(conn, generation);
            if !current || !self.conns.get(conn).is_some_and(waits) {
                continue;
            }
            let body = error_body(code, message);
            self.answer(conn, status, "application/json", None, extra, None, &body);
        }
    }

    fn opened(&mut self, lane: LaneId, size: u64) {
        if let Some(feed) = self.feed_mut(lane) {
            feed.opened = Some(size);
        }
        self.connect(lane);
    }

    fn filled(
        &mut self,
        digest: &Digest,
        attempt: Attempt,
        lease: SlotLease,
        result: Result<u32, Lost>,
    ) {
        drop(lease);
        let lane = lane_of(attempt);
        let lent = |flow: &Flow| flow.feed(lane).lent && flow.digest == *digest;
        let found = self.flows.iter().find(|(_, flow)| lent(flow)).map(|(index, _)| index);
        let Some(at) = found.map(|flow| LaneId { flow, lane }) else { return };
        let Some(feed) = self.feed_mut(at) else { return };
        feed.lent = false;
        let (stale, slot) = (feed.attempt != attempt, feed.receiving.take());
        match (result, slot) {
            (Ok(bytes), Some(slot)) if bytes > 0 && !stale => {
                self.meter_received(at, slot, bytes);
                self.happen(Event::Received { flow: FlowId(at.flow), lane, bytes });
            }
            (Ok(_), _) => self.lose(at, Lost::Short),
            (Err(cause), _) => self.lose(at, cause),
        }
    }

    /// Ends what an upstream connection of a forgotten lane is doing.
    pub(super) fn cancel_uplink(&mut self, at: LaneId) {
        let Some(uplink) = self.feed(at).and_then(|feed| feed.uplink.as_ref()) else { return };
        socket::shutdown(uplink.fd.as_fd());
        if matches!(uplink.stage, Stage::Connecting) {
            let token = flow_token(Kind::Connect, &self.flows, at.flow);
            self.ring.cancel(token.with_slot(Slot(at.lane.into())));
        }
    }
}
