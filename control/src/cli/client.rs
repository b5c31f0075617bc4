//! Plain HTTP to control and to nodes: bounded answers, and errors that say who did not answer and
//! what to do.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::ANSWER_MAX;

const CONNECT: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_secs(30);
/// Every kind of manifest.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// `http://HOST[:PORT]`, without a path; the same host is always written the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint(String);

impl Default for Endpoint {
    fn default() -> Self {
        Self("http://127.0.0.1:4400".to_owned())
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = reqwest::Url::parse(text).map_err(|_| "must be http://HOST:PORT")?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        match url.host_str() {
            Some(host)
                if url.scheme() == "http"
                    && url.username().is_empty()
                    && url.password().is_none()
                    && bare
                    && host.bytes().all(plain) =>
            {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                Ok(Self(format!("http://{host}{port}")))
            }
            _ => Err("must be http://HOST:PORT, without a path"),
        }
    }
}

impl Endpoint {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// `HOST:PORT`, with the port also where it is the usual one.
    pub(super) fn authority(&self) -> String {
        let host = self.0.trim_start_matches("http://");
        let with_port = host.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
        if with_port { host.to_owned() } else { format!("{host}:80") }
    }
}

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    role: Role,
    endpoint: Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Control,
    Node,
}

impl Peer {
    pub(super) fn control(endpoint: Endpoint) -> Self {
        Self { role: Role::Control, endpoint }
    }

    pub(super) fn node(endpoint: Endpoint) -> Self {
        Self { role: Role::Node, endpoint }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn url(&self) -> &str {
        &self.endpoint.0
    }

    /// The program that should answer there.
    fn program(&self) -> &'static str {
        match self.role {
            Role::Control => "xylem-control",
            Role::Node => "xylemd",
        }
    }

    /// The option that names another.
    fn option(&self) -> &'static str {
        match self.role {
            Role::Control => "--control",
            Role::Node => "--node-url",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Control => "control",
            Role::Node => "node",
        };
        write!(f, "{role} at {}", self.url())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot make an HTTP client")]
    Setup(#[source] reqwest::Error),
    #[error("cannot reach {peer}, start {} there or name another with {}",
        peer.program(), peer.option())]
    Unreachable { peer: Peer, source: reqwest::Error },
    #[error("{peer} broke off its answer to {path}")]
    Broken { peer: Peer, path: String, source: reqwest::Error },
    #[error("{peer} answered {status} to {path}: {reason}")]
    Refused { peer: Peer, path: String, status: StatusCode, reason: String },
    #[error("{peer} gave an answer to {path} that is no {}'s", peer.program())]
    Answer { peer: Peer, path: String, source: serde_json::Error },
    #[error("{peer} gave an answer to {path} of more than {max} bytes")]
    TooLarge { peer: Peer, path: String, max: u64 },
}

impl ClientError {
    /// Whether nobody answered at all.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The HTTP client.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// What every request to a node or control says of who asks.
    authorization: RefCell<Option<HeaderValue>>,
}

impl Client {
    pub(super) fn new() -> Result<Self, ClientError> {
        // The client wants a TLS provider even for plain HTTP. One that is there already is as
        // good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self { http, authorization: RefCell::default() })
    }

    /// From now on requests say this of who asks. What cannot stand in a header is left out.
    pub(super) fn authorize(&self, header: &str) {
        let mut value = HeaderValue::from_str(header).ok();
        if let Some(value) = &mut value {
            value.set_sensitive(true);
        }
        *self.authorization.borrow_mut() = value;
    }

    fn request(&self, method: Method, peer: &Peer, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", peer.url()));
        match &*self.authorization.borrow() {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// The head of whatever is answered to who says this of itself.
    pub(super) async fn head(
        &self,
        peer: &Peer,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut request =
            self.http.head(format!("{}{path}", peer.url())).header("accept", MANIFESTS);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        answered(peer, path, request.send().await)
    }

    /// Asks somebody who is neither a node nor control.
    pub(super) async fn elsewhere(
        &self,
        url: reqwest::Url,
        authorization: &str,
    ) -> Result<Response, reqwest::Error> {
        self.http.get(url).header(AUTHORIZATION, authorization).send().await
    }

    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        path: &str,
    ) -> Result<T, ClientError> {
        let response = self.get(peer, path, None).await?;
        parse(peer, path, &body(peer, path, response, ANSWER_MAX).await?)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        path: &str,
        order: &impl Serialize,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::POST, peer, path).json(order);
        let response = accepted(peer, path, request.send().await).await?;
        parse(peer, path, &body(peer, path, response, ANSWER_MAX).await?)
    }

