//! Whether a silent parent is alive: a node that waits for its own parent is, and says so; one that
//! is stopped or cut off does not, and is left at once by everything that waits for it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, info};
use xylem_protocol::pb::node_message::Kind;
use xylem_protocol::{Digest, pb};

use super::Agent;
use crate::link::{Attempt, ToHot};
use crate::oneline::chain;

/// Nodes that are being asked.
#[derive(Debug, Default)]
pub(super) struct Alive {
    asked: RefCell<HashSet<Arc<str>>>,
}

impl Agent {
    /// A flow's parent has been silent for a while; `late`: since another one was lost.
    pub(super) fn silent(self: &Rc<Self>, digest: Digest, attempt: Attempt, late: bool) {
        let found = self.flows.with(&digest, |flow| flow.peer_of(attempt)).flatten();
        let Some((node, address)) = found else { return };
        if late && self.leaves_early(&digest, attempt) {
            debug!(%digest, %node, "nothing comes from it either");
            return self.post.send(ToHot::GiveUp { digest, attempt, moved: false });
        }
        if !self.trees.is_usable(&node) {
            return self.give_up(&node);
        }
        if !self.alive.asked.borrow_mut().insert(node.clone()) {
            return;
        }
        let agent = self.clone();
        tokio_uring::spawn(async move {
            let answer = agent.peers.alive(&node, address).await;
            agent.alive.asked.borrow_mut().remove(&node);
            match answer {
                Ok(()) => debug!(%node, "silent, and alive"),
                Err(error) => {
                    info!(%node, error = chain(&error), "stuck: its blobs come from elsewhere");
                    agent.trees.avoid_stuck(&node);
                    if let Some(control) = &agent.control {
                        control.send(Kind::Stuck(pb::Stuck { node: node.to_string() }));
                    }
                    agent.give_up(&node);
                }
            }
        });
    }

    /// Everything that comes from a node is to come from elsewhere.
    fn give_up(&self, node: &Arc<str>) {
        let mut stuck = Vec::new();
        self.flows.for_each(|digest, flow| {
            stuck.extend(flow.attempts_at(node).map(|attempt| (*digest, attempt)));
        });
        for (digest, attempt) in stuck {
            self.post.send(ToHot::GiveUp { digest, attempt, moved: false });
        }
    }
}
