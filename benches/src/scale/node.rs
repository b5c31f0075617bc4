//! One node of the simulation: a relay, and what driver and agent know of its sources, its readers
//! and its one blob. State only.

use xylem_dataplane::relay::{Audit, ReaderId, Relay};
use xylem_protocol::limits::STRIPED_MIN;

use super::hops::{Hops, Sent};
use super::net::{StreamId, ns_of};
use super::world::FLOW;

/// Most sources of one flow at once: one for each stripe.
pub(super) const LANES_MAX: usize = 2;

/// Where a stripe comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Peer(u32),
    Registry,
}

/// One way in.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Counts the sources, so that what is late is known as late.
    pub(super) attempt: u32,
    /// Whether the relay has asked for a source.
    pub(super) wanted: bool,
    pub(super) source: Option<Source>,
    pub(super) stream: Option<StreamId>,
    /// Whether the source has answered.
    pub(super) connected: bool,
    /// Bytes that have come by it since control was last told.
    pub(super) came: u64,
    /// The receive in flight asks for so many bytes.
    pub(super) receiving: Option<u32>,
    /// When something last came.
    pub(super) since_ns: u64,
    /// Since when nothing comes because a source ended, ns.
    pub(super) gap_from_ns: Option<u64>,
    /// Peers that were asked once.
    pub(super) tried: Vec<u32>,
}

/// An answer that is being given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) stream: StreamId,
    /// The send in flight: bytes asked for, bytes accepted so far.
    pub(super) sending: Option<(u32, u32)>,
    /// Whether it waits for room.
    pub(super) polling: bool,
    /// What had gone by it when control was last told.
    pub(super) sent: Sent,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not asked.
    Absent,
    /// Its blob is on its way.
    Fetching,
    /// It has the blob, verified and written.
    Stored,
    /// It left, or it failed and its sockets were closed for it.
    Gone,
    /// It failed, and nothing answers in its place.
    Silent,
}

/// When what happened, ns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) asked: u64,
    pub(super) first_byte: Option<u64>,
    pub(super) stored: Option<u64>,
    pub(super) ended: Option<u64>,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) phase: Phase,
    /// Whether it had the blob from the start.
    pub(super) warm: bool,
    /// Whether its uplink is slower than the others.
    pub(super) slow: bool,
    /// Whether it came in the middle.
    pub(super) late: bool,
    /// The code under test; `None` when the node is gone.
    pub(super) relay: Option<Box<Relay>>,
    /// Looks on where the run is small.
    pub(super) audit: Option<Box<Audit>>,
    /// Whether control has said where the node stands, or the node waits for that no longer.
    pub(super) placed: bool,
    /// Parent, grandparent and so on in each tree, as control has said last.
    pub(super) branches: Vec<Vec<u32>>,
    /// Whether each stripe has a source of its own; if not, the first lane brings everything.
    pub(super) striped: bool,
    /// Times that it left a source because control named another one.
    pub(super) moves: u32,
    pub(super) lanes: [Lane; LANES_MAX],
    /// What it has counted of its hops.
    pub(super) hops: Hops,
    /// Whether control knows that it has the blob.
    pub(super) told_complete: bool,
    /// Whether the size is known, so that readers may join.
    pub(super) sized: bool,
    /// Streams that wait for the size.
    pub(super) waiting: Vec<StreamId>,
    /// By reader.
    pub(super) answers: Vec<Option<Answer>>,
    /// Peers that are not to be asked, and until when, ns.
    pub(super) avoided: Vec<(u32, u64)>,
    /// Whether a tick is on the agenda.
    pub(super) ticking: bool,
    pub(super) times: Times,
    /// Bytes that the node was sent and could not use.
    pub(super) lost_bytes: u64,
    disk_free_ns: u64,
    hash_free_ns: u64,
}

