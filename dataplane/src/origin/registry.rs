//! A client of one registry, over HTTP or TLS: manifests, tags, anonymous tokens, and where blobs
//! are.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, LINK, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::limits::{
    MANIFEST_MAX, REDIRECTS_MAX, REGISTRY_ANSWER_MS, SMALL_ANSWER_MAX, TOKENS_MAX,
};
use xylem_protocol::names::Target;

use super::token::{Challenge, Token};
use super::{ACCEPT_ALL, BlobRoute, Manifest, OriginError, Resolved, TagList, media_type_of, tls};
use crate::lru::Lru;

/// `User-Agent` of everything that a node sends.
pub(crate) const USER_AGENT: &str = concat!("xylemd/", env!("CARGO_PKG_VERSION"));

/// A registry.
#[derive(Debug)]
pub struct Registry {
    /// `http(s)://authority`, for messages.
    base: String,
    authority: String,
    client: Client,
    /// By repository.
    tokens: RefCell<Lru<String, Token>>,
}

/// A blob that comes out of TLS.
#[derive(Debug)]
pub struct BlobStream {
    upstream: String,
    response: Response,
    /// The whole blob's size, bytes.
    pub size: u64,
}

impl BlobStream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`OriginError::Unreachable`] or [`OriginError::Timeout`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, OriginError> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|error| OriginError::request(&self.upstream, error))
    }
}

