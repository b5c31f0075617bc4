//! A client of one registry, over HTTP or TLS: manifests, tags, anonymous tokens. Blobs are in
//! blobs.rs. A client's credentials go through it as they are, and stay nowhere.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LINK, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tracing::debug;
use xylem_protocol::Digest;
use xylem_protocol::challenge::Challenge;
use xylem_protocol::limits::{MANIFEST_MAX, REDIRECTS_MAX, SMALL_ANSWER_MAX, TOKENS_MAX};
use xylem_protocol::names::Target;

use super::token::Token;
use super::{
    ACCEPT_ALL, Credentials, Manifest, OriginError, Relayed, Resolved, media_type_of, tls,
};
use crate::config::{Endpoint, RegistrySpec};
use crate::lru::Lru;

/// `User-Agent` of everything that a node sends.
pub(crate) const USER_AGENT: &str = concat!("xylemd/", env!("CARGO_PKG_VERSION"));

/// A registry.
#[derive(Debug)]
pub struct Registry {
    /// `http(s)://authority`, for messages.
    pub(super) base: String,
    authority: String,
    /// What is asked for blobs and manifests before it. Never sent a client's credentials.
    mirrors: Vec<Registry>,
    /// Longest silence.
    timeout: Duration,
    client: Client,
    /// By repository.
    tokens: RefCell<Lru<String, Token>>,
}

impl Registry {
    /// A client; connects to nothing yet.
    ///
    /// # Errors
    /// [`OriginError`]: certificates that cannot be used.
    pub fn new(spec: &RegistrySpec) -> Result<Self, OriginError> {
        let client = |endpoint| Self::of_endpoint(endpoint, spec.ca.as_deref(), spec.timeout);
        let mirrors = spec.mirrors.iter().map(client).collect::<Result<_, _>>()?;
        Ok(Self { mirrors, ..client(&spec.endpoint)? })
    }

