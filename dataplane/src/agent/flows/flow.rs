//! One blob that is being fetched, and the table of them. State only.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use xylem_protocol::Digest;
use xylem_protocol::limits::UNIT_BYTES;

use super::Outcome;
use crate::agent::feed::Lent;
use crate::link::{Attempt, ToHot, first_attempt, lane_of};
use crate::oneline::chain;
use crate::origin::{Credentials, OriginError, Relayed, Repository};

/// Why a blob (or anything else) cannot be had, as it is told to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agent) struct Refusal {
    pub(in crate::agent) status: u16,
    pub(in crate::agent) code: &'static str,
    pub(in crate::agent) message: String,
    /// The registry's own answer, which is passed on.
    pub(in crate::agent) answer: Option<Rc<Relayed>>,
}

impl Refusal {
    pub(in crate::agent) fn new(status: u16, code: &'static str, message: String) -> Self {
        Self { status, code, message, answer: None }
    }

    /// No part of the node's own API has this path.
    pub(in crate::agent) fn nothing_at(path: &str) -> Self {
        Self::new(404, "UNSUPPORTED", format!("there is no {path} here"))
    }

    pub(in crate::agent) fn origin(error: &OriginError) -> Self {
        let answer = match error {
            OriginError::Denied { answer, .. } => answer.as_deref().cloned().map(Rc::new),
            _ => None,
        };
        let refusal = Self::new(error.status(), error.code("BLOB_UNKNOWN"), chain(error));
        Self { answer, ..refusal }
    }

    /// The same with the challenge of a registry's 401.
    pub(in crate::agent) fn challenged(self, challenge: Option<&str>) -> Self {
        let Some(challenge) = challenge else { return self };
        let answer = Relayed {
            status: self.status,
            content_type: None,
            challenges: vec![challenge.to_owned()],
            link: None,
            filters: None,
            body: Bytes::new(),
        };
        Self { answer: Some(Rc::new(answer)), ..self }
    }

    /// Header lines beside the usual ones: the registry's challenge.
    pub(in crate::agent) fn extra(&self) -> String {
        self.answer.as_deref().map_or(String::new(), relayed_lines)
    }

    pub(in crate::agent) fn to_hot(&self, digest: Digest) -> ToHot {
        let (extra, Self { status, code, message, .. }) = (self.extra(), self.clone());
        ToHot::Refuse { digest, status, code, message, extra }
    }
}

/// The header lines of a registry's answer that clients need.
pub(in crate::agent) fn relayed_lines(answer: &Relayed) -> String {
    let challenges = answer.challenges.iter().map(|value| ("WWW-Authenticate", value));
    let link = answer.link.iter().map(|value| ("Link", value));
    let filters = answer.filters.iter().map(|value| ("OCI-Filters-Applied", value));
    let lines = challenges.chain(link).chain(filters);
    lines.map(|(name, value)| format!("{name}: {}\r\n", header_safe(value))).collect()
}

/// A value that came from an upstream, fit for a header line.
pub(in crate::agent) fn header_safe(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).collect()
}

/// What is known of a blob's surroundings when it is asked for.
#[derive(Debug, Clone)]
pub(in crate::agent) struct FlowAsk {
    pub(in crate::agent) repository: Repository,
    pub(in crate::agent) image: Option<Digest>,
    /// The stripe that was asked for; `None`: all of it.
    pub(in crate::agent) stripe: Option<u8>,
    /// Nodes that wait for it, or for that stripe of it, below this one.
    pub(in crate::agent) path: Vec<String>,
}

impl FlowAsk {
    /// Nodes that wait for what a lane brings. In the other tree they may be above.
    pub(super) fn path_of(&self, lane: u8, striped: bool) -> &[String] {
        let is_other = striped && self.stripe.is_some_and(|stripe| stripe != lane);
        if is_other { &[] } else { &self.path }
    }
}

/// A lane of a blob that is being fetched: which flow, and which stripe (0 for everything).
#[derive(Debug, Clone, Copy)]
pub(in crate::agent) struct LaneKey {
    pub(in crate::agent) digest: Digest,
    pub(in crate::agent) serial: u64,
    pub(in crate::agent) lane: u8,
}

