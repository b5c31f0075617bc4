//! The relay: a pure state machine from events to actions. It decides who holds which slot, what is
//! received, sent, written, hashed and read next. It knows no socket, file, clock or thread, and
//! allocates nothing per block.
//!
//! The driver turns completions into [`Event`]s and [`Action`]s into submissions; the simulator
//! does the same with virtual links. The rules of the game:
//!
//! * Every action that names a slot holds it until the event that ends it: `Recv` until `Received`
//!   or `SourceLost`, `Send` until `Sent` or `SendFailed`, `Write` until `Written` or
//!   `WriteFailed`, `Hash` until `Hashed`, `Read` until `FileRead` or `FileReadFailed`. A cancelled
//!   operation ends like any other.
//! * A lane of a flow has at most one `Recv` in flight, a reader at most one `Send` or `Read`.
//! * Ids are the driver's. It may use one again after `Closed` (flows), `Done` or `Cut` (readers).
//! * The last byte of a blob is held back until its hash is known to be right: no reader ever gets
//!   a whole body with a wrong digest.

mod audit;
mod fanout;
mod flow;
mod invariants;
mod laggard;
mod lane;
mod pool;
mod reader;
#[cfg(test)]
mod tests;
mod turns;

pub use audit::Audit;
pub use invariants::Totals;

use crate::ring::Slot;
use flow::{Fetching, Flow};
use pool::Pool;
use reader::Reader;
use turns::Turns;

/// A blob being fetched, or a finished one being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u16);

/// A downstream response in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(pub u16);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A blob is to be fetched; `resume` bytes of it are in the file (and hashed) already.
    Fetch {
        /// The new flow.
        flow: FlowId,
        /// Bytes in the file.
        resume: u64,
        /// Whole size, where it is known.
        size: Option<u64>,
        /// Whether each stripe has a source of its own.
        striped: bool,
        /// Whether it may become striped before long: there is to be memory for both lanes then.
        splits: bool,
        /// Which of the flows that wait comes first when nothing moves: the lowest. To be the same
        /// at all nodes.
        rank: u64,
    },
    /// A whole flow gets a source for each stripe, from where it stands: `Split` follows, unless
    /// its end comes first.
    Split {
        /// Which flow.
        flow: FlowId,
    },
    /// A finished blob is to be served from its file.
    Serve {
        /// The new flow.
        flow: FlowId,
        /// Whole size.
        size: u64,
    },
    /// A source has answered: the bytes from the lane's position on will come.
    SourceReady {
        /// Which flow.
        flow: FlowId,
        /// Which stripe it brings; 0 when it brings everything.
        lane: u8,
        /// Whole size; the same at every source.
        size: u64,
    },
    /// A receive brought bytes (at least one).
    Received {
        /// Which flow.
        flow: FlowId,
        /// By which lane.
        lane: u8,
        /// How many.
        bytes: u32,
    },
    /// The source is gone; a receive that was in flight has ended without bytes.
    SourceLost {
        /// Which flow.
        flow: FlowId,
        /// Whose source.
        lane: u8,
    },
    /// A write has ended well.
    Written {
        /// Which flow.
        flow: FlowId,
        /// From which slot.
        slot: Slot,
    },
    /// A write has failed; the flow fails.
    WriteFailed {
        /// Which flow.
        flow: FlowId,
        /// From which slot.
        slot: Slot,
    },
    /// A hash job is done; they end in the order in which they were given.
    Hashed {
        /// Which flow.
        flow: FlowId,
        /// From which slot.
        slot: Slot,
        /// How many bytes.
        bytes: u32,
    },
    /// All bytes are hashed: was it the digest?
    Finalized {
        /// Which flow.
        flow: FlowId,
        /// Whether the digest is right.
        matches: bool,
    },
    /// Begin again from the first byte, after a mismatch. All readers have been cut.
    Restart {
        /// Which flow.
        flow: FlowId,
    },
    /// Give the flow up: cut its readers, let go of its slots.
    Abandon {
        /// Which flow.
        flow: FlowId,
    },
    /// A reader joins, for the bytes from `start` to `end` (excluded). The flow's size is known.
    Join {
        /// The new reader.
        reader: ReaderId,
        /// What it reads.
        flow: FlowId,
        /// Only the bytes of this stripe; `None`: all.
        stripe: Option<u8>,
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
    },
    /// A send has ended; fewer bytes than asked for (also none) if it was short or cancelled.
    Sent {
        /// Whose.
        reader: ReaderId,
        /// How many bytes.
        bytes: u32,
    },
    /// A send has failed: the reader's connection is broken.
    SendFailed {
        /// Whose.
        reader: ReaderId,
    },
    /// A read of the file has ended, with this many bytes from the asked offset.
    FileRead {
        /// Whose.
        reader: ReaderId,
        /// How many bytes.
        bytes: u32,
    },
    /// A read of the file has failed.
    FileReadFailed {
        /// Whose.
        reader: ReaderId,
    },
    /// The socket takes bytes again.
    Writable {
        /// Whose.
        reader: ReaderId,
    },
    /// The driver gives a reader up: its client is gone.
    Leave {
        /// Whose.
        reader: ReaderId,
    },
    /// A tick of the driver's clock, `TICK_MS` after the last.
    Tick,
}

