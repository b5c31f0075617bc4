//! One blob's way in: from its source into slots, from slots to the file and the hash, until it is
//! stored.

use std::collections::VecDeque;

use xylem_protocol::limits::{RECV_MAX, SLOT_BYTES, UNIT_BYTES};

use super::pool::Held;
use super::reader::Mode;
use super::{Action, FlowId, ReaderId, Relay, put};
use crate::ring::Slot;

/// Where a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for its turn.
    Waiting,
    /// Has no source that answers yet, or lost it.
    Connecting,
    /// Bytes come.
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

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) phase: Phase,
    pub(super) size: Option<u64>,
    pub(super) received: u64,
    pub(super) stored: u64,
    pub(super) hashed: u64,
    pub(super) verified: bool,
    /// Slots from the oldest byte in memory to the newest.
    pub(super) window: VecDeque<Slot>,
    pub(super) receiving: bool,
    /// Whether it stands in the queue for a slot.
    pub(super) claiming: bool,
    pub(super) finalizing: bool,
    /// Whether it begins anew once the window is empty.
    pub(super) restarting: bool,
    /// Readers that are fed from the window.
    pub(super) live: u32,
    pub(super) readers: Vec<ReaderId>,
    /// Slots let go since the last tick.
    pub(super) freed: u32,
    /// Ticks in a row at which it stood in the queue.
    pub(super) starved_ticks: u32,
}

impl Flow {
    fn new(phase: Phase, size: Option<u64>, present: u64) -> Self {
        Self {
            phase,
            size,
            received: present,
            stored: present,
            hashed: present,
            verified: phase == Phase::Stored,
            window: VecDeque::new(),
            receiving: false,
            claiming: false,
            finalizing: false,
            restarting: false,
            live: 0,
            readers: Vec::new(),
            freed: 0,
            starved_ticks: 0,
        }
    }

    /// Up to where readers may be sent: all that is here, but for the last byte of a blob not yet
    /// verified.
    pub(super) fn limit(&self) -> u64 {
        match self.size {
            Some(size) if !self.verified => self.received.min(size.saturating_sub(1)),
            _ => self.received,
        }
    }

    fn is_idle(&self) -> bool {
        !self.receiving && !self.finalizing && self.window.is_empty()
    }
}

impl Relay {
    pub(super) fn fetch(
        &mut self,
        id: FlowId,
        resume: u64,
        size: Option<u64>,
        actions: &mut Vec<Action>,
    ) {
        assert!(resume.is_multiple_of(u64::from(UNIT_BYTES)), "resume within a unit");
        assert!(resume == 0 || size.is_some_and(|size| resume <= size), "resume without a size");
        put(&mut self.flows, id.0, Flow::new(Phase::Waiting, size, resume));
        self.waiting.push_back(id);
        self.activate(actions);
    }

    pub(super) fn serve(&mut self, id: FlowId, size: u64) {
        put(&mut self.flows, id.0, Flow::new(Phase::Stored, Some(size), size));
    }

    /// Gives turns to waiting flows.
    fn activate(&mut self, actions: &mut Vec<Action>) {
        while self.active.len() < self.pool.active_max() {
            let Some(id) = self.waiting.pop_front() else { return };
            self.active.push(id);
            let flow = self.flow_mut(id);
            if flow.size == Some(flow.received) {
                // All of it is in the file; only the verdict is missing.
                flow.phase = Phase::Flowing;
                self.receive_more(id, actions);
                continue;
            }
            flow.phase = Phase::Connecting;
            actions.push(Action::Connect { flow: id, at: flow.received });
        }
    }

    pub(super) fn source_ready(&mut self, id: FlowId, size: u64, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.phase == Phase::Abandoned {
            return;
        }
        assert_eq!(flow.phase, Phase::Connecting, "a source that nobody waits for");
        assert!(flow.size.is_none_or(|known| known == size), "another size than before");
        flow.size = Some(size);
        flow.phase = Phase::Flowing;
        self.receive_more(id, actions);
    }

