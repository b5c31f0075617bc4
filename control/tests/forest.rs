//! The forest: who is told what when nodes come, go, and come back with places from before.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use xylem_control::forest::{
    Assignment, Claim, Claimed, Event, Forest, ForestError, NodeId, TreeKey,
};
use xylem_control::limits::{TREES_PER_NODE_MAX, UPSTREAMS_MAX};
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
}

impl Told {
    fn new(epoch: u64) -> Self {
        Self { forest: Forest::new(epoch), heard: HashMap::new(), told: 0 }
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), ForestError> {
        let mut out = Vec::new();
        self.forest.apply(event, &mut out)?;
        self.told = out.len();
        for assignment in out {
            let at = (assignment.node, assignment.key);
            let epoch = assignment.epoch;
            let before = self.heard.insert(at, assignment);
            assert!(before.is_none_or(|before| before.epoch <= epoch), "epochs do not fall");
        }
        match *event {
            Event::Leave { node, key } => drop(self.heard.remove(&(node, key))),
            Event::Down { node } => self.heard.retain(|at, _| at.0 != node),
            Event::Join { .. } | Event::Moved { .. } | Event::Restore { .. } => {}
        }
        self.check();
        Ok(())
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
            let standings: Vec<_> = self.forest.level_order(key).collect();
            let parents: HashMap<_, _> =
                standings.iter().map(|standing| (standing.node, standing.parent)).collect();
            assert_eq!(parents.len(), standings.len(), "each node once");
            assert!(!standings.is_empty(), "empty trees are dropped");
            for standing in &standings {
                members += 1;
                assert!(standing.children.len() <= 2);
                assert!(
                    standing.children.iter().all(|child| parents[child] == Some(standing.node))
                );
                let above: Vec<_> =
                    std::iter::successors(standing.parent, |node| parents[node]).collect();
                assert_eq!(above.len(), standing.level as usize, "no circle");
                let expected = &above[..above.len().min(UPSTREAMS_MAX as usize)];
                assert_eq!(self.heard[&(standing.node, key)].branches, [expected]);
                assert!(self.forest.is_member(standing.node, key));
            }
        }
        assert_eq!(self.heard.len(), members);
    }

    fn parents(&self, tree: u32) -> HashMap<NodeId, Option<NodeId>> {
        self.forest.level_order(key(tree)).map(|at| (at.node, at.parent)).collect()
    }

    fn claims(&self, tree: u32) -> Vec<Claim> {
        let claimed = |parent: Option<NodeId>| parent.map_or(Claimed::Registry, Claimed::Node);
        let parents = self.parents(tree).into_iter();
        let mut claims: Vec<_> =
            parents.map(|(node, parent)| Claim { node, parent: claimed(parent) }).collect();
        claims.sort_unstable_by_key(|claim| claim.node);
        claims
    }
}

fn claim(node: u32, parent: u32) -> Claim {
    Claim { node: NodeId(node), parent: Claimed::Node(NodeId(parent)) }
}

fn root(node: u32) -> Claim {
    Claim { node: NodeId(node), parent: Claimed::Registry }
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
fn a_node_that_is_down_leaves_all_trees() {
    let mut told = Told::new(0);
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
    let stranger = Claim { node: NodeId(5), parent: Claimed::Stranger };
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

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_claims_make_a_tree(
        joined in 0_u32..10,
        claims in prop::collection::vec((0_u32..40, 0_u32..45), 0..60),
    ) {
        let mut told = Told::new(0);
        (0..joined).for_each(|node| told.join(node, 0));
        let claims: Vec<_> = claims
            .into_iter()
            .map(|(node, parent)| if parent == 44 { root(node) } else { claim(node, parent) })
            .collect();
        told.restore(0, &claims);
        let expected: HashSet<_> =
            (0..joined).map(NodeId).chain(claims.iter().map(|claim| claim.node)).collect();
        prop_assert_eq!(told.parents(0).into_keys().collect::<HashSet<_>>(), expected);
    }

    #[test]
    fn everybody_knows_the_upstreams_under_churn(
        events in prop::collection::vec((0_u32..30, 0_u32..3, 0_u32..8), 0..250),
    ) {
        let mut told = Told::new(0);
        for (node, tree, kind) in events {
            let (node, key) = (NodeId(node), key(tree));
            let event = match kind {
                0..=3 => Event::Join { node, key },
                4..=5 => Event::Leave { node, key },
                6 => Event::Moved { node },
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
        (0..120).for_each(|node| before.join(node, 0));
        for node in leavers {
            before.apply(&Event::Down { node: NodeId(node) }).unwrap();
        }
        let mut after = Told::new(0);
        after.restore(0, &before.claims(0));
        prop_assert_eq!(after.parents(0), before.parents(0));
    }
}
