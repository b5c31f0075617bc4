//! What must hold after every event, and what must have been conserved at the end.

use super::flow::Phase;
use super::lane::{Lane, next_of};
use super::reader::{Mode, Operation};
use super::{FlowId, ReaderId, Relay};

/// Bytes that have passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Received from sources.
    pub received: u64,
    /// Written to files.
    pub stored: u64,
    /// Sent to readers.
    pub sent: u64,
    /// Times that a reader was taken off the edge.
    pub detached: u64,
}

impl Relay {
    /// Panics if the state contradicts itself. For tests and the simulator: it looks at everything.
    pub fn check(&self) {
        let (free, receiving, reading) = self.pool.count();
        assert_eq!(free + receiving + reading, self.pool.slots(), "slots are conserved");
        let windows: usize = self.flows.iter().flatten().map(|flow| flow.windows().count()).sum();
        assert_eq!(receiving, windows, "every receiving slot is in a window");
        let own = self.readers.iter().flatten().filter(|reader| {
            reader.own.is_some() || matches!(reader.operation, Operation::Read { .. })
        });
        assert_eq!(reading, own.count(), "every reading slot has its reader");
        self.check_turns();
        for index in 0..self.flows.len() {
            if self.flows[index].is_some() {
                self.check_flow(FlowId(u16::try_from(index).expect("an id")));
            }
        }
        for (index, reader) in self.readers.iter().enumerate() {
            let Some(reader) = reader else { continue };
            let id = ReaderId(u16::try_from(index).expect("an id"));
            assert!(self.flow(reader.flow).readers.contains(&id), "a reader of its flow");
            assert!(reader.position <= reader.end, "no reader passes its end");
            let (flow, at) = (reader.flow, reader.position);
            let is_there = self.flow(flow).here(at) > at && at < reader.end;
            if reader.mode == Mode::Live && reader.operation == Operation::None && is_there {
                assert!(at >= self.base(flow, at), "a live reader is fed");
            }
        }
    }

    fn check_turns(&self) {
        let room = self.pool.active_max();
        let mut lanes = 0;
        for &id in &self.turns.active {
            let flow = self.flow(id);
            let fits = lanes + flow.lanes().len() <= room;
            assert!(flow.goes_on || !fits, "a flow for which there is room goes on");
            let may = fits || lanes == 0 || self.is_widened();
            assert!(may || !flow.goes_on, "a flow for which there is no room waits");
            lanes += if flow.phase == Phase::Flowing { flow.lanes().len() } else { 0 };
        }
    }

    fn check_flow(&self, id: FlowId) {
        let flow = self.flow(id);
        assert!(flow.stored <= flow.received && flow.hashed <= flow.received);
        let live = |reader: &&ReaderId| self.reader(**reader).mode == Mode::Live;
        let live_count = flow.readers.iter().filter(live).count();
        assert_eq!(flow.live as usize, live_count, "live readers are counted");
        for (lane, index) in flow.lanes.iter().zip(0..) {
            self.check_lane(id, lane, index);
        }
        if flow.phase == Phase::Stored {
            assert!(flow.verified, "nothing unverified is stored");
        }
    }
    fn check_lane(&self, id: FlowId, lane: &Lane, index: u8) {
        let flow = self.flow(id);
        let abandoned = flow.phase == Phase::Abandoned;
        let skips = flow.striped && index < 2;
        let mut next = None;
        for &slot in &lane.window {
            let held = self.pool.held(slot);
            assert_eq!(flow.lane_of(held.begin), index, "a slot of its own lane");
            let goes_on = next.is_none_or(|next| next == held.begin);
            assert!(goes_on || abandoned, "a window without holes");
            let end = held.end() + u64::from(held.room());
            next = Some(if held.room() == 0 { next_of(skips, end) } else { held.end() });
            let pins = flow.readers.iter().filter(|reader| {
                let reader = self.reader(**reader);
                reader.mode == Mode::Live && reader.position < end && reader.covers(held.begin)
            });
            assert_eq!(held.pins as usize, pins.count(), "pins are the live readers to come");
        }
        if !abandoned && let Some(&front) = lane.window.front() {
            assert_eq!(next, Some(lane.edge), "the window ends at the edge");
            let begin = self.pool.held(front).begin;
            assert!(begin <= lane.stored, "what left memory is in the file");
        }
    }
}
