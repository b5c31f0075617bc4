//! An image as its manifest describes it, and the proof that a store has it; fetches no blob.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::http;

const CHUNK_BYTES: usize = 1 << 20;
/// What we can read: everything that a node can carry.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json";

/// The manifest's digest and size, and each blob once.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The digest of the manifest.
    pub(crate) digest: String,
    manifest_bytes: u64,
    blobs: BTreeSet<(String, u64)>,
}

impl Image {
    /// Asks a registry. Of an index, the image for this machine's platform.
    pub(crate) fn ask(registry: SocketAddr, name: &str, reference: &str) -> Result<Self> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let answer = http::get(registry, &path, &[("Accept", ACCEPT)])?;
        ensure!(answer.status == 200, "the registry answers {} to GET {path}", answer.status);
        let manifest = answer.json()?;
        if let Some(entries) = manifest["manifests"].as_array() {
            let digest = own_platform(entries).context("no image for this platform")?;
            return Self::ask(registry, name, digest);
        }
        Self::describe(&answer.body, &manifest).context("cannot read the manifest")
    }

    /// Reads the only image of a layout.
    pub(crate) fn read(layout: &Path) -> Result<Self> {
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let digest = index["manifests"][0]["digest"].as_str().context("no manifest in there")?;
        let bytes = fs::read(layout.join("blobs").join(digest.replacen(':', "/", 1)))?;
        Self::describe(&bytes, &serde_json::from_slice(&bytes)?)
    }

    fn describe(bytes: &[u8], manifest: &Value) -> Result<Self> {
        let layers = manifest["layers"].as_array().context("no layers")?;
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str()?.to_owned();
            Some((digest, descriptor["size"].as_u64()?))
        };
        let descriptors = std::iter::once(&manifest["config"]).chain(layers);
        let blobs = descriptors.map(|it| blob(it).context("a descriptor without digest or size"));
        Ok(Self {
            digest: format!("sha256:{}", hex(&Sha256::digest(bytes))),
            manifest_bytes: bytes.len() as u64,
            blobs: blobs.collect::<Result<_>>()?,
        })
    }

    /// Bytes of all blobs: what has to reach every node, the manifest not counted.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of blobs and manifest.
    pub(crate) fn bytes(&self) -> u64 {
        self.body_bytes() + self.manifest_bytes
    }

    /// The blobs as (digest, size), each once.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (&str, u64)> {
        self.blobs.iter().map(|(digest, bytes)| (digest.as_str(), *bytes))
    }

    /// The largest blob: the one that is longest under way.
    pub(crate) fn largest(&self) -> (&str, u64) {
        self.blobs().max_by_key(|(_, bytes)| *bytes).unwrap_or(("", 0))
    }

    /// Reads every blob and the manifest from a store and compares their digests.
    pub(crate) fn check(&self, store: &Path) -> Result<()> {
        let manifest = (self.digest.as_str(), self.manifest_bytes);
        for (digest, bytes) in self.blobs().chain([manifest]) {
            let (kind, hex) = digest.split_once(':').context("a digest without a colon")?;
            let (found, length) = hash(&store.join("blobs").join(kind).join(hex))?;
            ensure!(length == bytes, "{digest} has {length} bytes instead of {bytes}");
            ensure!(found == hex, "{digest} has the digest sha256:{found}");
        }
        Ok(())
    }
}

fn own_platform(entries: &[Value]) -> Option<&str> {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |entry: &&Value| {
        let platform = &entry["platform"];
        platform["architecture"] == own && platform["os"] == "linux"
    };
    entries.iter().find(fits)?["digest"].as_str()
}

/// The SHA-256 of a file in hex, and its length.
pub(crate) fn hash(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk).with_context(|| format!("in {}", path.display()))?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), length));
        }
        hash.update(&chunk[..read]);
        length += read as u64;
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image(blobs: &[&[u8]], store: &Path) -> Image {
        let directory = store.join("blobs/sha256");
        std::fs::create_dir_all(&directory).unwrap();
        let write = |bytes: &[u8]| {
            let hex = hex(&Sha256::digest(bytes));
            std::fs::write(directory.join(&hex), bytes).unwrap();
            json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let blobs: Vec<Value> = blobs.iter().map(|bytes| write(bytes)).collect();
        let manifest = json!({"config": blobs[0], "layers": blobs[1..]});
        write(manifest.to_string().as_bytes());
        Image::describe(manifest.to_string().as_bytes(), &manifest).unwrap()
    }

    #[test]
    fn a_store_is_checked_byte_by_byte() {
        let store = std::env::temp_dir().join(format!("xylem-check-{}", std::process::id()));
        let image = image(&[b"config", b"layer", b"layer"], &store);
        assert_eq!(image.body_bytes(), 11, "a blob that is named twice counts once");
        image.check(&store).unwrap();
        let victim = store.join("blobs/sha256").join(&image.largest().0["sha256:".len()..]);
        std::fs::write(&victim, b"cOnfig").unwrap();
        assert!(image.check(&store).unwrap_err().to_string().contains("has the digest"));
        std::fs::write(&victim, b"conf").unwrap();
        assert!(image.check(&store).unwrap_err().to_string().contains("4 bytes instead of 6"));
        std::fs::remove_file(&victim).unwrap();
        assert!(image.check(&store).is_err());
        std::fs::remove_dir_all(&store).unwrap();
    }
}
