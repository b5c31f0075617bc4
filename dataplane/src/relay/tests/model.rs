//! A driver without a world: keeps every operation that the relay has ordered until a test lets it
//! end.
//!
//! The test says which operation ends when, and how. After each event the relay checks itself, and
//! the audit has looked at the event and at every action.

use std::collections::BTreeMap;

use crate::relay::{Action, Audit, Event, FlowId, ReaderId, Reason, Relay};
use crate::ring::Slot;

/// Rounds after which a run that has not come to rest never will.
const ROUNDS_MAX: u32 = 10_000;

/// Ticks without anything to do after which nothing more is to be expected.
const QUIET_TICKS: u32 = 8;

/// An operation in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Connect { flow: FlowId, lane: u8 },
    Recv { flow: FlowId, lane: u8, bytes: u32, cancelled: bool },
    Write { flow: FlowId, slot: Slot },
    Hash { flow: FlowId, slot: Slot, bytes: u32 },
    Finalize { flow: FlowId },
    Send { reader: ReaderId, bytes: u32, cancelled: bool },
    Read { reader: ReaderId, at: u64, bytes: u32 },
    Poll { reader: ReaderId },
}

/// How an operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// With everything that was asked for.
    Well,
    /// With at most so many bytes.
    Short(u32),
    /// Not.
    Failed,
}

/// How a reader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Cut(Reason),
}

/// What the driver knows of a blob.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) size: u64,
    /// The source has answered once, so that readers may join.
    pub(super) known: bool,
    pub(super) connected: [bool; 2],
    /// How many more times its digest will be wrong.
    pub(super) mismatches: u32,
    pub(super) stored: bool,
    pub(super) failed: bool,
    /// Waits for a restart.
    pub(super) wrong: bool,
}

impl Blob {
    const fn of(size: u64) -> Self {
        Self {
            size,
            known: false,
            connected: [false; 2],
            mismatches: 0,
            stored: false,
            failed: false,
            wrong: false,
        }
    }
}

fn is_connect(op: &Op, flow: FlowId) -> bool {
    matches!(op, Op::Connect { flow: other, .. } if *other == flow)
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) relay: Relay,
    pub(super) audit: Audit,
    /// Oldest first.
    pub(super) ops: Vec<Op>,
    pub(super) blobs: BTreeMap<FlowId, Blob>,
    /// Readers, and whether they take no bytes.
    pub(super) stalled: BTreeMap<ReaderId, bool>,
    pub(super) ends: BTreeMap<ReaderId, End>,
    /// All actions since the last `take`.
    pub(super) log: Vec<Action>,
    /// Whether blobs that come whole are expected to be split.
    pub(super) splits: bool,
    actions: Vec<Action>,
}

impl Model {
    pub(super) fn new(slots: u16) -> Self {
        Self {
            relay: Relay::new(slots),
            audit: Audit::new(slots),
            ops: Vec::new(),
            blobs: BTreeMap::new(),
            stalled: BTreeMap::new(),
            ends: BTreeMap::new(),
            log: Vec::new(),
            splits: false,
            actions: Vec::new(),
        }
    }

    /// Lets one event happen, and puts the operations that follow from it into flight.
    pub(super) fn apply(&mut self, event: Event) {
        self.audit.event(event);
        let mut actions = std::mem::take(&mut self.actions);
        self.relay.apply(event, &mut actions);
        for action in actions.drain(..) {
            self.audit.action(action);
            self.log.push(action);
            self.start(action);
        }
        self.actions = actions;
        self.relay.check();
    }

    fn start(&mut self, action: Action) {
        let op = match action {
            Action::Connect { flow, lane, .. } => Op::Connect { flow, lane },
            Action::Recv { flow, lane, bytes, .. } => {
                Op::Recv { flow, lane, bytes, cancelled: false }
            }
            Action::Split { flow } => {
                self.blob(flow).connected = [false; 2];
                return self.ops.retain(|op| !is_connect(op, flow));
            }
            Action::Write { flow, slot, .. } => Op::Write { flow, slot },
            Action::Hash { flow, slot, bytes, .. } => Op::Hash { flow, slot, bytes },
            Action::Finalize { flow } => Op::Finalize { flow },
            Action::Send { reader, bytes, .. } => Op::Send { reader, bytes, cancelled: false },
            Action::Read { reader, at, bytes, .. } => Op::Read { reader, at, bytes },
            Action::AwaitWritable { reader } => Op::Poll { reader },
            Action::CancelRecv { flow: which, lane: by } => {
                return self.cancel(|op| match op {
                    Op::Recv { flow, lane, cancelled, .. } if (*flow, *lane) == (which, by) => {
                        Some(cancelled)
                    }
                    _ => None,
                });
            }
            Action::CancelSend { reader: which } => {
                return self.cancel(|op| match op {
                    Op::Send { reader, cancelled, .. } if *reader == which => Some(cancelled),
                    _ => None,
                });
            }
            Action::Stored { flow } => return self.blob(flow).stored = true,
            Action::Done { reader } => return self.end(reader, End::Done),
            Action::Cut { reader, reason } => return self.end(reader, End::Cut(reason)),
            Action::Closed { flow } => {
                self.blobs.remove(&flow).expect("an open blob");
                return self.ops.retain(|op| !is_connect(op, flow));
            }
        };
        self.ops.push(op);
    }

