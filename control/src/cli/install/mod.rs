//! `xylem install` and `xylem uninstall`: container runtimes ask the node first. Writes their
//! configuration files and nothing else, restarts nothing.

mod block;
mod containerd;
mod diff;
mod dropin;
mod files;
mod host;
pub(super) mod mentions;
mod podman;
mod registries;
mod syntax;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Peer};
use super::{CliError, one_line, print, print_json};
use crate::limits::REGISTRIES_MAX;
use block::BlockError;
pub(super) use files::FileError;
use files::{Action, Edit};
use host::RegistryHost;
use registries::NoStatus;
use syntax::Syntax;

/// Where containerd looks.
pub(super) const CERTS_DIR: &str = "/etc/containerd/certs.d";
/// Where podman, skopeo and buildah look.
pub(super) const CONF_DIR: &str = "/etc/containers/registries.conf.d";

/// Whose configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Runtime {
    /// containerd: a hosts.toml for each registry
    Containerd {
        #[command(flatten)]
        selection: Selection,
        /// Its directory of registries, the CRI plugin's `config_path`
        #[arg(long, value_name = "DIR", default_value = CERTS_DIR)]
        certs_dir: PathBuf,
    },
    /// podman, skopeo and buildah: one drop-in for all registries
    Podman {
        #[command(flatten)]
        selection: Selection,
        /// Its directory of drop-ins for registries.conf
        #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
        conf_dir: PathBuf,
    },
}

/// Which registries, and whether to do it.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// For these [default: install: those of the node, uninstall: wherever it is installed]
    #[arg(long = "registry", value_name = "HOST[:PORT]", num_args = 1.., conflicts_with = "all")]
    registries: Vec<RegistryHost>,
    /// For all: containerd's by `_default`, podman's that the node knows; uninstall: wherever
    #[arg(long)]
    all: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Why the configuration stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}; or name the registries with --registry")]
    Node(#[from] NoStatus),
    #[error("{0} does not say its registries: name them with --registry")]
    Silent(Peer),
    #[error("{0} is configured for no registry: name some with --registry")]
    Unconfigured(Peer),
    #[error("these are more than {REGISTRIES_MAX} registries")]
    TooMany,
    #[error("podman cannot name a mirror by an IPv6 address: name {0} otherwise with --node-url")]
    NodeAddress(String),
    #[error("{path} {source}")]
    Hosts { path: PathBuf, source: BlockError },
    #[error("{path} would make containerd ignore {found}: name it in a {path} of your own first")]
    Certificates { path: PathBuf, found: PathBuf },
    #[error("{path} is {source}")]
    Toml { path: PathBuf, source: Syntax },
    #[error("{0} was edited, or not written by Xylem, and is left as it is: see to it by hand")]
    EditedDropin(PathBuf),
    #[error("{path} has a registry {host} that would be overridden: add the mirror to it by hand")]
    Overrides { path: PathBuf, host: RegistryHost, mirror: String },
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    edits: Vec<Edit>,
    /// What the user should know.
    notes: Vec<String>,
    /// What is left as it is while the rest is done.
    refusals: Vec<InstallError>,
}

/// Puts the node into a runtime's configuration.
pub(super) async fn install(
    client: &Client,
    node: &Peer,
    runtime: Runtime,
    json: bool,
) -> Result<(), CliError> {
    let selection = runtime.selection();
    selection.check()?;
    let plan = match &runtime {
        Runtime::Containerd { selection: Selection { all: true, .. }, certs_dir } => {
            let mut plan = containerd::install_all(certs_dir, node.endpoint())?;
            plan.notes.extend(registries::notes_on_all(client, node).await);
            plan
        }
        Runtime::Containerd { certs_dir, .. } => {
            let chosen = registries::choose(client, node, selection).await?;
            let plan = containerd::install(certs_dir, &chosen.registries, node.endpoint())?;
            noted(plan, chosen.notes)
        }
        Runtime::Podman { conf_dir, .. } => {
            let chosen = registries::choose(client, node, selection).await?;
            match podman::install(conf_dir, &chosen.registries, node.endpoint()) {
                Err(InstallError::Overrides { path, host, mirror }) => {
                    if !json {
                        print(&mirror)?;
                    }
                    return Err(InstallError::Overrides { path, host, mirror }.into());
                }
                plan => noted(plan?, chosen.notes),
            }
        }
    };
    carry_out(plan, selection.dry_run, json)
}

/// Takes the node out of a runtime's configuration.
pub(super) fn uninstall(runtime: &Runtime, json: bool) -> Result<(), CliError> {
    let selection = runtime.selection();
    selection.check()?;
    let plan = match runtime {
        Runtime::Containerd { certs_dir, .. } => {
            containerd::uninstall(certs_dir, &selection.registries)?
        }
        Runtime::Podman { conf_dir, .. } => podman::uninstall(conf_dir, &selection.registries)?,
    };
    carry_out(plan, selection.dry_run, json)
}

impl Runtime {
    fn selection(&self) -> &Selection {
        match self {
            Self::Containerd { selection, .. } | Self::Podman { selection, .. } => selection,
        }
    }
}

impl Selection {
    fn check(&self) -> Result<(), InstallError> {
        if self.registries.len() > REGISTRIES_MAX as usize {
            return Err(InstallError::TooMany);
        }
        Ok(())
    }
}

fn noted(plan: Plan, notes: Vec<String>) -> Plan {
    Plan { notes: notes.into_iter().chain(plan.notes).collect(), ..plan }
}

/// Does it, or shows it only. What was done before something failed is shown as well.
fn carry_out(plan: Plan, dry_run: bool, json: bool) -> Result<(), CliError> {
    for note in &plan.notes {
        eprintln!("xylem: {note}");
    }
    let mut done = Vec::new();
    let mut failed = None;
    for edit in &plan.edits {
        if let Some(error) = (!dry_run).then(|| edit.apply().err()).flatten() {
            failed = Some(error);
            break;
        }
        done.push(edit);
    }
    if !dry_run {
        files::tidy(done.iter().copied());
    }
    if json {
        let changes: Vec<_> = done.iter().map(|edit| change(&edit.path, edit.action())).collect();
        print_json(&json!({ "changes": changes }))?;
    } else {
        let diff: String = done.iter().map(|edit| diff::unified(edit)).collect();
        let same = diff.is_empty() && failed.is_none() && plan.refusals.is_empty();
        print(if same { "nothing to change\n" } else { &diff })?;
    }
    let refusals = plan.refusals.into_iter().map(CliError::from);
    let mut errors = refusals.chain(failed.map(|error| InstallError::from(error).into()));
    let Some(mut last) = errors.next() else { return Ok(()) };
    for error in errors {
        eprintln!("xylem: {}", one_line(&last));
        last = error;
    }
    Err(last)
}

fn change(path: &Path, action: Action) -> Value {
    json!({ "path": path.to_string_lossy(), "action": action })
}
