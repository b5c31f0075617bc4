//! What both ends of each hop count, as the probes and the relay would tell it to control.

use std::collections::BTreeMap;

use xylem_protocol::pb;

use super::control::name;
use super::net::{Net, StreamId};
use super::node::{Answer, Lane, Node, Source};
use super::run::MS_NS;
use super::world::{Item, World};

/// As hop reports name it.
const REGISTRY: &str = "registry";

/// What the sending end of a stream has counted since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    bytes: u64,
    /// For how long bytes waited for the network, ns.
    held_ns: u64,
}

/// What one end of a hop has counted; the receiving end does not know what was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    bytes: u64,
    held_ns: u64,
}

/// A node's ends of its hops: what they have counted, and what was said last. By direction (whether
/// the node is the child) and the other end.
#[derive(Debug, Default)]
pub(super) struct Hops(BTreeMap<(bool, Option<u32>), (Hop, Hop)>);

impl Sent {
    /// By now, as kernels count it: what has arrived, and for how long something had not though the
    /// window was open.
    fn now(net: &Net, stream: StreamId, now_ns: u64) -> Self {
        let (busy_ns, closed_ns) = (net.busy_ns(stream, now_ns), net.closed_ns(stream, now_ns));
        Self { bytes: net.carried(stream), held_ns: busy_ns.saturating_sub(closed_ns) }
    }

    /// What has come to it since then.
    fn since(self, then: Self) -> Hop {
        Hop { bytes: self.bytes - then.bytes, held_ns: self.held_ns.saturating_sub(then.held_ns) }
    }
}

impl Hops {
    fn add(&mut self, is_child: bool, peer: Option<u32>, more: Hop) {
        let (hop, _) = self.0.entry((is_child, peer)).or_default();
        hop.bytes += more.bytes;
        hop.held_ns += more.held_ns;
    }

    /// Adds what has come by a lane.
    fn add_came(&mut self, lane: &mut Lane) {
        if let Some(source) = lane.source {
            let hop = Hop { bytes: std::mem::take(&mut lane.came), ..Hop::default() };
            self.add(true, peer(source), hop);
        }
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
                held_us: hop.held_ns / 1_000,
                ..pb::HopReport::default()
            }
        });
        news.collect()
    }
}

impl World {
    /// A sending end is over.
    pub(super) fn close_sent(&mut self, node: u32, answer: Answer) {
        let Answer { stream, sent, .. } = answer;
        let hop = Sent::now(&self.net, stream, self.agenda.now_ns()).since(sent);
        let child = self.requests[stream as usize].node;
        self.nodes[node as usize].hops.add(false, Some(child), hop);
    }

    /// A receiving end is over.
    pub(super) fn close_lane(&mut self, node: u32, lane: u8) {
        let here = &mut self.nodes[node as usize];
        here.hops.add_came(&mut here.lanes[usize::from(lane)]);
    }

    /// What a node has to say of its hops by now.
    pub(super) fn reports(&mut self, node: u32) -> Vec<pb::HopReport> {
        let now_ns = self.agenda.now_ns();
        let Node { answers, hops, lanes, .. } = &mut self.nodes[node as usize];
        for answer in answers.iter_mut().flatten() {
            let sent = Sent::now(&self.net, answer.stream, now_ns);
            let child = self.requests[answer.stream as usize].node;
            hops.add(false, Some(child), sent.since(answer.sent));
            answer.sent = sent;
        }
        lanes.iter_mut().for_each(|lane| hops.add_came(lane));
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