    fn of_endpoint(
        endpoint: &Endpoint,
        ca: Option<&Path>,
        timeout: Duration,
    ) -> Result<Self, OriginError> {
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .tls_backend_preconfigured(tls::client_config(true, ca)?)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX as usize))
            .connect_timeout(timeout / 3)
            .read_timeout(timeout);
        if !endpoint.tls {
            // Blobs come from there without a proxy, so manifests do too.
            client = client.no_proxy();
        }
        let client = client.build().map_err(OriginError::Client)?;
        let (base, authority) = (endpoint.url(), endpoint.authority.clone());
        let tokens = RefCell::new(Lru::new(TOKENS_MAX));
        Ok(Self { base, authority, mirrors: Vec::new(), timeout, client, tokens })
    }

    /// How many mirrors are asked before it.
    pub fn mirrors(&self) -> u32 {
        // At most MIRRORS_MAX.
        u32::try_from(self.mirrors.len()).unwrap_or(u32::MAX)
    }

    /// What is asked in a turn: the mirrors, and then always the registry itself.
    pub fn endpoint(&self, turn: u32) -> &Self {
        self.mirrors.get(turn as usize).unwrap_or(self)
    }

    /// Longest silence.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// `host[:port]`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// `http(s)://host[:port]`.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, OriginError> {
        Url::parse(&format!("{}/v2/{path}", self.base)).map_err(|_| self.malformed("a URL"))
    }

    pub(super) fn malformed(&self, what: &'static str) -> OriginError {
        OriginError::Malformed { upstream: self.base.clone(), what }
    }

    fn failed(&self, error: reqwest::Error) -> OriginError {
        OriginError::request(&self.base, error)
    }

    pub(super) fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin())
    }

    /// The token to send to a URL: none to other hosts, such as those that a redirect leads to.
    pub(super) fn token(&self, repository: &str, url: &Url) -> Option<String> {
        if !self.is_own(url) {
            return None;
        }
        let mut tokens = self.tokens.borrow_mut();
        let token = tokens.get(&repository.to_owned()).filter(|token| token.is_fresh());
        token.map(|token| token.text.clone())
    }

    /// Asks; for the node itself once more with a token when the registry wants one. The client's
    /// credentials go to the registry's own host only.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: Url,
        repository: &str,
        mut headers: HeaderMap,
        wait: Option<Duration>,
        credentials: &Credentials,
    ) -> Result<Response, OriginError> {
        let mut token = None;
        let mut challenged = false;
        match credentials {
            Credentials::Node => token = self.token(repository, &url),
            Credentials::Client(given) => {
                challenged = true;
                if let Some(given) = given.as_deref().filter(|_| self.is_own(&url)) {
                    let value = HeaderValue::from_str(given);
                    headers
                        .insert(AUTHORIZATION, value.map_err(|_| self.malformed("credentials"))?);
                }
            }
        }
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
            answer: None,
        };
        let response = self.ask_for_token(repository, challenge, None).await;
        let response = response?.ok_or_else(|| denied(401))?;
        let service = response.url().origin().ascii_serialization();
        let failed = |error| OriginError::request(&service, error);
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

    /// A token service's answer to a client, with the client's credentials.
    ///
    /// # Errors
    /// [`OriginError`]: no answer; [`OriginError::Malformed`]: the challenge is not for a token.
    pub async fn token_of(
        &self,
        repository: &str,
        challenge: &str,
        authorization: Option<&str>,
    ) -> Result<Relayed, OriginError> {
        let response = self.ask_for_token(repository, challenge, authorization).await?;
        self.relayed(response.ok_or_else(|| self.malformed("a challenge"))?).await
    }

    /// Asks the service that a challenge names; `None` when it names none.
    async fn ask_for_token(
        &self,
        repository: &str,
        challenge: &str,
        authorization: Option<&str>,
    ) -> Result<Option<Response>, OriginError> {
        let Some(challenge) = Challenge::parse(challenge) else { return Ok(None) };
        let mut url = Url::parse(&challenge.realm).map_err(|_| self.malformed("a token realm"))?;
        let scope = challenge.scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
        if let Some(service) = &challenge.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        let service = url.origin().ascii_serialization();
        let mut request = self.client.get(url).timeout(self.timeout);
        if let Some(given) = authorization {
            let value = HeaderValue::from_str(given).map_err(|_| self.malformed("credentials"))?;
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await;
        response.map(Some).map_err(|error| OriginError::request(&service, error))
    }

    /// Forgets a repository's token: the registry did not take it.
    pub fn forget_token(&self, repository: &str) {
        self.tokens.borrow_mut().remove(&repository.to_owned());
    }

    /// An error for an answer that is not what was hoped for, with the registry's own words where
    /// they are for the client.
    pub(super) async fn refusal(&self, response: Response, what: String) -> OriginError {
        let status = response.status().as_u16();
        if !matches!(status, 401 | 403) {
            return OriginError::status_of(&self.base, what, status);
        }
        let answer = self.relayed(response).await.ok().map(Box::new);
        OriginError::Denied { upstream: self.base.clone(), what, status, answer }
    }

    /// Takes an answer as it is, to be passed on.
    async fn relayed(&self, response: Response) -> Result<Relayed, OriginError> {
        let headers = response.headers();
        let lines = |name: &str| {
            let values = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
            values.map(str::to_owned).collect::<Vec<_>>()
        };
        let status = response.status().as_u16();
        let content_type = lines(CONTENT_TYPE.as_str()).pop();
        let challenges = lines(WWW_AUTHENTICATE.as_str());
        let filters = lines("oci-filters-applied").pop();
        // A link to this registry itself works on the node too, when it is a path.
        let link = lines(LINK.as_str()).pop().map(|link| link.replace(&self.base, ""));
        let body = bounded(response, MANIFEST_MAX as usize).await;
        let body = body.map_err(|error| self.failed(error))?.ok_or_else(|| {
            OriginError::TooLarge { upstream: self.base.clone(), what: "an answer".to_owned() }
        })?;
        Ok(Relayed { status, content_type, challenges, link, filters, body })
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
        credentials: &Credentials,
    ) -> Result<Resolved, OriginError> {
        let url = self.url(&format!("{repository}/manifests/{tag}"))?;
        let (headers, wait) = (accept_headers(accept), Some(self.timeout));
        let response = self.ask(Method::HEAD, url, repository, headers, wait, credentials).await?;
        let digest = header(&response, "docker-content-digest").and_then(|text| text.parse().ok());
        match (response.status().as_u16(), digest, header(&response, CONTENT_TYPE.as_str())) {
            (200, Some(digest), Some(media_type)) => {
                Ok(Resolved::Named(digest, media_type.to_owned()))
            }
            (200 | 405, _, _) => {
                let target = Target::Tag(tag.to_owned());
                let manifest = self.own_manifest(repository, &target, accept, credentials).await;
                manifest.map(Resolved::Whole)
            }
            _ => Err(self.refusal(response, format!("{repository}:{tag}")).await),
        }
    }

    /// A manifest by its digest, checked, from the first that has it: a mirror, or the registry.
    ///
    /// # Errors
    /// [`OriginError`], the registry's.
    pub async fn manifest(
        &self,
        repository: &str,
        digest: &Digest,
        accept: &str,
        credentials: &Credentials,
    ) -> Result<Manifest, OriginError> {
        let target = Target::Digest(*digest);
        for mirror in &self.mirrors {
            let node = &Credentials::Node;
            match mirror.own_manifest(repository, &target, accept, node).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => {
                    debug!(%digest, error = crate::oneline::chain(&error), "manifest of a mirror");
                }
            }
        }
        self.own_manifest(repository, &target, accept, credentials).await
    }

    /// A manifest by tag or digest, checked against the digest that was asked for or that the
    /// registry names.
    async fn own_manifest(
        &self,
        repository: &str,
        target: &Target,
        accept: &str,
        credentials: &Credentials,
    ) -> Result<Manifest, OriginError> {
        let url = self.url(&format!("{repository}/manifests/{target}"))?;
        let mark = if matches!(target, Target::Tag(_)) { ':' } else { '@' };
        let what = format!("{repository}{mark}{target}");
        let (headers, wait) = (accept_headers(accept), Some(self.timeout));
        let response = self.ask(Method::GET, url, repository, headers, wait, credentials).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, what).await);
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

    /// The answer to a question that the node has no part in: the ping, tags, referrers. `path` is
    /// what stands behind `/v2/`.
    ///
    /// # Errors
    /// [`OriginError`]: no answer at all, or one that is too long.
    pub async fn relay(
        &self,
        repository: &str,
        path: &str,
        query: &str,
        credentials: &Credentials,
    ) -> Result<Relayed, OriginError> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        let (headers, wait) = (HeaderMap::new(), Some(self.timeout));
        let response = self.ask(Method::GET, url, repository, headers, wait, credentials).await?;
        self.relayed(response).await
    }

    /// Whether a caller may have a manifest (`kind` is `manifests`) or blob (`blobs`) of a
    /// repository, by HEAD: its size, if the registry says it.
    ///
    /// # Errors
    /// [`OriginError`]: it may not, there is none, or the registry does not answer.
    pub async fn check(
        &self,
        repository: &str,
        kind: &str,
        digest: &Digest,
        credentials: &Credentials,
    ) -> Result<Option<u64>, OriginError> {
        let url = self.url(&format!("{repository}/{kind}/{digest}"))?;
        let (headers, wait) = (accept_headers(""), Some(self.timeout));
        let response = self.ask(Method::HEAD, url, repository, headers, wait, credentials).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, digest.to_string()).await);
        }
        Ok(header(&response, "content-length").and_then(|text| text.parse().ok()))
    }
}

pub(super) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
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
