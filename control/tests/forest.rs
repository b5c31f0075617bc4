//! The forest: who is told what when nodes come, go, and come back with places from before.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use xylem_control::forest::{
    Assignment, Claim, Claimed, Event, Forest, ForestError, NodeId, Standing, TreeKey,
};
use xylem_control::limits::{TREES_PER_NODE_MAX, UPSTREAMS_MAX};
use xylem_control::placement::Zone;
use xylem_control::tree::ShapeKind;
use xylem_protocol::Digest;

fn key(number: u32) -> TreeKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    TreeKey { image: Digest::from_bytes(bytes) }
}

/// A forest, and what its nodes believe who only hear assignments.
struct Told {
    forest: Forest,
    heard: HashMap<(NodeId, TreeKey), Assignment>,
    /// How many assignments the latest event cost.
    told: usize,
    now_ms: u64,
}

impl Told {
    fn new(epoch: u64) -> Self {
        Self::of(ShapeKind::Ft, epoch)
    }

    fn of(kind: ShapeKind, epoch: u64) -> Self {
        Self { forest: Forest::new(kind, epoch), heard: HashMap::new(), told: 0, now_ms: 0 }
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), ForestError> {
        self.hear(event)?;
        self.check();
        Ok(())
    }

    /// The same, without looking at everything afterwards.
    fn hear(&mut self, event: &Event<'_>) -> Result<(), ForestError> {
        let mut out = Vec::new();
        let epochs: HashMap<_, _> =
            self.forest.keys().map(|key| (key, self.forest.epoch(key))).collect();
        self.forest.apply(event, &mut out)?;
        self.told = out.len();
        let distinct: HashSet<_> = out.iter().map(|told| (told.node, told.key)).collect();
        assert_eq!(distinct.len(), out.len(), "nobody is told twice");
        for assignment in out {
            let at = (assignment.node, assignment.key);
            let (epoch, branches) = (assignment.epoch, assignment.branches.clone());
            let before = self.heard.insert(at, assignment);
            assert!(before.as_ref().is_none_or(|before| before.epoch <= epoch), "{event:?}");
            let needed = match event {
                Event::Join { node, .. } => *node == at.0,
                Event::Moved { node } => branches.iter().flatten().any(|above| above == node),
                Event::Restore { claims, .. } => claims.iter().any(|claim| claim.node == at.0),
                Event::Leave { .. }
                | Event::Down { .. }
                | Event::Complete { .. }
                | Event::Uplink { .. } => false,
            };
            let group = self.heard[&at].group;
            let same =
                before.is_some_and(|before| (before.branches, before.group) == (branches, group));
            assert!(needed || !same, "{event:?} told {at:?} nothing new");
            if !same {
                assert_eq!(self.forest.epoch(at.1), Some(epoch));
                assert!(epochs.get(&at.1).is_none_or(|&before| before < Some(epoch)));
            }
        }
        match *event {
            Event::Leave { node, key } => drop(self.heard.remove(&(node, key))),
            Event::Down { node } => self.heard.retain(|at, _| at.0 != node),
            _ => {}
        }
        Ok(())
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let mut out = Vec::new();
        self.forest.tick(self.now_ms, &mut out);
        self.told = out.len();
        for assignment in out {
            self.heard.insert((assignment.node, assignment.key), assignment);
        }
        self.check();
    }

    fn join(&mut self, node: u32, tree: u32) {
        self.apply(&Event::Join { node: NodeId(node), key: key(tree) }).unwrap();
    }

    fn restore(&mut self, tree: u32, claims: &[Claim]) {
        self.apply(&Event::Restore { key: key(tree), claims }).unwrap();
    }

