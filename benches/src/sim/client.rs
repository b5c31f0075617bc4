//! Clients below a node, as a container runtime is one: they read a range, some slowly, some not
//! for a while.

use super::net::{Host, StreamId};
use super::node::Phase;
use super::plan::{ClientPlan, MS_NS};
use super::world::{Asker, Item, Request, World};

/// Between two attempts, ns.
const RETRY_NS: u64 = 50 * MS_NS;

/// A client's progress.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) host: Host,
    pub(super) stream: Option<StreamId>,
    pub(super) taken: u64,
    /// Takes nothing before this time.
    stalled_until_ns: u64,
    stalled: bool,
    pub(super) done: bool,
    pub(super) left: bool,
}

impl Client {
    pub(super) const fn new(host: Host, _plan: &ClientPlan) -> Self {
        Self {
            host,
            stream: None,
            taken: 0,
            stalled_until_ns: 0,
            stalled: false,
            done: false,
            left: false,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.done || self.left
    }
}

impl World {
    pub(super) fn client_start(&mut self, id: usize) {
        let plan = &self.plan.clients[id];
        let count = self.nodes.len();
        let fit = |&node: &usize| {
            self.nodes[node].alive && self.nodes[node].blobs[plan.blob].phase != Phase::Failed
        };
        let node = (plan.node..plan.node + count).map(|node| node % count).find(fit);
        let Some(node) = node.filter(|_| !self.closing) else {
            return self.clients[id].left = true;
        };
        let (at, end) = plan.range;
        let request = Request { who: Asker::Client(id), blob: plan.blob, at, end };
        let stream = self.ask(self.nodes[node].host, self.clients[id].host, request);
        let client = &mut self.clients[id];
        (client.stream, client.taken) = (Some(stream), 0);
    }

    /// Takes what has come, unless it stalls.
    pub(super) fn client_drain(&mut self, id: usize) {
        let plan = &self.plan.clients[id];
        let client = &mut self.clients[id];
        let Some(stream) = client.stream.filter(|_| !client.is_over()) else { return };
        if self.now_ns < client.stalled_until_ns {
            return;
        }
        if client.stalled && plan.leaves {
            client.left = true;
            return self.leave_stream(stream);
        }
        let (at, end) = plan.range;
        let before_stall = match plan.stall {
            Some((after, _)) if !client.stalled => after.saturating_sub(client.taken),
            _ => u64::MAX,
        };
        let taken = self.net.take(stream, before_stall, self.now_ns, &mut self.wires);
        let client = &mut self.clients[id];
        client.taken += taken;
        if client.taken == end - at {
            client.done = true;
            self.progress += 1;
            let whole = at == 0 && end == self.plan.blobs[plan.blob];
            assert!(!whole || self.taints[stream].is_empty(), "a client got a wrong blob");
        } else if taken == before_stall {
            let (_, for_ns) = self.plan.clients[id].stall.expect("a stall");
            client.stalled = true;
            client.stalled_until_ns = self.now_ns + for_ns;
            self.at(self.now_ns + for_ns, Item::ClientDrain(id));
        }
        self.flush_wires();
    }

    /// Begins again, at another node if this one is dead.
    pub(super) fn client_reset(&mut self, id: usize, stream: StreamId) {
        let client = &mut self.clients[id];
        if client.stream == Some(stream) && !client.is_over() {
            client.stream = None;
            self.after(RETRY_NS, Item::ClientStart(id));
        }
    }
}
