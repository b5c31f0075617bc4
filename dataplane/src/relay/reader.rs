//! One response's way out: live at the edge of its flow, or behind it and served from the file.
//!
//! A reader leaves in three steps, and only the last forgets it: it is *closing* (nothing new is
//! issued, what is in flight is cancelled), its operation *ends*, it is *cut*. A reader that has
//! got its whole range is *done*.

use xylem_protocol::limits::{DIRECT_ALIGN, SLOT_BYTES};
use xylem_protocol::stripe::{STRIPE_BYTES, piece_end, stripe_of};

use super::flow::{Flow, Phase};
use super::pool::Held;
use super::{Action, FlowId, ReaderId, Reason, Relay, put};
use crate::ring::Slot;

/// How a reader is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// From the window: it pins every slot from its position on.
    Live,
    /// From the file, through a slot of its own, until it meets the window.
    Behind,
    /// Not any more.
    Closing(Reason),
}

/// What is in flight for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    None,
    /// A send of this many bytes from a slot.
    Send {
        slot: Slot,
        bytes: u32,
    },
    /// A read of the file from this offset into a slot.
    Read {
        slot: Slot,
        at: u64,
    },
}

#[derive(Debug)]
pub(super) struct Reader {
    pub(super) flow: FlowId,
    /// Which stripe it gets; `None`: all bytes.
    pub(super) stripe: Option<u8>,
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) mode: Mode,
    pub(super) operation: Operation,
    /// The slot that was read from the file: which, offset in the blob of its first byte, and of
    /// its end.
    pub(super) own: Option<(Slot, u64, u64)>,
    /// Stands in the queue for a slot.
    pub(super) claiming: bool,
    /// Waits until its socket takes bytes.
    pub(super) parked: bool,
    /// Its send was asked to end.
    pub(super) cancelling: bool,
    /// Ticks that the operation in flight has seen.
    pub(super) ticks: u32,
}

impl Reader {
    /// Whether it gets the piece that begins there.
    pub(super) fn covers(&self, begin: u64) -> bool {
        self.stripe.is_none_or(|stripe| stripe == stripe_of(begin))
    }

    /// From the end of a piece to the next of its stripe.
    fn skip(&mut self) {
        let at_border = self.position.is_multiple_of(STRIPE_BYTES) && self.position < self.end;
        if at_border && !self.covers(self.position) {
            self.position += STRIPE_BYTES;
        }
    }
}

impl Relay {
    pub(super) fn join(
        &mut self,
        id: ReaderId,
        flow: FlowId,
        stripe: Option<u8>,
        (start, end): (u64, u64),
        actions: &mut Vec<Action>,
    ) {
        let Flow { phase, size, .. } = *self.flow(flow);
        let size = size.expect("a reader of a blob of known size");
        assert!(start <= end && end <= size, "a range beyond the blob");
        // A flow that has failed gives nothing; a restart has not begun before its `Connect`.
        let failed = matches!(phase, Phase::Wrong | Phase::Abandoned);
        let reader = Reader {
            flow,
            stripe,
            position: start,
            end,
            mode: if failed { Mode::Closing(Reason::Flow) } else { Mode::Behind },
            operation: Operation::None,
            own: None,
            claiming: false,
            parked: false,
            cancelling: false,
            ticks: 0,
        };
        put(&mut self.readers, id.0, reader);
        self.flow_mut(flow).readers.push(id);
        self.pump(id, actions);
    }

    /// Issues what a reader can be given now.
    pub(super) fn pump(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        let reader = self.reader(id);
        if reader.operation != Operation::None || reader.parked || reader.claiming {
            return;
        }
        if let Mode::Closing(reason) = reader.mode {
            return self.forget(id, Some(reason), actions);
        }
        if reader.position == reader.end {
            return self.forget(id, None, actions);
        }
        let (flow, position) = (reader.flow, reader.position);
        let limit = self.flow(flow).here(position).min(reader.end);
        if position >= limit {
            return self.rest(id, actions);
        }
        let in_memory = position >= self.base(flow, position);
        if reader.mode == Mode::Live && !in_memory {
            // The other lane was quicker with this piece, before the reader came.
            self.detach(id);
        }
        let reader = self.reader(id);
        if reader.mode == Mode::Behind {
            if reader.own.is_some() {
                return self.send_own(id, limit, actions);
            }
            if !in_memory {
                return self.claim(id, actions);
            }
            self.go_live(id);
        }
        self.send_live(id, limit, actions);
    }

