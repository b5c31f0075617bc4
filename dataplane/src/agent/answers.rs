//! Answers to requests that are not for a blob's body: the distribution API's small half and the
//! node's own API.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;
use xylem_protocol::Digest;
use xylem_protocol::http::{Method, Request, Route, error_body};
use xylem_protocol::limits::ANSWER_WAIT_MS;
use xylem_protocol::names::Target;

use super::Agent;
use super::flows::Refusal;
use super::manifests::ManifestAsk;
use crate::hops::HopFigures;
use crate::link::{Ticket, ToHot};
use crate::origin::{Manifest, Origin, OriginError};

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
            Err(error) => {
                Refusal { status: 500, code: "UNKNOWN", message: error.to_string() }.into()
            }
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, JSON, error_body(refusal.code, &refusal.message))
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
            self.send(Refusal { status: 500, code: "UNKNOWN", message }.into());
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
                Refusal { status: 504, code: "UNKNOWN", message }.into()
            });
            pending.answer(reply);
        });
    }

    async fn reply(self: &Rc<Self>, request: &Request, body: &[u8]) -> Reply {
        let reads = matches!(request.method, Method::Get | Method::Head);
        let reply = match &request.route {
            Route::Other(path) => self.own_api(path, request.method, body),
            _ if !reads => {
                let message = "images are pulled from here, and pushed to the registry".to_owned();
                let refusal = Refusal { status: 405, code: "UNSUPPORTED", message };
                Ok(Reply { extra: "Allow: GET, HEAD\r\n".to_owned(), ..refusal.into() })
            }
            Route::Ping => Ok(Reply::new(200, JSON, "{}\n")),
            Route::Manifest { repository, target } => {
                self.manifest_reply(repository, target, request).await
            }
            Route::Tags { repository } => self.tags_reply(repository, &request.query).await,
            Route::Blob { repository, digest } => {
                self.blob_reply(repository, digest, request.method).await
            }
        };
        reply.unwrap_or_else(Into::into)
    }

    async fn manifest_reply(
        &self,
        repository: &str,
        target: &Target,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.resolve(repository, tag, &request.accept).await?,
        };
        let ask = ManifestAsk {
            repository: repository.to_owned(),
            digest,
            image: request.image,
            path: request.path.clone(),
        };
        Ok(self.manifest(&ask).await?.into())
    }

    async fn tags_reply(&self, repository: &str, query: &str) -> Result<Reply, Refusal> {
        let tags = self.origin.tags(repository, query).await;
        let refused = |error: OriginError| Refusal {
            code: error.code("NAME_UNKNOWN"),
            ..Refusal::origin(&error)
        };
        let tags = tags.map_err(refused)?;
        let extra =
            tags.link.map_or(String::new(), |link| format!("Link: {}\r\n", header_safe(&link)));
        Ok(Reply { extra, ..Reply::new(200, JSON, tags.body) })
    }

    /// Only the ring thread gives blobs' bodies; their sizes can be told here too.
    async fn blob_reply(
        &self,
        repository: &str,
        digest: &Digest,
        method: Method,
    ) -> Result<Reply, Refusal> {
        if method != Method::Head {
            let message = "bodies of blobs are not answered here".to_owned();
            return Err(Refusal { status: 500, code: "UNKNOWN", message });
        }
        let refused = |error: OriginError| Refusal::origin(&error);
        let size = match (self.store.size_of(digest), &self.origin) {
            (Some(size), _) => size,
            (None, Origin::Registry(registry)) => {
                registry.blob_size(repository, digest).await.map_err(refused)?
            }
            (None, Origin::Layout(layout)) => layout.blob(digest).await.map_err(refused)?.size,
            (None, Origin::None) => return Err(refused(OriginError::NoUpstream)),
        };
        let reply = Reply::new(200, "application/octet-stream", Bytes::new());
        Ok(Reply { digest: Some(*digest), length: Some(size), ..reply })
    }

    fn own_api(self: &Rc<Self>, path: &str, method: Method, body: &[u8]) -> Result<Reply, Refusal> {
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
                Ok(Reply::json(202, &serde_json::json!({ "id": self.pull(body)? })))
            }
            "/healthz" | "/metrics" | "/xylem/v1/status" | "/xylem/v1/hops" | "/xylem/v1/pulls" => {
                let message = "the method is not for this path".to_owned();
                Err(Refusal { status: 405, code: "UNSUPPORTED", message })
            }
            _ => {
                let pull = path.strip_prefix("/xylem/v1/pulls/").and_then(|id| id.parse().ok());
                let pull = pull.filter(|_| reads).and_then(|id| self.pull_json(id));
                let unknown = || Refusal {
                    status: 404,
                    code: "UNSUPPORTED",
                    message: format!("there is no {path} here"),
                };
                pull.map(|pull| Reply::json(200, &pull)).ok_or_else(unknown)
            }
        }
    }
}

/// A value that came from an upstream, fit for a header line.
fn header_safe(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).collect()
}
