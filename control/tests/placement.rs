//! Who feeds whom: seeds, late comers, zones, slow uplinks and many images at once. Times come from
//! arithmetic over the trees, in those that one copy takes over one link.

use std::collections::{BTreeSet, HashMap, HashSet};

use xylem_control::forest::{Assignment, Claim, Claimed, Event, Forest, NodeId, Standing, TreeKey};
use xylem_control::placement::Zone;
use xylem_control::tree::ShapeKind;
use xylem_protocol::Digest;

/// A slow uplink's share of the others' rate.
const SLOW: f64 = 0.1;

fn key(number: u32) -> TreeKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    TreeKey { image: Digest::from_bytes(bytes) }
}

struct Field {
    forest: Forest,
    now_ms: u64,
    /// What was told in the latest event.
    told: Vec<Assignment>,
}

impl Field {
    fn new() -> Self {
        Self { forest: Forest::new(ShapeKind::Twin, 1), now_ms: 0, told: Vec::new() }
    }

    fn apply(&mut self, event: &Event<'_>) {
        self.told.clear();
        self.forest.apply(event, &mut self.told).unwrap();
    }

    fn join(&mut self, image: u32, nodes: impl IntoIterator<Item = u32>) {
        for node in nodes {
            self.apply(&Event::Join { node: NodeId(node), key: key(image) });
            assert!(self.told.iter().all(|told| !told.at_once), "nothing is wrong");
        }
    }

    fn complete(&mut self, image: u32, nodes: impl IntoIterator<Item = u32>) {
        for node in nodes {
            self.apply(&Event::Complete { node: NodeId(node), key: key(image) });
            assert!(self.told.is_empty(), "nobody has to do anything");
        }
    }

    fn slow(&mut self, node: u32) {
        self.apply(&Event::Uplink { node: NodeId(node), slow: true });
    }

    fn down(&mut self, node: u32) {
        self.apply(&Event::Down { node: NodeId(node) });
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.now_ms += 250;
            self.forest.tick(self.now_ms, &mut self.told);
        }
    }

    fn tree(&self, image: u32, tree: u8) -> Vec<Standing> {
        self.forest.level_order(key(image), tree).collect()
    }

    /// Stripes that the registry sends, where everything is still to be sent.
    fn registry_sends(&self, image: u32) -> usize {
        let trees = (0..2).flat_map(|tree| self.tree(image, tree));
        trees.filter(|at| at.parent.is_none() && !at.complete).count()
    }

    /// When each node has all of an image: a stripe comes as fast as the slowest uplink above sends
    /// it, which is shared evenly by all who read from it.
    fn times(&self, image: u32) -> HashMap<NodeId, f64> {
        let from_registry = self.registry_sends(image).max(2);
        let mut times: HashMap<NodeId, f64> = HashMap::new();
        for tree in 0..2 {
            let mut rates: HashMap<NodeId, f64> = HashMap::new();
            for at in self.tree(image, tree) {
                let rate = match at.parent {
                    _ if at.complete => 1.0,
                    None => 1.0 / from_registry as f64,
                    Some(parent) => {
                        let uplink = if self.forest.is_slow(parent) { SLOW } else { 1.0 };
                        let share = uplink / f64::from(self.forest.load(parent));
                        rates[&parent].min(share)
                    }
                };
                rates.insert(at.node, rate);
                let time = times.entry(at.node).or_insert(0.0);
                *time = time.max(if at.complete { 0.0 } else { 0.5 / rate });
            }
        }
        times
    }

    fn longest(&self, image: u32, of: impl Fn(NodeId) -> bool) -> f64 {
        let times = self.times(image).into_iter().filter(|(node, _)| of(*node));
        times.map(|(_, time)| time).fold(0.0, f64::max)
    }

    /// Whom a node reads from in each tree.
    fn parents(&self, image: u32, node: u32) -> [Option<NodeId>; 2] {
        let parent = |tree| self.tree(image, tree).into_iter().find(|at| at.node == NodeId(node));
        [0, 1].map(|tree| parent(tree).unwrap().parent)
    }

    /// Sizes of the groups that have not all of the image.
    fn groups(&self, image: u32) -> Vec<usize> {
        let mut sizes: HashMap<u64, usize> = HashMap::new();
        let cold = self.tree(image, 0).into_iter().filter(|at| !at.complete);
        cold.for_each(|at| *sizes.entry(at.group).or_default() += 1);
        sizes.into_values().collect()
    }
}

fn all(_: NodeId) -> bool {
    true
}

#[test]
fn a_first_burst_is_one_pair_of_trees() {
    for nodes in 1..40 {
        let mut field = Field::new();
        field.join(0, 0..nodes);
        assert_eq!(field.groups(0), [nodes as usize]);
        assert_eq!(field.registry_sends(0), 2, "each stripe once");
        assert!(field.longest(0, all) <= 1.0);
    }
}

