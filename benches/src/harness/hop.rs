//! `bench hop`: one sender, one relay, two readers; every relay and every floor once per round, in
//! an order that rotates, so that drift of the machine meets all of them alike.

use crate::bytes::{self, GIB, MIB};
use crate::gate::{SenderReady, SinkReport};
use crate::harness::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::lab::{Lab, Netns};
use crate::harness::machine::{Window, seconds};
use crate::harness::process::{Process, RssWatch, peak_rss_bytes};
use crate::harness::variants::{Route, Variant};
use crate::harness::{settings, table};
use crate::http;
use crate::sys::monotonic_ns;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Port of whatever is fed: a relay, or a sink that takes one connection.
const FEED_PORT: u16 = 7000;
/// Port of the sender's registry.
const REGISTRY_PORT: u16 = 5000;
/// Pool of the sender in the floors, in bytes: small, so that sending is as cheap as it can be.
const FLOOR_POOL_BYTES: u64 = 512 * bytes::KIB;
/// Length of the data in the pass that checks what every relay delivers; neither whole blocks nor
/// whole pages.
const CHECK_BYTES: u64 = 64 * MIB + 12_345;
/// Rounds that may be tried for each that is wanted, before the machine counts as too busy.
const TRIES_PER_ROUND: u32 = 3;
/// How long our relay may take to tell of what it has relayed, and how often it is asked.
const HOPS_MAX: Duration = Duration::from_secs(10);
const HOPS_PERIOD: Duration = Duration::from_millis(50);

/// Options of `bench hop`.
#[derive(Debug, Args)]
pub struct Options {
    /// Rounds to measure
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Data per run
    #[arg(long, value_parser = bytes::parse, default_value = "1GiB")]
    pub size: u64,
    /// Only these variants
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Variant>,
    /// Write the medians to this file as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Drop rounds in which other processes took more than this share of the CPUs, in percent
    #[arg(long, default_value_t = 2.0)]
    pub foreign: f64,
    /// Other numbers of readers, a slow one, no segmentation by the card, and other ways to send
    #[arg(long)]
    pub variants: bool,
}

/// Something that is measured once per round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One connection into a process that copies 512 KiB at a time.
    Receive,
    /// One connection out of a process, into a sink that copies nothing.
    Send,
    /// One preallocated file written with O_DIRECT.
    Write,
    /// A relay.
    Relay(Variant),
}

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// CPU-seconds of the process under test.
    pub cpu_s: f64,
    /// CPU-seconds of the whole machine.
    pub machine_cpu_s: f64,
    /// From the start to the moment the last reader had everything, in seconds.
    pub seconds: f64,
    /// The same of the first reader that had.
    pub fastest_s: f64,
    /// Peak resident memory of the process under test in bytes; 0 for floors.
    pub rss_bytes: u64,
    /// Share of the CPUs that went to other processes.
    pub foreign: f64,
    /// How long units stay in our relay, at half, 99 % and 99.9 % of them, in milliseconds; of the
    /// reader for which it is longest.
    pub residence_ms: Option<[f64; 3]>,
}

/// One round: a sample of each subject.
pub type Round = BTreeMap<Subject, Sample>;

/// Where relays are measured.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// How many read from the relay.
    pub readers: usize,
    /// The rate of the last reader's link, as `tc` writes it.
    pub slow: Option<&'static str>,
    /// Whether devices cut large packets up, as cards do; else TCP does.
    pub offload: bool,
    /// Whether readers of ours say that they are nodes: then it is measured how long units stay.
    pub named: bool,
}

/// That of the table which everything else is compared with.
const PLAIN: Place = Place { readers: 2, slow: None, offload: true, named: false };

/// A lab with a relay's place in it.
#[derive(Debug)]
pub struct Hop<'a> {
    bench: &'a Bench,
    nodes: Nodes,
    size: u64,
    /// Digest that sinks check; without it they drop what they get.
    verify: Option<String>,
    /// The sender's registry; it ends with this value.
    _registry: Process,
    digest: String,
    named: bool,
}

