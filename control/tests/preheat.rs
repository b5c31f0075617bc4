//! Preheats: a real control over real streams, and the real `xylem preheat`.

#[expect(dead_code, reason = "nobody joins a tree here")]
mod lab;
#[expect(dead_code, reason = "control is a real one here")]
mod run;

use lab::{Control, Node, hello, soon};
use run::{complaint, stdout, xylem};
use serde_json::{Value, json};
use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind as Said;
use xylem_protocol::pb::node_message::Kind;

/// So slow that no heartbeat is missed in a test.
const SLOW_MS: u32 = 60_000;

async fn post(control: &Control, body: &Value) -> (u16, Value) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(control.url("/api/v1/preheats")).json(body);
    let response = soon("an answer", request.send()).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn show(control: &Control, id: &Value) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(control.url(&format!("/api/v1/preheats/{id}")));
    let response = soon("an answer", request.send()).await.unwrap();
    response.json().await.unwrap()
}

/// What is shown, once a node stands like this in it.
async fn shown(control: &Control, id: &Value, node: usize, state: &str) -> Value {
    soon("the state", async {
        loop {
            let told = show(control, id).await;
            if told["nodes"][node]["state"] == state {
                return told;
            }
        }
    })
    .await
}

fn order(nodes: &str) -> Value {
    json!({ "registry": "r.example", "name": "a/b", "reference": "v1", "nodes": nodes })
}

async fn told(node: &mut Node) -> pb::Preheat {
    match node.next().await {
        Some(Said::Preheat(preheat)) => preheat,
        other => panic!("{other:?}"),
    }
}

async fn say(node: &Node, id: u64, done: u64, state: pb::PreheatState, error: &str) {
    let images = vec![lab::image(1)];
    let (state, error) = (state.into(), error.to_owned());
    let progress =
        pb::PreheatProgress { id, done_bytes: done, total_bytes: 10, state, error, images };
    node.say(Kind::Preheat(progress)).await;
}

async fn attach(control: &Control, name: &str, zone: &str) -> Node {
    let mut node = Node::connect(control).await;
    let Kind::Hello(mut said) = hello(name, &[]) else { panic!() };
    said.zone = zone.to_owned();
    node.say(Kind::Hello(said)).await;
    assert!(matches!(node.next().await, Some(Said::Welcome(_))));
    node
}

#[tokio::test]
async fn the_selected_nodes_are_told_and_say_how_far_they_are() {
    let control = Control::start(SLOW_MS).await;
    let mut one = attach(&control, "gpu-1", "eu").await;
    let mut two = attach(&control, "gpu-2", "us").await;
    let mut cpu = attach(&control, "cpu-1", "eu").await;

    let (status, started) = post(&control, &order("gpu-*,n9")).await;
    assert_eq!((status, &started["nodes"], &started["joined"]), (202, &json!(3), &json!(false)));
    let preheat = told(&mut one).await;
    assert_eq!((preheat.registry.as_str(), preheat.name.as_str()), ("r.example", "a/b"));
    assert_eq!((preheat.reference.as_str(), preheat.platforms.len()), ("v1", 0));
    assert_eq!(told(&mut two).await, preheat);
    // The same again is joined: nobody is told twice.
    let (_, again) = post(&control, &order("n9,gpu-*")).await;
    assert_eq!((&again["id"], &again["joined"]), (&started["id"], &json!(true)));

    say(&one, preheat.id, 4, pb::PreheatState::Running, "").await;
    say(&cpu, preheat.id, 9, pb::PreheatState::Done, "").await;
    say(&two, preheat.id, 0, pb::PreheatState::Failed, "no\nluck").await;
    shown(&control, &started["id"], 1, "failed").await;
    let state = shown(&control, &started["id"], 0, "running").await;
    assert_eq!((&state["state"], &state["nodes"][0]["done_bytes"]), (&json!("running"), &json!(4)));
    assert_eq!(state["nodes"][1]["error"], "no luck");
    assert_eq!(state["nodes"][2]["error"], "it is not connected to control");
    assert_eq!(state["nodes"].as_array().unwrap().len(), 3, "whoever was not meant is not there");

    // A new stream of the node: it is told again.
    let mut one = Node::attach(&control, "gpu-1", &[]).await;
    assert_eq!(told(&mut one).await, preheat);
    say(&one, preheat.id, 10, pb::PreheatState::Done, "").await;
    let state = shown(&control, &started["id"], 0, "done").await;
    assert_eq!((&state["state"], &state["image"]), (&json!("failed"), &json!("r.example/a/b:v1")));

    // The next one is another preheat, and a zone's.
    let (_, zone) = post(&control, &order("zone=eu")).await;
    assert_eq!(zone["nodes"], json!(1), "gpu-1 has come back with another zone");
    let of_zone = told(&mut cpu).await;
    assert!(of_zone.id > preheat.id);
    cpu.say(Kind::Goodbye(pb::Goodbye {})).await;
    let state = shown(&control, &zone["id"], 0, "left").await;
    assert_eq!(
        (&state["state"], state["nodes"][0]["error"].as_str()),
        (&json!("failed"), Some("it left before it had all"))
    );
    control.stop().await;
}