    /// Issues the next receive, or ends the flow's way in, or stands in the queue for a slot.
    fn receive_more(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.phase != Phase::Flowing || flow.receiving || flow.claiming {
            return;
        }
        let size = flow.size.expect("a flowing flow's size");
        if flow.received == size {
            flow.phase = Phase::Draining;
            flow.finalizing = true;
            actions.push(Action::Finalize { flow: id });
            return;
        }
        let (received, last) = (flow.received, flow.window.back().copied());
        let slot = match last.filter(|&slot| self.pool.held(slot).room() > 0) {
            Some(slot) => slot,
            None => match self.pool.take_for_flow(received) {
                Some(slot) => self.append(id, slot),
                None => {
                    self.flow_mut(id).claiming = true;
                    self.pool.flow_claims.push_back(id);
                    return;
                }
            },
        };
        let held = self.pool.held_mut(slot);
        held.operations += 1;
        let rest = u32::try_from(size - received).unwrap_or(u32::MAX);
        let bytes = RECV_MAX.min(held.room()).min(rest);
        let offset = Held::offset_of(received);
        self.flow_mut(id).receiving = true;
        actions.push(Action::Recv { flow: id, slot, offset, bytes, at: received });
    }

    /// Adds a slot to the window; every live reader has to pass it, but for those whose range
    /// begins behind it.
    fn append(&mut self, id: FlowId, slot: Slot) -> Slot {
        self.flow_mut(id).window.push_back(slot);
        let held = self.pool.held(slot);
        let end = held.end() + u64::from(held.room());
        let mut pins = self.flow(id).live;
        if pins > 0 {
            let ahead = |&&reader: &&ReaderId| {
                let reader = self.reader(reader);
                reader.mode == Mode::Live && reader.position >= end
            };
            let count = self.flow(id).readers.iter().filter(ahead).count();
            pins -= u32::try_from(count).expect("live readers");
        }
        self.pool.held_mut(slot).pins = pins;
        slot
    }

    pub(super) fn received(&mut self, id: FlowId, bytes: u32, actions: &mut Vec<Action>) {
        assert!(bytes > 0, "a receive without bytes is a lost source");
        let flow = self.flow_mut(id);
        assert!(flow.receiving, "bytes that nobody asked for");
        flow.receiving = false;
        flow.received += u64::from(bytes);
        let slot = *flow.window.back().expect("the slot received into");
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
        self.hash_and_write(id, slot, actions);
        self.receive_more(id, actions);
    }

    /// Gives the whole units of a slot to the hash thread, and the whole slot to the disk.
    fn hash_and_write(&mut self, id: FlowId, slot: Slot, actions: &mut Vec<Action>) {
        let at_end = {
            let flow = self.flow(id);
            flow.size == Some(flow.received)
        };
        let held = self.pool.held_mut(slot);
        let begin = held.begin;
        while held.hashing < held.filled {
            let from = begin + u64::from(held.hashing);
            // A slot is made of whole units.
            let into_unit = Held::offset_of(from) % UNIT_BYTES;
            let there = held.filled - held.hashing;
            let bytes = there.min(UNIT_BYTES - into_unit);
            if into_unit + bytes < UNIT_BYTES && !at_end {
                break;
            }
            held.hashing += bytes;
            held.operations += 1;
            let offset = Held::offset_of(from);
            actions.push(Action::Hash { flow: id, slot, offset, bytes, at: from });
        }
        if (held.room() == 0 || at_end) && !held.writing {
            held.writing = true;
            held.operations += 1;
            let (offset, bytes) = (Held::offset_of(begin), held.filled);
            actions.push(Action::Write { flow: id, slot, offset, bytes, at: begin });
        }
    }

