//! What the operator sets: flags, and a TOML file with the same keys. Read once, checked whole,
//! then never changed.

mod registry;

use crate::probes::ProbeMode;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use xylem_protocol::limits::{CONFIG_FILE_MAX, GRANT_MS, SLOT_BYTES, SLOTS_MAX, SLOTS_MIN};
use xylem_protocol::names::check_node;

pub use registry::{Endpoint, RegistryOptions, RegistrySpec};

/// Why the settings cannot be used; one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too long to be one.
    #[error("configuration {} is longer than {CONFIG_FILE_MAX} bytes", .0.display())]
    Long(PathBuf),
    /// The file says what nobody understands.
    #[error("configuration {}{place}: {message}", path.display(), place = place(*line))]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where, from 1.
        line: Option<usize>,
        /// What is wrong, in the parser's words.
        message: String,
    },
    /// A value that is not one.
    #[error("--{key} {value:?}: {expected}")]
    Value {
        /// Which.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Something that has no default.
    #[error("--{key} is needed: {why}")]
    Missing {
        /// Which.
        key: &'static str,
        /// What it is for.
        why: &'static str,
    },
}

fn place(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(" line {line}"))
}

/// Whether the memory for blocks is locked, so that the kernel need not look it up each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lock {
    /// It is; what cannot be locked is an error.
    #[default]
    On,
    /// It is not.
    Off,
}

/// Whether blobs are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Every byte, before the blob counts as complete.
    #[default]
    Sha256,
    /// Not at all: for measurements.
    None,
}

/// Who may have what is kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Whom the registry would give it to: it is asked, and its yes is remembered for a while.
    #[default]
    Check,
    /// Whoever reaches the node.
    Open,
}

/// Settings as they are given, on the command line or in a file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// This node's name, unique in its fleet
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Data port: containers' runtimes and other nodes connect here [default: 127.0.0.1:4400]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address at which other nodes reach the data port [default: --listen]
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Control process; without it every image comes straight from the upstream
    #[arg(long, value_name = "URL")]
    pub control: Option<String>,
    /// Registry: http(s)://HOST[:PORT], or oci:DIR for an OCI layout
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// PEM file of certificates to trust for the upstream, beside the system's
    #[arg(long, value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// A registry that clients may name, and where it is [default: https://HOST]; may be repeated
    #[arg(long, value_name = "HOST[=URL]")]
    #[serde(default)]
    pub registry: Vec<RegistryOptions>,
    /// Take any registry that a client names, over https
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub all: Option<bool>,
    /// Who may have what is kept here [default: check]
    #[arg(long, value_enum, value_name = "check|open")]
    pub access: Option<Access>,
    /// How long a registry's yes to a caller is remembered [default: 5m]
    #[arg(long, value_name = "TIME")]
    pub grant: Option<String>,
    /// How long a tag's last digest is given out while its registry is down [default: 0s, never]
    #[arg(long, value_name = "TIME")]
    pub offline: Option<String>,
    /// Where blobs are kept [default: /var/lib/xylem]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Memory for blocks in flight [default: 8MiB, 4MiB where locked memory is limited]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Whether that memory is locked and registered with the ring; off where it cannot be
    #[arg(long, value_name = "on|off")]
    pub lock: Option<Lock>,
    /// Measure hops with kernel programs [default: auto]
    #[arg(long, value_enum, value_name = "MODE")]
    pub probes: Option<ProbeMode>,
    /// Object file of the kernel programs [default: xylem.bpf.o beside xylemd]
    #[arg(long, value_name = "FILE")]
    pub probe_object: Option<PathBuf>,
    /// Hash blobs before they count as complete [default: sha256]
    #[arg(long, value_enum, value_name = "HASH")]
    pub verify: Option<Verify>,
    /// Label of this node's place, told to control
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// What to log, as `level` or `module=level,…` [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamSpec {
    /// A registry; image references name it by its authority.
    Registry(Endpoint),
    /// An OCI layout in a directory.
    Layout(PathBuf),
}

