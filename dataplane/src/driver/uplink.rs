//! Upstream connections as such: kept between blobs, watched for silence, given up. What they bring
//! is fetch's matter.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use xylem_protocol::limits::{CONNECT_MS, IDLE_MS, IDLE_UPLINKS_MAX, STALL_MS};

use super::meter::Traffic;
use super::{Driver, flow_token};
use crate::link::{Lost, Source};
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
    /// Since when it is to bring something.
    pub(super) since: Instant,
    pub(super) asked: Instant,
    pub(super) traffic: Traffic,
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
    pub(super) fn keep_if_done(&mut self, index: u16) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let is_done =
            |uplink: &mut Uplink| matches!(uplink.stage, Stage::Receiving) && uplink.left == 0;
        let Some(mut uplink) = flow.uplink.take_if(is_done) else { return };
        if uplink.keep_alive {
            if self.idle.len() >= IDLE_UPLINKS_MAX {
                self.drop_idle();
            }
            self.idle.push_back(IdleUplink { uplink, since: self.now });
        } else {
            self.meter.take_last(&uplink.fd, &mut uplink.traffic);
        }
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

    /// A connection of an earlier blob may have been closed meanwhile: then a fresh one is tried,
    /// once.
    pub(super) fn lose_or_renew(&mut self, index: u16, cause: Lost) {
        let reused = self
            .flows
            .get(index)
            .and_then(|flow| flow.uplink.as_ref())
            .is_some_and(|uplink| uplink.reused && uplink.head.is_empty());
        if !reused {
            return self.lose(index, cause);
        }
        self.drop_uplink(index);
        // The others to the same place are likely gone as well.
        while !self.idle.is_empty() {
            self.drop_idle();
        }
        self.connect(index);
    }

    pub(super) fn drop_uplink(&mut self, index: u16) {
        if let Some(mut uplink) = self.flows.get_mut(index).and_then(|flow| flow.uplink.take()) {
            self.meter.take_last(&uplink.fd, &mut uplink.traffic);
        }
    }

    /// Ends connections that should bring something and do not.
    pub(super) fn watch_uplinks(&mut self) {
        for index in self.flows.indices() {
            let Some(flow) = self.flows.get(index) else { continue };
            let (Some(uplink), Some(Source::Http { registry, answer_ms, .. })) =
                (&flow.uplink, &flow.source)
            else {
                continue;
            };
            let answer = *answer_ms;
            let (kind, patience) = match uplink.stage {
                Stage::Connecting => (Kind::Connect, CONNECT_MS),
                Stage::Asking => (Kind::Request, answer),
                Stage::Peeking => (Kind::ResponsePeek, answer),
                Stage::Receiving if self.relay.is_starved(FlowId(index)) => {
                    // We do not read: it is not to blame.
                    if let Some(uplink) =
                        self.flows.get_mut(index).and_then(|flow| flow.uplink.as_mut())
                    {
                        uplink.since = self.now;
                    }
                    continue;
                }
                Stage::Receiving => (Kind::Receive, if *registry { answer } else { STALL_MS }),
            };
            if self.now - uplink.since > Duration::from_millis(patience) {
                let token = flow_token(kind, &self.flows, index);
                let slot = if kind == Kind::Receive { flow.receiving } else { Slot(0) };
                self.ring.cancel(token.with_slot(slot));
            }
        }
    }
}
