//! How the bytes of a blob come in: from a source into slots, from slots to the file and the hash.
//!
//! A *whole* flow has one lane; everything comes in order. A *striped* flow has one lane per
//! stripe (see [`xylem_protocol::stripe`]), each with a source of its own. A slot has bytes of one
//! stripe only, so a lane's window has no holes in its stripe; the hash takes the pieces in the
//! blob's order from both.
//!
//! # No lane waits for ever
//!
//! The slots of the lane that is *ahead* are hashed, and let go, only when the other lane has
//! brought the pieces before them. So a lane that is ahead takes a slot only while one is left for
//! each lane behind that has none, and one for the flows that wait. A lane that is behind fills
//! pieces that are hashed and let go without waiting for anybody, so it always moves on when its
//! source does.
//!
//! Flows that had their turn whole may be more than there is memory for once they are striped:
//! then those of the lowest rank go on, and the others have what is left over.

use std::collections::VecDeque;

use xylem_protocol::limits::{RECV_MAX, SLOT_BYTES, UNIT_BYTES};
use xylem_protocol::stripe::{STRIPE_BYTES, stripe_of};

use super::flow::{Flow, Phase};
use super::pool::Held;
use super::reader::Mode;
use super::{Action, FlowId, ReaderId, Relay};
use crate::ring::Slot;

/// Slots that a piece of a stripe takes.
const PIECE_SLOTS: u64 = STRIPE_BYTES / SLOT_BYTES as u64;

/// Where a lane stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is not the flow's turn.
    Idle,
    /// Has no source that answers yet, or lost it.
    Connecting,
    /// Bytes come.
    Flowing,
    /// All of its bytes are here.
    Done,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) way: Way,
    /// Offset in the blob of the next byte to come.
    pub(super) edge: u64,
    /// Offset in the blob before which all of the lane is in the file.
    pub(super) stored: u64,
    /// Slots from the oldest byte in memory to the newest.
    pub(super) window: VecDeque<Slot>,
    pub(super) receiving: bool,
    /// Whether it stands in the queue for a slot.
    pub(super) claiming: bool,
}

impl Lane {
    pub(super) const fn new(at: u64) -> Self {
        Self {
            way: Way::Idle,
            edge: at,
            stored: at,
            window: VecDeque::new(),
            receiving: false,
            claiming: false,
        }
    }
}

/// Behind a piece that ends at `end`, where a striped flow's lane goes on.
pub(super) fn next_of(striped: bool, end: u64) -> u64 {
    let at_border = striped && end.is_multiple_of(STRIPE_BYTES);
    if at_border { end + STRIPE_BYTES } else { end }
}

impl Relay {
    pub(super) fn source_ready(
        &mut self,
        id: FlowId,
        lane: u8,
        size: u64,
        actions: &mut Vec<Action>,
    ) {
        let flow = self.flow_mut(id);
        if flow.phase == Phase::Abandoned {
            return;
        }
        assert!(flow.size.is_none_or(|known| known == size), "another size than before");
        flow.size = Some(size);
        let is_late = flow.lane(lane).way == Way::Done || usize::from(lane) >= flow.lanes().len();
        if is_late {
            // The other lane's source was quicker to say that there is nothing for this one.
            return;
        }
        assert_eq!(flow.lane(lane).way, Way::Connecting, "a source that nobody waits for");
        flow.lane_mut(lane).way = Way::Flowing;
        for other in flow.lanes_mut() {
            if other.way == Way::Connecting && other.edge >= size {
                other.way = Way::Done;
            }
        }
        self.receive_more(id, lane, actions);
    }

    /// Issues a lane's next receive, or ends the flow's way in, or stands in the queue for a slot.
    fn receive_more(&mut self, id: FlowId, index: u8, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        let lane = flow.lane(index);
        if flow.phase != Phase::Flowing || lane.way != Way::Flowing {
            return;
        }
        if lane.receiving || lane.claiming {
            return;
        }
        let size = flow.size.expect("a flowing flow's size");
        let (edge, last) = (lane.edge, lane.window.back().copied());
        if edge >= size {
            flow.lane_mut(index).way = Way::Done;
            if flow.is_received() {
                self.finish_receiving(id, actions);
            }
            return;
        }
        let slot = match last.filter(|&slot| self.pool.held(slot).room() > 0) {
            Some(slot) => slot,
            None => match self.take_slot(id, index) {
                Some(slot) => slot,
                None => {
                    self.flow_mut(id).lane_mut(index).claiming = true;
                    self.pool.flow_claims.push_back((id, index));
                    return;
                }
            },
        };
        let held = self.pool.held_mut(slot);
        held.operations += 1;
        let rest = u32::try_from(size - edge).unwrap_or(u32::MAX);
        let bytes = RECV_MAX.min(held.room()).min(rest);
        let offset = Held::offset_of(edge);
        self.flow_mut(id).lane_mut(index).receiving = true;
        actions.push(Action::Recv { flow: id, lane: index, slot, offset, bytes, at: edge });
    }

