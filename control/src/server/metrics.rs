//! Control's own counters in the Prometheus text format. What nodes measure is exported by the
//! nodes.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use xylem_protocol::pb::control_message::Kind;

use crate::state::{Event, Totals};

/// All metrics of control.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    attached: Gauge,
    lost: Gauge,
    slow: Gauge,
    trees: Gauge,
    places: Gauge,
    hellos: Counter,
    joins: Counter,
    leaves: Counter,
    completes: Counter,
    stucks: Counter,
    heartbeats: Counter,
    reports: Counter,
    assignments: Counter,
    refusals: Counter,
    preheats: Counter,
    /// Streams dropped because their node did not read.
    pub(super) clogged: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("xylem_control");
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let attached = gauge("nodes_attached", "Nodes with an open stream");
        let lost =
            gauge("nodes_lost", "Nodes whose stream broke off and that keep their places yet");
        let slow = gauge("nodes_slow", "Nodes whose uplinks are taken for slow");
        let trees = gauge("trees", "Trees that stand");
        let places = gauge("places", "Places of nodes in all trees together");
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            attached,
            lost,
            slow,
            trees,
            places,
            hellos: counter("hellos", "Nodes that introduced themselves"),
            joins: counter("joins", "Requests for a place in a tree"),
            leaves: counter("leaves", "Places given back by their node"),
            completes: counter("completes", "Images that a node has got whole"),
            stucks: counter("stucks", "Times that a node has left one that was silent"),
            heartbeats: counter("heartbeats", "Heartbeats received"),
            reports: counter("hop_reports", "Hop reports received"),
            assignments: counter("assignments", "Places told to nodes"),
            preheats: counter("preheats", "Times that a node was told to pull an image"),
            refusals: counter("refusals", "Messages of nodes that were not accepted"),
            clogged: counter("streams_clogged", "Streams dropped because the node did not read"),
            registry,
        }
    }

    pub(super) fn count_event(&self, event: &Event) {
        match event {
            Event::Hello(_) => drop(self.hellos.inc()),
            Event::Join { .. } => drop(self.joins.inc()),
            Event::Leave { .. } => drop(self.leaves.inc()),
            Event::Complete { .. } => drop(self.completes.inc()),
            Event::Stuck { .. } => drop(self.stucks.inc()),
            Event::Heartbeat(_) => drop(self.heartbeats.inc()),
            Event::Hops(reports) => drop(self.reports.inc_by(reports.len() as u64)),
            Event::Preheat(_) | Event::Goodbye | Event::Lost => {}
        }
    }

    pub(super) fn count_message(&self, message: &Kind) {
        match message {
            Kind::Welcome(_) => {}
            Kind::Assignment(_) => drop(self.assignments.inc()),
            Kind::Preheat(_) => drop(self.preheats.inc()),
            Kind::Refusal(_) => drop(self.refusals.inc()),
        }
    }

    /// The text that a scrape gets.
    pub(super) fn text(&self, totals: Totals) -> Result<String, fmt::Error> {
        self.attached.set(totals.attached.into());
        self.lost.set(totals.lost.into());
        self.slow.set(totals.slow.into());
        self.trees.set(totals.trees.into());
        self.places.set(totals.places.into());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
