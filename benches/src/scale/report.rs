//! What is said of runs: a table for people, lines of JSON, a CSV file. The same outcomes give the
//! same bytes.

use std::fmt::Write as _;

use serde::Serialize;

use super::run::{Outcome, SECOND_NS};
use super::units::{Rate, Size};

/// Figures of one run; a line of JSON or of a CSV file.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// How nodes get the blob from each other.
    pub shape: String,
    /// How many nodes.
    pub nodes: u32,
    /// Makespan divided by S/B, the time that one copy takes over one link.
    pub ratio: f64,
    /// Bytes that the registry sent, divided by S.
    pub registry_ratio: f64,
    /// From a node's request to its first byte: the median.
    pub first_byte_ms: f64,
    /// Bytes that nodes were sent and could not use, divided by all that they needed.
    pub duplicate_ratio: f64,
    /// Edges to staying nodes that control changed, for each node that left or failed.
    pub moved_per_leave: f64,
    /// See `first_byte_ms`: exceeded by one node in a hundred.
    pub first_byte_p99_ms: f64,
    /// From the first request to the last node that has the blob, verified and written.
    pub makespan_s: f64,
    /// S/B.
    pub limit_s: f64,
    /// From a node's request to its having the blob: the median.
    pub p50_s: f64,
    /// See `p50_s`: exceeded by one node in a hundred.
    pub p99_s: f64,
    /// `ratio` of the nodes who did not come late and whose uplink is as fast as usual.
    pub ratio_usual: f64,
    /// `ratio` of those who came late, from their own requests on.
    pub ratio_late: f64,
    /// Sources that nodes replaced by others.
    pub reparentings: u64,
    /// Nodes that left or failed.
    pub leaves: u64,
    /// From the end of a source to the first byte of another: the median.
    pub gap_ms: f64,
    /// See `gap_ms`: the longest.
    pub gap_max_ms: f64,
    /// S.
    pub size_bytes: u64,
    /// B.
    pub rate_bytes_per_s: u64,
    /// What chance was drawn from.
    pub seed: u64,
}

/// With four digits behind the point, so that output is short and equal.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn quotient(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { rounded(part as f64 / whole as f64) }
}

/// The smallest that so many percent do not exceed; 0 of nothing.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(0)
}

fn seconds(ns: u64) -> f64 {
    quotient(ns, SECOND_NS)
}

impl Figures {
    /// Those of a run.
    pub fn of(outcome: &Outcome) -> Self {
        let run = &outcome.run;
        let limit_s = run.size as f64 / run.rate as f64;
        let ratio = |ns: u64| rounded(ns as f64 / SECOND_NS as f64 / limit_s);
        let ms = |times: &[u64], percent| rounded(percentile(times, percent) as f64 / 1e6);
        Self {
            shape: run.shape.to_string(),
            nodes: run.nodes,
            ratio: ratio(outcome.makespan_ns()),
            registry_ratio: quotient(outcome.registry_bytes, run.size),
            first_byte_ms: ms(&outcome.first_bytes_ns, 50),
            duplicate_ratio: quotient(
                outcome.duplicate_bytes,
                outcome.stored_ns.len() as u64 * run.size,
            ),
            moved_per_leave: quotient(outcome.moved, outcome.leaves),
            first_byte_p99_ms: ms(&outcome.first_bytes_ns, 99),
            makespan_s: seconds(outcome.makespan_ns()),
            limit_s: rounded(limit_s),
            p50_s: seconds(percentile(&outcome.stored_ns, 50)),
            p99_s: seconds(percentile(&outcome.stored_ns, 99)),
            ratio_usual: ratio(outcome.usual_ns.last().copied().unwrap_or(0)),
            ratio_late: ratio(outcome.late_ns.last().copied().unwrap_or(0)),
            reparentings: outcome.reparentings,
            leaves: outcome.leaves,
            gap_ms: ms(&outcome.gaps_ns, 50),
            gap_max_ms: ms(&outcome.gaps_ns, 100),
            size_bytes: run.size,
            rate_bytes_per_s: run.rate,
            seed: run.seed,
        }
    }

    /// One line.
    ///
    /// # Panics
    /// Never: numbers and a name can be written.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and a name")
    }
}

/// The names of the columns for people; x S: divided by the blob's size. USUAL: x S/B of the
/// nodes that are neither late nor slow; LATE: of those who came late.
const COLUMNS: [&str; 15] = [
    "SHAPE",
    "NODES",
    "MAKESPAN S",
    "x S/B",
    "USUAL",
    "LATE",
    "P50 S",
    "FIRST BYTE MS",
    "P99",
    "REGISTRY x S",
    "LEFT",
    "RE-PARENTED",
    "GAP MS",
    "MAX",
    "TWICE %",
];

/// The table for people.
pub fn table(name: &str, outcomes: &[Outcome]) -> String {
    let Some(first) = outcomes.first() else { return String::new() };
    let run = &first.run;
    let mut text = format!(
        "{name}: {}, links of {}, registry {}, seed {}; S/B = {:.3} s\n",
        Size(run.size),
        Rate(run.rate),
        Rate(run.registry_rate),
        run.seed,
        run.limit_ns() as f64 / SECOND_NS as f64,
    );
    let mut lines = vec![COLUMNS.map(ToOwned::to_owned)];
    for outcome in outcomes {
        let figures = Figures::of(outcome);
        lines.push([
            figures.shape,
            figures.nodes.to_string(),
            format!("{:.3}", figures.makespan_s),
            format!("{:.3}", figures.ratio),
            format!("{:.3}", figures.ratio_usual),
            format!("{:.3}", figures.ratio_late),
            format!("{:.3}", figures.p50_s),
            format!("{:.1}", figures.first_byte_ms),
            format!("{:.1}", figures.first_byte_p99_ms),
            format!("{:.3}", figures.registry_ratio),
            figures.leaves.to_string(),
            figures.reparentings.to_string(),
            format!("{:.0}", figures.gap_ms),
            format!("{:.0}", figures.gap_max_ms),
            format!("{:.3}", figures.duplicate_ratio * 100.0),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for line in &lines {
        let _ = write!(text, "{:<1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// A CSV file: one line for each run, and the names of the columns above.
pub fn csv(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let line = Figures::of(outcome).json();
        // No name and no value has a comma, a colon or a quotation mark in it.
        let fields = line.trim_matches(['{', '}']).split(',').filter_map(|f| f.split_once(':'));
        let (names, values): (Vec<&str>, Vec<&str>) =
            fields.map(|(name, value)| (name.trim_matches('"'), value.trim_matches('"'))).unzip();
        if text.is_empty() {
            let _ = writeln!(text, "{}", names.join(","));
        }
        let _ = writeln!(text, "{}", values.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        assert_eq!(percentile(&[], 50), 0);
        assert_eq!(percentile(&[7], 99), 7);
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50, 99));
    }
}
