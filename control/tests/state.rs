//! The state: heartbeats, lost streams, names used twice, and what is left after a restart. Time is
//! a number here.

use std::collections::HashMap;

use xylem_control::forest::TreeKey;
use xylem_control::limits::{GONE_KEPT_MS, NODES_MAX, TREES_PER_NODE_MAX};
use xylem_control::state::{Event, Hello, Membership, Output, SessionId, Settings, State};
use xylem_control::tree::ShapeKind;
use xylem_protocol::Digest;
use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind;

const HEARTBEAT_MS: u32 = 1000;
const SETTLE_MS: u64 = 2000;

fn key(number: u8) -> TreeKey {
    TreeKey { image: Digest::from_bytes([number; 32]) }
}

/// More keys than fit into a byte.
fn many(number: u32) -> TreeKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    TreeKey { image: Digest::from_bytes(bytes) }
}

/// Control and its nodes, without anything between them.
struct World {
    state: State,
    now_ms: u64,
    next_session: u64,
    sent: HashMap<SessionId, Vec<Kind>>,
    ended: Vec<SessionId>,
}

impl World {
    /// A control that is past its settling.
    fn new() -> Self {
        Self::of(ShapeKind::Ft)
    }

    fn of(shape: ShapeKind) -> Self {
        let mut world = Self::settling_with(shape, 1);
        world.pass(10 * u64::from(HEARTBEAT_MS));
        world
    }

    fn settling(first_epoch: u64) -> Self {
        Self::settling_with(ShapeKind::Ft, first_epoch)
    }

    fn settling_with(shape: ShapeKind, first_epoch: u64) -> Self {
        let state = State::new(
            Settings {
                shape,
                heartbeat_ms: HEARTBEAT_MS,
                settle_ms: SETTLE_MS,
                first_epoch,
                voucher_key: [7; 32],
            },
            0,
        );
        Self { state, now_ms: 0, next_session: 0, sent: HashMap::new(), ended: Vec::new() }
    }

