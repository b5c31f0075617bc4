//! What is found to be slow, and what is not, on a clock of the tests.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MB: u64 = 1_000_000;
/// A full uplink, bytes per second.
const FULL: u64 = 125 * MB;

/// Who limits a hop.
#[derive(Clone, Copy)]
enum By {
    Sender,
    Network,
    /// The network, three fifths of the time.
    Mostly,
}

/// Nodes whose hops count on, and a watch that hears of them every 500 ms.
#[derive(Default)]
struct Site {
    watch: Watch,
    now_ms: u64,
    counts: HashMap<(NodeId, Option<NodeId>, bool), Count>,
    fellows: u32,
}

/// For one period: parent, child, bytes per second, what limits it.
type Hop = (u32, u32, u64, By);

impl Site {
    fn of(fellows: u32) -> Self {
        Self { fellows, ..Self::default() }
    }

    /// Half a second passes; answers who is found to be slow.
    fn pass(&mut self, hops: &[Hop]) -> Vec<u32> {
        self.now_ms += 500;
        for &(parent, child, rate, by) in hops {
            self.count(parent, Some(child), false, rate, by);
            self.count(child, Some(parent).filter(|&parent| parent > 0), true, rate, by);
        }
        let mut heard: BTreeMap<NodeId, Vec<Count>> = BTreeMap::new();
        let moved = |of: u32| hops.iter().any(|&(parent, child, ..)| parent == of || child == of);
        for ((node, ..), count) in self.counts.iter().filter(|((node, ..), _)| moved(node.0)) {
            heard.entry(*node).or_default().push(*count);
        }
        heard.iter().for_each(|(&node, counts)| self.watch.heard(node, counts, self.now_ms));
        let now_ms = self.now_ms;
        let mut bests: Vec<_> =
            heard.keys().filter_map(|&node| self.watch.best(node, now_ms)).collect();
        let usual = Field::usual(&mut bests);
        let suspected = heard.keys().filter(|&&node| self.watch.is_suspected(node, now_ms));
        let suspects = u32::try_from(suspected.count()).unwrap();
        let crawl = heard.keys().filter(|&&node| self.watch.crawls(node, usual, now_ms));
        let crawl = u32::try_from(crawl.count()).unwrap();
        let intake = heard.keys().map(|&node| self.watch.intake(node, now_ms)).max().unwrap_or(0);
        let mut found = Vec::new();
        for &node in heard.keys() {
            let slow_fellows = self.watch.marked();
            let fellows = self.fellows;
            let field = Field { usual, intake, fellows, slow_fellows, suspects, crawl };
            if self.watch.judge(node, field, self.now_ms) {
                found.push(node.0);
            }
        }
        found
    }

    fn count(&mut self, node: u32, peer: Option<u32>, from_child: bool, rate: u64, by: By) {
        let peer = peer.map(NodeId);
        let count = self.counts.entry((NodeId(node), peer, from_child)).or_default();
        (count.peer, count.from_child) = (peer, from_child);
        count.bytes += rate / 2;
        count.at_us = self.now_ms * 1000;
        count.held_us += match by {
            By::Sender => 0,
            By::Network => 500_000,
            By::Mostly => 300_000,
        };
    }
}

/// A tree: 1 reads the registry (0), 2 and 3 read from 1, 4 and 5 from 2, 6 and 7 from 3.
fn tree(rates: [u64; 3]) -> Vec<Hop> {
    let [of_1, of_2, of_3] = rates.map(|rate| rate / 2);
    let starved = |rate: u64, own: u64| {
        if rate < own { (rate, By::Sender) } else { (own, By::Network) }
    };
    let (to_4, by_2) = starved(of_1, of_2);
    let (to_6, by_3) = starved(of_1, of_3);
    vec![
        (0, 1, FULL / 2, By::Network),
        (1, 2, of_1, By::Network),
        (1, 3, of_1, By::Network),
        (2, 4, to_4, by_2),
        (2, 5, to_4, by_2),
        (3, 6, to_6, by_3),
        (3, 7, to_6, by_3),
    ]
}

