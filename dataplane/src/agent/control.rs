//! The one stream to control: says who this node is and what it needs, hears its places. Everything
//! else goes on when it is down.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tracing::{debug, info, warn};
use xylem_protocol::limits::{
    CONTROL_BACKOFF_MAX_MS, CONTROL_BACKOFF_MIN_MS, CONTROL_QUEUE_MAX, GOODBYE_MS,
};
use xylem_protocol::pb;
use xylem_protocol::pb::control_client::ControlClient;
use xylem_protocol::pb::node_message::Kind;

use super::Agent;
use super::hops::Said;
use super::patience::Patience;
use crate::oneline::chain;

/// Heartbeats when control names no period.
const HEARTBEAT_DEFAULT_MS: u32 = 1_000;

/// What waits to be sent, and whether there is a link.
#[derive(Debug, Default)]
pub(super) struct ControlLink {
    address: String,
    queue: RefCell<VecDeque<Kind>>,
    queued: Notify,
    connected: Cell<bool>,
    /// Whether control has answered the greeting on this link.
    greeted: Cell<bool>,
    patience: RefCell<Patience>,
    /// When that last changed, and why it is not.
    state: RefCell<LinkState>,
    /// Links so far: what is said of one is not said of the next.
    links: Cell<u64>,
    /// Set by the agent's end: say goodbye and stop.
    leaving: Cell<bool>,
    left: Notify,
}

/// Since when the link is as it is.
#[derive(Debug, Clone)]
pub(super) struct LinkState {
    pub(super) since: Instant,
    /// What ended it, or kept it from beginning.
    pub(super) error: Option<String>,
}

impl Default for LinkState {
    fn default() -> Self {
        Self { since: Instant::now(), error: None }
    }
}