/// Why a reader was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its own connection broke, or its client left.
    Gone,
    /// The flow failed: no source, no disk, or a wrong digest.
    Flow,
    /// The file could not be read.
    File,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The flow was whole and is striped now; what its source was doing is over. A `Connect` for
    /// each lane follows, now or when it is the flow's turn.
    Split {
        /// Which flow.
        flow: FlowId,
    },
    /// It is this flow's turn: connect to a lane's source, asking for the bytes from `at` on. A
    /// flow that is resumed at its end needs none: `Finalize` comes at once.
    Connect {
        /// Which flow.
        flow: FlowId,
        /// For which lane: a stripe, or everything.
        lane: u8,
        /// First byte.
        at: u64,
    },
    /// Receive up to `bytes` into the slot.
    Recv {
        /// Which flow.
        flow: FlowId,
        /// From which lane's source.
        lane: u8,
        /// Where to.
        slot: Slot,
        /// Offset in the slot.
        offset: u32,
        /// At most.
        bytes: u32,
        /// Offset in the blob.
        at: u64,
    },
    /// End the receive in flight; it answers with `SourceLost`, or with `Received` if it was
    /// quicker.
    CancelRecv {
        /// Which flow.
        flow: FlowId,
        /// Of which lane.
        lane: u8,
    },
    /// Write a part of a slot to the file. The length may be rounded up to the file's alignment.
    Write {
        /// Which flow.
        flow: FlowId,
        /// Where from.
        slot: Slot,
        /// Offset in the slot.
        offset: u32,
        /// How many.
        bytes: u32,
        /// Offset in the file.
        at: u64,
    },
    /// Hash a part of a slot: the next bytes of the blob, at most one unit, never across a unit's
    /// end.
    Hash {
        /// Which flow.
        flow: FlowId,
        /// Where from.
        slot: Slot,
        /// Offset in the slot.
        offset: u32,
        /// How many.
        bytes: u32,
        /// Offset in the blob.
        at: u64,
    },
    /// The last bytes have been given to be hashed: answer with `Finalized` when they are.
    Finalize {
        /// Which flow.
        flow: FlowId,
    },
    /// Everything is written and the digest is right: commit the file.
    Stored {
        /// Which flow.
        flow: FlowId,
    },
    /// Send a part of a slot, all of it.
    Send {
        /// To whom.
        reader: ReaderId,
        /// Where from.
        slot: Slot,
        /// Offset in the slot.
        offset: u32,
        /// How many.
        bytes: u32,
        /// Offset in the blob.
        at: u64,
    },
    /// End the send in flight; it answers with `Sent` or `SendFailed`.
    CancelSend {
        /// Whose.
        reader: ReaderId,
    },
    /// Answer with `Writable` when the socket takes bytes, unless the reader has been cut by then.
    AwaitWritable {
        /// Whose.
        reader: ReaderId,
    },
    /// Read from the file into the start of a slot. `at` and `bytes` are aligned for `O_DIRECT`.
    Read {
        /// For whom.
        reader: ReaderId,
        /// From which flow's file.
        flow: FlowId,
        /// Where to.
        slot: Slot,
        /// Offset in the file.
        at: u64,
        /// At most.
        bytes: u32,
    },
    /// The reader has got its whole range; it is forgotten.
    Done {
        /// Who.
        reader: ReaderId,
    },
    /// The reader will get no more; it is forgotten. Its connection has to be closed.
    Cut {
        /// Who.
        reader: ReaderId,
        /// Why.
        reason: Reason,
    },
    /// The flow holds nothing and has no reader; it is forgotten.
    Closed {
        /// Which.
        flow: FlowId,
    },
}

/// The state of all flows and readers of one ring.
#[derive(Debug)]
pub struct Relay {
    pool: Pool,
    flows: Vec<Option<Flow>>,
    readers: Vec<Option<Reader>>,
    turns: Turns,
    totals: Totals,
}

impl Relay {
    /// A relay with `slots` slots.
    pub fn new(slots: u16) -> Self {
        Self {
            pool: Pool::new(slots),
            flows: Vec::new(),
            readers: Vec::new(),
            turns: Turns::default(),
            totals: Totals::default(),
        }
    }