    /// Whatever is answered, also a refusal; only its head is here yet.
    pub(super) async fn ask(&self, peer: &Peer, path: &str) -> Result<Response, ClientError> {
        let request = self.request(Method::GET, peer, path);
        answered(peer, path, request.send().await)
    }

    /// An answer of which only the head is here yet.
    pub(super) async fn get(
        &self,
        peer: &Peer,
        path: &str,
        accept: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut request = self.request(Method::GET, peer, path);
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        accepted(peer, path, request.send().await).await
    }
}

/// The rest of an answer, if it is not longer than `max`.
pub(super) async fn body(
    peer: &Peer,
    path: &str,
    mut response: Response,
    max: u64,
) -> Result<Vec<u8>, ClientError> {
    let mut whole = Vec::new();
    while let Some(part) = chunk(peer, path, &mut response).await? {
        whole.extend_from_slice(&part);
        if whole.len() as u64 > max {
            return Err(ClientError::TooLarge { peer: peer.clone(), path: path.to_owned(), max });
        }
    }
    Ok(whole)
}

/// The next part of an answer.
pub(super) async fn chunk(
    peer: &Peer,
    path: &str,
    response: &mut Response,
) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, ClientError> {
    let broken = |source| ClientError::Broken { peer: peer.clone(), path: path.to_owned(), source };
    response.chunk().await.map_err(broken)
}

fn answered(
    peer: &Peer,
    path: &str,
    response: Result<Response, reqwest::Error>,
) -> Result<Response, ClientError> {
    response.map_err(|source| {
        let (peer, path) = (peer.clone(), path.to_owned());
        if source.is_connect() || source.is_timeout() {
            ClientError::Unreachable { peer, source }
        } else {
            ClientError::Broken { peer, path, source }
        }
    })
}

/// The answer, unless it is a refusal.
async fn accepted(
    peer: &Peer,
    path: &str,
    response: Result<Response, reqwest::Error>,
) -> Result<Response, ClientError> {
    let response = answered(peer, path, response)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = body(peer, path, response, ANSWER_MAX).await.unwrap_or_default();
    let (peer, path) = (peer.clone(), path.to_owned());
    Err(ClientError::Refused { peer, path, status, reason: reason(&text) })
}

/// What an error answer says: `{"errors":[{"message"}]}` as registries do, `{"error"}` as control
/// does, or its text.
fn reason(text: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let first = &value["errors"][0];
    let said = [&first["message"], &first["code"], &value["error"]];
    let said = said.into_iter().find_map(|value| value.as_str().filter(|text| !text.is_empty()));
    let plain = String::from_utf8_lossy(text);
    let short: String = said.unwrap_or(plain.trim()).chars().take(500).collect();
    if short.is_empty() { "no reason given".to_owned() } else { short }
}

pub(super) fn parse<T: DeserializeOwned>(
    peer: &Peer,
    path: &str,
    text: &[u8],
) -> Result<T, ClientError> {
    serde_json::from_slice(text).map_err(|source| ClientError::Answer {
        peer: peer.clone(),
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let endpoint: Endpoint = "http://10.0.0.1:4400/".parse().unwrap();
        assert_eq!(endpoint.0, "http://10.0.0.1:4400");
        assert_eq!("HTTP://Host:80".parse::<Endpoint>().unwrap().0, "http://host");
        for (text, authority) in [
            ("http://host", "host:80"),
            ("http://10.0.0.1:4400", "10.0.0.1:4400"),
            ("http://[::1]", "[::1]:80"),
            ("http://[::1]:4400", "[::1]:4400"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().authority(), authority);
        }
        for bad in [
            "",
            "10.0.0.1:4400",
            "https://a",
            "http://a/b",
            "http://a?b",
            "http://u@a",
            "http://:p@a",
            "http://a\"b",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn reasons() {
        assert_eq!(
            reason(br#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such"}]}"#),
            "no such"
        );
        assert_eq!(reason(br#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#), "NAME_UNKNOWN");
        assert_eq!(reason(br#"{"error":"no such path"}"#), "no such path");
        assert_eq!(reason(b"plain text\n"), "plain text");
        assert_eq!(reason(b""), "no reason given");
    }
}