/// The namespaces and the addresses in them.
#[derive(Debug)]
struct Nodes {
    sender: Netns,
    relay: Netns,
    readers: Vec<ReaderNode>,
    /// The sender's end of its link.
    sender_at: Ipv4Addr,
    /// The relay's end of the same link.
    relay_at: Ipv4Addr,
}

/// A reader's namespace, and both ends of its link.
#[derive(Debug)]
struct ReaderNode {
    name: String,
    netns: Netns,
    relay_at: Ipv4Addr,
    at: Ipv4Addr,
}

impl Nodes {
    fn new(lab: &mut Lab, place: Place) -> Result<Self> {
        let (sender, relay) = (lab.netns("s")?, lab.netns("r")?);
        let (sender_at, relay_at) = lab.link(&sender, &relay, None)?;
        let mut readers = Vec::new();
        for number in 1..=place.readers {
            let name = format!("a{number}");
            let netns = lab.netns(&name)?;
            let rate = place.slow.filter(|_| number == place.readers);
            let (relay_at, at) = lab.link(&relay, &netns, rate)?;
            readers.push(ReaderNode { name, netns, relay_at, at });
        }
        if !place.offload {
            lab.stop_offload()?;
        }
        Ok(Self { sender, relay, readers, sender_at, relay_at })
    }
}

impl<'a> Hop<'a> {
    /// Makes the place, with a sender that has `size` bytes.
    ///
    /// # Errors
    /// No privilege, or a sender that does not start.
    pub fn new(bench: &'a Bench, lab: &mut Lab, place: Place, size: u64) -> Result<Self> {
        let nodes = Nodes::new(lab, place)?;
        let mut command = Command::new(bench.program("bench-sender"));
        let listen = SocketAddr::from((nodes.sender_at, REGISTRY_PORT));
        command.args(["--listen", &listen.to_string(), "--size", &size.to_string()]);
        let mut registry = Process::start(command, &nodes.sender)?;
        let ready: SenderReady = serde_json::from_str(&registry.line()?)?;
        let digest = ready.blobs.into_iter().next().context("a sender without blobs")?;
        let named = place.named;
        Ok(Self { bench, nodes, size, verify: None, _registry: registry, digest, named })
    }

    fn sink(&self, netns: &Netns, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(self.bench.program("bench-sink"));
        command.args(arguments).args(["--expect", &self.size.to_string()]);
        if let Some(digest) = &self.verify {
            command.args(["--verify", digest]);
        }
        let mut sink = Process::start(command, netns)?;
        sink.expect("ready")?;
        Ok(sink)
    }

    /// Starts a plain sender that is connected and waits at its gate.
    fn feed(&self, to: Ipv4Addr, pool: Option<u64>) -> Result<Process> {
        let mut command = Command::new(self.bench.program("bench-sender"));
        command.args(["--connect", &format!("{to}:{FEED_PORT}"), "--gate"]);
        command.args(["--size", &self.size.to_string()]);
        if let Some(pool) = pool {
            command.args(["--pool", &pool.to_string()]);
        }
        let mut sender = Process::start(command, &self.nodes.sender)?;
        sender.expect("ready")?;
        Ok(sender)
    }

    /// Measures, and does so again when others disturbed it: one disturbance need not cost a round.
    fn measure_quiet(&self, subject: Subject, foreign_max: f64) -> Result<Sample> {
        let sample = self.measure(subject)?;
        if sample.foreign <= foreign_max { Ok(sample) } else { self.measure(subject) }
    }

    fn measure(&self, subject: Subject) -> Result<Sample> {
        match subject {
            Subject::Receive => self.measure_link(true),
            Subject::Send => self.measure_link(false),
            Subject::Write => self.measure_write(),
            Subject::Relay(variant) if variant.ours() => self.measure_daemon(variant),
            Subject::Relay(variant) => self.measure_rival(variant),
        }
    }

