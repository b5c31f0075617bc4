//! Where a registry's blobs are: for the ring thread over plain HTTP, or here as a stream out of
//! TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, Url};
use xylem_protocol::Digest;

use super::registry::{USER_AGENT, header};
use super::{BlobRoute, Credentials, OriginError, Registry};

/// A blob that comes out of TLS.
#[derive(Debug)]
pub struct BlobStream {
    upstream: String,
    response: Response,
    /// The whole blob's size, bytes.
    pub size: u64,
    /// Whether it begins at the blob's first byte, whatever was asked for.
    pub from_start: bool,
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
    /// Where a blob is, as the registry's own address has it.
    ///
    /// # Errors
    /// [`OriginError::Lookup`].
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        turn: u32,
        credentials: &Credentials,
    ) -> Result<BlobRoute, OriginError> {
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        self.route(repository, url, turn, credentials).await
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
        credentials: &Credentials,
    ) -> Result<BlobRoute, OriginError> {
        if url.scheme() == "https" {
            return Ok(BlobRoute::Tls { url });
        }
        let address = lookup(&url, turn).await?;
        let authorization = match credentials {
            Credentials::Node => {
                self.token(repository, &url).map(|token| format!("Bearer {token}"))
            }
            Credentials::Client(given) => {
                given.as_deref().filter(|_| self.is_own(&url)).map(str::to_owned)
            }
        };
        Ok(BlobRoute::Plain { address, head: plain_head(&url, authorization.as_deref()) })
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

    /// Opens a blob inside TLS from `offset` on, to its end or to `end`; all of it where the
    /// registry knows no ranges.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn open(
        &self,
        repository: &str,
        url: Url,
        (offset, end): (u64, Option<u64>),
        credentials: &Credentials,
    ) -> Result<BlobStream, OriginError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let last = end.map_or(String::new(), |end| (end - 1).to_string());
        if let Ok(range) = format!("bytes={offset}-{last}").parse() {
            headers.insert(RANGE, range);
        }
        let asked = self.ask(Method::GET, url.clone(), repository, headers, None, credentials);
        let response = asked.await?;
        let from_start = response.status().as_u16() == 200;
        let size = match response.status().as_u16() {
            200 => response.content_length(),
            206 => header(&response, "content-range").and_then(|line| size_in(line, offset, end)),
            _ => return Err(self.refusal(response, url.path().to_owned()).await),
        };
        let size = size.ok_or_else(|| OriginError::Range(self.base.clone()))?;
        Ok(BlobStream { upstream: self.base.clone(), response, size, from_start })
    }
}

/// Size of the blob of which a `Content-Range` names everything from `offset` on, or to `end`.
fn size_in(line: &str, offset: u64, end: Option<u64>) -> Option<u64> {
    let (part, size) = line.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    let end = end.map_or(size, |end| end.min(size));
    (first == offset && last.checked_add(1) == Some(end)).then_some(size)
}

/// A head for the ring thread, without `Range` and the empty line.
fn plain_head(url: &Url, authorization: Option<&str>) -> Vec<u8> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let query = url.query().map_or(String::new(), |query| format!("?{query}"));
    let authorization =
        authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
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