/// Settings that have been checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name.
    pub node: String,
    /// Data port.
    pub listen: SocketAddr,
    /// Data port as others see it; `None`: as it is bound.
    pub advertise: Option<SocketAddr>,
    /// URL of control.
    pub control: Option<String>,
    /// Where images come from.
    pub upstream: Option<UpstreamSpec>,
    /// Further certificates to trust.
    pub upstream_ca: Option<PathBuf>,
    /// Further registries, by the names that clients give them.
    pub registries: Vec<RegistrySpec>,
    /// Whether any other registry will do.
    pub all: bool,
    /// Who may have what is kept here.
    pub access: Access,
    /// How long a registry's yes is remembered.
    pub grant: Duration,
    /// How long a tag's last digest is given out while its registry is down.
    pub offline: Duration,
    /// Where blobs are kept.
    pub store: PathBuf,
    /// Bytes for blocks in flight; `None`: what locked memory allows.
    pub memory_bytes: Option<u64>,
    /// Whether that memory is locked and registered.
    pub lock: Lock,
    /// Kernel programs.
    pub probes: ProbeMode,
    /// Their object file.
    pub probe_object: Option<PathBuf>,
    /// Hashing.
    pub verify: Verify,
    /// Label of the node's place.
    pub zone: String,
}

