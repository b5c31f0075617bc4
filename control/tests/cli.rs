//! The real `xylem` and `xylem-control`, as a user runs them: exit codes, stdout, stderr. The node
//! is a stand-in.

mod lab;
mod run;

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lab::{Control, Node, soon};
use run::{complaint, serve, stdout, xylem};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use xylem_protocol::pb;
use xylem_protocol::pb::node_message::Kind;

const SLOW_MS: u32 = 60_000;

fn sha256(bytes: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    xylem_protocol::Digest::from_bytes(hash).to_string()
}

/// What the stand-in of a node holds, and how it behaves.
#[derive(Debug, Default)]
struct Stand {
    blobs: HashMap<String, Vec<u8>>,
    image: String,
    /// What `POST pulls` was sent.
    orders: Vec<Value>,
    /// Polls until the pull is done.
    polls: u32,
    fails: Option<&'static str>,
}

type Shared = Arc<Mutex<Stand>>;

impl Stand {
    /// A node with an image of two layers.
    fn with_image() -> Self {
        let layers = [b"first layer".to_vec(), vec![7; 300_000]];
        let config = b"{}".to_vec();
        let describe = |bytes: &Vec<u8>| json!({ "digest": sha256(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "config": describe(&config),
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let image = sha256(&manifest);
        let all = layers.into_iter().chain([config, manifest]);
        let blobs = all.map(|bytes| (sha256(&bytes), bytes)).collect();
        Self { blobs, image, polls: 3, ..Self::default() }
    }
}

async fn order(State(stand): State<Shared>, Json(order): Json<Value>) -> Response {
    if order["registry"] == "elsewhere:5000" {
        let error = json!({ "errors": [{ "code": "NAME_UNKNOWN", "message": "not my registry" }] });
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    }
    stand.lock().unwrap().orders.push(order);
    (StatusCode::ACCEPTED, Json(json!({ "id": 7 }))).into_response()
}

async fn pull(State(stand): State<Shared>, UrlPath(id): UrlPath<u64>) -> Response {
    assert_eq!(id, 7);
    let mut stand = stand.lock().unwrap();
    stand.polls = stand.polls.saturating_sub(1);
    let state = match (stand.polls, stand.fails) {
        (0, Some(_)) => "failed",
        (0, None) => "done",
        _ => "running",
    };
    let total = 3000;
    let done = total - 1000 * u64::from(stand.polls);
    let end_ns = (state == "done").then_some(2_500_000_000_u64);
    Json(json!({
        "id": 7, "state": state, "error": stand.fails, "image": stand.image,
        "done_bytes": done, "total_bytes": total, "blobs": [],
        "start_ns": 500_000_000_u64, "end_ns": end_ns,
    }))
    .into_response()
}

async fn blob(
    State(stand): State<Shared>,
    UrlPath((kind, digest)): UrlPath<(String, String)>,
) -> Response {
    let kind = match kind.as_str() {
        "manifests" => "application/vnd.oci.image.manifest.v1+json",
        _ => "application/octet-stream",
    };
    // Also asked why a pull has failed: for want of a log-in, or not.
    let Some(bytes) = stand.lock().unwrap().blobs.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    ([(header::CONTENT_TYPE, kind)], bytes).into_response()
}

async fn status() -> Json<Value> {
    Json(json!({
        "node": "stand-in", "version": "9", "upstream": "http://registry:5000",
        "control": null,
        "store": { "blobs": 4, "bytes": 2048, "partial": 1 },
        "probes": { "mode": "tcp_info", "reason": "no privilege" },
        "flows": [], "images": [{ "image": "sha256:00", "epoch": 1, "parent": null }],
    }))
}

async fn stand_in(stand: Stand) -> (Shared, String) {
    let shared = Arc::new(Mutex::new(stand));
    let router = Router::new()
        .route("/xylem/v1/pulls", post(order))
        .route("/xylem/v1/pulls/{id}", get(pull))
        .route("/xylem/v1/status", get(status))
        .route("/v2/demo/{kind}/{digest}", get(blob))
        .with_state(Arc::clone(&shared));
    (shared, serve(router).await)
}

#[tokio::test]
async fn misuse_is_two() {
    let cases: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["pull"],
        &["pull", "no-registry"],
        &["pull", "r/UPPER"],
        &["pull", "r/demo", "--output", "dir"],
        &["pull", "r/demo", "--platform", "linux"],
        &["--control", "https://a", "trees"],
        &["--node-url", "127.0.0.1:4400", "status"],
    ];
    for arguments in cases {
        let output = xylem(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        let output = xylem(&arguments).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("xylem") && output.stderr.is_empty());
    }
}

#[tokio::test]
async fn nobody_there_is_one() {
    for command in ["trees", "hops"] {
        let output = xylem(&[command]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let text = complaint(&output);
        assert!(text.contains("cannot reach control at http://127.0.0.1:1"), "{text}");
        assert!(text.contains("Connection refused") && text.contains("--control"), "{text}");
    }
    let output = xylem(&["pull", "r/demo"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("cannot reach node at http://127.0.0.1:1"));
    let output = xylem(&["--json", "pull", "r/demo"]).await;
    assert_eq!(output.status.code(), Some(1));
    let event: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(event["event"], "failed");
    let output = xylem(&["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn something_else_there_is_one() {
    let router = Router::new().fallback(async || "hello");
    let url = serve(router).await;
    let output = xylem(&["--control", &url, "trees"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("to /api/v1/trees that is no xylem-control's"));
    let (_, node) = stand_in(Stand::default()).await;
    let output = xylem(&["--control", &node, "trees"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("answered 404 Not Found to /api/v1/trees"));
}

#[tokio::test]
async fn trees_hops_and_status() {
    let control = Control::start(SLOW_MS).await;
    let url = control.url("");
    for (command, empty) in [("trees", "no trees yet\n"), ("hops", "no hops yet\n")] {
        let output = xylem(&["--control", &url, command]).await;
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), empty));
    }
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let mut node = Node::attach(&control, name, &[]).await;
        node.join(1).await;
        node.upstreams().await;
        nodes.push(node);
    }
    let output = xylem(&["--control", &url, "trees"]).await;
    let drawn = "\
demo  010101010101  ft, 3 nodes
registry
└─ a  127.0.0.1:4400
   ├─ b  127.0.0.1:4400
   └─ c  127.0.0.1:4400
";
    assert_eq!(stdout(&output), drawn);
    let output = xylem(&["trees", "--json", "--control", &url]).await;
    let trees: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(trees["trees"][0]["nodes"][2]["node"], "c");

    hops_as_reported(&url, &mut nodes[1]).await;
    status_of_both(control, &url).await;
}

async fn hops_as_reported(url: &str, node: &mut Node) {
    let report = pb::HopReport {
        parent: "a".into(),
        child: "b".into(),
        from_child: true,
        relay_bytes: 123_456_789,
        kernel_bytes: 123_456_789,
        verdict: pb::Verdict::Network.into(),
        source: pb::Source::Bpf.into(),
        ..Default::default()
    };
    node.say(Kind::Hops(pb::HopReports { reports: vec![report] })).await;
    node.join(2).await;
    node.upstreams().await;
    let output = xylem(&["hops", "--control", url]).await;
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("PARENT  CHILD  RELAY BYTES  KERNEL BYTES  MBIT/S  SRTT MS"));
    assert!(lines[1].starts_with("a       b        123456789     123456789"), "{text}");
    assert!(lines[1].contains("network") && lines.len() == 2);
    let output = xylem(&["hops", "--json", "--control", url]).await;
    let hops: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(hops["hops"][0]["relay_bytes"], 123_456_789);
}

async fn status_of_both(control: Control, url: &str) {
    let output = xylem(&["status", "--json", "--control", url]).await;
    assert_eq!(output.status.code(), Some(1), "the node that was named does not answer");
    complaint(&output);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (status["control"]["nodes"].as_array().unwrap().len(), &status["node"]),
        (3, &Value::Null)
    );
    let (_, node) = stand_in(Stand::default()).await;
    let output = xylem(&["status", "--control", url, "--node-url", &node]).await;
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(
        text.contains("3 nodes, 2 trees (ft)") && text.contains("stand-in, version 9"),
        "{text}"
    );
    assert!(
        text.contains("tcp_info (no privilege)") && text.contains("4 blobs, 2.0 KiB"),
        "{text}"
    );
    control.stop().await;
    let output = xylem(&["status", "--json", "--control", url, "--node-url", &node]).await;
    assert_eq!(output.status.code(), Some(0), "the node answers for itself");
    assert!(complaint(&output).contains("cannot reach control"));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["control"], &status["node"]["node"]), (&Value::Null, &"stand-in".into()));
}