/// 127 warm and 64 cold: each cold one has a warm one to itself.
#[test]
fn a_burst_is_spread_over_idle_seeds_first() {
    let mut field = Field::new();
    field.join(0, 0..127);
    field.complete(0, 0..127);
    field.join(0, 200..264);
    let mut seeds = HashSet::new();
    for node in 200..264 {
        let [one, other] = field.parents(0, node);
        assert_eq!(one, other, "whole from one");
        assert!(one.unwrap().0 < 127, "who has all of it");
        assert!(seeds.insert(one), "and nobody else to send it to");
    }
    assert_eq!(field.longest(0, all), 1.0);
    assert_eq!(field.registry_sends(0), 0);
    // What is left of them is taken, then trees grow below all of them alike.
    field.join(0, 300..363);
    assert!(field.groups(0).iter().all(|&size| size == 1));
    field.join(0, 1000..1900);
    let groups = field.groups(0);
    assert_eq!(groups.len(), 127);
    assert!(groups.iter().all(|size| (8..=9).contains(size)), "{groups:?}");
    assert_eq!(field.longest(0, all), 1.0);
    assert_eq!(field.registry_sends(0), 0);
}

#[test]
fn who_has_it_first_serves_the_next() {
    let mut field = Field::new();
    field.join(0, 0..31);
    field.pass(3000);
    field.complete(0, 0..16);
    field.join(0, 100..104);
    for node in 100..104 {
        let [parent, _] = field.parents(0, node);
        assert!(parent.unwrap().0 < 16);
    }
    assert_eq!(field.longest(0, all), 1.0);
    // A seed goes in the middle: another one takes over.
    let [seed, _] = field.parents(0, 100);
    field.down(seed.unwrap().0);
    let [next, _] = field.parents(0, 100);
    assert!(next.unwrap().0 < 16 && next != seed);
    assert_eq!(field.told.iter().filter(|told| told.node == NodeId(100)).count(), 1);
    assert!(field.longest(0, |node| node.0 >= 100) <= 1.0);
}

#[test]
fn who_comes_late_disturbs_nobody() {
    for first in 1..33 {
        let mut field = Field::new();
        field.join(0, 0..first);
        field.pass(2500);
        for late in 100..120 {
            field.join(0, [late]);
            assert!(field.told.iter().all(|told| told.node.0 >= 100), "{:?}", field.told);
            assert!(field.longest(0, all) <= 1.0, "{first} and {late}");
        }
        field.pass(2500);
        field.join(0, 200..210);
        assert!(field.told.iter().all(|told| told.node.0 >= 200), "{:?}", field.told);
        assert!(field.longest(0, all) <= 1.0);
        assert_eq!(field.registry_sends(0), 2);
    }
}

/// Zones that others have, in each tree, into which a node of that zone reads.
fn crossings(field: &Field, zone_of: impl Fn(NodeId) -> u32) -> Vec<(u8, u32)> {
    let mut crossings = Vec::new();
    for tree in 0..2 {
        for at in field.tree(0, tree) {
            if at.parent.is_some_and(|parent| zone_of(parent) != zone_of(at.node)) {
                crossings.push((tree, zone_of(at.node)));
            }
        }
    }
    crossings
}

#[test]
fn each_tree_crosses_into_a_zone_once() {
    for nodes in [9, 30, 31, 100] {
        let mut field = Field::new();
        let zone_of = |node: NodeId| node.0 % 3;
        (0..nodes).for_each(|node| field.forest.set_zone(NodeId(node), Zone((node % 3).into())));
        field.join(0, 0..nodes);
        field.pass(6000);
        let crossings = crossings(&field, zone_of);
        let distinct: BTreeSet<_> = crossings.iter().collect();
        assert_eq!(crossings.len(), distinct.len(), "{crossings:?}");
        assert_eq!(crossings.len(), 2 * 2, "two zones read from another one");
        assert_eq!(field.registry_sends(0), 2);
        assert!(field.longest(0, all) <= 1.0, "{nodes}: {}", field.longest(0, all));
        // Newcomers are put below seeds of their zone.
        field.complete(0, 0..nodes);
        for late in 1000..1003 {
            field.forest.set_zone(NodeId(late), Zone((late % 3).into()));
            field.join(0, [late]);
            let [parent, _] = field.parents(0, late);
            assert_eq!(parent.unwrap().0 % 3, late % 3);
        }
    }
}

