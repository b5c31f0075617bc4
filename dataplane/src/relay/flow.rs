//! One blob: its turn, its verdict, its end. How its bytes come in is [`super::lane`]'s.

use xylem_protocol::limits::UNIT_BYTES;
use xylem_protocol::stripe::{piece_end, stripe_of};

use super::laggard::Lag;
use super::lane::{Lane, Way};
use super::turns::KEPT_TICKS;
use super::{Action, FlowId, ReaderId, Relay, put};
use crate::ring::Slot;

/// Where a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for its turn.
    Waiting,
    /// Bytes come, or are to come.
    Flowing,
    /// All bytes are here; writes or the hash are not done.
    Draining,
    /// The hash was wrong; a restart or an end will come.
    Wrong,
    /// Complete in the file.
    Stored,
    /// Given up; ends when nothing is in flight.
    Abandoned,
}

/// What a flow begins with; see [`Event::Fetch`](super::Event::Fetch).
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetching {
    pub(super) resume: u64,
    pub(super) size: Option<u64>,
    pub(super) striped: bool,
    pub(super) splits: bool,
    pub(super) rank: u64,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) rank: u64,
    pub(super) phase: Phase,
    pub(super) size: Option<u64>,
    /// Whether each stripe has a source of its own. Otherwise the first lane brings everything.
    pub(super) striped: bool,
    /// Whether it is to be striped once its receive has ended.
    pub(super) splitting: bool,
    /// Ticks for which it still counts for two lanes, though it has one.
    pub(super) kept_ticks: u32,
    /// Whether it may fill memory, now that it has its turn; see `order_turns`.
    pub(super) goes_on: bool,
    /// Ticks since it was asked for.
    pub(super) age_ticks: u32,
    pub(super) lanes: [Lane; 2],
    /// Bytes received, those that were in the file included.
    pub(super) received: u64,
    /// Bytes in the file, in any order.
    pub(super) stored: u64,
    /// Bytes given to the hash thread, in order.
    pub(super) hashing: u64,
    pub(super) hashed: u64,
    pub(super) verified: bool,
    pub(super) finalizing: bool,
    /// Whether it begins anew once nothing of it is in memory.
    pub(super) restarting: bool,
    /// Readers that are fed from memory.
    pub(super) live: u32,
    pub(super) readers: Vec<ReaderId>,
    /// Slots let go since the last tick.
    pub(super) freed: u32,
    /// Whether bytes came since the last tick.
    pub(super) moved: bool,
    /// Ticks in a row at which it stood in the queue for want of memory.
    pub(super) starved_ticks: u32,
    /// Whether it goes at the pace of one reader: looked at once a tick, so not among what each
    /// event needs.
    pub(super) lag: Box<Lag>,
}

impl Flow {
    fn new(phase: Phase, begin: Fetching) -> Self {
        let Fetching { resume: present, size, striped, splits, rank } = begin;
        let mut flow = Self {
            rank,
            phase,
            size,
            striped,
            splitting: false,
            kept_ticks: if splits { KEPT_TICKS } else { 0 },
            goes_on: false,
            age_ticks: 0,
            lanes: [Lane::new(0), Lane::new(0)],
            received: present,
            stored: present,
            hashing: present,
            hashed: present,
            verified: phase == Phase::Stored,
            finalizing: false,
            restarting: false,
            live: 0,
            readers: Vec::new(),
            freed: 0,
            moved: false,
            starved_ticks: 0,
            lag: Box::default(),
        };
        flow.place(present, present);
        flow
    }

    /// Sets where the lanes go on, when everything before `edge` is here, and before `stored` in
    /// the file.
    pub(super) fn place(&mut self, edge: u64, stored: u64) {
        let of = |at: u64, lane: u8| if stripe_of(at) == lane { at } else { piece_end(at) };
        let striped = self.striped;
        for (lane, index) in self.lanes.iter_mut().zip(0..) {
            lane.edge = if striped { of(edge, index) } else { edge };
            lane.stored = if striped { of(stored, index) } else { stored };
        }
    }

