//! One run: what is given, and what came of it.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::control::Shape;
use super::fate::{Churn, Failure, Late, Slow};
use super::mesh::{self, Mesh};
use super::net::Buffers;
use super::node::{Node, Times};
use super::profile::Profile;
use super::world::{FLOW, REGISTRY, World};

/// One millisecond, ns.
pub(super) const MS_NS: u64 = 1_000_000;
/// One second, ns.
pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// A time, rounded; negative ones are none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
pub(super) fn ns(ns: f64) -> u64 {
    ns.round() as u64
}

/// A part of a rate.
pub(super) fn share(share: f64, of: u64) -> u64 {
    ns(share * of as f64)
}

/// All that decides a run. Rates in bytes per second.
#[derive(Clone, Debug)]
pub struct Run {
    /// How nodes get the blob from each other.
    pub shape: Shape,
    /// How many nodes ask at time 0.
    pub nodes: u32,
    /// How many nodes beside those have the blob already.
    pub warm: u32,
    /// Whose uplinks are slower.
    pub slow: Option<Slow>,
    /// When nodes fail.
    pub failures: Vec<Failure>,
    /// Who comes in the middle.
    pub late: Vec<Late>,
    /// How nodes come and go.
    pub churn: Option<Churn>,
    /// How many nodes there are over time, instead of all at once; `nodes` is its peak.
    pub profile: Option<Profile>,
    /// How a mesh works, where the shape is one.
    pub mesh: Mesh,
    /// Bytes of the blob.
    pub size: u64,
    /// Of each node's uplink, and of its downlink.
    pub rate: u64,
    /// Of the registry's uplink.
    pub registry_rate: u64,
    /// What chance is drawn from.
    pub seed: u64,
    /// One way between two hosts, ns.
    pub delay_ns: u64,
    /// How long a byte is in a relay, ns.
    pub residence_ns: u64,
    /// How long a request is at a source before it is answered, ns.
    pub ask_ns: u64,
    /// From a message to control to its answer, ns.
    pub control_ns: u64,
    /// How long control works at one message, ns.
    pub control_message_ns: u64,
    /// What takes one turn on a link, bytes.
    pub chunk: u64,
    /// A socket's send buffer, and its window, bytes.
    pub buffer: u64,
    /// Slots of each relay.
    pub slots: u16,
    /// Of a hash thread.
    pub hash_rate: u64,
    /// Of a disk, and how long it takes beside, ns.
    pub disk_rate: u64,
    /// See [`Run::disk_rate`].
    pub disk_ns: u64,
}

impl Run {
    /// A blob to some nodes at once, all else as usual.
    pub fn new(shape: Shape, nodes: u32, size: u64, rate: u64) -> Self {
        Self {
            shape,
            nodes,
            warm: 0,
            slow: None,
            failures: Vec::new(),
            late: Vec::new(),
            churn: None,
            profile: None,
            mesh: Mesh::default(),
            size,
            rate,
            registry_rate: rate,
            seed: 1,
            delay_ns: 200_000,
            residence_ns: 50_000,
            ask_ns: 200_000,
            control_ns: MS_NS,
            control_message_ns: 20_000,
            chunk: 64 << 10,
            buffer: 1 << 20,
            slots: 8,
            hash_rate: 1_900_000_000,
            disk_rate: 1_000_000_000,
            disk_ns: 100_000,
        }
    }

    /// The time that one copy takes over one link: S/B.
    pub(super) const fn limit_ns(&self) -> u64 {
        super::net::ns_of(self.size, self.rate)
    }

    pub(super) const fn buffers(&self) -> Buffers {
        Buffers {
            chunk: self.chunk,
            send: self.buffer,
            window: self.buffer,
            delay_ns: self.delay_ns + self.residence_ns,
        }
    }
}

/// What came of a run. Times in ns.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was given.
    pub run: Run,
    /// From each node's request to its first byte, sorted.
    pub first_bytes_ns: Vec<u64>,
    /// From each node's request to its having the blob, verified and written, sorted. Nodes that
    /// ended before are left out.
    pub stored_ns: Vec<u64>,
    /// The same, of those who did not come late and whose uplink is as fast as usual.
    pub usual_ns: Vec<u64>,
    /// The same, of those who came late.
    pub late_ns: Vec<u64>,
    /// From the end of a source to the first byte of another, for each node that read from it,
    /// sorted.
    pub gaps_ns: Vec<u64>,
    /// Nodes that are there at the end; all of them have the blob.
    pub staying: usize,
    /// Bytes that the registry sent.
    pub registry_bytes: u64,
    /// Bytes that nodes were sent and could not use.
    pub duplicate_bytes: u64,
    /// Sources that were replaced by others.
    pub reparentings: u64,
    /// Nodes that left or failed.
    pub leaves: u64,
    /// Edges to staying nodes that control changed for that.
    pub moved: u64,
    /// Times that a relay took a reader off its edge.
    pub detached: u64,
    /// Things that happened.
    pub steps: u64,
}

