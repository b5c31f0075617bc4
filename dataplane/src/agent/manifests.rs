//! Manifests and tags for whoever asks: from memory, the store, the parent, the registry, in this
//! order; each fetched once however many ask.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};
use xylem_protocol::Digest;
use xylem_protocol::http::Request;
use xylem_protocol::limits::{BLOB_IMAGES_MAX, MANIFEST_CACHE_BYTES_MAX, MANIFEST_MAX};

use super::Agent;
use super::flows::Refusal;
use super::tags::Stale;
use crate::origin::{
    ACCEPT_ALL, Credentials, Document, Manifest, OriginError, Repository, Resolved, is_index,
    media_type_of,
};

/// What is asked of an upstream at the moment, and who waits for it.
pub(super) type Inflight<K, V> = RefCell<HashMap<K, Rc<OnceCell<V>>>>;

type Fetched = Result<Manifest, Rc<OriginError>>;

/// A question to a registry: repository, tag, accepted types, credentials.
type TagAsk = (String, String, String, Option<Rc<str>>);

/// Manifests in memory, and those on the way.
#[derive(Debug)]
pub(super) struct Manifests {
    cache: RefCell<crate::lru::Lru<Digest, Manifest>>,
    cached_bytes: Cell<usize>,
    /// Media types that a tag or an index has named for digests.
    kinds: RefCell<crate::lru::Lru<Digest, String>>,
    fetching: Inflight<Digest, Fetched>,
    storing: Inflight<Digest, ()>,
    resolving: Inflight<TagAsk, Result<Resolved, Rc<OriginError>>>,
}

/// A request for a manifest by its digest.
#[derive(Debug, Clone)]
pub(super) struct ManifestAsk {
    pub(super) repository: Repository,
    pub(super) digest: Digest,
    /// For whom a registry is asked.
    pub(super) credentials: Credentials,
    /// The tree that it belongs to, when a child asks.
    pub(super) image: Option<Digest>,
    pub(super) path: Vec<String>,
}

impl Manifests {
    pub(super) fn new() -> Self {
        Self {
            cache: RefCell::new(crate::lru::Lru::new(BLOB_IMAGES_MAX)),
            cached_bytes: Cell::new(0),
            kinds: RefCell::new(crate::lru::Lru::new(BLOB_IMAGES_MAX)),
            fetching: Inflight::default(),
            storing: Inflight::default(),
            resolving: Inflight::default(),
        }
    }

    fn cached(&self, digest: &Digest) -> Option<Manifest> {
        self.cache.borrow_mut().get(digest).cloned()
    }

    fn keep(&self, manifest: &Manifest) {
        if manifest.bytes.len() > MANIFEST_CACHE_BYTES_MAX / 2 {
            return;
        }
        let mut cache = self.cache.borrow_mut();
        let mut bytes = self.cached_bytes.get() + manifest.bytes.len();
        if let Some((_, gone)) = cache.insert(manifest.digest, manifest.clone()) {
            bytes -= gone.bytes.len();
        }
        while bytes > MANIFEST_CACHE_BYTES_MAX {
            let Some((_, gone)) = cache.pop() else { break };
            bytes -= gone.bytes.len();
        }
        self.cached_bytes.set(bytes);
    }

    fn kind(&self, digest: &Digest) -> Option<String> {
        self.kinds.borrow_mut().get(digest).cloned()
    }
}

