//! Answers to requests that are not for a blob's body: the distribution API's small half and the
//! node's own API.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;
use tracing::debug;
use xylem_protocol::Digest;
use xylem_protocol::http::{Method, Request, Route, error_body};
use xylem_protocol::limits::ANSWER_WAIT_MS;
use xylem_protocol::names::Target;

use super::Agent;
use super::access::caller;
use super::flows::{Refusal, header_safe, relayed_lines};
use super::manifests::ManifestAsk;
use super::tags::Stale;
use super::{doctor, explain, pulls, tokens};
use crate::clock::monotonic_ns;
use crate::hops::HopFigures;
use crate::link::{Ticket, ToHot};
use crate::oneline::chain;
use crate::origin::{
    Document, Manifest, Origin, OriginError, Relayed, Repository, UnknownRegistry,
};

const JSON: &str = "application/json";

/// An answer before it is addressed.
#[derive(Debug)]
struct Reply {
    status: u16,
    content_type: String,
    digest: Option<Digest>,
    extra: String,
    body: Bytes,
    /// Length of a body that is not at hand, for HEAD.
    length: Option<u64>,
}

impl Reply {
    fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let content_type = content_type.to_owned();
        Self {
            status,
            content_type,
            digest: None,
            extra: String::new(),
            body: body.into(),
            length: None,
        }
    }

    fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self::new(status, JSON, body)
            }
            Err(error) => Refusal::new(500, "UNKNOWN", error.to_string()).into(),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        // A HEAD at the registry brought its challenge without its words.
        let words = refusal.answer.as_deref().filter(|answer| !answer.body.is_empty());
        match words {
            Some(answer) => answer.clone().into(),
            None => {
                let body = error_body(refusal.code, &refusal.message);
                Self { extra: refusal.extra(), ..Self::new(refusal.status, JSON, body) }
            }
        }
    }
}

impl From<Relayed> for Reply {
    fn from(answer: Relayed) -> Self {
        let content_type = answer.content_type.as_deref().unwrap_or(JSON);
        let extra = relayed_lines(&answer);
        Self { extra, ..Self::new(answer.status, &header_safe(content_type), answer.body) }
    }
}

impl From<Manifest> for Reply {
    fn from(manifest: Manifest) -> Self {
        let digest = Some(manifest.digest);
        Self { digest, ..Self::new(200, &header_safe(&manifest.media_type), manifest.bytes) }
    }
}

/// Whom to answer. Answers by itself if it is dropped: every ask is answered once, whatever happens
/// to its task.
struct Pending {
    agent: Rc<Agent>,
    ticket: Ticket,
    head: bool,
    answered: bool,
}

impl Pending {
    fn answer(mut self, reply: Reply) {
        self.send(reply);
    }

    /// The caller may have the blob: the ring thread gives it.
    fn admit(mut self) {
        self.answered = true;
        self.agent.post.send(ToHot::Admitted { ticket: self.ticket });
    }

