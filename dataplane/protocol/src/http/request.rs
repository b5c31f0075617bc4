//! The head of a request to a node: what is asked, and the few header lines that a node looks at.

use std::borrow::Cow;

use super::range::number;
use super::{ByteRange, HEADERS_MAX};
use super::{HEADER_GRANT, HEADER_IMAGE, HEADER_NODE, HEADER_PATH, HeadError, incomplete, text};
use crate::Digest;
use crate::limits::{HEAD_MAX, PATH_NODES_MAX};
use crate::names::{Target, check_host, check_node, check_repository};

/// Method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST: the node's own API only.
    Post,
    /// Anything else: answered with 405.
    Other,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Ping,
    /// `/v2/NAME/blobs/DIGEST`
    Blob {
        /// Repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// `/v2/NAME/manifests/TARGET`
    Manifest {
        /// Repository.
        repository: String,
        /// Tag or digest.
        target: Target,
    },
    /// `/v2/NAME/tags/list`
    Tags {
        /// Repository.
        repository: String,
    },
    /// `/v2/NAME/referrers/DIGEST`
    Referrers {
        /// Repository.
        repository: String,
        /// The manifest that is referred to.
        digest: Digest,
    },
    /// Any other path, unparsed: the node's own API, or unknown.
    Other(String),
}

impl Route {
    /// The repository that the path names, with a registry before it as the client wrote it.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Blob { repository, .. }
            | Self::Manifest { repository, .. }
            | Self::Referrers { repository, .. }
            | Self::Tags { repository } => Some(repository),
            Self::Ping | Self::Other(_) => None,
        }
    }
}

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// What the path names.
    pub route: Route,
    /// Query string, without `?`; empty if there is none.
    pub query: String,
    /// `Host`: what the client calls this node.
    pub host: Option<String>,
    /// `ns=` of the query: the registry that the client means, as containerd says it.
    pub namespace: Option<String>,
    /// `stripe=` of the query: the only bytes of a blob that are asked for, see [`crate::stripe`].
    pub stripe: Option<u8>,
    /// The one range asked for. Only a GET of a blob has any: elsewhere the header says nothing
    /// (RFC 9110 §14.2).
    pub range: Option<ByteRange>,
    /// All `Accept` lines joined by `, ` (podman sends six lines).
    pub accept: String,
    /// All `If-None-Match` lines joined by `, `: what the client has already.
    pub known: String,
    /// `Authorization`, passed on and never stored.
    pub authorization: Option<String>,
    /// Bytes of body that follow.
    pub content_length: u64,
    /// Whether the client keeps the connection.
    pub keep_alive: bool,
    /// Name of the asking node, if it is one.
    pub node: Option<String>,
    /// Tree that the request belongs to.
    pub image: Option<Digest>,
    /// Nodes that it has passed.
    pub path: Vec<String>,
    /// The asking node's word that its caller may have this.
    pub grant: Option<String>,
}

