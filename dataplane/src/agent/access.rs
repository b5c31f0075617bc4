//! Whether a caller may have what is kept here: the registry is asked, and its yes remembered. And
//! with whose credentials the node's own streams ask. Nothing of this is ever written down.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::debug;
use xylem_protocol::Digest;
use xylem_protocol::http::{Request, Route};
use xylem_protocol::limits::{REGISTRIES_MAX, REGISTRY_DOWN_MS, TOKENS_MAX};

use super::Agent;
use super::flows::Refusal;
use super::manifests::{Inflight, once};
use super::tokens;
use crate::access::{GrantKey, Grantor, Grants, Vouchers};
use crate::link::ToHot;
use crate::lru::Lru;
use crate::origin::{Credentials, OriginError, PeerRequest, Repository, UnknownRegistry};

/// How grants are given.
#[derive(Debug, Clone)]
pub struct AccessSettings {
    /// Makes their keys; `None`: whoever reaches the node may have everything.
    pub grantor: Option<Grantor>,
    /// How long a yes is remembered.
    pub grant: Duration,
    /// How much longer while the registry does not answer.
    pub offline: Duration,
}

/// What is known of callers.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) settings: AccessSettings,
    grants: RefCell<Grants>,
    checking: Inflight<GrantKey, Result<Option<u64>, Rc<OriginError>>>,
    /// Credentials that a registry took last for a repository, for the node's own streams.
    taken: RefCell<Lru<String, (Rc<str>, Instant)>>,
    renewed: Notify,
    vouchers: RefCell<Vouchers>,
    /// Registries that could not be reached, until when they are not asked again, and why.
    down: RefCell<Lru<String, (Instant, Rc<OriginError>)>>,
}

impl Access {
    pub(super) fn new(settings: AccessSettings) -> Self {
        Self {
            settings,
            grants: RefCell::default(),
            checking: Inflight::default(),
            taken: RefCell::new(Lru::new(TOKENS_MAX)),
            renewed: Notify::new(),
            vouchers: RefCell::default(),
            down: RefCell::new(Lru::new(REGISTRIES_MAX)),
        }
    }

    /// Notes that a registry cannot be reached.
    pub(super) fn note(&self, repository: &Repository, error: &Rc<OriginError>) {
        // A registry that answers with an error is there, and may answer the next question.
        let is_down = matches!(
            **error,
            OriginError::Unreachable { .. } | OriginError::Timeout(_) | OriginError::Lookup { .. }
        );
        if !is_down {
            return;
        }
        let until = Instant::now() + Duration::from_millis(REGISTRY_DOWN_MS);
        let host = repository.host().map_or(String::new(), |host| host.to_string());
        self.down.borrow_mut().insert(host, (until, error.clone()));
    }

    pub(super) fn is_down(&self, repository: &Repository) -> Option<Rc<OriginError>> {
        let host = repository.host().map_or(String::new(), |host| host.to_string());
        let down = self.down.borrow();
        let (until, error) = down.peek(&host)?;
        (Instant::now() < *until).then(|| error.clone())
    }

    /// Until when a yes of now is remembered.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.settings.grant
    }
}

/// The client that sent a request.
pub(super) fn caller(request: &Request) -> Credentials {
    let given = request.authorization.as_deref().and_then(tokens::meant);
    Credentials::Client(given.map(Rc::from))
}

impl Agent {
    /// The repository that a request names.
    pub(super) fn repository(&self, request: &Request) -> Result<Repository, Refusal> {
        let path = request.route.repository().unwrap_or_default();
        self.find_repository(request.namespace.as_deref(), path)
    }

    pub(super) fn find_repository(
        &self,
        namespace: Option<&str>,
        path: &str,
    ) -> Result<Repository, Refusal> {
        self.registries.find(namespace, path).map_err(|error| {
            let (status, code) = match &error {
                UnknownRegistry::NotConfigured { .. } => (403, "DENIED"),
                UnknownRegistry::Ambiguous(_) => (404, "NAME_UNKNOWN"),
                UnknownRegistry::Unusable(_) => (502, "UNKNOWN"),
            };
            Refusal::new(status, code, crate::oneline::chain(&error))
        })
    }

