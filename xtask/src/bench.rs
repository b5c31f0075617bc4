//! `cargo xtask bench`: builds the daemon and the rivals in release and hands over to their
//! harness, which has the lab, the measuring and the tables.

mod all;
mod coldstart;
mod control;
pub(crate) mod guard;
mod machine;
mod outcome;
mod plot;
mod provision;
mod race;
mod report;
mod stats;
mod watch;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Subcommand};

use crate::build::Binaries;
use crate::image::{self, fixture};
use crate::{build, run, setup};

/// Data per run of a quick bench; too little for figures worth keeping.
const QUICK_SIZE: &str = "128MiB";
/// Share of the CPUs that others may have before a round of `hop` is dropped, in percent.
const FOREIGN: f64 = 2.0;
/// Rounds of a quick bench.
const QUICK_ROUNDS: u32 = 2;

/// What the pulls are made with.
const PULL_PACKAGES: &[&str] = &["iproute2", "docker-registry", "skopeo", "containerd"];
/// What is pulled: a small image and one of a few hundred megabytes.
const PULL_IMAGES: &[&str] = &["small", "default"];
/// What is pulled in a quick bench.
const PULL_QUICK: &[&str] = &["tiny"];

/// Measure our relay beside other ways to relay
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Count the instructions of the pure parts, and fail if a part has become dearer
    #[arg(long)]
    guard: bool,
    /// Take the counts of now for those to compare with
    #[arg(long, requires = "guard")]
    update: bool,
    #[command(subcommand)]
    what: Option<What>,
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
        /// [default: 2; quick: 100]
        #[arg(long)]
        foreign: Option<f64>,
        /// 1, 2 and 4 readers, a slow one, no segmentation by the card, other ways to send
        #[arg(long)]
        variants: bool,
        #[command(flatten)]
        common: Common,
    },
    /// First byte per hop: a chain of three relays, links of 1 Gbit/s
    Latency {
        #[command(flatten)]
        common: Common,
    },
    /// Control alone: joins, answers, memory and repair with thousands of agents on real streams
    Control(control::Options),
    /// Pulls of unmodified clients through a cold node on their machine, beside the same without
    Pull {
        /// tiny, small, big, default, or an OCI layout; may be repeated [default: small and the
        /// demo's image]
        #[arg(long = "image", value_name = "IMAGE")]
        images: Vec<String>,
        /// Shape the link between registry and node, as in 1gbit
        #[arg(long)]
        rate: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// The same data to many nodes at once, beside what a user would take instead
    Provision(provision::Args),
    /// From nothing to the first output of a function in a container, on many nodes at once
    Coldstart(coldstart::Args),
    /// Every bench that compares us with others, one after the other
    All(all::Args),
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// Rounds to measure [default: 9 for latency, else 5]
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
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut arguments = Vec::new();
    let Some(what) = &args.what else { return guard::run(args.update) };
    match what {
        What::Control(options) => return control::run(options),
        What::Hop { size, only, foreign, variants, common } => {
            arguments.push("hop".to_owned());
            let foreign_max = if common.quick { 100.0 } else { FOREIGN };
            arguments.push(format!("--foreign={}", foreign.unwrap_or(foreign_max)));
            let quick = common.quick.then(|| QUICK_SIZE.to_owned());
            if let Some(size) = size.clone().or(quick) {
                arguments.push(format!("--size={size}"));
            }
            if let Some(only) = only {
                arguments.push(format!("--only={only}"));
            }
            arguments.extend(common.arguments()?);
            arguments.extend(variants.then(|| "--variants".to_owned()));
            let rivals = if *variants { "ethtool" } else { "mbuffer" };
            setup::debian_packages(&[rivals, "iproute2"])?;
        }
        What::Latency { common } => {
            arguments.push("latency".to_owned());
            arguments.extend(common.arguments()?);
            setup::debian_packages(&["iproute2"])?;
        }
        What::Pull { images, rate, common } => {
            arguments.push("pull".to_owned());
            arguments.extend(common.arguments()?);
            arguments.extend(rate.iter().map(|rate| format!("--rate={rate}")));
            setup::debian_packages(PULL_PACKAGES)?;
            let default = if common.quick { PULL_QUICK } else { PULL_IMAGES };
            let default: Vec<String> = default.iter().map(|&name| name.to_owned()).collect();
            for image in if images.is_empty() { &default } else { images } {
                arguments.push(format!("--image={}", named_layout(image)?));
            }
        }
        What::Provision(args) => return provision::run(args),
        What::Coldstart(args) => return coldstart::run(args),
        What::All(args) => return all::run(args),
    }
    let built = build()?;
    // The harness takes our place, so that Ctrl-C reaches it alone and it can clean up.
    let error = Command::new(built.join("bench-harness")).args(arguments).exec();
    Err(error).context("cannot start the bench's harness")
}

/// An image as the harness takes it: a name for its repository, and where its layout is.
fn named_layout(image: &str) -> Result<String> {
    let layout = image_layout(image)?;
    let name = if layout == Path::new(image) { "given" } else { image };
    Ok(format!("{name}={}", layout.display()))
}

/// The layout of an image that goes by a name, or that is named by its layout.
fn image_layout(image: &str) -> Result<PathBuf> {
    match image {
        "tiny" => fixture::cached(&fixture::TINY),
        "small" => fixture::cached(&fixture::SMALL),
        "big" => fixture::cached(&fixture::BIG),
        "default" => image::cached(image::default_size()),
        other => Ok(PathBuf::from(other)),
    }
}

/// What `bench provision` needs of ours: the programs of the product, and the model.
fn provision_programs() -> Result<(Binaries, PathBuf)> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "xylem-benches"]);
    run::show(cargo.args(["--bin", "rival-forward"]))?;
    Ok((build::all(true)?, run::target_dir()?.join("release/rival-forward")))
}

/// Builds what is measured and what measures; the directory it is in.
fn build() -> Result<PathBuf> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--quiet", "--release", "--bins"]);
    cargo.args(["--package", "xylem-benches", "--package", "xylem-dataplane"]);
    cargo.args(["--package", "xylem-control"]);
    run::show(&mut cargo)?;
    Ok(run::target_dir()?.join("release"))
}
