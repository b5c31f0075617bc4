//! What is left of the trees when a third of the nodes is lost at once, some of the others being
//! slow: nobody sends more than it receives while somebody else has room.

use std::collections::{BTreeMap, BTreeSet};

use xylem_control::forest::{Event, Forest, NodeId, TreeKey};
use xylem_control::placement::Zone;
use xylem_control::tree::ShapeKind;
use xylem_protocol::Digest;

const SEEDS: u64 = 300;
const IMAGES: [u8; 2] = [1, 2];
/// What a node sends of an image while it receives it, in stripes.
const FULL: usize = 2;

fn key(image: u8) -> TreeKey {
    TreeKey { image: Digest::from_bytes([image; 32]) }
}

/// Chance from a seed (splitmix64): the same at each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(bound)).unwrap()
    }
}

struct Site {
    forest: Forest,
    now_ms: u64,
}

impl Site {
    fn apply(&mut self, event: &Event<'_>) {
        self.forest.apply(event, &mut Vec::new()).unwrap();
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.now_ms += 250;
            self.forest.tick(self.now_ms, &mut Vec::new());
        }
    }

    /// Nodes with what they send of an image: to slow ones, and to others.
    fn sends(&self, image: u8) -> BTreeMap<NodeId, [usize; 2]> {
        let mut sends: BTreeMap<NodeId, [usize; 2]> = BTreeMap::new();
        for tree in 0..2 {
            let standings: Vec<_> = self.forest.level_order(key(image), tree).collect();
            // Level by level from the top: who is missing hangs on nobody.
            let above: BTreeSet<_> = standings.iter().map(|at| at.node).collect();
            assert_eq!(above.len(), self.forest.len(key(image)) as usize, "all are in tree {tree}");
            assert_eq!(above.len(), standings.len(), "once");
            for at in standings {
                sends.entry(at.node).or_default();
                if let Some(parent) = at.parent.filter(|_| !at.complete) {
                    let to = usize::from(!self.forest.is_slow(at.node));
                    sends.entry(parent).or_default()[to] += 1;
                }
            }
        }
        sends
    }

    /// Who sends more than it should, where somebody has room.
    fn too_much(&self, image: u8) -> Vec<(u32, [usize; 2])> {
        let sends = self.sends(image);
        let has_room = |(node, &[to_slow, to_others]): (&NodeId, &[usize; 2])| {
            !self.forest.is_slow(*node) && to_slow == 0 && to_others < FULL
        };
        if !sends.iter().any(has_room) {
            return Vec::new();
        }
        // Who feeds slow nodes and nobody else may feed many.
        let over = |&(_, &[to_slow, to_others]): &(&NodeId, &[usize; 2])| {
            to_others > 0 && to_slow + to_others > FULL
        };
        sends.iter().filter(over).map(|(node, sends)| (node.0, *sends)).collect()
    }
}

/// Nodes come within some time, some turn out to be slow; then every third is gone.
fn lose_a_third(seed: u64) -> (Site, u32) {
    let mut chance = Chance(seed);
    let mut site = Site { forest: Forest::new(ShapeKind::Twin, 1), now_ms: 0 };
    let nodes = 6 + chance.below(if seed.is_multiple_of(10) { 500 } else { 60 });
    let zones = [1, 1, 2][chance.below(3) as usize];
    (0..nodes).for_each(|node| site.forest.set_zone(NodeId(node), Zone((node % zones).into())));
    let pauses = chance.below(6);
    for image in IMAGES {
        for node in (0..nodes).map(NodeId) {
            site.apply(&Event::Join { node, key: key(image) });
            if pauses > 0 && chance.below(2 * nodes / pauses + 1) == 0 {
                site.pass(250);
            }
        }
    }
    site.pass(1_000);
    let slow: BTreeSet<_> = (0..=chance.below(3)).map(|_| chance.below(nodes)).collect();
    for &node in &slow {
        site.apply(&Event::Uplink { node: NodeId(node), slow: true });
        site.pass(500 * u64::from(chance.below(2)));
    }
    site.pass(5_000);
    let third = chance.below(3);
    for node in (0..nodes).filter(|node| node % 3 == third) {
        site.apply(&Event::Down { node: NodeId(node) });
    }
    (site, nodes)
}

#[test]
fn who_is_left_sends_no_more_than_it_receives() {
    let mut failed = Vec::new();
    for seed in 0..SEEDS {
        let (mut site, nodes) = lose_a_third(seed);
        site.pass(5_000);
        for image in IMAGES {
            let too_much = site.too_much(image);
            if !too_much.is_empty() {
                failed.push(format!("{seed}, {nodes} nodes, image {image}: {too_much:?}"));
            }
        }
    }
    let shown = failed.join("\n");
    assert!(failed.is_empty(), "{} images of {SEEDS} seeds:\n{shown}", failed.len());
}

/// Once that is so nobody is moved any more.
#[test]
fn and_then_all_is_quiet() {
    for seed in 0..SEEDS / 10 {
        let (mut site, _) = lose_a_third(seed);
        site.pass(5_000);
        let mut told = Vec::new();
        for _ in 0..20 {
            site.now_ms += 250;
            site.forest.tick(site.now_ms, &mut told);
        }
        assert!(told.is_empty(), "{seed}: {told:?}");
    }
}

/// All slow nodes are lost: who fed them has room for others again.
#[test]
fn a_steward_without_slow_nodes_is_like_others() {
    for nodes in [15, 16, 40] {
        let mut site = Site { forest: Forest::new(ShapeKind::Twin, 1), now_ms: 0 };
        (0..nodes).for_each(|node| {
            site.apply(&Event::Join { node: NodeId(node), key: key(1) });
        });
        site.apply(&Event::Uplink { node: NodeId(3), slow: true });
        let sends = site.sends(1);
        let (&steward, _) = sends.iter().find(|(_, [to_slow, _])| *to_slow > 0).unwrap();
        site.apply(&Event::Down { node: NodeId(3) });
        site.pass(2_000);
        assert_eq!(site.sends(1)[&steward], [0, 0]);
        // Those who come later need all room that there is.
        (100..110).for_each(|node| {
            site.apply(&Event::Join { node: NodeId(node), key: key(1) });
            site.pass(500);
        });
        assert_eq!(site.too_much(1), [], "{nodes}");
        assert!(site.sends(1)[&steward] != [0, 0], "it feeds some of them");
    }
}