    /// A slot for a lane's next piece, if it may have one.
    fn take_slot(&mut self, id: FlowId, index: u8) -> Option<Slot> {
        if !self.may_take(id, index) {
            return None;
        }
        let edge = self.flow(id).lane(index).edge;
        let slot = self.pool.take_for_flow(edge)?;
        self.append(id, index, slot);
        Some(slot)
    }

    /// Whether enough would be left for those that must move first.
    fn may_take(&self, id: FlowId, index: u8) -> bool {
        let left = self.pool.left_for_flows();
        let is_ahead = self.flow(id).is_ahead(index);
        let goes_on = self.goes_on(id);
        if goes_on && !is_ahead {
            return true;
        }
        let dry = |id: &&FlowId| self.goes_on(**id) && self.flow(**id).is_dry();
        let dry = self.turns.active.iter().filter(dry).count();
        let spare = left > dry + usize::from(self.somebody_waits());
        match goes_on {
            true => spare,
            // What it brings lets go of what the other lane holds.
            false if !is_ahead && self.flow(id).holds_back() => spare,
            false => !is_ahead && left > self.pool.left_over(),
        }
    }

    /// Adds a slot to a window; every live reader has to pass it, but for those whose range begins
    /// behind it or is of the other stripe.
    fn append(&mut self, id: FlowId, index: u8, slot: Slot) {
        self.flow_mut(id).lane_mut(index).window.push_back(slot);
        let held = self.pool.held(slot);
        let (begin, end) = (held.begin, held.end() + u64::from(held.room()));
        let flow = self.flow(id);
        let pins = if flow.live == 0 {
            0
        } else {
            let passes = |reader: &&ReaderId| {
                let reader = self.reader(**reader);
                reader.mode == Mode::Live && reader.position < end && reader.covers(begin)
            };
            flow.readers.iter().filter(passes).count()
        };
        self.pool.held_mut(slot).pins = u32::try_from(pins).expect("live readers");
    }

    pub(super) fn received(
        &mut self,
        id: FlowId,
        index: u8,
        bytes: u32,
        actions: &mut Vec<Action>,
    ) {
        assert!(bytes > 0, "a receive without bytes is a lost source");
        let flow = self.flow_mut(id);
        let striped = flow.striped;
        let lane = flow.lane_mut(index);
        assert!(lane.receiving, "bytes that nobody asked for");
        lane.receiving = false;
        lane.edge = next_of(striped, lane.edge + u64::from(bytes));
        let slot = *lane.window.back().expect("the slot received into");
        flow.received += u64::from(bytes);
        flow.moved = true;
        let held = self.pool.held_mut(slot);
        assert!(bytes <= held.room(), "more bytes than were asked for");
        held.operations -= 1;
        held.filled += bytes;
        self.totals.received += u64::from(bytes);
        if self.flow(id).phase == Phase::Abandoned {
            return self.close_if_idle(id, actions);
        }
        // Readers first: their bytes are on the way while the rest is set up.
        self.pump_live(id, actions);
        self.hash_on(id, actions);
        self.write_if_full(id, slot, actions);
        self.split_if_due(id, actions);
        self.receive_more(id, index, actions);
        if striped {
            // The other lane may be behind now, or no longer.
            self.serve_claims(actions);
        }
    }

    /// Gives a slot that nothing more comes into to the disk.
    fn write_if_full(&mut self, id: FlowId, slot: Slot, actions: &mut Vec<Action>) {
        let size = self.flow(id).size;
        let held = self.pool.held_mut(slot);
        if (held.room() == 0 || size == Some(held.end())) && !held.writing {
            held.writing = true;
            held.operations += 1;
            let (offset, bytes, at) = (Held::offset_of(held.begin), held.filled, held.begin);
            actions.push(Action::Write { flow: id, slot, offset, bytes, at });
        }
    }

    /// Gives the next whole units of the blob to the hash thread, as far as they are here.
    fn hash_on(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        loop {
            let flow = self.flow(id);
            let (at, size) = (flow.hashing, flow.size);
            if flow.lane(flow.lane_of(at)).edge <= at || size == Some(at) {
                return;
            }
            let slot = self.slot_at(id, at);
            let held = self.pool.held_mut(slot);
            // A slot is made of whole units.
            let into_unit = Held::offset_of(at) % UNIT_BYTES;
            let there = u32::try_from(held.end() - at).expect("bytes of a slot");
            let bytes = there.min(UNIT_BYTES - into_unit);
            let behind = at + u64::from(bytes);
            if into_unit + bytes < UNIT_BYTES && size != Some(behind) {
                return;
            }
            held.operations += 1;
            self.flow_mut(id).hashing = behind;
            let offset = Held::offset_of(at);
            actions.push(Action::Hash { flow: id, slot, offset, bytes, at });
        }
    }

    pub(super) fn source_lost(&mut self, id: FlowId, index: u8, actions: &mut Vec<Action>) {
        let lane = self.flow_mut(id).lane_mut(index);
        if std::mem::take(&mut lane.receiving) {
            let slot = *lane.window.back().expect("the slot received into");
            self.pool.held_mut(slot).operations -= 1;
        }
        let flow = self.flow_mut(id);
        match flow.phase {
            Phase::Flowing if flow.lane(index).way == Way::Flowing => {
                flow.lane_mut(index).way = Way::Connecting;
                self.drop_claim(id, index);
                self.split_if_due(id, actions);
            }
            Phase::Abandoned => self.close_if_idle(id, actions),
            _ => {}
        }
    }

