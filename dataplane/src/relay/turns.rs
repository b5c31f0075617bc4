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
    /// Gives turns to waiting flows.
    pub(super) fn activate(&mut self, actions: &mut Vec<Action>) {
        while let Some(&id) = self.turns.waiting.front() {
            let lanes = |id: &FlowId| self.flow(*id).lanes_to_come();
            let busy: usize = self.turns.active.iter().map(lanes).sum();
            let room = self.pool.active_max().saturating_sub(busy);
            if lanes(&id) > room && !self.turns.active.is_empty() {
                return;
            }
            self.give_turn(0, actions);
        }
    }

    /// Whether a flow that has its turn may fill memory: there is room for its lanes beside those
    /// of lower rank. Ranks are the same at all nodes, so neighbours go on with the same blob.
    pub(super) fn goes_on(&self, id: FlowId) -> bool {
        let flow = self.flow(id);
        let is_before = |other: &&FlowId| {
            let it = self.flow(**other);
            it.phase == Phase::Flowing && (it.rank, other.0) < (flow.rank, id.0)
        };
        let before = self.turns.active.iter().filter(is_before);
        let (flows, lanes) = before.fold((0, 0), |(flows, lanes), other| {
            (flows + 1, lanes + self.flow(*other).lanes().len())
        });
        flows <= self.turns.widened || lanes + flow.lanes().len() <= self.pool.active_max()
    }

    /// Whether a flow waits for others: for its turn, or in it for memory.
    pub(super) fn somebody_waits(&self) -> bool {
        !self.turns.waiting.is_empty() || self.turns.active.iter().any(|&id| !self.goes_on(id))
    }

    /// Counts a tick of the time for which room is kept for second lanes.
    pub(super) fn keep_room(&mut self, actions: &mut Vec<Action>) {
        let mut is_over = false;
        for flow in self.flows.iter_mut().flatten() {
            is_over |= flow.kept_ticks == 1;
            flow.kept_ticks = flow.kept_ticks.saturating_sub(1);
        }
        if is_over {
            self.activate(actions);
        }
    }

    /// One of the waiting flows has its turn.
    fn give_turn(&mut self, index: usize, actions: &mut Vec<Action>) {
        let Some(id) = self.turns.waiting.remove(index) else { return };
        self.turns.active.push(id);
        self.flow_mut(id).phase = Phase::Flowing;
        if self.flow(id).is_received() {
            // All of it is in the file; only the verdict is missing.
            return self.finish_receiving(id, actions);
        }
        self.connect_lanes(id, actions);
    }

    pub(super) fn end_turn(&mut self, id: FlowId, actions: &mut Vec<Action>) {
        self.turns.active.retain(|&other| other != id);
        self.turns.waiting.retain(|&other| other != id);
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
        if first_moved {
            self.turns.widened = 0;
        }
        self.turns.quiet_ticks =
            if moved || self.turns.active.is_empty() { 0 } else { self.turns.quiet_ticks + 1 };
        if self.turns.quiet_ticks < QUIET_TICKS_MAX || self.pool.left_for_flows() == 0 {
            return;
        }
        self.turns.quiet_ticks = 0;
        let ranks = (0..).zip(&self.turns.waiting).map(|(index, &id)| (self.flow(id).rank, index));
        let next = ranks.min();
        if self.somebody_waits() {
            self.turns.widened = self.turns.active.len().min(self.turns.widened + 1);
        }
        if let Some((_, next)) = next {
            self.give_turn(next, actions);
        }
        self.serve_claims(actions);
    }
}
