//! What nodes report of their hops, kept per reporter, and the merging of a hop's two ends.

use std::collections::{BTreeMap, HashMap};

use xylem_protocol::pb;

use super::roster::Node;
use crate::api;
use crate::limits::HOPS_PER_NODE_MAX;

/// The name that stands for the registry in hop reports; no node may bear it.
pub(crate) const REGISTRY: &str = "registry";

/// The latest reports of one node.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// By the other end's name, and whether it is the parent.
    latest: HashMap<(String, bool), (u64, pb::HopReport)>,
}

impl Reports {
    /// Who must have written a report.
    pub(super) fn reporter(report: &pb::HopReport) -> &str {
        if report.from_child { &report.child } else { &report.parent }
    }

    /// Keeps a report in place of an earlier one of the same hop, or of the hop silent for longest
    /// where there is no room.
    pub(super) fn put(&mut self, report: pb::HopReport, now_ms: u64) {
        let peer = if report.from_child { &report.parent } else { &report.child };
        let key = (peer.clone(), report.from_child);
        if self.latest.len() >= HOPS_PER_NODE_MAX as usize && !self.latest.contains_key(&key) {
            let oldest = self.latest.iter().min_by_key(|(_, (seen_ms, _))| *seen_ms);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.latest.remove(&oldest);
            }
        }
        self.latest.insert(key, (now_ms, report));
    }
}

/// All hops of which at least one end has reported: those from the registry first.
pub(super) fn merged<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<api::Hop> {
    let mut ends: BTreeMap<(bool, &str, &str), [Option<&pb::HopReport>; 2]> = BTreeMap::new();
    for (_, report) in nodes.flat_map(|node| node.reports.latest.values()) {
        let hop = (report.parent != REGISTRY, report.parent.as_str(), report.child.as_str());
        ends.entry(hop).or_default()[usize::from(report.from_child)] = Some(report);
    }
    ends.into_values().filter_map(|[parent, child]| merge(parent, child)).collect()
}

/// The receiving end knows what arrived and how soon, the sending end what TCP made of it. Each
/// stands in for the other where that has not reported.
fn merge(parent: Option<&pb::HopReport>, child: Option<&pb::HopReport>) -> Option<api::Hop> {
    let receiver = child.or(parent)?;
    let sender = parent.or(child)?;
    Some(api::Hop {
        parent: receiver.parent.clone(),
        child: receiver.child.clone(),
        relay_bytes: receiver.relay_bytes,
        kernel_bytes: receiver.kernel_bytes,
        wire_bytes: receiver.wire_bytes,
        mbit_s: if receiver.mbit_s.is_finite() { receiver.mbit_s } else { 0.0 },
        srtt_ms: f64::from(sender.srtt_us) / 1000.0,
        min_rtt_ms: f64::from(sender.min_rtt_us) / 1000.0,
        retransmits: sender.retransmits,
        first_byte_ms: ms(receiver.first_byte_us),
        first_byte_p99_ms: ms(receiver.first_byte_p99_us),
        unit_p50_ms: ms(sender.residence_p50_us),
        unit_p99_ms: ms(sender.residence_p99_us),
        verdict: verdict(sender.verdict()).to_owned(),
        source: source(receiver.source()).to_owned(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "for people; exact up to 285 years")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn verdict(verdict: pb::Verdict) -> &'static str {
    match verdict {
        pb::Verdict::Unknown => "unknown",
        pb::Verdict::Sender => "sender",
        pb::Verdict::Network => "network",
        pb::Verdict::Receiver => "receiver",
    }
}

fn source(source: pb::Source) -> &'static str {
    match source {
        pb::Source::None => "none",
        pb::Source::Bpf => "bpf",
        pb::Source::TcpInfo => "tcp_info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(parent: &str, child: &str, from_child: bool, value: u32) -> pb::HopReport {
        pb::HopReport {
            parent: parent.into(),
            child: child.into(),
            from_child,
            relay_bytes: value.into(),
            kernel_bytes: value.into(),
            wire_bytes: value.into(),
            mbit_s: value.into(),
            srtt_us: value,
            min_rtt_us: value,
            cwnd: value,
            retransmits: value.into(),
            first_byte_us: value.into(),
            first_byte_p99_us: value.into(),
            residence_p50_us: value.into(),
            residence_p99_us: value.into(),
            verdict: pb::Verdict::Network.into(),
            source: pb::Source::Bpf.into(),
            ..Default::default()
        }
    }

    #[test]
    fn each_figure_comes_from_the_end_that_knows_it() {
        let mut sender = report("a", "b", false, 1000);
        sender.source = pb::Source::TcpInfo.into();
        let mut receiver = report("a", "b", true, 2000);
        receiver.verdict = pb::Verdict::Receiver.into();
        let hop = merge(Some(&sender), Some(&receiver)).unwrap();
        assert_eq!((hop.relay_bytes, hop.kernel_bytes, hop.wire_bytes), (2000, 2000, 2000));
        assert_eq!((hop.mbit_s, hop.first_byte_ms, hop.first_byte_p99_ms), (2000.0, 2.0, 2.0));
        assert_eq!((hop.srtt_ms, hop.min_rtt_ms, hop.retransmits), (1.0, 1.0, 1000));
        assert_eq!((hop.unit_p50_ms, hop.unit_p99_ms), (1.0, 1.0));
        assert_eq!((hop.verdict.as_str(), hop.source.as_str()), ("network", "bpf"));
    }

    #[test]
    fn one_end_speaks_for_both() {
        let root = report(REGISTRY, "a", true, 3000);
        let hop = merge(None, Some(&root)).unwrap();
        assert_eq!((hop.relay_bytes, hop.retransmits, hop.srtt_ms), (3000, 3000, 3.0));
        let hop = merge(Some(&root), None).unwrap();
        assert_eq!((hop.relay_bytes, hop.retransmits, hop.srtt_ms), (3000, 3000, 3.0));
        assert_eq!(merge(None, None), None);
    }

    #[test]
    fn no_number_breaks_the_json() {
        let mut odd = report("a", "b", true, 1);
        (odd.mbit_s, odd.verdict, odd.source) = (f64::NAN, 77, -1);
        let hop = merge(None, Some(&odd)).unwrap();
        assert_eq!(
            (hop.mbit_s, hop.verdict.as_str(), hop.source.as_str()),
            (0.0, "unknown", "none")
        );
    }

    #[test]
    fn the_hop_silent_for_longest_makes_room() {
        let mut reports = Reports::default();
        for number in 0..HOPS_PER_NODE_MAX {
            reports.put(report("a", &format!("c{number}"), false, number), u64::from(number));
        }
        reports.put(report("a", "c0", false, 7), 1_000_000);
        reports.put(report("a", "new", false, 8), 1_000_001);
        assert_eq!(reports.latest.len(), HOPS_PER_NODE_MAX as usize);
        assert!(reports.latest.contains_key(&("c0".to_owned(), false)));
        assert!(!reports.latest.contains_key(&("c1".to_owned(), false)));
    }
}
