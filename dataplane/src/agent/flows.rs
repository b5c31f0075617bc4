//! Blobs that are being fetched: who is asked next, what happens when a source is lost, and how a
//! blob ends. The bytes are the ring thread's business.

mod flow;
mod moves;
mod notes;
mod source;

use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};
use xylem_protocol::Digest;
use xylem_protocol::http::Request;
use xylem_protocol::limits::{FLOWS_MAX, UNIT_BYTES};
use xylem_protocol::stripe::{piece_end, stripe_of};

use super::Agent;
use crate::clock::monotonic_ns;
use crate::link::{Attempt, FillFile, Lost, Resume, ToHot, lane_of};
use crate::oneline::chain;
use crate::origin::{Origin, OriginError};
use crate::store::{Begun, Complete, Partial, StoreError, record};

pub(super) use flow::{Flow, FlowAsk, Flows, LaneKey, Refusal, header_safe, relayed_lines};
use source::Chosen;

/// What somebody who waits for a blob is told: its size, or why there is none.
pub(super) type Outcome = Result<u64, Rc<Refusal>>;

impl Agent {
    /// The ring thread has a reader for a blob that is not open there.
    pub(super) fn want(self: &Rc<Self>, digest: Digest, request: Request) {
        let here = self.flows.with(&digest, |flow| flow.wanted = true).is_some();
        if here {
            return;
        }
        if request.path.contains(&self.settings.node) && self.store.size_of(&digest).is_none() {
            let message = format!(
                "request has passed {} already: {}",
                self.settings.node,
                request.path.join(",")
            );
            self.metrics.error("loop");
            self.post.send(Refusal::new(508, "UNKNOWN", message).to_hot(digest));
            return;
        }
        let repository = match self.repository(&request) {
            Ok(repository) => repository,
            Err(refusal) => return self.post.send(refusal.to_hot(digest)),
        };
        let Request { image, stripe, path, .. } = request;
        let ask = FlowAsk { repository, image, stripe, path };
        self.start(digest, ask, true, None);
    }

    /// Fetches a blob into the store, without a reader. The outcome comes when it is committed, or
    /// never will be.
    pub(super) fn fetch(
        self: &Rc<Self>,
        digest: Digest,
        ask: FlowAsk,
    ) -> oneshot::Receiver<Outcome> {
        let (waiter, outcome) = oneshot::channel();
        if let Some(size) = self.store.size_of(&digest) {
            // The receiver is in our hands.
            let _ = waiter.send(Ok(size));
        } else {
            self.start(digest, ask, false, Some(waiter));
        }
        outcome
    }

    fn start(
        self: &Rc<Self>,
        digest: Digest,
        ask: FlowAsk,
        wanted: bool,
        waiter: Option<oneshot::Sender<Outcome>>,
    ) {
        let mut waiter = waiter;
        if self.flows.with(&digest, |flow| flow.waiters.extend(waiter.take())).is_some() {
            return;
        }
        if self.flows.len() >= usize::from(FLOWS_MAX) {
            let message = format!("{FLOWS_MAX} blobs are being fetched already; try again");
            let refusal = Refusal::new(503, "TOOMANYREQUESTS", message);
            if wanted {
                self.post.send(refusal.to_hot(digest));
            }
            if let Some(waiter) = waiter {
                let _ = waiter.send(Err(Rc::new(refusal)));
            }
            return;
        }
        let image = ask.image.or_else(|| self.trees.image_of(&digest));
        let serial = self.flows.insert(digest, Flow::new(FlowAsk { image, ..ask }, wanted, waiter));
        self.note_start(digest);
        let agent = self.clone();
        tokio_uring::spawn(async move {
            if let Err(refusal) = agent.begin(digest, serial).await {
                agent.refuse(digest, serial, refusal);
            }
        });
    }

