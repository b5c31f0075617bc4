//! Messages of the cold half, one arm each.

use std::os::fd::{AsFd, OwnedFd};

use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::http::error_body;

use super::conns::State;
use super::fetch::{Flow, Phase, Unwritten};
use super::uplink::Stage;
use super::{Driver, flow_token};
use crate::link::{Attempt, FillFile, Lost, Resume, Source, Ticket, ToHot};
use crate::relay::{Event, FlowId};
use crate::ring::token::Kind;
use crate::ring::{SlotLease, socket};

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
            ToHot::Vouchers(vouchers) => self.vouchers = vouchers,
            ToHot::Admitted { ticket } => self.admitted(ticket),
            ToHot::Present { digest, file, size, direct } => {
                self.present(digest, file, size, direct);
            }
            ToHot::Fetch { digest, file, resume, source } => {
                self.fetch(digest, file, resume, source);
            }
            ToHot::File { digest, file } => self.file_came(&digest, file),
            ToHot::Source { digest, attempt, restart, source } => {
                self.next_source(&digest, attempt, restart, source);
            }
            ToHot::GiveUp { digest, attempt } => self.give_up(&digest, attempt),
            ToHot::Refuse { digest, status, code, message, extra } => {
                self.refuse(&digest, status, code, &message, &extra);
            }
            ToHot::Committed { digest } => tracing::debug!(%digest, "committed"),
            ToHot::Opened { digest, attempt, size } => {
                if let Some(index) = self.current(&digest, attempt) {
                    self.opened(index, size);
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

    /// The flow of a blob, if the message is about its latest try.
    pub(super) fn current(&self, digest: &Digest, attempt: Attempt) -> Option<u16> {
        let index = *self.by_digest.get(digest)?;
        (self.flows.get(index)?.attempt == attempt).then_some(index)
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
        source: Source,
    ) {
        // No room: whoever asked was told by `find_or_want`; a pull asks again.
        let Some(index) = self.wanted_or_new(digest) else { return };
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.phase = Phase::Open;
        if let Some(FillFile { file, direct }) = file {
            (flow.file, flow.direct) = (Some(file), direct);
        }
        flow.upstream = name_of(&source);
        flow.source = Some(source);
        let (bytes, hasher, size) = match resume {
            Some(resume) => (resume.bytes, resume.hasher, Some(resume.size)),
            None => (0, Sha256::new(), None),
        };
        flow.size = size;
        self.begin_hash(index, bytes, hasher);
        self.happen(Event::Fetch { flow: FlowId(index), resume: bytes, size });
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
        let Some(index) = self.current(digest, attempt) else { return };
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.attempt += 1;
        flow.upstream = name_of(&source);
        flow.source = Some(source);
        if restart {
            self.begin_hash_anew(index);
            self.happen(Event::Restart { flow: FlowId(index) });
        } else {
            self.connect(index);
        }
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

    fn opened(&mut self, index: u16, size: u64) {
        if let Some(flow) = self.flows.get_mut(index) {
            flow.opened = Some(size);
        }
        self.connect(index);
    }

    fn filled(
        &mut self,
        digest: &Digest,
        attempt: Attempt,
        lease: SlotLease,
        result: Result<u32, Lost>,
    ) {
        drop(lease);
        let found = self.flows.iter().find(|(_, flow)| flow.lent && flow.digest == *digest);
        let Some((index, flow)) = found else { return };
        let (stale, slot) = (flow.attempt != attempt, flow.receiving);
        if let Some(flow) = self.flows.get_mut(index) {
            flow.lent = false;
        }
        match result {
            Ok(bytes) if bytes > 0 && !stale => {
                self.meter_received(index, slot, bytes);
                self.happen(Event::Received { flow: FlowId(index), bytes });
            }
            Ok(_) => self.lose(index, Lost::Short),
            Err(cause) => self.lose(index, cause),
        }
    }

    /// Ends what an upstream connection of a forgotten flow is doing.
    pub(super) fn cancel_uplink(&mut self, index: u16) {
        let Some(uplink) = self.flows.get(index).and_then(|flow| flow.uplink.as_ref()) else {
            return;
        };
        socket::shutdown(uplink.fd.as_fd());
        let kind = match uplink.stage {
            Stage::Connecting => Kind::Connect,
            _ => return,
        };
        self.ring.cancel(flow_token(kind, &self.flows, index));
    }
}

fn name_of(source: &Source) -> std::sync::Arc<str> {
    match source {
        Source::Http { upstream, .. } | Source::Cold { upstream } => upstream.clone(),
    }
}
