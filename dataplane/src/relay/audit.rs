//! The rules of the game, stated a second time: looks on beside the relay and panics when it or its
//! driver breaks one.
//!
//! For tests and the simulator. It keeps a shadow of every slot, file and reader (which bytes of
//! which blob lie where, as ranges, never the bytes) and shares no code with the relay: what both
//! get wrong, they got wrong twice.

use std::collections::{BTreeMap, VecDeque};

use xylem_protocol::limits::{DIRECT_ALIGN, RECV_MAX, SLOT_BYTES, UNIT_BYTES};

mod shadow;

use super::{Action, Event, FlowId, ReaderId, Reason};
use crate::ring::Slot;
use shadow::{Blob, Client, Content, PIECE, Part, Ranges, Shadow, in_stripe};

/// The shadow of one relay.
#[derive(Debug)]
pub struct Audit {
    slots: Vec<Shadow>,
    flows: BTreeMap<FlowId, Blob>,
    readers: BTreeMap<ReaderId, Client>,
    /// Counts the lives of flows, so that an id used again, or a blob begun again, is not taken for
    /// the former.
    lives: u64,
    /// Bytes received, written and sent, for comparison with the relay's totals.
    counts: [u64; 3],
}

impl Audit {
    /// A shadow of a relay with `slots` slots.
    pub fn new(slots: u16) -> Self {
        Self {
            slots: (0..slots).map(|_| Shadow::default()).collect(),
            flows: BTreeMap::new(),
            readers: BTreeMap::new(),
            lives: 0,
            counts: [0; 3],
        }
    }

    /// Offset of the next byte that a reader gets, or nothing when it is forgotten.
    pub fn position(&self, reader: ReaderId) -> Option<u64> {
        self.readers.get(&reader).map(|client| client.position)
    }

    /// Whether a flow's blob is whole, right and in its file.
    pub fn is_stored(&self, flow: FlowId) -> bool {
        self.flows.get(&flow).is_some_and(|blob| blob.stored)
    }

    /// Bytes received from sources, written to files, sent to readers.
    pub const fn counts(&self) -> (u64, u64, u64) {
        (self.counts[0], self.counts[1], self.counts[2])
    }

    /// Panics unless every slot is at rest, every flow closed and every reader forgotten.
    pub fn assert_empty(&self) {
        assert!(self.flows.is_empty(), "flows that were never closed: {:?}", self.flows);
        assert!(self.readers.is_empty(), "readers that were never let go: {:?}", self.readers);
        assert!(self.slots.iter().all(|slot| slot.users == 0 && !slot.filling), "a busy slot");
    }