    /// Nothing to send now: a slot of its own goes back, and at the edge the reader is live.
    fn rest(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        let reader = self.reader_mut(id);
        if reader.mode != Mode::Behind {
            return;
        }
        let (flow, position) = (reader.flow, reader.position);
        if let Some((slot, ..)) = reader.own.take() {
            self.pool.give_back_from_reader(slot);
            self.serve_claims(actions);
        }
        if position >= self.base(flow, position) {
            self.go_live(id);
        }
    }

    fn send_live(&mut self, id: ReaderId, limit: u64, actions: &mut Vec<Action>) {
        let reader = self.reader(id);
        let (flow, at) = (reader.flow, reader.position);
        let slot = self.slot_at(flow, at);
        let held = self.pool.held_mut(slot);
        let bytes = span(at, held.end().min(limit));
        held.operations += 1;
        self.issue_send(id, slot, Held::offset_of(at), bytes, actions);
    }

    fn send_own(&mut self, id: ReaderId, limit: u64, actions: &mut Vec<Action>) {
        let reader = self.reader(id);
        let (slot, from, to) = reader.own.expect("a slot of its own");
        let at = reader.position;
        debug_assert!(from <= at && at < to, "what was read is what is sent");
        let (offset, bytes) = (span(from, at), span(at, to.min(limit)));
        self.issue_send(id, slot, offset, bytes, actions);
    }

    fn issue_send(
        &mut self,
        id: ReaderId,
        slot: Slot,
        offset: u32,
        bytes: u32,
        actions: &mut Vec<Action>,
    ) {
        let reader = self.reader_mut(id);
        reader.operation = Operation::Send { slot, bytes };
        reader.ticks = 0;
        let at = reader.position;
        actions.push(Action::Send { reader: id, slot, offset, bytes, at });
    }

    /// Stands in the queue for a slot to read the file into.
    fn claim(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        self.reader_mut(id).claiming = true;
        self.pool.reader_claims.push_back(id);
        self.serve_claims(actions);
    }

    /// A claim is served: read the file, from an aligned offset.
    pub(super) fn read_into(&mut self, id: ReaderId, slot: Slot, actions: &mut Vec<Action>) {
        let reader = self.reader(id);
        let (flow, position, end) = (reader.flow, reader.position, reader.end);
        let align = u64::from(DIRECT_ALIGN);
        let at = position - position % align;
        let wanted = end.min(self.flow(flow).in_file(position));
        let one_piece = self.flow(flow).striped || reader.stripe.is_some();
        let piece = if one_piece { piece_end(position) } else { u64::MAX };
        let most = piece.min(at + u64::from(SLOT_BYTES));
        let bytes = span(at, wanted.next_multiple_of(align).min(most));
        let reader = self.reader_mut(id);
        reader.claiming = false;
        reader.operation = Operation::Read { slot, at };
        reader.ticks = 0;
        actions.push(Action::Read { reader: id, flow, slot, at, bytes });
    }

    pub(super) fn file_read(
        &mut self,
        id: ReaderId,
        bytes: Option<u32>,
        actions: &mut Vec<Action>,
    ) {
        let reader = self.reader_mut(id);
        let Operation::Read { slot, at } = reader.operation else {
            panic!("a read that nobody asked for");
        };
        reader.operation = Operation::None;
        let end = at + u64::from(bytes.unwrap_or(0));
        reader.own = Some((slot, at, end));
        // A file that is shorter than what was stored is broken.
        if end <= reader.position && !matches!(reader.mode, Mode::Closing(_)) {
            reader.mode = Mode::Closing(Reason::File);
        }
        self.pump(id, actions);
    }

