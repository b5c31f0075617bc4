//! What is checked from this machine: whether node and control answer, whether the runtimes ask the
//! node, and the clock. The node's own checks are the node's.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Check, Directories};
use crate::api;
use crate::cli::client::{Client, ClientError, Endpoint, Peer, body, parse};
use crate::cli::install::mentions::{Mentions, by_containerd, by_podman};
use crate::cli::install::{CERTS_DIR, CONF_DIR, FileError};
use crate::cli::one_line;
use crate::limits::{ANSWER_MAX, CLOCK_OFF_MAX_MS, PING_MAX_MS, STATUS_WAIT_MAX_MS};

/// What is read of a node's status.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    node: String,
    version: String,
    control: Option<Link>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    address: String,
    connected: bool,
}

/// What an answer's `Date` says of the clock, and whose answer it was.
struct Told {
    by: String,
    date: SystemTime,
    asked: SystemTime,
    answered: SystemTime,
}

impl Told {
    fn new(by: &Peer, headers: &HeaderMap, asked: SystemTime) -> Option<Self> {
        let date = headers.get(DATE)?.to_str().ok()?;
        let date = httpdate::parse_http_date(date).ok()?;
        Some(Self { by: by.to_string(), date, asked, answered: SystemTime::now() })
    }

    /// How far this clock is ahead, or behind, at least: a `Date` is cut to a second.
    fn off(&self) -> (Duration, &'static str) {
        let cut = Duration::from_secs(1);
        if let Ok(ahead) = self.asked.duration_since(self.date + cut) {
            return (ahead, "ahead of");
        }
        (self.date.duration_since(self.answered).unwrap_or_default(), "behind")
    }
}

/// Whether the node answers at all, and what it says of itself.
pub(super) async fn node(client: &Client, node: &Peer) -> (Check, Option<Status>) {
    const NAME: &str = "node";
    let patience = Duration::from_millis(STATUS_WAIT_MAX_MS);
    let remedy = "start xylemd there, or name another node with --node-url";
    match timeout(patience, client.json::<Status>(node, "/xylem/v1/status")).await {
        Ok(Ok(status)) => {
            let detail = format!("{node}: {}, version {}", status.node, status.version);
            (Check::good(NAME, detail), Some(status))
        }
        Ok(Err(ClientError::Unreachable { peer, source })) => {
            let detail = format!("cannot reach {peer}: {}", root(&source));
            (Check::bad(NAME, detail, remedy), None)
        }
        Ok(Err(error)) => (Check::bad(NAME, one_line(&error), remedy), None),
        Err(_) => {
            let detail = format!("{node} gives no answer within {STATUS_WAIT_MAX_MS} ms");
            (Check::bad(NAME, detail, "see the log of xylemd, and restart it"), None)
        }
    }
}

/// Everything else.
pub(super) async fn rest(
    client: &Client,
    node: &Peer,
    status: Option<&Status>,
    directories: &Directories,
) -> Vec<Check> {
    let (pinged, by_registry) = match status {
        Some(_) => ping(client, node).await,
        None => (Check::skipped("mirror", "no node to ask"), None),
    };
    let endpoint = node.endpoint();
    let containerd = Runtime {
        name: "containerd",
        option: "--certs-dir",
        directory: &directories.certs_dir,
        default: CERTS_DIR,
    };
    let podman = Runtime {
        name: "podman",
        option: "--conf-dir",
        directory: &directories.conf_dir,
        default: CONF_DIR,
    };
    let (linked, by_control) = match status {
        Some(status) => control(client, status).await,
        None => (Check::skipped("control", "no node to say where"), None),
    };
    vec![
        pinged,
        runtime(&containerd, endpoint, by_containerd(containerd.directory, endpoint)),
        runtime(&podman, endpoint, by_podman(podman.directory, endpoint)),
        linked,
        clock(by_control.or(by_registry)),
    ]
}

/// Whether the node's mirror answers as soon as a client would like.
async fn ping(client: &Client, node: &Peer) -> (Check, Option<Told>) {
    const NAME: &str = "mirror";
    let (asked, from) = (SystemTime::now(), Instant::now());
    let remedy = "see the log of xylemd, and whether the registry behind the node answers";
    match timeout(Duration::from_millis(PING_MAX_MS), client.ask(node, "/v2/")).await {
        Ok(Ok(response)) => {
            let (status, told) = (response.status(), Told::new(node, response.headers(), asked));
            let detail = format!("/v2/ answers {status} in {} ms", from.elapsed().as_millis());
            // A registry that wants a login says so here.
            let good = status.is_success() || status == StatusCode::UNAUTHORIZED;
            let check =
                if good { Check::good(NAME, detail) } else { Check::bad(NAME, detail, remedy) };
            (check, told)
        }
        Ok(Err(error)) => (Check::bad(NAME, one_line(&error), remedy), None),
        Err(_) => {
            (Check::bad(NAME, format!("/v2/ gives no answer in {PING_MAX_MS} ms"), remedy), None)
        }
    }
}

