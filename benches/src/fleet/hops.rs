//! Hop reports of a site in which every hop runs at full rate, but those of one node that is slow.
//! What the kernel's counters would say, and nothing more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use xylem_protocol::pb;

use super::agent::name;

/// Payload of a hop at full rate, bytes per second: half of a link of 1 Gbit/s.
const RATE: u64 = 60_000_000;
/// A slow hop has one in so many of it.
const SLOW: u64 = 10;
/// Its name in reports.
const REGISTRY: &str = "registry";

/// One edge: parent, `None` for the registry, and child.
pub(super) type Hop = (Option<u32>, u32);

/// When each hop began, and which node is slow.
#[derive(Debug, Default)]
pub(super) struct Hops {
    began: HashMap<Hop, Instant>,
    slow: Option<(u32, Instant)>,
}

impl Hops {
    /// From now on what this node sends is slow.
    pub(super) fn make_slow(&mut self, node: u32, now: Instant) {
        self.slow = Some((node, now));
    }

    /// What one end of a hop reports now.
    pub(super) fn report(&mut self, hop: Hop, from_child: bool, now: Instant) -> pb::HopReport {
        let began = *self.began.entry(hop).or_insert(now);
        let slow_since = match self.slow {
            Some((node, since)) if hop.0 == Some(node) => since.max(began),
            _ => now,
        };
        let fast = slow_since.saturating_duration_since(began);
        let slow = now.saturating_duration_since(slow_since);
        let passed_us = micros(fast + slow);
        let bytes = RATE * micros(fast) / 1_000_000 + RATE / SLOW * micros(slow) / 1_000_000;
        pb::HopReport {
            parent: hop.0.map_or_else(|| REGISTRY.to_owned(), name),
            child: name(hop.1),
            from_child,
            relay_bytes: bytes,
            kernel_bytes: bytes,
            wire_bytes: bytes + bytes / 20,
            mbit_s: 480.0,
            srtt_us: 400,
            min_rtt_us: 100,
            cwnd: 100,
            first_byte_us: 300,
            first_byte_p99_us: 900,
            residence_p50_us: 80,
            residence_p99_us: 400,
            verdict: pb::Verdict::Network.into(),
            source: pb::Source::Bpf.into(),
            // It counts from when the hop began, and bytes waited for the network ever since.
            at_us: passed_us,
            held_us: passed_us,
            ..Default::default()
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_node_sends_a_tenth_from_then_on() {
        let mut hops = Hops::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(hops.report((Some(1), 2), true, start).relay_bytes, 0);
        assert_eq!(hops.report((Some(1), 2), true, start + second).relay_bytes, RATE);
        hops.make_slow(1, start + second);
        let later = start + 2 * second;
        let report = hops.report((Some(1), 2), false, later);
        assert_eq!((report.relay_bytes, report.at_us), (RATE + RATE / SLOW, 2_000_000));
        hops.report((Some(3), 2), true, later);
        assert_eq!(hops.report((Some(3), 2), true, later + second).relay_bytes, RATE);
        assert_eq!(hops.report((None, 2), true, later).parent, REGISTRY);
    }
}
