//! The real `xylem doctor` against nodes and controls that are stand-ins: healthy, sick, old and
//! absent.

mod run;

use std::time::{Duration, SystemTime};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use run::{NOBODY, complaint, serve, stdout, xylem};
use serde_json::{Value, json};

/// A control that knows these nodes, with a clock that is off by so many seconds.
async fn control(nodes: &[(&str, bool)], behind_s: u64) -> String {
    let node = |(name, connected): &(&str, bool)| {
        json!({
            "node": name, "address": "", "zone": "", "connected": connected, "last_seen_ms": 0,
            "held_bytes": 0, "free_bytes": 0, "active_flows": 0, "version": "7",
        })
    };
    let nodes: Vec<_> = nodes.iter().map(node).collect();
    let status =
        json!({ "version": "7", "shape": "ft", "uptime_s": 1.0, "trees": 0, "nodes": nodes });
    let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(behind_s));
    let answer = async move || ([(header::DATE, date)], Json(status)).into_response();
    serve(Router::new().route("/api/v1/status", get(answer))).await
}

/// A node with such a control, whose own checks are these.
async fn node(control: Option<&str>, checks: Option<Value>) -> String {
    let control = control.map(|address| json!({ "address": address, "connected": true }));
    let status = json!({
        "node": "n1", "version": "9", "control": control,
        "registries": [{ "host": "r.example", "url": "https://r.example" }],
    });
    let mut router = Router::new()
        .route("/xylem/v1/status", get(async || Json(status)))
        .route("/v2/", get(async || StatusCode::UNAUTHORIZED));
    if let Some(checks) = checks {
        router = router.route("/xylem/v1/doctor", get(async || Json(checks)));
    }
    serve(router).await
}

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, rest: &str) -> String {
        self.root.path().join(rest).to_str().unwrap().to_owned()
    }

    async fn install(&self, node: &str) {
        for (runtime, option) in [("containerd", "--certs-dir"), ("podman", "--conf-dir")] {
            let directory = self.path(runtime);
            let arguments = ["--node-url", node, "install", runtime, option, &directory];
            assert_eq!(xylem(&arguments).await.status.code(), Some(0));
        }
    }

    async fn doctor(&self, node: &str, more: &[&str]) -> std::process::Output {
        let (containerd, podman) = (self.path("containerd"), self.path("podman"));
        let arguments = ["doctor", "--certs-dir", &containerd, "--conf-dir", &podman];
        xylem(&[&arguments, ["--node-url", node].as_slice(), more].concat()).await
    }

    /// The checks as JSON, by name, and whether all is well.
    async fn checks(&self, node: &str) -> (bool, Value) {
        let output = self.doctor(node, &["--json"]).await;
        let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let checks = said["checks"].as_array().unwrap().iter();
        let by_name = checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check));
        let by_name: Value = by_name.map(|(name, check)| (name, check.clone())).collect();
        (output.status.code() == Some(0), by_name)
    }
}

#[track_caller]
fn is(checks: &Value, name: &str, ok: Option<bool>, detail: &str, remedy: &str) {
    let check = &checks[name];
    assert_eq!(check["ok"].as_bool(), ok, "{checks}");
    assert!(check["detail"].as_str().unwrap().contains(detail), "{check}");
    let said = check["remedy"].as_str();
    assert_eq!(said.is_some(), !remedy.is_empty(), "{check}");
    assert!(said.unwrap_or_default().contains(remedy), "{check}");
}

#[tokio::test]
async fn all_is_well() {
    let place = Place::new();
    let control = control(&[("n0", false), ("n1", true)], 0).await;
    let checks = json!({ "checks": [
        { "name": "io_uring", "ok": true, "detail": "6.18", "remedy": null },
        { "name": "probes", "ok": null, "detail": "off" },
    ] });
    let node = node(Some(&control), Some(checks)).await;
    place.install(&node).await;
    let output = place.doctor(&node, &[]).await;
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let text = stdout(&output);
    assert!(!text.contains('→') && !text.contains('✗'), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 8, "{text}");
    assert_eq!(lines[1], format!("✓  node        node at {node}: n1, version 9"));
    assert_eq!(lines[2..4], ["✓  io_uring    6.18", "-  probes      off"]);
    assert!(lines[4].starts_with("✓  mirror      /v2/ answers 401 Unauthorized in "), "{text}");
    assert_eq!(lines[5], "✓  containerd  asks this node for r.example");
    assert_eq!(lines[6], "✓  podman      asks this node for r.example");
    assert!(lines[7].ends_with(&format!("control at {control} knows n1, version 7")), "{text}");
    assert!(lines[8].starts_with("✓  clock       as control at "), "{text}");
}