impl Request {
    /// The first value of this name in the query.
    pub fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        parameter(&self.query, name)
    }

    /// Parses a head from the start of `bytes`; `None` while its end is not here. Returns the
    /// head's length too.
    ///
    /// # Errors
    /// [`HeadError`] with the status to answer with; the connection is to be closed after it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(bytes)? else {
            return incomplete(bytes);
        };
        if length > HEAD_MAX as usize {
            return Err(HeadError::TooLong);
        }
        let target = head.path.unwrap_or_default();
        let (authority, target) = split_authority(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let method = match head.method.unwrap_or_default() {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            _ => Method::Other,
        };
        let mut request = Self {
            method,
            route: route(method, path)?,
            query: query.to_owned(),
            host: None,
            namespace: namespace(query)?,
            stripe: None,
            range: None,
            accept: String::new(),
            known: String::new(),
            authorization: None,
            content_length: 0,
            keep_alive: head.version == Some(1),
            node: None,
            image: None,
            path: Vec::new(),
            grant: None,
        };
        let mut said = Said::default();
        for header in head.headers.iter() {
            request.take(header, &mut said)?;
        }
        if !said.host && head.version != Some(0) {
            return Err(HeadError::Host);
        }
        if let Some(authority) = authority {
            // It counts, whatever the header says (RFC 9112 §3.2.2).
            request.host = check_host(authority).is_ok().then(|| authority.to_owned());
        }
        if matches!(request.route, Route::Blob { .. }) {
            request.stripe = stripe(query)?;
        }
        request.range = request.one_range(head.headers)?;
        Ok(Some((request, length)))
    }

    /// The range of a request that can have one. Two lines are a list in disguise.
    fn one_range(&self, headers: &[httparse::Header<'_>]) -> Result<Option<ByteRange>, HeadError> {
        let digest = match (self.method, &self.route) {
            (Method::Get, Route::Blob { digest, .. }) => digest,
            _ => return Ok(None),
        };
        // The part of something else than the client has begun with is of no use (§13.1.5).
        let other = headers.iter().any(|header| {
            let is_condition = header.name.eq_ignore_ascii_case("if-range");
            is_condition && header.value != format!("\"{digest}\"").as_bytes()
        });
        if other {
            return Ok(None);
        }
        let mut lines = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("range"));
        match (lines.next(), lines.next()) {
            (Some(line), None) => Ok(ByteRange::parse(text(line, "range")?)?),
            _ => Ok(None),
        }
    }

    fn take(&mut self, header: &httparse::Header<'_>, said: &mut Said) -> Result<(), HeadError> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("accept") {
            join(&mut self.accept, text(header, "accept")?);
        } else if is("if-none-match") {
            join(&mut self.known, text(header, "if-none-match")?);
        } else if is("host") {
            let host = text(header, "host")?;
            // One, and one that is none is refused (RFC 9112 §3.2).
            if std::mem::replace(&mut said.host, true) || !is_of_authority(host) {
                return Err(HeadError::Host);
            }
            self.host = check_host(host).is_ok().then(|| host.to_owned());
        } else if is("authorization") {
            self.authorization = Some(text(header, "authorization")?.to_owned());
        } else if is("content-length") {
            let length = number(text(header, "content-length")?);
            let length = length.map_err(|_| HeadError::Header("content-length"))?;
            // A second line could hide a second request from whoever stands between.
            if said.length.replace(length).is_some_and(|said| said != length) {
                return Err(HeadError::Header("content-length"));
            }
            self.content_length = length;
        } else if is("transfer-encoding") {
            return Err(HeadError::Coding);
        } else if is("connection") {
            // HTTP/1.0 closes in any case: its keep-alive was never one of the standard's.
            let mut options = text(header, "connection")?.split(',').map(str::trim);
            self.keep_alive &= !options.any(|option| option.eq_ignore_ascii_case("close"));
        } else if is(HEADER_NODE) {
            let name = text(header, HEADER_NODE)?;
            check_node(name)?;
            self.node = Some(name.to_owned());
        } else if is(HEADER_IMAGE) {
            self.image = Some(text(header, HEADER_IMAGE)?.parse()?);
        } else if is(HEADER_GRANT) {
            self.grant = Some(text(header, HEADER_GRANT)?.to_owned());
        } else if is(HEADER_PATH) {
            for name in text(header, HEADER_PATH)?.split(',').map(str::trim) {
                check_node(name)?;
                self.path.push(name.to_owned());
            }
            if self.path.len() > PATH_NODES_MAX {
                return Err(HeadError::Header(HEADER_PATH));
            }
        }
        Ok(())
    }
}