    /// Lets one event happen. What follows from it is appended to `actions`, in the order in which
    /// it is to be done.
    ///
    /// # Panics
    /// If the driver breaks the rules above: that is a bug, and going on would corrupt somebody's
    /// blob.
    pub fn apply(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Fetch { flow, resume, size, striped, splits, rank } => {
                self.fetch(flow, Fetching { resume, size, striped, splits, rank }, actions);
            }
            Event::Split { flow } => self.split(flow, actions),
            Event::Serve { flow, size } => self.serve(flow, size),
            Event::SourceReady { flow, lane, size } => {
                self.source_ready(flow, lane, size, actions);
            }
            Event::Received { flow, lane, bytes } => self.received(flow, lane, bytes, actions),
            Event::SourceLost { flow, lane } => self.source_lost(flow, lane, actions),
            Event::Written { flow, slot } => self.written(flow, slot, true, actions),
            Event::WriteFailed { flow, slot } => self.written(flow, slot, false, actions),
            Event::Hashed { flow, slot, bytes } => self.hashed(flow, slot, bytes, actions),
            Event::Finalized { flow, matches } => self.finalized(flow, matches, actions),
            Event::Restart { flow } => self.restart(flow, actions),
            Event::Abandon { flow } => self.abandon(flow, actions),
            Event::Join { reader, flow, stripe, start, end } => {
                self.join(reader, flow, stripe, (start, end), actions);
            }
            Event::Sent { reader, bytes } => self.sent(reader, bytes, actions),
            Event::SendFailed { reader } => self.send_failed(reader, actions),
            Event::FileRead { reader, bytes } => self.file_read(reader, Some(bytes), actions),
            Event::FileReadFailed { reader } => self.file_read(reader, None, actions),
            Event::Writable { reader } => self.writable(reader, actions),
            Event::Leave { reader } => self.leave(reader, actions),
            Event::Tick => self.tick(actions),
        }
    }

    /// Bytes received so far, resumed ones included.
    pub fn received_bytes(&self, flow: FlowId) -> u64 {
        self.flow(flow).received
    }

    /// Bytes in the file so far.
    pub fn stored_bytes(&self, flow: FlowId) -> u64 {
        self.flow(flow).stored
    }

    /// How many readers a flow has.
    pub fn readers_of(&self, flow: FlowId) -> usize {
        self.flow(flow).readers.len()
    }

    /// Offset in the blob of the next byte that a lane's source is to bring.
    pub fn edge(&self, flow: FlowId, lane: u8) -> u64 {
        self.flow(flow).lane(lane).edge
    }

    /// Whether each stripe of the flow has a source of its own.
    pub fn is_striped(&self, flow: FlowId) -> bool {
        self.flow(flow).striped
    }

    /// Whether the flow will be striped as soon as its receive has ended.
    pub fn is_splitting(&self, flow: FlowId) -> bool {
        self.flow(flow).splitting
    }

    /// Whether a lane wants bytes but has no slot for them: upstream is not to blame for a
    /// standstill.
    pub fn is_starved(&self, flow: FlowId, lane: u8) -> bool {
        self.flow(flow).lane(lane).claiming
    }

    /// Whether it is a lane's turn and no source has answered yet: for watchdogs.
    pub fn is_waiting_for_source(&self, flow: FlowId, lane: u8) -> bool {
        let flow = self.flow(flow);
        flow.phase == flow::Phase::Flowing && flow.lane(lane).way == lane::Way::Connecting
    }

    /// Whether a flow was given up and only ends.
    pub fn is_abandoned(&self, flow: FlowId) -> bool {
        self.flow(flow).phase == flow::Phase::Abandoned
    }

    /// Offset in its blob of the first byte that a slot holds.
    pub fn begin(&self, slot: Slot) -> u64 {
        self.pool.held(slot).begin
    }

    /// Length of the write that was issued for a slot, before any padding.
    pub fn write_bytes(&self, slot: Slot) -> u32 {
        self.pool.held(slot).filled
    }

    /// Readers that are served from the file.
    pub fn readers_behind(&self) -> u32 {
        let readers = self.readers.iter().flatten();
        let behind = readers.filter(|reader| reader.mode == reader::Mode::Behind);
        u32::try_from(behind.count()).unwrap_or(u32::MAX)
    }

    /// Slots in use.
    pub fn slots_used(&self) -> u32 {
        self.pool.used()
    }

    /// What has passed so far.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    fn flow(&self, id: FlowId) -> &Flow {
        self.flows.get(usize::from(id.0)).and_then(Option::as_ref).expect("an open flow")
    }

    fn flow_mut(&mut self, id: FlowId) -> &mut Flow {
        self.flows.get_mut(usize::from(id.0)).and_then(Option::as_mut).expect("an open flow")
    }

    fn reader(&self, id: ReaderId) -> &Reader {
        self.readers.get(usize::from(id.0)).and_then(Option::as_ref).expect("a joined reader")
    }

    fn reader_mut(&mut self, id: ReaderId) -> &mut Reader {
        self.readers.get_mut(usize::from(id.0)).and_then(Option::as_mut).expect("a joined reader")
    }
}

/// Puts a value at an index of a table that grows to hold it.
fn put<T>(table: &mut Vec<Option<T>>, index: u16, value: T) {
    let index = usize::from(index);
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    assert!(table[index].is_none(), "an id that is still in use");
    table[index] = Some(value);
}