#[tokio::test]
async fn each_failure_has_a_remedy() {
    let place = Place::new();
    let control = control(&[("n1", false)], 60).await;
    let checks = json!({ "checks": [
        { "name": "store", "ok": false, "detail": "1 MiB free", "remedy": "make room" },
    ] });
    let node = node(Some(&control), Some(checks)).await;
    let output = place.doctor(&node, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(complaint(&output), "xylem: 2 of 7 checks failed\n");
    let text = stdout(&output);
    assert!(text.contains("✗  store       1 MiB free\n   → make room\n"), "{text}");
    let install = format!("   → xylem install podman --node-url {node} --conf-dir ");
    assert!(text.contains(&install), "{text}");
    let (well, checks) = place.checks(&node).await;
    assert!(!well);
    is(&checks, "control", Some(false), "has lost n1", "log of xylemd");
    is(&checks, "clock", None, "s ahead of control at ", "NTP");
    is(&checks, "containerd", None, "asks this node", "xylem install containerd");

    std::fs::create_dir_all(place.path("containerd/r")).unwrap();
    std::fs::write(place.path("containerd/r/hosts.toml"), "server = ").unwrap();
    std::fs::write(place.path("registries.conf"), "[[").unwrap();
    let (_, checks) = place.checks(&node).await;
    is(&checks, "containerd", Some(false), "r/hosts.toml is no valid TOML", "correct it");
    is(&checks, "podman", Some(false), "registries.conf is no valid TOML", "correct it");
}

#[tokio::test]
async fn a_node_of_an_earlier_version() {
    let place = Place::new();
    let control = control(&[], 0).await;
    let (well, checks) = place.checks(&node(Some(&control), None).await).await;
    assert!(!well);
    is(&checks, "node's checks", None, "earlier version", "");
    is(&checks, "control", Some(false), "does not know n1, which says it is linked", "log");
    let (well, checks) = place.checks(&node(None, None).await).await;
    assert!(well, "{checks}");
    is(&checks, "control", None, "runs without", "");
    is(&checks, "clock", Some(true), "as node at", "");
    let (well, checks) = place.checks(&node(Some(NOBODY), Some(json!([]))).await).await;
    assert!(!well);
    is(&checks, "control", Some(false), "Connection refused", "start xylem-control");
    is(&checks, "node's checks", Some(false), "that is no xylemd's", "log of xylemd");
}

#[tokio::test]
async fn nobody_there() {
    let (well, checks) = Place::new().checks(NOBODY).await;
    assert!(!well);
    is(&checks, "node", Some(false), "Connection refused", "start xylemd there");
    is(&checks, "mirror", None, "no node", "");
    is(&checks, "control", None, "no node", "");
    is(&checks, "clock", None, "no answer", "");
    assert_eq!(checks.as_object().unwrap().len(), 6);
}

#[tokio::test]
async fn a_mirror_that_hangs_or_fails() {
    let status = async || Json(json!({ "node": "n1", "version": "9" }));
    let router = Router::new().route("/xylem/v1/status", get(status));
    let hanging = router.clone().route("/v2/", get(std::future::pending::<StatusCode>));
    let (well, checks) = Place::new().checks(&serve(hanging).await).await;
    assert!(!well);
    is(&checks, "mirror", Some(false), "no answer in 1000 ms", "log of xylemd");
    let failing = router.route("/v2/", get(async || StatusCode::BAD_GATEWAY));
    let (well, checks) = Place::new().checks(&serve(failing).await).await;
    assert!(!well);
    is(&checks, "mirror", Some(false), "/v2/ answers 502 Bad Gateway", "registry behind");
}
