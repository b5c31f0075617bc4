//! The world of a run: its clock, what is on the agenda, and whose turn it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use xylem_dataplane::relay::{Event, FlowId, ReaderId};
use xylem_dataplane::ring::Slot;
use xylem_protocol::limits::TICK_MS;

use super::chance::Chance;
use super::client::Client;
use super::net::{Host, Net, StreamId, Wire};
use super::node::Node;
use super::plan::{MS_NS, Plan, SECOND_NS};

/// Without progress for so long, a run is stuck.
const STUCK_NS: u64 = 30 * SECOND_NS;

/// Who is at the receiving end of a stream, and what it asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) who: Asker,
    pub(super) blob: usize,
    pub(super) at: u64,
    pub(super) end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Node(usize),
    Client(usize),
}

/// What will happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    Wire(Wire),
    /// A node begins to fetch all blobs.
    Start(usize),
    /// A node dies.
    Death(usize),
    Tick(usize),
    /// A request reaches the asked host.
    Asked(StreamId),
    /// The head of the answer reaches the asker.
    Answered(StreamId),
    /// The receiver learns that the stream is over.
    Reset(StreamId),
    /// A connection breaks.
    Break(StreamId),
    /// The sender learns that the receiver has gone.
    Gone(StreamId),
    /// A node has bytes to receive, or its receive is cancelled.
    Receive(usize, FlowId),
    Cancelled(usize, FlowId),
    Written(usize, FlowId, Slot, bool),
    Hashed(usize, FlowId, Slot, u32),
    Finalized(usize, FlowId),
    Restart(usize, FlowId),
    Reconnect(usize, usize),
    Sent(usize, ReaderId),
    FileRead(usize, ReaderId, u32),
    Writable(usize, ReaderId),
    ClientStart(usize),
    ClientDrain(usize),
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Nodes.
    pub nodes: usize,
    /// Nodes that died.
    pub died: usize,
    /// Virtual time, ns.
    pub time_ns: u64,
    /// Items of the agenda that happened.
    pub items: u64,
    /// Bytes that nodes received.
    pub received_bytes: u64,
    /// Bytes that the registry sent.
    pub registry_bytes: u64,
    /// Bytes of all blobs together.
    pub blob_bytes: u64,
    /// Readers taken off the edge.
    pub detached: u64,
    /// Sources lost and replaced.
    pub failovers: u64,
    /// Wrong digests.
    pub mismatches: u64,
    /// Clients that got all they asked for.
    pub clients: usize,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) chance: Chance,
    pub(super) now_ns: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, Entry)>>,
    order: u64,
    pub(super) net: Net,
    /// By stream.
    pub(super) requests: Vec<Request>,
    /// By stream: offsets of wrong bytes in it.
    pub(super) taints: Vec<Vec<u64>>,
    pub(super) registry: Host,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    /// How many more wrong bytes the registry may send.
    pub(super) corruptions: u32,
    pub(super) failovers: u64,
    pub(super) mismatches: u64,
    /// Counts what moves a run forward.
    pub(super) progress: u64,
    /// The run is over: nobody asks anew.
    pub(super) closing: bool,
    pub(super) wires: Vec<(u64, Wire)>,
}

/// Compares as equal always: time and order decide.
#[derive(Debug)]
struct Entry(Item);

