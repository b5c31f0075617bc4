//! What a node counts, for Prometheus. Counts only; who counts what is elsewhere.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use xylem_protocol::pb::HopReport;

use crate::link::Report;
use crate::store::Totals;

type Number = Gauge<u64, AtomicU64>;
type Real = Gauge<f64, AtomicU64>;

/// Bounds of the histogram of gaps, seconds.
const GAP_BUCKETS_S: [f64; 9] = [0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hop {
    parent: String,
    child: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HopQuantile {
    parent: String,
    child: String,
    quantile: &'static str,
}

/// All metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    errors: Family<Cause, Counter>,
    committed: Counter,
    committed_bytes: Counter,
    blobs: Number,
    blob_bytes: Number,
    partial: Number,
    flows: Number,
    slots: Number,
    downstream: Number,
    catching_up: Number,
    detached: Counter,
    gaps: Histogram,
    control: Number,
    hop_relay: Family<Hop, Counter>,
    hop_kernel: Family<Hop, Counter>,
    hop_retransmits: Family<Hop, Counter>,
    hop_first_byte: Family<HopQuantile, Real>,
    hop_residence: Family<HopQuantile, Real>,
}

impl Metrics {
    /// All at zero.
    pub fn new(node: &str) -> Self {
        let mut registry = Registry::with_prefix("xylem");
        let labels = [("node", node.to_owned()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register("node", "This node", Info::new(Vec::from(labels)));
        let mut metrics = Self {
            registry,
            errors: Family::default(),
            committed: Counter::default(),
            committed_bytes: Counter::default(),
            blobs: Number::default(),
            blob_bytes: Number::default(),
            partial: Number::default(),
            flows: Number::default(),
            slots: Number::default(),
            downstream: Number::default(),
            catching_up: Number::default(),
            detached: Counter::default(),
            gaps: Histogram::new(GAP_BUCKETS_S),
            control: Number::default(),
            hop_relay: Family::default(),
            hop_kernel: Family::default(),
            hop_retransmits: Family::default(),
            hop_first_byte: Family::default(),
            hop_residence: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("errors", "Things that went wrong, by cause", self.errors.clone());
        r.register("blobs_committed", "Blobs verified and made durable", self.committed.clone());
        let bytes = self.committed_bytes.clone();
        r.register_with_unit("blobs_committed", "Their bytes", Unit::Bytes, bytes);
        r.register("store_blobs", "Complete blobs in the store", self.blobs.clone());
        r.register_with_unit(
            "store",
            "Bytes of complete blobs",
            Unit::Bytes,
            self.blob_bytes.clone(),
        );
        r.register("store_partial_blobs", "Partial blobs in the store", self.partial.clone());
        r.register("flows", "Blobs being fetched", self.flows.clone());
        r.register("slots_used", "Slots that hold a block", self.slots.clone());
        r.register("downstream_connections", "Connections from below", self.downstream.clone());
        r.register("readers_catching_up", "Readers served from the file", self.catching_up.clone());
        let help = "Times that a reader fell from the live edge back to the file";
        r.register("readers_detached", help, self.detached.clone());
        let help = "From the last byte of a lost source to the first of the next";
        r.register_with_unit("source_gap", help, Unit::Seconds, self.gaps.clone());
        r.register("control_connected", "Whether there is a link to control", self.control.clone());
        let help = "Payload parent to child, counted by the relay";
        r.register_with_unit("hop_relay", help, Unit::Bytes, self.hop_relay.clone());
        let help = "Payload parent to child, counted by the kernel";
        r.register_with_unit("hop_kernel", help, Unit::Bytes, self.hop_kernel.clone());
        r.register("hop_retransmits", "Segments sent again", self.hop_retransmits.clone());
        let help = "Request sent to first body byte";
        r.register_with_unit("hop_first_byte", help, Unit::Seconds, self.hop_first_byte.clone());
        let help = "A unit's time in the node, received to sent";
        r.register_with_unit("hop_unit_residence", help, Unit::Seconds, self.hop_residence.clone());
    }

    /// Something went wrong.
    pub fn error(&self, cause: &'static str) {
        self.errors.get_or_create(&Cause { cause }).inc();
    }

    /// A lost source was replaced.
    pub fn gap(&self, ms: u32) {
        self.gaps.observe(f64::from(ms) / 1e3);
    }

    /// A blob is complete.
    pub fn committed(&self, bytes: u64) {
        self.committed.inc();
        self.committed_bytes.inc_by(bytes);
    }

    /// Everything in the exposition format, with the present state of what is counted elsewhere.
    pub fn text(
        &self,
        totals: &Totals,
        flows: usize,
        control: bool,
        report: &Report,
        hops: &[HopReport],
    ) -> String {
        self.blobs.set(totals.blobs);
        self.blob_bytes.set(totals.bytes);
        self.partial.set(totals.partial);
        self.flows.set(flows as u64);
        self.control.set(u64::from(control));
        self.slots.set(report.slots_used.into());
        self.downstream.set(report.downstream.into());
        self.catching_up.set(report.catching_up.into());
        advance(&self.detached, report.detached_total);
        for hop in hops {
            self.hop(hop);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn hop(&self, report: &HopReport) {
        let (parent, child) = (report.parent.clone(), report.child.clone());
        let labels = Hop { parent: parent.clone(), child: child.clone() };
        advance(&self.hop_relay.get_or_create(&labels), report.relay_bytes);
        advance(&self.hop_kernel.get_or_create(&labels), report.kernel_bytes);
        advance(&self.hop_retransmits.get_or_create(&labels), report.retransmits);
        for (family, quantile, us) in [
            (&self.hop_first_byte, "0.5", report.first_byte_us),
            (&self.hop_first_byte, "0.99", report.first_byte_p99_us),
            (&self.hop_residence, "0.5", report.residence_p50_us),
            (&self.hop_residence, "0.99", report.residence_p99_us),
        ] {
            let labels = HopQuantile { parent: parent.clone(), child: child.clone(), quantile };
            #[expect(
                clippy::cast_precision_loss,
                reason = "microseconds of a hop fit into 52 bits"
            )]
            family.get_or_create(&labels).set(us as f64 / 1e6);
        }
    }
}

/// Brings a counter up to a total that is counted elsewhere.
fn advance(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported() {
        let metrics = Metrics::new("n1");
        metrics.error("short");
        metrics.committed(5);
        metrics.gap(250);
        let report = Report { detached_total: 3, ..Report::default() };
        let hop = HopReport {
            parent: "a".into(),
            child: "b".into(),
            relay_bytes: 7,
            ..HopReport::default()
        };
        let totals = Totals { blobs: 1, bytes: 5, partial: 0 };
        let text = metrics.text(&totals, 2, true, &report, std::slice::from_ref(&hop));
        for line in [
            "xylem_errors_total{cause=\"short\"} 1",
            "xylem_blobs_committed_bytes_total 5",
            "xylem_store_bytes 5",
            "xylem_flows 2",
            "xylem_source_gap_seconds_bucket{le=\"0.3\"} 1",
            "xylem_source_gap_seconds_bucket{le=\"0.2\"} 0",
            "xylem_readers_detached_total 3",
            "xylem_hop_relay_bytes_total{parent=\"a\",child=\"b\"} 7",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let again = metrics.text(&totals, 2, true, &report, &[hop]);
        assert!(
            again.contains("relay_bytes_total{parent=\"a\",child=\"b\"} 7"),
            "totals are not added twice"
        );
    }
}