    /// Looks whether the blob is here; else opens its file and starts the ring thread on its first
    /// source.
    async fn begin(self: &Rc<Self>, digest: Digest, serial: u64) -> Result<(), Refusal> {
        let asked = self.flows.with(&digest, |flow| (flow.ask.image, flow.ask.repository.clone()));
        let Some((image, repository)) = asked else { return Ok(()) };
        if let Origin::Layout(layout) = repository.origin()
            && let Ok(complete) = layout.blob(&digest).await
        {
            let pulled = self.flows.with(&digest, |flow| !flow.waiters.is_empty());
            if pulled == Some(true) {
                layout.verify(&digest).await.map_err(|error| Refusal::origin(&error))?;
            }
            self.present(digest, complete);
            return Ok(());
        }
        let placed = async {
            if let Some(image) = image {
                self.trees.upstreams(image, &repository.label(), false).await;
            }
        };
        if self.store.knows(&digest) {
            // What a partial blob holds is read, which takes its time.
            let store = self.store.clone();
            let opened = spawn_blocking(move || store.begin(&digest));
            let (opened, ()) = tokio::join!(opened, placed);
            let refused = |error| Refusal::origin(&OriginError::from(error));
            match opened.map_err(refused)? {
                Ok(Begun::Complete(complete)) => self.present(digest, complete),
                Ok(Begun::Partial(Partial { file, resume })) => {
                    let at = resume.as_ref().map_or(0, |resume| resume.bytes);
                    if let Some(chosen) = self.first_sources(digest, serial, at).await? {
                        self.send_fetch(digest, serial, Some(file), resume, chosen);
                    }
                }
                Err(error) => return Err(self.store_refusal(&error)),
            }
            return Ok(());
        }
        placed.await;
        let Some(chosen) = self.first_sources(digest, serial, 0).await? else { return Ok(()) };
        // The first byte waits for the source's answer, and not for the file, which is made
        // meanwhile: it takes as long as a hop.
        self.send_fetch(digest, serial, None, None, chosen);
        let made = self.store.create(&digest, None).map_err(|error| self.store_refusal(&error))?;
        self.post.send(ToHot::File { digest, file: made.file });
        self.open_record(digest, serial, 0);
        Ok(())
    }

    /// Where a blob comes from at first: one source, or one for each stripe.
    async fn first_sources(
        &self,
        digest: Digest,
        serial: u64,
        at: u64,
    ) -> Result<Option<(Chosen, Option<Chosen>)>, Refusal> {
        let striped = self.flows.with_serial(&digest, serial, |flow| {
            flow.striped = self.is_striped(&digest, flow);
            flow.received = at;
            for (lane, index) in flow.lanes.iter_mut().zip(0..) {
                let is_own = !flow.striped || stripe_of(at) == index;
                lane.at = if is_own { at } else { piece_end(at) };
            }
            flow.striped
        });
        let key = |lane| LaneKey { digest, serial, lane };
        let Some(first) = self.next_source(key(0)).await? else { return Ok(None) };
        let twin = match striped {
            Some(true) => self.next_source(key(1)).await?,
            _ => None,
        };
        Ok(Some((first, twin)))
    }

    fn send_fetch(
        self: &Rc<Self>,
        digest: Digest,
        serial: u64,
        file: Option<FillFile>,
        resume: Option<Resume>,
        (chosen, twin): (Chosen, Option<Chosen>),
    ) {
        let at = resume.as_ref().map_or(0, |resume| resume.bytes);
        let known = self.flows.with_serial(&digest, serial, |flow| {
            flow.started = true;
            flow.size = resume.as_ref().map_or(0, |resume| resume.size);
            flow.headed = resume.is_some();
            self.may_be_striped(&digest, flow)
        });
        let Some(splits) = known else { return };
        let twin_name = twin.as_ref().map(|twin| twin.upstream());
        debug!(%digest, at, upstream = chosen.upstream(), twin = twin_name, "fetching");
        let key = |lane| LaneKey { digest, serial, lane };
        self.note_source(key(0), at);
        let (source, is_here) = (chosen.source.clone(), file.is_some());
        let second = twin.as_ref().map(|twin| Box::new(twin.source.clone()));
        self.post.send(ToHot::Fetch { digest, file, resume, source, twin: second, splits });
        self.feed_if_cold(key(0), chosen);
        if let Some(twin) = twin {
            self.note_source(key(1), at);
            self.feed_if_cold(key(1), twin);
        }
        if is_here {
            self.open_record(digest, serial, at);
        }
        self.check_place(&digest);
    }

    /// Opens a blob's record. After the ring thread has what it waits for: the first unit is not
    /// hashed before long.
    fn open_record(&self, digest: Digest, serial: u64, at: u64) {
        match self.store.open_record(&digest, at) {
            Ok(record) => {
                let record = Rc::new(tokio_uring::fs::File::from_std(record));
                self.flows.with_serial(&digest, serial, |flow| flow.record = Some(record));
            }
            Err(error) => warn!(%digest, %error, "a restart will fetch this blob anew"),
        }
    }

