//! Control over real streams and real HTTP on loopback. Waits for what must happen, and asserts no
//! times.

mod crowd;
mod lab;

use std::collections::{HashMap, HashSet};

use lab::{Control, Node, hello, image, soon};
use serde_json::Value;
use xylem_control::limits::MESSAGE_MAX;
use xylem_control::tree::ShapeKind;
use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind as Said;
use xylem_protocol::pb::node_message::Kind;

/// So slow that no heartbeat is missed in a test.
const SLOW_MS: u32 = 60_000;
/// Short enough to be waited for, and long enough that nobody who speaks is silent for three of
/// it, however busy the machine.
const HEARTBEAT_MS: u32 = 2_000;
/// How long a control takes claims: enough for a few nodes to be back.
const SETTLE_MS: u64 = 4_000;

async fn get(control: &Control, path: &str) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = soon("an answer", client.get(control.url(path)).send()).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn json(control: &Control, path: &str) -> Value {
    let (status, text) = get(control, path).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The reason in the next message.
async fn refusal(node: &mut Node) -> String {
    match node.next().await {
        Some(Said::Refusal(refusal)) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn joins_are_answered_and_changes_are_pushed() {
    let control = Control::start(SLOW_MS).await;
    let mut nodes = Vec::new();
    for number in 0..5 {
        let mut node = Node::attach(&control, &format!("n{number}"), &[]).await;
        node.join(1).await;
        let upstreams = node.upstreams().await;
        let expected = [&[][..], &["n0"], &["n0"], &["n1", "n0"], &["n1", "n0"]];
        assert_eq!(upstreams, expected[number]);
        nodes.push(node);
    }
    nodes[1].say(Kind::Goodbye(pb::Goodbye {})).await;
    assert_eq!(nodes[1].next().await, None, "control ends the stream after a goodbye");
    assert_eq!(nodes[3].upstreams().await, ["n0"]);
    assert_eq!(nodes[4].upstreams().await, ["n3", "n0"]);
    nodes[3].say(Kind::Leave(pb::Leave { image: image(1) })).await;
    assert_eq!(nodes[4].upstreams().await, ["n0"]);
    control.stop().await;
    assert_eq!(nodes[4].next().await, None);
}

#[tokio::test]
async fn a_lost_stream_is_leaving() {
    let control = Control::start(HEARTBEAT_MS).await;
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let mut node = Node::attach(&control, name, &[]).await;
        node.join(1).await;
        node.upstreams().await;
        nodes.push(node);
    }
    let mut b = nodes.pop().unwrap();
    let beat = b.outgoing.clone();
    let beats = tokio::spawn(async move {
        let heartbeat = pb::NodeMessage { kind: Some(Kind::Heartbeat(pb::Heartbeat::default())) };
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
        while beat.send(heartbeat.clone()).await.is_ok() {
            ticks.tick().await;
        }
    });
    drop(nodes);
    assert_eq!(b.upstreams().await, [""; 0], "b is the root now");
    let status = json(&control, "/api/v1/status").await;
    assert_eq!(status["nodes"][0]["node"], "a");
    assert_eq!(status["nodes"][0]["connected"], false);
    assert_eq!(status["nodes"][1]["connected"], true);
    beats.abort();
    control.stop().await;
}

#[tokio::test]
async fn silence_is_leaving_though_the_stream_is_open() {
    let control = Control::start(HEARTBEAT_MS / 2).await;
    let mut silent = Node::attach(&control, "silent", &[]).await;
    silent.join(1).await;
    silent.upstreams().await;
    assert_eq!(refusal(&mut silent).await, "no message for 3 heartbeats");
    assert_eq!(silent.next().await, None);
    assert_eq!(json(&control, "/api/v1/trees").await["trees"], serde_json::json!([]));
    control.stop().await;
}

#[tokio::test]
async fn parents_outlive_control() {
    let control = Control::start(SLOW_MS).await;
    let address = control.address;
    let mut nodes = Vec::new();
    for number in 0..7 {
        let mut node = Node::attach(&control, &format!("n{number}"), &[]).await;
        node.join(1).await;
        node.upstreams().await;
        nodes.push(node);
    }
    nodes[0].say(Kind::Goodbye(pb::Goodbye {})).await;
    assert_eq!(nodes[0].next().await, None);
    let before = json(&control, "/api/v1/trees").await;
    control.stop().await;

    let control = Control::start_settling(ShapeKind::Ft, address, SLOW_MS, SETTLE_MS).await;
    let mut again = Vec::new();
    for at in before["trees"][0]["nodes"].as_array().unwrap().iter().rev() {
        let parent = at["parent"].as_str().unwrap_or("").to_owned();
        let node = at["node"].as_str().unwrap().to_owned();
        again.push((Node::attach(&control, &node, &[(1, &parent)]).await, parent));
    }
    for (node, parent) in &mut again {
        let upstreams = node.upstreams().await;
        assert_eq!(upstreams.first().unwrap_or(&String::new()), parent);
    }
    let epoch = |trees: &Value| trees["trees"][0]["epoch"].as_u64().unwrap();
    let after = json(&control, "/api/v1/trees").await;
    assert!(epoch(&after) > epoch(&before), "nodes must not take the new places for old ones");
    control.stop().await;
}

#[tokio::test]
async fn the_newer_stream_of_a_name_wins() {
    let control = Control::start(SLOW_MS).await;
    let mut old = Node::attach(&control, "a", &[]).await;
    let _new = Node::attach(&control, "a", &[]).await;
    assert!(refusal(&mut old).await.contains("node a attached again"));
    assert_eq!(old.next().await, None);
    let status = json(&control, "/api/v1/status").await;
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(status["nodes"][0]["connected"], true);
    control.stop().await;
}

#[tokio::test]
async fn bad_messages_are_refused_and_the_stream_goes_on() {
    let control = Control::start(SLOW_MS).await;
    let mut node = Node::attach(&control, "a", &[]).await;
    node.say(Kind::Join(pb::Join { image: "sha256:1".into(), name: "demo".into() })).await;
    assert!(refusal(&mut node).await.contains("64 lower-case hex digits"));
    node.say(Kind::Join(pb::Join { image: image(1), name: "../x".into() })).await;
    assert!(refusal(&mut node).await.starts_with("repository name is not valid"));
    node.say(hello("b", &[])).await;
    assert_eq!(refusal(&mut node).await, "hello was said already");
    node.join(1).await;
    assert_eq!(node.upstreams().await, [""; 0]);

    let mut nameless = Node::connect(&control).await;
    nameless.say(hello("no spaces", &[])).await;
    assert!(refusal(&mut nameless).await.starts_with("node name is not valid"));
    assert_eq!(nameless.next().await, None, "no stream without a good hello");
    let mut hasty = Node::connect(&control).await;
    hasty.join(1).await;
    assert_eq!(refusal(&mut hasty).await, "the first message must be hello");
    assert_eq!(hasty.next().await, None);
    let mut huge = Node::attach(&control, "huge", &[]).await;
    let name = "x".repeat(MESSAGE_MAX as usize);
    huge.say(Kind::Join(pb::Join { image: image(1), name })).await;
    assert_eq!(huge.next().await, None);
    node.join(2).await;
    assert_eq!(node.upstreams().await, [""; 0], "the others go on");
    control.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_read_is_dropped() {
    let control = Control::start(SLOW_MS).await;
    let deaf = Node::attach(&control, "deaf", &[]).await;
    // Each of these is answered with a refusal, until neither the socket nor the queue takes more.
    let leave = pb::NodeMessage { kind: Some(Kind::Leave(pb::Leave { image: image(1) })) };
    let outgoing = deaf.outgoing.clone();
    let talk = tokio::spawn(async move { while outgoing.send(leave.clone()).await.is_ok() {} });
    soon("the drop", async {
        let dropped = "xylem_control_streams_clogged_total 1";
        while !get(&control, "/metrics").await.1.contains(dropped) {}
    })
    .await;
    assert_eq!(json(&control, "/api/v1/status").await["nodes"][0]["connected"], false);
    let mut other = Node::attach(&control, "other", &[]).await;
    other.join(1).await;
    assert_eq!(other.upstreams().await, [""; 0], "the others go on");
    talk.abort();
    drop(deaf);
    control.stop().await;
}

#[tokio::test]
async fn hops_and_heartbeats_are_shown() {
    let control = Control::start(SLOW_MS).await;
    let a = Node::attach(&control, "a", &[]).await;
    let mut b = Node::attach(&control, "b", &[]).await;
    let report = |from_child| pb::HopReport {
        parent: "a".into(),
        child: "b".into(),
        from_child,
        relay_bytes: if from_child { 1000 } else { 900 },
        kernel_bytes: 1000,
        mbit_s: 941.5,
        srtt_us: 120,
        first_byte_us: 300,
        residence_p50_us: 40,
        retransmits: 3,
        verdict: if from_child { pb::Verdict::Unknown } else { pb::Verdict::Network }.into(),
        source: pb::Source::Bpf.into(),
        ..Default::default()
    };
    a.say(Kind::Hops(pb::HopReports { reports: vec![report(false)] })).await;
    b.say(Kind::Hops(pb::HopReports { reports: vec![report(true)] })).await;
    let heartbeat = pb::Heartbeat { held_bytes: 77, free_bytes: 88, active_flows: 2 };
    b.say(Kind::Heartbeat(heartbeat)).await;
    b.join(1).await;
    assert_eq!(b.upstreams().await, [""; 0], "and so all before it has arrived");
    a.join(1).await;
    let hops = soon("the report of a", async {
        loop {
            let hops = json(&control, "/api/v1/hops").await;
            if hops["hops"][0]["verdict"] == "network" {
                return hops;
            }
        }
    })
    .await;
    let hop = &hops["hops"][0];
    assert_eq!((hop["parent"].as_str(), hop["child"].as_str()), (Some("a"), Some("b")));
    assert_eq!((&hop["relay_bytes"], &hop["kernel_bytes"]), (&1000.into(), &1000.into()));
    assert_eq!((&hop["mbit_s"], &hop["srtt_ms"]), (&941.5.into(), &0.12.into()));
    assert_eq!((&hop["first_byte_ms"], &hop["unit_p50_ms"]), (&0.3.into(), &0.04.into()));
    assert_eq!((&hop["retransmits"], &hop["source"]), (&3.into(), &"bpf".into()));
    let status = json(&control, "/api/v1/status").await;
    assert_eq!(status["shape"], "ft");
    assert_eq!(status["nodes"][1]["held_bytes"], 77);
    assert_eq!(status["nodes"][1]["free_bytes"], 88);
    assert_eq!(status["nodes"][1]["active_flows"], 2);
    assert_eq!(status["nodes"][1]["zone"], "z1");
    control.stop().await;
}

#[tokio::test]
async fn trees_are_shown_in_level_order() {
    let control = Control::start(SLOW_MS).await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut node = Node::attach(&control, name, &[]).await;
        node.join(7).await;
        node.upstreams().await;
        nodes.push(node);
    }
    let trees = json(&control, "/api/v1/trees").await;
    let tree = &trees["trees"][0];
    assert_eq!((&tree["image"], &tree["name"]), (&image(7).into(), &"demo".into()));
    let places = tree["nodes"].as_array().unwrap();
    let names: Vec<_> = places.iter().map(|at| at["node"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(places[0]["parent"], Value::Null);
    assert_eq!(places[0]["children"], serde_json::json!(["b", "c"]));
    assert_eq!(places[0]["address"], "127.0.0.1:4400");
    assert_eq!((&places[3]["parent"], &places[3]["level"]), (&"b".into(), &2.into()));
    let (status, metrics) = get(&control, "/metrics").await;
    assert_eq!(status, 200);
    for line in ["xylem_control_trees 1", "xylem_control_places 4", "xylem_control_joins_total 4"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    control.stop().await;
}

#[tokio::test]
async fn other_requests() {
    let control = Control::start(SLOW_MS).await;
    assert_eq!(get(&control, "/healthz").await, (200, "ok\n".to_owned()));
    let (status, text) = get(&control, "/nowhere").await;
    assert_eq!(status, 404);
    assert!(serde_json::from_str::<Value>(&text).unwrap()["error"].is_string());
    let welcomed = Node::attach(&control, "a", &[]).await;
    drop(welcomed);
    control.stop().await;
}

#[tokio::test]
async fn an_assignment_names_addresses() {
    let control = Control::start(SLOW_MS).await;
    let mut a = Node::attach(&control, "a", &[]).await;
    a.join(1).await;
    a.upstreams().await;
    let mut b = Node::attach(&control, "b", &[]).await;
    b.join(1).await;
    let Some(Said::Assignment(place)) = b.next().await else { panic!("no place") };
    assert_eq!(place.image, image(1));
    assert_eq!(place.branches[0].upstreams[0].address, "127.0.0.1:4400");
    control.stop().await;
}

#[tokio::test]
async fn twin_trees_are_told_shown_and_claimed() {
    let address = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let control = Control::start_with(ShapeKind::Twin, address, SLOW_MS).await;
    let address = control.address;
    let mut nodes = Vec::new();
    for number in 0..7 {
        let mut node = Node::attach(&control, &format!("n{number}"), &[]).await;
        node.join(1).await;
        let Some(Said::Assignment(place)) = node.next().await else { panic!("no place") };
        assert_eq!(place.branches.len(), 2);
        nodes.push(node);
    }
    let before = json(&control, "/api/v1/trees").await;
    control.stop().await;
    let (stripes, names) = shown(&before);
    assert_eq!(stripes, [0, 1]);
    let parent = |tree: usize, name: &String| names[tree][name].clone();
    let inner: Vec<HashSet<_>> =
        names.iter().map(|tree| tree.values().filter(|name| !name.is_empty()).collect()).collect();
    assert!(inner[0].is_disjoint(&inner[1]), "nobody has children twice");

    let control = Control::start_settling(ShapeKind::Twin, address, SLOW_MS, SETTLE_MS).await;
    let mut again = Vec::new();
    for name in names[0].keys() {
        let mut node = Node::connect(&control).await;
        let Kind::Hello(mut hello) = hello(name, &[(1, "")]) else { unreachable!() };
        hello.memberships[0].parents = vec![parent(0, name), parent(1, name)];
        node.say(Kind::Hello(hello)).await;
        assert!(matches!(node.next().await, Some(Said::Welcome(_))));
        again.push(node);
    }
    for node in &mut again {
        let Some(Said::Assignment(place)) = node.next().await else { panic!("no place") };
        assert_eq!(place.branches.len(), 2);
    }
    let after = json(&control, "/api/v1/trees").await;
    assert_eq!(shown(&after).1.map(|tree| tree.len()), [7, 7]);
    assert_eq!(json(&control, "/api/v1/status").await["shape"], "twin");
    control.stop().await;
}

/// Which stripes are shown, and in each tree everybody's parent.
fn shown(trees: &Value) -> (Vec<u64>, [HashMap<String, String>; 2]) {
    let trees = trees["trees"].as_array().unwrap();
    assert!(trees.iter().all(|tree| tree["shape"] == "twin" && tree["stripes"] == 2));
    let parents = |tree: &Value| {
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        nodes.map(|node| (text(&node["node"]), text(&node["parent"]))).collect()
    };
    let stripes = trees.iter().map(|tree| tree["stripe"].as_u64().unwrap()).collect();
    (stripes, [parents(&trees[0]), parents(&trees[1])])
}
