//! The state, its clock and the open streams behind one lock. Nothing here waits: a stream that is
//! full is dropped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind;

use super::metrics::Metrics;
use crate::api::Preheated;
use crate::limits::OUTGOING_MAX;
use crate::state::{Event, Order, Output, PreheatError, SessionId, Settings, State};

/// What a stream is sent.
pub(super) type Outgoing = Result<pb::ControlMessage, Status>;

/// Control's end of one open stream. Dropping it ends the stream in both directions.
#[derive(Debug)]
struct Link {
    outgoing: mpsc::Sender<Outgoing>,
    _open: oneshot::Sender<()>,
}

/// The stream's end of a [`Link`].
#[derive(Debug)]
pub(super) struct Ends {
    /// Which stream.
    pub(super) session: SessionId,
    /// What is to be sent; ends when control is done with the stream.
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
    /// Ready when control is done with the stream.
    pub(super) closed: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    links: HashMap<SessionId, Link>,
    next_session: u64,
    open: bool,
    outputs: Vec<Output>,
}

/// Shared by all streams and requests.
#[derive(Debug)]
pub(super) struct Core {
    started: Instant,
    heartbeat_ms: u32,
    inner: Mutex<Inner>,
    pub(super) metrics: Metrics,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        let inner = Inner {
            state: State::new(settings, 0),
            links: HashMap::new(),
            next_session: 0,
            open: true,
            outputs: Vec::new(),
        };
        Self {
            started: Instant::now(),
            heartbeat_ms: settings.heartbeat_ms,
            inner: Mutex::new(inner),
            metrics: Metrics::new(),
        }
    }

    pub(super) fn heartbeat_ms(&self) -> u32 {
        self.heartbeat_ms
    }

    /// Milliseconds since the start.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes in a stream; `None` once control is closing.
    pub(super) fn open(&self) -> Option<Ends> {
        let mut inner = self.lock();
        if !inner.open {
            return None;
        }
        let session = SessionId(inner.next_session);
        inner.next_session += 1;
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX as usize);
        let (open, closed) = oneshot::channel();
        inner.links.insert(session, Link { outgoing: sender, _open: open });
        Some(Ends { session, outgoing, closed })
    }

    /// What a node said.
    pub(super) fn apply(&self, session: SessionId, event: Event) {
        self.metrics.count_event(&event);
        let now_ms = self.now_ms();
        let mut inner = self.lock();
        let lost = matches!(event, Event::Lost);
        match &event {
            Event::Hello(hello) => tracing::info!(
                session = session.0,
                node = hello.node,
                address = hello.address,
                memberships = hello.memberships.len(),
                "attached"
            ),
            Event::Goodbye => tracing::info!(session = session.0, "said goodbye"),
            Event::Lost => tracing::info!(session = session.0, "stream ended"),
            event => tracing::debug!(session = session.0, ?event),
        }
        let Inner { state, outputs, .. } = &mut *inner;
        state.apply(session, event, now_ms, outputs);
        if lost {
            inner.links.remove(&session);
        }
        self.deliver(&mut inner, now_ms);
    }

    /// Answers a message that could not be understood.
    pub(super) fn refuse(&self, session: SessionId, refusal: pb::Refusal) {
        let now_ms = self.now_ms();
        let mut inner = self.lock();
        inner.outputs.push(Output::Send { session, message: Kind::Refusal(refusal) });
        self.deliver(&mut inner, now_ms);
    }

    /// Lets time pass.
    pub(super) fn tick(&self) {
        let now_ms = self.now_ms();
        let mut inner = self.lock();
        let Inner { state, outputs, .. } = &mut *inner;
        state.tick(now_ms, outputs);
        self.deliver(&mut inner, now_ms);
    }

    /// Tells nodes to pull an image.
    pub(super) fn preheat(&self, order: Order) -> Result<Preheated, PreheatError> {
        let now_ms = self.now_ms();
        let mut inner = self.lock();
        let Inner { state, outputs, .. } = &mut *inner;
        let started = state.preheat(order, now_ms, outputs);
        self.deliver(&mut inner, now_ms);
        started
    }

    /// Reads the state.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Ends all streams, and takes in no more.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.open = false;
        inner.links.clear();
    }

    /// Hands out what the state wants sent. A stream that does not take it is dropped, which may
    /// mean more to send.
    fn deliver(&self, inner: &mut Inner, now_ms: u64) {
        while !inner.outputs.is_empty() {
            let mut clogged = Vec::new();
            for output in std::mem::take(&mut inner.outputs) {
                match output {
                    Output::Send { session, message } => {
                        let Some(link) = inner.links.get(&session) else { continue };
                        self.metrics.count_message(&message);
                        log(session, &message);
                        let message = pb::ControlMessage { kind: Some(message) };
                        if link.outgoing.try_send(Ok(message)).is_err() {
                            clogged.push(session);
                        }
                    }
                    Output::End { session } => drop(inner.links.remove(&session)),
                }
            }
            for session in clogged {
                if inner.links.remove(&session).is_some() {
                    tracing::warn!(session = session.0, "dropped a node that does not read");
                    self.metrics.clogged.inc();
                    inner.state.apply(session, Event::Lost, now_ms, &mut inner.outputs);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(session: SessionId, message: &Kind) {
    match message {
        Kind::Refusal(pb::Refusal { image, reason }) => {
            tracing::info!(session = session.0, image, reason, "refused");
        }
        message => tracing::debug!(session = session.0, ?message),
    }
}
