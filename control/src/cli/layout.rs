//! Writes an image from a node into an OCI layout directory. Nothing gets its final name before its
//! hash is checked.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::limits::{LAYERS_MAX, MANIFEST_MAX};
use xylem_protocol::names::{Reference, Target};

use super::client::{Client, ClientError, Peer, body, chunk};

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
                              application/vnd.docker.distribution.manifest.v2+json";
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Why the layout is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{} is neither empty nor an OCI layout, name another directory", .0.display())]
    Foreign(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not an index of images", path.display())]
    Index { path: PathBuf, source: serde_json::Error },
    #[error("{peer} sent {wanted}, but it hashes to {found}")]
    Hash { peer: Peer, wanted: Digest, found: Digest },
    #[error("{peer} sent {found} bytes of {wanted} instead of {size}")]
    Size { peer: Peer, wanted: Digest, size: u64, found: u64 },
    #[error("{peer} sent a manifest of {image} that is not understood")]
    Manifest { peer: Peer, image: Digest, source: serde_json::Error },
    #[error("the manifest of {image} names {blob:?}, which is no digest")]
    Blob { image: Digest, blob: String, source: xylem_protocol::digest::DigestError },
    #[error("the manifest of {image} has more than {LAYERS_MAX} layers")]
    Layers { image: Digest },
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

/// A directory that is a layout, or may become one.
#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// Makes the directory where it is missing.
    pub(super) fn open(directory: &Path) -> Result<Self, LayoutError> {
        let layout = Self { directory: directory.to_owned() };
        let marker = layout.directory.join("oci-layout");
        if !marker.exists() {
            fs::create_dir_all(directory).map_err(failed(directory))?;
            let mut entries = fs::read_dir(directory).map_err(failed(directory))?;
            if entries.next().is_some() {
                return Err(LayoutError::Foreign(layout.directory));
            }
        }
        let blobs = layout.directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
        fs::write(&marker, MARKER).map_err(failed(&marker))?;
        Ok(layout)
    }

    /// Fetches manifest and blobs from the node, then names the image in the index.
    pub(super) async fn write(
        &self,
        client: &Client,
        node: &Peer,
        reference: &Reference,
        image: Digest,
    ) -> Result<(), LayoutError> {
        let name = &reference.repository;
        let path = format!("/v2/{name}/manifests/{image}?ns={}", reference.registry);
        let response = client.get(node, &path, Some(MANIFEST_TYPES)).await?;
        let said = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let said = said.map(str::to_owned);
        let text = body(node, &path, response, MANIFEST_MAX.into()).await?;
        check(node, image, hash(Sha256::new_with_prefix(&text)))?;
        let not_understood = |source| LayoutError::Manifest { peer: node.clone(), image, source };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(not_understood)?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(LayoutError::Layers { image });
        }
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let no_digest = |source| LayoutError::Blob { image, blob: blob.digest.clone(), source };
            let digest = blob.digest.parse().map_err(no_digest)?;
            self.blob(client, node, reference, digest, blob.size).await?;
        }
        let target = self.blob_path(image);
        Partial::create(&target)?.finish(&text)?;
        let kind = manifest.media_type.or(said);
        let kind = kind.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
        self.name(reference, &kind, image, text.len() as u64)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    async fn blob(
        &self,
        client: &Client,
        node: &Peer,
        image: &Reference,
        digest: Digest,
        size: u64,
    ) -> Result<(), LayoutError> {
        let target = self.blob_path(digest);
        if is_whole(&target, digest, size) {
            return Ok(());
        }
        let path = format!("/v2/{}/blobs/{digest}?ns={}", image.repository, image.registry);
        let mut response = client.get(node, &path, None).await?;
        let mut file = Partial::create(&target)?;
        let (mut hasher, mut found) = (Sha256::new(), 0);
        while let Some(part) = chunk(node, &path, &mut response).await? {
            found += part.len() as u64;
            if found > size {
                break;
            }
            hasher.update(&*part);
            file.append(&part)?;
        }
        if found != size {
            return Err(LayoutError::Size { peer: node.clone(), wanted: digest, size, found });
        }
        check(node, digest, hash(hasher))?;
        file.finish(&[])
    }

    /// Puts the image into the index, in place of another of the same name.
    fn name(
        &self,
        reference: &Reference,
        kind: &str,
        image: Digest,
        size: u64,
    ) -> Result<(), LayoutError> {
        let path = self.directory.join("index.json");
        let bad = |source| LayoutError::Index { path: path.clone(), source };
        let mut index: Value = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(bad)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
            }),
            Err(error) => return Err(failed(&path)(error)),
        };
        let mut entry = json!({ "mediaType": kind, "digest": image.to_string(), "size": size });
        let tag = match &reference.target {
            Target::Tag(tag) => Some(tag.as_str()),
            Target::Digest(_) => None,
        };
        if let Some(tag) = tag {
            entry["annotations"] = json!({ REFERENCE_NAME: tag });
        }
        let Value::Object(fields) = &mut index else {
            return Err(bad(serde::de::Error::custom("it is no object")));
        };
        let mut images = match fields.remove("manifests") {
            Some(Value::Array(images)) => images,
            _ => Vec::new(),
        };
        images.retain(|other| {
            let named = other["annotations"][REFERENCE_NAME].as_str();
            named != tag || (tag.is_none() && other["digest"] != entry["digest"])
        });
        images.push(entry);
        fields.insert("manifests".to_owned(), Value::Array(images));
        let text = serde_json::to_vec(&index).map_err(bad)?;
        Partial::create(&path)?.finish(&text)
    }
}

/// A file without its final name yet; removed again unless it is finished.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, LayoutError> {
        let mut path = target.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let file = File::create(&path).map_err(failed(&path))?;
        Ok(Self { file, path, target: target.to_owned(), finished: false })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.file.write_all(bytes).map_err(failed(&self.path))
    }

    fn finish(mut self, last: &[u8]) -> Result<(), LayoutError> {
        self.append(last)?;
        self.file.sync_data().map_err(failed(&self.path))?;
        fs::rename(&self.path, &self.target).map_err(failed(&self.target))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // What failed before is the news; a left-over is overwritten by the next try.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether an earlier pull has left that very blob.
fn is_whole(path: &Path, digest: Digest, size: u64) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let (mut hasher, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return length == size && hash(hasher) == digest,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
            Err(_) => return false,
        }
    }
}

fn hash(hasher: Sha256) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

fn check(peer: &Peer, wanted: Digest, found: Digest) -> Result<(), LayoutError> {
    if wanted == found {
        return Ok(());
    }
    Err(LayoutError::Hash { peer: peer.clone(), wanted, found })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    move |source| LayoutError::Write { path: path.to_owned(), source }
}