impl Outcome {
    /// That of a run in which nothing has happened.
    pub(super) const fn nothing(run: Run) -> Self {
        Self {
            run,
            first_bytes_ns: Vec::new(),
            stored_ns: Vec::new(),
            usual_ns: Vec::new(),
            late_ns: Vec::new(),
            gaps_ns: Vec::new(),
            staying: 0,
            registry_bytes: 0,
            duplicate_bytes: 0,
            reparentings: 0,
            leaves: 0,
            moved: 0,
            detached: 0,
            steps: 0,
        }
    }

    /// The longest time from a node's request to its having the blob; 0 if nobody has it.
    pub fn makespan_ns(&self) -> u64 {
        self.stored_ns.last().copied().unwrap_or(0)
    }
}

/// Plays a run to its end.
///
/// # Panics
/// If a byte is lost or made, or nothing moves any more: both are faults in what is simulated, or
/// in the simulation.
pub fn run(run: Run) -> Outcome {
    if run.shape == Shape::Mesh {
        return mesh::play(run);
    }
    let mut world = World::new(run);
    world.play();
    world.assert_conserved();
    world.outcome()
}

/// Plays many runs on all cores; the outcomes come in the order of the runs.
///
/// # Panics
/// As [`run`].
pub fn run_all(runs: &[Run]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = runs.get(index) else { return done };
            done.push((index, run(one.clone())));
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores.min(runs.len())).map(|_| scope.spawn(work)).collect();
        let mut done: Vec<_> = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|why| resume_unwind(why)))
            .collect();
        done.sort_by_key(|&(index, _)| index);
        done.into_iter().map(|(_, outcome)| outcome).collect()
    })
}

impl World {
    /// What hosts sent is what nodes received, and what was in vain.
    fn assert_conserved(&self) {
        let hosts = 0..=super::net::index(self.nodes.len());
        let sent: u64 = hosts.map(|host| self.net.sent(host)).sum();
        let mut received = 0;
        for node in &self.nodes {
            received += node.lost_bytes;
            let Some(relay) = &node.relay else { continue };
            assert_eq!(relay.received_bytes(FLOW), self.run.size, "a node has not got all");
            received += relay.totals().received;
            let fetched = node.audit.as_ref().filter(|_| !node.warm);
            assert!(fetched.is_none_or(|audit| audit.is_stored(FLOW)), "stored, but not whole");
        }
        // What those had got that ended went with them.
        let ended = self.nodes.iter().any(|node| node.times.ended.is_some());
        assert!(if ended { sent >= received } else { sent == received }, "bytes lost or made");
    }

    fn outcome(self) -> Outcome {
        let staying = || self.nodes.iter().filter(|node| node.is_up());
        let since = |at: Option<u64>, times: Times| at.map(|at| at - times.asked);
        let stored = |node: &Node| since(node.times.stored, node.times);
        let usual = self.nodes.iter().filter(|node| !node.slow && !node.late);
        let late = self.nodes.iter().filter(|node| node.late);
        let firsts = self.nodes.iter().filter_map(|node| since(node.times.first_byte, node.times));
        Outcome {
            first_bytes_ns: sorted(firsts),
            stored_ns: sorted(self.nodes.iter().filter_map(stored)),
            usual_ns: sorted(usual.filter_map(stored)),
            late_ns: sorted(late.filter_map(stored)),
            gaps_ns: sorted(self.counts.gaps_ns.iter().copied()),
            staying: staying().count(),
            registry_bytes: self.net.sent(REGISTRY),
            duplicate_bytes: self.nodes.iter().map(|node| node.lost_bytes).sum(),
            reparentings: self.counts.reparentings,
            leaves: self.counts.leaves,
            moved: self.control.moved,
            detached: staying().map(|node| node.relay().totals().detached).sum(),
            steps: self.agenda.steps(),
            run: self.run,
        }
    }
}

pub(super) fn sorted(times: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    times
}
