//! What the history is told of blobs as they are fetched. Decides nothing.

use xylem_protocol::Digest;
use xylem_protocol::limits::UNIT_BYTES;

use super::LaneKey;
use crate::agent::{Agent, REGISTRY};
use crate::clock::monotonic_ns;
use crate::hops::{HopFigures, Verdict};
use crate::link::Lost;
use crate::oneline::chain;

impl Agent {
    pub(super) fn note_start(&self, digest: Digest) {
        self.history.borrow_mut().began(digest, monotonic_ns());
    }

    /// A source is asked for what comes from `at` on.
    pub(super) fn note_source(&self, key: LaneKey, at: u64) {
        let digest = key.digest;
        let asked = self.flows.with(&digest, |flow| {
            let stripe = flow.striped.then_some(key.lane);
            (flow.ask.image, flow.lane(key.lane).upstream.clone(), stripe)
        });
        let Some((image, upstream, stripe)) = asked else { return };
        let above = image.map(|image| self.trees.known_upstreams(&image));
        let parent = above.map(|above| match above.first() {
            Some(parent) => parent.node.clone(),
            None => REGISTRY.into(),
        });
        let mut history = self.history.borrow_mut();
        history.asks(digest, image.as_ref(), parent.as_ref(), &upstream, (stripe, at));
    }

    /// A source of the ring thread's is lost. One that only says where to ask, or with what, is
    /// not.
    pub(super) fn note_loss(&self, key: LaneKey, at: u64, cause: &Lost) {
        if let Lost::Status(head) = cause {
            match head.status {
                301 | 302 | 303 | 307 | 308 if head.location.is_some() => return,
                401 if head.challenge.is_some() => return,
                _ => {}
            }
        }
        self.note_loss_here(key, at, &chain(cause));
    }

    /// The same of another source.
    pub(super) fn note_loss_here(&self, key: LaneKey, at: u64, reason: &str) {
        let striped = self.flows.with(&key.digest, |flow| flow.striped).unwrap_or(false);
        let stripe = striped.then_some(key.lane);
        self.history.borrow_mut().lost(&key.digest, (stripe, at), reason);
    }

    /// A lane has left its source for a better one.
    pub(super) fn note_move(&self, key: LaneKey, at: u64) {
        let striped = self.flows.with(&key.digest, |flow| flow.striped).unwrap_or(false);
        self.history.borrow_mut().left(&key.digest, (striped.then_some(key.lane), at));
    }

    /// A whole blob has become a striped one.
    pub(super) fn note_split(&self, digest: &Digest, at: u64) {
        self.history.borrow_mut().split(digest, at);
    }

    /// A blob is complete; `seen` is when its first byte came, and how many read it at the end.
    pub(super) fn note_done(&self, digest: &Digest, size: u64, seen: (u64, u32)) {
        let upstream = self.history.borrow().upstream_of(digest);
        let verdict = match upstream {
            Some(upstream) if size >= u64::from(UNIT_BYTES) => self.limits().of(&upstream),
            _ => Verdict::Unknown,
        };
        self.history.borrow_mut().done(digest, size, seen, verdict, monotonic_ns());
    }

    /// What limits the hops to this node at the moment.
    pub(in crate::agent) fn limits(&self) -> Limits {
        Limits(self.hops.figures())
    }
}

/// What limited the hops to this node, as far as it sees.
#[derive(Debug)]
pub(in crate::agent) struct Limits(Vec<HopFigures>);

impl Limits {
    /// Of the hop from a node, or from the registry.
    pub(in crate::agent) fn of(&self, upstream: &str) -> Verdict {
        let hop = self.0.iter().find(|hop| hop.from_child && hop.parent == upstream);
        hop.map_or(Verdict::Unknown, |hop| hop.verdict)
    }
}