    /// Everybody who is in a tree knows its upstreams, and nobody else believes to be in one.
    fn check(&self) {
        let mut members = 0;
        for key in self.forest.keys() {
            let trees: Vec<_> =
                (0..self.forest.stripes()).map(|tree| self.tree(key, tree)).collect();
            members += trees[0].len();
            assert!(!trees[0].is_empty(), "empty trees are dropped");
            let groups = |tree: &HashMap<NodeId, Standing>| -> BTreeMap<NodeId, u64> {
                tree.iter().map(|(node, standing)| (*node, standing.group)).collect()
            };
            for (tree, standings) in trees.iter().enumerate() {
                assert_eq!(groups(standings), groups(&trees[0]), "in each tree the same groups");
                assert_eq!(standings.len(), trees[0].len(), "each node once in each tree");
                for (node, standing) in standings {
                    let told = &self.heard[&(*node, key)].branches;
                    assert_eq!(told.len(), trees.len());
                    assert_eq!(told[tree], expected(&trees, tree, standing), "{node:?}");
                    assert_eq!(self.heard[&(*node, key)].group, standing.group);
                    assert!(self.forest.is_member(*node, key));
                }
                let upstreams = |node| self.heard[&(node, key)].branches[tree].clone();
                assert_no_circle(standings.keys().copied().collect(), upstreams);
            }
        }
        assert_eq!(self.heard.len(), members);
        self.check_loads();
    }

    /// What everybody sends, in halves of an image.
    fn loads(&self) -> HashMap<NodeId, u32> {
        let mut loads: HashMap<NodeId, u32> = HashMap::new();
        for key in self.forest.keys() {
            let stripes = self.forest.stripes();
            for at in (0..stripes).flat_map(|tree| self.forest.level_order(key, tree)) {
                if let Some(parent) = at.parent.filter(|_| !at.complete) {
                    *loads.entry(parent).or_default() += 2 / u32::from(stripes);
                }
            }
        }
        loads
    }

    fn check_loads(&self) {
        let loads = self.loads();
        for &(node, _) in self.heard.keys() {
            let load = loads.get(&node).copied().unwrap_or_default();
            assert_eq!(self.forest.load(node), load, "{node:?}");
        }
    }

    /// One tree, looked at from all sides.
    fn tree(&self, key: TreeKey, tree: u8) -> HashMap<NodeId, Standing> {
        let order: Vec<_> = self.forest.level_order(key, tree).collect();
        let standings: HashMap<_, _> = order.iter().map(|at| (at.node, at.clone())).collect();
        assert_eq!(standings.len(), order.len(), "each node once");
        for standing in &order {
            let own = |child: &&NodeId| standings[*child].group == standing.group;
            assert!(standing.children.iter().filter(own).count() <= 2);
            let is_parent = |child| standings[child].parent == Some(standing.node);
            assert!(standing.children.iter().all(is_parent));
            assert_eq!(above(&standings, standing).len(), standing.level as usize, "no circle");
        }
        standings
    }

    fn parents(&self, tree: u32) -> HashMap<NodeId, Option<NodeId>> {
        self.forest.level_order(key(tree), 0).map(|at| (at.node, at.parent)).collect()
    }

    fn claims(&self, tree: u32) -> Vec<Claim> {
        let claimed = |parent: Option<NodeId>| parent.map_or(Claimed::Registry, Claimed::Node);
        let mut claims: Vec<_> = self
            .parents(tree)
            .into_keys()
            .map(|node| {
                let mut parents = [Claimed::Stranger; 2];
                for (branch, parent) in
                    self.heard[&(node, key(tree))].branches.iter().zip(&mut parents)
                {
                    *parent = claimed(branch.first().copied());
                }
                let at = self.forest.level_order(key(tree), 0).find(|at| at.node == node);
                let (group, complete) = at.map(|at| (at.group, at.complete)).unwrap();
                Claim { node, parents, group, complete }
            })
            .collect();
        claims.sort_unstable_by_key(|claim| claim.node);
        claims
    }
}

/// All above a node, nearest first.
fn above(tree: &HashMap<NodeId, Standing>, standing: &Standing) -> Vec<NodeId> {
    std::iter::successors(standing.parent, |node| tree[node].parent).take(tree.len()).collect()
}

