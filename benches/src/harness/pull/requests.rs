//! Single requests of `bench pull`, as `curl` makes them: a connection each, cold, from the connect
//! to the last byte; no client's habits are in them.

use crate::bytes::{KIB, MIB, to_usize};
use crate::harness::machine::seconds;
use crate::harness::pull::site::{NAME, OWNER, Site, Way};
use crate::http;
use crate::pattern::{Blob, digest_of, pool};
use crate::sys::monotonic_ns;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// The repository that they are about.
pub const REPOSITORY: &str = "requests";
const SMALL_BYTES: u64 = 6 * KIB;
const LARGE_BYTES: u64 = 64 * MIB;
const READ_BYTES: usize = 256 << 10;
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// A connection that is silent for this long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is timed, in the order of [`Requests::time`]'s answer.
pub const ROWS: [&str; 5] = [
    "HEAD manifest by tag",
    "GET manifest by tag",
    "GET blob of 6 KiB",
    "GET blob of 64 MiB, first byte",
    "GET blob of 64 MiB, whole",
];

/// The image that is asked for.
#[derive(Debug)]
pub struct Requests {
    small: String,
    large: String,
}

/// First and last byte of an answer, in seconds from the connect.
struct Timing {
    first_byte_s: f64,
    whole_s: f64,
}

fn write_blob(blobs: &Path, bytes: &[u8]) -> Result<String> {
    let digest = digest_of(bytes)?;
    fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
    Ok(digest)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(to)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    Ok(socket)
}

fn time(to: SocketAddr, what: &str, ns: Option<&str>) -> Result<Timing> {
    let query = ns.map(|name| format!("?ns={name}")).unwrap_or_default();
    let what = format!("{what}{query}");
    let start_ns = monotonic_ns();
    let mut socket = connect(to)?;
    let answer = http::ask(&mut socket, &to.to_string(), &what, MANIFEST_TYPE, "")?;
    let head_ns = monotonic_ns();
    ensure!(answer.status == 200, "{what}: status {}", answer.status);
    let head_only = what.starts_with("HEAD ");
    let length = if head_only { 0 } else { answer.length };
    let mut received = answer.body.len() as u64;
    let mut first_ns = if received > 0 { head_ns } else { 0 };
    let mut buffer = vec![0; READ_BYTES];
    while received < length {
        let read = socket.read(&mut buffer)?;
        ensure!(read > 0, "{what}: cut off at {received} of {length} bytes");
        if first_ns == 0 {
            first_ns = monotonic_ns();
        }
        received += read as u64;
    }
    let end_ns = monotonic_ns();
    let first_ns = if first_ns == 0 { end_ns } else { first_ns };
    let since = |ns: u64| seconds(ns - start_ns);
    Ok(Timing { first_byte_s: since(first_ns), whole_s: since(end_ns) })
}

impl Requests {
    /// Writes the image as an OCI layout: a small blob and a large one.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(layout: &Path) -> Result<Self> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let pool = pool(LARGE_BYTES)?;
        let write = |index, size| {
            let bytes = Blob::new(&pool, index, size);
            let mut all = Vec::with_capacity(to_usize(size));
            while (all.len() as u64) < size {
                all.extend_from_slice(bytes.bytes(all.len() as u64, READ_BYTES));
            }
            write_blob(&blobs, &all)
        };
        let (small, large) = (write(1, SMALL_BYTES)?, write(2, LARGE_BYTES)?);
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [small, large]},
        }))?;
        let descriptor = |media_type: &str, digest: &str, size: u64| {
            let media_type = json!(media_type);
            json!({"mediaType": media_type, "digest": digest, "size": size})
        };
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &write_blob(&blobs, &config)?, config.len() as u64),
            "layers": [
                descriptor(LAYER_TYPE, &small, SMALL_BYTES),
                descriptor(LAYER_TYPE, &large, LARGE_BYTES),
            ],
        }))?;
        let digest = write_blob(&blobs, &manifest)?;
        let index = json!({
            "schemaVersion": 2,
            "manifests": [descriptor(MANIFEST_TYPE, &digest, manifest.len() as u64)],
        });
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { small, large })
    }

    /// Makes all requests once, in the order in which a client would; seconds, one per row.
    ///
    /// # Errors
    /// An answer that is not what was asked for.
    pub fn time(&self, site: &Site, way: Way) -> Result<[f64; ROWS.len()]> {
        let (to, ns) = match way {
            Way::Direct => (site.server, None),
            _ => (site.node(), Some(NAME)),
        };
        let ask = |what: String| {
            let timed = site.machine.within(|| time(to, &what, ns));
            timed.with_context(|| format!("{what}, {}", way.name()))
        };
        let repository = format!("/v2/{OWNER}/{REPOSITORY}");
        let head = ask(format!("HEAD {repository}/manifests/latest"))?;
        let get = ask(format!("GET {repository}/manifests/latest"))?;
        let small = ask(format!("GET {repository}/blobs/{}", self.small))?;
        let large = ask(format!("GET {repository}/blobs/{}", self.large))?;
        Ok([head.whole_s, get.whole_s, small.whole_s, large.first_byte_s, large.whole_s])
    }

    /// Digest of the large blob.
    #[must_use]
    pub fn large(&self) -> &str {
        &self.large
    }
}