#[tokio::test]
async fn orders_that_are_none() {
    let control = Control::start(SLOW_MS).await;
    let (status, said) = post(&control, &order("all")).await;
    assert_eq!((status, &said["error"]), (404, &json!("no node that is connected is of all")));
    for (key, value) in [
        ("registry", json!("a/b")),
        ("name", json!("../x")),
        ("reference", json!("a b")),
        ("nodes", json!("a b")),
        ("platforms", json!(["linux"])),
        ("platforms", json!(vec!["linux/amd64"; 9])),
        ("other", json!(1)),
    ] {
        let mut bad = order("all");
        bad[key] = value;
        let (status, said) = post(&control, &bad).await;
        assert!(matches!(status, 400 | 422) && said["error"].is_string(), "{key}: {status} {said}");
    }
    let (status, _) = post(&control, &order(&"x".repeat(20_000))).await;
    assert_eq!(status, 413);
    control.stop().await;
}

#[tokio::test]
async fn the_command_waits_until_all_have_it() {
    let control = Control::start(SLOW_MS).await;
    let mut nodes = [attach(&control, "n1", "").await, attach(&control, "n2", "").await];
    let url = control.url("");
    let pulling = tokio::spawn(async move {
        for round in 0..3 {
            for (number, node) in nodes.iter_mut().enumerate() {
                let id = told(node).await.id;
                say(node, id, 5, pb::PreheatState::Running, "").await;
                if (round, number) == (1, 1) {
                    say(node, id, 5, pb::PreheatState::Failed, "the disk is full").await;
                } else {
                    say(node, id, 10, pb::PreheatState::Done, "").await;
                }
            }
        }
        nodes
    });
    let command = ["--control", &url, "preheat", "r.example/a:v1"];
    let output = xylem(&command).await;
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let text = stdout(&output);
    assert!(text.starts_with("NODE  STATE  BYTES  REASON\nn1    done    10 B\nn2"), "{text}");
    assert!(text.contains("r.example/a:v1 is on 2 of 2 nodes after "), "{text}");

    let output = xylem(&[&command[..], &["--json", "--nodes", "n?"]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(complaint(&output), "xylem: 1 of 2 nodes do not have it\n");
    let text = stdout(&output);
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["nodes"][0]["state"]), (&json!("failed"), &json!("done")));
    assert_eq!(last["nodes"][1]["error"], "the disk is full");

    let output = xylem(&[&command[..], &["--detach"]].concat()).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("of r.example/a:v1 started: 2 nodes\n"));
    drop(soon("the nodes' part", pulling).await.unwrap());
    let output = xylem(&[&command[..], &["--nodes", "n7"]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("no node that is connected is of n7"));
    assert_eq!(xylem(&[&command[..], &["--nodes", "a b"]].concat()).await.status.code(), Some(2));
    control.stop().await;
}