/// What a node is to be told for one tree.
fn expected(trees: &[HashMap<NodeId, Standing>], tree: usize, standing: &Standing) -> Vec<NodeId> {
    let mut expected = above(&trees[tree], standing);
    let own = |node: &NodeId| trees[tree][node].group == standing.group;
    let is_leaf = standing.parent.as_ref().is_some_and(own) && !standing.children.iter().any(own);
    let other = trees.get(1 - tree).filter(|_| is_leaf);
    let aside = other.and_then(|other| other[&standing.node].parent).filter(own);
    expected.truncate(UPSTREAMS_MAX as usize - usize::from(aside.is_some()));
    expected.extend(aside.filter(|aside| !expected.contains(aside)));
    expected
}

/// Whichever of its upstreams each node reads from, nobody waits for itself.
fn assert_no_circle(mut nodes: HashSet<NodeId>, upstreams: impl Fn(NodeId) -> Vec<NodeId>) {
    let mut waiting: Vec<_> = nodes.iter().map(|&node| (node, upstreams(node))).collect();
    while !waiting.is_empty() {
        let before = nodes.len();
        waiting.retain(|(node, above)| {
            let waits = above.iter().any(|above| nodes.contains(above));
            if !waits {
                nodes.remove(node);
            }
            waits
        });
        assert!(nodes.len() < before, "{waiting:?}");
    }
}

fn claim(node: u32, parent: u32) -> Claim {
    claimed(node, Claimed::Node(NodeId(parent)))
}

fn root(node: u32) -> Claim {
    claimed(node, Claimed::Registry)
}

fn claimed(node: u32, parent: Claimed) -> Claim {
    Claim { node: NodeId(node), parents: [parent; 2], group: 0, complete: false }
}

#[test]
fn a_join_tells_the_newcomer_only() {
    let mut told = Told::new(100);
    for node in 0..15 {
        told.join(node, 0);
        assert_eq!(told.told, 1);
    }
    let last = &told.heard[&(NodeId(14), key(0))];
    assert_eq!(last.branches, [[NodeId(6), NodeId(2), NodeId(0)]]);
    assert_eq!(last.epoch, 115);
    told.join(14, 0);
    assert_eq!(told.heard[&(NodeId(14), key(0))].epoch, 115, "asked again, nothing changes");
}

#[test]
fn a_leave_tells_those_below() {
    let mut told = Told::new(0);
    (0..15).for_each(|node| told.join(node, 0));
    told.apply(&Event::Leave { node: NodeId(1), key: key(0) }).unwrap();
    // 7 takes the place of 1, above 3, 4, 8, 9 and 10.
    assert_eq!(told.parents(0)[&NodeId(7)], Some(NodeId(0)));
    assert_eq!(told.told, 6);
    let again = told.apply(&Event::Leave { node: NodeId(1), key: key(0) });
    assert_eq!(again, Err(ForestError::NotMember));
    let nowhere = told.apply(&Event::Leave { node: NodeId(0), key: key(9) });
    assert_eq!(nowhere, Err(ForestError::NotMember));
}

#[test]
fn a_change_of_twin_trees_is_told_to_few() {
    let mut told = Told::of(ShapeKind::Twin, 0);
    let join = |node| Event::Join { node: NodeId(node), key: key(0) };
    (0..1000).for_each(|node| told.hear(&join(node)).unwrap());
    told.check();
    let (mut joins, mut leaves) = (0, 0);
    for round in 0..100 {
        told.hear(&join(1000 + round)).unwrap();
        joins += told.told;
        assert!(told.told <= 16, "{}", told.told);
        told.hear(&Event::Leave { node: NodeId(round * 7), key: key(0) }).unwrap();
        leaves += told.told;
        assert!(told.told <= 80, "{}", told.told);
    }
    told.check();
    assert!(joins <= 400 && leaves <= 2000, "{joins} and {leaves}");
}

