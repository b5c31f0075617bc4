//! Between a flow and its readers: who is live and pins what, who falls behind, who is stuck.
//!
//! A live reader holds every slot from its position on. When a flow stands still for want of a
//! slot, the readers that pin its oldest one give up their hold and are served from the file
//! (*behind*) until they meet the window again. A reader that is merely a little late is left to
//! back-pressure: the file costs a read of the disk for every byte.

use super::reader::{Mode, Operation};
use super::{Action, FlowId, ReaderId, Reason, Relay};
use crate::ring::Slot;

/// Ticks for which a flow stands in the queue for a slot before its slowest readers are taken off
/// it.
const STARVED_TICKS_MAX: u32 = 2;

/// A flow that lets go of this many slots in a tick has no slow reader: 250 MB/s at ticks of 25 ms.
/// Above that, reading the file again costs more than waiting.
const FREED_PER_TICK: u32 = 6;

/// Ticks for which a send from a reader's own slot may be in flight while others wait for one.
const STUCK_TICKS_MAX: u32 = 2;

impl Relay {
    /// Feeds the readers at the edge: new bytes are here.
    pub(super) fn pump_live(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let count = self.flow(id).readers.len();
        // Backwards: one that is done is replaced by the last.
        for index in (0..count).rev() {
            let reader = self.flow(id).readers[index];
            if self.reader(reader).mode == Mode::Live {
                self.pump(reader, actions);
            }
        }
    }

    /// Feeds all readers: the last byte may go.
    pub(super) fn pump_all(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let count = self.flow(id).readers.len();
        for index in (0..count).rev() {
            let reader = self.flow(id).readers[index];
            self.pump(reader, actions);
        }
    }

    /// Puts a reader that has met the window to the edge.
    pub(super) fn go_live(&mut self, id: ReaderId) {
        let reader = self.reader_mut(id);
        debug_assert!(reader.own.is_none() && reader.mode == Mode::Behind);
        reader.mode = Mode::Live;
        let flow = reader.flow;
        self.flow_mut(flow).live += 1;
        self.change_pins(id, |pins| pins + 1);
    }

    /// Takes a reader off the edge; it has nothing in flight.
    pub(super) fn detach(&mut self, id: ReaderId) {
        self.unpin(id);
        self.reader_mut(id).mode = Mode::Behind;
        self.totals.detached += 1;
    }

    /// Lets go of every slot that a live reader holds.
    pub(super) fn unpin(&mut self, id: ReaderId) {
        let flow = self.reader(id).flow;
        self.flow_mut(flow).live -= 1;
        self.change_pins(id, |pins| pins - 1);
    }

    /// Applies to every slot from the reader's position on.
    fn change_pins(&mut self, id: ReaderId, change: impl Fn(u32) -> u32) {
        let reader = self.readers[usize::from(id.0)].as_ref().expect("a joined reader");
        let position = reader.position;
        let flow = self.flows[usize::from(reader.flow.0)].as_ref().expect("an open flow");
        for lane in &flow.lanes {
            for &slot in lane.window.iter().rev() {
                let held = self.pool.held_mut(slot);
                // Its end when full: a slot being filled is pinned by all.
                if held.end() + u64::from(held.room()) <= position {
                    break;
                }
                if reader.covers(held.begin) {
                    held.pins = change(held.pins);
                }
            }
        }
    }

    /// Ends all readers of a flow that failed.
    pub(super) fn cut_readers(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        let count = self.flow(id).readers.len();
        for index in (0..count).rev() {
            let reader = self.flow(id).readers[index];
            self.close_and_cancel(reader, Reason::Flow, actions);
            self.pump(reader, actions);
            if self.flows[usize::from(id.0)].is_none() {
                return;
            }
        }
    }

    pub(super) fn tick(&mut self, actions: &mut Vec<Action>) {
        let (mut starved, mut moved) = (false, false);
        let mut laggards = Vec::new();
        let first_moved =
            self.turns.active.first().copied().is_some_and(|first| self.flow(first).moved);
        for index in 0..self.turns.active.len() {
            let id = self.turns.active[index];
            let is_short = self.is_short_of_slots(id);
            let is_held_up = is_short && self.flow(id).freed < FREED_PER_TICK;
            laggards.extend(self.find_laggard(id, is_held_up));
            let flow = self.flow_mut(id);
            flow.starved_ticks = if is_short { flow.starved_ticks + 1 } else { 0 };
            starved |= flow.starved_ticks >= STARVED_TICKS_MAX;
            moved |= std::mem::take(&mut flow.moved);
        }
        for laggard in laggards {
            let flow = self.reader(laggard).flow;
            self.take_off(laggard, actions);
            self.release(flow, actions);
        }
        if starved {
            self.detach_slow(actions);
        }
        self.grow_older(actions);
        self.widen_if_quiet(first_moved, moved, actions);
        for flow in self.flows.iter_mut().flatten() {
            flow.freed = 0;
        }
        if !self.pool.reader_claims.is_empty() {
            self.reclaim_stuck(actions);
        }
    }

    /// Some flow stands still: whoever pins the oldest slot of any flow lets go of it, also of one
    /// that is stored.
    fn detach_slow(&mut self, actions: &mut Vec<Action>) {
        for index in 0..self.flows.len() {
            let Some(flow) = self.flows[index].as_ref() else { continue };
            let id = FlowId(u16::try_from(index).expect("an id"));
            if flow.freed >= FREED_PER_TICK {
                continue;
            }
            let fronts = flow.lanes.each_ref().map(|lane| lane.window.front().copied());
            for front in fronts.into_iter().flatten() {
                self.detach_from(id, front, actions);
            }
            self.release(id, actions);
        }
    }

    /// Takes those off the edge who are all that still needs a window's oldest slot.
    fn detach_from(&mut self, id: FlowId, front: Slot, actions: &mut Vec<Action>) {
        let held = *self.pool.held(front);
        if !held.stored || self.flow(id).hashed < held.end() {
            return;
        }
        for index in (0..self.flow(id).readers.len()).rev() {
            let reader_id = self.flow(id).readers[index];
            let reader = self.reader(reader_id);
            let passed = reader.position >= held.end() || !reader.covers(held.begin);
            if reader.mode == Mode::Live && !passed {
                self.take_off(reader_id, actions);
            }
        }
    }

    /// Takes a reader off the edge, now or when its send has ended.
    fn take_off(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        if self.reader(id).operation == Operation::None {
            self.detach(id);
            self.pump(id, actions);
        } else {
            self.cancel_send(id, actions);
        }
    }

    /// Readers wait for a slot: those whose own slot has not moved give it back.
    fn reclaim_stuck(&mut self, actions: &mut Vec<Action>) {
        for index in 0..self.readers.len() {
            let Some(reader) = self.readers[index].as_mut() else { continue };
            if reader.own.is_none() || !matches!(reader.operation, Operation::Send { .. }) {
                continue;
            }
            reader.ticks += 1;
            if reader.ticks >= STUCK_TICKS_MAX {
                let index = u16::try_from(index).expect("an id");
                self.cancel_send(ReaderId(index), actions);
            }
        }
    }
}