/// Where a lane's bytes come from, and what was tried.
#[derive(Debug)]
pub(in crate::agent) struct Lane {
    pub(super) attempt: Attempt,
    /// The try that is known to be lost.
    lost: Option<Attempt>,
    /// Where the bytes come from now.
    pub(in crate::agent) upstream: Arc<str>,
    /// Where that is, if it is a peer.
    pub(super) address: Option<SocketAddr>,
    /// Peers that were asked.
    pub(super) tried: Vec<Arc<str>>,
    pub(super) registry_tries: u32,
    /// A peer was left that is alive, since others may be quicker.
    pub(super) left_early: bool,
    /// Nobody was: peers are waited for.
    pub(super) patient: bool,
    pub(super) redirects: u32,
    /// Mirrors and tries before the present one.
    pub(super) turn: u32,
    /// With what the registry was asked.
    pub(super) credentials: Credentials,
    /// What the registry's source was asked for.
    pub(super) url: Option<reqwest::Url>,
    /// Offset in the blob of what comes next.
    pub(in crate::agent) at: u64,
    /// Where the last loss was.
    lost_at: u64,
    /// Where slots go that the ring thread lends.
    pub(super) feed: Option<mpsc::Sender<Lent>>,
}

impl Lane {
    fn new(lane: u8) -> Self {
        Self {
            attempt: first_attempt(lane),
            lost: None,
            upstream: Arc::from(""),
            address: None,
            tried: Vec::new(),
            registry_tries: 0,
            left_early: false,
            patient: false,
            redirects: 0,
            turn: 0,
            credentials: Credentials::Node,
            url: None,
            at: 0,
            lost_at: 0,
            feed: None,
        }
    }

    /// Whether its source has not been lost.
    pub(super) fn has_source(&self) -> bool {
        self.lost != Some(self.attempt)
    }

    /// Everybody may be asked again.
    pub(super) fn forget_tries(&mut self) {
        self.tried.clear();
        (self.registry_tries, self.redirects, self.lost_at) = (0, 0, 0);
        (self.left_early, self.patient) = (false, false);
    }
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(in crate::agent) struct Flow {
    /// Tells this flow from a later one of the same blob.
    pub(super) serial: u64,
    pub(super) ask: FlowAsk,
    /// Somebody reads it.
    pub(super) wanted: bool,
    /// It is being refused.
    pub(super) ending: bool,
    /// The ring thread has its file.
    pub(super) started: bool,
    /// Each stripe has a source of its own. Otherwise the first lane's brings everything.
    pub(super) striped: bool,
    /// The ring thread was told to stripe it.
    pub(super) splitting: bool,
    /// Bytes that had come when it was.
    pub(super) split_at: u64,
    /// Times that it was moved to another parent while its source was fine.
    pub(super) moves: u32,
    pub(in crate::agent) lanes: [Lane; 2],
    pub(super) registry_only: bool,
    /// The next source starts from the first byte.
    pub(super) restart: bool,
    /// What an earlier try hashed to.
    pub(super) mismatched: Option<Digest>,
    /// Why the last source was no good.
    pub(super) cause: Option<Refusal>,
    /// Bytes that are here.
    pub(in crate::agent) received: u64,
    /// Whole size; 0 while not known.
    pub(in crate::agent) size: u64,
    pub(super) record: Option<Rc<tokio_uring::fs::File>>,
    /// The record has its header.
    pub(super) headed: bool,
    pub(super) waiters: Vec<oneshot::Sender<Outcome>>,
}

impl Flow {
    pub(super) fn new(
        ask: FlowAsk,
        wanted: bool,
        waiter: Option<oneshot::Sender<Outcome>>,
    ) -> Self {
        Self {
            serial: 0,
            ask,
            wanted,
            ending: false,
            started: false,
            striped: false,
            splitting: false,
            split_at: u64::MAX,
            moves: 0,
            lanes: [Lane::new(0), Lane::new(1)],
            registry_only: false,
            restart: false,
            mismatched: None,
            cause: None,
            received: 0,
            size: 0,
            record: None,
            headed: false,
            waiters: waiter.into_iter().collect(),
        }
    }

    pub(in crate::agent) fn lane(&self, lane: u8) -> &Lane {
        &self.lanes[usize::from(lane)]
    }

    pub(in crate::agent) fn lane_mut(&mut self, lane: u8) -> &mut Lane {
        &mut self.lanes[usize::from(lane)]
    }

    /// The lanes in use.
    pub(in crate::agent) fn lanes(&self) -> &[Lane] {
        &self.lanes[..if self.striped { 2 } else { 1 }]
    }

    /// Names of those whom the bytes come from now.
    pub(in crate::agent) fn upstreams(&self) -> String {
        let names: Vec<&str> = self.lanes().iter().map(|lane| &*lane.upstream).collect();
        names.join(", ")
    }