    /// Writes may end out of order; what counts is the file without holes.
    pub(super) fn note_stored(&mut self, id: FlowId, bytes: u32) {
        let (pool, flow) = (&self.pool, self.flows[usize::from(id.0)].as_mut().expect("open"));
        flow.stored += u64::from(bytes);
        let striped = flow.striped;
        for lane in flow.lanes_mut() {
            for &slot in &lane.window {
                let held = pool.held(slot);
                if held.stored && held.begin <= lane.stored {
                    lane.stored = lane.stored.max(next_of(striped, held.end()));
                }
            }
        }
    }

    /// From now on each stripe has a source of its own.
    pub(super) fn split(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.striped || flow.splitting || !matches!(flow.phase, Phase::Waiting | Phase::Flowing)
        {
            return;
        }
        flow.splitting = true;
        if flow.lane(0).receiving {
            actions.push(Action::CancelRecv { flow: id, lane: 0 });
            return;
        }
        self.drop_claim(id, 0);
        self.split_if_due(id, actions);
    }

    fn split_if_due(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if !flow.splitting || flow.lane(0).receiving {
            return;
        }
        flow.splitting = false;
        let (edge, stored) = (flow.lane(0).edge, flow.lane(0).stored);
        if flow.size.is_some_and(|size| edge >= size) {
            return;
        }
        flow.striped = true;
        flow.place(edge, stored);
        let window = std::mem::take(&mut flow.lanes[0].window);
        let flow = self.flows[usize::from(id.0)].as_mut().expect("an open flow");
        for slot in window {
            let lane = stripe_of(self.pool.held(slot).begin);
            flow.lane_mut(lane).window.push_back(slot);
        }
        // What was written out of order may be in order in its lane.
        self.note_stored(id, 0);
        actions.push(Action::Split { flow: id });
        self.order_turns();
        if self.flow(id).phase == Phase::Flowing {
            self.connect_lanes(id, actions);
        }
    }

    fn drop_claim(&mut self, id: FlowId, index: u8) {
        let lane = self.flow_mut(id).lane_mut(index);
        if std::mem::take(&mut lane.claiming) {
            self.pool.flow_claims.retain(|&claim| claim != (id, index));
        }
    }

    pub(super) fn drop_claims(&mut self, id: FlowId) {
        for index in self.flow(id).lane_ids() {
            self.drop_claim(id, index);
        }
    }

    /// Gives free slots to those who wait: first to receive, then to read.
    pub(super) fn serve_claims(&mut self, actions: &mut Vec<Action>) {
        let mut next = 0;
        while let Some(&(id, index)) = self.pool.flow_claims.get(next) {
            if self.take_slot(id, index).is_none() {
                if self.pool.left_for_flows() == 0 {
                    break;
                }
                // It is ahead, and waits for its other half.
                next += 1;
                continue;
            }
            self.pool.flow_claims.remove(next);
            let flow = self.flow_mut(id);
            flow.lane_mut(index).claiming = false;
            flow.starved_ticks = 0;
            self.receive_more(id, index, actions);
        }
        while !self.pool.reader_claims.is_empty() {
            let Some(slot) = self.pool.take_for_reader() else { break };
            let reader = self.pool.reader_claims.pop_front().expect("a claim");
            self.read_into(reader, slot, actions);
        }
    }

    /// Whether a flow stands still for want of memory, and not because one lane waits for the
    /// other.
    pub(super) fn is_short_of_slots(&self, id: FlowId) -> bool {
        let claims = |&lane: &u8| self.flow(id).lane(lane).claiming && self.may_take(id, lane);
        self.flow(id).lane_ids().any(|lane| claims(&lane))
    }

    /// Offset of the oldest byte in memory, in the lane of a byte.
    pub(super) fn base(&self, id: FlowId, at: u64) -> u64 {
        let flow = self.flow(id);
        let lane = flow.lane(flow.lane_of(at));
        lane.window.front().map_or(lane.edge, |&slot| self.pool.held(slot).begin)
    }

    /// The slot in memory that holds a byte. All but a window's first begin at a multiple of the
    /// slot's size.
    pub(super) fn slot_at(&self, id: FlowId, at: u64) -> Slot {
        let flow = self.flow(id);
        let index = slots_between(flow, self.base(id, at), at);
        flow.lane(flow.lane_of(at)).window[index]
    }
}

/// How many slots of a lane lie between two of its bytes.
fn slots_between(flow: &Flow, from: u64, to: u64) -> usize {
    let between = |length| to / length - from / length;
    let slots = between(u64::from(SLOT_BYTES));
    // Every other piece is of the other lane.
    let skipped = if flow.striped { between(STRIPE_BYTES) / 2 * PIECE_SLOTS } else { 0 };
    usize::try_from(slots - skipped).expect("an index in a window")
}
