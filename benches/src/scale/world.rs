//! The whole run: virtual time, the nodes, the network, control, and what happens in which order.

use std::collections::VecDeque;
use std::fmt::Write as _;

use xylem_control::limits::{HEARTBEAT_MS, REPORTERS_FAST_MAX};
use xylem_dataplane::relay::{Action, Event, FlowId};
use xylem_protocol::limits::TICK_MS;

use super::agenda::Agenda;
use super::control::{Control, Place, Word};
use super::fate::End;
use super::net::{Host, Link, Net, StreamId, Wire};
use super::node::{Node, Source};
use super::run::{MS_NS, Run, SECOND_NS};
use crate::sim::chance::Chance;

/// The registry's host; that of node `n` is `n + 1`.
pub(super) const REGISTRY: Host = 0;

/// Each node has one flow.
pub(super) const FLOW: FlowId = FlowId(0);

/// A run in which no byte has moved for so long while somebody waits is stuck, ns.
const STUCK_NS: u64 = 120 * SECOND_NS;

/// Who asked for the bytes of a stream, and for which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) node: u32,
    pub(super) lane: u8,
    pub(super) attempt: u32,
    pub(super) source: Source,
    /// Only this stripe.
    pub(super) stripe: Option<u8>,
    /// Offset in the blob of the first byte.
    pub(super) at: u64,
}

/// What can happen. Nodes are named by number, and sources by node, lane and attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Wire(Wire),
    /// A node wants the blob.
    Start(u32),
    /// Some nodes fail: which of the failures of the run it is.
    Failure(u32),
    /// Some nodes come: which of the run's late ones.
    Late(u32),
    /// A node ends, and another one comes.
    Churn,
    /// This second of the profile begins.
    Second(u32),
    /// A node's stream to control ends.
    Cut(u32, End),
    /// By now control knows that a node is gone.
    Left(u32),
    /// A node says to control that it is there.
    Beat(u32),
    /// A node tells control of its hops.
    Report(u32),
    /// Control looks at its clock.
    Clock,
    /// Control hears that a node joins.
    Joined(u32),
    /// The oldest letter of control is at its node.
    Told,
    /// A node waits for control no longer.
    Patience(u32),
    /// A node looks for a source.
    Connect(u32, u8, u32),
    /// A request is at its source.
    Asked(StreamId),
    /// The head of an answer is at who asked.
    Answered(StreamId),
    /// A source is lost.
    Lost(u32, u8, u32),
    /// A sender learns that nobody takes what it sends.
    Gone(StreamId),
    /// A node looks whether its source is silent.
    Watch(u32, u8, u32),
    /// A node has asked a silent peer whether it is alive, in vain.
    Stuck(u32, u32),
    Written(u32, u16),
    Hashed(u32, u16, u32),
    Finalized(u32),
    FileRead(u32, u16, u32),
    Tick(u32),
}

impl From<Wire> for Item {
    fn from(wire: Wire) -> Self {
        Self::Wire(wire)
    }
}

/// What is counted while a run goes on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Nodes that left or failed.
    pub(super) leaves: u64,
    /// Sources that were lost and replaced.
    pub(super) reparentings: u64,
    /// From the end of a source to the first byte of another, ns.
    pub(super) gaps_ns: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) run: Run,
    pub(super) chance: Chance,
    pub(super) agenda: Agenda<Item>,
    pub(super) net: Net,
    pub(super) nodes: Vec<Node>,
    /// By stream.
    pub(super) requests: Vec<Request>,
    /// What relays are to be told at this moment.
    pub(super) ready: VecDeque<(u32, Event)>,
    pub(super) control: Control,
    pub(super) control_free_ns: u64,
    /// What control has said and nodes have not heard.
    pub(super) mail: VecDeque<Place>,
    /// How often nodes tell of their hops, ms.
    pub(super) report_ms: u32,
    pub(super) counts: Counts,
    /// Nodes that have asked, or will, and have not got all.
    pub(super) waiting: usize,
    /// Misfortunes that are still to come, or that control has yet to learn of.
    pub(super) plans: usize,
    /// Nodes of a profile, oldest first, and when each was last used, seconds.
    pub(super) active: Vec<(u32, u32)>,
    /// When a byte moved last.
    pub(super) moved_ns: u64,
    actions: Vec<Action>,
}

impl World {
    pub(super) fn new(run: Run) -> Self {
        let mut net = Net::new(run.buffers());
        net.add(Link { up: run.registry_rate, down: run.registry_rate });
        let crowd = run.warm + run.nodes;
        let mut world = Self {
            chance: Chance::new(run.seed),
            agenda: Agenda::new(),
            net,
            nodes: Vec::new(),
            requests: Vec::new(),
            ready: VecDeque::new(),
            control: Control::new(run.shape),
            control_free_ns: 0,
            mail: VecDeque::new(),
            report_ms: if crowd > REPORTERS_FAST_MAX { HEARTBEAT_MS } else { HEARTBEAT_MS / 4 },
            counts: Counts::default(),
            waiting: 0,
            plans: 0,
            active: Vec::new(),
            moved_ns: 0,
            actions: Vec::new(),
            run,
        };
        world.set_up();
        world
    }