impl Registry {
    /// A client; connects to nothing yet.
    ///
    /// # Errors
    /// [`OriginError`]: certificates that cannot be used.
    pub fn new(tls: bool, authority: &str, ca: Option<&Path>) -> Result<Self, OriginError> {
        let wait = Duration::from_millis(REGISTRY_ANSWER_MS);
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .tls_backend_preconfigured(tls::client_config(true, ca)?)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX as usize))
            .connect_timeout(wait / 3)
            .read_timeout(wait);
        if !tls {
            // Blobs come from there without a proxy, so manifests do too.
            client = client.no_proxy();
        }
        let client = client.build().map_err(OriginError::Client)?;
        let base = format!("{}://{authority}", if tls { "https" } else { "http" });
        let tokens = RefCell::new(Lru::new(TOKENS_MAX));
        Ok(Self { base, authority: authority.to_owned(), client, tokens })
    }

    /// `host[:port]`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// `http(s)://host[:port]`.
    pub fn base(&self) -> &str {
        &self.base
    }

    fn url(&self, path: &str) -> Result<Url, OriginError> {
        Url::parse(&format!("{}/v2/{path}", self.base)).map_err(|_| self.malformed("a URL"))
    }

    fn malformed(&self, what: &'static str) -> OriginError {
        OriginError::Malformed { upstream: self.base.clone(), what }
    }

    fn failed(&self, error: reqwest::Error) -> OriginError {
        OriginError::request(&self.base, error)
    }

    /// The token to send to a URL: none to other hosts, such as those that a redirect leads to.
    fn token(&self, repository: &str, url: &Url) -> Option<String> {
        let own = Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin());
        if !own {
            return None;
        }
        let mut tokens = self.tokens.borrow_mut();
        let token = tokens.get(&repository.to_owned()).filter(|token| token.is_fresh());
        token.map(|token| token.text.clone())
    }

    /// Asks, and once more with a token when the registry wants one.
    async fn ask(
        &self,
        method: Method,
        url: Url,
        repository: &str,
        headers: HeaderMap,
        wait: Option<Duration>,
    ) -> Result<Response, OriginError> {
        let mut token = self.token(repository, &url);
        let mut challenged = false;
        loop {
            let mut request =
                self.client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            if let Some(wait) = wait {
                request = request.timeout(wait);
            }
            let response = request.send().await.map_err(|error| self.failed(error))?;
            let challenge =
                response.headers().get(WWW_AUTHENTICATE).and_then(|line| line.to_str().ok());
            match challenge {
                Some(challenge) if response.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    token = Some(self.authorize(repository, challenge).await?);
                }
                _ => return Ok(response),
            }
        }
    }

    /// Gets an anonymous token for a challenge and keeps it.
    ///
    /// # Errors
    /// [`OriginError::Denied`] when the challenge is not for a token or the service gives none.
    pub async fn authorize(
        &self,
        repository: &str,
        challenge: &str,
    ) -> Result<String, OriginError> {
        let denied = |status| OriginError::Denied {
            upstream: self.base.clone(),
            what: repository.to_owned(),
            status,
        };
        let challenge = Challenge::parse(challenge).ok_or_else(|| denied(401))?;
        let mut url = Url::parse(&challenge.realm).map_err(|_| self.malformed("a token realm"))?;
        let scope = challenge.scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
        if let Some(service) = &challenge.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        let wait = Duration::from_millis(REGISTRY_ANSWER_MS);
        let service = url.origin().ascii_serialization();
        let failed = |error| OriginError::request(&service, error);
        let response = self.client.get(url).timeout(wait).send().await.map_err(failed)?;
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403) => return Err(denied(status)),
            status => return Err(OriginError::status_of(&service, "a token".into(), status)),
        }
        let body = bounded(response, SMALL_ANSWER_MAX).await.map_err(failed)?;
        let answer = body.and_then(|body| serde_json::from_slice(&body).ok());
        let token = answer.and_then(Token::new).ok_or_else(|| self.malformed("a token"))?;
        let text = token.text.clone();
        self.tokens.borrow_mut().insert(repository.to_owned(), token);
        Ok(text)
    }

    /// Forgets a repository's token: the registry did not take it.
    pub fn forget_token(&self, repository: &str) {
        self.tokens.borrow_mut().remove(&repository.to_owned());
    }

    /// What a tag names, by HEAD; by GET where the registry does not say the digest.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn resolve(
        &self,
        repository: &str,
        tag: &str,
        accept: &str,
    ) -> Result<Resolved, OriginError> {
        let url = self.url(&format!("{repository}/manifests/{tag}"))?;
        let wait = Some(Duration::from_millis(REGISTRY_ANSWER_MS));
        let response =
            self.ask(Method::HEAD, url, repository, accept_headers(accept), wait).await?;
        let digest = header(&response, "docker-content-digest").and_then(|text| text.parse().ok());
        match (response.status().as_u16(), digest, header(&response, CONTENT_TYPE.as_str())) {
            (200, Some(digest), Some(media_type)) => {
                Ok(Resolved::Named(digest, media_type.to_owned()))
            }
            (200 | 405, _, _) => {
                let target = Target::Tag(tag.to_owned());
                self.manifest(repository, &target, accept).await.map(Resolved::Whole)
            }
            (status, _, _) => {
                let what = format!("{repository}:{tag}");
                Err(OriginError::status_of(&self.base, what, status))
            }
        }
    }

    /// A manifest by tag or digest, checked against the digest that was asked for or that the
    /// registry names.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn manifest(
        &self,
        repository: &str,
        target: &Target,
        accept: &str,
    ) -> Result<Manifest, OriginError> {
        let url = self.url(&format!("{repository}/manifests/{target}"))?;
        let mark = if matches!(target, Target::Tag(_)) { ':' } else { '@' };
        let what = format!("{repository}{mark}{target}");
        let wait = Some(Duration::from_millis(REGISTRY_ANSWER_MS));
        let response = self.ask(Method::GET, url, repository, accept_headers(accept), wait).await?;
        if response.status() != StatusCode::OK {
            return Err(OriginError::status_of(&self.base, what, response.status().as_u16()));
        }
        let named = header(&response, "docker-content-digest").and_then(|text| text.parse().ok());
        let media_type = header(&response, CONTENT_TYPE.as_str()).map(str::to_owned);
        let body =
            bounded(response, MANIFEST_MAX as usize).await.map_err(|error| self.failed(error))?;
        let bytes =
            body.ok_or_else(|| OriginError::TooLarge { upstream: self.base.clone(), what })?;
        let expected = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(_) => named,
        };
        checked(&self.base, expected, media_type, bytes)
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn tags(&self, repository: &str, query: &str) -> Result<TagList, OriginError> {
        let mut url = self.url(&format!("{repository}/tags/list"))?;
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        let wait = Some(Duration::from_millis(REGISTRY_ANSWER_MS));
        let response = self.ask(Method::GET, url, repository, HeaderMap::new(), wait).await?;
        let what = format!("tags of {repository}");
        if response.status() != StatusCode::OK {
            return Err(OriginError::status_of(&self.base, what, response.status().as_u16()));
        }
        // A link to this registry itself works on the node too, when it is a path.
        let link = header(&response, LINK.as_str()).map(|link| link.replace(&self.base, ""));
        let body =
            bounded(response, MANIFEST_MAX as usize).await.map_err(|error| self.failed(error))?;
        let body =
            body.ok_or_else(|| OriginError::TooLarge { upstream: self.base.clone(), what })?;
        Ok(TagList { body, link })
    }

    /// Size of a blob, by HEAD.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError> {
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let wait = Some(Duration::from_millis(REGISTRY_ANSWER_MS));
        let response = self.ask(Method::HEAD, url, repository, HeaderMap::new(), wait).await?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            return Err(OriginError::status_of(&self.base, digest.to_string(), status));
        }
        let length = header(&response, "content-length").and_then(|text| text.parse().ok());
        length.ok_or_else(|| self.malformed("a blob without its length"))
    }

    /// Where a blob is, as the registry's own address has it.
    ///
    /// # Errors
    /// [`OriginError::Lookup`].
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        turn: u32,
    ) -> Result<BlobRoute, OriginError> {
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        self.route(repository, url, turn).await
    }

    /// How to get at a URL: by the ring thread itself, or through TLS.
    ///
    /// # Errors
    /// [`OriginError::Lookup`].
    pub async fn route(
        &self,
        repository: &str,
        url: Url,
        turn: u32,
    ) -> Result<BlobRoute, OriginError> {
        if url.scheme() == "https" {
            return Ok(BlobRoute::Tls { url });
        }
        let address = lookup(&url, turn).await?;
        Ok(BlobRoute::Plain {
            address,
            head: plain_head(&url, self.token(repository, &url).as_deref()),
        })
    }

    /// Where a redirect leads; relative ones start at `from`.
    ///
    /// # Errors
    /// [`OriginError::Malformed`] when it leads nowhere or away from HTTP.
    pub fn redirect(&self, from: &Url, location: &str) -> Result<Url, OriginError> {
        let url = from.join(location).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        url.ok_or_else(|| self.malformed("a redirect"))
    }

    /// The URL of a blob.
    ///
    /// # Errors
    /// [`OriginError::Malformed`], which no checked repository name leads to.
    pub fn blob_url(&self, repository: &str, digest: &Digest) -> Result<Url, OriginError> {
        self.url(&format!("{repository}/blobs/{digest}"))
    }

    /// Opens a blob inside TLS from `offset` on.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn open(
        &self,
        repository: &str,
        url: Url,
        offset: u64,
    ) -> Result<BlobStream, OriginError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, reqwest::header::HeaderValue::from_static("identity"));
        if let Ok(range) = format!("bytes={offset}-").parse() {
            headers.insert(RANGE, range);
        }
        let response = self.ask(Method::GET, url.clone(), repository, headers, None).await?;
        let size = match response.status().as_u16() {
            200 if offset == 0 => response.content_length(),
            206 => header(&response, "content-range").and_then(|line| whole_size(line, offset)),
            200 => None,
            status => {
                return Err(OriginError::status_of(&self.base, url.path().to_owned(), status));
            }
        };
        let size = size.ok_or_else(|| OriginError::Range(self.base.clone()))?;
        Ok(BlobStream { upstream: self.base.clone(), response, size })
    }
}

