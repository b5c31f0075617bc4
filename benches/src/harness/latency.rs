//! `bench latency`: the first byte of a blob nobody holds yet, through chains of no, one, two and
//! three of our relays on shaped links; what a hop adds is the difference.

use crate::bytes;
use crate::gate::{SenderReady, SinkReport};
use crate::harness::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::lab::{Lab, Netns};
use crate::harness::machine::seconds;
use crate::harness::process::Process;
use crate::harness::stats::Spread;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// Relays in the longest chain.
const CHAIN: usize = 3;
/// Rate of every link in both directions, in bits per second.
const RATE_BIT_S: f64 = 1e9;
/// The same, as tc spells it.
const RATE: &str = "1gbit";
/// What a relay that forwards whole units would hold back, in bytes.
const UNIT_BYTES: f64 = 512.0 * 1024.0;
/// Median time that a hop may add, in milliseconds: the aim.
const HOP_MS_MAX: f64 = 0.4;
/// Port of the sender's registry.
const REGISTRY_PORT: u16 = 5000;

/// Options of `bench latency`.
#[derive(Debug, Args)]
pub struct Options {
    /// Blobs per length of chain
    #[arg(long, default_value_t = 9)]
    pub rounds: u32,
    /// Length of a blob
    #[arg(long, value_parser = bytes::parse, default_value = "16MiB")]
    pub size: u64,
    /// Write the results to this file as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Depth {
    relays: usize,
    first_byte_ms: Timing,
    whole_blob_ms: Timing,
}

#[derive(Debug, Serialize)]
struct Timing {
    median: f64,
    min: f64,
    max: f64,
    /// The first blob, for which relays still had to connect to each other; not among the others.
    cold: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    rounds: u32,
    rate_bit_s: f64,
    per_hop_ms: f64,
    store_and_forward_ms: f64,
    depths: Vec<Depth>,
}

/// A place to read from: the sender, or one of the relays in the chain.
struct Stop {
    /// Namespace of the reader.
    reader: Netns,
    /// What the reader connects to.
    address: SocketAddr,
}

struct Chain {
    stops: Vec<Stop>,
    /// Kept for their end: daemons first, then the registry.
    daemons: Vec<Daemon>,
    blobs: Vec<String>,
    _registry: Process,
}

fn start_registry(
    bench: &Bench,
    netns: &Netns,
    blobs: u32,
    size: u64,
) -> Result<(Process, Vec<String>)> {
    let mut command = Command::new(bench.program("bench-sender"));
    command.args(["--listen", &format!("0.0.0.0:{REGISTRY_PORT}")]);
    command.args(["--size", &size.to_string(), "--blobs", &blobs.to_string()]);
    let mut registry = Process::start(command, netns)?;
    let ready: SenderReady = serde_json::from_str(&registry.line()?)?;
    Ok((registry, ready.blobs))
}

impl Chain {
    fn new(bench: &Bench, lab: &mut Lab, options: &Options) -> Result<Self> {
        let mut node = lab.netns("n0")?;
        let blobs = (options.rounds + 1) * u32::try_from(CHAIN + 1)?;
        let (registry, blobs) = start_registry(bench, &node, blobs, options.size)?;
        let mut chain = Self { stops: Vec::new(), daemons: Vec::new(), blobs, _registry: registry };
        for depth in 0..=CHAIN {
            let reader = lab.netns(&format!("k{depth}"))?;
            let (here, _) = lab.link(&node, &reader, Some(RATE))?;
            let port = if depth == 0 { REGISTRY_PORT } else { Daemon::at(here).port() };
            chain.stops.push(Stop { reader, address: (here, port).into() });
            if depth < CHAIN {
                let next = lab.netns(&format!("n{}", depth + 1))?;
                let (here, _) = lab.link(&node, &next, Some(RATE))?;
                let name = format!("n{}", depth + 1);
                // In a tree nodes vouch for their readers; a chain of strangers would ask upwards
                // about each blob that no manifest has named.
                let open = ["--access", "open"];
                let daemon = Daemon::start(bench, &next, &name, (here, port).into(), &open)?;
                chain.daemons.push(daemon);
                node = next;
            }
        }
        Ok(chain)
    }