    /// The blob is complete: serve it to whom asked, tell whom waited.
    fn present(&self, digest: Digest, complete: Complete) {
        let Complete { file, size, direct } = complete;
        self.history.borrow_mut().present(&digest);
        let Some(flow) = self.flows.remove(&digest) else { return };
        if flow.wanted {
            self.post.send(ToHot::Present { digest, file, size, direct });
        }
        flow.finish(&Ok(size));
    }

    /// The ring thread's source ended before the blob did.
    pub(super) fn lost(self: &Rc<Self>, digest: Digest, attempt: Attempt, at: u64, cause: Lost) {
        let lane = lane_of(attempt);
        let is_split = matches!(cause, Lost::Split);
        let serial = self.flows.with(&digest, |flow| {
            if is_split {
                flow.split(at);
            }
            flow.lose(attempt, at).then_some((flow.serial, flow.split_at))
        });
        let Some(Some((serial, split_at))) = serial else { return };
        let (agent, key) = (self.clone(), LaneKey { digest, serial, lane });
        match &cause {
            Lost::Split => self.note_split(&digest, split_at),
            Lost::Moved => self.note_move(key, at),
            cause => {
                self.metrics.error(source::label(cause));
                self.note_loss(key, at, cause);
            }
        }
        tokio_uring::spawn(async move {
            let next = agent.after_loss(key, cause).await;
            agent.go_on(key, next);
        });
    }

    /// A source inside TLS could not be opened: the ring thread does not know yet.
    pub(super) fn lost_cold(
        self: &Rc<Self>,
        digest: Digest,
        attempt: Attempt,
        error: &OriginError,
    ) {
        let found = self.flows.with(&digest, |flow| {
            let at = flow.lane(lane_of(attempt)).at;
            let lost = flow.lose(attempt, at).then_some((flow.serial, at));
            flow.cause = Some(Refusal::origin(error));
            lost
        });
        let Some(Some((serial, at))) = found else { return };
        let key = LaneKey { digest, serial, lane: lane_of(attempt) };
        self.metrics.error("cold");
        self.note_loss_here(key, at, &chain(error));
        let (refusal, is_passing) = (Refusal::origin(error), error.is_passing());
        let agent = self.clone();
        tokio_uring::spawn(async move {
            let next = match agent.asked(key) {
                Some(asked) if !is_passing && !asked.is_mirror() => {
                    agent.denied(key, &asked, refusal).await
                }
                _ => agent.next_source(key).await,
            };
            agent.go_on(key, next);
        });
    }

    fn go_on(self: &Rc<Self>, key: LaneKey, next: Result<Option<Chosen>, Refusal>) {
        match next {
            Ok(Some(chosen)) => self.send_source(key, chosen),
            Ok(None) => {}
            Err(refusal) => match self.back_to_peer(key) {
                Some(chosen) => self.send_source(key, chosen),
                None => self.refuse(key.digest, key.serial, refusal),
            },
        }
    }

    fn send_source(self: &Rc<Self>, key: LaneKey, chosen: Chosen) {
        let LaneKey { digest, serial, .. } = key;
        let sent = self.flows.with_serial(&digest, serial, |flow| {
            let restart = std::mem::take(&mut flow.restart);
            if restart {
                flow.received = 0;
                flow.headed = false;
            }
            let lane = flow.lane_mut(key.lane);
            if restart {
                lane.at = 0;
            }
            let attempt = lane.attempt;
            lane.attempt += 1;
            (attempt, restart, lane.at)
        });
        let Some((attempt, restart, at)) = sent else { return };
        info!(%digest, at, restart, upstream = chosen.upstream(), "going on with another source");
        self.note_source(key, at);
        let source = chosen.source.clone();
        self.post.send(ToHot::Source { digest, attempt, restart, source });
        self.feed_if_cold(key, chosen);
        if !restart {
            self.check_place(&digest);
        }
    }

    /// All bytes came and are not the blob: once more from the registry, which is the only one to
    /// be believed.
    pub(super) fn mismatch(self: &Rc<Self>, digest: Digest, attempt: Attempt, actual: Digest) {
        let found = self.flows.with(&digest, |flow| {
            if !flow.lose(attempt, 0) {
                return None;
            }
            let upstream = flow.upstreams();
            let again = flow.mismatched.replace(actual).is_some();
            flow.restart_from_registry();
            let message = format!("{upstream} sent bytes that hash to {actual}, not to {digest}");
            flow.cause = Some(Refusal::new(502, "DIGEST_INVALID", message));
            Some((flow.serial, again, flow.cause.clone(), flow.received))
        });
        let Some(Some((serial, again, cause, received))) = found else { return };
        self.metrics.error("digest");
        let key = LaneKey { digest, serial, lane: 0 };
        self.note_loss_here(key, received, &format!("wrong digest: {actual}"));
        warn!(%digest, %actual, again, "wrong digest from upstream");
        let agent = self.clone();
        tokio_uring::spawn(async move {
            let store = agent.store.clone();
            let reset =
                spawn_blocking(
                    move || if again { store.discard(&digest) } else { store.reset(&digest) },
                );
            let _ = reset.await;
            let next = match cause {
                Some(cause) if again => Err(cause),
                _ => agent.next_source(key).await,
            };
            agent.go_on(key, next);
        });
    }

