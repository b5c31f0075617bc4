//! What befalls nodes: they come with the blob, come later, leave, fail, and have slow links.

use serde::Deserialize;
use xylem_control::limits::{
    HEARTBEAT_MS, HEARTBEATS_MISSED_MAX, LOST_HEARTBEATS_MAX, TICK_MAX_MS,
};
use xylem_dataplane::relay::Event;

use super::control::Word;
use super::net::Link;
use super::node::{LANES_MAX, Node, Phase, Source};
use super::run::{MS_NS, SECOND_NS};
use super::world::{FLOW, Item, World};

/// Up to so many nodes each relay has its audit, and is checked after each event.
const AUDITED_MAX: u32 = 32;

/// How long a sender's kernel believes in a host that does not answer, ns.
const SILENT_RECEIVER_NS: u64 = 15 * SECOND_NS;

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It says goodbye to control, and its sockets are closed.
    Goodbye,
    /// It is killed: its sockets are closed for it.
    Closed,
    /// It is cut off: nothing answers in its place.
    Silent,
}

/// Many nodes end at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// When, in units of S/B.
    pub at: f64,
    /// How many of those that are there, 0 to 1.
    pub share: f64,
    /// How.
    pub end: End,
}

/// Nodes come and go all the time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// So many of all nodes end in a second, 0 to 1, and as many come.
    pub per_s: f64,
    /// How long, in seconds.
    pub for_s: f64,
    /// How they end, each as often as it stands here.
    pub ends: Vec<End>,
}

/// Nodes that ask while others are in the middle of it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Late {
    /// How many.
    pub nodes: u32,
    /// When, in units of S/B.
    pub at: f64,
}

/// Links that are slower than the others.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// How many uplinks, of nodes of chance.
    pub uplinks: u32,
    /// What they have of the usual rate, 0 to 1.
    pub share: f64,
}

/// A part of a number of nodes.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1 of a few")]
fn part(share: f64, of: usize) -> usize {
    (share * of as f64).round() as usize
}

