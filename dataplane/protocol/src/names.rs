//! Names as the distribution specification and Xylem allow them: repositories, tags, nodes,
//! references.

use std::fmt;
use std::str::FromStr;

use crate::Digest;
use crate::limits::{HOST_MAX, NODE_NAME_MAX, REPOSITORY_MAX, TAG_MAX};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `[a-z0-9]+([._-][a-z0-9]+)*` between slashes, or too long.
    #[error("repository name is not valid (lower-case letters, digits, . _ - and /)")]
    Repository,
    /// Not `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
    #[error("tag is not valid (letters, digits, . _ -, at most 128)")]
    Tag,
    /// Not 1 to 63 of `[A-Za-z0-9._-]`.
    #[error("node name is not valid (1 to 63 letters, digits, . _ -)")]
    Node,
    /// Not `host[:port]`.
    #[error("registry is not valid (HOST or HOST:PORT)")]
    Host,
    /// No host part.
    #[error("image needs a registry: REGISTRY/NAME:TAG")]
    Registry,
    /// The digest after `@` is none.
    #[error(transparent)]
    Digest(#[from] crate::digest::DigestError),
}

/// Checks a repository name (distribution specification, "Pulling manifests").
///
/// # Errors
/// [`NameError::Repository`].
pub fn check_repository(name: &str) -> Result<(), NameError> {
    let valid = name.len() <= REPOSITORY_MAX && name.split('/').all(component_is_valid);
    if valid { Ok(()) } else { Err(NameError::Repository) }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn component_is_valid(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes
        .split(|&b| alnum(b))
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

/// Checks a tag.
///
/// # Errors
/// [`NameError::Tag`].
pub fn check_tag(tag: &str) -> Result<(), NameError> {
    let bytes = tag.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let valid = bytes.len() <= TAG_MAX
        && bytes.first().is_some_and(word)
        && bytes.iter().all(|b| word(b) || matches!(b, b'.' | b'-'));
    if valid { Ok(()) } else { Err(NameError::Tag) }
}

/// Checks a node's name.
///
/// # Errors
/// [`NameError::Node`].
pub fn check_node(name: &str) -> Result<(), NameError> {
    let valid = (1..=NODE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if valid { Ok(()) } else { Err(NameError::Node) }
}

/// Checks the name of a registry as image references have it: `host[:port]`; an IPv6 address
/// stands in brackets.
///
/// # Errors
/// [`NameError::Host`].
pub fn check_host(host: &str) -> Result<(), NameError> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let name_is_valid = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            let dashes = label.starts_with('-') || label.ends_with('-');
            let chars = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            !label.is_empty() && !dashes && chars
        }),
    };
    let port_is_valid = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let valid = host.len() <= HOST_MAX && name_is_valid && port_is_valid;
    if valid { Ok(()) } else { Err(NameError::Host) }
}

/// Splits the registry off a repository name that begins with one: clients that cannot say `?ns=`
/// write `REGISTRY/NAME`. A port stands behind two underscores there, because a repository name
/// takes no colon.
pub fn split_host(repository: &str) -> Option<(String, &str)> {
    let (first, rest) = repository.split_once('/')?;
    let host = first.replacen("__", ":", 1);
    let looks_so = host.contains(['.', ':']) || host == "localhost";
    (looks_so && check_host(&host).is_ok()).then_some((host, rest))
}

/// A tag or a digest: what stands behind `/manifests/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A movable name.
    Tag(String),
    /// A fixed one.
    Digest(Digest),
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        check_tag(text)?;
        Ok(Self::Tag(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An image as a person writes it: `REGISTRY/NAME[:TAG|@DIGEST]`. Without tag or digest: `latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `host[:port]` of the registry.
    pub registry: String,
    /// Repository name.
    pub repository: String,
    /// Tag or digest.
    pub target: Target,
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (registry, rest) = text.split_once('/').ok_or(NameError::Registry)?;
        let host_char =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
        if registry.is_empty() || !registry.bytes().all(host_char) {
            return Err(NameError::Registry);
        }
        let (repository, target) = if let Some((name, digest)) = rest.split_once('@') {
            let name = name.split_once(':').map_or(name, |(name, _tag)| name);
            (name, Target::Digest(digest.parse()?))
        } else if let Some((name, tag)) = rest.split_once(':') {
            check_tag(tag)?;
            (name, Target::Tag(tag.to_owned()))
        } else {
            (rest, Target::Tag("latest".to_owned()))
        };
        check_repository(repository)?;
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), target })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if matches!(self.target, Target::Tag(_)) { ':' } else { '@' };
        write!(f, "{}/{}{mark}{}", self.registry, self.repository, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for good in ["a", "library/debian", "a.b/c_d/e__f/g---h", "0"] {
            assert_eq!(check_repository(good), Ok(()), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "/", "a/", "/a", "A", "a..b", "a/../b", "-a", "a-", "a___b", "a%2fb", &long]
        {
            assert_eq!(check_repository(bad), Err(NameError::Repository), "{bad}");
        }
    }

    #[test]
    fn references() {
        let reference: Reference = "registry:5000/a/b:v1".parse().unwrap();
        assert_eq!(reference.registry, "registry:5000");
        assert_eq!(reference.repository, "a/b");
        assert_eq!(reference.target, Target::Tag("v1".into()));
        assert_eq!(reference.to_string(), "registry:5000/a/b:v1");
        let plain: Reference = "r/a".parse().unwrap();
        assert_eq!(plain.target, Target::Tag("latest".into()));
        let digest = format!("r/a:x@sha256:{}", "0".repeat(64));
        let pinned: Reference = digest.parse().unwrap();
        assert_eq!(pinned.repository, "a");
        assert!(matches!(pinned.target, Target::Digest(_)));
        for bad in ["", "a", "/a", "r/", "r/A", "r/a:", "r/a:b:c", "r/a@sha256:0", "r x/a"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_and_tags() {
        assert!(check_node("node-1.rack_2").is_ok());
        for bad in ["", "a b", "a,b", &"x".repeat(64)] {
            assert!(check_node(bad).is_err(), "{bad}");
        }
        assert!(check_tag("v1.0-rc_1").is_ok());
        for bad in ["", ".a", "-a", "a/b", &"x".repeat(129)] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn registries() {
        for host in ["docker.io", "localhost", "r.example:5000", "10.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
        let long = "a".repeat(300);
        for host in
            ["", ":5000", "a..b", "-a", "a-", "a/b", "a b", "u@h", "a:0", "a:99999", "a:", "[x]"]
        {
            assert_eq!(check_host(host), Err(NameError::Host), "{host}");
        }
        assert!(check_host(&long).is_err());
    }

    #[test]
    fn a_registry_before_a_repository() {
        let split = |name| split_host(name).map(|(host, rest)| format!("{host} {rest}"));
        assert_eq!(split("docker.io/library/a").as_deref(), Some("docker.io library/a"));
        assert_eq!(split("r.example__5000/a").as_deref(), Some("r.example:5000 a"));
        assert_eq!(split("localhost__5000/a/b").as_deref(), Some("localhost:5000 a/b"));
        assert_eq!(split("library/a"), None);
        assert_eq!(split("a__b/c"), None, "no port");
        assert_eq!(split("docker.io"), None, "nothing behind it");
    }
}