    fn cancel(&mut self, which: impl Fn(&mut Op) -> Option<&mut bool>) {
        *self.ops.iter_mut().find_map(which).expect("an operation to cancel") = true;
    }

    fn end(&mut self, reader: ReaderId, end: End) {
        self.stalled.remove(&reader).expect("a joined reader");
        self.ends.insert(reader, end);
        self.ops.retain(|op| *op != Op::Poll { reader });
    }

    pub(super) fn blob(&mut self, flow: FlowId) -> &mut Blob {
        self.blobs.get_mut(&flow).expect("an open blob")
    }

    pub(super) fn fetch(&mut self, flow: FlowId, size: u64, resume: u64, mismatches: u32) {
        self.fetch_as(flow, size, resume, mismatches, false);
    }

    pub(super) fn fetch_as(
        &mut self,
        flow: FlowId,
        size: u64,
        resume: u64,
        mismatches: u32,
        striped: bool,
    ) {
        let blob = Blob { known: resume > 0, mismatches, ..Blob::of(size) };
        let known = blob.known.then_some(size);
        self.blobs.insert(flow, blob);
        let rank = u64::from(flow.0);
        self.apply(Event::Fetch { flow, resume, size: known, striped, splits: self.splits, rank });
    }

    pub(super) fn serve(&mut self, flow: FlowId, size: u64) {
        self.blobs.insert(flow, Blob { known: true, stored: true, ..Blob::of(size) });
        self.apply(Event::Serve { flow, size });
    }

    pub(super) fn join(&mut self, reader: ReaderId, flow: FlowId, start: u64, end: u64) {
        self.join_stripe(reader, flow, None, (start, end));
    }

    pub(super) fn join_stripe(
        &mut self,
        reader: ReaderId,
        flow: FlowId,
        stripe: Option<u8>,
        (start, end): (u64, u64),
    ) {
        self.stalled.insert(reader, false);
        self.apply(Event::Join { reader, flow, stripe, start, end });
    }

    /// A whole flow gets a source for each stripe; what its source was being asked is over.
    pub(super) fn split(&mut self, flow: FlowId) {
        self.apply(Event::Split { flow });
    }

    pub(super) fn leave(&mut self, reader: ReaderId) {
        self.ops.retain(|op| *op != Op::Poll { reader });
        self.apply(Event::Leave { reader });
    }

    pub(super) fn abandon(&mut self, flow: FlowId) {
        let blob = self.blob(flow);
        (blob.failed, blob.stored) = (true, false);
        self.apply(Event::Abandon { flow });
    }

    pub(super) fn restart(&mut self, flow: FlowId) {
        self.blob(flow).wrong = false;
        self.ops.retain(|op| *op != Op::Connect { flow, lane: 1 });
        self.apply(Event::Restart { flow });
    }

    /// The source breaks; a receive in flight ends without bytes. The driver looks for another one
    /// at once.
    pub(super) fn lose_source(&mut self, flow: FlowId, lane: u8) {
        let gone = |op: &Op| match op {
            Op::Recv { flow: other, lane: by, .. } => (*other, *by) == (flow, lane),
            _ => false,
        };
        self.ops.retain(|op| !gone(op));
        let blob = self.blob(flow);
        blob.connected[usize::from(lane)] = false;
        let again = !blob.failed;
        self.apply(Event::SourceLost { flow, lane });
        let waits = self.blobs.contains_key(&flow) && self.relay.is_waiting_for_source(flow, lane);
        let op = Op::Connect { flow, lane };
        if again && waits && !self.ops.contains(&op) {
            self.ops.push(op);
        }
    }

    /// Whether an operation can end now: stalled readers take nothing, and hash jobs end in order.
    pub(super) fn can_end(&self, index: usize) -> bool {
        match self.ops[index] {
            Op::Send { reader, cancelled, .. } => cancelled || !self.stalled[&reader],
            Op::Poll { reader } => !self.stalled[&reader],
            Op::Hash { flow, .. } | Op::Finalize { flow } => {
                let before = &self.ops[..index];
                !before
                    .iter()
                    .any(|op| matches!(op, Op::Hash { flow: other, .. } if *other == flow))
            }
            _ => true,
        }
    }