impl PartialEq for Entry {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// Runs a plan to its end.
///
/// # Panics
/// If anything is not as it must be: that is what the simulator is for.
pub fn run(plan: Plan) -> Report {
    let mut world = World::new(plan);
    let mut items = 0;
    let (mut seen, mut seen_ns) = (0, 0);
    while let Some(Reverse((at_ns, _, Entry(item)))) = world.agenda.pop() {
        assert!(at_ns >= world.now_ns, "time runs backwards");
        world.now_ns = at_ns;
        items += 1;
        world.happen(item);
        if world.progress != seen {
            (seen, seen_ns) = (world.progress, at_ns);
        }
        if !world.closing && matches!(item, Item::Tick(_)) {
            if world.is_finished() {
                world.assert_finished();
                world.close();
            } else {
                assert!(at_ns < seen_ns + STUCK_NS, "stuck: {}", world.describe());
            }
        }
    }
    // Without a living node there are no ticks.
    let finished = world.closing || world.is_finished();
    assert!(finished, "nothing left to do, but not finished: {}", world.describe());
    world.assert_closed();
    world.report(items)
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut net = Net::default();
        let registry = net.add(plan.registry);
        let hosts: Vec<Host> = plan.nodes.iter().map(|node| net.add(node.link)).collect();
        let mut nodes = Vec::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let mut sources = Vec::new();
            let mut above = index;
            while above > 0 {
                above = (above - 1) / 2;
                sources.push(hosts[above]);
            }
            sources.push(registry);
            nodes.push(Node::new(hosts[index], node.clone(), plan.blobs.len(), sources));
        }
        let clients: Vec<Client> =
            plan.clients.iter().map(|client| Client::new(net.add(client.link), client)).collect();
        let mut world = Self {
            chance: Chance::new(plan.seed ^ 0x5eed),
            now_ns: 0,
            agenda: BinaryHeap::new(),
            order: 0,
            net,
            requests: Vec::new(),
            taints: Vec::new(),
            registry,
            nodes,
            clients,
            corruptions: plan.corruptions,
            failovers: 0,
            mismatches: 0,
            progress: 0,
            closing: false,
            wires: Vec::new(),
            plan,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        for index in 0..self.nodes.len() {
            let plan = &self.nodes[index].plan;
            let (start_ns, death) = (plan.start_ns, plan.death);
            self.at(start_ns, Item::Start(index));
            let phase_ns = self.chance.within(0, TICK_MS * MS_NS);
            self.at(phase_ns, Item::Tick(index));
            if let Some((death_ns, _)) = death {
                self.at(death_ns, Item::Death(index));
            }
        }
        for index in 0..self.clients.len() {
            self.at(self.plan.clients[index].start_ns, Item::ClientStart(index));
        }
    }

    /// Puts something on the agenda. What is due at the same time happens in the order in which it
    /// was put there.
    pub(super) fn at(&mut self, at_ns: u64, item: Item) {
        self.order += 1;
        self.agenda.push(Reverse((at_ns, self.order, Entry(item))));
    }

    pub(super) fn after(&mut self, delay_ns: u64, item: Item) {
        self.at(self.now_ns + delay_ns, item);
    }

    /// Puts what the network wants on the agenda.
    pub(super) fn flush_wires(&mut self) {
        let mut wires = std::mem::take(&mut self.wires);
        for (at_ns, wire) in wires.drain(..) {
            self.at(at_ns, Item::Wire(wire));
        }
        self.wires = wires;
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Wire(wire) => self.wire(wire),
            Item::Start(node) => self.start(node),
            Item::Death(node) => self.die(node),
            Item::Tick(node) => self.tick(node),
            Item::Asked(stream) => self.asked(stream),
            Item::Answered(stream) => self.answered(stream),
            Item::Reset(stream) => self.reset(stream),
            Item::Gone(stream) => self.gone(stream),
            Item::Break(stream) => self.break_stream(stream),
            Item::ClientStart(client) => self.client_start(client),
            Item::ClientDrain(client) => self.client_drain(client),
            Item::Reconnect(node, blob) => self.connect(node, blob),
            Item::Receive(node, ..)
            | Item::Cancelled(node, ..)
            | Item::Written(node, ..)
            | Item::Hashed(node, ..)
            | Item::Finalized(node, ..)
            | Item::Restart(node, ..)
            | Item::Sent(node, ..)
            | Item::FileRead(node, ..)
            | Item::Writable(node, ..) => {
                if self.nodes[node].alive {
                    self.completed(node, item);
                }
            }
        }
    }

    fn wire(&mut self, wire: Wire) {
        match wire {
            Wire::Next(host) => self.net.next(host, self.now_ns, &mut self.wires),
            Wire::Before(stream, bytes) => {
                self.net.before(stream, bytes, self.now_ns, &mut self.wires);
                self.has_room(stream);
            }
            Wire::Arrived(stream, bytes) => {
                if self.net.arrived(stream, bytes) {
                    self.progress += 1;
                    match self.requests[stream].who {
                        Asker::Node(node) => self.has_bytes(node, stream),
                        Asker::Client(client) => self.client_drain(client),
                    }
                }
            }
        }
        self.flush_wires();
    }

    fn tick(&mut self, node: usize) {
        if !self.nodes[node].alive {
            return;
        }
        let quiet = self.closing && self.nodes[node].flows.iter().all(Option::is_none);
        self.apply(node, Event::Tick);
        if !quiet {
            self.watch(node);
            self.after(TICK_MS * MS_NS, Item::Tick(node));
        }
    }
}