impl Options {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`]: unreadable, too long, or with a key or value that is not known.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.len() > CONFIG_FILE_MAX {
            return Err(ConfigError::Long(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(read)?;
        toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error
                .span()
                .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            message: error.message().replace('\n', " "),
        })
    }

    /// These settings, and those of `below` where these are silent.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            node: self.node.or(below.node),
            listen: self.listen.or(below.listen),
            advertise: self.advertise.or(below.advertise),
            control: self.control.or(below.control),
            upstream: self.upstream.or(below.upstream),
            upstream_ca: self.upstream_ca.or(below.upstream_ca),
            registry: registry::over(self.registry, below.registry),
            all: self.all.or(below.all),
            access: self.access.or(below.access),
            grant: self.grant.or(below.grant),
            offline: self.offline.or(below.offline),
            store: self.store.or(below.store),
            memory: self.memory.or(below.memory),
            lock: self.lock.or(below.lock),
            probes: self.probes.or(below.probes),
            probe_object: self.probe_object.or(below.probe_object),
            verify: self.verify.or(below.verify),
            zone: self.zone.or(below.zone),
            log: self.log.or(below.log),
        }
    }

    /// Checks everything and fills in the defaults.
    ///
    /// # Errors
    /// [`ConfigError::Value`] or [`ConfigError::Missing`], for the first setting that cannot be
    /// used.
    pub fn check(self) -> Result<Config, ConfigError> {
        let node = self.node.ok_or(ConfigError::Missing {
            key: "node",
            why: "a name that no other node of the fleet has",
        })?;
        if check_node(&node).is_err() {
            let expected = "1 to 63 letters, digits, . _ -";
            return Err(ConfigError::Value { key: "node", value: node, expected });
        }
        let listen = self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 4400)));
        if self.control.is_some() && self.advertise.is_none() && listen.ip().is_unspecified() {
            return Err(ConfigError::Missing {
                key: "advertise",
                why: "other nodes cannot connect to the unspecified address of --listen",
            });
        }
        Ok(Config {
            node,
            listen,
            advertise: self.advertise,
            control: self.control.map(control).transpose()?,
            upstream: self.upstream.map(upstream).transpose()?,
            upstream_ca: self.upstream_ca,
            registries: registry::check_all(self.registry)?,
            all: self.all.unwrap_or_default(),
            access: self.access.unwrap_or_default(),
            grant: (self.grant.map(|time| duration("grant", time)).transpose()?)
                .unwrap_or(Duration::from_millis(GRANT_MS)),
            offline: (self.offline.map(|time| duration("offline", time)).transpose()?)
                .unwrap_or_default(),
            store: self.store.unwrap_or_else(|| PathBuf::from("/var/lib/xylem")),
            memory_bytes: self.memory.map(memory).transpose()?,
            lock: self.lock.unwrap_or_default(),
            probes: self.probes.unwrap_or_default(),
            probe_object: self.probe_object,
            verify: self.verify.unwrap_or_default(),
            zone: self.zone.unwrap_or_default(),
        })
    }
}

fn control(value: String) -> Result<String, ConfigError> {
    let valid = Endpoint::parse(&value).is_some_and(|endpoint| !endpoint.tls);
    let expected = "wants http://HOST:PORT";
    if valid { Ok(value) } else { Err(ConfigError::Value { key: "control", value, expected }) }
}

fn upstream(value: String) -> Result<UpstreamSpec, ConfigError> {
    if let Some(dir) = value.strip_prefix("oci:").filter(|dir| !dir.is_empty()) {
        return Ok(UpstreamSpec::Layout(PathBuf::from(dir)));
    }
    match Endpoint::parse(&value) {
        Some(endpoint) => Ok(UpstreamSpec::Registry(endpoint)),
        None => Err(ConfigError::Value {
            key: "upstream",
            value,
            expected: "wants http://HOST[:PORT], https://HOST[:PORT] or oci:DIR",
        }),
    }
}

/// `90s`, `5m`, `2h`, `500ms` or `0`; up to a year.
fn duration(key: &'static str, value: String) -> Result<Duration, ConfigError> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &value[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        "" if digits == "0" => Some(1),
        _ => None,
    };
    let ms = digits.parse::<u64>().ok().zip(unit_ms).and_then(|(n, unit)| n.checked_mul(unit));
    match ms.filter(|ms| *ms <= 366 * 86_400_000) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(ConfigError::Value {
            key,
            value,
            expected: "wants a time such as 500ms, 90s, 5m, 2h",
        }),
    }
}

/// Bytes of `8MiB`, `64M`, `1GiB`, `4096KiB` or plain bytes.
fn memory(value: String) -> Result<u64, ConfigError> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match value[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes =
        digits.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
    let slot = u64::from(SLOT_BYTES);
    match bytes {
        Some(bytes)
            if (u64::from(SLOTS_MIN) * slot..=u64::from(SLOTS_MAX) * slot).contains(&bytes) =>
        {
            Ok(bytes)
        }
        _ => Err(ConfigError::Value {
            key: "memory",
            value,
            expected: "wants 4MiB to 1GiB, such as 8MiB",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Options {
        Options { node: Some("n1".into()), ..Options::default() }
    }

    #[test]
    fn a_name_is_enough() {
        let config = node().check().unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:4400");
        assert_eq!(config.store, PathBuf::from("/var/lib/xylem"));
        assert_eq!(config.probes, ProbeMode::Auto);
        assert!(Options::default().check().is_err());
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xylemd.toml");
        fs::write(&path, "node = \"a\"\nprobe-object = \"/x\"\nmemory = \"16MiB\"\n").unwrap();
        let options = Options { node: Some("b".into()), ..Options::default() };
        let config = options.over(Options::from_file(&path).unwrap()).check().unwrap();
        assert_eq!(config.node, "b");
        assert_eq!(config.memory_bytes, Some(16 << 20));
        assert_eq!(config.probe_object, Some("/x".into()));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xylemd.toml");
        fs::write(&path, "node = \"a\"\nupstraem = \"x\"\n").unwrap();
        let error = Options::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("upstraem"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(Options::from_file(&dir.path().join("none")).is_err());
    }

    #[test]
    fn upstreams() {
        let http = upstream("http://registry:5000/".into()).unwrap();
        let UpstreamSpec::Registry(endpoint) = http else { panic!("{http:?}") };
        assert_eq!(endpoint.url(), "http://registry:5000");
        assert_eq!(upstream("oci:/a b".into()).unwrap(), UpstreamSpec::Layout("/a b".into()));
        for bad in
            ["", "oci:", "ftp://x", "http://", "http://a/b", "http://a:b", "https://u@h", "x"]
        {
            assert!(upstream(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("4MiB", 4 << 20), ("8M", 8 << 20), ("1GiB", 1 << 30), ("8388608", 8 << 20)]
        {
            assert_eq!(memory(text.into()).unwrap(), bytes, "{text}");
        }
        for bad in ["", "8", "8 MiB", "2GiB", "-1", "8TB", "99999999999999999999", "9999999999GiB"]
        {
            assert!(memory(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        let time = |text: &str| duration("grant", text.into()).ok();
        for (text, ms) in [("0", 0), ("0s", 0), ("500ms", 500), ("5m", 300_000), ("2h", 7_200_000)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "m", "-1s", "5 m", "1.5s", "400d", "99999999999999999999s"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn registries_stand_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xylemd.toml");
        let text = "all = true\naccess = \"open\"\n[[registry]]\nhost = \"r.example\"\n";
        fs::write(&path, text).unwrap();
        let file = Options::from_file(&path).unwrap();
        let flags = Options { all: Some(false), ..node() };
        let config = flags.over(file).check().unwrap();
        assert!(!config.all, "flags win");
        assert_eq!((config.access, config.registries.len()), (Access::Open, 1));
        fs::write(&path, "[[registry]]\nhost = \"r\"\nuser = \"x\"\n").unwrap();
        let error = Options::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("user"), "{error}");
    }

    #[test]
    fn what_others_connect_to_must_be_an_address() {
        let options = Options {
            listen: Some("0.0.0.0:1".parse().unwrap()),
            control: Some("http://c:4440".into()),
            ..node()
        };
        assert!(options.clone().check().unwrap_err().to_string().contains("--advertise"));
        let advertise = Some("10.0.0.1:1".parse().unwrap());
        options.over(Options { advertise, ..Options::default() }).check().unwrap();
    }
}