    fn send(&mut self, reply: Reply) {
        self.answered = true;
        let length = reply.length.unwrap_or(reply.body.len() as u64);
        self.agent.post.send(ToHot::Answer {
            ticket: self.ticket,
            status: reply.status,
            content_type: reply.content_type,
            digest: reply.digest,
            extra: reply.extra,
            head_length: self.head.then_some(length),
            body: if self.head { Bytes::new() } else { reply.body },
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered {
            let message = "the request was interrupted".to_owned();
            self.send(Refusal::new(500, "UNKNOWN", message).into());
        }
    }
}

impl Agent {
    /// Answers a request, now or later.
    pub(super) fn ask(self: &Rc<Self>, ticket: Ticket, request: Request, body: Vec<u8>) {
        let head = request.method == Method::Head;
        let pending = Pending { agent: self.clone(), ticket, head, answered: false };
        let agent = self.clone();
        tokio_uring::spawn(async move {
            let wait = Duration::from_millis(ANSWER_WAIT_MS);
            let reply = timeout(wait, agent.reply(&request, &body)).await.unwrap_or_else(|_| {
                let message = format!("no answer from above within {ANSWER_WAIT_MS} ms");
                Refusal::new(504, "UNKNOWN", message).into()
            });
            pending.answer(reply);
        });
    }

    async fn reply(self: &Rc<Self>, request: &Request, body: &[u8]) -> Reply {
        let reads = matches!(request.method, Method::Get | Method::Head);
        let reply = match &request.route {
            Route::Other(path) if path == doctor::PATH && reads => {
                Ok(Reply::json(200, &self.doctor().await))
            }
            Route::Other(path) if path == tokens::TOKEN_PATH && reads => {
                self.token(request).await.map(Reply::from)
            }
            Route::Other(path) if path.starts_with(pulls::ONE) && reads => {
                self.pull_at(path, request).await.map(|pull| Reply::json(200, &pull))
            }
            Route::Other(path) => self.own_api(path, request, body),
            Route::Ping => self.ping_reply(request).await,
            Route::Manifest { target, .. } => self.manifest_reply(target, request).await,
            Route::Tags { .. } => self.tags_reply(request).await,
            Route::Referrers { digest, .. } => self.referrers_reply(digest, request).await,
            Route::Blob { digest, .. } => self.blob_reply(digest, request).await,
        };
        reply.unwrap_or_else(Into::into)
    }

    /// The registry's own answer to "is this a registry, and with which credentials?": clients take
    /// from it how to authenticate. A node that cannot ask, or whom to ask is not said, is one.
    async fn ping_reply(&self, request: &Request) -> Result<Reply, Refusal> {
        let here = || Reply::new(200, JSON, "{}\n");
        let found = self.registries.find(request.namespace.as_deref(), "ping");
        let repository = match found {
            Ok(repository) => repository,
            Err(UnknownRegistry::Ambiguous(_)) if request.authorization.is_none() => {
                let Some(challenge) = tokens::challenge(request) else { return Ok(here()) };
                let message = "which registry is meant stands in the scope".to_owned();
                let refusal = Refusal::new(401, "UNAUTHORIZED", message);
                return Err(refusal.challenged(Some(&challenge)));
            }
            Err(_) => return Ok(here()),
        };
        let Some(registry) = repository.origin().registry() else { return Ok(here()) };
        match registry.relay("", "", "", &caller(request)).await {
            Ok(answer) if matches!(answer.status, 200 | 401 | 403) => Ok(answer.into()),
            Ok(answer) => {
                debug!(status = answer.status, "the registry's ping");
                Ok(here())
            }
            Err(error) => {
                debug!(error = chain(&error), "the registry's ping");
                Ok(here())
            }
        }
    }

    async fn manifest_reply(
        self: &Rc<Self>,
        target: &Target,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let asked_ns = monotonic_ns();
        let repository = self.repository(request)?;
        let credentials = caller(request);
        let mut stale = None;
        let (digest, granted) = match target {
            Target::Tag(tag) => {
                let accept = &request.accept;
                let resolved = self.resolve(&repository, tag, accept, &credentials).await?;
                let digest = resolved.0;
                stale = resolved.1;
                let until = match stale {
                    None => self.grant(request, [digest]),
                    // The registry did not say now who may have it.
                    Some(_) => self.admit(request, &repository, &digest).await?,
                };
                (digest, Some(until))
            }
            // What is not here comes from the registry, with the caller's credentials: no need to
            // ask it before.
            Target::Digest(digest) if self.is_asked_anyway(request, digest).await => {
                (*digest, None)
            }
            Target::Digest(digest) => {
                (*digest, Some(self.admit(request, &repository, digest).await?))
            }
        };
        let ask = ManifestAsk {
            repository,
            digest,
            credentials,
            image: request.image,
            path: request.path.clone(),
        };
        let manifest = match granted {
            Some(_) => self.manifest(&ask).await?,
            None => self.manifest_of_registry(&ask).await?,
        };
        let until = granted.unwrap_or_else(|| self.grant(request, [digest]));
        let named = Document::parse(&manifest.bytes);
        if let Some(document) = &named {
            self.note_given(request, &ask.repository, target, (digest, document), asked_ns);
        }
        self.grant_until(request, named.iter().flat_map(Document::digests), until);
        let extra = stale.map_or(String::new(), Stale::warning);
        Ok(Reply { extra, ..manifest.into() })
    }

    async fn tags_reply(&self, request: &Request) -> Result<Reply, Refusal> {
        let repository = self.repository(request)?;
        let (name, query) = (repository.name(), own_query(&request.query));
        let tags = repository.origin().tags(name, &query, &caller(request)).await;
        let refused = |error: OriginError| Refusal {
            code: error.code("NAME_UNKNOWN"),
            ..Refusal::origin(&error)
        };
        Ok(tags.map_err(refused)?.into())
    }

    async fn referrers_reply(&self, to: &Digest, request: &Request) -> Result<Reply, Refusal> {
        let repository = self.repository(request)?;
        let refused = |error: OriginError| Refusal::origin(&error);
        let none = || refused(OriginError::NoUpstream);
        let registry = repository.origin().registry().ok_or_else(none)?;
        let (name, query) = (repository.name(), own_query(&request.query));
        let path = format!("{name}/referrers/{to}");
        let answer = registry.relay(name, &path, &query, &caller(request)).await;
        Ok(answer.map_err(refused)?.into())
    }

    /// Only the ring thread gives blobs' bodies; their sizes can be told here too.
    async fn blob_reply(&self, digest: &Digest, request: &Request) -> Result<Reply, Refusal> {
        if request.method != Method::Head {
            let message = "bodies of blobs are not answered here".to_owned();
            return Err(Refusal::new(500, "UNKNOWN", message));
        }
        let repository = self.repository(request)?;
        let size = self.blob_size(&repository, digest, request).await?;
        let reply = Reply::new(200, "application/octet-stream", Bytes::new());
        Ok(Reply { digest: Some(*digest), length: Some(size), ..reply })
    }

    async fn blob_size(
        &self,
        repository: &Repository,
        digest: &Digest,
        request: &Request,
    ) -> Result<u64, Refusal> {
        let refused = |error: OriginError| Refusal::origin(&error);
        match (self.store.size_of(digest), repository.origin()) {
            (Some(size), _) => {
                self.admit(request, repository, digest).await?;
                Ok(size)
            }
            (None, Origin::Registry(registry)) => {
                let credentials = caller(request);
                let name = repository.name();
                let size = registry.check(name, "blobs", digest, &credentials).await;
                let size = size.map_err(refused)?;
                self.accepted(repository, &credentials);
                self.grant(request, [*digest]);
                let unsaid = "the registry does not say the blob's size".to_owned();
                size.ok_or_else(|| Refusal::new(502, "UNKNOWN", unsaid))
            }
            (None, Origin::Layout(layout)) => Ok(layout.blob(digest).await.map_err(refused)?.size),
            (None, Origin::None) => Err(refused(OriginError::NoUpstream)),
        }
    }

    /// The ring thread has a request for a blob and does not know whether its caller may have it.
    pub(super) fn admit_blob(self: &Rc<Self>, ticket: Ticket, request: Request) {
        let head = request.method == Method::Head;
        let pending = Pending { agent: self.clone(), ticket, head, answered: false };
        let agent = self.clone();
        tokio_uring::spawn(async move {
            match agent.admit_request(&request).await {
                Ok(()) => pending.admit(),
                Err(refusal) => pending.answer(refusal.into()),
            }
        });
    }

    async fn admit_request(&self, request: &Request) -> Result<(), Refusal> {
        let repository = self.repository(request)?;
        if let Route::Blob { digest, .. } = &request.route {
            self.admit(request, &repository, digest).await?;
        }
        Ok(())
    }

    fn own_api(
        self: &Rc<Self>,
        path: &str,
        request: &Request,
        body: &[u8],
    ) -> Result<Reply, Refusal> {
        let method = request.method;
        let reads = matches!(method, Method::Get | Method::Head);
        match path {
            "/healthz" if reads => Ok(Reply::new(200, "text/plain; charset=utf-8", "ok\n")),
            "/metrics" if reads => {
                let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Ok(Reply::new(200, text, self.metrics_text()))
            }
            "/xylem/v1/status" if reads => Ok(Reply::json(200, &self.status())),
            "/xylem/v1/hops" if reads => {
                let hops = self.hops.figures();
                let hops: Vec<_> = hops.iter().map(HopFigures::to_json).collect();
                Ok(Reply::json(200, &serde_json::json!({ "hops": hops })))
            }
            "/xylem/v1/pulls" if method == Method::Post => {
                Ok(Reply::json(202, &serde_json::json!({ "id": self.pull(request, body)? })))
            }
            _ if reads && path.starts_with(explain::IMAGES) => {
                let view = self.explain(&path[explain::IMAGES.len()..], request)?;
                let tree = self.place(&view.image);
                Ok(Reply::json(200, &serde_json::json!({ "pull": view, "tree": tree })))
            }
            "/healthz"
            | "/metrics"
            | "/xylem/v1/status"
            | "/xylem/v1/hops"
            | "/xylem/v1/pulls"
            | doctor::PATH
            | explain::IMAGES => {
                let message = "the method is not for this path".to_owned();
                Err(Refusal::new(405, "UNSUPPORTED", message))
            }
            _ => Err(Refusal::nothing_at(path)),
        }
    }
}

/// A client's query without what is for the node.
fn own_query(query: &str) -> String {
    let parts = query.split('&').filter(|part| !part.starts_with("ns=") && !part.is_empty());
    parts.collect::<Vec<_>>().join("&")
}
