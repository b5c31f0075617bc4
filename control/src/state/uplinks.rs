//! Hop reports as they come in, and the nodes whose uplinks they show to be slow.

use std::collections::HashMap;

use xylem_protocol::pb;

use super::hops::Reports;
use super::{Output, SessionId, State, refuse};
use crate::forest::{self, NodeId, TreeKey};
use crate::limits::{HEARTBEAT_MIN_MS, REPORTERS_FAST_MAX};
use crate::placement::watch::{Count, Field, Watch};
use crate::tree::ShapeKind;

/// What is known of uplinks.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    watch: Watch,
    /// For each image that somebody has not all of, as of the last tick.
    fields: HashMap<TreeKey, Field>,
}

impl Uplinks {
    /// A number stands for another node from now on.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.watch.forget(node);
    }

    /// Nodes that are taken for slow.
    pub(super) fn slow(&self) -> u32 {
        self.watch.marked()
    }
}

impl State {
    /// How often nodes are to report, ms.
    pub(super) fn report_ms(&self) -> u32 {
        let heartbeat_ms = self.settings.heartbeat_ms;
        let few = self.roster.iter().take(REPORTERS_FAST_MAX as usize + 1).count();
        if few > REPORTERS_FAST_MAX as usize {
            return heartbeat_ms;
        }
        (heartbeat_ms / 4).max(HEARTBEAT_MIN_MS)
    }

    pub(super) fn hops(
        &mut self,
        session: SessionId,
        node: NodeId,
        reports: Vec<pb::HopReport>,
        now_ms: u64,
        out: &mut Vec<Output>,
    ) {
        let Some(name) = self.roster.get(node).map(|node| node.name.clone()) else { return };
        let mut counts = Vec::with_capacity(reports.len());
        for report in reports {
            if Reports::reporter(&report) != name {
                let reason = format!("node {name} is not the end that this hop report names");
                refuse(session, None, reason, out);
                continue;
            }
            counts.push(self.count(&report));
            if let Some(node) = self.roster.get_mut(node) {
                node.reports.put(report, now_ms);
            }
        }
        self.uplinks.watch.heard(node, &counts, now_ms);
        let sends = counts.iter().any(|count| !count.from_child);
        if sends && self.settings.shape != ShapeKind::Ft {
            self.judge(node, now_ms, out);
        }
    }

    fn count(&self, report: &pb::HopReport) -> Count {
        let peer = if report.from_child { &report.parent } else { &report.child };
        Count {
            peer: self.roster.by_name(peer),
            from_child: report.from_child,
            // What the kernel has got rid of, where it says so: the relay counts what it took.
            bytes: match report.source() {
                pb::Source::None => report.relay_bytes,
                pb::Source::Bpf | pb::Source::TcpInfo => report.kernel_bytes,
            },
            at_us: report.at_us,
            held_us: report.held_us,
        }
    }

    /// Puts a node aside if its uplink is found to be slow.
    fn judge(&mut self, node: NodeId, now_ms: u64, out: &mut Vec<Output>) {
        let fields = &mut self.uplinks.fields;
        let of_node = |key: &TreeKey| fields.get(key).copied().filter(|field| field.usual > 0);
        // Of several images that whose nodes send least: the others may have better links.
        let field = self.forest.memberships(node).filter_map(|key| of_node(&key));
        let Some(field) = field.min_by_key(|field| field.usual) else { return };
        if !self.uplinks.watch.judge(node, field, now_ms) {
            return;
        }
        for key in self.forest.memberships(node) {
            if let Some(field) = fields.get_mut(&key) {
                field.slow_fellows += 1;
                field.suspects = field.suspects.saturating_sub(1);
                field.crawl = field.crawl.saturating_sub(1);
            }
        }
        self.change_surely(&forest::Event::Uplink { node, slow: true }, out);
    }

    /// Looks at what all send, and gives nodes another try whose time is over.
    pub(super) fn tick_uplinks(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let Uplinks { watch, fields } = &mut self.uplinks;
        fields.clear();
        for key in self.forest.moving() {
            let mut field = Field::default();
            let mut bests = Vec::new();
            for node in self.forest.members(key) {
                field.fellows += 1;
                field.slow_fellows += u32::from(self.forest.is_slow(node));
                field.suspects += u32::from(watch.is_suspected(node, now_ms));
                field.intake = field.intake.max(watch.intake(node, now_ms));
                bests.extend(watch.best(node, now_ms));
            }
            field.usual = Field::usual(&mut bests);
            for node in self.forest.members(key) {
                field.crawl += u32::from(watch.crawls(node, field.usual, now_ms));
            }
            fields.insert(key, field);
        }
        let mut over = Vec::new();
        watch.tick(now_ms, &mut over);
        for node in over {
            self.change_surely(&forest::Event::Uplink { node, slow: false }, out);
        }
    }
}
