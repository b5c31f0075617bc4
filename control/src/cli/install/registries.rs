//! Which registries a runtime is to be configured for: those that were named, or those that the
//! node says it knows. Asks the node, touches no file.

use std::time::Duration;

use serde::Deserialize;

use super::host::RegistryHost;
use super::{InstallError, Selection};
use crate::cli::client::{Client, ClientError, Peer};
use crate::cli::one_line;
use crate::limits::{REGISTRIES_MAX, STATUS_WAIT_MAX_MS};

const PATH: &str = "/xylem/v1/status";

/// Why it is not known what the node knows.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum NoStatus {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0} does not answer within {STATUS_WAIT_MAX_MS} ms")]
    Slow(Peer),
}

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A registry that is to be asked through the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    pub(super) host: RegistryHost,
    /// `None`: nobody could say.
    pub(super) scheme: Option<Scheme>,
}

/// What was chosen, and what the user should know of it.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) registries: Vec<Registry>,
    pub(super) notes: Vec<String>,
}

/// What is read of a node's status. A node of an earlier version says nothing of registries.
#[derive(Debug, Deserialize)]
struct Status {
    registries: Option<Vec<Known>>,
    #[serde(default)]
    all: bool,
}

#[derive(Debug, Deserialize)]
struct Known {
    host: String,
    #[serde(default)]
    url: String,
}

impl Known {
    fn scheme(&self) -> Scheme {
        let plain = self.url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:"));
        if plain { Scheme::Http } else { Scheme::Https }
    }
}

/// The registries for which a runtime is configured by name.
pub(super) async fn choose(
    client: &Client,
    node: &Peer,
    selection: &Selection,
) -> Result<Chosen, InstallError> {
    let status = status(client, node).await;
    if selection.registries.is_empty() {
        let known = status?.registries.ok_or_else(|| InstallError::Silent(node.clone()))?;
        return configured(node, &known);
    }
    Ok(match status {
        Ok(Status { registries: Some(known), all }) => named(selection, node, &known, all),
        Ok(Status { registries: None, .. }) => {
            assumed(selection, &format!("{node} does not say how it reaches registries"))
        }
        Err(error) => assumed(selection, &one_line(&error)),
    })
}

/// What the user should know where a catch-all is written.
pub(super) async fn notes_on_all(client: &Client, node: &Peer) -> Vec<String> {
    match status(client, node).await {
        Ok(Status { all: false, registries: Some(_) }) => vec![format!(
            "{node} serves only the registries that it is configured for, and refuses others: \
             they are then asked directly (`all` of its configuration changes that)"
        )],
        _ => Vec::new(),
    }
}

async fn status(client: &Client, node: &Peer) -> Result<Status, NoStatus> {
    let patience = Duration::from_millis(STATUS_WAIT_MAX_MS);
    match tokio::time::timeout(patience, client.json(node, PATH)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(NoStatus::Slow(node.clone())),
    }
}

/// All that the node knows.
fn configured(node: &Peer, known: &[Known]) -> Result<Chosen, InstallError> {
    if known.is_empty() {
        return Err(InstallError::Unconfigured(node.clone()));
    }
    if known.len() > REGISTRIES_MAX as usize {
        return Err(InstallError::TooMany);
    }
    let mut chosen = Chosen::default();
    for registry in known {
        match registry.host.parse() {
            Ok(host) => {
                let scheme = Some(registry.scheme());
                chosen.registries.push(Registry { host, scheme });
            }
            Err(reason) => chosen.notes.push(format!(
                "{:?}, which {node} is configured for, is left out: {reason}",
                registry.host
            )),
        }
    }
    if chosen.registries.is_empty() {
        return Err(InstallError::Unconfigured(node.clone()));
    }
    Ok(chosen)
}

fn named(selection: &Selection, node: &Peer, known: &[Known], all: bool) -> Chosen {
    let mut chosen = Chosen::default();
    for host in hosts(selection) {
        let same = known.iter().find(|known| known.host == host.as_str());
        let scheme = match same {
            Some(known) => Some(known.scheme()),
            None if all => Some(Scheme::Https),
            None => {
                chosen.notes.push(format!(
                    "{node} is not configured for {host} and will refuse it: it is then asked \
                     directly"
                ));
                None
            }
        };
        chosen.registries.push(Registry { host, scheme });
    }
    chosen
}

fn assumed(selection: &Selection, reason: &str) -> Chosen {
    let registries = hosts(selection).map(|host| Registry { host, scheme: None }).collect();
    let note = format!("{reason}; new registries are taken to be https");
    Chosen { registries, notes: vec![note] }
}

/// Those that were named, each once.
fn hosts(selection: &Selection) -> impl Iterator<Item = RegistryHost> {
    let named = &selection.registries;
    let first = |(index, host): &(usize, &RegistryHost)| !named[..*index].contains(host);
    named.iter().enumerate().filter(first).map(|(_, host)| host.clone())
}
