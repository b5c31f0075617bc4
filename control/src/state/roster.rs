//! The nodes that control knows: by number, by name, by stream. No trees, no messages.

use std::collections::HashMap;

use xylem_protocol::pb;

use super::SessionId;
use super::hops::Reports;
use crate::forest::NodeId;
use crate::limits::{GONE_KEPT_MS, NODES_MAX};

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its stream is open.
    Attached(SessionId),
    /// Its stream broke off; it keeps its places for a while.
    Lost { since_ms: u64 },
    /// It is in no tree any more.
    Gone { since_ms: u64 },
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) zone: String,
    pub(super) version: String,
    pub(super) phase: Phase,
    pub(super) last_seen_ms: u64,
    /// When another node has found it to be silent; heard since, it is alive.
    pub(super) stuck_ms: Option<u64>,
    pub(super) heartbeat: pb::Heartbeat,
    pub(super) reports: Reports,
}

impl Node {
    pub(super) fn attached(
        name: String,
        address: String,
        zone: String,
        version: String,
        session: SessionId,
        now_ms: u64,
    ) -> Self {
        Self {
            name,
            address,
            zone,
            version,
            phase: Phase::Attached(session),
            last_seen_ms: now_ms,
            stuck_ms: None,
            heartbeat: pb::Heartbeat::default(),
            reports: Reports::default(),
        }
    }

    pub(super) fn peer(&self) -> pb::Peer {
        pb::Peer { node: self.name.clone(), address: self.address.clone() }
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Roster {
    nodes: Vec<Option<Node>>,
    free: Vec<NodeId>,
    names: HashMap<String, NodeId>,
    sessions: HashMap<SessionId, NodeId>,
}

impl Roster {
    pub(super) fn get(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(node.0 as usize)?.as_mut()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    pub(super) fn by_session(&self, session: SessionId) -> Option<NodeId> {
        self.sessions.get(&session).copied()
    }

    /// The numbers in use, and some that are not.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        let count = u32::try_from(self.nodes.len()).unwrap_or(NODES_MAX);
        (0..count).map(NodeId)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Takes in a node with an open stream; one of the same name keeps its number and its reports.
    /// `None`: no room.
    pub(super) fn attach(&mut self, mut node: Node) -> Option<NodeId> {
        let Phase::Attached(session) = node.phase else { return None };
        let id = match self.by_name(&node.name) {
            Some(id) => {
                let old = self.get_mut(id)?;
                node.reports = std::mem::take(&mut old.reports);
                if let Phase::Attached(old) = old.phase {
                    self.sessions.remove(&old);
                }
                id
            }
            None => self.number()?,
        };
        self.sessions.insert(session, id);
        self.names.insert(node.name.clone(), id);
        self.nodes[id.0 as usize] = Some(node);
        Some(id)
    }

    pub(super) fn detach(&mut self, id: NodeId, phase: Phase) {
        let Some(node) = self.get_mut(id) else { return };
        let before = std::mem::replace(&mut node.phase, phase);
        if let Phase::Attached(session) = before {
            self.sessions.remove(&session);
        }
    }

    /// Forgets a node that is in no tree.
    pub(super) fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.names.remove(&node.name);
        if let Phase::Attached(session) = node.phase {
            self.sessions.remove(&session);
        }
        self.free.push(id);
    }

    pub(super) fn forget_long_gone(&mut self, now_ms: u64) {
        for id in self.ids() {
            if let Some(Node { phase: Phase::Gone { since_ms }, .. }) = self.get(id)
                && now_ms > since_ms + GONE_KEPT_MS
            {
                self.remove(id);
            }
        }
    }

    /// A number for a new node; where all are taken, that of the node that is gone for longest.
    fn number(&mut self) -> Option<NodeId> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let count = u32::try_from(self.nodes.len()).ok()?;
        if count < NODES_MAX {
            self.nodes.push(None);
            return Some(NodeId(count));
        }
        let gone = self.ids().filter_map(|id| match self.get(id)?.phase {
            Phase::Gone { since_ms } => Some((since_ms, id)),
            Phase::Attached(_) | Phase::Lost { .. } => None,
        });
        let (_, longest) = gone.min()?;
        self.remove(longest);
        self.free.pop()
    }
}
