//! A few hundred agents over real gRPC: all join, a third is lost at once, control starts again.
//! Waits for what must happen, and asserts no times.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::lab::{Control, Node, hello, image, soon};
use serde_json::Value;
use tokio::task::AbortHandle;
use tokio::time::interval;
use xylem_control::tree::ShapeKind;
use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind as Said;
use xylem_protocol::pb::node_message::Kind;

const AGENTS: usize = 240;
const IMAGE: u8 = 1;
/// So long that nobody is silent for three of it, however busy the machine; but the loss of a node
/// is known after one.
const HEARTBEAT_MS: u32 = 2_000;
/// How long control takes claims at least, and how much longer than all have taken to come.
const SETTLE_MS_MIN: u64 = 3_000;
const SETTLE_FACTOR: u64 = 4;

/// Everybody's parent in each tree; empty: the registry.
type Parents = BTreeMap<String, [String; 2]>;

/// An agent, and what it was told last.
struct Agent {
    name: String,
    node: Node,
    place: Option<pb::Assignment>,
    beats: AbortHandle,
}

/// Breaks the stream off: it is open for as long as somebody could speak.
impl Drop for Agent {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Agent {
    async fn start(control: &Control, name: String, held: Option<&pb::Assignment>) -> Self {
        let node = Node::connect(control).await;
        let Kind::Hello(mut said) = hello(&name, &[]) else { unreachable!() };
        said.memberships.extend(held.map(claim));
        node.say(Kind::Hello(said)).await;
        let beat = pb::NodeMessage { kind: Some(Kind::Heartbeat(pb::Heartbeat::default())) };
        let outgoing = node.outgoing.clone();
        let beats = tokio::spawn(async move {
            let mut beats = interval(Duration::from_millis(u64::from(HEARTBEAT_MS / 4)));
            while outgoing.send(beat.clone()).await.is_ok() {
                beats.tick().await;
            }
        });
        Self { name, node, place: None, beats: beats.abort_handle() }
    }

    fn parents(&self) -> Option<[String; 2]> {
        let [one, two] = self.place.as_ref()?.branches.as_slice() else { panic!("two trees") };
        let parent = |branch: &pb::Branch| branch.upstreams.first().map(|peer| peer.node.clone());
        Some([parent(one).unwrap_or_default(), parent(two).unwrap_or_default()])
    }

    async fn hear(&mut self) {
        match self.node.next().await {
            Some(Said::Welcome(_)) => {}
            Some(Said::Assignment(place)) => self.place = Some(place),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// Listens until it has been told this.
    async fn hears(&mut self, parents: &[String; 2]) {
        while self.parents().as_ref() != Some(parents) {
            self.hear().await;
        }
    }
}

/// What an agent says of its place to a new control.
fn claim(place: &pb::Assignment) -> pb::Membership {
    let parent = |branch: &pb::Branch| branch.upstreams.first().map(|peer| peer.node.clone());
    pb::Membership {
        image: place.image.clone(),
        name: "demo".into(),
        parents: place.branches.iter().map(|branch| parent(branch).unwrap_or_default()).collect(),
        held_bytes: 0,
        complete: false,
        group: place.group,
    }
}

/// What control shows once so many nodes are in each tree, and that these are trees.
async fn shown(control: &Control, count: usize) -> Parents {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async || -> Value {
        let response = client.get(control.url("/api/v1/trees")).send().await.unwrap();
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    };
    let whole = |trees: &Value| {
        let trees = trees["trees"].as_array().unwrap();
        let len = |tree: &Value| tree["nodes"].as_array().unwrap().len();
        trees.len() == 2 && trees.iter().all(|tree| len(tree) == count)
    };
    let trees = soon("whole trees", async {
        let mut ticks = interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            let trees = ask().await;
            if whole(&trees) {
                return trees;
            }
        }
    })
    .await;
    let mut parents = Parents::new();
    for stripe in 0..2 {
        let tree = &trees["trees"][stripe];
        assert_eq!(tree["stripe"], stripe);
        let mut above = BTreeMap::new();
        for at in tree["nodes"].as_array().unwrap() {
            let (name, parent) = (at["node"].as_str().unwrap(), at["parent"].as_str());
            // Level by level, so that there is no ring where everybody's parent came before.
            if let Some(parent) = parent {
                let children: &mut u32 = above.get_mut(parent).expect("a parent stands above");
                *children += 1;
                assert!(*children <= 2, "{parent} feeds more than two in tree {stripe}");
            }
            assert_eq!(above.insert(name.to_owned(), 0), None, "{name} stands once");
            parents.entry(name.to_owned()).or_default()[stripe] = parent.unwrap_or("").into();
        }
    }
    parents
}

/// Nobody feeds others in both trees.
fn assert_disjoint(parents: &Parents) {
    let inner = |stripe: usize| parents.values().map(move |of| of[stripe].as_str());
    let first: std::collections::BTreeSet<_> = inner(0).filter(|name| !name.is_empty()).collect();
    let twice = inner(1).find(|name| first.contains(name));
    assert_eq!(twice, None, "feeds others in both trees");
}

#[tokio::test]
async fn a_crowd_joins_loses_a_third_and_finds_its_trees_again() {
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let control = Control::start_with(ShapeKind::Twin, listen, HEARTBEAT_MS).await;
    let listen = control.address;
    let mut agents = Vec::new();
    let began = Instant::now();
    for number in 0..AGENTS {
        agents.push(Agent::start(&control, format!("n{number}"), None).await);
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
    for agent in &agents {
        agent.node.join(IMAGE).await;
    }
    let parents = shown(&control, AGENTS).await;
    assert_disjoint(&parents);
    for agent in &mut agents {
        agent.hears(&parents[&agent.name]).await;
    }
    assert_eq!(agents[0].place.as_ref().unwrap().image, image(IMAGE));

    let lost: Vec<_> =
        agents.extract_if(.., |agent| agent.name.ends_with(['0', '4', '7'])).collect();
    let gone: Vec<_> = lost.iter().map(|agent| agent.name.clone()).collect();
    drop(lost);
    let parents = shown(&control, AGENTS - gone.len()).await;
    assert_disjoint(&parents);
    for agent in &mut agents {
        let above = &parents[&agent.name];
        assert!(above.iter().all(|parent| !gone.contains(parent)), "{}: {above:?}", agent.name);
        agent.hears(above).await;
    }

    control.stop().await;
    let settle_ms = SETTLE_MS_MIN.max(SETTLE_FACTOR * took_ms);
    let control = Control::start_settling(ShapeKind::Twin, listen, HEARTBEAT_MS, settle_ms).await;
    let mut again = Vec::new();
    for agent in agents {
        again.push(Agent::start(&control, agent.name.clone(), agent.place.as_ref()).await);
    }
    assert_eq!(shown(&control, again.len()).await, parents, "the trees are what they were");
    for agent in &mut again {
        agent.hears(&parents[&agent.name]).await;
    }
    control.stop().await;
}