    /// Makes sure that a request's caller may have a blob or manifest that is here; until when that
    /// holds.
    pub(super) async fn admit(
        &self,
        request: &Request,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Instant, Refusal> {
        let (now, settings) = (Instant::now(), &self.access.settings);
        let (Some(grantor), Some(registry)) = (&settings.grantor, repository.origin().registry())
        else {
            return Ok(self.access.until());
        };
        if self.access.vouchers.borrow().vouched(request) {
            return Ok(self.access.until());
        }
        let key = grantor.key(request, digest);
        if let Some(until) = self.access.grants.borrow_mut().get(key, now) {
            return Ok(until);
        }
        let (credentials, kind) = (caller(request), kind_of(request));
        let checked = once(&self.access.checking, key, async {
            if let Some(error) = self.access.is_down(repository) {
                return Err(error);
            }
            let checked = registry.check(repository.name(), kind, digest, &credentials).await;
            checked.map_err(Rc::new).inspect_err(|error| self.access.note(repository, error))
        });
        match checked.await {
            Ok(_) => {
                self.accepted(repository, &credentials);
                Ok(self.grant(request, [*digest]))
            }
            Err(error) if error.is_passing() => {
                let late = self.access.grants.borrow_mut().get_late(key, now, settings.offline);
                let is_known = late.is_some() || self.store.is_public(digest);
                debug!(%digest, is_known, "the registry cannot be asked who may have it");
                if is_known { Ok(now) } else { Err(Refusal::origin(&error)) }
            }
            Err(error) => {
                self.access.grants.borrow_mut().remove(key);
                Err(Refusal::origin(&error))
            }
        }
    }

    /// Whether an image may be named to whoever asks, as far as is known without the registry.
    pub(super) fn is_anybodys(&self, image: &Digest) -> bool {
        self.access.settings.grantor.is_none() || self.store.is_public(image)
    }

    /// Whether a request's caller is known to have a right that holds.
    pub(super) fn has_grant(&self, request: &Request, digest: &Digest) -> bool {
        let Some(grantor) = &self.access.settings.grantor else { return true };
        let key = grantor.key(request, digest);
        self.access.grants.borrow_mut().get(key, Instant::now()).is_some()
    }

    /// Asks the registry whether anybody may have an image, and remembers that for what it names.
    /// That the image is here already says nothing: somebody's credentials may have brought it.
    pub(super) fn note_if_public(
        self: &Rc<Self>,
        repository: Repository,
        image: Digest,
        named: Vec<Digest>,
    ) {
        if self.access.settings.grantor.is_none() || self.store.is_public(&image) {
            return;
        }
        let agent = self.clone();
        tokio_uring::spawn(async move {
            let Some(registry) = repository.origin().registry() else { return };
            let name = repository.name();
            match registry.check(name, "manifests", &image, &Credentials::Node).await {
                Ok(_) => agent.store.mark_public(&[&named[..], &[image]].concat()),
                Err(error) => {
                    debug!(%image, error = crate::oneline::chain(&error), "not known as public");
                }
            }
        });
    }

    /// Remembers a registry's yes of now to a request's caller; until when it holds.
    pub(super) fn grant(
        &self,
        request: &Request,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Instant {
        let until = self.access.until();
        self.grant_until(request, digests, until);
        until
    }

    /// Remembers that who may have a manifest may have what it names, for as long.
    pub(super) fn grant_until(
        &self,
        request: &Request,
        digests: impl IntoIterator<Item = Digest>,
        until: Instant,
    ) {
        let Some(grantor) = &self.access.settings.grantor else { return };
        if self.access.vouchers.borrow().vouched(request) {
            // It has no credentials but a node's word, which nobody else brings: remembered, it
            // would be the right of everybody without credentials.
            return;
        }
        let digests: Vec<Digest> = digests.into_iter().collect();
        if request.authorization.is_none() && request.node.is_none() && until > Instant::now() {
            self.store.mark_public(&digests);
        }
        let keys: Vec<GrantKey> =
            digests.iter().map(|digest| grantor.key(request, digest)).collect();
        let mut grants = self.access.grants.borrow_mut();
        for &key in &keys {
            grants.insert(key, until);
        }
        self.post.send(ToHot::Grants { keys, until });
    }

    /// The registry does not take the credentials any more with which a digest was asked for: who
    /// asks for it next is to be told so, and then brings new ones.
    pub(super) fn revoke(&self, digest: &Digest) {
        self.access.grants.borrow_mut().revoke(digest);
        self.post.send(ToHot::Revoke { digest: *digest });
    }

    /// The registry took these credentials for a repository: the node's own streams may ask with
    /// them for as long as a grant lasts.
    pub(super) fn accepted(&self, repository: &Repository, credentials: &Credentials) {
        let Credentials::Client(Some(given)) = credentials else { return };
        let taken = (given.clone(), self.access.until());
        self.access.taken.borrow_mut().insert(repository.label(), taken);
        self.access.renewed.notify_waiters();
    }

    /// With what the node's own streams ask for a repository.
    pub(super) fn credentials_of(&self, repository: &Repository) -> Credentials {
        let mut taken = self.access.taken.borrow_mut();
        match taken.get(&repository.label()) {
            Some((given, until)) if Instant::now() < *until => {
                Credentials::Client(Some(given.clone()))
            }
            _ => Credentials::Node,
        }
    }

    /// Waits until a client brings other credentials for a repository than those that the registry
    /// no longer takes; false if none does in time.
    pub(super) async fn renewed(
        &self,
        repository: &Repository,
        old: &Credentials,
        wait: Duration,
    ) -> bool {
        let changed = async {
            loop {
                let renewed = self.access.renewed.notified();
                let now = self.credentials_of(repository);
                if now != *old && now != Credentials::Node {
                    return;
                }
                renewed.await;
            }
        };
        tokio::time::timeout(wait, changed).await.is_ok()
    }

    /// Control has handed out a key by which nodes vouch for their callers.
    pub(super) fn take_voucher_key(&self, key: &[u8]) {
        if key.is_empty() {
            return;
        }
        let mut vouchers = self.access.vouchers.borrow_mut();
        vouchers.renew(key);
        self.post.send(ToHot::Vouchers(vouchers.clone()));
    }

    /// This node's word to another that its caller may have a digest.
    pub(super) fn vouch(&self, repository: &Repository, digest: &Digest) -> Option<String> {
        let host = repository.host().map(|host| &**host);
        let vouchers = self.access.vouchers.borrow();
        vouchers.sign(&self.settings.node, host, repository.name(), digest)
    }

    /// A request to another node.
    pub(super) fn peer_request(
        &self,
        repository: &Repository,
        (digest, stripe): (Digest, Option<u8>),
        image: Digest,
        passed: &[String],
    ) -> PeerRequest {
        let node = self.settings.node.clone();
        let path = passed.iter().chain([&node]).cloned().collect();
        PeerRequest {
            namespace: repository.host().cloned(),
            repository: repository.name().to_owned(),
            stripe,
            digest,
            image,
            node,
            path,
            grant: self.vouch(repository, &digest),
        }
    }
}

fn kind_of(request: &Request) -> &'static str {
    if matches!(request.route, Route::Blob { .. }) { "blobs" } else { "manifests" }
}
