//! Many images at once over the same nodes: how much of what the uplinks could send arrives, in a
//! fluid model of all edges of all trees.

mod fluid;

use std::collections::{BTreeSet, HashMap};

use fluid::{Flow, fill};
use xylem_control::forest::{Event, Forest, NodeId, TreeKey};
use xylem_control::tree::ShapeKind;
use xylem_protocol::Digest;

const IMAGES: u32 = 20;

/// Of the rate that the links allow.
const LEAST: f64 = 0.9;

fn key(number: u32) -> TreeKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    TreeKey { image: Digest::from_bytes(bytes) }
}

/// Chance from a seed (splitmix64): the same at each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound).unwrap();
        usize::try_from((z ^ (z >> 31)) % bound).unwrap()
    }

    /// All nodes, in an order of chance.
    fn order(&mut self, nodes: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..nodes).collect();
        self.shuffle(&mut order);
        order
    }

    fn shuffle(&mut self, nodes: &mut [u32]) {
        (1..nodes.len()).for_each(|at| nodes.swap(at, self.below(at + 1)));
    }
}

/// Which links have an end.
#[derive(Clone, Copy, Debug)]
enum Links {
    /// All of them, that of the registry too.
    All,
    /// The nodes' uplinks only.
    Uplinks,
}

struct Crowd {
    forest: Forest,
    nodes: u32,
    now_ms: u64,
}

impl Crowd {
    fn new(nodes: u32) -> Self {
        Self { forest: Forest::new(ShapeKind::Twin, 1), nodes, now_ms: 0 }
    }

    fn apply(&mut self, event: &Event<'_>) {
        self.forest.apply(event, &mut Vec::new()).unwrap();
    }

    fn join(&mut self, image: u32, node: u32) {
        self.apply(&Event::Join { node: NodeId(node), key: key(image) });
    }

    fn complete(&mut self, image: u32, node: u32) {
        self.apply(&Event::Complete { node: NodeId(node), key: key(image) });
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.forest.tick(self.now_ms, &mut Vec::new());
    }

    /// Everything that is being sent: one flow for each stripe and each node that misses it.
    fn flows(&self) -> Vec<(u32, Flow)> {
        let mut flows = Vec::new();
        let stripes = 0..self.forest.stripes();
        let trees = (0..IMAGES).flat_map(|image| stripes.clone().map(move |tree| (image, tree)));
        for (image, stripe) in trees {
            let mut coming: HashMap<NodeId, usize> = HashMap::new();
            for at in self.forest.level_order(key(image), stripe) {
                if at.complete {
                    continue;
                }
                let behind = at.parent.and_then(|parent| coming.get(&parent).copied());
                coming.insert(at.node, flows.len());
                let parent = at.parent.map(|parent| parent.0 as usize);
                let (stripe, child) = (usize::from(stripe), at.node.0 as usize);
                flows.push((image, Flow { stripe, parent, child, rate: 0.0, behind }));
            }
        }
        flows
    }

    /// The least rate at which an image comes to a node, in shares of the rate at which all could
    /// come to all nodes who miss them, if every byte of every uplink were of use.
    fn share(&self, links: Links) -> f64 {
        let (images, mut flows): (Vec<u32>, Vec<Flow>) = self.flows().into_iter().unzip();
        fill(&mut flows, |link| match (links, link) {
            (Links::All, _) | (Links::Uplinks, (true, Some(_))) => 1.0,
            (Links::Uplinks, _) => f64::from(IMAGES * self.nodes),
        });
        // Half of an image: the other one has its own flow.
        let mut halves: HashMap<(u32, usize), [f64; 2]> = HashMap::new();
        for (image, flow) in images.iter().zip(&flows) {
            halves.entry((*image, flow.child)).or_default()[flow.stripe] = flow.rate;
        }
        // Neither half of an image gets far ahead of the other.
        let rates = halves.values().map(|&[one, other]| match self.forest.stripes() {
            1 => one,
            _ => 2.0 * one.min(other),
        });
        let least = rates.fold(f64::MAX, f64::min);
        least / self.best(links, halves.keys().copied())
    }