#[test]
fn a_node_that_is_down_leaves_all_trees() {
    for kind in ShapeKind::ALL {
        node_down(Told::of(kind, 0));
    }
}

fn node_down(mut told: Told) {
    for tree in 0..20 {
        (0..4).for_each(|node| told.join((node + tree) % 4, tree));
    }
    told.apply(&Event::Down { node: NodeId(1) }).unwrap();
    assert_eq!(told.forest.memberships(NodeId(1)).count(), 0);
    (0..20).for_each(|tree| assert_eq!(told.parents(tree).len(), 3));
    for node in [0, 2, 3] {
        told.apply(&Event::Down { node: NodeId(node) }).unwrap();
    }
    assert_eq!(told.forest.keys().count(), 0);
}

#[test]
fn a_node_that_moved_is_announced_to_its_readers() {
    let mut told = Told::new(0);
    (0..15).for_each(|node| told.join(node, 0));
    told.apply(&Event::Moved { node: NodeId(0) }).unwrap();
    assert_eq!(told.told, 2 + 4 + 8);
    told.apply(&Event::Moved { node: NodeId(3) }).unwrap();
    assert_eq!(told.told, 2);
}

#[test]
fn a_node_is_in_a_bounded_number_of_trees() {
    let mut told = Told::new(0);
    (0..TREES_PER_NODE_MAX).for_each(|tree| told.join(0, tree));
    let more = Event::Join { node: NodeId(0), key: key(TREES_PER_NODE_MAX) };
    assert_eq!(told.apply(&more), Err(ForestError::NodeFull));
    assert!(!told.forest.contains(key(TREES_PER_NODE_MAX)));
}

#[test]
fn claims_of_a_whole_tree_are_kept() {
    let mut before = Told::new(0);
    (0..100).for_each(|node| before.join(node, 0));
    for node in [0, 7, 3, 50, 51] {
        before.apply(&Event::Down { node: NodeId(node) }).unwrap();
    }
    let mut after = Told::new(1000);
    let mut claims = before.claims(0);
    claims.sort_unstable_by_key(|claim| std::cmp::Reverse(claim.node));
    after.restore(0, &claims);
    assert_eq!(after.parents(0), before.parents(0));
    assert!(after.heard.values().all(|assignment| assignment.epoch == 1001));
}

#[test]
fn a_missing_node_costs_only_its_children() {
    let mut before = Told::new(0);
    (0..15).for_each(|node| before.join(node, 0));
    let mut claims = before.claims(0);
    claims.retain(|claim| claim.node != NodeId(1));
    let mut after = Told::new(0);
    after.restore(0, &claims);
    let (old, new) = (before.parents(0), after.parents(0));
    let changed: HashSet<_> = new.keys().filter(|&node| old[node] != new[node]).collect();
    assert_eq!(changed, HashSet::from([&NodeId(3), &NodeId(4)]));
    assert_eq!(new[&NodeId(3)], Some(NodeId(0)), "takes the free place below the root");
}

#[test]
fn a_missing_root_is_followed_by_the_largest_remainder() {
    let mut told = Told::new(0);
    let stranger = claimed(5, Claimed::Stranger);
    told.restore(0, &[stranger, claim(2, 9), claim(3, 2), claim(4, 2), claim(6, 9), claim(7, 6)]);
    let parents = told.parents(0);
    assert_eq!(parents[&NodeId(2)], None);
    assert_eq!(parents[&NodeId(3)], Some(NodeId(2)));
    assert_eq!(parents[&NodeId(4)], Some(NodeId(2)));
    assert_eq!(parents[&NodeId(7)], Some(NodeId(6)));
}

