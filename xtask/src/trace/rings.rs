//! What became of io_uring's operations: how many, how long, how many left the ring's own thread.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::script::Event;

/// Longest latency that is told apart, us.
const LATENCY_MAX_US: u64 = 60_000_000;

struct Operation {
    count: u64,
    latency_us: Histogram<u64>,
    errors: u64,
    punted: u64,
}

impl Operation {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2);
        let latency_us = latency_us.expect("the bounds are in order");
        Self { count: 0, latency_us, errors: 0, punted: 0 }
    }
}

/// One line for each kind of operation, all nodes together.
pub(super) fn table(events: &[Event]) -> String {
    let mut operations: BTreeMap<String, Operation> = BTreeMap::new();
    let mut flying: HashMap<(&str, &str), (&str, f64)> = HashMap::new();
    let (mut short, mut retransmits) = (0_u64, 0_u64);
    for event in events {
        let request = event.word("ring").zip(event.word("req").or_else(|| event.word("request")));
        let named = |event: &'_ Event| event.word("opcode").unwrap_or("?").to_owned();
        match (event.name.as_str(), request) {
            ("io_uring_submit_req", Some(request)) => {
                operations.entry(named(event)).or_insert_with(Operation::new).count += 1;
                flying.insert(request, (event.word("opcode").unwrap_or("?"), event.at_us));
            }
            ("io_uring_complete", Some(request)) => {
                // An operation that was begun before the recording is not counted.
                let Some((name, since_us)) = flying.remove(&request) else { continue };
                let Some(operation) = operations.get_mut(name) else { continue };
                operation.latency_us.saturating_record(whole(event.at_us - since_us));
                let failed = event.word("result").is_some_and(|result| result.starts_with('-'));
                operation.errors += u64::from(failed);
            }
            ("io_uring_queue_async_work", _) => {
                operations.entry(named(event)).or_insert_with(Operation::new).punted += 1;
            }
            ("io_uring_short_write", _) => short += 1,
            ("tcp_retransmit_skb", _) => retransmits += 1,
            _ => {}
        }
    }
    let mut text = String::from(
        "OPERATION          COUNT   P50 US   P99 US P99.9 US   MAX US  IO-WQ  NEGATIVE RESULT\n",
    );
    for (name, operation) in operations {
        let at = |quantile| operation.latency_us.value_at_quantile(quantile);
        let (count, max) = (operation.count, operation.latency_us.max());
        let (punted, errors) = (operation.punted, operation.errors);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(at);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{name:<16} {count:>7} {p50:>8} {p99:>8} {p999:>8} {max:>8} {punted:>6} {errors:>8}"
        );
    }
    let _ = writeln!(text, "short writes: {short}, segments sent again by nodes: {retransmits}");
    text
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, and is within the histogram")]
#[expect(clippy::cast_sign_loss, reason = "the end is after the beginning")]
fn whole(us: f64) -> u64 {
    us.max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_measured_from_its_submission_to_its_end() {
        let event = |at_us, name: &str, text: &str| Event {
            node: "n1".into(),
            at_us,
            name: name.into(),
            text: text.into(),
        };
        let table = table(&[
            event(10.0, "io_uring_submit_req", "ring 0xa, req 0xb, user_data 0x1, opcode SEND, f"),
            event(11.0, "io_uring_queue_async_work", "ring 0xa, request 0xb, opcode SEND, x"),
            event(60.0, "io_uring_complete", "ring 0xa, req 0xb, user_data 0x1, result -32, c"),
            event(70.0, "io_uring_complete", "ring 0xa, req 0xc, user_data 0x1, result 1, c"),
            event(71.0, "io_uring_short_write", "ring 0xa, fpos 0, wanted 2, got 1"),
        ]);
        let line: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line, ["SEND", "1", "50", "50", "50", "50", "1", "1"]);
        assert!(table.contains("short writes: 1"), "{table}");
    }
}
