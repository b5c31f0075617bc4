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
use crate::link::{Attempt, ToHot};
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
    /// Nodes that wait for it below this one.
    pub(in crate::agent) path: Vec<String>,
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
    pub(super) attempt: Attempt,
    /// The try that is known to be lost.
    lost: Option<Attempt>,
    /// Where the bytes come from now.
    pub(in crate::agent) upstream: Arc<str>,
    /// Where that is, if it is a peer.
    pub(super) address: Option<SocketAddr>,
    /// Peers that were asked.
    pub(super) tried: Vec<Arc<str>>,
    pub(super) registry_only: bool,
    pub(super) registry_tries: u32,
    pub(super) redirects: u32,
    /// Mirrors and tries before the present one.
    pub(super) turn: u32,
    /// With what the registry was asked.
    pub(super) credentials: Credentials,
    /// What the registry's source was asked for.
    pub(super) url: Option<reqwest::Url>,
    /// The next source starts from the first byte.
    pub(super) restart: bool,
    /// What an earlier try hashed to.
    pub(super) mismatched: Option<Digest>,
    /// Why the last source was no good.
    pub(super) cause: Option<Refusal>,
    /// Bytes that are here.
    pub(in crate::agent) at: u64,
    /// Where the last loss was.
    lost_at: u64,
    /// Whole size; 0 while not known.
    pub(in crate::agent) size: u64,
    pub(super) record: Option<Rc<tokio_uring::fs::File>>,
    /// The record has its header.
    pub(super) headed: bool,
    /// Where slots go that the ring thread lends.
    pub(super) feed: Option<mpsc::Sender<Lent>>,
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
            attempt: 0,
            lost: None,
            upstream: Arc::from(""),
            address: None,
            tried: Vec::new(),
            registry_only: false,
            registry_tries: 0,
            redirects: 0,
            turn: 0,
            credentials: Credentials::Node,
            url: None,
            restart: false,
            mismatched: None,
            cause: None,
            at: 0,
            lost_at: 0,
            size: 0,
            record: None,
            headed: false,
            feed: None,
            waiters: waiter.into_iter().collect(),
        }
    }

    /// Notes that a try is lost; false if that is known already or it is not the present try.
    pub(super) fn lose(&mut self, attempt: Attempt, at: u64) -> bool {
        if self.ending || attempt != self.attempt || self.lost == Some(attempt) {
            return false;
        }
        self.lost = Some(attempt);
        self.feed = None;
        self.at = at;
        // A source that moves the blob on may be asked again.
        if at >= self.lost_at + u64::from(UNIT_BYTES) {
            self.registry_tries = 0;
            self.redirects = 0;
        }
        self.lost_at = at;
        true
    }

    /// The peer that a try asks, if it is the present one and asks a peer.
    pub(in crate::agent) fn peer_of(&self, attempt: Attempt) -> Option<(Arc<str>, SocketAddr)> {
        let is_present = attempt == self.attempt && self.lost != Some(attempt);
        Some((self.upstream.clone(), self.address.filter(|_| is_present)?))
    }

    pub(in crate::agent) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The ring thread has given it up by itself: only readers that come from now on are to be
    /// told.
    pub(super) fn over_for_ring(&mut self) {
        self.started = false;
        self.wanted = false;
    }

    /// Where slots of a try go.
    pub(in crate::agent) fn feed_of(&self, attempt: Attempt) -> Option<mpsc::Sender<Lent>> {
        self.feed.clone().filter(|_| attempt == self.attempt)
    }

    pub(super) fn restart_from_registry(&mut self) {
        self.registry_only = true;
        self.restart = true;
        self.registry_tries = 0;
        self.redirects = 0;
        self.lost_at = 0;
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