    /// Looks at an event that the driver is about to give to the relay.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Fetch { flow, resume, size, striped, .. } => {
                self.open(flow, resume, size, false);
                if striped {
                    self.blob(flow).split();
                }
            }
            Event::Serve { flow, size } => self.open(flow, size, Some(size), true),
            Event::SourceReady { flow, lane, size } => {
                let blob = self.blob(flow);
                if blob.is_late(lane) {
                    return;
                }
                let is_new = !std::mem::replace(&mut blob.connected[usize::from(lane)], true);
                assert!(is_new && blob.size.is_none_or(|known| known == size));
                blob.size = Some(size);
            }
            Event::Received { flow, lane, bytes } => self.received(flow, lane, bytes),
            Event::SourceLost { flow, lane } => {
                let blob = self.blob(flow);
                blob.connected[usize::from(lane)] = false;
                if let Some(part) = blob.receiving[usize::from(lane)].take() {
                    self.slot(part.slot).filling = false;
                }
            }
            Event::Written { flow, slot } => self.written(flow, slot, true),
            Event::WriteFailed { flow, slot } => self.written(flow, slot, false),
            Event::Hashed { flow, slot, bytes } => {
                let part = self.blob(flow).hashing.pop_front().expect("a hash job");
                assert_eq!((part.slot, part.bytes), (slot, bytes), "hash jobs end in order");
                self.slot(slot).users -= 1;
            }
            Event::Finalized { flow, matches } => self.finalized(flow, matches),
            Event::Abandon { flow } => self.fail(flow),
            Event::Join { reader, flow, stripe, start, end } => {
                self.join(reader, flow, stripe, (start, end));
            }
            Event::Sent { reader, bytes } => self.sent(reader, bytes),
            Event::SendFailed { reader } => {
                self.sent(reader, 0);
                self.client(reader).broken.get_or_insert(Reason::Gone);
            }
            Event::FileRead { reader, bytes } => self.file_read(reader, bytes),
            Event::FileReadFailed { reader } => self.file_read(reader, 0),
            Event::Writable { reader } => {
                let client = self.client(reader);
                assert!(client.parked, "a socket that nobody waits for");
                client.parked = false;
            }
            Event::Leave { reader } => {
                let client = self.client(reader);
                client.parked = false;
                client.broken.get_or_insert(Reason::Gone);
            }
            Event::Split { .. } | Event::Restart { .. } | Event::Tick => {}
        }
    }

    /// Looks at an action that the relay has ordered.
    pub fn action(&mut self, action: Action) {
        match action {
            Action::Split { flow } => self.blob(flow).split(),
            Action::Connect { flow, lane, at } => self.connect(flow, usize::from(lane), at),
            Action::Recv { flow, lane, slot, offset, bytes, at } => {
                self.recv(flow, usize::from(lane), Part { slot, offset, bytes, at });
            }
            Action::CancelRecv { flow, lane } => {
                let receiving = &self.blob(flow).receiving[usize::from(lane)];
                assert!(receiving.is_some(), "no receive to cancel");
            }
            Action::Write { flow, slot, offset, bytes, at } => {
                let part = Part { slot, offset, bytes, at };
                self.use_slot(flow, part);
                self.blob(flow).writing.push(part);
            }
            Action::Hash { flow, slot, offset, bytes, at } => {
                self.hash(flow, Part { slot, offset, bytes, at });
            }
            Action::Finalize { flow } => {
                let blob = self.blob(flow);
                assert_eq!(blob.size, Some(blob.given_to_hash), "not all is hashed");
                assert!(!blob.finalizing && !blob.verified && !blob.wrong, "finalized twice");
                blob.finalizing = true;
            }
            Action::Stored { flow } => {
                let blob = self.blob(flow);
                let size = blob.size.expect("a stored blob's size");
                assert!(blob.verified && !blob.stored && !blob.failed);
                assert!(blob.file.covers(0, size), "a stored blob with holes");
                blob.stored = true;
            }
            Action::Send { reader, slot, offset, bytes, at } => {
                self.send(reader, Part { slot, offset, bytes, at });
            }
            Action::CancelSend { reader } => {
                let client = self.client(reader);
                assert!(client.sending.is_some() && !client.cancelled, "no send to cancel");
                client.cancelled = true;
            }
            Action::AwaitWritable { reader } => {
                let client = self.client(reader);
                assert!(client.sending.is_none() && client.reading.is_none() && !client.parked);
                client.parked = true;
            }
            Action::Read { reader, flow, slot, at, bytes } => {
                self.read(reader, flow, Part { slot, offset: 0, bytes, at });
            }
            Action::Done { reader } => {
                let client = self.forget(reader);
                assert_eq!(client.position, client.end, "done before the end of its range");
            }
            Action::Cut { reader, reason } => {
                let client = self.forget(reader);
                assert_eq!(client.broken, Some(reason), "cut without that cause: {client:?}");
            }
            Action::Closed { flow } => self.close(flow),
        }
    }

    fn open(&mut self, flow: FlowId, present: u64, size: Option<u64>, whole: bool) {
        self.lives += 1;
        let mut file = Ranges::default();
        file.insert(0, present);
        let blob = Blob {
            life: self.lives,
            size,
            striped: false,
            connected: [false; 2],
            next: [present; 2],
            receiving: [None; 2],
            given_to_hash: present,
            hashing: VecDeque::new(),
            finalizing: false,
            verified: whole,
            wrong: false,
            failed: false,
            stored: whole,
            writing: Vec::new(),
            file,
        };
        assert!(self.flows.insert(flow, blob).is_none(), "a flow id that is still in use");
    }

    /// A connection is wanted: at the first byte that is missing, or at zero after a mismatch.
    fn connect(&mut self, flow: FlowId, lane: usize, at: u64) {
        self.lives += 1;
        let life = self.lives;
        let blob = self.blob(flow);
        assert!(!blob.stored && !blob.failed && !blob.connected[lane], "a source for nothing");
        assert!(lane == 0 || blob.striped, "a source for no stripe");
        if blob.wrong {
            let quiet = blob.receiving == [None; 2] && blob.writing.is_empty();
            assert!(quiet && blob.hashing.is_empty(), "begun again while wrong bytes are about");
            blob.wrong = false;
            (blob.life, blob.striped, blob.next, blob.given_to_hash) = (life, false, [0; 2], 0);
            blob.file = Ranges::default();
        }
        assert_eq!(at, blob.next[lane], "a gap or a repetition at the source");
    }

    fn recv(&mut self, flow: FlowId, lane: usize, part: Part) {
        let blob = self.blob(flow);
        let is_free = blob.connected[lane] && blob.receiving[lane].is_none();
        assert!(is_free && !blob.failed, "no source to ask");
        let size = blob.size.expect("a connected flow's size");
        assert_eq!(part.at, blob.next[lane], "received at the wrong offset");
        assert!(part.bytes > 0 && part.bytes <= RECV_MAX);
        assert!(part.at + u64::from(part.bytes) <= size, "received beyond the blob");
        assert!(part.offset + part.bytes <= SLOT_BYTES, "received beyond the slot");
        blob.receiving[lane] = Some(part);
        let (life, base) = (blob.life, part.at - u64::from(part.offset));
        let shadow = self.slot(part.slot);
        assert!(!shadow.filling, "two operations fill one slot");
        let goes_on = shadow.content.is_some_and(|content| {
            content.life == life && content.base == base && content.high == part.offset
        });
        if !goes_on {
            assert_eq!(shadow.users, 0, "received into a slot that somebody still uses");
            let (low, high) = (part.offset, part.offset);
            shadow.content = Some(Content { life, base, low, high });
        }
        shadow.filling = true;
    }

    fn received(&mut self, flow: FlowId, lane: u8, bytes: u32) {
        let blob = self.blob(flow);
        let part = blob.receiving[usize::from(lane)].take().expect("a receive in flight");
        assert!(bytes > 0 && bytes <= part.bytes, "more than was asked for");
        let next = part.at + u64::from(bytes);
        blob.next[usize::from(lane)] = if blob.striped { in_stripe(next, lane) } else { next };
        self.counts[0] += u64::from(bytes);
        let shadow = self.slot(part.slot);
        shadow.filling = false;
        shadow.content.as_mut().expect("a slot being filled").high += bytes;
    }

    fn hash(&mut self, flow: FlowId, part: Part) {
        self.use_slot(flow, part);
        let blob = self.blob(flow);
        assert_eq!(part.at, blob.given_to_hash, "hashed out of order");
        let unit = u64::from(UNIT_BYTES);
        let last = part.at + u64::from(part.bytes) - 1;
        assert_eq!(part.at / unit, last / unit, "a hash job across units");
        blob.given_to_hash = last + 1;
        blob.hashing.push_back(part);
    }

    fn written(&mut self, flow: FlowId, slot: Slot, well: bool) {
        let writing = &mut self.blob(flow).writing;
        let index = writing.iter().position(|part| part.slot == slot).expect("a write in flight");
        let part = writing.swap_remove(index);
        self.slot(slot).users -= 1;
        if !well {
            return self.fail(flow);
        }
        let blob = self.blob(flow);
        blob.file.insert(part.at, part.at + u64::from(part.bytes));
        if !blob.failed {
            self.counts[1] += u64::from(part.bytes);
        }
    }

    fn finalized(&mut self, flow: FlowId, matches: bool) {
        let blob = self.blob(flow);
        assert!(blob.finalizing && blob.hashing.is_empty(), "a verdict before its time");
        blob.finalizing = false;
        (blob.verified, blob.wrong, blob.connected) = (matches, !matches, [false; 2]);
        if !matches {
            self.break_readers(flow);
        }
    }

    fn break_readers(&mut self, flow: FlowId) {
        for client in self.readers.values_mut().filter(|client| client.flow == flow) {
            client.broken.get_or_insert(Reason::Flow);
        }
    }

    fn fail(&mut self, flow: FlowId) {
        let blob = self.blob(flow);
        (blob.failed, blob.stored) = (true, false);
        self.break_readers(flow);
    }

    fn close(&mut self, flow: FlowId) {
        let blob = self.flows.remove(&flow).expect("an open flow");
        assert!(blob.failed, "closed without being given up");
        let quiet = blob.receiving == [None; 2] && blob.writing.is_empty() && !blob.finalizing;
        assert!(quiet && blob.hashing.is_empty(), "closed with operations in flight");
        assert!(self.readers.values().all(|client| client.flow != flow), "closed with readers");
    }

    fn join(
        &mut self,
        reader: ReaderId,
        flow: FlowId,
        stripe: Option<u8>,
        (start, end): (u64, u64),
    ) {
        let blob = self.blob(flow);
        let size = blob.size.expect("a reader of a blob of known size");
        assert!(start <= end && end <= size);
        let broken = (blob.failed || blob.wrong).then_some(Reason::Flow);
        let client = Client {
            flow,
            stripe,
            position: start,
            end,
            sending: None,
            reading: None,
            parked: false,
            cancelled: false,
            broken,
        };
        assert!(self.readers.insert(reader, client).is_none(), "a reader id that is in use");
    }

    fn send(&mut self, reader: ReaderId, part: Part) {
        let client = self.client(reader);
        assert!(client.sending.is_none() && client.reading.is_none(), "two operations at once");
        assert!(!client.parked, "a send to a socket that takes nothing");
        assert_eq!(part.at, client.position, "a gap or a repetition for a reader");
        let behind = part.at + u64::from(part.bytes);
        assert!(behind <= client.end, "sent beyond the range");
        let last = behind.saturating_sub(1);
        let is_own = client.stripe.is_none_or(|own| in_stripe(part.at, own) == part.at);
        assert!(is_own && (client.stripe.is_none() || last / PIECE == part.at / PIECE));
        client.sending = Some(part);
        client.cancelled = false;
        let flow = client.flow;
        self.use_slot(flow, part);
        let blob = self.blob(flow);
        assert!(!blob.failed && !blob.wrong, "sent from a blob that failed");
        assert!(blob.verified || blob.size != Some(behind), "the last byte before the verdict");
    }

    fn sent(&mut self, reader: ReaderId, bytes: u32) {
        let client = self.client(reader);
        let part = client.sending.take().expect("a send in flight");
        assert!(bytes <= part.bytes, "more sent than asked for");
        let next = client.position + u64::from(bytes);
        let is_end = next == client.end;
        let stripe = client.stripe.filter(|_| !is_end);
        client.position = stripe.map_or(next, |own| in_stripe(next, own));
        self.slot(part.slot).users -= 1;
        self.counts[2] += u64::from(bytes);
    }

    fn read(&mut self, reader: ReaderId, flow: FlowId, part: Part) {
        let client = self.client(reader);
        assert_eq!(client.flow, flow, "read from another file");
        assert!(client.sending.is_none() && client.reading.is_none(), "two operations at once");
        assert!(!client.parked, "a read for a socket that takes nothing");
        let position = client.position;
        client.reading = Some(part);
        let behind = part.at + u64::from(part.bytes);
        assert!(part.at <= position && position < behind, "a read of the wrong place");
        let aligned = part.at.is_multiple_of(u64::from(DIRECT_ALIGN));
        assert!(aligned && part.bytes.is_multiple_of(DIRECT_ALIGN) && part.bytes <= SLOT_BYTES);
        let blob = self.blob(flow);
        let whole = blob.size.expect("a size");
        assert!(blob.file.covers(part.at, behind.min(whole)), "read before it was written");
        let shadow = self.slot(part.slot);
        assert!(shadow.users == 0 && !shadow.filling, "read into a slot that somebody still uses");
        (shadow.content, shadow.filling) = (None, true);
    }

    fn file_read(&mut self, reader: ReaderId, bytes: u32) {
        let client = self.client(reader);
        let part = client.reading.take().expect("a read in flight");
        assert!(bytes <= part.bytes, "more read than asked for");
        if part.at + u64::from(bytes) <= client.position {
            client.broken.get_or_insert(Reason::File);
        }
        let flow = client.flow;
        let life = self.blob(flow).life;
        let shadow = self.slot(part.slot);
        shadow.filling = false;
        shadow.content = Some(Content { life, base: part.at, low: 0, high: bytes });
    }

    fn forget(&mut self, reader: ReaderId) -> Client {
        let client = self.readers.remove(&reader).expect("a joined reader");
        let quiet = client.sending.is_none() && client.reading.is_none();
        assert!(quiet, "forgotten with an operation in flight");
        client
    }

    /// An operation takes bytes out of a slot: they must be there, and be the right ones.
    fn use_slot(&mut self, flow: FlowId, part: Part) {
        let life = self.blob(flow).life;
        let shadow = self.slot(part.slot);
        let content = shadow.content.expect("a slot with bytes in it");
        assert_eq!(content.life, life, "bytes of another blob: {part:?}");
        assert_eq!(content.base + u64::from(part.offset), part.at, "other bytes than named");
        let inside = content.low <= part.offset && part.offset + part.bytes <= content.high;
        assert!(part.bytes > 0 && inside, "bytes that are not there: {part:?} of {content:?}");
        shadow.users += 1;
    }

    fn blob(&mut self, flow: FlowId) -> &mut Blob {
        self.flows.get_mut(&flow).expect("an open flow")
    }

    fn client(&mut self, reader: ReaderId) -> &mut Client {
        self.readers.get_mut(&reader).expect("a joined reader")
    }

    fn slot(&mut self, slot: Slot) -> &mut Shadow {
        &mut self.slots[usize::from(slot.0)]
    }
}
