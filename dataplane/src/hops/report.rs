//! The figures of one hop as others get them: as a message to control and as JSON.

use serde_json::{Value, json};
use xylem_protocol::pb;

use super::Verdict;

/// Where the kernel's figures came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    #[default]
    None,
    /// The kernel programs, for every connection of the hop.
    Bpf,
    /// `TCP_INFO`, for one connection at least.
    TcpInfo,
}

impl Source {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bpf => "bpf",
            Self::TcpInfo => "tcp_info",
        }
    }
}

/// One hop since this node's start, seen from its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopFigures {
    /// Name of the upper end: a node, or `registry`.
    pub parent: String,
    /// Name of the lower end.
    pub child: String,
    /// This node is the lower end.
    pub from_child: bool,
    /// Payload by the relay's count.
    pub relay_bytes: u64,
    /// Payload by the kernel's count; 0 with [`Source::None`].
    pub kernel_bytes: u64,
    /// With the packets' headers; 0 where no program counts.
    pub wire_bytes: u64,
    /// Payload over the time in which the hop was active, bytes per second.
    pub bytes_s: u64,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: u32,
    /// Least round-trip time, microseconds.
    pub min_rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments sent again by this end.
    pub retransmits: u64,
    /// Median from request to first body byte, microseconds; receiving end.
    pub first_byte_us: u64,
    /// Its 99th percentile.
    pub first_byte_p99_us: u64,
    /// Median of a unit's time in the node, microseconds; sending end.
    pub residence_p50_us: u64,
    /// Its 99th percentile.
    pub residence_p99_us: u64,
    /// One unit in a thousand took longer, microseconds.
    pub residence_p999_us: u64,
    /// What limited it.
    pub verdict: Verdict,
    /// Where the kernel's figures came from.
    pub source: Source,
    /// When the latest sample was taken, `CLOCK_MONOTONIC`, microseconds.
    pub at_us: u64,
    /// Sending end: time in which bytes waited for the network in the kernel, of the connection
    /// that waited longest, microseconds.
    pub held_us: u64,
}

impl HopFigures {
    /// Megabits per second.
    pub fn mbit_s(&self) -> f64 {
        const BITS_PER_BYTE: f64 = 8.0;
        const MEGA: f64 = 1e6;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people, in 53 bits")]
        let bytes_s = self.bytes_s as f64;
        bytes_s * BITS_PER_BYTE / MEGA
    }

    /// As `GET /xylem/v1/hops` shows it.
    pub fn to_json(&self) -> Value {
        json!({
            "parent": self.parent,
            "child": self.child,
            "end": if self.from_child { "child" } else { "parent" },
            "relay_bytes": self.relay_bytes,
            "kernel_bytes": self.kernel_bytes,
            "wire_bytes": self.wire_bytes,
            "mbit_s": self.mbit_s(),
            "srtt_ms": ms(u64::from(self.srtt_us)),
            "min_rtt_ms": ms(u64::from(self.min_rtt_us)),
            "cwnd": self.cwnd,
            "retransmits": self.retransmits,
            "first_byte_ms": ms(self.first_byte_us),
            "first_byte_p99_ms": ms(self.first_byte_p99_us),
            "unit_p50_ms": ms(self.residence_p50_us),
            "unit_p99_ms": ms(self.residence_p99_us),
            "unit_p999_ms": ms(self.residence_p999_us),
            "verdict": self.verdict.as_str(),
            "source": self.source.as_str(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time for people, in 53 bits")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl From<HopFigures> for pb::HopReport {
    fn from(hop: HopFigures) -> Self {
        let mbit_s = hop.mbit_s();
        let verdict = match hop.verdict {
            Verdict::Unknown => pb::Verdict::Unknown,
            Verdict::Sender => pb::Verdict::Sender,
            Verdict::Network => pb::Verdict::Network,
            Verdict::Receiver => pb::Verdict::Receiver,
        };
        let source = match hop.source {
            Source::None => pb::Source::None,
            Source::Bpf => pb::Source::Bpf,
            Source::TcpInfo => pb::Source::TcpInfo,
        };
        Self {
            parent: hop.parent,
            child: hop.child,
            from_child: hop.from_child,
            relay_bytes: hop.relay_bytes,
            kernel_bytes: hop.kernel_bytes,
            wire_bytes: hop.wire_bytes,
            mbit_s,
            srtt_us: hop.srtt_us,
            min_rtt_us: hop.min_rtt_us,
            cwnd: hop.cwnd,
            retransmits: hop.retransmits,
            first_byte_us: hop.first_byte_us,
            first_byte_p99_us: hop.first_byte_p99_us,
            residence_p50_us: hop.residence_p50_us,
            residence_p99_us: hop.residence_p99_us,
            verdict: verdict.into(),
            source: source.into(),
            at_us: hop.at_us,
            held_us: hop.held_us,
        }
    }
}