    /// The lanes that bring something: one, or one per stripe.
    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes[..if self.striped { 2 } else { 1 }]
    }

    pub(super) fn lanes_mut(&mut self) -> &mut [Lane] {
        &mut self.lanes[..if self.striped { 2 } else { 1 }]
    }

    /// How many lanes it takes room for: those that it has, or will have before long.
    pub(super) fn lanes_to_come(&self) -> usize {
        if self.splitting || self.kept_ticks > 0 { 2 } else { self.lanes().len() }
    }

    /// The numbers of its lanes.
    pub(super) fn lane_ids(&self) -> std::ops::Range<u8> {
        0..if self.striped { 2 } else { 1 }
    }

    /// The lane that brings a byte.
    pub(super) fn lane_of(&self, at: u64) -> u8 {
        if self.striped { stripe_of(at) } else { 0 }
    }

    pub(super) fn lane(&self, lane: u8) -> &Lane {
        &self.lanes[usize::from(lane)]
    }

    pub(super) fn lane_mut(&mut self, lane: u8) -> &mut Lane {
        &mut self.lanes[usize::from(lane)]
    }

    /// Up to where a reader at `at` may be sent: all that is here, but for the last byte of a blob
    /// not yet verified. Of a striped flow at most to the end of the piece.
    pub(super) fn here(&self, at: u64) -> u64 {
        let end = self.reach(at, self.lane(self.lane_of(at)).edge);
        match self.size {
            Some(size) if !self.verified => end.min(size.saturating_sub(1)),
            _ => end,
        }
    }

    /// Up to where a reader at `at` may read the file.
    pub(super) fn in_file(&self, at: u64) -> u64 {
        self.reach(at, self.lane(self.lane_of(at)).stored)
    }

    fn reach(&self, at: u64, end: u64) -> u64 {
        let end = if self.striped { end.min(piece_end(at)) } else { end };
        self.size.map_or(end, |size| end.min(size))
    }

    /// Whether all bytes have come.
    pub(super) fn is_received(&self) -> bool {
        self.size.is_some_and(|size| self.lanes().iter().all(|lane| lane.edge >= size))
    }

    /// Whether a lane has got further than the other.
    pub(super) fn is_ahead(&self, index: u8) -> bool {
        let edge = self.lane(index).edge;
        self.lanes().iter().any(|other| other.way != Way::Done && other.edge < edge)
    }

    /// Whether the lane that is behind has no slot: everything waits for it to get one.
    pub(super) fn is_dry(&self) -> bool {
        let lanes = self.lanes().iter().filter(|lane| lane.way != Way::Done);
        lanes.min_by_key(|lane| lane.edge).is_some_and(|lane| lane.window.is_empty())
    }

    /// Whether a lane that is ahead has more slots that wait for the other than that one needs.
    pub(super) fn holds_back(&self) -> bool {
        self.lane_ids().any(|lane| self.is_ahead(lane) && self.lane(lane).window.len() > 1)
    }

    pub(super) fn windows(&self) -> impl Iterator<Item = Slot> + '_ {
        self.lanes.iter().flat_map(|lane| lane.window.iter().copied())
    }

    fn is_idle(&self) -> bool {
        let quiet = |lane: &Lane| !lane.receiving && lane.window.is_empty();
        !self.finalizing && self.lanes.iter().all(quiet)
    }
}

impl Relay {
    pub(super) fn fetch(&mut self, id: FlowId, begin: Fetching, actions: &mut Vec<Action>) {
        let Fetching { resume, size, .. } = begin;
        assert!(resume.is_multiple_of(u64::from(UNIT_BYTES)), "resume within a unit");
        assert!(resume == 0 || size.is_some_and(|size| resume <= size), "resume without a size");
        put(&mut self.flows, id.0, Flow::new(Phase::Waiting, begin));
        self.turns.waiting.push_back(id);
        self.activate(actions);
    }

    pub(super) fn serve(&mut self, id: FlowId, size: u64) {
        let begin =
            Fetching { resume: size, size: Some(size), striped: false, splits: false, rank: 0 };
        put(&mut self.flows, id.0, Flow::new(Phase::Stored, begin));
    }

    pub(super) fn connect_lanes(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        let size = flow.size;
        for index in flow.lane_ids() {
            let lane = flow.lane_mut(index);
            if size.is_some_and(|size| lane.edge >= size) {
                lane.way = Way::Done;
                continue;
            }
            lane.way = Way::Connecting;
            actions.push(Action::Connect { flow: id, lane: index, at: lane.edge });
        }
    }

    /// All bytes are here: the verdict comes next.
    pub(super) fn finish_receiving(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        flow.phase = Phase::Draining;
        flow.finalizing = true;
        actions.push(Action::Finalize { flow: id });
        self.order_turns();
        // Another may go on now.
        self.serve_claims(actions);
    }

    pub(super) fn written(
        &mut self,
        id: FlowId,
        slot: Slot,
        well: bool,
        actions: &mut Vec<Action>,
    ) {
        let held = self.pool.held_mut(slot);
        held.operations -= 1;
        held.stored = well;
        let bytes = held.filled;
        if self.flow(id).phase == Phase::Abandoned {
            return self.close_if_idle(id, actions);
        }
        if !well {
            return self.abandon(id, actions);
        }
        self.totals.stored += u64::from(bytes);
        self.note_stored(id, bytes);
        self.release(id, actions);
        self.finish_if_stored(id, actions);
    }