impl Agent {
    /// What a tag names now.
    pub(super) async fn resolve(
        self: &Rc<Self>,
        repository: &Repository,
        tag: &str,
        accept: &str,
        credentials: &Credentials,
    ) -> Result<(Digest, Option<Stale>), Refusal> {
        let given = match credentials {
            Credentials::Client(given) => given.clone(),
            Credentials::Node => None,
        };
        let key = (repository.label(), tag.to_owned(), accept.to_owned(), given);
        let resolved = once(&self.manifests.resolving, key, async {
            if let Some(error) = self.access.is_down(repository) {
                return Err(error);
            }
            let (origin, name) = (repository.origin(), repository.name());
            let resolved = origin.resolve(name, tag, accept, credentials).await;
            resolved.map_err(Rc::new).inspect_err(|error| self.access.note(repository, error))
        })
        .await;
        match resolved {
            Ok(Resolved::Named(digest, media_type)) => {
                self.accepted(repository, credentials);
                self.manifests.kinds.borrow_mut().insert(digest, media_type);
                self.note_tag(repository, tag, accept, digest);
                Ok((digest, None))
            }
            Ok(Resolved::Whole(manifest)) => {
                let digest = manifest.digest;
                self.accepted(repository, credentials);
                self.learn(&manifest, repository);
                self.keep(&manifest).await;
                self.note_tag(repository, tag, accept, digest);
                Ok((digest, None))
            }
            Err(error) => {
                let patience = self.access.settings.offline;
                let known = Some(()).filter(|()| error.is_passing());
                let known =
                    known.and_then(|()| self.tags.recall(repository, tag, accept, patience));
                let (digest, stale) = known.ok_or_else(|| self.manifest_refusal(&error))?;
                let age_s = stale.age.as_secs();
                warn!(%digest, tag, age_s, "registry down: a tag's last digest is given out");
                Ok((digest, Some(stale)))
            }
        }
    }

    /// A manifest by its digest.
    pub(super) async fn manifest(self: &Rc<Self>, ask: &ManifestAsk) -> Result<Manifest, Refusal> {
        if let Some(manifest) = self.manifest_here(&ask.digest).await {
            self.learn(&manifest, &ask.repository);
            return Ok(manifest);
        }
        if ask.path.contains(&self.settings.node) {
            let message = format!("request has passed {} already", self.settings.node);
            return Err(Refusal::new(508, "UNKNOWN", message));
        }
        let fetched = once(&self.manifests.fetching, ask.digest, async {
            let manifest = self.fetch_manifest(ask).await?;
            self.learn(&manifest, &ask.repository);
            self.keep(&manifest).await;
            Ok(manifest)
        });
        fetched.await.map_err(|error| self.manifest_refusal(&error))
    }

    fn manifest_refusal(&self, error: &OriginError) -> Refusal {
        self.metrics.error("manifest");
        Refusal { code: error.code("MANIFEST_UNKNOWN"), ..Refusal::origin(error) }
    }

    /// Whether a request for a manifest goes to the registry with its caller's credentials, so that
    /// its answer says whether the caller may have it.
    pub(super) async fn is_asked_anyway(&self, request: &Request, digest: &Digest) -> bool {
        let is_client = request.node.is_none() && self.access.settings.grantor.is_some();
        is_client && !self.has_grant(request, digest) && self.manifest_here(digest).await.is_none()
    }

    /// A manifest that nobody has asked for yet, from the registry.
    pub(super) async fn manifest_of_registry(
        self: &Rc<Self>,
        ask: &ManifestAsk,
    ) -> Result<Manifest, Refusal> {
        let (origin, name) = (ask.repository.origin(), ask.repository.name());
        let fetched = origin.manifest(name, &ask.digest, ACCEPT_ALL, &ask.credentials).await;
        let manifest = fetched.map_err(|error| self.manifest_refusal(&error))?;
        self.accepted(&ask.repository, &ask.credentials);
        self.learn(&manifest, &ask.repository);
        self.keep(&manifest).await;
        Ok(manifest)
    }

    async fn manifest_here(&self, digest: &Digest) -> Option<Manifest> {
        if let Some(manifest) = self.manifests.cached(digest) {
            return Some(manifest);
        }
        self.store.size_of(digest)?;
        let (store, wanted) = (self.store.clone(), *digest);
        let read = spawn_blocking(move || store.read(&wanted, MANIFEST_MAX)).await.ok()?;
        let bytes = read.inspect_err(|error| warn!(%error, "manifest in the store")).ok()??;
        let media_type = self.manifests.kind(digest).unwrap_or_else(|| media_type_of(&bytes));
        let manifest = Manifest { digest: *digest, media_type, bytes: bytes.into() };
        self.manifests.keep(&manifest);
        Some(manifest)
    }

