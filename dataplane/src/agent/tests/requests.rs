//! What is answered to requests that are not for a blob's body, and pulls.

use serde_json::{Value, json};
use xylem_protocol::limits::MANIFEST_MAX;

use super::paper::{Answered, Bench, Page, PaperServer, Setup, digest};
use crate::link::{ToCold, ToHot};

pub(super) fn image(config: &[u8], layers: &[&[u8]]) -> String {
    let descriptor =
        |bytes: &[u8]| json!({ "digest": digest(bytes).to_string(), "size": bytes.len() });
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(layer)).collect();
    json!({ "schemaVersion": 2, "config": descriptor(config), "layers": layers }).to_string()
}

/// A registry with one manifest, tagged `v1`.
pub(super) fn registry_of(json: &str) -> PaperServer {
    let json = json.to_owned();
    let by_digest = format!("/v2/a/b/manifests/{}", digest(json.as_bytes()));
    PaperServer::start(move |line| match line.split(' ').nth(1) {
        Some("/v2/a/b/manifests/v1") => Page::manifest(&json),
        Some(path) if path == by_digest => Page::manifest(&json),
        Some("/v2/a/b/tags/list?n=1") => Page::new(200, r#"{"name":"a/b","tags":["v1"]}"#)
            .with("Link", "</v2/a/b/tags/list?last=v1&n=1>; rel=\"next\""),
        _ => Page::new(404, ""),
    })
}

fn code(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap();
    json["errors"][0]["code"].as_str().unwrap().to_owned()
}

#[test]
fn the_small_answers() {
    Setup::default().run(async |bench| {
        assert_eq!(bench.ask("GET /v2/", "").await.status, 200);
        assert_eq!(bench.ask("GET /healthz", "").await.body, "ok\n");
        let metrics = bench.ask("GET /metrics", "").await.body;
        assert!(metrics.contains("node=\"me\"") && metrics.ends_with("# EOF\n"), "{metrics}");
        let unknown = bench.ask("GET /v2/a/uploads/", "").await;
        assert_eq!((unknown.status, code(&unknown.body)), (404, "UNSUPPORTED".into()));
        assert_eq!(bench.ask("POST /xylem/v1/status", "").await.status, 405);
        let status: Value =
            serde_json::from_str(&bench.ask("GET /xylem/v1/status", "").await.body).unwrap();
        assert_eq!((&status["node"], &status["control"]), (&json!("me"), &Value::Null));
        let hops = bench.ask("GET /xylem/v1/hops", "").await.body;
        assert_eq!(hops, "{\"hops\":[]}\n");
        let manifest = bench.ask("GET /v2/a/manifests/v1", "").await;
        assert_eq!((manifest.status, code(&manifest.body)), (404, "MANIFEST_UNKNOWN".into()));
    });
}

#[test]
fn manifests_come_from_the_registry_once() {
    let manifest = image(b"config", &[b"layer"]);
    let server = registry_of(&manifest);
    let named = digest(manifest.as_bytes());
    Setup::registry(&server).run(async |bench| {
        let head = bench.ask("HEAD /v2/a/b/manifests/v1", "").await;
        assert_eq!((head.status, head.digest, head.body.as_str()), (200, Some(named), ""));
        assert_eq!(head.head_length, Some(manifest.len() as u64));
        assert_eq!(head.content_type, "application/vnd.oci.image.manifest.v1+json");
        let get =
            bench.ask(&format!("GET /v2/a/b/manifests/{named}?ns={}", server.address), "").await;
        assert_eq!((get.status, get.body.as_str()), (200, manifest.as_str()));
        assert_eq!(server.count(&format!("GET /v2/a/b/manifests/{named}")), 1);
        bench.holds(named).await;
        let tags = bench.ask("GET /v2/a/b/tags/list?n=1", "").await;
        assert_eq!(tags.extra, "Link: </v2/a/b/tags/list?last=v1&n=1>; rel=\"next\"\r\n");
        assert_eq!(bench.ask("GET /v2/a/b/manifests/v2", "").await.status, 404);
    });
}

#[test]
fn a_bad_manifest_is_not_passed_on() {
    let server = PaperServer::start(|line| {
        if line.contains("huge") {
            // The length is said truthfully here and not there.
            return Page::new(200, vec![b' '; MANIFEST_MAX as usize + 1]);
        }
        if line.contains("endless") {
            let body = vec![b' '; MANIFEST_MAX as usize + 1];
            return Page::new(200, body).with("Content-Length", (1_u64 << 40).to_string());
        }
        if line.contains("cut") {
            return Page { cut: Some(3), ..Page::manifest("{\"a\":1}") };
        }
        Page::manifest("{}").with("Docker-Content-Digest", digest(b"other").to_string())
    });
    Setup::registry(&server).run(async |bench| {
        let get = async |reference: &str| {
            let answer = bench.ask(&format!("GET /v2/a/b/manifests/{reference}"), "").await;
            assert_eq!(answer.status, 502, "{}", answer.body);
            answer.body
        };
        let other = digest(b"else");
        let body = get(&other.to_string()).await;
        assert!(
            body.contains(&other.to_string()) && body.contains(&digest(b"{}").to_string()),
            "{body}"
        );
        for reference in ["huge", "endless"] {
            let body = get(reference).await;
            assert!(body.contains("larger than 4194304 bytes"), "{body}");
        }
        get("cut").await;
        let stored = std::fs::read_dir(bench.store.join("blobs/sha256")).unwrap().count();
        assert_eq!(stored, 0);
    });
}

#[test]
fn an_unreachable_registry_is_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = format!("http://{closed}");
    Setup { upstream: Some(upstream), ..Setup::default() }.run(async |bench| {
        let answer = bench.ask("GET /v2/a/b/manifests/v1", "").await;
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains(&format!("cannot reach http://{closed}")), "{}", answer.body);
    });
}

