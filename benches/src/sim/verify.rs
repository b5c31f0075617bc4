//! What must be true of a run when it is over.

use super::node::Phase;
use super::world::{Report, World};

impl World {
    /// Every node that lives has every blob, or an excuse; every client is served or gone.
    pub(super) fn is_finished(&self) -> bool {
        let stored = self.nodes.iter().filter(|node| node.alive).all(|node| {
            node.blobs.iter().all(|blob| {
                let excused = blob.phase == Phase::Failed && node.plan.failing_write.is_some();
                blob.phase == Phase::Stored || excused
            })
        });
        stored && self.clients.iter().all(super::client::Client::is_over)
    }

    pub(super) fn assert_finished(&self) {
        for stream in &self.net.streams {
            stream.check();
        }
        for node in self.nodes.iter().filter(|node| node.alive) {
            node.relay.check();
            for (index, blob) in node.blobs.iter().enumerate() {
                let Some(flow) = blob.flow.filter(|_| blob.phase == Phase::Stored) else {
                    continue;
                };
                assert!(node.audit.is_stored(flow), "stored, but not whole");
                assert_eq!(node.relay.stored_bytes(flow), self.plan.blobs[index]);
            }
        }
    }

    /// Nobody asks any more: everything has to come to rest.
    pub(super) fn close(&mut self) {
        self.closing = true;
        for client in 0..self.clients.len() {
            if let Some(stream) = self.clients[client].stream {
                self.leave_stream(stream);
            }
        }
        for node in 0..self.nodes.len() {
            for blob in 0..self.plan.blobs.len() {
                let here = &self.nodes[node];
                if let Some(flow) = here.blobs[blob].flow.filter(|_| here.alive) {
                    self.apply(node, xylem_dataplane::relay::Event::Abandon { flow });
                }
            }
        }
    }

    pub(super) fn assert_closed(&self) {
        for node in self.nodes.iter().filter(|node| node.alive) {
            node.audit.assert_empty();
            assert_eq!(node.relay.slots_used(), 0, "slots that never came back");
            assert!(node.flows.iter().all(Option::is_none), "flows that were never closed");
            assert!(node.answers.iter().all(Option::is_none), "answers that never ended");
            let totals = node.relay.totals();
            assert_eq!((totals.received, totals.stored, totals.sent), node.audit.counts());
            let of = |host| self.net.streams.iter().filter(move |stream| stream.to == host);
            let delivered: u64 = of(node.host).map(|stream| stream.delivered).sum();
            assert_eq!(totals.received, delivered, "received is what links delivered");
            let from = |host| self.net.streams.iter().filter(move |stream| stream.from == host);
            let accepted: u64 = from(node.host).map(|stream| stream.accepted).sum();
            assert_eq!(totals.sent + node.unreported_bytes, accepted, "sent is what links took");
        }
    }

    pub(super) fn report(&self, items: u64) -> Report {
        let from_registry = self.net.streams.iter().filter(|stream| stream.from == self.registry);
        let living = || self.nodes.iter().filter(|node| node.alive);
        Report {
            nodes: self.nodes.len(),
            died: self.nodes.len() - living().count(),
            time_ns: self.now_ns,
            items,
            received_bytes: self.nodes.iter().map(|node| node.relay.totals().received).sum(),
            registry_bytes: from_registry.map(|stream| stream.delivered).sum(),
            blob_bytes: self.plan.blobs.iter().sum(),
            detached: self.nodes.iter().map(|node| node.relay.totals().detached).sum(),
            failovers: self.failovers,
            mismatches: self.mismatches,
            clients: self.clients.iter().filter(|client| client.done).count(),
        }
    }

    /// Who is not done, for the message of a run that is stuck.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("at {} ms", self.now_ns / super::plan::MS_NS);
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            for (blob, state) in node.blobs.iter().enumerate() {
                if !matches!(state.phase, Phase::Stored | Phase::Failed) {
                    text += &format!("\nnode {index} blob {blob}: {state:?}");
                }
            }
        }
        for (index, client) in self.clients.iter().enumerate().filter(|(_, c)| !c.is_over()) {
            text += &format!("\nclient {index}: {client:?} of {:?}", self.plan.clients[index]);
        }
        text
    }
}
