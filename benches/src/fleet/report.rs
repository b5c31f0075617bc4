//! The figures of all rounds: a table for people, JSON for machines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::round::Figures;
use crate::harness::stats::Spread;

/// The rounds of one number of agents.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    nodes: u32,
    streams: &'static str,
    /// Over the answers of all rounds, ms.
    answer_p50_ms: f64,
    answer_p99_ms: f64,
    rounds: Vec<Figures>,
}

impl Row {
    pub(super) fn of(nodes: u32, streams: &'static str, rounds: Vec<Figures>) -> Self {
        let all = rounds.iter().flat_map(|round| &round.answers_ms);
        let mut answers: Vec<f64> = all.copied().collect();
        answers.sort_by(f64::total_cmp);
        let answer_p50_ms = percentile(&answers, 50);
        Self { nodes, streams, answer_p50_ms, answer_p99_ms: percentile(&answers, 99), rounds }
    }

    fn spread(&self, of: Figure) -> Spread {
        let none = Spread { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        Spread::of(self.rounds.iter().map(of)).unwrap_or(none)
    }
}

/// Of sorted numbers; not a number of none.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A figure of one round.
type Figure = fn(&Figures) -> f64;

/// What is shown of each row, and how it is written.
const LINES: [(&str, Figure); 12] = [
    ("all at once: connected and placed, s", |round| round.burst_s),
    ("  control's CPU time in it, s", |round| round.burst_cpu_s),
    ("  memory per agent, KiB", |round| round.node_kib),
    ("joins per second", |round| round.joins_per_s),
    ("  CPU time of a join, us", |round| round.join_cpu_us),
    ("core with heartbeats, %", |round| 100.0 * round.beats_cpu),
    ("core with hop reports as well, %", |round| 100.0 * round.reports_cpu),
    ("slow link to new places, s", |round| round.slow_s),
    ("a third lost to new places, s", |round| round.loss_s),
    ("  control's CPU time in it, s", |round| round.loss_cpu_s),
    ("CPUs that others took meanwhile, %", |round| 100.0 * round.foreign),
    ("levels of the trees", |round| f64::from(round.levels)),
];

/// Prints medians, with the least and the greatest.
pub(super) fn print(rows: &[Row]) {
    for row in rows {
        println!("\n{} agents, {} ({} rounds)", row.nodes, row.streams, row.rounds.len());
        for (label, of) in LINES {
            let Spread { median, min, max } = row.spread(of);
            let [median, min, max] = [median, min, max].map(short);
            println!("  {label:<38} {median:>9}   {min} to {max}");
        }
        let (p50, p99) = (short(row.answer_p50_ms), short(row.answer_p99_ms));
        println!("  {:<38} {p50:>9}   p99 {p99}", "one join to its answer, ms");
    }
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Writes all figures of all rounds.
pub(super) fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "control": rows }))?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_those_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50.0, 99.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