    pub(super) fn hashed(&mut self, id: FlowId, slot: Slot, bytes: u32, actions: &mut Vec<Action>) {
        let held = self.pool.held_mut(slot);
        held.operations -= 1;
        let flow = self.flow_mut(id);
        flow.hashed += u64::from(bytes);
        self.release(id, actions);
    }

    pub(super) fn finalized(&mut self, id: FlowId, matches: bool, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        assert!(flow.finalizing, "a verdict that nobody asked for");
        flow.finalizing = false;
        if flow.phase == Phase::Abandoned {
            return self.close_if_idle(id, actions);
        }
        if matches {
            flow.verified = true;
            self.pump_all(id, actions);
            self.release(id, actions);
            self.finish_if_stored(id, actions);
        } else {
            flow.phase = Phase::Wrong;
            self.cut_readers(id, actions);
            self.release(id, actions);
        }
    }

    fn finish_if_stored(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.phase != Phase::Draining || !flow.verified || flow.size != Some(flow.stored) {
            return;
        }
        flow.phase = Phase::Stored;
        actions.push(Action::Stored { flow: id });
        self.end_turn(id, actions);
    }

    pub(super) fn restart(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.phase == Phase::Abandoned {
            return;
        }
        assert_eq!(flow.phase, Phase::Wrong, "a restart without a mismatch");
        // It begins when the last write of the wrong bytes has ended.
        flow.restarting = true;
        self.release(id, actions);
    }

    /// Nothing of the wrong bytes is in memory any more: from the first byte, from one source.
    fn begin_anew(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        (flow.restarting, flow.striped) = (false, false);
        (flow.received, flow.stored, flow.hashing, flow.hashed) = (0, 0, 0, 0);
        flow.place(0, 0);
        flow.phase = Phase::Flowing;
        // Also for an empty blob: its wrong digest is the source's, and to be seen again.
        flow.lane_mut(0).way = Way::Connecting;
        actions.push(Action::Connect { flow: id, lane: 0, at: 0 });
        self.order_turns();
    }

    pub(super) fn abandon(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.phase == Phase::Abandoned {
            return;
        }
        flow.phase = Phase::Abandoned;
        flow.splitting = false;
        for (lane, index) in flow.lanes.iter_mut().zip(0..) {
            if lane.receiving {
                actions.push(Action::CancelRecv { flow: id, lane: index });
            }
        }
        self.drop_claims(id);
        self.end_turn(id, actions);
        self.cut_readers(id, actions);
        // The last reader's leaving may have closed it already.
        if self.flows[usize::from(id.0)].is_some() {
            self.close_if_idle(id, actions);
        }
    }

    /// Lets go of slots from the old end of the windows, as far as nobody needs them.
    pub(super) fn release(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flows[usize::from(id.0)].as_mut().expect("an open flow");
        if flow.phase == Phase::Abandoned {
            return self.close_if_idle(id, actions);
        }
        let mut freed = 0;
        let hashed = flow.hashed;
        for lane in &mut flow.lanes {
            while let Some(&slot) = lane.window.front() {
                let held = self.pool.held(slot);
                let needed = !held.stored || held.pins > 0 || hashed < held.end();
                if needed || held.operations > 0 {
                    break;
                }
                lane.window.pop_front();
                self.pool.give_back_from_flow(slot);
                freed += 1;
            }
        }
        flow.freed += freed;
        if flow.restarting && flow.windows().next().is_none() {
            self.begin_anew(id, actions);
        }
        if freed > 0 {
            self.serve_claims(actions);
        }
    }

    /// Ends an abandoned flow once nothing is in flight for it.
    pub(super) fn close_if_idle(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flows[usize::from(id.0)].as_mut().expect("an open flow");
        debug_assert_eq!(flow.phase, Phase::Abandoned);
        let pool = &mut self.pool;
        let mut freed = false;
        for lane in &mut flow.lanes {
            lane.window.retain(|&slot| {
                let busy = pool.held(slot).operations > 0;
                if !busy {
                    pool.give_back_from_flow(slot);
                }
                freed |= !busy;
                busy
            });
        }
        if flow.is_idle() && flow.readers.is_empty() {
            self.flows[usize::from(id.0)] = None;
            actions.push(Action::Closed { flow: id });
        }
        if freed {
            self.serve_claims(actions);
        }
    }
}
