//! `bench hop --variants`: the relay with one, two and four readers, with one that is slow, on
//! devices that cut nothing up; and other ways to send. What is measured and how is as in the table
//! of `bench hop`.

use crate::bytes::{GIB, MIB};
use crate::harness::Bench;
use crate::harness::hop::{self, Hop, Options, Place, Round, Sample, Subject};
use crate::harness::lab::Lab;
use crate::harness::stats::Spread;
use crate::harness::table::{range, surroundings};
use crate::harness::variants::Variant;
use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// The link of the reader that is slow: a twentieth of what the others take.
const SLOW: &str = "500mbit";
/// The relays that are compared everywhere.
const EVERYWHERE: &[Variant] = &[Variant::XylemNohash, Variant::Splice, Variant::Blocking512k];
/// The same, and the ways to send.
const WAYS: &[Variant] = &[
    Variant::XylemNohash,
    Variant::Splice,
    Variant::Blocking512k,
    Variant::RingSend,
    Variant::RingZeroCopy,
    Variant::RingWriteFixed,
];
const PLAIN: Place = Place { readers: 2, slow: None, offload: true, named: true };
/// By their names in the table.
const SETTINGS: [(&str, Place, &[Variant]); 5] = [
    ("1 reader", Place { readers: 1, ..PLAIN }, EVERYWHERE),
    ("2 readers", PLAIN, WAYS),
    ("4 readers", Place { readers: 4, ..PLAIN }, EVERYWHERE),
    ("1 of 2 slow", Place { slow: Some(SLOW), ..PLAIN }, EVERYWHERE),
    ("TSO off", Place { offload: false, ..PLAIN }, WAYS),
];

/// A line of the table. Costs are per GiB received; units are those that our relay tells of.
#[derive(Debug, Serialize)]
struct Row {
    setting: &'static str,
    variant: &'static str,
    rounds: usize,
    dropped: usize,
    cpu_s_per_gib: Spread,
    machine_cpu_s_per_gib: Spread,
    /// What the reader that was done last got.
    mib_s: Spread,
    /// What the reader that was done first got.
    fastest_mib_s: Spread,
    rss_mib: Spread,
    unit_p50_ms: Option<Spread>,
    unit_p99_ms: Option<Spread>,
    unit_p999_ms: Option<Spread>,
}

impl Row {
    fn of(
        setting: &'static str,
        variant: Variant,
        (rounds, dropped): (&[Round], usize),
        gib: f64,
    ) -> Option<Self> {
        let own = || rounds.iter().filter_map(|round| round.get(&Subject::Relay(variant)));
        let spread = |pick: &dyn Fn(&Sample) -> f64| Spread::of(own().map(pick));
        let unit = |index: usize| Spread::of(own().filter_map(|it| Some(it.residence_ms?[index])));
        Some(Self {
            setting,
            variant: variant.name(),
            rounds: rounds.len(),
            dropped,
            cpu_s_per_gib: spread(&|sample| sample.cpu_s / gib)?,
            machine_cpu_s_per_gib: spread(&|sample| sample.machine_cpu_s / gib)?,
            mib_s: spread(&|sample| gib * 1024.0 / sample.seconds)?,
            fastest_mib_s: spread(&|sample| gib * 1024.0 / sample.fastest_s)?,
            rss_mib: spread(&|sample| sample.rss_bytes as f64 / MIB as f64)?,
            unit_p50_ms: unit(0),
            unit_p99_ms: unit(1),
            unit_p999_ms: unit(2),
        })
    }

    fn print(&self) {
        let unit =
            |spread: &Option<Spread>| spread.map_or("-".into(), |it| format!("{:.2}", it.median));
        println!(
            "{:<12} {:<16} {:>21} {:>21} {:>17} {:>17} {:>6.1} {:>7} {:>7} {:>7}",
            self.setting,
            self.variant,
            range(self.cpu_s_per_gib, 3),
            range(self.machine_cpu_s_per_gib, 3),
            range(self.mib_s, 0),
            range(self.fastest_mib_s, 0),
            self.rss_mib.median,
            unit(&self.unit_p50_ms),
            unit(&self.unit_p99_ms),
            unit(&self.unit_p999_ms),
        );
    }
}

/// Measures all settings, prints the table, and writes the JSON.
///
/// # Errors
/// No privilege, a relay that fails or delivers wrong bytes, or a machine that never is quiet.
pub fn run(bench: &Bench, options: &Options) -> Result<()> {
    let wanted = |variant: &&Variant| options.only.is_empty() || options.only.contains(variant);
    let all: Vec<Variant> = WAYS.iter().filter(wanted).copied().collect();
    ensure!(!all.is_empty(), "none of these relays is measured so");
    for variant in &all {
        ensure!(variant.missing(bench).is_none(), "{} cannot run here", variant.name());
    }
    hop::check(bench, &all)?;
    let gib = options.size as f64 / GIB as f64;
    let mut rows = Vec::new();
    for (name, place, variants) in SETTINGS {
        let variants: Vec<Variant> = variants.iter().filter(wanted).copied().collect();
        if variants.is_empty() {
            continue;
        }
        eprintln!("{name}");
        let mut lab = Lab::new()?;
        let hop = Hop::new(bench, &mut lab, place, options.size)?;
        let subjects = variants.iter().map(|&variant| Subject::Relay(variant)).collect();
        let (rounds, dropped) = hop::measure_rounds(bench, &hop, subjects, options)?;
        for variant in variants {
            let row = Row::of(name, variant, (&rounds, dropped), gib).context("no rounds")?;
            rows.push(row);
        }
    }
    println!("one sender, one relay with a file; {} MiB per run", options.size / MIB);
    println!("median (min-max); CPU in seconds per GiB received; slow: a link of {SLOW}");
    println!("{}\n", surroundings());
    println!(
        "{:<12} {:<16} {:>21} {:>21} {:>17} {:>17} {:>6} {:>7} {:>7} {:>7}",
        "",
        "",
        "process CPU",
        "machine CPU",
        "MiB/s, last",
        "MiB/s, first",
        "MiB",
        "p50 ms",
        "p99",
        "p99.9"
    );
    rows.iter().for_each(Row::print);
    let Some(path) = &options.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(&rows)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
