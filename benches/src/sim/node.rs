//! One node of the simulation: a relay, its audit, and what its driver knows of blobs and answers.

use xylem_dataplane::relay::{Action, Audit, Event, FlowId, ReaderId, Relay};

use super::net::{Host, StreamId, time_ns};
use super::plan::NodePlan;

/// Above so many flows and readers only every so many events are followed by a full check.
const CHECK_EVERY: u64 = 61;
/// See `CHECK_EVERY`.
const CHECK_ALL_MAX: usize = 16;

/// Where a blob stands at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody has asked.
    Absent,
    /// On its way.
    Fetching,
    /// Whole.
    Stored,
    /// Its disk refused it.
    Failed,
}

/// A blob at a node.
#[derive(Debug)]
pub(super) struct Blob {
    /// Where it stands.
    pub(super) phase: Phase,
    /// Its flow, while it is open.
    pub(super) flow: Option<FlowId>,
    /// Whether its size is known, so that readers may join.
    pub(super) known: bool,
    /// Where it comes from.
    pub(super) source: Option<StreamId>,
    /// Whether the source has answered.
    pub(super) connected: bool,
    /// Whether the relay has asked for a source.
    pub(super) wanted: bool,
    /// Place in the list of sources.
    pub(super) place: usize,
    /// The receive in flight asks for so many bytes.
    pub(super) receiving: Option<u32>,
    /// Whether its end is on the agenda.
    pub(super) ending: bool,
    /// Answers that wait for the size.
    pub(super) waiting: Vec<StreamId>,
    /// Offsets of wrong bytes that have been received.
    pub(super) taints: Vec<u64>,
    /// When something last came.
    pub(super) progress_ns: u64,
    /// Times that it was whole, but wrong.
    pub(super) mismatches: u32,
}

impl Blob {
    const fn new() -> Self {
        Self {
            phase: Phase::Absent,
            flow: None,
            known: false,
            source: None,
            connected: false,
            wanted: false,
            place: 0,
            receiving: None,
            ending: false,
            waiting: Vec::new(),
            taints: Vec::new(),
            progress_ns: 0,
            mismatches: 0,
        }
    }
}

/// An answer that is being given.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where to.
    pub(super) stream: StreamId,
    /// Of which blob.
    pub(super) blob: usize,
    /// The send in flight: bytes asked for, bytes accepted so far.
    pub(super) sending: Option<(u32, u32)>,
    /// Whether its end is on the agenda.
    pub(super) ending: bool,
    /// Whether it waits for room.
    pub(super) polling: bool,
    /// Offset in the blob of the next byte to be accepted.
    pub(super) position: u64,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    /// Its place in the network.
    pub(super) host: Host,
    /// What it is like.
    pub(super) plan: NodePlan,
    /// Whether it lives.
    pub(super) alive: bool,
    /// The code under test.
    pub(super) relay: Relay,
    /// Looks on.
    pub(super) audit: Audit,
    /// Blobs by index.
    pub(super) blobs: Vec<Blob>,
    /// By flow: its blob.
    pub(super) flows: Vec<Option<usize>>,
    /// By reader.
    pub(super) answers: Vec<Option<Answer>>,
    /// Sources, best first: parent, grandparent, …, the registry.
    pub(super) sources: Vec<Host>,
    /// Writes issued so far.
    pub(super) writes: u64,
    /// Bytes that links accepted from sends that then failed.
    pub(super) unreported_bytes: u64,
    disk_free_ns: u64,
    hash_free_ns: u64,
    events: u64,
}

impl Node {
    /// A node that holds nothing but what it resumes.
    pub(super) fn new(host: Host, plan: NodePlan, blobs: usize, sources: Vec<Host>) -> Self {
        Self {
            host,
            alive: true,
            relay: Relay::new(plan.slots),
            audit: Audit::new(plan.slots),
            plan,
            blobs: (0..blobs).map(|_| Blob::new()).collect(),
            flows: Vec::new(),
            answers: Vec::new(),
            sources,
            writes: 0,
            unreported_bytes: 0,
            disk_free_ns: 0,
            hash_free_ns: 0,
            events: 0,
        }
    }

    /// Lets an event happen; the audit has looked at it and at what follows.
    pub(super) fn apply(&mut self, event: Event) -> Vec<Action> {
        self.audit.event(event);
        let mut actions = Vec::new();
        self.relay.apply(event, &mut actions);
        for &action in &actions {
            self.audit.action(action);
        }
        self.events += 1;
        let small = self.flows.len() + self.answers.len() <= CHECK_ALL_MAX;
        if small || self.events.is_multiple_of(CHECK_EVERY) {
            self.relay.check();
        }
        actions
    }

    /// The lowest free flow id.
    pub(super) fn take_flow(&mut self, blob: usize) -> FlowId {
        FlowId(take(&mut self.flows, blob))
    }

    /// The lowest free reader id.
    pub(super) fn take_reader(&mut self, answer: Answer) -> ReaderId {
        ReaderId(take(&mut self.answers, answer))
    }

    /// The blob of a flow.
    pub(super) fn blob_of(&self, flow: FlowId) -> usize {
        self.flows[usize::from(flow.0)].expect("an open flow")
    }

    /// An answer in progress.
    pub(super) fn answer(&mut self, reader: ReaderId) -> Option<&mut Answer> {
        self.answers.get_mut(usize::from(reader.0)).and_then(Option::as_mut)
    }

    /// The reader that feeds a stream.
    pub(super) fn reader_of(&self, stream: StreamId) -> Option<ReaderId> {
        let feeds = |answer: &Option<Answer>| answer.as_ref().is_some_and(|a| a.stream == stream);
        let index = self.answers.iter().position(feeds)?;
        Some(ReaderId(u16::try_from(index).expect("an id")))
    }

    /// When the disk will have moved so many bytes.
    pub(super) fn disk_ns(&mut self, bytes: u32, now_ns: u64) -> u64 {
        let begin = now_ns.max(self.disk_free_ns);
        self.disk_free_ns = begin + time_ns(u64::from(bytes), self.plan.disk_rate);
        self.disk_free_ns + self.plan.disk_delay_ns
    }

    /// When the hash thread will have read so many bytes.
    pub(super) fn hash_ns(&mut self, bytes: u32, now_ns: u64) -> u64 {
        let begin = now_ns.max(self.hash_free_ns);
        self.hash_free_ns = begin + time_ns(u64::from(bytes), self.plan.hash_rate);
        self.hash_free_ns
    }
}

fn take<T>(table: &mut Vec<Option<T>>, value: T) -> u16 {
    let free = table.iter().position(Option::is_none);
    let index = free.unwrap_or_else(|| {
        table.push(None);
        table.len() - 1
    });
    table[index] = Some(value);
    u16::try_from(index).expect("an id")
}
