//! The state as the HTTP API shows it. Reads, never changes.

use super::State;
use super::hops;
use super::roster::{Node, Phase};
use crate::api;
use crate::forest::{NodeId, TreeKey};

/// Numbers for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nodes with an open stream.
    pub attached: u32,
    /// Nodes whose stream broke off.
    pub lost: u32,
    /// Nodes whose uplinks are taken for slow.
    pub slow: u32,
    /// Images that have trees.
    pub trees: u32,
    /// Places of nodes, one for each of their images.
    pub places: u32,
}

impl State {
    /// The nodes, by name.
    pub fn status(&self, now_ms: u64) -> api::Status {
        let slow = |node: &Node| {
            let id = self.roster.by_name(&node.name);
            id.is_some_and(|id| self.forest.is_slow(id))
        };
        let shown = self.roster.iter().map(|node| show(node, slow(node), now_ms));
        let mut nodes: Vec<_> = shown.collect();
        nodes.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shape: self.forest.kind().to_string(),
            uptime_s: std::time::Duration::from_millis(now_ms - self.started_ms).as_secs_f64(),
            nodes,
            trees: self.totals().trees,
        }
    }

    /// The trees, by image and stripe, each in level order.
    pub fn trees(&self) -> api::Trees {
        let mut keys: Vec<_> = self.forest.keys().collect();
        keys.sort_unstable();
        let stripes = self.forest.stripes();
        let trees = |key| (0..stripes).map(move |stripe| self.tree(key, stripe));
        api::Trees { trees: keys.into_iter().flat_map(trees).collect() }
    }

    /// The hops of which a node has reported.
    pub fn hop_table(&self) -> api::Hops {
        api::Hops { hops: hops::merged(self.roster.iter()) }
    }

    /// One preheat; `None` if it is not remembered.
    pub fn preheat_view(&self, id: u64, now_ms: u64) -> Option<api::Preheat> {
        self.preheats.view(id, now_ms)
    }

    /// Numbers for the metrics.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { slow: self.uplinks.slow(), ..Totals::default() };
        for node in self.roster.iter() {
            match node.phase {
                Phase::Attached(_) => totals.attached += 1,
                Phase::Lost { .. } => totals.lost += 1,
                Phase::Gone { .. } => {}
            }
        }
        for key in self.forest.keys() {
            totals.trees += 1;
            totals.places += self.forest.len(key);
        }
        totals
    }

    fn tree(&self, key: TreeKey, stripe: u8) -> api::Tree {
        let name = |node: NodeId| self.roster.get(node).map_or("", |node| &node.name).to_owned();
        let address =
            |node: NodeId| self.roster.get(node).map_or("", |node| &node.address).to_owned();
        let nodes = self.forest.level_order(key, stripe).map(|standing| api::TreeNode {
            node: name(standing.node),
            address: address(standing.node),
            parent: standing.parent.map(name),
            children: standing.children.into_iter().map(name).collect(),
            level: standing.level,
            complete: standing.complete,
        });
        api::Tree {
            image: key.image.to_string(),
            name: self.names.get(&key).cloned().unwrap_or_default(),
            shape: self.forest.kind().to_string(),
            stripe,
            stripes: self.forest.stripes(),
            epoch: self.forest.epoch(key).unwrap_or_default(),
            nodes: nodes.collect(),
        }
    }
}

fn show(node: &Node, slow_uplink: bool, now_ms: u64) -> api::Node {
    api::Node {
        node: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
        connected: matches!(node.phase, Phase::Attached(_)),
        last_seen_ms: now_ms.saturating_sub(node.last_seen_ms),
        held_bytes: node.heartbeat.held_bytes,
        free_bytes: node.heartbeat.free_bytes,
        active_flows: node.heartbeat.active_flows,
        slow_uplink,
        version: node.version.clone(),
    }
}