#[test]
fn a_slow_uplink_is_found_in_four_reports() {
    let mut site = Site::of(7);
    for _ in 0..3 {
        assert!(site.pass(&tree([FULL, FULL / 10, FULL])).is_empty());
    }
    assert_eq!(site.pass(&tree([FULL, FULL / 10, FULL])), [2]);
    assert!(site.pass(&tree([FULL, FULL / 10, FULL])).is_empty(), "once");
    assert_eq!(site.watch.marked(), 1);
}

/// What is sent to a node that has lost its power waits for the network for ever.
#[test]
fn who_sends_to_nodes_that_are_gone_is_not_slow() {
    let mut site = Site::of(7);
    for _ in 0..6 {
        assert!(site.pass(&tree([FULL; 3])).is_empty());
    }
    let mut hops = tree([FULL; 3]);
    for (parent, _, rate, by) in &mut hops {
        if *parent == 2 {
            (*rate, *by) = (0, By::Network);
        }
    }
    for _ in 0..40 {
        assert!(site.pass(&hops).is_empty());
    }
}

/// How long after it has become slow an uplink may be found, ms.
const SOON_MS: u64 = 5_000;

/// Whether all the others wait for it or go on.
#[test]
fn an_uplink_that_becomes_slow_is_found_within_seconds() {
    for others_wait in [false, true] {
        let mut site = Site::of(7);
        for _ in 0..40 {
            assert!(site.pass(&tree([FULL; 3])).is_empty());
        }
        let slow_since = site.now_ms;
        let slow = tree([FULL, FULL / 10, FULL]).into_iter().map(|hop| match hop {
            (parent, child, ..) if others_wait && parent != 2 => {
                (parent, child, FULL / 20, By::Sender)
            }
            hop => hop,
        });
        let slow: Vec<_> = slow.collect();
        let found = (0..40).map(|_| site.pass(&slow)).find(|found| !found.is_empty());
        assert_eq!(found, Some(vec![2]));
        let took = site.now_ms - slow_since;
        assert!((BEST_COUNTS_MS..=SOON_MS).contains(&took), "{took} ms");
    }
}

#[test]
fn who_is_starved_is_not_slow() {
    // The registry is slow: nobody is to blame.
    let mut site = Site::of(7);
    site.pass(&tree([FULL; 3]));
    for _ in 0..60 {
        let slow: Vec<_> = tree([FULL; 3])
            .into_iter()
            .map(|(parent, child, ..)| (parent, child, FULL / 20, By::Sender))
            .collect();
        assert!(site.pass(&slow).is_empty());
    }
}

/// All wait for one slow node, and none of them sends more than it does; but they did.
#[test]
fn who_waits_for_the_slow_one_is_not_slow() {
    let mut site = Site::of(7);
    let crawl = FULL / 20;
    let mut found = site.pass(&tree([FULL, FULL / 10, FULL]));
    let hops: Vec<_> = tree([FULL, FULL / 10, FULL])
        .into_iter()
        .map(|(parent, child, ..)| match parent {
            2 => (parent, child, crawl, By::Network),
            _ => (parent, child, crawl, By::Sender),
        })
        .collect();
    found.extend((0..10).flat_map(|_| site.pass(&hops)));
    assert_eq!(found, [2]);
}

/// A machine that is short of CPU: all that was sent well before is not any more.
#[test]
fn where_everything_becomes_slow_nobody_is_to_blame() {
    let mut site = Site::of(7);
    site.pass(&tree([FULL; 3]));
    site.pass(&tree([FULL; 3]));
    for _ in 0..100 {
        let hops = tree([FULL; 3]).into_iter();
        let slow = hops.map(|(parent, child, ..)| (parent, child, FULL / 20, By::Network));
        assert!(site.pass(&slow.collect::<Vec<_>>()).is_empty());
    }
}

/// What comes back from a node with a slow uplink comes late, so its parent waits for it.
#[test]
fn a_hop_to_a_slow_node_tells_nothing_of_its_parent() {
    let mut site = Site::of(9);
    let mut found = Vec::new();
    for _ in 0..10 {
        let mut hops = tree([FULL, FULL / 10, FULL / 2]);
        hops.push((8, 2, FULL / 20, By::Network));
        found.extend(site.pass(&hops));
    }
    assert_eq!(found, [2]);
}

