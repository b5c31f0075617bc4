//! The sender's registry: one repository `bench` with generated blobs, a manifest that names the
//! first of them, and nothing else; one blocking thread per connection, no check of who asks.

use crate::bytes::to_usize;
use crate::gate::{self, Stamp};
use crate::http::{Request, read_request, resolve_range};
use crate::pattern::{Blob, spell};
use crate::sys::monotonic_ns;
use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Bytes handed to the kernel per send.
pub const SEND_BYTES: usize = 1 << 20;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Everything the registry serves.
#[derive(Debug)]
pub struct Registry {
    blobs: Vec<(String, Blob)>,
    config: (String, Vec<u8>),
    manifest: (String, Vec<u8>),
    stamps: bool,
}

/// What a path names: its media type, its digest (empty for `/v2/` itself), and where its bytes
/// are.
struct Content<'a> {
    media_type: &'a str,
    digest: &'a str,
    body: Body<'a>,
}

enum Body<'a> {
    Blob(&'a Blob),
    Text(&'a [u8]),
}

impl Body<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Blob(blob) => blob.size(),
            Self::Text(text) => text.len() as u64,
        }
    }

    fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        match self {
            Self::Blob(blob) => blob.bytes(offset, len),
            Self::Text(text) => {
                let rest = &text[to_usize(offset)..];
                &rest[..rest.len().min(len)]
            }
        }
    }
}

fn digest_of(bytes: &[u8]) -> String {
    spell(Sha256::new().chain_update(bytes))
}

impl Registry {
    /// Hashes the blobs and writes the config and the manifest of the first. With `stamps`, each
    /// answer is followed by a [`Stamp`] on stdout.
    ///
    /// # Errors
    /// No blob at all.
    pub fn new(blobs: Vec<Blob>, stamps: bool) -> Result<Self> {
        let blobs: Vec<_> = blobs.into_iter().map(|blob| (blob.digest(), blob)).collect();
        let (layer, blob) = blobs.first().context("a registry without blobs")?;
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        }))?;
        let config_digest = digest_of(&config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer, "size": blob.size()}],
        }))?;
        let manifest = (digest_of(&manifest), manifest);
        Ok(Self { config: (config_digest, config), manifest, blobs, stamps })
    }

    /// Digests of the blobs, in order.
    #[must_use]
    pub fn blobs(&self) -> Vec<String> {
        self.blobs.iter().map(|(digest, _)| digest.clone()).collect()
    }

    /// Digest of the manifest.
    #[must_use]
    pub fn manifest(&self) -> &str {
        &self.manifest.0
    }

    fn find(&self, path: &str) -> Option<Content<'_>> {
        let (config, config_bytes) = &self.config;
        let (manifest, manifest_bytes) = &self.manifest;
        if path == "/v2/" {
            let body = Body::Text(b"{}");
            return Some(Content { media_type: "application/json", digest: "", body });
        }
        if let Some(reference) = path.strip_prefix("/v2/bench/manifests/") {
            let body = Body::Text(manifest_bytes);
            let known = reference == "latest" || reference == manifest;
            return known.then_some(Content { media_type: MANIFEST_TYPE, digest: manifest, body });
        }
        let digest = path.strip_prefix("/v2/bench/blobs/")?;
        let media_type = "application/octet-stream";
        if digest == config {
            return Some(Content { media_type, digest: config, body: Body::Text(config_bytes) });
        }
        let (digest, blob) = self.blobs.iter().find(|(known, _)| known == digest)?;
        Some(Content { media_type, digest, body: Body::Blob(blob) })
    }

    /// Serves every connection until the listener fails.
    ///
    /// # Errors
    /// The listener's.
    pub fn serve(self, listener: &TcpListener) -> Result<()> {
        let registry = Arc::new(self);
        loop {
            let (socket, peer) = listener.accept().context("cannot accept")?;
            let registry = Arc::clone(&registry);
            thread::spawn(move || {
                if let Err(error) = registry.converse(socket) {
                    eprintln!("{peer}: {error:#}");
                }
            });
        }
    }

    fn converse(&self, mut socket: TcpStream) -> Result<()> {
        socket.set_nodelay(true)?;
        let mut requests = BufReader::new(socket.try_clone()?);
        while let Some(request) = read_request(&mut requests)? {
            self.answer(&request, &mut socket)?;
            if request.close {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request, socket: &mut impl Write) -> Result<()> {
        let asked_ns = monotonic_ns();
        let Some(content) = self.find(&request.path) else {
            let error = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not served here"}]}"#;
            return refuse(socket, "404 Not Found", "", error);
        };
        let size = content.body.size();
        let (status, (start, end), extra) = match &request.range {
            None => ("200 OK", (0, size), String::new()),
            Some(range) => match resolve_range(range, size) {
                Some((start, end)) => {
                    let extra = format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1);
                    ("206 Partial Content", (start, end), extra)
                }
                None => {
                    let extra = format!("Content-Range: bytes */{size}\r\n");
                    return refuse(socket, "416 Range Not Satisfiable", &extra, "{}");
                }
            },
        };
        // One write, as registries do it: a head in pieces is several segments, and as many
        // wake-ups of whoever reads it.
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {}\r\n\
             Docker-Content-Digest: {}\r\nAccept-Ranges: bytes\r\n{extra}\r\n",
            end - start,
            content.media_type,
            content.digest,
        );
        socket.write_all(head.as_bytes())?;
        let sent_ns = monotonic_ns();
        let mut offset = if request.head_only { end } else { start };
        while offset < end {
            let len = to_usize(end - offset).min(SEND_BYTES);
            let bytes = content.body.bytes(offset, len);
            socket.write_all(bytes)?;
            offset += bytes.len() as u64;
        }
        if self.stamps {
            let body_bytes = if request.head_only { 0 } else { end - start };
            gate::report(&Stamp { asked_ns, sent_ns, body_bytes })?;
        }
        Ok(())
    }
}

fn refuse(socket: &mut impl Write, status: &str, extra: &str, body: &str) -> Result<()> {
    let len = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nContent-Type: application/json\r\n\
         {extra}\r\n{body}"
    );
    Ok(socket.write_all(answer.as_bytes())?)
}