/// A request target without its scheme and authority, and the authority if it has one: clients that
/// take a node for a proxy write them, and a server accepts them (RFC 9112 §3.2.2).
fn split_authority(target: &str) -> (Option<&str>, &str) {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let Some(scheme) = scheme else { return (None, target) };
    let rest = &target[scheme.len()..];
    match rest.find(['/', '?']) {
        Some(end) if rest[end..].starts_with('/') => (Some(&rest[..end]), &rest[end..]),
        // An empty path is the root; nothing is served there, with a query or without.
        Some(end) => (Some(&rest[..end]), "/"),
        None => (Some(rest), "/"),
    }
}

/// What may be said once only, or not twice in different ways.
#[derive(Default)]
struct Said {
    host: bool,
    length: Option<u64>,
}

/// Whether a host header has only characters that an authority can have.
fn is_of_authority(host: &str) -> bool {
    host.bytes().all(|b| match b {
        b'"' | b'#' | b'/' | b'<' | b'>' | b'?' | b'@' | b'\\' | b'^' | b'`' | b'{'..=b'}' => false,
        other => other.is_ascii_graphic(),
    })
}

/// The first value of this name in a query.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value)
}

fn namespace(query: &str) -> Result<Option<String>, HeadError> {
    let Some(host) = parameter(query, "ns") else { return Ok(None) };
    check_host(&host)?;
    Ok(Some(host.into_owned()))
}

fn stripe(query: &str) -> Result<Option<u8>, HeadError> {
    match parameter(query, "stripe").as_deref() {
        None => Ok(None),
        Some("0/2") => Ok(Some(0)),
        Some("1/2") => Ok(Some(1)),
        Some(_) => Err(HeadError::Stripe),
    }
}

fn join(list: &mut String, more: &str) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.push_str(more);
}

/// Whether a list of entity tags ([`Request::known`]) has the one of a blob or a manifest, which is
/// its digest (RFC 9110 §13.1.2).
pub fn has_tag(known: &str, digest: &Digest) -> bool {
    let mut tags = known.split(',').map(str::trim);
    !known.is_empty()
        && tags.any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.trim_matches('"').parse().is_ok_and(|known: Digest| known == *digest)
        })
}

fn route(method: Method, path: &str) -> Result<Route, HeadError> {
    let Some(rest) = path.strip_prefix("/v2") else { return Ok(Route::Other(path.to_owned())) };
    if !(rest.is_empty() || rest.starts_with('/')) {
        return Ok(Route::Other(path.to_owned()));
    }
    if matches!(method, Method::Post | Method::Other) {
        return Err(HeadError::Push);
    }
    let rest = &*decoded(rest.strip_prefix('/').unwrap_or_default())?;
    if rest.is_empty() {
        return Ok(Route::Ping);
    }
    // What has a further slash is an upload.
    let blob = rest.rsplit_once("/blobs/").filter(|(_, digest)| !digest.contains('/'));
    if let Some((repository, digest)) = blob {
        check_repository(repository)?;
        return Ok(Route::Blob { repository: repository.to_owned(), digest: digest.parse()? });
    }
    if let Some((repository, target)) = rest.rsplit_once("/manifests/") {
        check_repository(repository)?;
        return Ok(Route::Manifest { repository: repository.to_owned(), target: target.parse()? });
    }
    if let Some((repository, digest)) = rest.rsplit_once("/referrers/") {
        check_repository(repository)?;
        return Ok(Route::Referrers { repository: repository.to_owned(), digest: digest.parse()? });
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        check_repository(repository)?;
        return Ok(Route::Tags { repository: repository.to_owned() });
    }
    Ok(Route::Other(path.to_owned()))
}

/// A path without its escapes: some clients write the colon of a digest as `%3A`. Never more than
/// one path component comes out of one (RFC 3986 §2.2), and never bytes that are no text.
fn decoded(path: &str) -> Result<Cow<'_, str>, HeadError> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut parts = path.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        let byte = byte.filter(|b| b.is_ascii_graphic() && *b != b'/').ok_or(HeadError::Escape)?;
        out.push(char::from(byte));
        out.push_str(&part[2..]);
    }
    Ok(Cow::Owned(out))
}

#[cfg(test)]
mod tests;