    /// Lets everything happen.
    ///
    /// # Panics
    /// If anything is not as it must be.
    pub(super) fn play(&mut self) {
        self.settle();
        while self.waiting > 0 || self.plans > 0 {
            let item = self.agenda.next().expect("something to happen while somebody waits");
            self.happen(item);
            self.settle();
        }
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Wire(Wire::Next(host)) => self.net.next(host, &mut self.agenda),
            Item::Wire(Wire::Arrived(stream, bytes)) => {
                if self.net.land(stream, bytes, self.agenda.now_ns()) {
                    self.arrived(stream);
                } else {
                    let node = self.requests[stream as usize].node;
                    let here = &mut self.nodes[node as usize];
                    here.lost_bytes += if here.is_up() { u64::from(bytes) } else { 0 };
                }
            }
            Item::Start(node) => self.start(node),
            Item::Failure(index) => self.fail(index),
            Item::Late(index) => self.come_late(index),
            Item::Churn => self.churn(),
            Item::Second(at_s) => self.second(at_s),
            Item::Left(node) => self.left(node),
            Item::Cut(node, end) => self.cut(node, end),
            // Its stream broke off before that was read.
            Item::Joined(node) if !self.nodes[node as usize].is_up() => {}
            Item::Joined(node) => self.say(node, Word::Join),
            Item::Beat(node) => self.beat(node),
            Item::Report(node) => self.report(node),
            Item::Clock => self.clock(),
            Item::Told => self.told(),
            Item::Patience(node) => self.placed(node),
            Item::Connect(node, lane, attempt) => {
                if self.nodes[node as usize].lanes[usize::from(lane)].attempt == attempt {
                    self.connect(node, lane);
                }
            }
            Item::Asked(stream) => self.asked(stream),
            Item::Answered(stream) => self.answered(stream),
            Item::Lost(node, lane, attempt) => self.lost(node, lane, attempt),
            Item::Gone(stream) => self.gone(stream),
            Item::Watch(node, lane, attempt) => self.watch(node, lane, attempt),
            Item::Stuck(node, peer) => self.stuck(node, peer),
            Item::Written(..)
            | Item::Hashed(..)
            | Item::Finalized(_)
            | Item::FileRead(..)
            | Item::Tick(_) => self.completed(item),
        }
    }

    /// Lets relays hear what there is to hear, until all is said.
    fn settle(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        loop {
            while let Some((node, event)) = self.ready.pop_front() {
                let here = &mut self.nodes[node as usize];
                let Some(relay) = here.relay.as_mut() else { continue };
                relay.apply(event, &mut actions);
                if let Some(audit) = &mut here.audit {
                    audit.event(event);
                    actions.iter().for_each(|&action| audit.action(action));
                    relay.check();
                }
                for action in actions.drain(..) {
                    self.act(node, action);
                }
                self.tick_if_needed(node);
            }
            let Some(stream) = self.net.next_roomy() else { break };
            self.has_room(stream);
        }
        self.actions = actions;
    }

    /// A relay has a tick while a flow waits for a slot or a reader for the file. All others would
    /// do nothing on theirs.
    fn tick_if_needed(&mut self, node: u32) {
        let here = &mut self.nodes[node as usize];
        let Some(relay) = here.relay.as_ref().filter(|_| here.has_flow() && !here.ticking) else {
            return;
        };
        let starved = here.lane_ids().any(|lane| here.is_starved(lane));
        let needed = starved || relay.readers_behind() > 0;
        if needed {
            here.ticking = true;
            let at_ns = self.next_tick_ns(node, self.agenda.now_ns() + 1);
            self.agenda.at(at_ns, Item::Tick(node));
        }
    }

    /// The first tick of a node's ring thread from then on. Clocks tick at times of their own.
    pub(super) fn next_tick_ns(&self, node: u32, from_ns: u64) -> u64 {
        next_of(node, TICK_MS * MS_NS, from_ns)
    }

    /// Somebody waits: is there still hope?
    pub(super) fn assert_moving(&self) {
        let stuck = self.agenda.now_ns() > self.moved_ns + STUCK_NS;
        assert!(!stuck, "nothing has moved for two minutes, but these wait:\n{}", self.waiters());
    }

    /// Who has not got all, and where each source stands.
    fn waiters(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_fetching()) {
            let _ = write!(text, "{index}, of {:?}:", node.branches);
            for lane in node.lane_ids().filter(|_| node.has_flow()) {
                let (edge, starved) = (node.relay().edge(FLOW, lane), node.is_starved(lane));
                let lane = &node.lanes[usize::from(lane)];
                let (source, receiving) = (lane.source, lane.receiving);
                let _ = write!(text, " [{edge} {source:?} {receiving:?} starved: {starved}]");
            }
            text.push('\n');
        }
        text
    }
}

/// The first time from then on at which something of a node happens that happens in periods.
pub(super) fn next_of(node: u32, period_ns: u64, from_ns: u64) -> u64 {
    let phase_ns = u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15) % period_ns;
    from_ns.saturating_sub(phase_ns).next_multiple_of(period_ns) + phase_ns
}