    /// Each stripe is to have a source of its own; told once for each, with its edge.
    pub(super) fn split(&mut self, at: u64) {
        self.split_at = self.split_at.min(at);
        self.splitting = false;
        if !std::mem::replace(&mut self.striped, true) {
            self.lanes.iter_mut().for_each(Lane::forget_tries);
        }
    }

    /// Notes that a try is lost; false if that is known already or it is not the present try.
    pub(super) fn lose(&mut self, attempt: Attempt, at: u64) -> bool {
        let ending = self.ending;
        let lane = self.lane_mut(lane_of(attempt));
        if ending || attempt != lane.attempt || lane.lost == Some(attempt) {
            return false;
        }
        lane.lost = Some(attempt);
        lane.feed = None;
        lane.at = at;
        // A source that moves the blob on may be asked again.
        if at >= lane.lost_at + u64::from(UNIT_BYTES) {
            lane.registry_tries = 0;
            lane.redirects = 0;
            (lane.left_early, lane.patient) = (false, false);
        }
        lane.lost_at = at;
        true
    }

    /// The peer that a try asks, if it is the present one and asks a peer.
    pub(in crate::agent) fn peer_of(&self, attempt: Attempt) -> Option<(Arc<str>, SocketAddr)> {
        let lane = self.lane(lane_of(attempt));
        let is_present = attempt == lane.attempt && lane.lost != Some(attempt);
        Some((lane.upstream.clone(), lane.address.filter(|_| is_present)?))
    }

    /// The tries that ask a node now.
    pub(in crate::agent) fn attempts_at(&self, node: &str) -> impl Iterator<Item = Attempt> {
        self.lanes().iter().filter(move |lane| *lane.upstream == *node).map(|lane| lane.attempt)
    }

    /// The ring thread has given it up by itself: only readers that come from now on are to be
    /// told.
    pub(super) fn over_for_ring(&mut self) {
        self.started = false;
        self.wanted = false;
    }

    /// Where slots of a try go.
    pub(in crate::agent) fn feed_of(&self, attempt: Attempt) -> Option<mpsc::Sender<Lent>> {
        let lane = self.lane(lane_of(attempt));
        lane.feed.clone().filter(|_| attempt == lane.attempt)
    }

    pub(super) fn restart_from_registry(&mut self) {
        (self.registry_only, self.restart, self.striped) = (true, true, false);
        self.lanes[1].feed = None;
        let lane = &mut self.lanes[0];
        (lane.registry_tries, lane.redirects, lane.lost_at) = (0, 0, 0);
    }

    /// Tells everybody who waits.
    pub(super) fn finish(self, outcome: &Outcome) {
        for waiter in self.waiters {
            // Who no longer waits need not know.
            let _ = waiter.send(outcome.clone());
        }
    }
}

/// The blobs that are being fetched.
#[derive(Debug, Default)]
pub(in crate::agent) struct Flows {
    map: RefCell<HashMap<Digest, Flow>>,
    serial: Cell<u64>,
}

impl Flows {
    pub(super) fn insert(&self, digest: Digest, mut flow: Flow) -> u64 {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        flow.serial = serial;
        self.map.borrow_mut().insert(digest, flow);
        serial
    }

    pub(super) fn remove(&self, digest: &Digest) -> Option<Flow> {
        self.map.borrow_mut().remove(digest)
    }

    pub(in crate::agent) fn with<T>(
        &self,
        digest: &Digest,
        act: impl FnOnce(&mut Flow) -> T,
    ) -> Option<T> {
        self.map.borrow_mut().get_mut(digest).map(act)
    }

    /// As `with`, if it is still the same flow.
    pub(in crate::agent) fn with_serial<T>(
        &self,
        digest: &Digest,
        serial: u64,
        act: impl FnOnce(&mut Flow) -> T,
    ) -> Option<T> {
        self.map.borrow_mut().get_mut(digest).filter(|flow| flow.serial == serial).map(act)
    }

    /// As `with_serial`, for one lane.
    pub(in crate::agent) fn with_lane<T>(
        &self,
        key: LaneKey,
        act: impl FnOnce(&mut Lane) -> T,
    ) -> Option<T> {
        self.with_serial(&key.digest, key.serial, |flow| act(flow.lane_mut(key.lane)))
    }

    /// Visits all.
    pub(in crate::agent) fn for_each(&self, mut act: impl FnMut(&Digest, &Flow)) {
        for (digest, flow) in self.map.borrow().iter() {
            act(digest, flow);
        }
    }

    pub(in crate::agent) fn len(&self) -> usize {
        self.map.borrow().len()
    }
}