    /// The rate at which every image could come to everybody who misses it.
    fn best(&self, links: Links, coming: impl Iterator<Item = (u32, usize)>) -> f64 {
        let (mut copies, mut most, mut images) = (0, HashMap::new(), BTreeSet::new());
        for (image, node) in coming {
            copies += 1;
            images.insert(image);
            *most.entry(node).or_insert(0) += 1;
        }
        let is_held = |image: u32| self.forest.level_order(key(image), 0).any(|at| at.complete);
        let from_registry = images.iter().filter(|&&image| !is_held(image)).count();
        let by_uplinks = f64::from(self.nodes) / (copies - from_registry) as f64;
        match links {
            Links::Uplinks => by_uplinks,
            Links::All => {
                let by_downlinks = 1.0 / f64::from(most.values().copied().max().unwrap_or(1));
                by_uplinks.min(by_downlinks).min(1.0 / from_registry.max(1) as f64)
            }
        }
    }

    fn check(&self, what: &str, links: &[Links]) {
        for &links in links {
            let share = self.share(links);
            println!("{what}, {} nodes, {links:?}: {share:.3} of the rate", self.nodes);
            assert!(share >= LEAST, "{what}, {} nodes, {links:?}: {share}", self.nodes);
        }
    }
}

/// Numbers of nodes.
const CROWDS: [u32; 3] = [31, 63, 127];

/// Where all want all, every uplink could be of use also with nothing else in the way.
const BOTH: [Links; 2] = [Links::All, Links::Uplinks];

#[test]
fn all_ask_in_the_same_order() {
    for nodes in CROWDS {
        let mut crowd = Crowd::new(nodes);
        (0..IMAGES).for_each(|image| (0..nodes).for_each(|node| crowd.join(image, node)));
        crowd.check("same order", &BOTH);
    }
}

/// What the model says where half of the nodes send everything twice, and the others nothing.
#[test]
fn function_trees_get_half() {
    let mut crowd = Crowd { forest: Forest::new(ShapeKind::Ft, 1), nodes: 63, now_ms: 0 };
    (0..IMAGES).for_each(|image| (0..63).for_each(|node| crowd.join(image, node)));
    let share = crowd.share(Links::All);
    assert!((0.45..0.55).contains(&share), "{share}");
}

#[test]
fn all_ask_in_any_order() {
    for nodes in CROWDS {
        let mut chance = Chance(nodes.into());
        let mut crowd = Crowd::new(nodes);
        for image in 0..IMAGES {
            chance.order(nodes).into_iter().for_each(|node| crowd.join(image, node));
        }
        crowd.check("any order", &BOTH);
    }
}

/// Images come one after the other, and their nodes over so long a time that each has several
/// groups.
#[test]
fn all_ask_a_little_later() {
    for nodes in CROWDS {
        let mut chance = Chance(nodes.into());
        let mut crowd = Crowd::new(nodes);
        let mut asks: Vec<u32> =
            (0..IMAGES).flat_map(|image| (0..nodes).map(move |node| image * 1000 + node)).collect();
        chance.shuffle(&mut asks);
        let each = asks.len() / 40;
        for (nth, ask) in asks.iter().enumerate() {
            crowd.join(ask / 1000, ask % 1000);
            if nth % each == 0 {
                crowd.pass(250);
            }
        }
        crowd.pass(5000);
        crowd.check("within 10 s", &BOTH);
    }
}

/// Each image is wanted by half of the nodes; when a half of the images is there, the others want
/// those too and find seeds.
#[test]
fn each_image_is_for_half_of_them() {
    for nodes in CROWDS {
        let mut chance = Chance(nodes.into());
        let mut crowd = Crowd::new(nodes);
        let mut others = Vec::new();
        for image in 0..IMAGES {
            let mut order = chance.order(nodes);
            let late = order.split_off(nodes as usize / 2);
            order.iter().for_each(|&node| crowd.join(image, node));
            others.push((order, late));
        }
        crowd.check("for half of them", &[Links::All]);
        for (image, (early, _)) in (0..IMAGES / 2).zip(&others) {
            early.iter().for_each(|&node| crowd.complete(image, node));
        }
        crowd.pass(2500);
        crowd.check("half of them is there", &[Links::All]);
        for (image, (_, late)) in (0..IMAGES / 2).zip(&others) {
            late.iter().for_each(|&node| crowd.join(image, node));
        }
        crowd.check("and more for the others", &[Links::All]);
    }
}