/// Does the ring thread's part of a pull: every blob that is to be fetched is written and stored.
pub(super) fn fetch_all(bench: &Bench, blobs: &[&[u8]], message: &ToHot) {
    if let ToHot::Fetch { digest: wanted, .. } = message {
        let blob = blobs.iter().find(|blob| digest(blob) == *wanted).unwrap();
        bench.write(*wanted, blob);
        bench.tell(ToCold::Stored {
            digest: *wanted,
            size: blob.len() as u64,
            first_byte_ns: 0,
            readers: 0,
        });
    }
}

async fn start_pull(bench: &Bench, reference: &str) -> u64 {
    let body = json!({ "name": "a/b", "reference": reference }).to_string();
    let answer = bench.ask("POST /xylem/v1/pulls", &body).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    serde_json::from_str::<Value>(&answer.body).unwrap()["id"].as_u64().unwrap()
}

#[test]
fn a_pull_fetches_every_blob_once() {
    let blobs: [&[u8]; 3] = [b"config", b"layer one", b"layer two"];
    let manifest = image(blobs[0], &[blobs[1], blobs[2], blobs[1]]);
    let server = registry_of(&manifest);
    Setup::registry(&server).run(async |bench| {
        let id = start_pull(bench, "v1").await;
        let mut fetches = 0;
        let done = bench
            .pulled(id, |bench, message| {
                fetches += u32::from(matches!(message, ToHot::Fetch { .. }));
                fetch_all(bench, &blobs, &message);
            })
            .await;
        assert_eq!(fetches, 3);
        assert_eq!(done["state"], "done", "{done}");
        assert_eq!(done["image"], digest(manifest.as_bytes()).to_string());
        assert_eq!((&done["done_bytes"], &done["total_bytes"]), (&json!(24), &json!(24)));
        assert!(done["end_ns"].as_u64() >= done["start_ns"].as_u64());
        let again = start_pull(bench, &digest(manifest.as_bytes()).to_string()).await;
        let done = bench.pulled(again, |_, message| panic!("{message:?}")).await;
        assert_eq!(done["state"], "done", "all here: {done}");
    });
}

#[test]
fn a_question_for_a_pull_waits_for_its_end() {
    let blobs: [&[u8]; 2] = [b"config", b"layer"];
    let server = registry_of(&image(blobs[0], &[blobs[1]]));
    Setup::registry(&server).run(async |bench| {
        let id = start_pull(bench, "v1").await;
        let ticket = bench.ask_later(&format!("GET /xylem/v1/pulls/{id}?wait_ms=10000"));
        let ended = loop {
            let message = bench.next().await;
            match message {
                ToHot::Answer { .. } => break Answered::of(message, ticket),
                other => fetch_all(bench, &blobs, &other),
            }
        };
        assert!(ended.body.contains("\"state\":\"done\""), "{}", ended.body);
        let again = bench.ask(&format!("GET /xylem/v1/pulls/{id}?wait_ms=10000"), "").await;
        assert_eq!(again.body, ended.body, "it has ended");
        for wait in ["", "-1", "1s", "10001"] {
            let asked = bench.ask(&format!("GET /xylem/v1/pulls/{id}?wait_ms={wait}"), "").await;
            assert_eq!(asked.status, 400, "{wait}");
        }
        for path in ["2", "", "x", "1/1"] {
            let asked = bench.ask(&format!("GET /xylem/v1/pulls/{path}"), "").await;
            assert_eq!(asked.status, 404, "{path}");
        }
    });
}