#[test]
fn an_uplink_that_is_slow_now_and_then_is_not_moved() {
    let mut site = Site::of(7);
    for round in 0..40 {
        let rate = if round % 2 == 0 { FULL / 10 } else { FULL };
        assert!(site.pass(&tree([FULL, rate, FULL])).is_empty());
    }
    // Half of what others have is not slow either.
    for _ in 0..10 {
        assert!(site.pass(&tree([FULL, FULL / 2, FULL])).is_empty());
    }
}

#[test]
fn what_is_getting_under_way_is_waited_for() {
    let mut site = Site::of(7);
    for doubled in 0..6 {
        let rate = (FULL / 64) << doubled;
        assert!(site.pass(&tree([FULL, rate, FULL])).is_empty(), "{doubled}");
    }
}

/// A child with a slow downlink: whoever sends to it looks slow.
/// With many images a node may be inner in few of those that flow, and its children's downlinks are
/// full of others' bytes: it had to wait for them, was taken for slow, and lost all its children.
#[test]
fn who_sends_to_nodes_that_others_fill_is_not_slow() {
    for (share, expected) in [(1, vec![]), (3, vec![2])] {
        let mut site = Site::of(7);
        let from_others = FULL / share;
        let hops: Vec<Hop> = (4..=5)
            .flat_map(|child| {
                [
                    (2, child, FULL / 30, By::Network),
                    (child + 2, child, from_others, By::Network),
                    (child + 2, 1, FULL - from_others, By::Network),
                ]
            })
            .collect();
        let found: Vec<u32> = (0..40).flat_map(|_| site.pass(&hops)).collect();
        assert_eq!(found, expected, "of {share}");
    }
}

#[test]
fn a_slow_downlink_blames_one_parent_at_most() {
    let mut site = Site::of(9);
    let mut found = Vec::new();
    for parent in [2, 3, 4, 5] {
        for _ in 0..10 {
            let slow = (parent, 9, FULL / 20, By::Network);
            let mut hops = vec![(1, 6, FULL, By::Network), (1, 7, FULL, By::Network), slow];
            hops.push((8, 7, FULL, By::Network));
            found.extend(site.pass(&hops));
        }
    }
    assert_eq!(found, [2]);
    // With another child that it serves well a parent is above suspicion.
    let mut site = Site::of(9);
    for _ in 0..10 {
        let hops = [
            (1, 2, FULL / 20, By::Network),
            (1, 3, FULL / 2, By::Network),
            (4, 5, FULL, By::Network),
        ];
        assert!(site.pass(&hops).is_empty());
    }
}

#[test]
fn few_are_found_in_a_minute_and_never_most() {
    let mut site = Site::of(400);
    let mut found = 0;
    let hops: Vec<Hop> = (1..101_u32)
        .flat_map(|node| {
            let rate = if node <= 20 { FULL / 20 } else { FULL };
            [(node, 1000 + node, rate, By::Network), (node, 2000 + node, rate, By::Network)]
        })
        .collect();
    for _ in 0..110 {
        found += site.pass(&hops).len();
    }
    let most = (SLOW_PER_MINUTE_MIN as usize).max(300 / 32);
    assert_eq!(found, most);
    for _ in 0..60 {
        found += site.pass(&hops).len();
    }
    assert_eq!(found, 2 * most, "and more in the next");
    // Of seven two may be slow at once; of three that seem to be, nobody can say who is.
    let mut site = Site::of(7);
    for _ in 0..200 {
        let rates = [(1, 10), (2, 10), (3, 10), (4, 1), (5, 1), (6, 1)];
        let to_two = |(node, part): (u32, u64)| {
            [10, 20].map(|below| (node, node + below, FULL / 2 / part, By::Network))
        };
        let hops: Vec<Hop> = rates.into_iter().flat_map(to_two).collect();
        assert!(site.pass(&hops).is_empty());
    }
}

