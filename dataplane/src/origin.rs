//! Where images come from when no peer has them: a registry, or an OCI layout in a directory.
//! Manifests and tags come through here whole; blobs only as the address to fetch them from, or as
//! a stream when they are inside TLS.

mod blobs;
mod document;
mod error;
mod layout;
mod peer;
mod ping;
mod registries;
mod registry;
mod tls;
mod token;

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use xylem_protocol::Digest;

use crate::store::Complete;

pub use blobs::BlobStream;
pub(crate) use document::is_index;
pub use document::{Descriptor, Document, Platform, media_type_of};
pub use error::OriginError;
pub use layout::Layout;
pub use peer::{PeerClient, PeerRequest};
pub use ping::Ping;
pub use registries::{Registries, Repository, UnknownRegistry};
pub use registry::Registry;

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

/// An answer of a registry that is passed on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// Status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `WWW-Authenticate` lines.
    pub challenges: Vec<String>,
    /// `Link` to the next page.
    pub link: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// On whose behalf a registry is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A client's: its `Authorization` goes along as it is, or none does.
    Client(Option<Rc<str>>),
    /// The node's own: none, or a token that the registry hands out to anybody.
    Node,
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
    /// The registry, if it is one.
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Registry(registry) => Some(registry),
            Self::None | Self::Layout(_) => None,
        }
    }

    /// How many mirrors are asked before the registry.
    pub fn mirrors(&self) -> u32 {
        self.registry().map_or(0, Registry::mirrors)
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
        credentials: &Credentials,
    ) -> Result<Resolved, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => {
                registry.resolve(repository, tag, accept, credentials).await
            }
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
        credentials: &Credentials,
    ) -> Result<Manifest, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => {
                registry.manifest(repository, digest, accept, credentials).await
            }
            Self::Layout(layout) => layout.manifest(digest).await,
        }
    }

    /// The tags of a repository. `query` (`n`, `last`) is passed on.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn tags(
        &self,
        repository: &str,
        query: &str,
        credentials: &Credentials,
    ) -> Result<Relayed, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => {
                let path = format!("{repository}/tags/list");
                registry.relay(repository, &path, query, credentials).await
            }
            Self::Layout(layout) => layout.tags(repository).await,
        }
    }

    /// How to get at a blob. `turn` picks among mirrors and a name's addresses.
    ///
    /// # Errors
    /// [`OriginError`]: no such name, no such blob (layouts only).
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        turn: u32,
        credentials: &Credentials,
    ) -> Result<BlobRoute, OriginError> {
        match self {
            Self::None => Err(OriginError::NoUpstream),
            Self::Registry(registry) => {
                let endpoint = registry.endpoint(turn);
                let own = std::ptr::eq(endpoint, registry);
                let credentials = if own { credentials } else { &Credentials::Node };
                let turn = turn.saturating_sub(registry.mirrors());
                endpoint.blob(repository, digest, turn, credentials).await
            }
            Self::Layout(layout) => layout.blob(digest).await.map(BlobRoute::Local),
        }
    }
}