#[test]
fn late_claims_are_kept_where_there_is_room() {
    let mut told = Told::new(0);
    told.restore(0, &[root(0), claim(1, 0)]);
    told.restore(0, &[claim(2, 0)]);
    told.restore(0, &[claim(3, 2)]);
    told.restore(0, &[claim(4, 0)]);
    told.restore(0, &[root(5)]);
    let parents = told.parents(0);
    assert_eq!(parents[&NodeId(2)], Some(NodeId(0)));
    assert_eq!(parents[&NodeId(3)], Some(NodeId(2)));
    assert_eq!(parents[&NodeId(4)], Some(NodeId(1)), "the third child of 0 joins like a newcomer");
    assert_eq!(parents[&NodeId(5)], Some(NodeId(1)), "and so does a second root");
}

#[test]
fn circles_are_opened() {
    let mut told = Told::new(0);
    told.restore(0, &[claim(1, 2), claim(2, 3), claim(3, 1), claim(4, 4), claim(1, 4)]);
    assert_eq!(told.parents(0).len(), 4);
    let mut told = Told::new(0);
    told.restore(0, &[claim(1, 2), claim(2, 1), root(0)]);
    assert_eq!(told.parents(0)[&NodeId(0)], None);
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

fn kinds() -> impl Strategy<Value = ShapeKind> {
    prop::sample::select(ShapeKind::ALL.to_vec())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_claims_make_a_tree(
        kind in kinds(),
        joined in 0_u32..10,
        claims in prop::collection::vec((0_u32..40, 0_u32..45, 0_u32..45, 0_u64..8), 0..60),
    ) {
        let mut told = Told::of(kind, 0);
        (0..joined).for_each(|node| told.join(node, 0));
        let claimed = |parent| match parent {
            43 => Claimed::Stranger,
            44 => Claimed::Registry,
            node => Claimed::Node(NodeId(node)),
        };
        let claims: Vec<_> = claims
            .into_iter()
            .map(|(node, a, b, group)| Claim {
                node: NodeId(node),
                parents: [claimed(a), claimed(b)],
                group: group / 2,
                complete: group % 2 == 1,
            })
            .collect();
        told.restore(0, &claims);
        let expected: HashSet<_> =
            (0..joined).map(NodeId).chain(claims.iter().map(|claim| claim.node)).collect();
        prop_assert_eq!(told.parents(0).into_keys().collect::<HashSet<_>>(), expected);
    }

    #[test]
    fn everybody_knows_the_upstreams_under_churn(
        kind in kinds(),
        events in prop::collection::vec((0_u32..30, 0_u32..3, 0_u32..14), 0..250),
    ) {
        let mut told = Told::of(kind, 0);
        (0..30).for_each(|node| told.forest.set_zone(NodeId(node), Zone(u64::from(node % 3))));
        for (node, tree, kind) in events {
            let (node, key) = (NodeId(node), key(tree));
            let claims = told.claims(tree);
            let event = match kind {
                0..=3 => Event::Join { node, key },
                4..=5 => Event::Leave { node, key },
                6 => Event::Moved { node },
                7 => Event::Restore { key, claims: &claims },
                8..=10 => Event::Complete { node, key },
                11 => Event::Uplink { node, slow: tree > 0 },
                12 => {
                    told.pass(700);
                    continue;
                }
                _ => Event::Down { node },
            };
            let result = told.apply(&event);
            let refused_well = matches!(event, Event::Leave { .. })
                && result == Err(ForestError::NotMember);
            prop_assert!(result.is_ok() || refused_well);
        }
    }

    #[test]
    fn a_restart_keeps_every_place(
        leavers in prop::collection::vec(0_u32..120, 0..60),
    ) {
        let mut before = Told::new(0);
        let join = |node| Event::Join { node: NodeId(node), key: key(0) };
        (0..120).for_each(|node| before.hear(&join(node)).unwrap());
        for node in leavers {
            before.hear(&Event::Down { node: NodeId(node) }).unwrap();
        }
        before.check();
        let mut after = Told::new(0);
        after.restore(0, &before.claims(0));
        prop_assert_eq!(after.parents(0), before.parents(0));
    }
}