    /// One connection from the sender to the relay's place; the receiver is judged, or the sender.
    fn measure_link(&self, judge_receiver: bool) -> Result<Sample> {
        let listen = format!("{}:{FEED_PORT}", self.nodes.relay_at);
        let copy: &[&str] = if judge_receiver { &["--copy"] } else { &[] };
        let mut sink = self.sink(&self.nodes.relay, &[&["--listen", &listen], copy].concat())?;
        let mut sender = self.feed(self.nodes.relay_at, Some(FLOOR_POOL_BYTES))?;
        let (sender_ns, sink_ns) = (sender.cpu_ns()?, sink.cpu_ns()?);
        let window = Window::open()?;
        let start_ns = monotonic_ns();
        sender.go()?;
        let report: SinkReport = serde_json::from_str(&sink.line()?)?;
        let (sent, received) = (sender.finish()?, sink.finish()?);
        let usage = window.close()?;
        let cpu_ns = match judge_receiver {
            true => received.cpu_ns.saturating_sub(sink_ns),
            false => sent.cpu_ns.saturating_sub(sender_ns),
        };
        Ok(Sample {
            cpu_s: seconds(cpu_ns),
            machine_cpu_s: usage.busy_s,
            seconds: seconds(report.end_ns - start_ns),
            fastest_s: seconds(report.end_ns - start_ns),
            rss_bytes: 0,
            foreign: usage.foreign,
            residence_ms: None,
        })
    }

    fn measure_write(&self) -> Result<Sample> {
        let file = self.bench.path("floor");
        let mut command = Command::new(self.bench.program("floor-write"));
        command.arg("--gate").arg("--file").arg(&file).args(["--size", &self.size.to_string()]);
        let mut writer = Process::start(command, &self.nodes.relay)?;
        writer.expect("ready")?;
        let before_ns = writer.cpu_ns()?;
        let window = Window::open()?;
        let start_ns = monotonic_ns();
        writer.go()?;
        let exit = writer.finish()?;
        let end_ns = monotonic_ns();
        settle(&file)?;
        let usage = window.close()?;
        self.take_file(&file)?;
        Ok(Sample {
            cpu_s: seconds(exit.cpu_ns.saturating_sub(before_ns)),
            machine_cpu_s: usage.busy_s,
            seconds: seconds(end_ns - start_ns),
            fastest_s: seconds(end_ns - start_ns),
            rss_bytes: 0,
            foreign: usage.foreign,
            residence_ms: None,
        })
    }

    fn measure_rival(&self, variant: Variant) -> Result<Sample> {
        let file = self.bench.path(variant.name());
        let readers = &self.nodes.readers;
        let to: Vec<_> =
            readers.iter().map(|reader| SocketAddr::from((reader.at, FEED_PORT))).collect();
        let listen = SocketAddr::from((self.nodes.relay_at, FEED_PORT));
        let route = Route { listen, to: &to, file: &file, size: self.size };
        let command = variant.command(self.bench, &route).context("not a rival")?;
        let sinks = readers.iter().zip(&to);
        let sinks = sinks.map(|(it, to)| self.sink(&it.netns, &["--listen", &to.to_string()]));
        let sinks = sinks.collect::<Result<Vec<_>>>()?;
        let mut relay = Process::start(command, &self.nodes.relay)?;
        if variant.says_ready() {
            relay.expect("ready")?;
        }
        let mut sender = self.feed(self.nodes.relay_at, None)?;
        let before_ns = relay.cpu_ns()?;
        let window = Window::open()?;
        let start_ns = monotonic_ns();
        sender.go()?;
        let watch = RssWatch::start(relay.pid());
        let (first_ns, end_ns) = self.collect(sinks)?;
        let exit = relay.finish()?;
        sender.finish()?;
        let rss_bytes = watch.stop()?;
        settle(&file)?;
        let usage = window.close()?;
        self.take_file(&file)?;
        Ok(Sample {
            cpu_s: seconds(exit.cpu_ns.saturating_sub(before_ns)),
            machine_cpu_s: usage.busy_s,
            seconds: seconds(end_ns - start_ns),
            fastest_s: seconds(first_ns - start_ns),
            rss_bytes,
            foreign: usage.foreign,
            residence_ms: None,
        })
    }

