//! The command line `xylem`: what was typed, and which command that means. Results on stdout, the
//! rest on stderr.

mod authorize;
mod client;
mod doctor;
mod explain;
mod hops;
mod install;
mod layout;
mod login;
mod plan;
mod preheat;
mod pull;
mod status;
mod table;
mod trees;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xylem_protocol::names::Reference;

use authorize::AuthorizeError;
use client::{Client, ClientError, Endpoint, Peer};
use install::{InstallError, Runtime};
use layout::LayoutError;
use login::LoginError;
use plan::PlanError;

use crate::state::Selector;

/// Pull container images through a node, and look at trees, hops and nodes.
///
/// Exit status: 0 done, 1 not done, 2 misuse.
#[derive(Debug, Parser)]
#[command(name = "xylem", version)]
struct Arguments {
    /// The node to talk to [default: http://127.0.0.1:4400]
    #[arg(long, global = true, value_name = "URL", env = "XYLEM_NODE")]
    node_url: Option<Endpoint>,
    /// The control to talk to
    #[arg(long, global = true, value_name = "URL", env = "XYLEM_CONTROL")]
    #[arg(default_value = "http://127.0.0.1:4440")]
    control: Endpoint,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pull an image into the node's store
    Pull {
        /// What to pull; without tag or digest: latest
        #[arg(value_name = "REGISTRY/NAME[:TAG|@DIGEST]")]
        image: Reference,
        /// Then write the image there, as an OCI layout
        #[arg(long, value_name = "oci:DIR", value_parser = layout_directory)]
        output: Option<PathBuf>,
        /// For which platform [default: this machine's]
        #[arg(long, value_name = "OS/ARCH", value_parser = platform)]
        platform: Option<String>,
        #[command(flatten)]
        login: login::Options,
    },
    /// Tell where each blob of an image came from in its last pull on the node, and how fast
    Explain {
        /// Which image: as it was pulled, or the digest of its manifest
        #[arg(value_name = "REGISTRY/NAME[:TAG|@DIGEST]|DIGEST")]
        image: explain::Image,
    },
    /// Have nodes pull an image into their stores, through control
    Preheat {
        /// What to pull; without tag or digest: latest
        #[arg(value_name = "REGISTRY/NAME[:TAG|@DIGEST]")]
        image: Reference,
        /// For which platform; may be repeated [default: each node's own]
        #[arg(long, value_name = "OS/ARCH", value_parser = platform)]
        platform: Vec<String>,
        /// Which nodes: all, zone=ZONE, or names separated by commas, with * and ?
        #[arg(long, value_name = "SELECTOR", default_value = "all")]
        nodes: Selector,
        /// Only start it
        #[arg(long)]
        detach: bool,
    },
    /// Draw the trees: who reads from whom
    Trees,
    /// List the hops: bytes, speed, round trips and what limits each
    Hops,
    /// List the nodes; with --node-url, or without control, the node itself
    Status,
    /// Check all that a pull needs, and say what to do about each failure
    Doctor {
        #[command(flatten)]
        directories: doctor::Directories,
    },
    /// Replay joins and leaves, or tell how long an image takes to many nodes; asks nobody
    Plan(plan::Order),
    /// Make a container runtime ask the node first
    Install {
        #[command(subcommand)]
        runtime: Runtime,
    },
    /// Make a container runtime what it was before `install`, byte for byte
    Uninstall {
        #[command(subcommand)]
        runtime: Runtime,
    },
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Authorize(#[from] AuthorizeError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{peer} could not pull {image}: {reason}")]
    Pull { peer: Peer, image: String, reason: String },
    #[error("{peer}: {reason}")]
    Unexplained { peer: Peer, reason: String },
    #[error("{lacking} of {of} nodes do not have it")]
    Preheat { lacking: usize, of: usize },
    #[error("{peer} has forgotten preheat {id}; was it restarted? the nodes go on pulling")]
    PreheatForgotten { peer: Peer, id: u64 },
    #[error("interrupted; the nodes go on pulling")]
    PreheatInterrupted,
    #[error("{failed} of {of} checks failed")]
    Unwell { failed: usize, of: usize },
    #[error("interrupted; the node goes on pulling")]
    Interrupted,
    #[error("cannot write to stdout")]
    Stdout(#[source] std::io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// Does what was typed.
pub fn main(typed: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(typed) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to stdout with 0, misuse to stderr with 2; a closed pipe is no reason to
            // fail.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xylem: {}", one_line(&error));
            let misuse =
                matches!(error, CliError::Install(InstallError::TooMany) | CliError::Plan(_));
            ExitCode::from(if misuse { 2 } else { 1 })
        }
    }
}

fn run(arguments: Arguments) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let Arguments { node_url, control, json, command } = arguments;
    let node_named = node_url.is_some();
    let node = Peer::node(node_url.unwrap_or_default());
    let control = Peer::control(control);
    runtime.block_on(async {
        let client = Client::new()?;
        match command {
            Command::Pull { image, output, platform, login } => {
                let order = pull::Order { image, output, platform, login };
                tokio::select! {
                    result = pull::run(&client, &node, order, json) => result,
                    _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
                }
            }
            Command::Explain { image } => explain::run(&client, &node, &image, json).await,
            Command::Preheat { image, platform, nodes, detach } => {
                let order = preheat::Order { image, platforms: platform, nodes, detach };
                tokio::select! {
                    result = preheat::run(&client, &control, order, json) => result,
                    _ = tokio::signal::ctrl_c() => Err(CliError::PreheatInterrupted),
                }
            }
            Command::Trees => trees::run(&client, &control, json).await,
            Command::Hops => hops::run(&client, &control, json).await,
            Command::Status => status::run(&client, &control, &node, node_named, json).await,
            Command::Doctor { directories } => {
                doctor::run(&client, &node, &directories, json).await
            }
            Command::Plan(order) => plan::run(&order, json),
            Command::Install { runtime } => install::install(&client, &node, runtime, json).await,
            Command::Uninstall { runtime } => install::uninstall(&runtime, json),
        }
    })
}

/// The error and its causes, which the chain of an HTTP client repeats more often than a reader
/// needs.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    if let Some(root) = causes.last().map(ToString::to_string).filter(|root| !text.contains(root)) {
        text.push_str(": ");
        text.push_str(&root);
    }
    text.replace(['\n', '\r'], " ")
}

/// Writes a result. Nobody reading on is not an error.
fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Stdout(error))
        }
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_string(value).map_err(|error| CliError::Stdout(error.into()))?;
    text.push('\n');
    print(&text)
}

fn layout_directory(text: &str) -> Result<PathBuf, &'static str> {
    match text.strip_prefix("oci:") {
        Some(directory) if !directory.is_empty() => Ok(directory.into()),
        _ => Err("must be oci:DIR"),
    }
}

fn platform(text: &str) -> Result<String, &'static str> {
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
    };
    let parts: Vec<_> = text.split('/').collect();
    let valid = (2..=3).contains(&parts.len()) && parts.into_iter().all(word) && text.len() <= 64;
    if valid { Ok(text.to_owned()) } else { Err("must be OS/ARCH, such as linux/amd64") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn platforms_and_layouts() {
        assert!(platform("linux/arm/v7").is_ok());
        for bad in ["linux", "linux/", "/amd64", "a/b/c/d", "linux/amd 64"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
        assert_eq!(layout_directory("oci:/tmp/x").unwrap(), PathBuf::from("/tmp/x"));
        assert!(layout_directory("/tmp/x").is_err() && layout_directory("oci:").is_err());
    }
}
