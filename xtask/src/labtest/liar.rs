//! A registry that serves an image layout, but wrongly in one way; it lives on a thread of ours.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cluster::image::hex;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// More than any node reads.
const HUGE_BYTES: usize = (4 << 20) + 1;
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// In which way it is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// One byte of the largest layer is another.
    WrongByte,
    /// The largest layer ends early, wherever one begins to read.
    Truncated,
    /// The manifest is followed by blanks beyond any bound.
    HugeManifest,
}

#[derive(Debug)]
struct Shared {
    layout: PathBuf,
    fault: Fault,
    manifest: String,
    victim: String,
    /// From the first byte on: a request that continues is none.
    times_asked: AtomicU64,
    stop: AtomicBool,
}

/// The registry. Dropping it ends its threads.
#[derive(Debug)]
pub(super) struct Liar {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    pub(super) fn start(listener: TcpListener, layout: &Path, fault: Fault) -> Result<Self> {
        let read =
            |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        let index = read(layout.join("index.json"))?;
        let digest = |it: &Value| it["digest"].as_str().map(str::to_owned);
        let manifest = digest(&index["manifests"][0]).context("no manifest in the layout")?;
        let layers = read(blob_path(layout, &manifest))?["layers"].take();
        let layers = layers.as_array().context("no layers")?;
        let victim = layers.iter().max_by_key(|layer| layer["size"].as_u64());
        let victim = victim.and_then(digest).context("no largest layer")?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            layout: layout.to_path_buf(),
            fault,
            manifest,
            victim,
            times_asked: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&listener, &own));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The digest of the blob that is served wrongly.
    pub(super) fn victim(&self) -> &str {
        &self.shared.victim
    }

    /// The digest of what is served instead.
    pub(super) fn served_instead(&self) -> String {
        let bytes = self.shared.content(&self.shared.victim).unwrap_or_default();
        format!("sha256:{}", hex(&Sha256::digest(bytes)))
    }

    /// How often that blob was asked for from its first byte on.
    pub(super) fn times_asked(&self) -> u64 {
        self.shared.times_asked.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A blob as this registry tells it.
    fn content(&self, digest: &str) -> Option<Vec<u8>> {
        let mut bytes = fs::read(blob_path(&self.layout, digest)).ok()?;
        if digest == self.victim && self.fault == Fault::WrongByte {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        if digest == self.manifest && self.fault == Fault::HugeManifest {
            bytes.resize(HUGE_BYTES, b' ');
        }
        Some(bytes)
    }
}

fn blob_path(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replacen(':', "/", 1))
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || converse(&stream, &shared));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn converse(stream: &TcpStream, shared: &Shared) {
    // A client that goes away ends the conversation: that is no error of this registry.
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let mut reader = BufReader::new(stream);
    while let Some((head, range)) = read_head(&mut reader) {
        if answer(stream, shared, &head, range).is_none() {
            break;
        }
    }
}

/// The request line and where a range begins.
fn read_head(reader: &mut impl BufRead) -> Option<(String, Option<usize>)> {
    let mut first = String::new();
    let mut range = None;
    loop {
        let mut line = String::new();
        if Read::by_ref(reader).take(16 << 10).read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if first.is_empty() {
            line.clone_into(&mut first);
        } else if line.is_empty() {
            return Some((first, range));
        } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = value.split('-').next().and_then(|start| start.parse().ok());
        }
    }
}

/// Answers one request; none when the connection is to end.
fn answer(
    mut stream: &TcpStream,
    shared: &Shared,
    request: &str,
    range: Option<usize>,
) -> Option<()> {
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let last = path.rsplit('/').next()?.split('?').next()?;
    let is_manifest = path.contains("/manifests/");
    let digest = if is_manifest && !last.starts_with("sha256:") { &shared.manifest } else { last };
    let bytes = shared.content(digest).filter(|_| is_manifest || path.contains("/blobs/"));
    let Some(bytes) = bytes else {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
        return stream.write_all(answer.as_bytes()).ok();
    };
    if digest == shared.victim && method == "GET" && range.unwrap_or(0) == 0 {
        shared.times_asked.fetch_add(1, Ordering::Relaxed);
    }
    let start = range.unwrap_or(0).min(bytes.len());
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let kind = if is_manifest { MANIFEST } else { "application/octet-stream" };
    let (length, total) = (bytes.len() - start, bytes.len());
    let last = total.saturating_sub(1);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Content-Range: bytes {start}-{last}/{total}\r\nDocker-Content-Digest: {digest}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    if shared.fault == Fault::Truncated && digest == shared.victim {
        // It always stops at the same byte, so that no patience helps.
        let half = (total / 2).max(start);
        let _ = stream.write_all(&bytes[start..half]);
        return None;
    }
    stream.write_all(&bytes[start..]).ok()
}
