//! Control alone: thousands of simulated agents on real gRPC streams against one real control
//! process on one core. Moves no image.
//!
//! One round, each time with a control process of its own:
//!
//! 1. *burst*: all agents connect, say hello and ask for an image at once, as after a restart of
//!    everything; until the last has its place.
//! 2. *join*: all but some ask for a second image at once; until the last has its place.
//! 3. *latency*: those who are left ask one after the other, while all others send heartbeats.
//! 4. *steady*: what control costs while nothing happens but heartbeats, and with hop reports.
//! 5. *slow link*: one agent's hops become slow; until its children have been told other parents.
//! 6. *loss*: the streams of a third break off at once; until the rest has whole trees again.
//!
//! After each change of the trees, what agents were told last is compared with what control shows.

mod agent;
mod check;
mod crowd;
mod hops;
mod process;
mod report;
mod round;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use report::Row;
use round::{Plan, Streams};

/// Agents where nothing else is asked for.
const NODES: [u32; 2] = [1_000, 10_000];
/// The same for a quick run.
const NODES_QUICK: [u32; 1] = [500];
/// Most agents: as many as control knows, and as an ordinary limit of open files allows.
const NODES_MAX: u32 = 16_000;
/// Fewest agents: a third of them, and a tree of some depth, must be left.
const NODES_MIN: u32 = 60;

/// What `bench control` can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Agents, separated by commas [default: 1000,10000]
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<u32>,
    /// Rounds for each number of agents
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// One small round: shows that everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The control process to measure
    #[arg(long, value_name = "PROGRAM")]
    control: Option<PathBuf>,
    /// The core that control may use
    #[arg(long, default_value_t = 0)]
    core: u32,
}

/// Runs all rounds and prints the table.
///
/// # Errors
/// A control process that does not start, an agent that is refused or not answered, trees that are
/// not what agents were told.
pub fn run(options: &Options) -> Result<()> {
    let control = match &options.control {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("xylem-control"),
    };
    let counts: &[u32] = match (options.nodes.as_slice(), options.quick) {
        ([], true) => &NODES_QUICK,
        ([], false) => &NODES,
        (nodes, _) => nodes,
    };
    for count in counts {
        let fits = (NODES_MIN..=NODES_MAX).contains(count);
        ensure!(fits, "--nodes {count}: from {NODES_MIN} to {NODES_MAX} can be simulated");
    }
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for &nodes in counts {
        for streams in [Streams::Own, Streams::Shared] {
            let plan = Plan { nodes, streams, core: options.core, quick: options.quick };
            let mut measured = Vec::new();
            for round in 1..=rounds {
                eprintln!("{nodes} agents, {}: round {round} of {rounds}", streams.name());
                let figures = runtime.block_on(round::run(&control, plan));
                measured.push(figures.with_context(|| format!("round {round} of {nodes}"))?);
            }
            rows.push(Row::of(nodes, streams.name(), measured));
        }
    }
    report::print(&rows);
    if let Some(path) = &options.json {
        report::write(path, &rows)?;
    }
    Ok(())
}
