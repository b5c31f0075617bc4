//! The command line of the harness; `cargo xtask bench` builds everything and then becomes this.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use xylem_benches::harness::{Bench, hop, latency, pull};

/// Measure relays in a lab of network namespaces
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct Places {
    /// Directory for the files that relays write; on the disk that is to be measured
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// The daemon to measure
    #[arg(long, global = true)]
    xylemd: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// CPU, speed and memory of relaying to two readers and a file
    Hop(hop::Options),
    /// First byte per hop through a chain of relays at 1 Gbit/s
    Latency(latency::Options),
    /// Unmodified clients through a node on their machine, beside the same straight at the registry
    Pull(pull::Options),
}

fn run(arguments: Arguments) -> Result<()> {
    let bench = Bench::new(arguments.places.dir, arguments.places.xylemd)?;
    match &arguments.what {
        What::Hop(options) => hop::run(&bench, options),
        What::Latency(options) => latency::run(&bench, options),
        What::Pull(options) => pull::run(&bench, options),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
