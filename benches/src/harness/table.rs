//! The results of `bench hop` as a table for people and as JSON; the arithmetic of the floors is
//! here too.

use crate::bytes::MIB;
use crate::harness::hop::{Round, Sample, Subject};
use crate::harness::stats::Spread;
use crate::harness::variants::{MEMORY_BYTES, Variant};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;

/// Process CPU of our relay without hashing, over the floor: the aim.
const FLOOR_RATIO_MAX: f64 = 1.15;
/// The same over tokio's.
const TOKIO_RATIO_MAX: f64 = 0.5;
/// Peak memory of our relay above its memory setting, in MiB: the aim.
const RSS_EXTRA_MIB_MAX: f64 = 24.0;

/// What something cost, per GiB received.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// CPU-seconds of the process.
    pub cpu: Spread,
    /// CPU-seconds of the machine.
    pub machine: Spread,
    /// MiB per second.
    pub mib_s: Spread,
    /// Peak resident memory in MiB.
    pub rss_mib: Spread,
}

/// Everything the table shows.
#[derive(Debug)]
pub struct Results {
    /// The three parts of the floor.
    pub parts: [(Subject, Cost); 3],
    /// Their sum: what a relay to two readers and a file costs at least.
    pub floor: (Spread, Spread),
    /// The relays, in the order of the table.
    pub relays: Vec<(Variant, Cost)>,
}

#[derive(Serialize)]
struct Json<'a> {
    variant: &'a str,
    cpu_s_per_gib: f64,
    machine_cpu_s_per_gib: f64,
    mib_s: f64,
    rss_mib: f64,
    floor_cpu_s_per_gib: f64,
    floor_machine_cpu_s_per_gib: f64,
    cpu_s_per_gib_range: [f64; 2],
    machine_cpu_s_per_gib_range: [f64; 2],
    mib_s_range: [f64; 2],
}

fn cost(rounds: &[Round], subject: Subject, gib: f64) -> Option<Cost> {
    let spread = |pick: &dyn Fn(&Sample) -> f64| {
        Spread::of(rounds.iter().filter_map(|round| round.get(&subject)).map(pick))
    };
    Some(Cost {
        cpu: spread(&|sample| sample.cpu_s / gib)?,
        machine: spread(&|sample| sample.machine_cpu_s / gib)?,
        mib_s: spread(&|sample| gib * 1024.0 / sample.seconds)?,
        rss_mib: spread(&|sample| sample.rss_bytes as f64 / MIB as f64)?,
    })
}

/// The floor of one round per GiB, of the process and of the machine. The process receives once,
/// sends twice and writes. The machine has three links whose ends copy nothing, the copy in the
/// relay, and the write.
fn floor(round: &Round, gib: f64) -> Option<(f64, f64)> {
    let [receive, send, write] =
        [round.get(&Subject::Receive)?, round.get(&Subject::Send)?, round.get(&Subject::Write)?];
    let process = receive.cpu_s + 2.0 * send.cpu_s + write.cpu_s;
    let copy = receive.machine_cpu_s - send.machine_cpu_s;
    let machine = 3.0 * send.machine_cpu_s + copy + write.machine_cpu_s;
    Some((process / gib, machine / gib))
}

/// Sums rounds up; `None` when a subject was never measured.
#[must_use]
pub fn results(rounds: &[Round], variants: &[Variant], gib: f64) -> Option<Results> {
    let part = |subject| Some((subject, cost(rounds, subject, gib)?));
    let floors: Vec<(f64, f64)> =
        rounds.iter().map(|round| floor(round, gib)).collect::<Option<_>>()?;
    let relays = variants
        .iter()
        .map(|&variant| Some((variant, cost(rounds, Subject::Relay(variant), gib)?)))
        .collect::<Option<_>>()?;
    Some(Results {
        parts: [part(Subject::Receive)?, part(Subject::Send)?, part(Subject::Write)?],
        floor: (
            Spread::of(floors.iter().map(|floor| floor.0))?,
            Spread::of(floors.iter().map(|floor| floor.1))?,
        ),
        relays,
    })
}

/// Median, and least to greatest.
#[must_use]
pub fn range(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} ({min:.decimals$}-{max:.decimals$})")
}

fn row(name: &str, cells: [String; 6]) {
    let [cpu, cpu_ratio, machine, machine_ratio, mib_s, rss] = cells;
    println!(
        "{name:<14} {cpu:>21} {cpu_ratio:>6} {machine:>21} {machine_ratio:>6} {mib_s:>17} {rss:>7}"
    );
}

