//! The way of one unit through the nodes, from their static probes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::script::Event;

/// A unit, bytes: the granule of checksums and resumption.
const UNIT_BYTES: u64 = 512 * 1024;

/// A probe that was passed.
struct Passed<'a> {
    node: &'a str,
    at_us: f64,
    what: &'a str,
    blob: u64,
    begin: u64,
    bytes: u64,
}

fn passed(event: &Event) -> Option<Passed<'_>> {
    let (what, _) = event.name.rsplit_once('_')?;
    let known = ["received", "forwarded", "stored", "committed"].contains(&what);
    let number = |label| event.word(label).and_then(|word| word.parse().ok());
    known.then_some(())?;
    let (blob, begin, bytes) = (number("blob")?, number("at")?, number("bytes").unwrap_or(0));
    Some(Passed { node: &event.node, at_us: event.at_us, what, blob, begin, bytes })
}

/// When the unit in the middle of the largest blob was where.
pub(super) fn timeline(events: &[Event]) -> Result<String> {
    let all: Vec<Passed<'_>> = events.iter().filter_map(passed).collect();
    let bodies = || all.iter().filter(|passed| passed.what == "received");
    let last = bodies().max_by_key(|passed| passed.begin + passed.bytes);
    let last = last.context("no node has received anything while perf recorded")?;
    let (blob, size) = (last.blob, last.begin + last.bytes);
    let begin = size / 2 / UNIT_BYTES * UNIT_BYTES;
    let end = (begin + UNIT_BYTES).min(size);
    // First and last byte of the unit, of each kind, at each node.
    let mut spans: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
    let touches = |it: &&Passed<'_>| it.begin < end && it.begin + it.bytes > begin;
    for it in all.iter().filter(|it| it.blob == blob && it.what != "committed").filter(touches) {
        let span = spans.entry((it.node, it.what)).or_insert((it.at_us, it.at_us));
        *span = (span.0.min(it.at_us), span.1.max(it.at_us));
    }
    let start_us = spans.values().map(|span| span.0).fold(f64::MAX, f64::min);
    let mut rows: Vec<_> = spans.into_iter().collect();
    rows.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
    let mut text = format!(
        "unit at {begin} of blob {blob:016x} ({size} bytes)\n\
         NODE   WHAT        FIRST US    LAST US\n"
    );
    for ((node, what), (first, last)) in rows {
        let (first, last) = (first - start_us, last - start_us);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{node:<6} {what:<10} {first:>9.0} {last:>10.0}");
    }
    for it in all.iter().filter(|it| it.blob == blob && it.what == "committed") {
        let (node, at) = (it.node, it.at_us - start_us);
        let _ = writeln!(text, "{node:<6} committed  {at:>9.0}  (the whole blob)");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_followed_from_node_to_node() {
        let event = |node: &str, at_us, name: &str, at: u64, bytes: u64| Event {
            node: node.into(),
            at_us,
            name: name.into(),
            text: format!("(55d0) blob=5 at={at} bytes={bytes}"),
        };
        let text = timeline(&[
            event("n1", 100.0, "received_1", 0, 2 * UNIT_BYTES),
            event("n1", 150.0, "forwarded_3", UNIT_BYTES, 10),
            event("n2", 170.0, "received_1", UNIT_BYTES, 10),
            event("n2", 190.0, "received_1", UNIT_BYTES + 10, UNIT_BYTES - 10),
            event("n2", 195.0, "received_1", 0, UNIT_BYTES),
            event("n2", 900.0, "committed_0", 2 * UNIT_BYTES, 0),
        ])
        .unwrap();
        let rows: Vec<Vec<&str>> =
            text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["n1", "received", "0", "0"]);
        assert_eq!(rows[1], ["n1", "forwarded", "50", "50"]);
        assert_eq!(rows[2], ["n2", "received", "70", "90"]);
        assert_eq!(rows[3][..3], ["n2", "committed", "800"]);
        assert!(timeline(&[]).is_err());
    }
}