    /// Lets an operation end.
    pub(super) fn finish(&mut self, index: usize, how: How) {
        assert!(self.can_end(index));
        let short = |bytes: u32| match how {
            How::Well => bytes,
            How::Short(most) => bytes.min(most),
            How::Failed => 0,
        };
        match self.ops.remove(index) {
            Op::Connect { flow, lane } => self.connected(flow, lane),
            Op::Recv { flow, lane, bytes, cancelled } => match short(bytes) {
                0 => self.lose_source(flow, lane),
                _ if cancelled && how == How::Well => self.lose_source(flow, lane),
                bytes => self.apply(Event::Received { flow, lane, bytes }),
            },
            Op::Write { flow, slot } if how == How::Failed => {
                let blob = self.blob(flow);
                (blob.failed, blob.stored) = (true, false);
                self.apply(Event::WriteFailed { flow, slot });
            }
            Op::Write { flow, slot } => self.apply(Event::Written { flow, slot }),
            Op::Hash { flow, slot, bytes } => self.apply(Event::Hashed { flow, slot, bytes }),
            Op::Finalize { flow } => self.finalized(flow),
            Op::Send { reader, .. } if how == How::Failed => {
                self.apply(Event::SendFailed { reader });
            }
            Op::Send { reader, bytes, .. } => {
                // A stalled reader's cancelled send has brought nothing.
                let bytes = if self.stalled[&reader] { 0 } else { short(bytes) };
                self.apply(Event::Sent { reader, bytes });
            }
            Op::Read { reader, .. } if how == How::Failed => {
                self.apply(Event::FileReadFailed { reader });
            }
            Op::Read { reader, bytes, .. } => {
                self.apply(Event::FileRead { reader, bytes: short(bytes) });
            }
            Op::Poll { reader } => self.apply(Event::Writable { reader }),
        }
    }

    fn connected(&mut self, flow: FlowId, lane: u8) {
        let blob = self.blob(flow);
        (blob.connected[usize::from(lane)], blob.known) = (true, true);
        let size = blob.size;
        self.apply(Event::SourceReady { flow, lane, size });
    }

    fn finalized(&mut self, flow: FlowId) {
        let blob = self.blob(flow);
        let matches = blob.mismatches == 0;
        blob.mismatches = blob.mismatches.saturating_sub(1);
        blob.connected = [false; 2];
        blob.wrong = !matches && !blob.failed;
        self.apply(Event::Finalized { flow, matches });
    }

    /// Lets the operations end well that `which` picks, and those that follow from them, until
    /// there are none.
    pub(super) fn run(&mut self, which: impl Fn(&Op) -> bool) {
        for _ in 0..ROUNDS_MAX {
            let ready = |&index: &usize| which(&self.ops[index]) && self.can_end(index);
            let Some(index) = (0..self.ops.len()).find(ready) else { return };
            self.finish(index, How::Well);
        }
        panic!("does not come to rest: {:?}", self.ops);
    }

    /// Lets one operation end, the oldest that `which` picks.
    pub(super) fn finish_one(&mut self, which: impl Fn(&Op) -> bool, how: How) {
        let index = self.ops.iter().position(which).expect("such an operation in flight");
        self.finish(index, how);
    }

    /// Lets so many bytes arrive, in as many receives as it takes.
    pub(super) fn receive(&mut self, flow: FlowId, mut bytes: u32) {
        while bytes > 0 {
            let before = self.relay.received_bytes(flow);
            let receiving = |op: &Op| matches!(op, Op::Recv { flow: other, .. } if *other == flow);
            self.finish_one(receiving, How::Short(bytes));
            let after = self.relay.received_bytes(flow);
            bytes -= u32::try_from(after - before).expect("at most what was asked for");
        }
    }

    /// The actions since the last call.
    pub(super) fn take_log(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.log)
    }

    /// Lets everything end well that can, with ticks, until nothing more happens.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            let wrong = self.blobs.iter().find(|(_, blob)| blob.wrong).map(|(&flow, _)| flow);
            if let Some(flow) = wrong {
                self.restart(flow);
            } else if let Some(index) = (0..self.ops.len()).find(|&index| self.can_end(index)) {
                quiet = 0;
                self.finish(index, How::Well);
            } else if quiet < QUIET_TICKS {
                quiet += 1;
                self.apply(Event::Tick);
            } else {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.ops);
    }

    /// Everybody who is not stalled must have got everything; then all leave, and nothing may
    /// remain.
    pub(super) fn finish_run(mut self) -> Self {
        self.settle();
        for (flow, blob) in &self.blobs {
            assert!(blob.stored && self.audit.is_stored(*flow), "{flow:?} is stuck: {blob:?}");
        }
        for (reader, stalled) in &self.stalled {
            assert!(*stalled, "{reader:?} is stuck at {:?}", self.audit.position(*reader));
        }
        for reader in self.stalled.keys().copied().collect::<Vec<_>>() {
            self.leave(reader);
        }
        for flow in self.blobs.keys().copied().collect::<Vec<_>>() {
            self.abandon(flow);
        }
        self.settle();
        self.audit.assert_empty();
        assert!(self.ops.is_empty() && self.blobs.is_empty() && self.stalled.is_empty());
        assert_eq!(self.relay.slots_used(), 0, "slots that never came back");
        let totals = self.relay.totals();
        assert_eq!((totals.received, totals.stored, totals.sent), self.audit.counts());
        self
    }
}
