//! What both ends of each hop count, as the probes and the relay would tell it to control.

use std::collections::BTreeMap;

use xylem_protocol::pb;

use super::control::name;
use super::node::{Node, Source};
use super::run::MS_NS;
use super::world::{Item, World};

/// As hop reports name it.
const REGISTRY: &str = "registry";

/// What one end of one stream has counted since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    /// When it was last asked, or when the stream began, ns.
    pub(super) from_ns: u64,
    /// Since when the sender has nothing to send.
    pub(super) idle_from_ns: Option<u64>,
    /// For how long it had nothing to send, ns.
    pub(super) idle_ns: u64,
    /// For how long its window had been closed in all, when it was last asked, ns.
    pub(super) closed_ns: u64,
}

/// What one end of a hop has counted, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    bytes: u64,
    active_ns: u64,
    sender_ns: u64,
    receiver_ns: u64,
}

/// A node's ends of its hops: what they have counted, and what was said last. By direction (whether
/// the node is the child) and the other end.
#[derive(Debug, Default)]
pub(super) struct Hops(BTreeMap<(bool, Option<u32>), (Hop, Hop)>);

impl Tally {
    /// The sender has something to send.
    pub(super) fn busy(&mut self, now_ns: u64) {
        self.idle_ns += self.idle_from_ns.take().map_or(0, |from_ns| now_ns - from_ns);
    }

    /// What it has counted by now, from a stream whose window was closed for so long in all.
    fn take(&mut self, now_ns: u64, closed_ns: u64) -> Hop {
        if self.idle_from_ns.is_some() {
            self.busy(now_ns);
            self.idle_from_ns = Some(now_ns);
        }
        let active_ns = now_ns - self.from_ns;
        let sender_ns = self.idle_ns.min(active_ns);
        let hop = Hop {
            bytes: self.bytes,
            active_ns,
            sender_ns,
            receiver_ns: (closed_ns - self.closed_ns).min(active_ns - sender_ns),
        };
        let idle_from_ns = self.idle_from_ns;
        *self = Self { from_ns: now_ns, idle_from_ns, closed_ns, ..Self::default() };
        hop
    }
}

impl Hops {
    fn add(&mut self, is_child: bool, peer: Option<u32>, more: Hop) {
        let (hop, _) = self.0.entry((is_child, peer)).or_default();
        hop.bytes += more.bytes;
        hop.active_ns += more.active_ns;
        hop.sender_ns += more.sender_ns;
        hop.receiver_ns += more.receiver_ns;
    }

    /// The reports that say something new.
    fn news(&mut self, node: u32, at_us: u64) -> Vec<pb::HopReport> {
        let changed = self.0.iter_mut().filter(|(_, (hop, said))| hop != said);
        let news = changed.map(|(&(is_child, peer), (hop, said))| {
            *said = *hop;
            let other = peer.map_or_else(|| REGISTRY.to_owned(), name);
            let (parent, child) = if is_child { (other, name(node)) } else { (name(node), other) };
            pb::HopReport {
                parent,
                child,
                from_child: is_child,
                relay_bytes: hop.bytes,
                at_us,
                held_us: (hop.active_ns - hop.sender_ns - hop.receiver_ns) / 1_000,
                ..pb::HopReport::default()
            }
        });
        news.collect()
    }
}

impl World {
    /// A sending end is over.
    pub(super) fn close_tally(&mut self, node: u32, stream: u32, tally: &mut Tally) {
        let (now_ns, child) = (self.agenda.now_ns(), self.requests[stream as usize].node);
        let hop = tally.take(now_ns, self.net.closed_ns(stream, now_ns));
        self.nodes[node as usize].hops.add(false, Some(child), hop);
    }

    /// A receiving end is over.
    pub(super) fn close_lane(&mut self, node: u32, lane: u8) {
        let now_ns = self.agenda.now_ns();
        let here = &mut self.nodes[node as usize];
        let lane = &mut here.lanes[usize::from(lane)];
        let Some(source) = lane.source else { return };
        let hop = lane.tally.take(now_ns, 0);
        here.hops.add(true, peer(source), hop);
    }

    /// What a node has to say of its hops by now.
    pub(super) fn reports(&mut self, node: u32) -> Vec<pb::HopReport> {
        let now_ns = self.agenda.now_ns();
        let Node { answers, hops, lanes, .. } = &mut self.nodes[node as usize];
        for answer in answers.iter_mut().flatten() {
            let closed_ns = self.net.closed_ns(answer.stream, now_ns);
            let child = self.requests[answer.stream as usize].node;
            hops.add(false, Some(child), answer.tally.take(now_ns, closed_ns));
        }
        for lane in lanes {
            if let Some(source) = lane.source {
                hops.add(true, peer(source), lane.tally.take(now_ns, 0));
            }
        }
        hops.news(node, now_ns / 1_000)
    }

    /// A node tells control of its hops, and again after a while.
    pub(super) fn report(&mut self, node: u32) {
        if !self.nodes[node as usize].is_up() {
            return;
        }
        self.agenda.after(u64::from(self.report_ms) * MS_NS, Item::Report(node));
        let news = self.reports(node);
        if !news.is_empty() {
            self.say(node, super::control::Word::Hops(news));
        }
    }
}

const fn peer(source: Source) -> Option<u32> {
    match source {
        Source::Peer(node) => Some(node),
        Source::Registry => None,
    }
}
