//! The real `xylem explain` against a node that is a stand-in.

mod run;

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use run::{complaint, serve, stdout, xylem};
use serde_json::{Value, json};

const IMAGE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const BLOB: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const HERE: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";

fn told() -> Value {
    json!({
        "pull": {
            "image": IMAGE, "name": "r.example/a", "tag": "v1", "index": null,
            "asked_by": "runtime", "state": "done", "start_ns": 1_000_000_000_u64,
            "end_ns": 3_500_000_000_u64, "age_s": 65.0, "total_bytes": 3072, "peer_bytes": 1024,
            "registry_bytes": 1024, "disk_bytes": 1024, "parents": ["n1", "n2"],
            "blobs": [
                {
                    "digest": BLOB, "size": 2048, "state": "done", "peer_bytes": 1024,
                    "registry_bytes": 1024, "disk_bytes": 0, "start_ms": 12.4,
                    "first_byte_ms": 3.25, "seconds": 1.5, "retries": 1, "limited_by": "network",
                    "readers": 2, "error": null, "sources": [
                        { "upstream": "n1", "from": 0, "bytes": 1024, "lost": "cannot connect" },
                        { "upstream": "registry", "from": 1024, "bytes": 1024, "lost": null },
                    ],
                },
                {
                    "digest": HERE, "size": 1024, "state": "here", "disk_bytes": 1024,
                    "retries": 0, "limited_by": "unknown", "readers": 0, "sources": [],
                },
            ],
        },
        "tree": { "epoch": 7, "parent": "n2" },
    })
}

async fn node() -> String {
    let named = async |RawQuery(query): RawQuery| -> Response {
        match query.as_deref() {
            Some("ns=r.example&name=a&reference=v1") => Json(told()).into_response(),
            _ => {
                let message = "no pull of b:latest on this node is remembered";
                let body =
                    json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": message }] });
                (StatusCode::NOT_FOUND, Json(body)).into_response()
            }
        }
    };
    let router = Router::new()
        .route("/xylem/v1/images", get(named))
        .route(&format!("/xylem/v1/images/{IMAGE}"), get(async || Json(told())));
    serve(router).await
}

#[tokio::test]
async fn a_pull_is_told_blob_by_blob() {
    let node = node().await;
    let output = xylem(&["--node-url", &node, "explain", "r.example/a:v1"]).await;
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let expected = "\
image     r.example/a sha256:1111111111111111111111111111111111111111111111111111111111111111
named by  tag v1
pull      by runtime, 1 min 5 s ago, done, 2.50 s
bytes     3.0 KiB: 1.0 KiB from peers, 1.0 KiB from the registry, 1.0 KiB were here
parents   n1, then n2
tree      111111111111, epoch 7, now below n2
BLOB             SIZE  STATE  FROM           START MS  FIRST BYTE MS  \
SECONDS  LOST  LIMITED BY  READERS
222222222222  2.0 KiB  done   n1 > registry        12            3.2  \
\x20 1.500     1  network           2
333333333333  1.0 KiB  here   disk                  -              -  \
\x20     -     -  -                 -
222222222222  n1 lost at 1024: cannot connect
";
    assert_eq!(stdout(&output), expected);
    let output = xylem(&["--json", "--node-url", &node, "explain", IMAGE]).await;
    assert_eq!(serde_json::from_str::<Value>(&stdout(&output)).unwrap(), told());
}

#[tokio::test]
async fn an_image_that_nobody_pulled() {
    let node = node().await;
    let output = xylem(&["--node-url", &node, "explain", "r.example/b"]).await;
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let said = complaint(&output);
    let expected =
        format!("xylem: node at {node}: no pull of b:latest on this node is remembered\n");
    assert_eq!(said, expected);
    let output = xylem(&["explain", "nonsense"]).await;
    assert_eq!(output.status.code(), Some(2));
}