    fn measure_daemon(&self, variant: Variant) -> Result<Sample> {
        let upstream = SocketAddr::from((self.nodes.sender_at, REGISTRY_PORT));
        let arguments = variant.daemon_arguments();
        let daemon = Daemon::start(self.bench, &self.nodes.relay, "r", upstream, arguments)?;
        let path = format!("/v2/bench/blobs/{}", self.digest);
        let sink = |reader: &ReaderNode| {
            let to = Daemon::at(reader.relay_at).to_string();
            let mut arguments = vec!["--connect", &to, "--get", &path, "--gate"];
            if self.named {
                arguments.extend(["--node", &reader.name]);
            }
            self.sink(&reader.netns, &arguments)
        };
        let mut sinks = self.nodes.readers.iter().map(sink).collect::<Result<Vec<_>>>()?;
        let before_ns = daemon.process.cpu_ns()?;
        let window = Window::open()?;
        let start_ns = monotonic_ns();
        for sink in &mut sinks {
            sink.go()?;
        }
        let (first_ns, end_ns) = self.collect(sinks)?;
        let file = daemon.committed(&self.digest)?;
        settle(&file)?;
        let usage = window.close()?;
        let cpu_ns = daemon.process.cpu_ns()?.saturating_sub(before_ns);
        let rss_bytes = peak_rss_bytes(daemon.process.pid())?;
        let residence_ms = if self.named { Some(self.residence_ms()?) } else { None };
        self.take_file(&file)?;
        daemon.stop()?;
        Ok(Sample {
            cpu_s: seconds(cpu_ns),
            machine_cpu_s: usage.busy_s,
            seconds: seconds(end_ns - start_ns),
            fastest_s: seconds(first_ns - start_ns),
            rss_bytes,
            foreign: usage.foreign,
            residence_ms,
        })
    }

    /// Waits for all readers; when the first and when the last one had everything.
    fn collect(&self, sinks: Vec<Process>) -> Result<(u64, u64)> {
        let (mut first_ns, mut end_ns) = (u64::MAX, 0);
        for mut sink in sinks {
            let report: SinkReport = serde_json::from_str(&sink.line()?)?;
            first_ns = first_ns.min(report.end_ns);
            end_ns = end_ns.max(report.end_ns);
            sink.finish()?;
        }
        Ok((first_ns, end_ns))
    }

    /// What our relay says of its hops, once it has told of all bytes.
    fn residence_ms(&self) -> Result<[f64; 3]> {
        let reader = self.nodes.readers.first().context("no reader")?;
        let at = Daemon::at(reader.relay_at);
        let deadline = Instant::now() + HOPS_MAX;
        loop {
            let hops = reader.netns.within(|| http::fetch(at, "/xylem/v1/hops"))?;
            let hops: Value = serde_json::from_slice(&hops)?;
            let hops = hops["hops"].as_array().context("no hops")?;
            let own = |reader: &ReaderNode| {
                let mut own = hops.iter().filter(|hop| hop["child"] == reader.name.as_str());
                // Heads are counted as well.
                own.find(|hop| hop["relay_bytes"].as_u64() >= Some(self.size))
            };
            let own: Option<Vec<&Value>> = self.nodes.readers.iter().map(own).collect();
            if let Some(own) = own {
                let most =
                    |key: &str| own.iter().filter_map(|hop| hop[key].as_f64()).fold(0.0, f64::max);
                return Ok(["unit_p50_ms", "unit_p99_ms", "unit_p999_ms"].map(most));
            }
            ensure!(Instant::now() < deadline, "the relay does not tell of all hops: {hops:?}");
            thread::sleep(HOPS_PERIOD);
        }
    }

