//! An OCI layout in a directory as upstream: the embedded registry. Reads only; children verify
//! what they get.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use xylem_protocol::Digest;
use xylem_protocol::limits::MANIFEST_MAX;

use super::{Manifest, OriginError, Relayed, Resolved, media_type_of};
use crate::store::{Complete, open_complete};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
}

impl Entry {
    /// Its tag: the annotation, or what stands behind the last colon when a tool wrote the whole
    /// name there.
    fn tag(&self) -> Option<&str> {
        let name = self.annotations.get(REF_NAME)?;
        Some(name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag))
    }
}

impl Layout {
    /// Looks whether the directory is a layout.
    ///
    /// # Errors
    /// [`OriginError::Layout`].
    pub fn open(path: &Path) -> Result<Self, OriginError> {
        let layout = Self { path: path.to_owned() };
        layout.index()?;
        Ok(layout)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    /// Read each time: tools add images to layouts that are being served.
    fn index(&self) -> Result<Index, OriginError> {
        let path = self.path.join("index.json");
        let broken = |source| OriginError::Layout { path: self.path.clone(), source };
        let bytes = read_bounded(&path).map_err(broken)?;
        serde_json::from_slice(&bytes).map_err(|error| broken(error.into()))
    }

    fn find(&self, tag: &str) -> Result<Resolved, OriginError> {
        let index = self.index()?;
        let named = index.manifests.iter().find(|entry| entry.tag() == Some(tag));
        let only = || match index.manifests.as_slice() {
            [entry] if tag == "latest" && entry.tag().is_none() => Some(entry),
            _ => None,
        };
        let entry = named.or_else(only).ok_or_else(|| OriginError::NotFound {
            upstream: self.name(),
            what: format!("tag {tag}"),
        })?;
        let digest = entry
            .digest
            .parse()
            .map_err(|_| OriginError::Malformed { upstream: self.name(), what: "a digest" })?;
        if entry.media_type.is_empty() {
            return self.load(&digest).map(Resolved::Whole);
        }
        Ok(Resolved::Named(digest, entry.media_type.clone()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn load(&self, digest: &Digest) -> Result<Manifest, OriginError> {
        let bytes = read_bounded(&self.blob_path(digest))
            .map_err(|error| self.blob_error(digest, &error))?;
        let actual = Digest::from_bytes(Sha256::digest(&bytes).into());
        if actual != *digest {
            return Err(OriginError::Digest { upstream: self.name(), expected: *digest, actual });
        }
        Ok(Manifest { digest: *digest, media_type: media_type_of(&bytes), bytes: bytes.into() })
    }

    fn blob_error(&self, digest: &Digest, error: &io::Error) -> OriginError {
        let (upstream, what) = (self.name(), digest.to_string());
        match error.kind() {
            io::ErrorKind::FileTooLarge => OriginError::TooLarge { upstream, what },
            io::ErrorKind::NotFound => OriginError::NotFound { upstream, what },
            _ => OriginError::Malformed { upstream, what: "a file" },
        }
    }

    /// What a tag names.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn resolve(&self, tag: &str) -> Result<Resolved, OriginError> {
        let (layout, tag) = (self.clone(), tag.to_owned());
        spawn_blocking(move || layout.find(&tag)).await?
    }

    /// A manifest, checked.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn manifest(&self, digest: &Digest) -> Result<Manifest, OriginError> {
        let (layout, digest) = (self.clone(), *digest);
        spawn_blocking(move || layout.load(&digest)).await?
    }

    /// A blob's file.
    ///
    /// # Errors
    /// [`OriginError::NotFound`], or another when the file cannot be opened.
    pub async fn blob(&self, digest: &Digest) -> Result<Complete, OriginError> {
        let (layout, digest) = (self.clone(), *digest);
        let open = move || {
            open_complete(&layout.blob_path(&digest))
                .map_err(|error| layout.blob_error(&digest, &error))
        };
        spawn_blocking(open).await?
    }

    /// All tags.
    ///
    /// # Errors
    /// [`OriginError::Layout`].
    pub async fn tags(&self, repository: &str) -> Result<Relayed, OriginError> {
        let layout = self.clone();
        let index = spawn_blocking(move || layout.index()).await??;
        let mut tags: Vec<&str> = index.manifests.iter().filter_map(Entry::tag).collect();
        tags.sort_unstable();
        let body = serde_json::json!({ "name": repository, "tags": tags }).to_string();
        Ok(Relayed {
            status: 200,
            content_type: Some("application/json".to_owned()),
            challenges: Vec::new(),
            link: None,
            filters: None,
            body: body.into(),
        })
    }

    /// Hashes a blob's file.
    ///
    /// # Errors
    /// [`OriginError::Digest`] when it is not what its name says; others when it cannot be read.
    pub async fn verify(&self, digest: &Digest) -> Result<(), OriginError> {
        let (layout, digest) = (self.clone(), *digest);
        let hash = move || {
            let mut hasher = Sha256::new();
            let copied = File::open(layout.blob_path(&digest)).and_then(|mut file| {
                let mut buffer = vec![0; 256 * 1024];
                loop {
                    match file.read(&mut buffer)? {
                        0 => return Ok(()),
                        n => hasher.update(&buffer[..n]),
                    }
                }
            });
            copied.map_err(|error| layout.blob_error(&digest, &error))?;
            let actual = Digest::from_bytes(hasher.finalize().into());
            if actual == digest {
                return Ok(());
            }
            Err(OriginError::Digest { upstream: layout.name(), expected: digest, actual })
        };
        spawn_blocking(hash).await?
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > u64::from(MANIFEST_MAX) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(u64::from(MANIFEST_MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
