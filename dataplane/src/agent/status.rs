//! What the node tells about itself: `/xylem/v1/status`, metrics, and what control hears.

use serde_json::{Value, json};
use xylem_protocol::pb;

use super::Agent;

impl Agent {
    /// State of the node.
    pub(super) fn status(&self) -> Value {
        let settings = &self.settings;
        let totals = self.store.totals();
        let control = self.control.as_ref().map(|control| {
            json!({
                "address": control.address(),
                "connected": control.is_connected(),
                "stalled": control.patience().is_stalled(),
            })
        });
        let (mode, reason) = self.hops.probes();
        let mut flows = Vec::new();
        self.flows.for_each(|digest, flow| {
            flows.push(json!({
                "digest": digest.to_string(),
                "received_bytes": flow.received,
                "size": flow.size,
                "source": flow.upstreams(),
            }));
        });
        let images = self.trees.view().into_iter().map(|tree| {
            json!({
                "image": tree.image.to_string(),
                "epoch": tree.epoch,
                "parent": tree.parent.as_deref(),
            })
        });
        let stale: Vec<Value> = (self.tags.stale().into_iter())
            .map(|tag| {
                json!({
                    "image": tag.image,
                    "digest": tag.digest.to_string(),
                    "age_s": tag.age.as_secs(),
                })
            })
            .collect();
        let known = self.registries.known().into_iter();
        let registries: Vec<Value> =
            known.map(|(host, url)| json!({ "host": host, "url": url })).collect();
        let report = self.report.borrow();
        json!({
            "node": settings.node,
            "version": env!("CARGO_PKG_VERSION"),
            "listen": settings.listen.to_string(),
            "upstream": self.registries.default_origin().name(),
            "registries": registries,
            "all": self.registries.takes_all(),
            "control": control,
            "memory": {
                "bytes": settings.memory_bytes,
                "slots_used": report.slots_used,
            },
            "connections": { "downstream": report.downstream, "catching_up": report.catching_up },
            "store": {
                "blobs": totals.blobs,
                "bytes": totals.bytes,
                "partial": totals.partial,
                "free_bytes": self.store.free_bytes(),
            },
            "stale_tags": stale,
            "gaps": { "count": self.gaps.get().0, "max_ms": self.gaps.get().1 },
            "probes": { "mode": mode, "reason": reason },
            "flows": flows,
            "images": images.collect::<Vec<Value>>(),
        })
    }

    /// Metrics, brought up to date.
    pub(super) fn metrics_text(&self) -> String {
        let totals = self.store.totals();
        let connected = self.control.as_ref().is_some_and(|control| control.is_connected());
        self.metrics.text(
            &totals,
            self.flows.len(),
            connected,
            &self.report.borrow(),
            &self.hops.reports(),
        )
    }

    /// What a control process that may be new has to know.
    pub(super) fn hello(&self) -> (pb::Hello, Vec<pb::Join>) {
        let settings = &self.settings;
        let (memberships, joins) = self.trees.rejoin(|blob| self.store.size_of(blob));
        let hello = pb::Hello {
            node: settings.node.clone(),
            address: settings.advertise.to_string(),
            zone: settings.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            memberships,
        };
        (hello, joins)
    }

    pub(super) fn heartbeat(&self) -> pb::Heartbeat {
        pb::Heartbeat {
            held_bytes: self.store.held_bytes(),
            free_bytes: self.store.free_bytes(),
            active_flows: u32::try_from(self.flows.len()).unwrap_or(u32::MAX),
        }
    }

    /// Says which images are here whole.
    pub(super) fn tell_complete(&self) {
        self.trees.tell_complete(|blob| self.store.size_of(blob).is_some());
    }

    pub(super) fn hop_reports(&self) -> Vec<pb::HopReport> {
        self.hops.reports()
    }
}