#[tokio::test]
async fn a_pull_shows_its_end() {
    let (stand, node) = stand_in(Stand::with_image()).await;
    let image = stand.lock().unwrap().image.clone();
    let arguments =
        ["--node-url", &node, "pull", "registry:5000/demo:v1", "--platform", "linux/arm64"];
    let output = xylem(&arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = format!(
        "registry:5000/demo:v1 {image}\n2.9 KiB in 2.00 s, 1.5 KiB/s, verified by SHA-256\n"
    );
    assert_eq!(stdout(&output), expected);
    assert!(output.stderr.is_empty(), "no bar where stderr is no terminal");
    let order = json!({
        "name": "demo", "reference": "v1", "registry": "registry:5000", "platform": "linux/arm64",
    });
    assert_eq!(stand.lock().unwrap().orders, [order]);
}

#[tokio::test]
async fn a_pull_in_json() {
    let (stand, node) = stand_in(Stand::with_image()).await;
    let image = stand.lock().unwrap().image.clone();
    let output = xylem(&["--node-url", &node, "pull", "r/demo", "--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let progress =
        |done: u64| json!({ "event": "progress", "done_bytes": done, "total_bytes": 3000 });
    let done = json!({
        "event": "done", "image": image, "bytes": 3000, "seconds": 2.0,
        "start_ns": 500_000_000_u64, "end_ns": 2_500_000_000_u64, "verified": true,
    });
    assert_eq!(events, [progress(1000), progress(2000), progress(3000), done]);
}

#[tokio::test]
async fn a_pull_that_fails() {
    let stand = Stand { fails: Some("manifest unknown"), ..Stand::with_image() };
    let (stand, node) = stand_in(stand).await;
    let output = xylem(&["--node-url", &node, "pull", "r/demo"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = complaint(&output);
    assert!(text.ends_with("could not pull r/demo:latest: manifest unknown\n"), "{text}");
    stand.lock().unwrap().polls = 1;
    let output = xylem(&["--node-url", &node, "--json", "pull", "r/demo"]).await;
    assert_eq!(output.status.code(), Some(1));
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "failed");
    assert!(last["error"].as_str().unwrap().contains("manifest unknown"));
    let output = xylem(&["--node-url", &node, "pull", "elsewhere:5000/demo"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("404 Not Found to /xylem/v1/pulls: not my registry"));
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_pull_into_a_layout() {
    let (stand, node) = stand_in(Stand::with_image()).await;
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("new/layout");
    let output = format!("oci:{}", layout.display());
    let pulled = xylem(&["--node-url", &node, "pull", "r/demo:v1", "--output", &output]).await;
    assert_eq!(pulled.status.code(), Some(0), "{pulled:?}");
    assert!(stdout(&pulled).ends_with(&format!("written to {output}\n")));
    assert_eq!(read(&layout.join("oci-layout")), json!({ "imageLayoutVersion": "1.0.0" }));
    let image = stand.lock().unwrap().image.clone();
    let size = stand.lock().unwrap().blobs[&image].len();
    let index = read(&layout.join("index.json"));
    assert_eq!(index["schemaVersion"], 2);
    let entry = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image, "size": size,
        "annotations": { "org.opencontainers.image.ref.name": "v1" },
    });
    assert_eq!(index["manifests"], json!([entry]));
    let mut files = 0;
    for file in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let file = file.unwrap();
        let digest = format!("sha256:{}", file.file_name().into_string().unwrap());
        assert_eq!(sha256(&std::fs::read(file.path()).unwrap()), digest);
        files += 1;
    }
    assert_eq!(files, 4, "config, two layers and the manifest");

    // Once more under another tag: whole blobs are not fetched again, both names stand.
    stand.lock().unwrap().blobs.retain(|digest, _| *digest == image);
    stand.lock().unwrap().polls = 1;
    let again = xylem(&["--node-url", &node, "pull", "r/demo:v2", "--output", &output]).await;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(read(&layout.join("index.json"))["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_layout_that_cannot_be() {
    let (stand, node) = stand_in(Stand::with_image()).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mine"), "").unwrap();
    let output = format!("oci:{}", directory.path().display());
    let refused = xylem(&["--node-url", &node, "pull", "r/demo", "--output", &output]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(complaint(&refused).contains("is neither empty nor an OCI layout"));
    assert!(stand.lock().unwrap().orders.is_empty(), "known before anything is pulled");

    for blob in stand.lock().unwrap().blobs.values_mut() {
        if blob.len() == 300_000 {
            blob[5] ^= 1;
        }
    }
    let layout = directory.path().join("layout");
    let output = format!("oci:{}", layout.display());
    let spoiled = xylem(&["--node-url", &node, "pull", "r/demo", "--output", &output]).await;
    assert_eq!(spoiled.status.code(), Some(1));
    assert!(complaint(&spoiled).contains("but it hashes to sha256:"));
    let files = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let sizes: Vec<_> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size < 300_000), "nothing bad is kept: {sizes:?}");
    assert!(!layout.join("index.json").exists());
}

#[tokio::test]
async fn control_starts_says_so_and_ends_on_a_signal() {
    for signal in ["TERM", "INT"] {
        let mut control = Command::new(env!("CARGO_BIN_EXE_xylem-control"))
            .args(["--listen", "127.0.0.1:0", "--heartbeat", "60000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(control.stdout.take().unwrap()).lines();
        let ready = soon("the ready line", lines.next_line()).await.unwrap().unwrap();
        let address = ready.strip_prefix("xylem-control listening on ").unwrap().to_owned();
        let output = xylem(&["status", "--control", &format!("http://{address}"), "--json"]).await;
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["control"]["shape"], "twin");

        let second = Command::new(env!("CARGO_BIN_EXE_xylem-control"))
            .args(["--listen", &address])
            .kill_on_drop(true)
            .output();
        let second = soon("the refusal", second).await.unwrap();
        assert_eq!(second.status.code(), Some(1));
        let text = String::from_utf8(second.stderr).unwrap();
        assert!(text.starts_with(&format!("xylem-control: cannot listen on {address}")), "{text}");
        assert!(text.ends_with("Address already in use (os error 98)\n"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");

        let pid = control.id().unwrap().to_string();
        let killed = Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap();
        assert!(killed.success());
        let ended = soon("the end of control", control.wait()).await.unwrap();
        assert_eq!(ended.code(), Some(0));
        let mut complaints = String::new();
        control.stderr.take().unwrap().read_to_string(&mut complaints).await.unwrap();
        assert_eq!(complaints, "");
    }
}

#[tokio::test]
async fn misuse_of_control_is_two() {
    for arguments in [["--listen", "nowhere"], ["--heartbeat", "0"], ["--shape", "star"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_xylem-control")).args(arguments).output();
        let output = soon("the refusal", output).await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
