//! What a seed means: the nodes and their links, the blobs, the clients, and the misfortunes with
//! their times.

use xylem_protocol::limits::{SLOT_BYTES, UNIT_BYTES};

use super::chance::Chance;

/// One second, ns.
pub const SECOND_NS: u64 = 1_000_000_000;
/// One millisecond, ns.
pub const MS_NS: u64 = 1_000_000;

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// Sizes of the blobs, bytes.
    pub blobs: Vec<u64>,
    /// The registry's link.
    pub registry: Link,
    /// Nodes in heap order: node `i` is the child of node `(i - 1) / 2`.
    pub nodes: Vec<NodePlan>,
    /// Clients of single nodes.
    pub clients: Vec<ClientPlan>,
    /// How often the registry may send a wrong byte.
    pub corruptions: u32,
    /// One connection in so many breaks; 0 for none.
    pub break_one_in: u64,
}

/// A full-duplex link.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Bytes per second.
    pub up: u64,
    /// Bytes per second.
    pub down: u64,
    /// One way, to the middle of the network.
    pub delay_ns: u64,
}

/// One node.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its link.
    pub link: Link,
    /// Slots of its relay.
    pub slots: u16,
    /// When it begins to fetch.
    pub start_ns: u64,
    /// When it dies, and whether its peers are told by a reset.
    pub death: Option<(u64, bool)>,
    /// Which of its writes fails, counted from 0.
    pub failing_write: Option<u64>,
    /// Of the disk, bytes per second and ns.
    pub disk_rate: u64,
    /// See `disk_rate`.
    pub disk_delay_ns: u64,
    /// Of the hash thread, bytes per second.
    pub hash_rate: u64,
    /// Bytes of each blob that are in its file already, in units.
    pub resume_units: Vec<u64>,
}

/// A client below a node.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Its link.
    pub link: Link,
    /// Whom it asks.
    pub node: usize,
    /// For which blob.
    pub blob: usize,
    /// First byte and behind the last byte.
    pub range: (u64, u64),
    /// When it comes.
    pub start_ns: u64,
    /// After how many bytes it stops to read, and for how long; it leaves then if `leaves`.
    pub stall: Option<(u64, u64)>,
    /// See `stall`.
    pub leaves: bool,
}

impl Plan {
    /// The run of a seed.
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let gentle = chance.percent(25);
        let count = chance.magnitude(2, 40);
        let blobs: Vec<u64> = (0..chance.within(1, 5)).map(|_| blob(&mut chance)).collect();
        let nodes: Vec<NodePlan> =
            (0..count).map(|index| node(&mut chance, index, &blobs, gentle)).collect();
        let clients = (0..chance.within(0, 2 * count).min(24))
            .map(|_| client(&mut chance, nodes.len(), &blobs))
            .collect();
        Self {
            seed,
            registry: link(&mut chance),
            corruptions: if gentle || chance.percent(60) { 0 } else { 2 },
            break_one_in: if gentle { 0 } else { chance.within(0, 8) },
            blobs,
            nodes,
            clients,
        }
    }
}

fn link(chance: &mut Chance) -> Link {
    Link {
        up: chance.magnitude(8_000_000, 1_250_000_000),
        down: chance.magnitude(8_000_000, 1_250_000_000),
        delay_ns: chance.magnitude(10_000, 20_000_000),
    }
}

fn blob(chance: &mut Chance) -> u64 {
    let (unit, slot) = (u64::from(UNIT_BYTES), u64::from(SLOT_BYTES));
    match chance.within(0, 9) {
        0 => chance.within(0, 2),
        1 => unit - 1 + chance.within(0, 2),
        2 => slot - 1 + chance.within(0, 2),
        3 => chance.within(1, 12) * slot,
        4..=7 => chance.within(1, 8 * slot),
        _ => chance.within(8 * slot, 40 * slot),
    }
}

fn node(chance: &mut Chance, index: u64, blobs: &[u64], gentle: bool) -> NodePlan {
    let resumes = chance.percent(15);
    let units = |chance: &mut Chance, size: u64| match size / u64::from(UNIT_BYTES) {
        units if resumes => chance.within(0, units),
        _ => 0,
    };
    NodePlan {
        link: link(chance),
        slots: u16::try_from(chance.magnitude(4, 32)).expect("few slots"),
        start_ns: if chance.percent(50) { 0 } else { chance.within(0, 2 * SECOND_NS) },
        // The first of all may die as well: its children go to the registry.
        death: (!gentle && chance.percent(if index == 0 { 10 } else { 15 }))
            .then(|| (chance.magnitude(MS_NS, 4 * SECOND_NS), chance.percent(60))),
        failing_write: (!gentle && chance.percent(5)).then(|| chance.within(0, 12)),
        disk_rate: chance.magnitude(30_000_000, 2_000_000_000),
        disk_delay_ns: chance.magnitude(20_000, 20_000_000),
        hash_rate: chance.magnitude(200_000_000, 2_000_000_000),
        resume_units: blobs.iter().map(|&size| units(chance, size)).collect(),
    }
}

fn client(chance: &mut Chance, nodes: usize, blobs: &[u64]) -> ClientPlan {
    let blob = chance.index(blobs.len());
    let size = blobs[blob];
    let (one, other) = (chance.within(0, size), chance.within(0, size));
    let slow = chance.percent(40);
    let mut link = link(chance);
    if slow {
        link.down = chance.magnitude(500_000, 8_000_000);
    }
    ClientPlan {
        link,
        node: chance.index(nodes),
        blob,
        range: if chance.percent(50) { (0, size) } else { (one.min(other), one.max(other)) },
        start_ns: chance.within(0, 4 * SECOND_NS),
        stall: chance
            .percent(30)
            .then(|| (chance.within(0, size), chance.within(0, 6 * SECOND_NS))),
        leaves: chance.percent(50),
    }
}
