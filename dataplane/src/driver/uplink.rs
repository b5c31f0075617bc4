//! Upstream connections as such: kept between blobs, watched for silence, given up. What they bring
//! is fetch's matter.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use xylem_protocol::Digest;
use xylem_protocol::limits::{
    CONNECT_MS, IDLE_MS, IDLE_UPLINKS_MAX, PEER_ANSWER_MS, REPAIR_MS, SILENT_MS, STALL_MS,
};
use xylem_protocol::stripe::stripe_end;

use super::flow::{LaneId, Part};
use super::meter::Traffic;
use super::{Driver, flow_token};
use crate::link::{Attempt, Lost, Source, ToCold};
use crate::relay::FlowId;
use crate::ring::Slot;
use crate::ring::token::Kind;

/// What an upstream connection is doing.
#[derive(Debug)]
pub(super) enum Stage {
    Connecting,
    Asking,
    /// The head is looked at; it stays on the socket.
    Peeking,
    /// The body flows, when the relay asks for it.
    Receiving,
}

/// An upstream connection.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) fd: OwnedFd,
    pub(super) address: SocketAddr,
    pub(super) stage: Stage,
    /// The head so far.
    pub(super) head: Vec<u8>,
    pub(super) keep_alive: bool,
    /// Whether it has served a blob before: then its end before an answer is no fault.
    pub(super) reused: bool,
    /// Bytes of the body to come.
    pub(super) left: u64,
    /// Whether the body is the blob from its first byte on, though only a part was asked for.
    pub(super) from_start: bool,
    /// Bytes before those that are wanted are being received: what comes then, and from where on.
    pub(super) passing: Option<(Part, u64)>,
    /// Where the next piece begins that this connection is to bring.
    pub(super) next: Option<u64>,
    /// Whether it was asked for that already.
    pub(super) asked_next: bool,
    /// Since when it is to bring something.
    pub(super) since: Instant,
    /// When the cold half was last asked whether the peer is alive.
    pub(super) alive_asked: Option<Instant>,
    /// What this node had received in all by then, and whether that was more than the time before.
    pub(super) others: Others,
    pub(super) asked: Instant,
    pub(super) traffic: Traffic,
}

/// Whether other blobs come while one does not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Others {
    received: u64,
    move_on: bool,
}

impl Others {
    /// Looks again; the first time of a silence says nothing yet.
    fn look(&mut self, received: u64, again: bool) {
        self.move_on = again && received > self.received;
        self.received = received;
    }
}

/// A kept connection.
#[derive(Debug)]
pub(super) struct IdleUplink {
    pub(super) uplink: Uplink,
    since: Instant,
}

impl IdleUplink {
    pub(super) fn sample_if_moved(&mut self) -> Option<crate::hops::ConnSample> {
        self.uplink.traffic.sample_if_moved(&self.uplink.fd)
    }
}

impl Driver {
    /// Keeps a connection whose body is complete for the next blob.
    pub(super) fn keep_if_done(&mut self, at: LaneId) {
        if self.has_passed_all(at) {
            return self.drop_uplink(at);
        }
        let Some(feed) = self.feed_mut(at) else { return };
        let is_done = |uplink: &mut Uplink| {
            matches!(uplink.stage, Stage::Receiving) && uplink.left == 0 && uplink.next.is_none()
        };
        let Some(mut uplink) = feed.uplink.take_if(is_done) else { return };
        if uplink.keep_alive {
            if self.idle.len() >= IDLE_UPLINKS_MAX {
                self.drop_idle();
            }
            self.idle.push_back(IdleUplink { uplink, since: self.now });
        } else {
            self.meter.take_last(&uplink.fd, &mut uplink.traffic);
        }
    }

    /// Whether nobody wants anything of what is still to come by a lane's connection: all of its
    /// stripe has come.
    fn has_passed_all(&self, at: LaneId) -> bool {
        let Some(flow) = self.flows.get(at.flow) else { return false };
        let (Some(size), Some(uplink)) = (flow.size, &flow.feed(at.lane).uplink) else {
            return false;
        };
        let is_body = matches!(uplink.stage, Stage::Receiving) && uplink.from_start;
        let striped = self.relay.is_striped(FlowId(at.flow));
        is_body && uplink.left > 0 && striped && size - uplink.left >= stripe_end(size, at.lane)
    }

    fn drop_idle(&mut self) {
        if let Some(mut idle) = self.idle.pop_front() {
            self.meter.take_last(&idle.uplink.fd, &mut idle.uplink.traffic);
        }
    }

    pub(super) fn sweep_idle(&mut self) {
        let patience = Duration::from_millis(IDLE_MS / 2);
        while self.idle.front().is_some_and(|idle| self.now - idle.since > patience) {
            self.drop_idle();
        }
    }

    /// A connection of an earlier blob, or piece, may have been closed meanwhile: then a fresh one
    /// is tried, once.
    pub(super) fn lose_or_renew(&mut self, at: LaneId, cause: Lost) {
        let uplink = self.feed(at).and_then(|feed| feed.uplink.as_ref());
        let reused = uplink.is_some_and(|uplink| uplink.reused && uplink.head.is_empty());
        if !reused {
            return self.lose(at, cause);
        }
        self.drop_uplink(at);
        // The others to the same place are likely gone as well.
        while !self.idle.is_empty() {
            self.drop_idle();
        }
        self.connect(at);
    }