    fn say(&mut self, session: SessionId, event: Event) {
        let mut out = Vec::new();
        self.state.apply(session, event, self.now_ms, &mut out);
        self.take(out);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let mut out = Vec::new();
        self.state.tick(self.now_ms, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { session, message } => {
                    self.sent.entry(session).or_default().push(message);
                }
                Output::End { session } => self.ended.push(session),
            }
        }
    }

    fn attach(&mut self, name: &str, held: &[(u8, &str)]) -> SessionId {
        let membership = |&(image, parent): &(u8, &str)| Membership {
            key: key(image),
            name: "demo".into(),
            parents: vec![parent.into()],
            group: 0,
            complete: false,
        };
        self.attach_with(name, held.iter().map(membership).collect())
    }

    fn attach_with(&mut self, name: &str, memberships: Vec<Membership>) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let hello = Hello {
            node: name.into(),
            address: format!("10.0.0.1:{}", 1000 + self.next_session),
            zone: String::new(),
            version: "1".into(),
            memberships,
        };
        self.say(session, Event::Hello(hello));
        session
    }

    fn join(&mut self, session: SessionId, image: u8) {
        self.say(session, Event::Join { key: key(image), name: "demo".into() });
    }

    /// What was sent since the last call.
    fn heard(&mut self, session: SessionId) -> Vec<Kind> {
        self.sent.remove(&session).unwrap_or_default()
    }

    /// The names of the upstreams in the only message since the last call.
    fn upstreams(&mut self, session: SessionId) -> Vec<String> {
        match self.heard(session).as_slice() {
            [Kind::Assignment(assignment)] => names(assignment),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&mut self, session: SessionId) -> String {
        match self.heard(session).as_slice() {
            [Kind::Refusal(refusal)] => refusal.reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Who is in the tree, level by level, each with its parent.
    fn tree(&self, image: u8) -> Vec<(String, Option<String>)> {
        let image = key(image).image.to_string();
        let tree = self.state.trees().trees.into_iter().find(|tree| tree.image == image);
        tree.into_iter().flat_map(|tree| tree.nodes).map(|at| (at.node, at.parent)).collect()
    }

    fn members(&self, image: u8) -> Vec<String> {
        self.tree(image).into_iter().map(|(node, _)| node).collect()
    }
}

fn names(assignment: &pb::Assignment) -> Vec<String> {
    let [branch] = assignment.branches.as_slice() else { panic!("{assignment:?}") };
    branch.upstreams.iter().map(|peer| peer.node.clone()).collect()
}

fn welcome() -> Kind {
    Kind::Welcome(pb::Welcome {
        heartbeat_ms: HEARTBEAT_MS,
        report_ms: HEARTBEAT_MS / 4,
        voucher_key: vec![7; 32],
    })
}

#[test]
fn joins_are_answered_with_places() {
    let mut world = World::new();
    let nodes: Vec<_> = (0..5).map(|number| world.attach(&format!("n{number}"), &[])).collect();
    for &node in &nodes {
        assert_eq!(world.heard(node), [welcome()]);
        world.join(node, 1);
    }
    assert_eq!(world.upstreams(nodes[0]), [""; 0]);
    assert_eq!(world.upstreams(nodes[4]), ["n1", "n0"]);
    world.say(nodes[1], Event::Leave { key: key(1) });
    assert_eq!(world.members(1), ["n0", "n3", "n2", "n4"]);
    assert_eq!(world.upstreams(nodes[1]), ["n0"], "was its place; a leaver is told nothing");
    world.say(nodes[1], Event::Leave { key: key(1) });
    assert_eq!(world.refusal(nodes[1]), "the node is not in the tree of this image");
}

#[test]
fn hello_comes_first_and_once() {
    let mut world = World::new();
    world.join(SessionId(99), 1);
    assert_eq!(world.refusal(SessionId(99)), "the first message must be hello");
    world.say(SessionId(99), Event::Goodbye);
    world.say(SessionId(99), Event::Lost);
    assert!(world.heard(SessionId(99)).is_empty());
    let node = world.attach("a", &[]);
    world.heard(node);
    let hello = Hello {
        node: "b".into(),
        address: "10.0.0.1:1".into(),
        zone: String::new(),
        version: String::new(),
        memberships: Vec::new(),
    };
    world.say(node, Event::Hello(hello));
    assert_eq!(world.refusal(node), "hello was said already");
}

#[test]
fn three_missed_heartbeats_are_leaving() {
    let mut world = World::new();
    let (a, b) = (world.attach("a", &[]), world.attach("b", &[]));
    world.join(a, 1);
    world.join(b, 1);
    for _ in 0..10 {
        world.pass(1000);
        world.say(b, Event::Heartbeat(pb::Heartbeat::default()));
        if world.ended.is_empty() {
            assert_eq!(world.members(1), ["a", "b"]);
        }
    }
    assert_eq!(world.ended, [a]);
    assert_eq!(world.members(1), ["b"]);
    assert!(matches!(world.heard(a).as_slice(), [.., Kind::Refusal(_)]));
    let Some(Kind::Assignment(last)) = world.heard(b).pop() else { panic!("b was not told") };
    assert!(names(&last).is_empty());
    let status = world.state.status(world.now_ms);
    let connected: Vec<_> = status.nodes.iter().map(|node| node.connected).collect();
    assert_eq!(connected, [false, true]);
    world.pass(0);
    world.say(b, Event::Goodbye);
    world.pass(GONE_KEPT_MS + 1);
    assert!(world.state.status(world.now_ms).nodes.is_empty());
}

#[test]
fn who_is_found_to_be_stuck_may_miss_one_heartbeat() {
    let mut world = World::new();
    let sessions: Vec<_> = (0..4).map(|number| world.attach(&format!("n{number}"), &[])).collect();
    for &session in &sessions {
        world.join(session, 1);
    }
    let stuck = || Event::Stuck { node: "n1".into() };
    let beat = |world: &mut World, which: &[usize]| {
        for &which in which {
            world.say(sessions[which], Event::Heartbeat(pb::Heartbeat::default()));
        }
    };
    // A liar moves nobody who is heard.
    for _ in 0..10 {
        world.say(sessions[3], stuck());
        world.pass(u64::from(HEARTBEAT_MS));
        beat(&mut world, &[0, 1, 2, 3]);
    }
    assert_eq!(world.members(1).len(), 4);
    world.say(sessions[3], stuck());
    world.pass(u64::from(HEARTBEAT_MS));
    beat(&mut world, &[0, 2, 3]);
    assert_eq!(world.members(1).len(), 4, "it may be on its way");
    world.heard(sessions[1]);
    world.pass(u64::from(HEARTBEAT_MS) / 2 + 1);
    let mut left = world.members(1);
    left.sort();
    assert_eq!(left, ["n0", "n2", "n3"]);
    assert_eq!(world.refusal(sessions[1]), "no message for 1 heartbeat");
    // Nobody of that name: nothing.
    world.say(sessions[3], Event::Stuck { node: "nobody".into() });
    assert_eq!(world.members(1).len(), 3);
}

#[test]
fn a_lost_stream_keeps_its_places_for_a_heartbeat() {
    let mut world = World::new();
    let (a, b) = (world.attach("a", &[]), world.attach("b", &[]));
    world.join(a, 1);
    world.join(b, 1);
    world.say(a, Event::Lost);
    world.pass(1000);
    assert_eq!(world.members(1), ["a", "b"]);
    world.heard(b);
    let again = world.attach("a", &[(1, "")]);
    world.pass(1001);
    assert_eq!(world.members(1), ["a", "b"], "came back in time");
    assert_eq!(world.upstreams(b), ["a"], "at another address");
    world.say(b, Event::Heartbeat(pb::Heartbeat::default()));
    world.say(again, Event::Lost);
    world.pass(1001);
    assert_eq!(world.members(1), ["b"]);
    world.say(a, Event::Lost);
    world.say(b, Event::Goodbye);
    assert_eq!(world.ended, [b]);
    assert!(world.members(1).is_empty());
    assert_eq!(world.state.totals().trees, 0);
}

#[test]
fn the_newer_stream_of_a_name_wins() {
    let mut world = World::new();
    let old = world.attach("a", &[]);
    world.join(old, 1);
    world.heard(old);
    let new = world.attach("a", &[(1, "")]);
    assert!(world.refusal(old).contains("attached again"));
    assert_eq!(world.ended, [old]);
    world.say(old, Event::Lost);
    world.say(old, Event::Goodbye);
    world.pass(2000);
    assert_eq!(world.members(1), ["a"], "what the old stream still says does not matter");
    assert_eq!(world.heard(new).len(), 2);
}

#[test]
fn a_node_that_comes_back_empty_has_left() {
    let mut world = World::new();
    let (a, b) = (world.attach("a", &[]), world.attach("b", &[]));
    for image in [1, 2] {
        world.join(a, image);
        world.join(b, image);
    }
    world.attach("a", &[(2, "")]);
    assert_eq!(world.members(1), ["b"]);
    assert_eq!(world.members(2), ["a", "b"]);
}

#[test]
fn a_restart_keeps_the_parents() {
    let mut before = World::new();
    let mut sessions = Vec::new();
    for number in 0..20 {
        let session = before.attach(&format!("n{number}"), &[]);
        before.join(session, 1);
        sessions.push(session);
    }
    for leaver in [3, 0, 9] {
        before.say(sessions[leaver], Event::Goodbye);
    }
    let old = before.tree(1);
    let mut after = World::settling(1_000_000);
    let mut waiting = after.attach("newcomer", &[]);
    after.join(waiting, 2);
    assert_eq!(after.members(2), ["newcomer"], "nobody claims that image, so nobody waits");
    after.heard(waiting);
    for (node, parent) in old.iter().rev() {
        after.attach(node, &[(1, parent.as_deref().unwrap_or(""))]);
        if node == "n7" {
            waiting = after.attach("waiting", &[]);
            after.join(waiting, 1);
            after.join(waiting, 1);
        }
    }
    let Some(Kind::Assignment(lodging)) = after.heard(waiting).pop() else { panic!("not told") };
    assert_eq!(names(&lodging).len(), 3, "reads from some of them until the tree is built");
    assert_eq!(after.tree(1), []);
    after.pass(SETTLE_MS);
    let parents: HashMap<_, _> = after.tree(1).into_iter().collect();
    for (node, parent) in old {
        assert_eq!(parents[&node], parent, "{node}");
    }
    assert_eq!(parents.len(), 18);
    let Some(Kind::Assignment(place)) = after.heard(waiting).pop() else { panic!("not told") };
    assert!(place.epoch > lodging.epoch);
    let epochs: Vec<_> = after.state.trees().trees.iter().map(|tree| tree.epoch).collect();
    assert!(epochs.into_iter().all(|epoch| epoch > 1_000_000));
}

#[test]
fn who_has_an_image_is_a_source_of_it() {
    let mut world = World::of(ShapeKind::Twin);
    let nodes: Vec<_> = (0..3).map(|number| world.attach(&format!("n{number}"), &[])).collect();
    nodes.iter().for_each(|&node| world.join(node, 1));
    world.pass(2500);
    for &node in &nodes {
        world.heard(node);
        world.say(node, Event::Complete { key: key(1) });
        assert_eq!(world.heard(node), [], "nothing to be done");
    }
    let mut parents = Vec::new();
    for name in ["a", "b", "c"] {
        let cold = world.attach(name, &[]);
        world.heard(cold);
        world.join(cold, 1);
        let Some(Kind::Assignment(place)) = world.heard(cold).pop() else { panic!("no place") };
        let [one, other] = place.branches.as_slice() else { panic!("{place:?}") };
        assert_eq!(one.upstreams[0], other.upstreams[0], "whole from one of them");
        assert!(place.group > 0);
        parents.push(one.upstreams[0].node.clone());
    }
    parents.sort();
    assert_eq!(parents, ["n0", "n1", "n2"]);
    let trees = world.state.trees().trees;
    let shown: Vec<_> = trees[1].nodes.iter().map(|at| (at.node.as_str(), at.complete)).collect();
    assert_eq!(shown.iter().filter(|(_, complete)| *complete).count(), 3, "{shown:?}");
    // A node that has it says so when control is new; who comes meanwhile is sent to it.
    let mut after = World::settling_with(ShapeKind::Twin, 1_000_000);
    after.attach("cold", &[(1, "")]);
    let warm = Membership {
        key: key(1),
        name: "demo".into(),
        parents: vec![String::new(); 2],
        group: 7,
        complete: true,
    };
    after.attach_with("warm", vec![warm]);
    let newcomer = after.attach("newcomer", &[]);
    after.join(newcomer, 1);
    let Some(Kind::Assignment(lodging)) = after.heard(newcomer).pop() else { panic!("not told") };
    assert_eq!(names(&lodging), ["warm", "cold"]);
}

#[test]
fn claims_of_nodes_that_go_while_settling_do_not_count() {
    let mut world = World::settling(1);
    let a = world.attach("a", &[(1, ""), (2, "")]);
    let b = world.attach("b", &[(1, "a"), (2, "a")]);
    world.say(a, Event::Goodbye);
    world.say(b, Event::Leave { key: key(2) });
    assert_eq!(world.heard(b), [welcome()]);
    world.pass(SETTLE_MS);
    assert_eq!(world.tree(1), [("b".to_owned(), None)]);
    assert!(world.tree(2).is_empty());
    let late = world.attach("c", &[(1, "b")]);
    assert_eq!(world.tree(1)[1], ("c".to_owned(), Some("b".to_owned())));
    assert_eq!(world.heard(late).len(), 2);
}

#[test]
fn hops_are_merged_and_only_ends_report() {
    let mut world = World::new();
    let (a, b) = (world.attach("a", &[]), world.attach("b", &[]));
    let report = |parent: &str, child: &str, from_child, relay_bytes| pb::HopReport {
        parent: parent.into(),
        child: child.into(),
        from_child,
        relay_bytes,
        srtt_us: if from_child { 1 } else { 250 },
        ..Default::default()
    };
    world.heard(a);
    world.say(a, Event::Hops(vec![report("a", "b", false, 5), report("registry", "a", true, 7)]));
    world.say(b, Event::Hops(vec![report("a", "b", true, 6)]));
    let hops = world.state.hop_table().hops;
    let shown: Vec<_> =
        hops.iter().map(|hop| (hop.parent.as_str(), hop.child.as_str(), hop.relay_bytes)).collect();
    assert_eq!(shown, [("registry", "a", 7), ("a", "b", 6)]);
    assert_eq!(hops[1].srtt_ms, 0.25);
    world.say(a, Event::Hops(vec![report("b", "c", true, 1)]));
    assert_eq!(world.refusal(a), "node a is not the end that this hop report names");
    assert_eq!(world.state.hop_table().hops.len(), 2);
}

#[test]
fn nodes_and_trees_are_bounded() {
    let mut world = World::new();
    let a = world.attach("a", &[]);
    for image in 0..=TREES_PER_NODE_MAX {
        world.heard(a);
        world.say(a, Event::Join { key: many(image), name: "demo".into() });
    }
    assert_eq!(world.refusal(a), "the node is in 256 trees already");
    for number in 1..NODES_MAX {
        world.attach(&format!("n{number}"), &[]);
    }
    let refused = world.attach("more", &[]);
    assert_eq!(world.refusal(refused), "control knows too many nodes already");
    assert_eq!(world.ended, [refused]);
    world.say(a, Event::Lost);
    world.pass(1001);
    let taken = world.attach("more", &[]);
    let Kind::Welcome(rare) = welcome() else { unreachable!() };
    let rare = Kind::Welcome(pb::Welcome { report_ms: HEARTBEAT_MS, ..rare });
    assert_eq!(world.heard(taken), [rare], "the place of a node that is gone");
}
