//! The simulators' command line: seeds of misfortune for few relays, or a scenario for thousands.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use std::{fs, io};

use anyhow::{Context, Result};
use clap::Parser;
use clap::error::ErrorKind;
use xylem_benches::scale::{self, Profile, Rate, Scenario, Shape, Size, plot, report};
use xylem_benches::sim::plan::{Plan, SECOND_NS};
use xylem_benches::sim::{Report, run};

/// Simulate relays and trees under virtual time.
///
/// With --seeds or --seed alone: few relays, and misfortunes drawn from a seed. With any other
/// option: one blob to many nodes at once, as in
/// `--nodes 1000 --size 758MB --rate 1gbit --shape twin --json`.
///
/// Exit status: 0 done, 1 a fault was found, 2 misuse.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim", max_term_width = 100)]
struct Arguments {
    /// Run the seeds from 0 up to this number [default: 200]
    #[arg(long, value_name = "N", conflicts_with = "seed")]
    seeds: Option<u64>,
    /// Run this seed only, and print its plan; at scale, what chance is drawn from [default: 1]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// One line for each seed
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    at_scale: AtScale,
}

#[derive(Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "At scale")]
#[group(conflicts_with_all = ["seeds", "verbose"])]
struct AtScale {
    /// Play the scenario of this file; other options go before what it says
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How many nodes ask at once; may be several numbers [default: 1000]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    nodes: Option<Vec<u32>>,
    /// Of the blob, as in 758MB or 1GiB [default: 758MB]
    #[arg(long)]
    size: Option<Size>,
    /// Of each node's link and the registry's, as in 500mbit [default: 1gbit]
    #[arg(long)]
    rate: Option<Rate>,
    /// Of the registry's link, where it is another
    #[arg(long, value_name = "RATE")]
    registry_rate: Option<Rate>,
    /// How nodes get the blob from each other, may be several: twin, ft, chain, registry, or mesh,
    /// a model of a mesh that stores and forwards pieces [default: twin]
    #[arg(long, value_name = "SHAPE,…", value_delimiter = ',')]
    shape: Option<Vec<Shape>>,
    /// Print one line of JSON for each run
    #[arg(long)]
    json: bool,
    /// Write the figures to this file as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw into this file when how many nodes have the blob, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            error.exit();
        }
        // One line: usage and advice follow it.
        Err(error) => return misuse(error.to_string().lines().next().unwrap_or_default()),
    };
    if arguments.at_scale == AtScale::default() {
        return seeds(&arguments);
    }
    let scenario = match scenario(&arguments) {
        Ok(scenario) => scenario,
        Err(error) => return misuse(&format!("error: {error:#}")),
    };
    match play(&scenario, &arguments.at_scale) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn misuse(line: &str) -> ExitCode {
    eprintln!("{line}");
    ExitCode::from(2)
}

/// What the file says, and what the command line says before it.
fn scenario(arguments: &Arguments) -> Result<Scenario> {
    let given = &arguments.at_scale;
    let mut scenario = match &given.scenario {
        None => Scenario::default(),
        Some(path) => read(path).with_context(|| format!("scenario {}", path.display()))?,
    };
    fn set<T: Clone>(place: &mut T, value: Option<&T>) {
        if let Some(value) = value {
            place.clone_from(value);
        }
    }
    scenario.nodes = given.nodes.clone().or(scenario.nodes);
    set(&mut scenario.shapes, given.shape.as_ref());
    set(&mut scenario.size, given.size.as_ref());
    set(&mut scenario.rate, given.rate.as_ref());
    set(&mut scenario.seed, arguments.seed.as_ref());
    scenario.registry_rate = given.registry_rate.or(scenario.registry_rate);
    scenario.check()?;
    Ok(scenario)
}

fn read(path: &Path) -> Result<Scenario> {
    let mut scenario = Scenario::parse(&fs::read_to_string(path)?)?;
    if let Some(named) = &scenario.profile {
        let beside = path.with_file_name(&named.file);
        let text = fs::read_to_string(&beside)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(Profile::parse(&text, named)?));
        scenario.load = Some(text.with_context(|| format!("profile {}", beside.display()))?);
    }
    Ok(scenario)
}

fn play(scenario: &Scenario, given: &AtScale) -> Result<()> {
    let began = Instant::now();
    let outcomes = catch_unwind(|| scale::run_all(&scenario.runs()));
    let outcomes =
        outcomes.ok().context("a fault, told above: in the code or in its simulation")?;
    if given.json {
        for outcome in &outcomes {
            println!("{}", report::Figures::of(outcome).json());
        }
    } else {
        print!("{}", report::table(&scenario.name, &outcomes));
    }
    if let Some(path) = &given.csv {
        write(path, &report::csv(&outcomes))?;
    }
    if let Some(path) = &given.svg {
        write(path, &plot::svg(&scenario.name, &outcomes))?;
    }
    let steps: u64 = outcomes.iter().map(|outcome| outcome.steps).sum();
    let (count, wall_s) = (outcomes.len(), began.elapsed().as_secs_f64());
    eprintln!("runs: {count}; steps: {steps}; simulated in {wall_s:.1} s");
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written: io::Result<()> = fs::write(path, text);
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The other simulator: runs seeds, and says how to run again the one that failed.
fn seeds(arguments: &Arguments) -> ExitCode {
    let count = arguments.seeds.unwrap_or(200);
    let seeds = arguments.seed.map_or(0..count, |seed| seed..seed.saturating_add(1));
    let count = seeds.end - seeds.start;
    let began = Instant::now();
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
