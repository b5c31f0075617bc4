//! Whose turn it is: memory is for a few blobs at a time, and for the same ones at all nodes.

use std::collections::VecDeque;

use super::flow::Phase;
use super::{Action, FlowId, Relay};

/// Ticks without a byte after which one more flow gets its turn: at the beginning of a burst nodes
/// wait for their places, and each blob more that is begun then keeps a slot for each of its lanes.
const QUIET_TICKS_MAX: u32 = 8;

/// Ticks, since it was asked for, for which a blob that may be split counts for two lanes. At the
/// beginning of a burst a node stands alone in its trees for up to a quarter of a second; blobs
/// that took their turns meanwhile, and are all split then, have more lanes than there is memory.
pub(super) const KEPT_TICKS: u32 = 12;

/// So many times the lanes that there is memory for have their turn at most: those that came early,
/// though others go before them at all nodes, keep their sources but not their memory.
const TURNS_PER_ROOM: usize = 3;

/// Ticks after which a flow comes before younger ones, whatever their ranks: 20 s.
const OLD_TICKS: u32 = 800;

/// What flows are ordered by: youth, rank, number.
type Order = (bool, u64, u16);

/// Who is fetched, and who waits.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Flows that wait for their turn to be fetched.
    pub(super) waiting: VecDeque<FlowId>,
    /// Flows whose turn it is.
    pub(super) active: Vec<FlowId>,
    /// Ticks at which none of those moved though others waited.
    quiet_ticks: u32,
    /// How many flows go on beside the first, whatever memory there is, since nothing moved.
    widened: usize,
}

impl Relay {
    /// Gives turns to waiting flows: as far as there is memory, and to one that comes before others
    /// that have their turn, though not to any number.
    pub(super) fn activate(&mut self, actions: &mut Vec<Action>) {
        while let Some((order, index, id)) = self.first_waiting() {
            let lanes = self.flow(id).lanes_to_come();
            let (mut before, mut all) = (lanes, lanes);
            for &other in &self.turns.active {
                let lanes = self.flow(other).lanes_to_come();
                all += lanes;
                before += if self.order(other) < order { lanes } else { 0 };
            }
            let room = self.pool.active_max();
            let fits = all <= room || before <= room && all <= room * TURNS_PER_ROOM;
            if !fits && !self.turns.active.is_empty() {
                return;
            }
            self.give_turn(index, actions);
        }
    }

    /// Which of two flows comes first, at all nodes the same: by rank, but for those that have been
    /// here for so long that others of a lower rank would keep them for ever.
    fn order(&self, id: FlowId) -> Order {
        let flow = self.flow(id);
        (flow.age_ticks < OLD_TICKS, flow.rank, id.0)
    }

    fn first_waiting(&self) -> Option<(Order, usize, FlowId)> {
        let waiting = self.turns.waiting.iter().enumerate();
        waiting.map(|(index, &id)| (self.order(id), index, id)).min()
    }

    /// Finds out anew which of the flows that have their turn go on: those for whose lanes there is
    /// room beside the flows before them. The order is the same at all nodes, so neighbours go on
    /// with the same blobs. To be called when a flow's turn, phase or number of lanes changes.
    pub(super) fn order_turns(&mut self) {
        let mut active = std::mem::take(&mut self.turns.active);
        active.sort_unstable_by_key(|&id| self.order(id));
        let (room, widened) = (self.pool.active_max(), self.turns.widened);
        let (mut flows, mut lanes) = (0, 0);
        for &id in &active {
            let flow = self.flow_mut(id);
            let own = flow.lanes().len();
            flow.goes_on = flows <= widened || lanes + own <= room;
            if flow.phase == Phase::Flowing {
                (flows, lanes) = (flows + 1, lanes + own);
            }
        }
        self.turns.active = active;
    }

    /// Whether a flow that has its turn may fill memory.
    pub(super) fn goes_on(&self, id: FlowId) -> bool {
        self.flow(id).goes_on
    }

    /// Whether more flows go on than there is room for, since nothing moved.
    pub(super) fn is_widened(&self) -> bool {
        self.turns.widened > 0
    }

    /// Whether a flow waits for others: for its turn, or in it for memory.
    pub(super) fn somebody_waits(&self) -> bool {
        !self.turns.waiting.is_empty() || self.turns.active.iter().any(|&id| !self.goes_on(id))
    }

    /// Counts a tick of the time that flows have been here, and for which room is kept for their
    /// second lanes.
    pub(super) fn grow_older(&mut self, actions: &mut Vec<Action>) {
        let mut changes = false;
        for flow in self.flows.iter_mut().flatten() {
            flow.age_ticks = flow.age_ticks.saturating_add(1);
            changes |= flow.kept_ticks == 1 || flow.age_ticks == OLD_TICKS;
            flow.kept_ticks = flow.kept_ticks.saturating_sub(1);
        }
        if changes {
            self.order_turns();
            self.activate(actions);
        }
    }

    /// One of the waiting flows has its turn.
    fn give_turn(&mut self, index: usize, actions: &mut Vec<Action>) {
        let Some(id) = self.turns.waiting.remove(index) else { return };
        self.turns.active.push(id);
        self.flow_mut(id).phase = Phase::Flowing;
        self.order_turns();
        if self.flow(id).is_received() {
            // All of it is in the file; only the verdict is missing.
            return self.finish_receiving(id, actions);
        }
        self.connect_lanes(id, actions);
    }

    pub(super) fn end_turn(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        self.turns.active.retain(|&other| other != id);
        self.turns.waiting.retain(|&other| other != id);
        self.order_turns();
        self.activate(actions);
        self.serve_claims(actions);
    }

    /// Nothing moves though flows wait. Two nodes may each wait for a blob whose turn it is at the
    /// other: one more goes on, the one that is the first at all nodes. So at last there is a blob
    /// that goes on everywhere; where that one moves, the others wait again.
    pub(super) fn widen_if_quiet(
        &mut self,
        first_moved: bool,
        moved: bool,
        actions: &mut Vec<Action>,
    ) {
        if first_moved && std::mem::take(&mut self.turns.widened) > 0 {
            self.order_turns();
        }
        self.turns.quiet_ticks =
            if moved || self.turns.active.is_empty() { 0 } else { self.turns.quiet_ticks + 1 };
        if self.turns.quiet_ticks < QUIET_TICKS_MAX || self.pool.left_for_flows() == 0 {
            return;
        }
        self.turns.quiet_ticks = 0;
        let next = self.first_waiting();
        if self.somebody_waits() {
            self.turns.widened = self.turns.active.len().min(self.turns.widened + 1);
            self.order_turns();
        }
        if let Some((_, next, _)) = next {
            self.give_turn(next, actions);
        }
        self.serve_claims(actions);
    }
}
