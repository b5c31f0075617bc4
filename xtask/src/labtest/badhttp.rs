//! Requests that no client should send: each gets its answer, and the node goes on.

use anyhow::{Context, Result, ensure};

use super::{finish, pull_everywhere, with_cluster};
use crate::build::Binaries;
use crate::cluster::{Cluster, NODE_PORT};
use crate::http;

const HEAD_BYTES_MAX: usize = 16 << 10;

/// Ranges, unknown things, nonsense.
pub(super) fn every_request_has_an_answer(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 1, "1gbit", |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        finish(cluster, &mut pulls, &image)?;
        ranges(cluster, image.largest())?;
        refusals(cluster)?;
        nonsense(cluster)?;
        finish(cluster, &mut pulls, &image)
    })
}

fn ask(cluster: &Cluster, method: &str, path: &str, range: Option<&str>) -> Result<http::Answer> {
    let node = &cluster.nodes()[0];
    let to = cluster.lab.host(node)?.at(NODE_PORT);
    let headers: Vec<(&str, &str)> = range.iter().map(|range| ("Range", *range)).collect();
    cluster.lab.within(node, || http::send(to, method, path, &headers, b""))
}

fn ranges(cluster: &Cluster, (digest, bytes): (&str, u64)) -> Result<()> {
    let path = format!("/v2/demo/blobs/{digest}");
    let expect = |range: &str, status: u16, length: u64| -> Result<()> {
        let answer = ask(cluster, "GET", &path, Some(range))?;
        let (found, body) = (answer.status, answer.body.len() as u64);
        ensure!(found == status, "{range} gets {found} instead of {status}");
        ensure!(status == 416 || body == length, "{range} gets {body} bytes, not {length}");
        Ok(())
    };
    expect("bytes=0-0", 206, 1)?;
    expect("bytes=1000000-1999999", 206, 1_000_000)?;
    expect(&format!("bytes={}-", bytes - 7), 206, 7)?;
    expect("bytes=-9", 206, 9)?;
    expect(&format!("bytes={bytes}-"), 416, 0)?;
    let head = ask(cluster, "HEAD", &path, None)?;
    let length = head.header("content-length").and_then(|length| length.parse().ok());
    ensure!(head.status == 200 && length == Some(bytes), "HEAD gets {}", head.head);
    Ok(())
}

fn refusals(cluster: &Cluster) -> Result<()> {
    let absent = format!("/v2/demo/blobs/sha256:{}", "0".repeat(64));
    let cases = [
        ("/nowhere", &[404][..]),
        ("/v2/demo/manifests/no-such-tag", &[404]),
        (absent.as_str(), &[404]),
        ("/v2/demo/blobs/sha256:short", &[400, 404]),
        ("/v2/demo/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", &[400, 404]),
        ("/v2/../../etc/passwd", &[400, 404]),
    ];
    for (path, expected) in cases {
        let answer = ask(cluster, "GET", path, None)?;
        ensure!(expected.contains(&answer.status), "{path} gets {}", answer.status);
        let code = answer.json().with_context(|| format!("in the answer to {path}"))?;
        let code = code.pointer("/errors/0/code").and_then(|code| code.as_str());
        ensure!(code.is_some(), "the answer to {path} is no OCI error");
    }
    Ok(())
}

fn nonsense(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes()[0];
    let to = cluster.lab.host(node)?.at(NODE_PORT);
    let huge = format!("GET /v2/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    let many = format!("GET /v2/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEAD_BYTES_MAX / 6));
    let cases = [&b"\x16\x03\x01 nonsense\r\n\r\n"[..], huge.as_bytes(), many.as_bytes()];
    for request in cases {
        // `raw` returns when the node closes: a connection left open would run into its bound.
        let answer = cluster.lab.within(node, || http::raw(to, request))?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 4"), "nonsense gets `{answer}`");
    }
    let alive = ask(cluster, "GET", "/v2/", None)?;
    ensure!(alive.status == 200, "after all that GET /v2/ gets {}", alive.status);
    Ok(())
}
