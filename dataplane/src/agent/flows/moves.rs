//! When control gives this node another place: which blobs come in stripes, and which of those that
//! are on their way change their source.
//!
//! A blob that is well on its way stays where it is: a new parent may have less of it than this
//! node, and the old one goes on serving. At its beginning a place counts: a parent with a child
//! too many is slow for all of them, and a first node that reads the whole blob from the registry
//! would have the registry send a stripe twice. Away from a slow uplink, and away from where those
//! who leave it go to, all blobs move at once.

use std::sync::Arc;

use tracing::debug;
use xylem_protocol::Digest;
use xylem_protocol::limits::{MOVE_BYTES_MAX, MOVES_MAX, STRIPED_MIN};

use super::Flow;
use super::source::whole_branch;
use crate::agent::{Agent, REGISTRY};
use crate::link::ToHot;

impl Agent {
    /// Whether each stripe of a blob is to have a source of its own: it is worth it, and there are
    /// two parents. All nodes of a tree come to the same answer, but for one that stands alone at
    /// the top of both.
    pub(super) fn is_striped(&self, digest: &Digest, flow: &Flow) -> bool {
        let Some(image) = flow.ask.image.filter(|_| !flow.registry_only) else { return false };
        let size = self.trees.size_of(digest).unwrap_or(flow.size);
        // Who asks for a stripe knows the size.
        let is_worth_it = size >= STRIPED_MIN || flow.ask.stripe.is_some();
        let [first, second] = [0, 1].map(|branch| self.parent_in(&image, branch));
        is_worth_it && self.trees.branches(&image).len() == 2 && first != second
    }

    fn parent_in(&self, image: &Digest, branch: u8) -> Arc<str> {
        let upstreams = self.trees.branch(image, branch);
        upstreams.first().map_or(Arc::from(REGISTRY), |upstream| upstream.node.clone())
    }

    /// Control has given this node another place in an image's trees; `at_once`: blobs that are
    /// well on their way follow too.
    pub(in crate::agent) fn moved(&self, image: &Digest, at_once: bool) {
        let mut orders = Vec::new();
        self.flows.for_each_mut(|digest, flow| {
            let is_its = flow.ask.image == Some(*image) && flow.started && !flow.ending;
            let follows = at_once || flow.received <= MOVE_BYTES_MAX;
            let follows = follows && flow.moves < MOVES_MAX;
            if !is_its || !follows || flow.registry_only || flow.splitting {
                return;
            }
            if !flow.striped {
                if self.is_striped(digest, flow) && flow.lanes[0].has_source() {
                    debug!(%digest, "a source for each stripe from here on");
                    flow.splitting = true;
                    flow.lanes[0].feed = None;
                    let attempt = flow.lanes[0].attempt;
                    orders.push(ToHot::Split { digest: *digest, attempt });
                    return;
                }
                if !at_once {
                    return;
                }
            }
            let branches = if flow.striped { [0, 1] } else { [whole_branch(digest); 2] };
            let lanes = if flow.striped { 2 } else { 1 };
            for (lane, branch) in flow.lanes.iter_mut().zip(branches).take(lanes) {
                let parent = self.parent_in(image, branch);
                if *lane.upstream == *parent || !lane.has_source() {
                    continue;
                }
                debug!(%digest, branch, %parent, "another parent from here on");
                lane.forget_tries();
                flow.moves += 1;
                let (digest, attempt) = (*digest, lane.attempt);
                orders.push(ToHot::GiveUp { digest, attempt, moved: true });
            }
        });
        for order in orders {
            self.post.send(order);
        }
    }
}
