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
use super::source::WHOLE_BRANCH;
use crate::agent::{Agent, REGISTRY};
use crate::link::ToHot;

impl Agent {
    /// Whether each stripe of a blob is to have a source of its own: it is worth it, and there are
    /// two parents. All nodes of a tree come to the same answer, but for one that stands alone at
    /// the top of both.
    pub(super) fn is_striped(&self, digest: &Digest, flow: &Flow) -> bool {
        let is_between = |image: Digest| {
            let [first, second] = [0, 1].map(|branch| self.parent_in(&image, branch));
            first != second
        };
        self.may_be_striped(digest, flow) && flow.ask.image.is_some_and(is_between)
    }

    /// Whether it is worth it, and there are two trees: who stands alone in them may get company.
    pub(super) fn may_be_striped(&self, digest: &Digest, flow: &Flow) -> bool {
        let Some(image) = flow.ask.image.filter(|_| !flow.registry_only) else { return false };
        let size = self.trees.size_of(digest).unwrap_or(flow.size);
        // Who asks for a stripe knows the size.
        let is_worth_it = size >= STRIPED_MIN || flow.ask.stripe.is_some();
        is_worth_it && self.trees.branches(&image).len() == 2
    }

    fn parent_in(&self, image: &Digest, branch: u8) -> Arc<str> {
        let upstreams = self.trees.branch(image, branch);
        upstreams.first().map_or(Arc::from(REGISTRY), |upstream| upstream.node.clone())
    }

    /// Control has given this node another place in an image's trees; `at_once`: blobs that are
    /// well on their way follow too.
    pub(in crate::agent) fn moved(&self, image: &Digest, at_once: bool) {
        let mut blobs = Vec::new();
        self.flows.for_each(|digest, flow| {
            if flow.ask.image == Some(*image) {
                blobs.push(*digest);
            }
        });
        for blob in blobs {
            self.move_blob(&blob, |flow, _, _| at_once || flow.received <= MOVE_BYTES_MAX, at_once);
        }
    }

    /// A source was sent to the ring thread: the place may have changed since it was chosen. Whom
    /// the lane has asked already it has left for a reason.
    pub(super) fn check_place(&self, digest: &Digest) {
        let is_new = |flow: &Flow, lane: usize, parent: &Arc<str>| {
            let tried = &flow.lanes[lane].tried;
            flow.received <= MOVE_BYTES_MAX
                && !tried.contains(parent)
                && (**parent == *REGISTRY || self.trees.is_usable(parent))
        };
        self.move_blob(digest, is_new, false);
    }

    /// Has a blob come from where this node's place is now, lane by lane, if it `follows`.
    fn move_blob(
        &self,
        digest: &Digest,
        follows: impl Fn(&Flow, usize, &Arc<str>) -> bool,
        whole_too: bool,
    ) {
        let orders = self.flows.with(digest, |flow| {
            let fixed = flow.ending || flow.registry_only || flow.splitting;
            let (Some(image), true) = (flow.ask.image, flow.started && !fixed) else {
                return Vec::new();
            };
            let branches = if flow.striped { [0, 1] } else { [WHOLE_BRANCH; 2] };
            let parents = branches.map(|branch| self.parent_in(&image, branch));
            let is_whole = !flow.striped;
            if is_whole && self.is_striped(digest, flow) && flow.received <= MOVE_BYTES_MAX {
                return split(digest, flow).into_iter().collect();
            }
            if is_whole && !whole_too {
                return Vec::new();
            }
            let mut orders = Vec::new();
            for (index, parent) in parents.iter().enumerate().take(flow.lanes().len()) {
                let lane = &flow.lanes[index];
                let stays = *lane.upstream == **parent || !lane.has_source();
                if stays || flow.moves >= MOVES_MAX || !follows(flow, index, parent) {
                    continue;
                }
                debug!(%digest, branch = branches[index], %parent, "another parent from here on");
                flow.moves += 1;
                let lane = &mut flow.lanes[index];
                lane.forget_tries();
                let (digest, attempt) = (*digest, lane.attempt);
                orders.push(ToHot::GiveUp { digest, attempt, moved: true });
            }
            orders
        });
        for order in orders.unwrap_or_default() {
            self.post.send(order);
        }
    }
}

/// Orders a source for each stripe of a blob that comes whole, unless its source is lost: then the
/// next one is being chosen.
fn split(digest: &Digest, flow: &mut Flow) -> Option<ToHot> {
    if !flow.lanes[0].has_source() {
        return None;
    }
    debug!(%digest, "a source for each stripe from here on");
    flow.splitting = true;
    flow.lanes[0].feed = None;
    Some(ToHot::Split { digest: *digest, attempt: flow.lanes[0].attempt })
}