/// Size of the blob of which a `Content-Range` names everything from `offset` on.
fn whole_size(line: &str, offset: u64) -> Option<u64> {
    let (part, size) = line.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first == offset && last.checked_add(1) == Some(size)).then_some(size)
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// A client that takes anything (curl) is given anything: registries would not understand it so.
fn accept_headers(accept: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let anything = accept.is_empty() || accept.contains("*/*");
    let accept = if anything { ACCEPT_ALL } else { accept };
    if let Ok(value) = accept.parse() {
        headers.insert(ACCEPT, value);
    }
    headers
}

/// A head for the ring thread, without `Range` and the empty line.
fn plain_head(url: &Url, token: Option<&str>) -> Vec<u8> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let query = url.query().map_or(String::new(), |query| format!("?{query}"));
    let authorization =
        token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    format!(
        "GET {}{query} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: {USER_AGENT}\r\n\
         Accept: */*\r\n{authorization}",
        url.path()
    )
    .into_bytes()
}

async fn lookup(url: &Url, turn: u32) -> Result<SocketAddr, OriginError> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let failed = |source| OriginError::Lookup { host: host.to_owned(), source };
    let found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let addresses: Vec<SocketAddr> = found.collect();
    let turn = turn as usize % addresses.len().max(1);
    addresses.get(turn).copied().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}

/// Reads a body up to a bound; `None` if it is longer.
pub(super) async fn bounded(
    mut response: Response,
    bytes_max: usize,
) -> Result<Option<Bytes>, reqwest::Error> {
    let too_long = |bytes: u64| bytes > bytes_max as u64;
    if response.content_length().is_some_and(too_long) {
        return Ok(None);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if too_long((body.len() + chunk.len()) as u64) {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// Checks a manifest's digest.
pub(super) fn checked(
    upstream: &str,
    expected: Option<Digest>,
    media_type: Option<String>,
    bytes: Bytes,
) -> Result<Manifest, OriginError> {
    let actual = Digest::from_bytes(Sha256::digest(&bytes).into());
    match expected {
        Some(expected) if expected != actual => {
            Err(OriginError::Digest { upstream: upstream.to_owned(), expected, actual })
        }
        _ => {
            let media_type = media_type.unwrap_or_else(|| media_type_of(&bytes));
            Ok(Manifest { digest: actual, media_type, bytes })
        }
    }
}
