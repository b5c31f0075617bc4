//! The one place where the ring thread's samples come in and hop reports go out.

use serde::Serialize;
use xylem_protocol::pb;

use crate::link::Report;

/// What is known of this node's hops.
#[derive(Debug, Default)]
pub(super) struct HopFeed {
    reports: Vec<pb::HopReport>,
}

impl HopFeed {
    /// Takes in what the ring thread has counted.
    pub(super) fn take(&mut self, _report: &Report) {}

    /// This node's ends of its hops.
    pub(super) fn reports(&self) -> &[pb::HopReport] {
        &self.reports
    }

    /// Which probes run (`bpf`, `tcp_info`, `none`), and why not others.
    pub(super) fn probes(&self) -> (&'static str, Option<String>) {
        ("none", None)
    }
}

/// A hop as `/xylem/v1/hops` shows it.
#[derive(Debug, Serialize)]
pub(super) struct HopJson<'a> {
    parent: &'a str,
    child: &'a str,
    relay_bytes: u64,
    kernel_bytes: u64,
    wire_bytes: u64,
    mbit_s: f64,
    srtt_ms: f64,
    min_rtt_ms: f64,
    retransmits: u64,
    first_byte_ms: f64,
    first_byte_p99_ms: f64,
    unit_p50_ms: f64,
    unit_p99_ms: f64,
    verdict: &'static str,
    source: &'static str,
}

impl<'a> From<&'a pb::HopReport> for HopJson<'a> {
    fn from(hop: &'a pb::HopReport) -> Self {
        Self {
            parent: &hop.parent,
            child: &hop.child,
            relay_bytes: hop.relay_bytes,
            kernel_bytes: hop.kernel_bytes,
            wire_bytes: hop.wire_bytes,
            mbit_s: hop.mbit_s,
            srtt_ms: f64::from(hop.srtt_us) / 1e3,
            min_rtt_ms: f64::from(hop.min_rtt_us) / 1e3,
            retransmits: hop.retransmits,
            first_byte_ms: ms(hop.first_byte_us),
            first_byte_p99_ms: ms(hop.first_byte_p99_us),
            unit_p50_ms: ms(hop.residence_p50_us),
            unit_p99_ms: ms(hop.residence_p99_us),
            verdict: match hop.verdict() {
                pb::Verdict::Unknown => "unknown",
                pb::Verdict::Sender => "sender",
                pb::Verdict::Network => "network",
                pb::Verdict::Receiver => "receiver",
            },
            source: match hop.source() {
                pb::Source::None => "none",
                pb::Source::Bpf => "bpf",
                pb::Source::TcpInfo => "tcp_info",
            },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a hop fit into 52 bits")]
fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}