/// Whichever uplinks are slow, the others have the image as soon as without them.
#[test]
fn slow_uplinks_slow_nobody_but_their_nodes() {
    for nodes in [3, 4, 7, 8, 15, 16, 31] {
        for first in 0..nodes {
            for second in 0..nodes {
                let mut field = Field::new();
                field.join(0, 0..nodes);
                let before = field.longest(0, all);
                let slow: BTreeSet<_> = [first, second].into();
                for &node in &slow {
                    field.slow(node);
                    assert!(field.told.iter().all(|told| told.at_once), "also in mid-blob");
                }
                let fast = |node: NodeId| !slow.contains(&node.0);
                let others = field.longest(0, fast);
                assert!(others <= 1.0 && before <= 1.0, "{slow:?} of {nodes}: {others}");
                assert!(field.longest(0, all) <= slow.len() as f64, "what one uplink can do");
                assert!(slow.iter().all(|&node| field.forest.load(NodeId(node)) == 0));
                assert_eq!(field.registry_sends(0), 2);
            }
        }
    }
}

#[test]
fn slow_nodes_stay_aside_while_others_come_and_go() {
    let mut field = Field::new();
    field.join(0, 0..20);
    [3, 4, 5].into_iter().for_each(|node| field.slow(node));
    field.pass(1000);
    field.join(0, 20..60);
    field.pass(3000);
    let fast = |node: NodeId| !field.forest.is_slow(node);
    assert!(field.longest(0, fast) <= 1.0);
    // A node that is known to be slow is put aside at once, in other images too.
    field.join(1, 0..20);
    field.pass(3000);
    for image in [0, 1] {
        for tree in (0..2).flat_map(|tree| field.tree(image, tree)) {
            assert!(!field.forest.is_slow(tree.node) || tree.children.is_empty());
        }
    }
    for gone in [0, 10, 20, 30, 40, 50] {
        field.down(gone);
    }
    field.pass(3000);
    let loads = |node| field.forest.load(NodeId(node));
    assert!([3, 4, 5].into_iter().all(|node| loads(node) == 0));
    assert_eq!(field.registry_sends(0), 2);
    // Given another try, it is like all others.
    field.apply(&Event::Uplink { node: NodeId(3), slow: false });
    field.join(2, [3, 100]);
    assert_eq!(field.groups(2), [2]);
}

/// 20 images at once over the same nodes: an uplink sends hardly more than a downlink takes.
#[test]
fn many_images_share_the_uplinks() {
    for nodes in 2..50 {
        let mut field = Field::new();
        for image in 0..20 {
            field.join(image, 0..nodes);
        }
        let most = (0..nodes).map(|node| field.forest.load(NodeId(node))).max().unwrap();
        // Two halves of 20 images.
        let received = 40.0;
        assert!(received / f64::from(most) >= 0.9, "{most} halves sent by one of {nodes}");
    }
}

#[test]
fn seeds_that_are_busy_with_other_images_are_spared() {
    let mut field = Field::new();
    for image in 0..20 {
        field.join(image, 0..100);
        field.complete(image, 0..100);
    }
    for image in 0..20 {
        field.join(image, 200..250);
    }
    let loads: Vec<_> = (0..100).map(|node| field.forest.load(NodeId(node))).collect();
    let (sum, most): (u32, u32) = (loads.iter().sum(), *loads.iter().max().unwrap());
    assert_eq!(sum, 20 * 50 * 2);
    assert!(f64::from(sum) / 100.0 / f64::from(most) >= 0.9, "{loads:?}");
}

/// Control starts again in the middle: groups and who feeds them are as before.
#[test]
fn a_restart_keeps_the_groups() {
    let mut before = Field::new();
    before.join(0, 0..15);
    before.pass(2500);
    before.complete(0, 0..7);
    before.join(0, 100..130);
    before.slow(120);
    let trees = [0, 1].map(|tree| before.tree(0, tree));
    let claim = |(one, other): (&Standing, &Standing)| Claim {
        node: one.node,
        parents: [one.parent, other.parent]
            .map(|parent| parent.map_or(Claimed::Registry, Claimed::Node)),
        group: one.group,
        complete: one.complete,
    };
    let find = |node| trees[1].iter().find(|at| at.node == node).unwrap();
    let claims: Vec<_> = trees[0].iter().map(|at| claim((at, find(at.node)))).collect();
    let mut after = Field::new();
    after.apply(&Event::Restore { key: key(0), claims: &claims });
    let groups = |field: &Field| -> BTreeSet<(NodeId, u64, bool)> {
        field.tree(0, 0).into_iter().map(|at| (at.node, at.group, at.complete)).collect()
    };
    assert_eq!(groups(&before), groups(&after));
    let outside = |field: &Field| -> BTreeSet<(u8, NodeId, u64)> {
        let all = (0..2).flat_map(|tree| {
            let at = field.tree(0, tree);
            let group: HashMap<_, _> = at.iter().map(|at| (at.node, at.group)).collect();
            let edges = at.into_iter().filter_map(|at| Some((at.parent?, at.group)));
            let crossing = edges.filter(|(parent, of)| group[parent] != *of).collect::<Vec<_>>();
            crossing.into_iter().map(move |(parent, group)| (tree, parent, group))
        });
        all.collect()
    };
    assert_eq!(outside(&before), outside(&after));
}