    /// Reads one blob at a stop: first byte and last byte after the request, in milliseconds.
    fn read(&self, bench: &Bench, stop: &Stop, digest: &str) -> Result<(f64, f64)> {
        let mut command = Command::new(bench.program("bench-sink"));
        command.args(["--connect", &stop.address.to_string()]);
        command.args(["--get", &format!("/v2/bench/blobs/{digest}"), "--gate"]);
        let mut sink = Process::start(command, &stop.reader)?;
        sink.expect("ready")?;
        sink.go()?;
        let report: SinkReport = serde_json::from_str(&sink.line()?)?;
        sink.finish()?;
        for daemon in self.daemons.iter().take(self.depth_of(stop)) {
            daemon.committed(digest)?;
        }
        let since = |ns: u64| seconds(ns - report.start_ns) * 1e3;
        Ok((since(report.first_byte_ns), since(report.end_ns)))
    }

    /// Relays between the sender and a stop.
    fn depth_of(&self, stop: &Stop) -> usize {
        self.stops.iter().position(|known| known.address == stop.address).unwrap_or(0)
    }
}

fn timing(values: &[f64]) -> Result<Timing> {
    let (cold, warm) = values.split_first().context("nothing was read")?;
    let Spread { median, min, max } =
        Spread::of(warm.iter().copied()).context("only one blob was read")?;
    Ok(Timing { median, min, max, cold: *cold })
}

/// Measures, prints, and writes the JSON.
///
/// # Errors
/// No daemon, no privilege, or a relay that fails.
pub fn run(bench: &Bench, options: &Options) -> Result<()> {
    let xylemd = bench.xylemd();
    ensure!(xylemd.exists(), "{} is not there: build it first", xylemd.display());
    ensure!(options.rounds > 0, "no rounds to measure");
    let mut lab = Lab::new()?;
    let chain = Chain::new(bench, &mut lab, options)?;
    let mut first: [Vec<f64>; CHAIN + 1] = Default::default();
    let mut whole: [Vec<f64>; CHAIN + 1] = Default::default();
    let mut blobs = chain.blobs.iter();
    for _ in 0..=options.rounds {
        for (depth, stop) in chain.stops.iter().enumerate() {
            bench.go_on()?;
            let digest = blobs.next().context("too few blobs")?;
            let (first_ms, whole_ms) = chain.read(bench, stop, digest)?;
            first[depth].push(first_ms);
            whole[depth].push(whole_ms);
        }
    }
    let depths = (0..=CHAIN)
        .map(|relays| {
            let (first_byte_ms, whole_blob_ms) = (timing(&first[relays])?, timing(&whole[relays])?);
            Ok(Depth { relays, first_byte_ms, whole_blob_ms })
        })
        .collect::<Result<Vec<_>>>()?;
    let added = depths[CHAIN].first_byte_ms.median - depths[0].first_byte_ms.median;
    let results = Results {
        rounds: options.rounds,
        rate_bit_s: RATE_BIT_S,
        per_hop_ms: added / CHAIN as f64,
        store_and_forward_ms: UNIT_BYTES * 8.0 / RATE_BIT_S * 1e3,
        depths,
    };
    print(&results, options.size);
    for daemon in chain.daemons {
        daemon.stop()?;
    }
    let Some(path) = &options.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(&results)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn print(results: &Results, size_bytes: u64) {
    println!("blobs of {} MiB, links of {RATE}, {} rounds", size_bytes >> 20, results.rounds);
    println!(
        "{:<8} {:>28} {:>8} {:>16}",
        "relays", "first byte ms (min-max)", "cold", "whole blob ms"
    );
    for depth in &results.depths {
        let Timing { median, min, max, cold } = &depth.first_byte_ms;
        let spread = format!("{median:.2} ({min:.2}-{max:.2})");
        let whole = depth.whole_blob_ms.median;
        println!("{:<8} {spread:>28} {cold:>8.2} {whole:>16.1}", depth.relays);
    }
    let verdict = if results.per_hop_ms <= HOP_MS_MAX { "met" } else { "NOT met" };
    println!("{verdict:<8} per hop {:.2} ms, limit {HOP_MS_MAX} ms", results.per_hop_ms);
    println!(
        "store-and-forward of a unit would add {:.2} ms (computed)",
        results.store_and_forward_ms
    );
}