/// A runtime's configuration: the name of `xylem install`, and its option for the directory.
struct Runtime<'a> {
    name: &'static str,
    option: &'static str,
    directory: &'a Path,
    default: &'static str,
}

impl Runtime<'_> {
    /// What makes the runtime ask the node.
    fn install(&self, node: &Endpoint) -> String {
        let mut command = format!("xylem install {}", self.name);
        if *node != Endpoint::default() {
            command.push_str(&format!(" --node-url {}", node.as_str()));
        }
        if self.directory != Path::new(self.default) {
            command.push_str(&format!(" {} {}", self.option, self.directory.display()));
        }
        command
    }
}

/// Whether a runtime asks the node.
fn runtime(runtime: &Runtime<'_>, node: &Endpoint, found: Result<Mentions, FileError>) -> Check {
    let (name, shown) = (runtime.name, runtime.directory.display());
    let Mentions { registries, broken } = match found {
        Ok(mentions) => mentions,
        Err(error) => return Check::warning(name, one_line(&error), "see to that file by hand"),
    };
    if let Some(path) = broken.first() {
        let detail = format!("{} is no valid TOML", path.display());
        return Check::bad(name, detail, "correct it: the runtime cannot read it either");
    }
    if registries.is_empty() {
        let detail = format!("nothing in {shown} asks this node");
        return Check::warning(name, detail, runtime.install(node));
    }
    const SHOWN: usize = 3;
    let more = registries.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let first = registries.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    Check::good(name, format!("asks this node for {first}{more}"))
}

/// Whether the node's control answers, and knows the node.
async fn control(client: &Client, status: &Status) -> (Check, Option<Told>) {
    const NAME: &str = "control";
    let Some(link) = status.control.as_ref().filter(|link| !link.address.is_empty()) else {
        return (
            Check::skipped(NAME, "the node runs without, and reads the registry itself"),
            None,
        );
    };
    let Ok(endpoint) = link.address.parse::<Endpoint>() else {
        let detail = format!("{:?}, which the node names, is no address", link.address);
        return (Check::bad(NAME, detail, "correct --control of the node"), None);
    };
    let peer = Peer::control(endpoint);
    let patience = Duration::from_millis(STATUS_WAIT_MAX_MS);
    let (known, told) = match timeout(patience, nodes(client, &peer)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let detail = match error {
                ClientError::Unreachable { peer, source } => {
                    format!("cannot reach {peer}: {}", root(&source))
                }
                error => one_line(&error),
            };
            let remedy = "start xylem-control there, or correct --control of the node";
            return (Check::bad(NAME, detail, remedy), None);
        }
        Err(_) => {
            let detail = format!("{peer} gives no answer within {STATUS_WAIT_MAX_MS} ms");
            return (Check::bad(NAME, detail, "see the log of xylem-control"), None);
        }
    };
    let check = match known.nodes.iter().find(|known| known.node == status.node) {
        Some(known) if known.connected => {
            Check::good(NAME, format!("{peer} knows {}, version {}", status.node, known.version))
        }
        Some(_) => {
            let detail = format!("{peer} has lost {}", status.node);
            Check::bad(NAME, detail, "see the log of xylemd for why it cannot link to control")
        }
        None => {
            let linked = if link.connected { "says it is linked" } else { "is not linked" };
            let detail = format!("{peer} does not know {}, which {linked}", status.node);
            Check::bad(NAME, detail, "see the log of xylemd for why it cannot link to control")
        }
    };
    (check, told)
}

async fn nodes(
    client: &Client,
    control: &Peer,
) -> Result<(api::Status, Option<Told>), ClientError> {
    const PATH: &str = "/api/v1/status";
    let asked = SystemTime::now();
    let response = client.get(control, PATH, None).await?;
    let told = Told::new(control, response.headers(), asked);
    let text = body(control, PATH, response, ANSWER_MAX).await?;
    Ok((parse(control, PATH, &text)?, told))
}

/// Whether this machine's clock is that of the others: certificates and tokens depend on it.
fn clock(told: Option<Told>) -> Check {
    const NAME: &str = "clock";
    let Some(told) = told else {
        return Check::skipped(NAME, "no answer with a date to compare it with");
    };
    let (off, how) = told.off();
    if off > Duration::from_millis(CLOCK_OFF_MAX_MS) {
        let detail = format!("{} s {how} {}", off.as_secs(), told.by);
        return Check::warning(NAME, detail, "set it by NTP (timedatectl set-ntp true)");
    }
    Check::good(NAME, format!("as {} has it", told.by))
}

/// The innermost cause.
fn root(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |&cause| cause.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_cut_to_a_second() {
        let zero = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let told = |asked, answered| Told { by: String::new(), date: zero, asked, answered };
        assert_eq!(told(at(0), at(10)).off().0, Duration::ZERO);
        assert_eq!(told(at(999), at(1010)).off().0, Duration::ZERO);
        assert_eq!(told(at(9000), at(9010)).off(), (Duration::from_secs(8), "ahead of"));
        let behind = told(zero - Duration::from_secs(9), zero - Duration::from_secs(7));
        assert_eq!(behind.off(), (Duration::from_secs(7), "behind"));
    }
}