    pub(super) fn source_lost(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.receiving {
            flow.receiving = false;
            let slot = *flow.window.back().expect("the slot received into");
            self.pool.held_mut(slot).operations -= 1;
        }
        let flow = self.flow_mut(id);
        match flow.phase {
            Phase::Flowing => {
                flow.phase = Phase::Connecting;
                if flow.claiming {
                    flow.claiming = false;
                    self.pool.flow_claims.retain(|&claim| claim != id);
                }
            }
            Phase::Abandoned => self.close_if_idle(id, actions),
            _ => {}
        }
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
        // Writes may end out of order; what counts is the file without holes.
        let (pool, flow) = (&self.pool, self.flows[usize::from(id.0)].as_mut().expect("open"));
        for &slot in &flow.window {
            let held = pool.held(slot);
            if held.stored && held.begin <= flow.stored {
                flow.stored = flow.stored.max(held.end());
            }
        }
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

    fn end_turn(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        self.active.retain(|&other| other != id);
        self.waiting.retain(|&other| other != id);
        self.activate(actions);
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

    pub(super) fn abandon(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flow_mut(id);
        if flow.phase == Phase::Abandoned {
            return;
        }
        flow.phase = Phase::Abandoned;
        if flow.receiving {
            actions.push(Action::CancelRecv { flow: id });
        }
        if flow.claiming {
            flow.claiming = false;
            self.pool.flow_claims.retain(|&claim| claim != id);
        }
        self.end_turn(id, actions);
        self.cut_readers(id, actions);
        // The last reader's leaving may have closed it already.
        if self.flows[usize::from(id.0)].is_some() {
            self.close_if_idle(id, actions);
        }
    }

    /// Lets go of slots from the old end of the window, as far as nobody needs them.
    pub(super) fn release(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flows[usize::from(id.0)].as_mut().expect("an open flow");
        if flow.phase == Phase::Abandoned {
            return self.close_if_idle(id, actions);
        }
        let mut freed = 0;
        while let Some(&slot) = flow.window.front() {
            let held = self.pool.held(slot);
            let needed = !held.stored || held.pins > 0 || flow.hashed < held.end();
            if needed || held.operations > 0 {
                break;
            }
            flow.window.pop_front();
            self.pool.give_back_from_flow(slot);
            freed += 1;
        }
        flow.freed += freed;
        if flow.restarting && flow.window.is_empty() {
            (flow.received, flow.stored, flow.hashed) = (0, 0, 0);
            flow.restarting = false;
            flow.phase = Phase::Connecting;
            actions.push(Action::Connect { flow: id, at: 0 });
        }
        if freed > 0 {
            self.serve_claims(actions);
        }
    }

    /// Ends an abandoned flow once nothing is in flight for it.
    pub(super) fn close_if_idle(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let flow = self.flows[usize::from(id.0)].as_mut().expect("an open flow");
        debug_assert_eq!(flow.phase, Phase::Abandoned);
        let before = flow.window.len();
        let pool = &mut self.pool;
        flow.window.retain(|&slot| {
            let busy = pool.held(slot).operations > 0;
            if !busy {
                pool.give_back_from_flow(slot);
            }
            busy
        });
        let freed = flow.window.len() < before;
        if flow.is_idle() && flow.readers.is_empty() {
            self.flows[usize::from(id.0)] = None;
            actions.push(Action::Closed { flow: id });
        }
        if freed {
            self.serve_claims(actions);
        }
    }

    /// Gives free slots to those who wait: first to receive, then to read.
    pub(super) fn serve_claims(&mut self, actions: &mut Vec<Action>) {
        while let Some(&id) = self.pool.flow_claims.front() {
            let received = self.flow(id).received;
            let Some(slot) = self.pool.take_for_flow(received) else { break };
            self.pool.flow_claims.pop_front();
            self.append(id, slot);
            let flow = self.flow_mut(id);
            flow.claiming = false;
            flow.starved_ticks = 0;
            self.receive_more(id, actions);
        }
        while !self.pool.reader_claims.is_empty() {
            let Some(slot) = self.pool.take_for_reader() else { break };
            let reader = self.pool.reader_claims.pop_front().expect("a claim");
            self.read_into(reader, slot, actions);
        }
    }

    /// Offset of the oldest byte in memory.
    pub(super) fn base(&self, id: FlowId) -> u64 {
        let flow = self.flow(id);
        flow.window.front().map_or(flow.received, |&slot| self.pool.held(slot).begin)
    }

    /// The window's slot that holds a byte. All but the first begin at a multiple of the slot's
    /// size.
    pub(super) fn slot_at(&self, id: FlowId, at: u64) -> Slot {
        let flow = self.flow(id);
        let first = self.base(id) / u64::from(SLOT_BYTES);
        let index = at / u64::from(SLOT_BYTES) - first;
        flow.window[usize::try_from(index).expect("an index in a window")]
    }
}
