//! Where images come from when no peer has them: a registry, or an OCI layout in a directory.
//! Manifests and tags come through here whole; blobs only as the address to fetch them from, or as
//! a stream when they are inside TLS.

mod document;
mod error;
mod layout;
mod peer;
mod registry;
mod tls;
mod token;

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use xylem_protocol::Digest;
use xylem_protocol::names::Target;

use crate::config::UpstreamSpec;
use crate::store::Complete;

pub(crate) use document::is_index;
pub use document::{Descriptor, Document, Platform, media_type_of};
pub use error::OriginError;
pub use layout::Layout;
pub use peer::{PeerClient, PeerRequest};
pub use registry::{BlobStream, Registry};

/// Media types asked for where the client names none.
pub const ACCEPT_ALL: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// `Content-Type`: many manifests do not say it themselves.
    pub media_type: String,
    /// As the registry sent it.
    pub bytes: Bytes,
}

/// What a tag names now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Only its digest and type are known.
    Named(Digest, String),
    /// The registry did not say the digest, so the manifest had to be fetched.
    Whole(Manifest),
}

/// A list of tags, as the upstream gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagList {
    /// JSON.
    pub body: Bytes,
    /// `Link` to the next page.
    pub link: Option<String>,
}

/// How a blob is got at.
#[derive(Debug)]
pub enum BlobRoute {
    /// Plain HTTP: the ring thread's business.
    Plain {
        /// Where to connect to.
        address: SocketAddr,
        /// Head without `Range` and the empty line.
        head: Vec<u8>,
    },
    /// TLS: to be opened with [`Registry::open`].
    Tls {
        /// The whole URL.
        url: reqwest::Url,
    },
    /// It is a local file.
    Local(Complete),
}

/// Where images come from.
#[derive(Debug)]
pub enum Origin {
    /// Nowhere: only the store and peers.
    None,
    /// A registry.
    Registry(Registry),
    /// A directory.
    Layout(Layout),
}

impl Origin {
    /// From the settings.
    ///
    /// # Errors
    /// [`OriginError`]: certificates that cannot be read, or a directory that is no layout.
    pub fn new(spec: Option<&UpstreamSpec>, ca: Option<&Path>) -> Result<Self, OriginError> {
        Ok(match spec {
            None => Self::None,
            Some(UpstreamSpec::Registry { tls, authority }) => {
                Self::Registry(Registry::new(*tls, authority, ca)?)
            }
            Some(UpstreamSpec::Layout(path)) => Self::Layout(Layout::open(path)?),
        })
    }

    /// Whether images of this registry (`host[:port]`) come from here.
    pub fn serves(&self, authority: &str) -> bool {
        match self {
            Self::None => false,
            Self::Registry(registry) => registry.authority() == authority,
            Self::Layout(_) => true,
        }
    }

    /// For people: what `--upstream` was.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Registry(registry) => Some(registry.base().to_owned()),
            Self::Layout(layout) => Some(format!("oci:{}", layout.path().display())),
        }
    }

    /// What a tag names now. `accept` is the client's, and decides in which form old registries
    /// answer.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn resolve(
        &self,
        repository: &str,
        tag: &str,
        accept: &str,
    ) -> Result<Resolved, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => registry.resolve(repository, tag, accept).await,
            Self::Layout(layout) => layout.resolve(tag).await,
        }
    }

    /// A manifest by its digest, checked.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn manifest(
        &self,
        repository: &str,
        digest: &Digest,
        accept: &str,
    ) -> Result<Manifest, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => {
                registry.manifest(repository, &Target::Digest(*digest), accept).await
            }
            Self::Layout(layout) => layout.manifest(digest).await,
        }
    }

    /// The tags of a repository. `query` (`n`, `last`) is passed on.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn tags(&self, repository: &str, query: &str) -> Result<TagList, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => registry.tags(repository, query).await,
            Self::Layout(layout) => layout.tags(repository).await,
        }
    }

    /// How to get at a blob. `turn` picks among a name's addresses.
    ///
    /// # Errors
    /// [`OriginError`]: no such name, no such blob (layouts only).
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        turn: u32,
    ) -> Result<BlobRoute, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => registry.blob(repository, digest, turn).await,
            Self::Layout(layout) => layout.blob(digest).await.map(BlobRoute::Local),
        }
    }
}
