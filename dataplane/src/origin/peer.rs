//! Asks another node for a manifest. Blobs of peers are the ring thread's business.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::{Client, StatusCode};
use xylem_protocol::Digest;
use xylem_protocol::http::{ALIVE_PATH, HEADER_GRANT, HEADER_IMAGE, HEADER_NODE, HEADER_PATH};
use xylem_protocol::limits::{ALIVE_MS, CONNECT_MS, MANIFEST_MAX, PEER_MANIFEST_MS};
use xylem_protocol::stripe::STRIPES;

use super::registry::{USER_AGENT, bounded, checked};
use super::{ACCEPT_ALL, Manifest, OriginError, tls};

/// What travels in the header lines between nodes.
#[derive(Debug, Clone)]
pub struct PeerRequest {
    /// The registry, where it is not the nodes' default one.
    pub namespace: Option<Rc<str>>,
    /// Repository.
    pub repository: String,
    /// The only stripe of a blob that is wanted.
    pub stripe: Option<u8>,
    /// Manifest or blob.
    pub digest: Digest,
    /// The tree.
    pub image: Digest,
    /// Who asks.
    pub node: String,
    /// Nodes on the way, this one last.
    pub path: Vec<String>,
    /// This node's word that its caller may have it.
    pub grant: Option<String>,
}

impl PeerRequest {
    /// What stands behind the repository's name: `kind` is `blobs` or `manifests`.
    fn target(&self, kind: &str) -> String {
        let Self { namespace, repository, stripe, digest, .. } = self;
        // A host has no character that a query could not.
        let host = namespace.as_ref().map(|host| format!("ns={host}"));
        let stripe = stripe.map(|stripe| format!("stripe={stripe}/{STRIPES}"));
        let query: Vec<String> = host.into_iter().chain(stripe).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/v2/{repository}/{kind}/{digest}{mark}{}", query.join("&"))
    }

    /// The head of a request for a blob, without `Range` and the empty line.
    pub fn blob_head(&self, address: SocketAddr) -> Vec<u8> {
        let Self { image, node, path, grant, .. } = self;
        let (target, path) = (self.target("blobs"), path.join(","));
        let grant =
            grant.as_ref().map_or(String::new(), |word| format!("{HEADER_GRANT}: {word}\r\n"));
        format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: {USER_AGENT}\r\n\
             {HEADER_NODE}: {node}\r\n{HEADER_IMAGE}: {image}\r\n{HEADER_PATH}: {path}\r\n{grant}"
        )
        .into_bytes()
    }
}

/// A client of other nodes.
#[derive(Debug)]
pub struct PeerClient(Client);

impl PeerClient {
    /// Makes one; connects to nothing yet.
    ///
    /// # Errors
    /// [`OriginError`]: no TLS library, which reqwest wants even for plain HTTP.
    pub fn new() -> Result<Self, OriginError> {
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .tls_backend_preconfigured(tls::client_config(false, None)?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_millis(CONNECT_MS))
            .timeout(Duration::from_millis(PEER_MANIFEST_MS))
            .build()
            .map_err(OriginError::Client)?;
        Ok(Self(client))
    }

    /// Whether a node's ring thread runs.
    ///
    /// # Errors
    /// [`OriginError`]: it does not say so in time.
    pub async fn alive(&self, peer: &str, address: SocketAddr) -> Result<(), OriginError> {
        let failed = |error| OriginError::request(peer, error);
        let request = self.0.get(format!("http://{address}{ALIVE_PATH}"));
        let wait = Duration::from_millis(ALIVE_MS);
        let response = request.timeout(wait).send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => Ok(()),
            status => {
                Err(OriginError::status_of(peer, "a sign of life".to_owned(), status.as_u16()))
            }
        }
    }

    /// A manifest by its digest, checked.
    ///
    /// # Errors
    /// [`OriginError`]; `peer` is named in it.
    pub async fn manifest(
        &self,
        peer: &str,
        address: SocketAddr,
        ask: &PeerRequest,
    ) -> Result<Manifest, OriginError> {
        let PeerRequest { digest, image, node, path, .. } = ask;
        let failed = |error| OriginError::request(peer, error);
        let mut request = self
            .0
            .get(format!("http://{address}{}", ask.target("manifests")))
            .header(ACCEPT, ACCEPT_ALL)
            .header(HEADER_NODE, node)
            .header(HEADER_IMAGE, image.to_string())
            .header(HEADER_PATH, path.join(","));
        if let Some(grant) = &ask.grant {
            request = request.header(HEADER_GRANT, grant);
        }
        let response = request.send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            return Err(OriginError::status_of(peer, digest.to_string(), status));
        }
        let media_type = response.headers().get("content-type");
        let media_type = media_type.and_then(|line| line.to_str().ok()).map(str::to_owned);
        let body = bounded(response, MANIFEST_MAX as usize).await.map_err(failed)?;
        let bytes = body.ok_or_else(|| OriginError::TooLarge {
            upstream: peer.to_owned(),
            what: digest.to_string(),
        })?;
        checked(peer, Some(*digest), media_type, bytes)
    }
}