    pub(super) fn drop_uplink(&mut self, at: LaneId) {
        if let Some(mut uplink) = self.feed_mut(at).and_then(|feed| feed.uplink.take()) {
            uplink.traffic.discarded = uplink.left > 0 || uplink.asked_next;
            self.meter.take_last(&uplink.fd, &mut uplink.traffic);
        }
    }

    /// Watches connections that should bring something: asks whether a silent peer is alive, and
    /// ends what has been silent for too long.
    pub(super) fn watch_uplinks(&mut self) {
        for flow in self.flows.indices() {
            for lane in 0..2 {
                self.watch_uplink(LaneId { flow, lane });
            }
        }
    }

    fn watch_uplink(&mut self, at: LaneId) {
        let Some(flow) = self.flows.get_mut(at.flow) else { return };
        let (digest, received) = (flow.digest, self.relay.totals().received);
        let feed = flow.feed_mut(at.lane);
        let (Some(uplink), Some(Source::Http { registry, answer_ms, .. })) =
            (&mut feed.uplink, &feed.source)
        else {
            return;
        };
        let is_receiving = matches!(uplink.stage, Stage::Receiving);
        if is_receiving && self.relay.is_starved(FlowId(at.flow), at.lane) {
            // We do not read: it is not to blame.
            uplink.since = self.now;
            return;
        }
        let patience = match uplink.stage {
            Stage::Connecting => CONNECT_MS,
            // A peer that is alive, while other blobs come: its turn comes later there.
            Stage::Receiving if !registry && uplink.others.move_on => PEER_ANSWER_MS,
            Stage::Receiving if !registry => STALL_MS,
            _ => *answer_ms,
        };
        let silence = self.now - uplink.since;
        if silence > Duration::from_millis(patience) {
            return self.cancel_stage(at);
        }
        let late = feed.gap_since.is_some();
        let period = Duration::from_millis(if late { REPAIR_MS } else { SILENT_MS });
        let asked = uplink.alive_asked.filter(|asked| *asked > uplink.since);
        let is_due = asked.is_none_or(|asked| self.now - asked > period);
        let is_peer = !registry && !matches!(uplink.stage, Stage::Connecting);
        if is_peer && silence > period && is_due {
            uplink.alive_asked = Some(self.now);
            uplink.others.look(received, asked.is_some());
            let attempt = feed.attempt;
            self.tell(ToCold::Silent { digest, attempt, late });
        }
    }

    /// Ends what an upstream connection is waiting for; its completion says that it is lost.
    pub(super) fn cancel_stage(&mut self, at: LaneId) {
        let Some(feed) = self.feed(at) else { return };
        let Some(uplink) = &feed.uplink else { return };
        let (kind, slot) = match uplink.stage {
            Stage::Connecting => (Kind::Connect, Slot(at.lane.into())),
            Stage::Asking => (Kind::Request, Slot(at.lane.into())),
            Stage::Peeking => (Kind::ResponsePeek, Slot(at.lane.into())),
            Stage::Receiving => match feed.receiving {
                Some(slot) => (Kind::Receive, slot),
                None => return,
            },
        };
        let token = flow_token(kind, &self.flows, at.flow);
        self.ring.cancel(token.with_slot(slot));
    }

    /// A source is known to be stuck, or there is a better one: it is lost now, and not when
    /// patience ends.
    pub(super) fn give_up(&mut self, digest: &Digest, attempt: Attempt, moved: bool) {
        let Some(at) = self.current(digest, attempt) else { return };
        let Some(feed) = self.feed_mut(at) else { return };
        feed.moving = moved && feed.source.is_some();
        if let Some(uplink) = &feed.uplink {
            let idle = matches!(uplink.stage, Stage::Receiving) && feed.receiving.is_none();
            if !idle {
                return self.cancel_stage(at);
            }
            // The relay waits for a slot: no completion would come, and nothing is missed yet.
            let gap_since = feed.gap_since;
            self.lose(at, Lost::Stalled(SILENT_MS));
            if let Some(feed) = self.feed_mut(at) {
                feed.gap_since = gap_since;
            }
            return;
        }
        // It waits for its turn, and has not asked its source for anything yet.
        if feed.turn.is_none() && feed.source.take().is_some() {
            let moved = std::mem::take(&mut feed.moving);
            let edge = self.relay.edge(FlowId(at.flow), at.lane);
            let cause = if moved { Lost::Moved } else { Lost::Stalled(SILENT_MS) };
            let digest = *digest;
            self.tell(ToCold::Lost { digest, attempt, at: edge, cause });
        }
    }

    /// This thread did not run for a while: whoever seemed silent meanwhile may have spoken.
    pub(super) fn forgive_silence(&mut self) {
        for index in self.flows.indices() {
            let Some(flow) = self.flows.get_mut(index) else { continue };
            for uplink in flow.feeds.iter_mut().filter_map(|feed| feed.uplink.as_mut()) {
                uplink.since = self.now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob whose turn comes later at its parent was fetched from the registry after three
    /// seconds of silence, though others came meanwhile: a sixth of twenty images came twice.
    #[test]
    fn others_move_on_only_while_bytes_come() {
        let mut others = Others::default();
        others.look(10, false);
        assert!(!others.move_on, "what came before the silence says nothing");
        others.look(11, true);
        assert!(others.move_on);
        others.look(11, true);
        assert!(!others.move_on, "nothing comes at all: this one is stuck");
        others.look(12, false);
        assert!(!others.move_on, "another silence");
    }
}