    /// Looks at the file a relay wrote, and removes it.
    fn take_file(&self, path: &Path) -> Result<()> {
        let len = std::fs::metadata(path)?.len();
        ensure!(len == self.size, "{} has {len} bytes, not {}", path.display(), self.size);
        if let Some(digest) = &self.verify {
            let got = crate::pattern::digest_of(File::open(path)?)?;
            ensure!(got == *digest, "{} holds {got}, not {digest}", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Writes back what a relay left in the page cache: whoever fills it causes that work.
fn settle(path: &Path) -> Result<()> {
    File::open(path)?.sync_data().with_context(|| format!("cannot sync {}", path.display()))
}

/// Lets every relay deliver a little data with both readers and the file checked by SHA-256.
pub fn check(bench: &Bench, variants: &[Variant]) -> Result<()> {
    let mut lab = Lab::new()?;
    let mut hop = Hop::new(bench, &mut lab, PLAIN, CHECK_BYTES)?;
    hop.verify = Some(hop.digest.clone());
    for &variant in variants {
        bench.go_on()?;
        hop.measure(Subject::Relay(variant))
            .with_context(|| format!("check of {}", variant.name()))?;
    }
    let names: Vec<&str> = variants.iter().map(|variant| variant.name()).collect();
    eprintln!("checked by sha-256, both readers and the file: {}", names.join(", "));
    Ok(())
}

/// Rounds that were not disturbed, as many as are wanted, and how many were dropped.
///
/// # Errors
/// A relay that fails, or a machine that never is quiet.
pub fn measure_rounds(
    bench: &Bench,
    hop: &Hop<'_>,
    mut subjects: Vec<Subject>,
    options: &Options,
) -> Result<(Vec<Round>, usize)> {
    let mut rounds: Vec<Round> = Vec::new();
    let mut dropped = 0;
    let foreign_max = options.foreign / 100.0;
    while rounds.len() < bytes::to_usize(options.rounds.into()) {
        let tried = rounds.len() + dropped;
        ensure!(
            dropped < bytes::to_usize((options.rounds * TRIES_PER_ROUND).into()),
            "{dropped} rounds dropped: other processes keep taking more than {} % of the CPUs",
            options.foreign
        );
        subjects.rotate_left(usize::from(tried > 0));
        let mut round = Round::new();
        for &subject in &subjects {
            bench.go_on()?;
            round.insert(subject, hop.measure_quiet(subject, foreign_max)?);
        }
        let worst = round.values().map(|sample| sample.foreign).fold(0.0, f64::max);
        let verdict = if worst > foreign_max { "dropped" } else { "kept" };
        let percent = worst * 100.0;
        eprintln!("round {}: {verdict} (foreign CPU at most {percent:.1} %)", tried + 1);
        if worst > foreign_max {
            dropped += 1;
        } else {
            rounds.push(round);
        }
    }
    Ok((rounds, dropped))
}

/// Measures, prints the table, and writes the JSON.
///
/// # Errors
/// No privilege, a relay that fails or delivers wrong bytes, or a machine that never is quiet.
pub fn run(bench: &Bench, options: &Options) -> Result<()> {
    if options.variants {
        return settings::run(bench, options);
    }
    let default: &[Variant] = if options.only.is_empty() { &Variant::ALL } else { &options.only };
    let mut variants: Vec<Variant> = default.to_vec();
    variants.retain(|variant| match variant.missing(bench) {
        Some(reason) => {
            eprintln!("skipped {}: {reason}", variant.name());
            false
        }
        None => true,
    });
    check(bench, &variants)?;

    let mut subjects = vec![Subject::Receive, Subject::Send, Subject::Write];
    subjects.extend(variants.iter().map(|&variant| Subject::Relay(variant)));
    let mut lab = Lab::new()?;
    let hop = Hop::new(bench, &mut lab, PLAIN, options.size)?;
    let (rounds, dropped) = measure_rounds(bench, &hop, subjects, options)?;
    let gib = options.size as f64 / GIB as f64;
    let results = table::results(&rounds, &variants, gib).context("no rounds")?;
    table::print(&results, rounds.len(), dropped, options.size);
    match &options.json {
        Some(path) => table::write_json(&results, path),
        None => Ok(()),
    }
}