#[test]
fn a_question_for_a_pull_that_goes_on_is_answered_in_time() {
    let server = registry_of(&image(b"config", &[b"layer"]));
    Setup::registry(&server).run(async |bench| {
        let id = start_pull(bench, "v1").await;
        let ticket = bench.ask_later(&format!("GET /xylem/v1/pulls/{id}?wait_ms=1"));
        let running = loop {
            // Nobody brings what it fetches.
            let message = bench.next().await;
            if matches!(message, ToHot::Answer { .. }) {
                break Answered::of(message, ticket);
            }
        };
        assert!(running.body.contains("\"state\":\"running\""), "{}", running.body);
    });
}

#[test]
fn a_pull_says_why_it_failed() {
    let manifest = image(b"config", &[b"layer"]);
    let server = registry_of(&manifest);
    Setup::registry(&server).run(async |bench| {
        let id = start_pull(bench, "v2").await;
        let failed = bench.pulled(id, |_, message| panic!("{message:?}")).await;
        assert_eq!(failed["state"], "failed");
        assert!(failed["error"].as_str().unwrap().contains("has no a/b:v2"), "{failed}");
        let id = start_pull(bench, "v1").await;
        let full = |bench: &Bench, message: ToHot| {
            if let ToHot::Fetch { digest, .. } = message {
                let cause = std::io::ErrorKind::StorageFull.into();
                bench.tell(ToCold::StoreFailed { digest, cause });
            }
        };
        let failed = bench.pulled(id, full).await;
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains("partial/") && error.contains("free space there"), "{error}");
        for body in [
            "",
            r#"{"name":"A","reference":"v1"}"#,
            r#"{"name":"a","reference":"v1","registry":"else/where"}"#,
            r#"{"name":"a","reference":"v1","platform":"linux"}"#,
            r#"{"name":"a","reference":"v1","more":1}"#,
        ] {
            assert_eq!(bench.ask("POST /xylem/v1/pulls", body).await.status, 400, "{body}");
        }
        let elsewhere = r#"{"name":"a","reference":"v1","registry":"elsewhere:5000"}"#;
        let refused = bench.ask("POST /xylem/v1/pulls", elsewhere).await;
        assert!(refused.body.contains("not configured for elsewhere:5000"), "{}", refused.body);
        assert_eq!(bench.ask("GET /xylem/v1/pulls/99", "").await.status, 404);
    });
}

#[test]
fn a_layout_is_an_upstream() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: [&[u8]; 2] = [b"config", b"layer"];
    let manifest = image(blobs[0], &[blobs[1]]);
    let index = json!({ "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest.as_bytes()).to_string(),
        "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "v1" },
    }] });
    std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
    std::fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    for blob in [blobs[0], blobs[1], manifest.as_bytes()] {
        std::fs::write(dir.path().join("blobs/sha256").join(digest(blob).hex()), blob).unwrap();
    }
    let upstream = Some(format!("oci:{}", dir.path().display()));
    Setup { upstream, ..Setup::default() }.run(async |bench| {
        let answer = bench.ask("GET /v2/any/name/manifests/v1", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, manifest.as_str()));
        assert_eq!(bench.ask("GET /v2/a/manifests/v2", "").await.status, 404);
        assert!(bench.ask("GET /v2/a/tags/list", "").await.body.contains("[\"v1\"]"));
        bench.want(digest(b"layer"), "");
        assert!(matches!(bench.next().await, ToHot::Present { size: 5, .. }));
        let id = start_pull(bench, "v1").await;
        let done = bench.pulled(id, |_, message| panic!("{message:?}")).await;
        assert_eq!(done["state"], "done", "{done}");
        std::fs::write(dir.path().join("blobs/sha256").join(digest(b"layer").hex()), "rot")
            .unwrap();
        let id = start_pull(bench, "v1").await;
        let failed = bench.pulled(id, |_, _| ()).await;
        assert!(failed["error"].as_str().unwrap().contains("sent sha256:"), "{failed}");
        assert_eq!(
            bench.ask(&format!("HEAD /v2/a/blobs/{}", digest(b"config")), "").await.head_length,
            Some(6)
        );
    });
}

#[test]
fn a_directory_is_not_yet_a_layout() {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::config::Options {
        node: Some("me".into()),
        upstream: Some(format!("oci:{}", dir.path().display())),
        ..Default::default()
    };
    let error = crate::origin::Registries::new(&options.check().unwrap()).unwrap_err().to_string();
    assert!(error.contains("is not an OCI layout"), "{error}");
}