    /// From the nodes above in the tree, then from the registry. An index has no tree.
    async fn fetch_manifest(&self, ask: &ManifestAsk) -> Fetched {
        let kind = self.manifests.kind(&ask.digest);
        let mut last = None;
        if !kind.is_some_and(|kind| is_index(&kind)) {
            let image = ask.image.unwrap_or(ask.digest);
            let upstreams = self.trees.upstreams(image, &ask.repository.label(), true).await;
            let request = self.peer_request(&ask.repository, (ask.digest, None), image, &ask.path);
            for peer in upstreams.iter() {
                let waits_for_us = ask.path.iter().any(|node| **node == *peer.node);
                if waits_for_us || !self.trees.is_usable(&peer.node) {
                    continue;
                }
                match self.peers.manifest(&peer.node, peer.address, &request).await {
                    Ok(manifest) => return Ok(manifest),
                    Err(error) => {
                        let told = crate::oneline::chain(&error);
                        debug!(digest = %ask.digest, error = told, "manifest of a peer");
                        last = Some(error);
                    }
                }
            }
        }
        let (origin, name) = (ask.repository.origin(), ask.repository.name());
        let from_origin = origin.manifest(name, &ask.digest, ACCEPT_ALL, &ask.credentials).await;
        if from_origin.is_ok() {
            self.accepted(&ask.repository, &ask.credentials);
        }
        from_origin.map_err(|error| match (error, last) {
            (OriginError::NoUpstream, Some(last)) => Rc::new(last),
            (error, _) => Rc::new(error),
        })
    }

    /// Takes from a manifest what belongs to what.
    fn learn(&self, manifest: &Manifest, repository: &Repository) {
        match Document::parse(&manifest.bytes) {
            Some(Document::Image(blobs)) => {
                let own = (manifest.digest, manifest.bytes.len() as u64);
                let named = blobs.iter().map(|blob| (blob.digest, blob.size));
                self.trees.learn(manifest.digest, named.chain([own]));
                self.trees.join(manifest.digest, &repository.label());
                let contents = blobs.iter().map(|blob| blob.digest);
                self.trees.learn_contents(&manifest.digest, contents);
            }
            Some(Document::Index(images)) => {
                self.trees.leave(&manifest.digest);
                let mut kinds = self.manifests.kinds.borrow_mut();
                for (image, _) in images {
                    kinds.insert(image.digest, image.media_type);
                }
            }
            None => self.trees.leave(&manifest.digest),
        }
    }

    /// Into memory, and into the store behind the answer's back: nobody waits for the disk but for
    /// a manifest that memory does not take.
    async fn keep(self: &Rc<Self>, manifest: &Manifest) {
        self.manifests.keep(manifest);
        let (agent, manifest) = (self.clone(), manifest.clone());
        let is_in_memory = self.manifests.cached(&manifest.digest).is_some();
        let stored = tokio_uring::spawn(async move { agent.store_manifest(&manifest).await });
        if !is_in_memory {
            // Only a panic in there ends it otherwise.
            let _ = stored.await;
        }
    }

    /// Into the store. A store that does not take it costs the manifest's next fetch, not this one.
    pub(super) async fn store_manifest(&self, manifest: &Manifest) {
        let put = once(&self.manifests.storing, manifest.digest, async {
            let (store, manifest) = (self.store.clone(), manifest.clone());
            let put = spawn_blocking(move || store.put(&manifest.digest, &manifest.bytes)).await;
            if let Ok(Err(error)) = put {
                self.metrics.error("store");
                warn!(error = crate::oneline::chain(&error), "manifest not stored");
            }
        });
        put.await;
    }
}

/// Runs one of several equal calls, and gives its result to all.
pub(super) async fn once<K: Clone + Eq + Hash, V: Clone>(
    inflight: &Inflight<K, V>,
    key: K,
    call: impl Future<Output = V>,
) -> V {
    let cell = inflight.borrow_mut().entry(key.clone()).or_default().clone();
    let value = cell.get_or_init(|| call).await.clone();
    let mut inflight = inflight.borrow_mut();
    // A later call may have begun anew under the same key.
    if inflight.get(&key).is_some_and(|present| Rc::ptr_eq(present, &cell)) {
        inflight.remove(&key);
    }
    value
}