impl World {
    /// Those that have the blob, then all others, which ask at once in an order of chance.
    pub(super) fn set_up(&mut self) {
        // It has been there for a while, and knows that nobody else comes back.
        self.control.tick(0);
        for _ in 0..self.run.warm {
            self.add_warm();
        }
        let nodes = if self.run.profile.is_some() { 0 } else { self.run.nodes };
        let mut order: Vec<u32> = (0..nodes).map(|_| self.add_node()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, self.chance.index(last + 1));
        }
        if let Some(slow) = self.run.slow {
            for _ in 0..slow.uplinks.min(self.run.nodes) {
                let usual: Vec<u32> = self.up(|node| !node.slow);
                let chosen = usual[self.chance.index(usual.len())];
                self.nodes[chosen as usize].slow = true;
                let rate = self.run.rate;
                let up = super::run::share(slow.share, rate).max(1);
                self.net.set_link(chosen + 1, Link { up, down: rate });
            }
        }
        self.agenda.at(0, Item::Clock);
        for node in order {
            self.agenda.at(0, Item::Start(node));
        }
        let limit_ns = self.run.limit_ns() as f64;
        for index in 0..self.run.failures.len() {
            let at_ns = super::run::ns(self.run.failures[index].at * limit_ns);
            self.plan(at_ns, Item::Failure(super::net::index(index)));
        }
        for index in 0..self.run.late.len() {
            let at_ns = super::run::ns(self.run.late[index].at * limit_ns);
            self.plan(at_ns, Item::Late(super::net::index(index)));
        }
        if self.run.churn.is_some() {
            self.plan(0, Item::Churn);
        }
        if self.run.profile.is_some() {
            self.plan(0, Item::Second(0));
        }
    }

    fn plan(&mut self, at_ns: u64, item: Item) {
        self.agenda.at(at_ns, item);
        self.plans += 1;
    }

    fn add(&mut self) -> u32 {
        let rate = self.run.rate;
        let host = self.net.add(Link { up: rate, down: rate });
        let audited = self.run.nodes <= AUDITED_MAX;
        self.nodes.push(Node::new(self.run.slots, audited));
        self.attach(host - 1);
        host - 1
    }

    /// A node that will ask.
    pub(super) fn add_node(&mut self) -> u32 {
        self.waiting += 1;
        self.add()
    }

    /// A node that has the blob, and its place, since long.
    fn add_warm(&mut self) {
        let node = self.add();
        let here = &mut self.nodes[node as usize];
        (here.phase, here.sized, here.placed) = (Phase::Stored, true, true);
        (here.warm, here.told_complete) = (true, true);
        for word in [Word::Join, Word::Complete] {
            let places = self.control.hear(node, word, 0);
            self.settled(places);
        }
        self.ready.push_back((node, Event::Serve { flow: FLOW, size: self.run.size }));
    }

    /// The nodes that are up, and of which something is true.
    fn up(&self, which: impl Fn(&Node) -> bool) -> Vec<u32> {
        let nodes = (0..).zip(&self.nodes);
        nodes.filter(|(_, node)| node.is_up() && which(node)).map(|(index, _)| index).collect()
    }

    pub(super) fn fail(&mut self, index: u32) {
        let failure = self.run.failures[index as usize];
        self.plans -= 1;
        let mut up = self.up(|_| true);
        for _ in 0..part(failure.share, up.len()) {
            let chosen = up.swap_remove(self.chance.index(up.len()));
            self.end(chosen, failure.end);
        }
    }

    /// Nodes come that were not there.
    pub(super) fn come_late(&mut self, index: u32) {
        self.plans -= 1;
        for _ in 0..self.run.late[index as usize].nodes {
            let node = self.add_node();
            self.nodes[node as usize].late = true;
            self.start(node);
        }
    }

    /// One node comes for one that ends.
    pub(super) fn churn(&mut self) {
        let churn = self.run.churn.clone().expect("a plan");
        let period_ns = SECOND_NS as f64 / (churn.per_s * f64::from(self.run.nodes)).max(1e-6);
        let next_ns = self.agenda.now_ns() + super::run::ns(period_ns).max(1);
        if next_ns > super::run::ns(churn.for_s * SECOND_NS as f64) {
            self.plans -= 1;
        } else {
            self.agenda.at(next_ns, Item::Churn);
        }
        let up = self.up(|node| node.phase != Phase::Absent);
        if self.agenda.now_ns() == 0 || up.is_empty() {
            return;
        }
        let end = churn.ends[self.chance.index(churn.ends.len())];
        let chosen = up[self.chance.index(up.len())];
        self.end(chosen, end);
        let node = self.add_node();
        self.start(node);
    }

    /// A node ends.
    pub(super) fn end(&mut self, node: u32, end: End) {
        let now_ns = self.agenda.now_ns();
        let here = &mut self.nodes[node as usize];
        if matches!(here.phase, Phase::Absent | Phase::Fetching) {
            self.waiting -= 1;
        }
        here.phase = if end == End::Silent { Phase::Silent } else { Phase::Gone };
        here.times.ended = Some(now_ns);
        here.relay = None;
        let heartbeats = match end {
            End::Goodbye => 0,
            End::Closed => LOST_HEARTBEATS_MAX,
            End::Silent => HEARTBEATS_MISSED_MAX,
        };
        // Control looks at its clock now and then only.
        let noticed_ms = u64::from(heartbeats * HEARTBEAT_MS) + 2 * TICK_MAX_MS;
        self.plan(now_ns + noticed_ms * MS_NS, Item::Left(node));
        let cut_ns = if end == End::Closed { self.run.delay_ns } else { self.run.control_ns / 2 };
        self.agenda.after(cut_ns, Item::Cut(node, end));
        self.counts.leaves += 1;
        for lane in 0..LANES_MAX {
            let here = &mut self.nodes[node as usize];
            let Some(stream) = here.lanes[lane].stream.take() else { continue };
            let learned_ns = if end == End::Silent {
                self.net.vanish(stream, now_ns);
                SILENT_RECEIVER_NS
            } else {
                self.net.close(stream);
                self.run.delay_ns
            };
            self.agenda.after(learned_ns, Item::Gone(stream));
        }
        let here = &mut self.nodes[node as usize];
        let answers = std::mem::take(&mut here.answers).into_iter().flatten();
        let mut streams: Vec<u32> = answers.map(|answer| answer.stream).collect();
        streams.append(&mut here.waiting);
        for stream in streams {
            self.net.stop(stream);
            if end != End::Silent {
                let request = self.requests[stream as usize];
                // What was sent before comes before.
                let at_ns = (now_ns + self.run.delay_ns).max(self.net.last_arrival_ns(stream)) + 1;
                let lost = Item::Lost(request.node, request.lane, request.attempt);
                self.agenda.at(at_ns, lost);
            }
        }
    }

    /// A node that failed is left; from then on it has nothing until bytes come again.
    pub(super) fn note_gap(&mut self, node: u32, lane: u8, source: Source) {
        let Source::Peer(peer) = source else { return };
        let Some(ended_ns) = self.nodes[peer as usize].times.ended else { return };
        let lane = &mut self.nodes[node as usize].lanes[usize::from(lane)];
        lane.gap_from_ns.get_or_insert(ended_ns);
    }
}