    /// All bytes are on disk and verified. `seen`: when the first byte came, and how many read.
    pub(super) fn stored(self: &Rc<Self>, digest: Digest, size: u64, seen: (u64, u32)) {
        let Some(serial) = self.flows.with(&digest, |flow| flow.serial) else { return };
        let (agent, store) = (self.clone(), self.store.clone());
        tokio_uring::spawn(async move {
            let committed = spawn_blocking(move || store.commit(&digest, size)).await;
            match committed.map_err(OriginError::from) {
                Ok(Ok(())) => {
                    debug!(%digest, size, "committed");
                    agent.metrics.committed(size);
                    agent.note_done(&digest, size, seen);
                    agent.post.send(ToHot::Committed { digest });
                    if let Some(flow) = agent.flows.remove(&digest) {
                        flow.finish(&Ok(size));
                    }
                }
                Ok(Err(error)) => {
                    let refusal = agent.store_refusal(&error);
                    agent.flows.with_serial(&digest, serial, |flow| flow.received = 0);
                    agent.refuse(digest, serial, refusal);
                }
                Err(error) => agent.refuse(digest, serial, Refusal::origin(&error)),
            }
        });
    }

    /// The ring thread could not write; it has told the readers.
    pub(super) fn store_failed(self: &Rc<Self>, digest: Digest, source: std::io::Error) {
        let found = self.flows.with(&digest, |flow| {
            // What it takes up is what the next blob may need.
            flow.received = 0;
            flow.over_for_ring();
            flow.serial
        });
        let Some(serial) = found else { return };
        let path = self.store.partial_path(&digest);
        let refusal = self.store_refusal(&StoreError::Io { action: "write", path, source });
        self.refuse(digest, serial, refusal);
    }

    fn store_refusal(&self, error: &StoreError) -> Refusal {
        let message = chain(error);
        self.metrics.error("store");
        Refusal::new(507, "UNKNOWN", message)
    }

    /// The blob cannot be had. The flow is there until its file is gone, so that a new one does not
    /// meet the old file.
    fn refuse(self: &Rc<Self>, digest: Digest, serial: u64, refusal: Refusal) {
        let at = self.flows.with_serial(&digest, serial, |flow| {
            flow.ending = true;
            flow.received
        });
        let Some(at) = at else { return };
        if refusal.status != 404 {
            warn!(%digest, status = refusal.status, error = refusal.message, "blob cannot be had");
        }
        self.history.borrow_mut().failed(digest, &refusal.message, monotonic_ns());
        let agent = self.clone();
        tokio_uring::spawn(async move {
            // Less than a unit cannot be resumed.
            if at < u64::from(UNIT_BYTES) {
                let store = agent.store.clone();
                let _ = spawn_blocking(move || store.discard(&digest)).await;
            }
            let Some(flow) = agent.flows.remove(&digest) else { return };
            if flow.started || flow.wanted {
                agent.post.send(refusal.to_hot(digest));
            }
            flow.finish(&Err(Rc::new(refusal)));
        });
    }

    /// Units have been hashed: into the record.
    pub(super) fn units(&self, digest: Digest, size: u64, first: u32, crc: &[u32]) {
        let found = self.flows.with(&digest, |flow| {
            flow.size = size;
            let headed = std::mem::replace(&mut flow.headed, true);
            Some((flow.record.clone()?, headed))
        });
        let Some(Some((file, headed))) = found else { return };
        let (offset, entries) = record::entries(first, crc);
        tokio_uring::spawn(async move {
            if !headed && let (Err(error), _) = file.write_all_at(record::header(size), 0).await {
                debug!(%digest, %error, "record");
            }
            if let (Err(error), _) = file.write_all_at(entries, offset).await {
                // The blob itself is not touched by this: only its resumption.
                debug!(%digest, %error, "record");
            }
        });
    }
}