#[test]
fn a_mark_ends_and_lasts_longer_each_time() {
    let mut site = Site::of(7);
    let slow = tree([FULL, FULL / 10, FULL]);
    let mut kept = SLOW_KEPT_MS;
    for _ in 0..3 {
        let found: Vec<_> = (0..4).flat_map(|_| site.pass(&slow)).collect();
        assert_eq!(found, [2]);
        let mut over = Vec::new();
        site.watch.tick(site.now_ms + kept - 1, &mut over);
        assert!(over.is_empty());
        site.watch.tick(site.now_ms + kept, &mut over);
        assert_eq!(over, [NodeId(2)]);
        assert_eq!(site.watch.marked(), 0);
        site.now_ms += kept;
        kept *= 2;
        assert!(site.pass(&tree([FULL; 3])).is_empty());
    }
    site.watch.forget(NodeId(2));
    assert!(site.pass(&slow).is_empty());
}

#[test]
fn a_node_that_counts_anew_has_no_history() {
    let mut watch = Watch::default();
    let count = |bytes, at_us| Count { peer: Some(NodeId(2)), bytes, at_us, ..Count::default() };
    watch.heard(NodeId(1), &[Count { held_us: 100_000_000, ..count(1000 * MB, 100_000_000) }], 500);
    assert_eq!(watch.best(NodeId(1), 500), None, "all of its life is no present");
    watch.heard(NodeId(1), &[count(1050 * MB, 100_500_000)], 1000);
    assert_eq!(watch.best(NodeId(1), 1000), Some(100 * MB));
    watch.heard(NodeId(1), &[count(10 * MB, 300_000)], 1500);
    watch.heard(NodeId(1), &[count(50 * MB, 500_000)], 2000);
    assert_eq!(watch.best(NodeId(1), 2000), Some(200 * MB), "from when it began anew");
    assert_eq!(watch.best(NodeId(1), 2000 + BEST_KEPT_MS), Some(200 * MB));
    assert_eq!(watch.best(NodeId(1), 2000 + 2 * BEST_KEPT_MS), None);
}

/// Two hops of each of so many nodes; `rate` says how fast both are together, and what holds them.
fn pairs(nodes: u32, rate: impl Fn(u32) -> (u64, By)) -> Vec<Hop> {
    let hops = (1..=nodes).flat_map(|node| {
        let (rate, by) = rate(node);
        [1000, 2000].map(|below| (node, below + node, rate / 2, by))
    });
    hops.collect()
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// At any time, any that are not too many, whether the others go on, wait, or have a pause with
    /// them before: they are found soon, nobody else is.
    #[test]
    fn what_becomes_slow_is_found_soon(
        nodes in 6_u32..24,
        fast_for in 1_usize..60,
        pause_ms in prop_oneof![Just(0_u64), 0..40_000_u64],
        slow in prop::collection::btree_set(1_u32..6, 1..=2),
        share in 5_u64..30,
        others_wait: bool,
    ) {
        let mut site = Site::of(nodes);
        for _ in 0..fast_for {
            prop_assert!(site.pass(&pairs(nodes, |_| (FULL, By::Network))).is_empty());
        }
        site.now_ms += pause_ms;
        // The first report behind a pause is about the pause.
        for _ in 0..2 {
            prop_assert!(site.pass(&pairs(nodes, |_| (FULL, By::Network))).is_empty());
        }
        let since_ms = site.now_ms;
        let crawl = FULL / share;
        let mut found = BTreeSet::new();
        while site.now_ms < since_ms + SOON_MS {
            found.extend(site.pass(&pairs(nodes, |node| match slow.contains(&node) {
                true => (crawl, By::Network),
                false if others_wait => (crawl, By::Sender),
                false => (FULL, By::Network),
            })));
        }
        prop_assert_eq!(found, slow);
    }

    /// Whatever holds which of them when: where all are slow nobody is found.
    #[test]
    fn of_many_that_become_slow_none_is_found(
        nodes in 6_u32..24,
        fast_for in 1_usize..60,
        shares in prop::collection::vec(12_u64..24, 24),
        mostly in prop::collection::vec(any::<u32>(), 1..8),
    ) {
        let mut site = Site::of(nodes);
        for _ in 0..fast_for {
            site.pass(&pairs(nodes, |_| (FULL, By::Network)));
        }
        for mostly in mostly.into_iter().cycle().take(60) {
            let found = site.pass(&pairs(nodes, |node| {
                let by = if mostly >> node & 1 == 1 { By::Mostly } else { By::Network };
                (FULL / shares[node as usize], by)
            }));
            prop_assert!(found.is_empty(), "{found:?}");
        }
    }
}