impl Node {
    /// A node that has nothing.
    pub(super) fn new(slots: u16, audited: bool) -> Self {
        Self {
            phase: Phase::Absent,
            warm: false,
            slow: false,
            late: false,
            relay: Some(Box::new(Relay::new(slots))),
            audit: audited.then(|| Box::new(Audit::new(slots))),
            placed: false,
            branches: Vec::new(),
            striped: false,
            moves: 0,
            lanes: Default::default(),
            hops: Hops::default(),
            told_complete: false,
            sized: false,
            waiting: Vec::new(),
            answers: Vec::new(),
            avoided: Vec::new(),
            ticking: false,
            times: Times::default(),
            lost_bytes: 0,
            disk_free_ns: 0,
            hash_free_ns: 0,
        }
    }

    /// Whether it runs.
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Absent | Phase::Fetching | Phase::Stored)
    }

    /// Whether it wants the blob and has it not.
    pub(super) fn is_fetching(&self) -> bool {
        self.phase == Phase::Fetching
    }

    /// Whether the relay of a node that is up knows of the blob.
    pub(super) fn has_flow(&self) -> bool {
        self.warm || self.placed && self.is_fetching() || self.phase == Phase::Stored
    }

    /// The lanes in use.
    pub(super) fn lane_ids(&self) -> std::ops::Range<u8> {
        0..if self.striped { 2 } else { 1 }
    }

    /// Whether each stripe is to have a source of its own, by the agent's rule.
    pub(super) fn has_two_parents(&self, size: u64) -> bool {
        let parent = |branch: &Vec<u32>| branch.first().copied();
        match &self.branches[..] {
            [first, second] => size >= STRIPED_MIN && parent(first) != parent(second),
            _ => false,
        }
    }

    /// The tree by which a lane's bytes come: by the first one where they come whole.
    pub(super) fn branch(&self, lane: u8) -> &[u32] {
        self.branches.get(usize::from(lane)).map_or(&[], Vec::as_slice)
    }

    /// Whether a lane wants bytes and has no slot for them.
    pub(super) fn is_starved(&self, lane: u8) -> bool {
        self.relay().is_starved(FLOW, lane)
    }

    /// The relay of a node that is up.
    pub(super) fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("a node that is up")
    }

    /// An answer in progress.
    pub(super) fn answer(&mut self, reader: ReaderId) -> &mut Answer {
        self.answers[usize::from(reader.0)].as_mut().expect("an answer")
    }

    /// Puts an answer into the lowest free place.
    pub(super) fn take_reader(&mut self, stream: StreamId) -> ReaderId {
        let answer = Answer { stream, sending: None, polling: false, sent: Sent::default() };
        let free = self.answers.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.answers.push(None);
            self.answers.len() - 1
        });
        self.answers[index] = Some(answer);
        ReaderId(u16::try_from(index).expect("few readers"))
    }

    /// Whether a peer is not to be asked now.
    pub(super) fn avoids(&self, peer: u32, now_ns: u64) -> bool {
        self.avoided.iter().any(|&(other, until_ns)| other == peer && now_ns < until_ns)
    }

    /// Does not ask a peer until then.
    pub(super) fn avoid(&mut self, peer: u32, until_ns: u64) {
        self.avoided.retain(|&(other, _)| other != peer);
        self.avoided.push((peer, until_ns));
    }

    /// When the disk will have moved so many bytes.
    pub(super) fn disk_ns(&mut self, bytes: u32, rate: u64, delay_ns: u64, now_ns: u64) -> u64 {
        self.disk_free_ns = self.disk_free_ns.max(now_ns) + ns_of(u64::from(bytes), rate);
        self.disk_free_ns + delay_ns
    }

    /// When the hash thread will have read so many bytes.
    pub(super) fn hash_ns(&mut self, bytes: u32, rate: u64, now_ns: u64) -> u64 {
        self.hash_free_ns = self.hash_free_ns.max(now_ns) + ns_of(u64::from(bytes), rate);
        self.hash_free_ns
    }
}
