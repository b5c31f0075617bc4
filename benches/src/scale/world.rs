//! The whole run: virtual time, the nodes, the network, control, and what happens in which order.

use std::collections::VecDeque;

use xylem_control::limits::{HEARTBEAT_MS, TICK_MAX_MS};
use xylem_dataplane::relay::{Action, Event, FlowId};
use xylem_protocol::limits::{JOIN_WAIT_MS, TICK_MS};

use super::agenda::Agenda;
use super::control::{Control, Place};
use super::net::{Host, Link, Net, StreamId, Wire};
use super::node::{Node, Phase, Source};
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
    /// A node ends, and another one comes.
    Churn,
    /// This second of the profile begins.
    Second(u32),
    /// Control learns that a node is gone.
    Left(u32),
    /// Control learns that a node has all of the blob.
    Complete(u32),
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
    control_free_ns: u64,
    /// What control has said and nodes have not heard.
    mail: VecDeque<Place>,
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
                if self.net.land(stream, bytes) {
                    self.arrived(stream);
                } else {
                    let node = self.requests[stream as usize].node;
                    let here = &mut self.nodes[node as usize];
                    here.lost_bytes += if here.is_up() { u64::from(bytes) } else { 0 };
                }
            }
            Item::Start(node) => self.start(node),
            Item::Failure(index) => self.fail(index),
            Item::Churn => self.churn(),
            Item::Second(at_s) => self.second(at_s),
            Item::Left(node) => {
                self.plans -= 1;
                let places = self.control.leave(node);
                self.post(places);
            }
            // Its stream broke off before that was read.
            Item::Joined(node) if !self.nodes[node as usize].is_up() => {}
            Item::Joined(node) => {
                let places = self.control.join(node);
                self.post(places);
            }
            Item::Complete(node) => {
                if self.nodes[node as usize].is_up() {
                    let places = self.control.complete(node);
                    self.post(places);
                }
            }
            Item::Clock => {
                let places = self.control.tick(self.agenda.now_ns() / MS_NS);
                self.post(places);
                self.agenda.after(TICK_MAX_MS * MS_NS, Item::Clock);
            }
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

    pub(super) fn start(&mut self, node: u32) {
        let here = &mut self.nodes[node as usize];
        if !here.is_up() {
            return;
        }
        here.phase = Phase::Fetching;
        self.moved_ns = self.agenda.now_ns();
        here.times.asked = self.agenda.now_ns();
        self.agenda.after(self.run.control_ns / 2, Item::Joined(node));
        self.agenda.after(JOIN_WAIT_MS * MS_NS, Item::Patience(node));
    }

    /// Control has worked out places, and sends them when it has the time.
    fn post(&mut self, places: Vec<Place>) {
        let begin_ns = self.control_free_ns.max(self.agenda.now_ns());
        self.control_free_ns = begin_ns + self.run.control_message_ns;
        for place in places {
            self.mail.push_back(place);
            self.agenda.at(self.control_free_ns + self.run.control_ns / 2, Item::Told);
        }
    }

    fn told(&mut self) {
        let place = self.mail.pop_front().expect("a letter for each arrival");
        self.place(place);
    }

    /// Nodes know these places since long.
    pub(super) fn settled(&mut self, places: Vec<Place>) {
        for place in places {
            self.place(place);
        }
    }

    fn place(&mut self, place: Place) {
        let here = &mut self.nodes[place.node as usize];
        here.branches = place.branches;
        if here.placed {
            self.moved(place.node);
        } else {
            self.placed(place.node);
        }
    }

    /// A node knows its place, or waits for that no longer: now it fetches.
    fn placed(&mut self, node: u32) {
        let size = self.run.size;
        let here = &mut self.nodes[node as usize];
        if !std::mem::replace(&mut here.placed, true) && here.is_fetching() {
            here.striped = here.has_two_parents(size);
            let striped = here.striped;
            self.ready
                .push_back((node, Event::Fetch { flow: FLOW, resume: 0, size: None, striped }));
        }
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

    /// A node has all of the blob, and says so with its next heartbeat.
    pub(super) fn tell_complete(&mut self, node: u32) {
        let period_ns = u64::from(HEARTBEAT_MS) * MS_NS;
        let at_ns = next_of(node, period_ns, self.agenda.now_ns()) + self.run.control_ns / 2;
        self.agenda.at(at_ns, Item::Complete(node));
    }

    /// Somebody waits: is there still hope?
    pub(super) fn assert_moving(&self) {
        let stuck = self.agenda.now_ns() > self.moved_ns + STUCK_NS;
        assert!(!stuck, "{} nodes wait, and nothing has moved for two minutes", self.waiting);
    }
}

/// The first time from then on at which something of a node happens that happens in periods.
fn next_of(node: u32, period_ns: u64, from_ns: u64) -> u64 {
    let phase_ns = u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15) % period_ns;
    from_ns.saturating_sub(phase_ns).next_multiple_of(period_ns) + phase_ns
}