/// Why the link ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("not a control address")]
    Address(#[source] tonic::transport::Error),
    #[error("cannot connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("control refuses the stream")]
    Attach(#[source] Box<tonic::Status>),
    #[error("link broke")]
    Broken(#[source] Box<tonic::Status>),
    #[error("control closed the link")]
    Closed,
}

impl ControlLink {
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), ..Self::default() }
    }

    /// Number of the link, or of the last one.
    pub(super) fn number(&self) -> u64 {
        self.links.get()
    }

    /// Since when there is a link, or none, and why not.
    pub(super) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    fn changed(&self, error: Option<String>) {
        let mut state = self.state.borrow_mut();
        // Tried again, and failed again.
        let is_same = error.is_some() && state.error.is_some();
        let since = if is_same { state.since } else { Instant::now() };
        *state = LinkState { since, error };
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether there is a link, and somebody at its other end: a process that is stopped accepts
    /// connections, too.
    pub(super) fn is_connected(&self) -> bool {
        self.greeted.get()
    }

    /// Whether an answer is worth waiting for. At this node's start the first one may be on its
    /// way.
    pub(super) fn is_expected_to_answer(&self) -> bool {
        let is_up = self.greeted.get() || self.connected.get() && self.links.get() == 1;
        is_up && !self.patience.borrow().is_stalled()
    }

    /// How long it is waited for, and what is known of it.
    pub(super) fn patience(&self) -> RefMut<'_, Patience> {
        self.patience.borrow_mut()
    }

    /// Sends while there is a link. Without one the message is not needed: the next link begins
    /// with everything.
    pub(super) fn send(&self, message: Kind) {
        if !self.connected.get() {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        if queue.len() == CONTROL_QUEUE_MAX {
            warn!("control is too slow; a message to it is dropped");
            return;
        }
        queue.push_back(message);
        self.queued.notify_one();
    }

    /// Says goodbye; returns when it is on its way or cannot be said.
    pub(super) async fn leave(&self) {
        self.leaving.set(true);
        if self.connected.get() {
            self.queue.borrow_mut().push_back(Kind::Goodbye(pb::Goodbye {}));
            self.queued.notify_one();
            let _ = timeout(Duration::from_millis(GOODBYE_MS), self.left.notified()).await;
        }
    }

    /// Keeps the link up; runs for as long as the agent.
    pub(super) async fn run(self: Rc<Self>, agent: Rc<Agent>) {
        let mut backoff_ms = CONTROL_BACKOFF_MIN_MS;
        let mut told = false;
        while !self.leaving.get() {
            let ended = self.attach(&agent).await;
            let was_connected = self.connected.replace(false);
            self.greeted.set(false);
            self.queue.borrow_mut().clear();
            self.left.notify_one();
            if was_connected {
                backoff_ms = CONTROL_BACKOFF_MIN_MS;
                told = false;
            }
            if let Err(error) = ended
                && !self.leaving.get()
            {
                let error = chain(&error);
                self.changed(Some(error.clone()));
                if told {
                    debug!(address = self.address, error, "no link to control");
                } else {
                    warn!(
                        address = self.address,
                        error, "no link to control; transfers go on without"
                    );
                    told = true;
                }
            }
            tokio::time::sleep(Duration::from_millis(jittered(backoff_ms))).await;
            backoff_ms = (backoff_ms * 2).min(CONTROL_BACKOFF_MAX_MS);
        }
    }

    /// One link, from connecting to its end.
    async fn attach(&self, agent: &Rc<Agent>) -> Result<(), LinkError> {
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(LinkError::Address)?;
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(LinkError::Connect)?;
        let (outbox, messages) = mpsc::channel(16);
        let mut queue = VecDeque::new();
        let (hello, joins) = agent.hello();
        queue.push_back(Kind::Hello(hello));
        queue.extend(joins.into_iter().map(Kind::Join));
        *self.queue.borrow_mut() = queue;
        self.connected.set(true);
        self.links.set(self.links.get() + 1);
        let greeting = Instant::now();
        // Hello has to be on its way before the response comes: control answers it, not the call.
        self.flush_one(&outbox).await;
        let attached = ControlClient::new(channel).attach(ReceiverStream::new(messages)).await;
        let mut inbox =
            attached.map_err(|status| LinkError::Attach(Box::new(status)))?.into_inner();
        info!(address = self.address, "linked to control");
        self.changed(None);
        let mut heartbeat = period(HEARTBEAT_DEFAULT_MS);
        let mut report = period(HEARTBEAT_DEFAULT_MS);
        let mut said = Said::default();
        loop {
            tokio::select! {
                biased;
                message = inbox.message() => {
                    let message = message.map_err(|status| LinkError::Broken(Box::new(status)))?;
                    let kind = message.ok_or(LinkError::Closed)?.kind;
                    self.patience().heard();
                    match kind {
                        Some(pb::control_message::Kind::Welcome(welcome)) => {
                            self.greeted.set(true);
                            self.patience().answered(greeting.elapsed());
                            heartbeat = period(welcome.heartbeat_ms);
                            report = period(welcome.report_ms);
                            agent.take_voucher_key(&welcome.voucher_key);
                        }
                        Some(kind) => take(agent, kind),
                        None => {}
                    }
                }
                left = self.flush(&outbox) => if left { break },
                _ = heartbeat.tick() => self.send(Kind::Heartbeat(agent.heartbeat())),
                _ = report.tick() => {
                    agent.tell_complete();
                    let reports = said.news(agent.hop_reports());
                    if !reports.is_empty() {
                        self.send(Kind::Hops(pb::HopReports { reports }));
                    }
                }
            }
        }
        // The end of our side of the stream; control ends its own when it has read the goodbye.
        drop(outbox);
        let drained = async { while let Ok(Some(_)) = inbox.message().await {} };
        let _ = timeout(Duration::from_millis(GOODBYE_MS / 2), drained).await;
        Ok(())
    }

    /// Waits for messages and sends them; true after the goodbye. Cancelled between messages only.
    async fn flush(&self, outbox: &mpsc::Sender<pb::NodeMessage>) -> bool {
        if self.queue.borrow().is_empty() {
            self.queued.notified().await;
        }
        self.flush_one(outbox).await
    }

    async fn flush_one(&self, outbox: &mpsc::Sender<pb::NodeMessage>) -> bool {
        let Ok(room) = outbox.reserve().await else { return false };
        let Some(kind) = self.queue.borrow_mut().pop_front() else { return false };
        let goodbye = matches!(kind, Kind::Goodbye(_));
        room.send(pb::NodeMessage { kind: Some(kind) });
        goodbye
    }
}

fn take(agent: &Rc<Agent>, kind: pb::control_message::Kind) {
    match kind {
        pb::control_message::Kind::Assignment(assignment) => {
            if let Some(image) = agent.trees.assign(&assignment) {
                agent.moved(&image, assignment.at_once);
            }
        }
        pb::control_message::Kind::Refusal(refusal) => {
            warn!(image = refusal.image, reason = refusal.reason, "control refuses");
            if let Ok(image) = refusal.image.parse() {
                agent.trees.refused(&image);
            }
        }
        pb::control_message::Kind::Preheat(order) => agent.preheat(order),
        pb::control_message::Kind::Welcome(_) => {}
    }
}

fn period(ms: u32) -> tokio::time::Interval {
    let mut interval = interval(Duration::from_millis(u64::from(ms.clamp(50, 60_000))));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Half to all of it: nodes that lost control together do not come back together.
fn jittered(ms: u64) -> u64 {
    ms / 2 + RandomState::new().hash_one(ms) % (ms / 2 + 1)
}
