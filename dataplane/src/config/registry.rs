//! Registries as the operator names them: one entry each in the file, or `HOST=URL` on the command
//! line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use xylem_protocol::limits::{MIRRORS_MAX, REGISTRIES_MAX, REGISTRY_ANSWER_MS};
use xylem_protocol::names::check_host;

use super::{ConfigError, duration};

/// What Docker Hub is called in image names, and where it is.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// One registry, as it is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RegistryOptions {
    /// `host[:port]`, as image names have it.
    pub host: String,
    /// Where it is; `https://HOST` if not said.
    pub url: Option<String>,
    /// URLs that are asked for blobs and manifests before it.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// PEM file of certificates to trust, beside the system's.
    pub ca: Option<PathBuf>,
    /// Longest silence.
    pub timeout: Option<String>,
}

impl FromStr for RegistryOptions {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, url) = match text.split_once('=') {
            Some((host, url)) => (host, Some(url.to_owned())),
            None => (text, None),
        };
        Ok(Self { host: host.to_owned(), url, ..Self::default() })
    }
}

/// Address of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// `host[:port]`.
    pub authority: String,
}

impl Endpoint {
    /// From `http(s)://HOST[:PORT]`.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let plain = url.strip_prefix("http://").map(|rest| (false, rest));
        let (tls, rest) =
            plain.or_else(|| url.strip_prefix("https://").map(|rest| (true, rest)))?;
        let authority = rest.trim_end_matches('/');
        let parsed = reqwest::Url::parse(&format!("http://{authority}/")).ok();
        let char_is_valid = |b: u8| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
        };
        let valid =
            authority.bytes().all(char_is_valid) && parsed.is_some_and(|url| url.host().is_some());
        valid.then(|| Self { tls, authority: authority.to_owned() })
    }

    /// `http(s)://host[:port]`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// One registry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySpec {
    /// `host[:port]`, as image names have it.
    pub host: String,
    /// Where it is.
    pub endpoint: Endpoint,
    /// What is asked before it.
    pub mirrors: Vec<Endpoint>,
    /// Further certificates to trust.
    pub ca: Option<PathBuf>,
    /// Longest silence.
    pub timeout: Duration,
}

impl RegistrySpec {
    /// A registry of which only the name is known.
    pub fn of_host(host: &str) -> Self {
        let authority = if host == HUB.0 { HUB.1 } else { host };
        Self {
            host: host.to_owned(),
            endpoint: Endpoint { tls: true, authority: authority.to_owned() },
            mirrors: Vec::new(),
            ca: None,
            timeout: Duration::from_millis(REGISTRY_ANSWER_MS),
        }
    }

    fn check(given: RegistryOptions) -> Result<Self, ConfigError> {
        let bad = |value: &str, expected| ConfigError::Value {
            key: "registry",
            value: value.to_owned(),
            expected,
        };
        if check_host(&given.host).is_err() {
            return Err(bad(&given.host, "host wants HOST or HOST:PORT, as image names have it"));
        }
        if given.mirrors.len() > MIRRORS_MAX {
            return Err(bad(&given.host, "a registry has at most 8 mirrors"));
        }
        let endpoint = |url: &String| {
            let expected = "wants http://HOST[:PORT] or https://HOST[:PORT]";
            Endpoint::parse(url).ok_or_else(|| bad(url, expected))
        };
        let mut spec = Self::of_host(&given.host);
        if let Some(url) = &given.url {
            spec.endpoint = endpoint(url)?;
        }
        spec.mirrors = given.mirrors.iter().map(endpoint).collect::<Result<_, _>>()?;
        spec.ca = given.ca;
        if let Some(timeout) = given.timeout {
            spec.timeout = duration("registry", timeout)?;
        }
        Ok(spec)
    }
}

/// Checks them all, each and beside each other.
pub(super) fn check_all(given: Vec<RegistryOptions>) -> Result<Vec<RegistrySpec>, ConfigError> {
    let mut all: Vec<RegistrySpec> = Vec::new();
    for options in given {
        let spec = RegistrySpec::check(options)?;
        let twice = all.iter().any(|other| other.host == spec.host);
        if twice || all.len() == REGISTRIES_MAX {
            let expected = if twice { "is there twice" } else { "is one too many (64)" };
            return Err(ConfigError::Value { key: "registry", value: spec.host, expected });
        }
        all.push(spec);
    }
    Ok(all)
}

/// Those of the command line, and those of the file that it does not name. What the command line
/// leaves open about a registry is as in the file.
pub(super) fn over(
    mut flags: Vec<RegistryOptions>,
    file: Vec<RegistryOptions>,
) -> Vec<RegistryOptions> {
    for below in file {
        match flags.iter_mut().find(|flag| flag.host == below.host) {
            Some(flag) => {
                let url = flag.url.take().or(below.url);
                *flag = RegistryOptions { url, ..below };
            }
            None => flags.push(below),
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<RegistrySpec, String> {
        let options = toml::from_str(text).map_err(|error| error.to_string())?;
        RegistrySpec::check(options).map_err(|error| error.to_string())
    }

    #[test]
    fn a_host_is_enough() {
        let spec = check("host = \"r.example:5000\"").unwrap();
        assert_eq!(spec.endpoint.url(), "https://r.example:5000");
        assert_eq!(spec.timeout, Duration::from_millis(REGISTRY_ANSWER_MS));
        let hub = check("host = \"docker.io\"").unwrap();
        assert_eq!(hub.endpoint.url(), "https://registry-1.docker.io");
    }

    #[test]
    fn everything_can_be_said() {
        let text = "host = \"r.example\"\nurl = \"http://10.0.0.1:5000/\"\nca = \"/c.pem\"\n\
                    mirrors = [\"http://m:1\", \"https://n\"]\ntimeout = \"2s\"";
        let spec = check(text).unwrap();
        assert_eq!(spec.endpoint.url(), "http://10.0.0.1:5000");
        let mirrors: Vec<String> = spec.mirrors.iter().map(Endpoint::url).collect();
        assert_eq!(mirrors, ["http://m:1", "https://n"]);
        assert_eq!((spec.ca, spec.timeout), (Some("/c.pem".into()), Duration::from_secs(2)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("host = \"a/b\"", "a/b"),
            ("host = \"a\"\nurl = \"ftp://x\"", "ftp://x"),
            ("host = \"a\"\nmirrors = [\"x\"]", "\"x\""),
            ("host = \"a\"\ntimeout = \"2\"", "\"2\""),
            ("host = \"a\"\nmirors = []", "mirors"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let of = |host: &str| RegistryOptions { host: host.into(), ..RegistryOptions::default() };
        assert!(check_all(vec![of("a"), of("a")]).unwrap_err().to_string().contains("twice"));
        assert!(check_all((0..65).map(|n| of(&format!("h{n}"))).collect()).is_err());
    }

    #[test]
    fn the_command_line_wins() {
        let file: RegistryOptions =
            toml::from_str("host = \"a\"\nurl = \"http://f\"\nca = \"/c\"").unwrap();
        let all = over(vec!["a=http://x".parse().unwrap(), "b".parse().unwrap()], vec![file]);
        let [a, b] = &all[..] else { panic!("{all:?}") };
        assert_eq!((a.url.as_deref(), &a.ca), (Some("http://x"), &Some("/c".into())));
        assert_eq!((&*b.host, &b.url), ("b", &None));
    }
}