    pub(super) fn sent(&mut self, id: ReaderId, bytes: u32, actions: &mut Vec<Action>) {
        let reader = self.reader_mut(id);
        let Operation::Send { slot, bytes: asked } = reader.operation else {
            panic!("a send that nobody asked for");
        };
        assert!(bytes <= asked, "more sent than asked for");
        reader.operation = Operation::None;
        reader.position += u64::from(bytes);
        let cancelled = std::mem::take(&mut reader.cancelling);
        let (flow, position, mode, own) = (reader.flow, reader.position, reader.mode, reader.own);
        self.totals.sent += u64::from(bytes);
        match own {
            Some((_, _, to)) if position == to || cancelled => self.drop_own(id, actions),
            Some(_) => {}
            None => {
                self.pool.held_mut(slot).operations -= 1;
                if mode == Mode::Live && bytes > 0 && Held::offset_of(position) == 0 {
                    self.pool.held_mut(slot).pins -= 1;
                }
                if mode == Mode::Live && cancelled {
                    self.detach(id);
                }
                self.release(flow, actions);
            }
        }
        // A send that had to be ended was stuck: the next one, if any, waits until the socket takes
        // bytes.
        let reader = self.reader_mut(id);
        reader.skip();
        let more = reader.position < reader.end && !matches!(reader.mode, Mode::Closing(_));
        if cancelled && more {
            reader.parked = true;
            actions.push(Action::AwaitWritable { reader: id });
        }
        self.pump(id, actions);
    }

    pub(super) fn send_failed(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        let reader = self.reader_mut(id);
        let Operation::Send { slot, .. } = reader.operation else {
            panic!("a send that nobody asked for");
        };
        reader.operation = Operation::None;
        let (flow, windowed) = (reader.flow, reader.own.is_none());
        if windowed {
            self.pool.held_mut(slot).operations -= 1;
        }
        self.close(id, Reason::Gone);
        if windowed {
            self.release(flow, actions);
        }
        self.pump(id, actions);
    }

    pub(super) fn writable(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        self.reader_mut(id).parked = false;
        self.pump(id, actions);
    }

    pub(super) fn leave(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        self.close_and_cancel(id, Reason::Gone, actions);
        let flow = self.reader(id).flow;
        self.pump(id, actions);
        if self.flows[usize::from(flow.0)].is_some() {
            self.release(flow, actions);
        }
    }

    /// First step out: nothing new is issued for it.
    fn close(&mut self, id: ReaderId, reason: Reason) {
        let reader = self.reader_mut(id);
        match std::mem::replace(&mut reader.mode, Mode::Closing(reason)) {
            Mode::Live => self.unpin(id),
            Mode::Closing(first) => self.reader_mut(id).mode = Mode::Closing(first),
            Mode::Behind => {}
        }
        let reader = self.reader_mut(id);
        reader.parked = false;
        if std::mem::take(&mut reader.claiming) {
            self.pool.reader_claims.retain(|&claim| claim != id);
        }
    }

    pub(super) fn close_and_cancel(
        &mut self,
        id: ReaderId,
        reason: Reason,
        actions: &mut Vec<Action>,
    ) {
        self.close(id, reason);
        self.cancel_send(id, actions);
    }

    pub(super) fn cancel_send(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        let reader = self.reader_mut(id);
        if matches!(reader.operation, Operation::Send { .. }) && !reader.cancelling {
            reader.cancelling = true;
            actions.push(Action::CancelSend { reader: id });
        }
    }

    fn drop_own(&mut self, id: ReaderId, actions: &mut Vec<Action>) {
        if let Some((slot, ..)) = self.reader_mut(id).own.take() {
            self.pool.give_back_from_reader(slot);
            self.serve_claims(actions);
        }
    }

    /// Last step out.
    fn forget(&mut self, id: ReaderId, reason: Option<Reason>, actions: &mut Vec<Action>) {
        self.drop_own(id, actions);
        if self.reader(id).mode == Mode::Live {
            self.unpin(id);
        }
        let reader = self.readers[usize::from(id.0)].take().expect("a joined reader");
        let readers = &mut self.flow_mut(reader.flow).readers;
        let index = readers.iter().position(|&other| other == id).expect("a reader of its flow");
        readers.swap_remove(index);
        actions.push(match reason {
            None => Action::Done { reader: id },
            Some(reason) => Action::Cut { reader: id, reason },
        });
        self.release(reader.flow, actions);
    }
}

/// Length of a span of at most a slot.
fn span(from: u64, to: u64) -> u32 {
    u32::try_from(to - from).expect("a span within a slot")
}
