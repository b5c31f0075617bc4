//! `cargo xtask bench`: builds the daemon and the rivals in release and hands over to their
//! harness, which has the lab, the measuring and the tables.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Data per run of a quick bench; too little for figures worth keeping.
const QUICK_SIZE: &str = "128MiB";
/// Rounds of a quick bench.
const QUICK_ROUNDS: u32 = 2;

/// Measure our relay beside other ways to relay
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// CPU, speed and memory: one sender, one relay with a file, two readers, unshaped
    Hop {
        /// Data per run [default: 1GiB]
        #[arg(long)]
        size: Option<String>,
        /// Only these variants, separated by commas
        #[arg(long)]
        only: Option<String>,
        /// Drop rounds in which other processes took more than this share of the CPUs, in percent
        #[arg(long, default_value_t = 2.0)]
        foreign: f64,
        #[command(flatten)]
        common: Common,
    },
    /// First byte per hop: a chain of three relays, links of 1 Gbit/s
    Latency {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// Rounds to measure [default: 5 for hop, 9 for latency]
    #[arg(long)]
    rounds: Option<u32>,
    /// A few small rounds: shows that everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory for what relays write, on the disk to be measured [default: in the target
    /// directory]
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Common {
    /// The same for the harness.
    fn arguments(&self) -> Result<Vec<String>> {
        let mut arguments = Vec::new();
        let quick = self.quick.then_some(QUICK_ROUNDS);
        if let Some(rounds) = self.rounds.or(quick) {
            arguments.push(format!("--rounds={rounds}"));
        }
        for (name, path) in [("json", &self.json), ("dir", &self.dir)] {
            if let Some(path) = path {
                let path = path.to_str().context("path is not text")?;
                arguments.push(format!("--{name}={path}"));
            }
        }
        Ok(arguments)
    }
}

/// Builds, then becomes the harness; returns only on failure.
///
/// # Errors
/// A build that fails, or a missing tool that cannot be installed.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut arguments = Vec::new();
    match &args.what {
        What::Hop { size, only, foreign, common } => {
            arguments.push("hop".to_owned());
            arguments.push(format!("--foreign={foreign}"));
            let quick = common.quick.then(|| QUICK_SIZE.to_owned());
            if let Some(size) = size.clone().or(quick) {
                arguments.push(format!("--size={size}"));
            }
            if let Some(only) = only {
                arguments.push(format!("--only={only}"));
            }
            arguments.extend(common.arguments()?);
            install("mbuffer", "mbuffer")?;
        }
        What::Latency { common } => {
            arguments.push("latency".to_owned());
            arguments.extend(common.arguments()?);
        }
    }
    install("ip", "iproute2")?;
    let built = build()?;
    // The harness takes our place, so that Ctrl-C reaches it alone and it can clean up.
    let error = Command::new(built.join("bench-harness")).args(arguments).exec();
    Err(error).context("cannot start the bench's harness")
}

/// Builds what is measured and what measures; the directory it is in.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.args(["build", "--quiet", "--release"]);
    command.args(["--package", "xylem-benches", "--package", "xylem-dataplane", "--bins"]);
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the build failed");
    let output = Command::new(&cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let target =
        metadata["target_directory"].as_str().context("cargo names no target directory")?;
    Ok(PathBuf::from(target).join("release"))
}

/// Installs a Debian package when its program is not there.
fn install(program: &str, package: &str) -> Result<()> {
    let silent = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    // Whether the program likes its argument is of no interest, only whether it starts.
    if silent(Command::new(program).arg("--version")).is_ok() {
        return Ok(());
    }
    eprintln!("installing the Debian package {package}");
    let status = Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("{program} is missing and could not be installed: apt-get install {package}"),
    }
}
