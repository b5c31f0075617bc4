//! What must hold after every event, and what must have been conserved at the end.

use super::flow::Phase;
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
        let windows: usize = self.flows.iter().flatten().map(|flow| flow.window.len()).sum();
        assert_eq!(receiving, windows, "every receiving slot is in a window");
        let own = self.readers.iter().flatten().filter(|reader| {
            reader.own.is_some() || matches!(reader.operation, Operation::Read { .. })
        });
        assert_eq!(reading, own.count(), "every reading slot has its reader");
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
            if reader.mode == Mode::Live {
                assert!(reader.position >= self.base(reader.flow), "a live reader is fed");
            }
        }
    }

    fn check_flow(&self, id: FlowId) {
        let flow = self.flow(id);
        assert!(flow.stored <= flow.received && flow.hashed <= flow.received);
        let live = |reader: &&ReaderId| self.reader(**reader).mode == Mode::Live;
        let live_count = flow.readers.iter().filter(live).count();
        assert_eq!(flow.live as usize, live_count, "live readers are counted");
        let mut next = None;
        for &slot in &flow.window {
            let held = self.pool.held(slot);
            let goes_on = next.is_none_or(|next| next == held.begin);
            assert!(goes_on || flow.phase == Phase::Abandoned, "a window without holes");
            next = Some(held.end());
            let end = held.end() + u64::from(held.room());
            let pinning = flow.readers.iter().filter(live);
            let pins = pinning.filter(|reader| self.reader(**reader).position < end).count();
            assert_eq!(held.pins as usize, pins, "pins are the live readers before the end");
        }
        if flow.phase != Phase::Abandoned && !flow.window.is_empty() {
            assert_eq!(next, Some(flow.received), "the window ends at the edge");
            assert!(self.base(id) <= flow.stored, "what left memory is in the file");
        }
        if flow.phase == Phase::Stored {
            assert!(flow.verified, "nothing unverified is stored");
        }
    }
}
