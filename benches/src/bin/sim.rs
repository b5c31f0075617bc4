//! Runs seeds of the simulator and says how to run again the one that failed.

use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::Parser;
use xylem_benches::sim::plan::{Plan, SECOND_NS};
use xylem_benches::sim::{Report, run};

/// Simulate trees of relays under virtual time, with misfortunes drawn from a seed.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Run the seeds from 0 up to this number
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// Run this seed only, and print its plan
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// One line for each seed
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = arguments.seed.map_or(0..arguments.seeds, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let began = std::time::Instant::now();
    let mut all = Report::default();
    for seed in seeds {
        let plan = Plan::new(seed);
        if arguments.seed.is_some() {
            println!("{plan:#?}");
        }
        let Ok(report) = catch_unwind(|| run(plan)) else {
            eprintln!("seed {seed} failed; again: cargo xtask sim --seed {seed}");
            return ExitCode::FAILURE;
        };
        if arguments.verbose || arguments.seed.is_some() {
            println!("seed {seed}: {}", line(&report));
        }
        add(&mut all, &report);
    }
    println!("{count} seeds in {:.1} s: {}", began.elapsed().as_secs_f64(), line(&all));
    ExitCode::SUCCESS
}

fn line(report: &Report) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "{} nodes ({} died), {} MiB of blobs, {} MiB received ({} MiB from the registry), \
         {} clients served, {} failovers, {} mismatches, {} detached, \
         {} s of virtual time, {} steps",
        report.nodes,
        report.died,
        mib(report.blob_bytes),
        mib(report.received_bytes),
        mib(report.registry_bytes),
        report.clients,
        report.failovers,
        report.mismatches,
        report.detached,
        report.time_ns / SECOND_NS,
        report.items,
    )
}

fn add(all: &mut Report, one: &Report) {
    all.nodes += one.nodes;
    all.died += one.died;
    all.time_ns += one.time_ns;
    all.items += one.items;
    all.received_bytes += one.received_bytes;
    all.registry_bytes += one.registry_bytes;
    all.blob_bytes += one.blob_bytes;
    all.detached += one.detached;
    all.failovers += one.failovers;
    all.mismatches += one.mismatches;
    all.clients += one.clients;
}
