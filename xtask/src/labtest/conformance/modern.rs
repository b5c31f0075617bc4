//! A registry that has what Debian's has not: pages of tags, and referrers. It holds no images, and
//! lives on a thread of ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::manifests::NOTHING;

/// Its repository; the links to further pages are paths.
pub(super) const NAME: &str = "modern";
/// The same with links that name the registry, as the specification allows too.
pub(super) const ABSOLUTE: &str = "modern/absolute";
/// In order, as the specification wants them.
pub(super) const TAGS: [&str; 5] = ["a", "b", "c", "v1", "v2"];
/// What refers to an image here.
pub(super) const ARTIFACT: &str = "application/vnd.example.signature";
const OTHER_ARTIFACT: &str = "application/vnd.example.sbom";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const HEAD_BYTES_MAX: u64 = 16 << 10;
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// The registry. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Modern {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Modern {
    pub(super) fn start(listener: TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let own = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A connection that breaks is its client's loss.
                    Ok((stream, _)) => drop(answer(&stream, own)),
                    Err(_) => std::thread::sleep(POLL),
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Modern {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one request, and closes.
fn answer(mut stream: &TcpStream, own: SocketAddr) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.take(HEAD_BYTES_MAX));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first().map_or("", String::as_str).split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, more, body) = content(target, own);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{more}\
         Docker-Distribution-Api-Version: registry/2.0\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    Ok(())
}

type Content = (&'static str, &'static str, String, String);

/// Status, kind, further header lines and body.
fn content(target: &str, own: SocketAddr) -> Content {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let value = |key: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
    };
    let error = |status, code: &str| {
        let body = json!({"errors": [{"code": code, "message": "no", "detail": null}]});
        (status, "application/json", String::new(), body.to_string())
    };
    let Some(rest) = path.strip_prefix("/v2/") else { return error("404 Not Found", "UNKNOWN") };
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return tags(name, value("n"), value("last").unwrap_or_default(), own);
    }
    match rest.split_once("/referrers/") {
        Some((_, digest)) if digest.len() == NOTHING.len() => {
            referrers(digest, value("artifactType"))
        }
        Some(_) => error("400 Bad Request", "DIGEST_INVALID"),
        None if rest.is_empty() => ("200 OK", "application/json", String::new(), "{}".to_owned()),
        None => error("404 Not Found", "MANIFEST_UNKNOWN"),
    }
}

fn tags(name: &str, count: Option<&str>, last: &str, own: SocketAddr) -> Content {
    let rest: Vec<&str> = TAGS.into_iter().filter(|tag| *tag > last).collect();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(rest.len());
    let page = &rest[..count.min(rest.len())];
    let link = match page.last().filter(|_| page.len() < rest.len()) {
        Some(last) => {
            let base = if name == ABSOLUTE { format!("http://{own}") } else { String::new() };
            format!("Link: <{base}/v2/{name}/tags/list?n={count}&last={last}>; rel=\"next\"\r\n")
        }
        None => String::new(),
    };
    let body = json!({"name": name, "tags": page});
    ("200 OK", "application/json", link, body.to_string())
}

fn referrers(digest: &str, filter: Option<&str>) -> Content {
    // Only one image has any; of all others there are none, which is no error.
    let kinds = if digest == NOTHING { &[ARTIFACT, OTHER_ARTIFACT][..] } else { &[] };
    let wanted = |kind: &&&str| filter.is_none_or(|filter| filter.replace("%2F", "/") == **kind);
    let manifests: Vec<_> = kinds
        .iter()
        .filter(wanted)
        .map(|kind| {
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 7,
               "digest": format!("sha256:{}", "1".repeat(64)), "artifactType": kind})
        })
        .collect();
    let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let applied =
        filter.map_or(String::new(), |_| "OCI-Filters-Applied: artifactType\r\n".to_owned());
    ("200 OK", INDEX, applied, body.to_string())
}