/// Prints the table and how the aims stand.
pub fn print(results: &Results, rounds: usize, dropped: usize, size_bytes: u64) {
    println!("one sender, one relay with a file, two readers; {} MiB per run", size_bytes / MIB);
    println!(
        "{rounds} rounds, {dropped} dropped; median (min-max); CPU in seconds per GiB received"
    );
    println!("{}\n", surroundings());
    let titles = ["process CPU", "/floor", "machine CPU", "/floor", "MiB/s", "RSS MiB"];
    row("", titles.map(str::to_owned));
    let (floor, machine_floor) = results.floor;
    for (variant, cost) in &results.relays {
        let cells = [
            range(cost.cpu, 3),
            format!("{:.2}", cost.cpu.median / floor.median),
            range(cost.machine, 3),
            format!("{:.2}", cost.machine.median / machine_floor.median),
            range(cost.mib_s, 0),
            format!("{:.1}", cost.rss_mib.median),
        ];
        row(variant.name(), cells);
    }
    let none = String::new;
    let sums = [range(floor, 3), none(), range(machine_floor, 3), none(), none(), none()];
    row("sum of floors", sums);
    for (subject, cost) in &results.parts {
        let name = match subject {
            Subject::Receive => "  receive",
            Subject::Send => "  send",
            Subject::Write | Subject::Relay(_) => "  write",
        };
        let (cpu, machine) = (range(cost.cpu, 3), range(cost.machine, 3));
        row(name, [cpu, none(), machine, none(), range(cost.mib_s, 0), none()]);
    }
    println!();
    for (aim, value, limit, met) in aims(results) {
        let verdict = if met { "met" } else { "NOT met" };
        println!("{verdict:<8} {aim}: {value:.3}, limit {limit:.3}");
    }
}

/// Kernel and congestion control, without which CPU per byte means little.
#[must_use]
pub fn surroundings() -> String {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_or_else(|_| "?".into(), |text| text.trim().to_owned())
    };
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "Linux {}, {cpus} x {}, {}",
        read("/proc/sys/kernel/osrelease"),
        model.trim_start_matches(['\t', ' ', ':']),
        read("/proc/sys/net/ipv4/tcp_congestion_control"),
    )
}

type Aim = (String, f64, f64, bool);

/// What our relay is to reach, as far as the relays it is compared with were measured.
fn aims(results: &Results) -> Vec<Aim> {
    let find = |wanted| results.relays.iter().find(|(v, _)| *v == wanted).map(|(_, cost)| cost);
    let at_most = |aim: String, value: f64, limit: f64| (aim, value, limit, value <= limit);
    let mut aims = Vec::new();
    if let Some(ours) = find(Variant::XylemNohash) {
        let ratio = ours.cpu.median / results.floor.0.median;
        aims.push(at_most("xylem-nohash process CPU / floor".into(), ratio, FLOOR_RATIO_MAX));
        if let Some(tokio) = find(Variant::Tokio64k) {
            let ratio = ours.cpu.median / tokio.cpu.median;
            let aim = "xylem-nohash process CPU / tokio-64k".into();
            aims.push(at_most(aim, ratio, TOKIO_RATIO_MAX));
        }
    }
    let rivals = || results.relays.iter().filter(|(variant, _)| !variant.ours());
    let machine = Spread::of(rivals().map(|(_, cost)| cost.machine.median));
    let speed = Spread::of(rivals().map(|(_, cost)| cost.mib_s.median));
    for (variant, ours) in results.relays.iter().filter(|(variant, _)| variant.ours()) {
        let name = variant.name();
        if let (Some(machine), Some(speed)) = (machine, speed) {
            let aim = format!("{name} machine CPU, below every rival");
            aims.push(at_most(aim, ours.machine.median, machine.min));
            let aim = format!("{name} MiB/s, above every rival");
            aims.push((aim, ours.mib_s.median, speed.max, ours.mib_s.median > speed.max));
        }
        let limit = MEMORY_BYTES as f64 / MIB as f64 + RSS_EXTRA_MIB_MAX;
        aims.push(at_most(format!("{name} RSS MiB"), ours.rss_mib.max, limit));
    }
    aims
}

/// Writes one object per variant, in a list.
///
/// # Errors
/// The file system's.
pub fn write_json(results: &Results, path: &Path) -> Result<()> {
    let ends = |spread: Spread| [spread.min, spread.max];
    let objects: Vec<Json<'_>> = results
        .relays
        .iter()
        .map(|(variant, cost)| Json {
            variant: variant.name(),
            cpu_s_per_gib: cost.cpu.median,
            machine_cpu_s_per_gib: cost.machine.median,
            mib_s: cost.mib_s.median,
            rss_mib: cost.rss_mib.median,
            floor_cpu_s_per_gib: results.floor.0.median,
            floor_machine_cpu_s_per_gib: results.floor.1.median,
            cpu_s_per_gib_range: ends(cost.cpu),
            machine_cpu_s_per_gib_range: ends(cost.machine),
            mib_s_range: ends(cost.mib_s),
        })
        .collect();
    let text = serde_json::to_string_pretty(&objects)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
