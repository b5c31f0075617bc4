//! What a driver does in the simulator: actions become items of the agenda, their ends become
//! events.

use xylem_dataplane::relay::{Action, Event, FlowId, ReaderId};
use xylem_protocol::limits::DIRECT_ALIGN;

use super::node::Phase;
use super::plan::MS_NS;
use super::world::{Item, World};

/// Most time between an operation's end and the driver's seeing it, ns.
const REAP_MAX_NS: u64 = 50_000;

/// One read of a file in so many is short.
const SHORT_READ_ONE_IN: u64 = 20;

impl World {
    /// Lets a node's relay know, and does what it says.
    pub(super) fn apply(&mut self, node: usize, event: Event) {
        for action in self.nodes[node].apply(event) {
            self.act(node, action);
        }
    }

    fn soon(&mut self, item: Item) {
        let delay_ns = self.chance.within(1, REAP_MAX_NS);
        self.after(delay_ns, item);
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Connect { flow, at, .. } => self.wanted(node, flow, at),
            Action::Recv { flow, bytes, .. } => {
                let index = self.nodes[node].blob_of(flow);
                let blob = &mut self.nodes[node].blobs[index];
                blob.receiving = Some(bytes);
                if let Some(stream) = blob.source {
                    self.has_bytes(node, stream);
                }
            }
            Action::Split { .. } => unreachable!("these nodes fetch blobs whole"),
            Action::CancelRecv { flow, .. } => {
                let index = self.nodes[node].blob_of(flow);
                self.drop_source(node, index);
                self.soon(Item::Cancelled(node, flow));
            }
            Action::Write { flow, slot, bytes, .. } => {
                let now_ns = self.now_ns;
                let jitter_ns = self.chance.within(0, 2 * MS_NS);
                let here = &mut self.nodes[node];
                let well = here.plan.failing_write != Some(here.writes);
                here.writes += 1;
                let at_ns = here.disk_ns(bytes, now_ns) + jitter_ns;
                self.at(at_ns, Item::Written(node, flow, slot, well));
            }
            Action::Hash { flow, slot, bytes, .. } => {
                let at_ns = self.nodes[node].hash_ns(bytes, self.now_ns);
                self.at(at_ns, Item::Hashed(node, flow, slot, bytes));
            }
            Action::Finalize { flow } => {
                let at_ns = self.nodes[node].hash_ns(0, self.now_ns);
                self.at(at_ns, Item::Finalized(node, flow));
            }
            Action::Stored { flow } => self.stored(node, flow),
            Action::Send { reader, bytes, .. } => {
                let answer = self.nodes[node].answer(reader).expect("an answer");
                answer.sending = Some((bytes, 0));
                self.push_send(node, reader);
            }
            Action::CancelSend { reader } => {
                let answer = self.nodes[node].answer(reader).expect("an answer");
                if !std::mem::replace(&mut answer.ending, true) {
                    self.soon(Item::Sent(node, reader));
                }
            }
            Action::AwaitWritable { reader } => {
                let answer = self.nodes[node].answer(reader).expect("an answer");
                answer.polling = true;
                let stream = answer.stream;
                self.has_room(stream);
            }
            Action::Read { reader, at, bytes, .. } => self.read(node, reader, at, bytes),
            Action::Done { reader } => self.done(node, reader),
            Action::Cut { reader, .. } => {
                let answer = self.nodes[node].answers[usize::from(reader.0)].take();
                self.cut_stream(answer.expect("an answer").stream);
            }
            Action::Closed { flow } => {
                let index = self.nodes[node].blob_of(flow);
                self.nodes[node].flows[usize::from(flow.0)] = None;
                self.nodes[node].blobs[index].flow = None;
            }
        }
    }

    fn stored(&mut self, node: usize, flow: FlowId) {
        let index = self.nodes[node].blob_of(flow);
        self.drop_source(node, index);
        let blob = &mut self.nodes[node].blobs[index];
        assert!(blob.taints.is_empty(), "stored with wrong bytes");
        (blob.phase, blob.connected) = (Phase::Stored, false);
        self.progress += 1;
    }

    fn done(&mut self, node: usize, reader: ReaderId) {
        let answer = self.nodes[node].answers[usize::from(reader.0)].take().expect("an answer");
        let request = self.requests[answer.stream];
        let asked = request.end - request.at;
        assert_eq!(self.net.streams[answer.stream].accepted, asked, "not the whole range");
        if request.at < request.end && request.end == self.plan.blobs[request.blob] {
            let clean = self.nodes[node].blobs[request.blob].taints.is_empty();
            assert!(clean, "the last byte of a wrong blob");
        }
        self.progress += 1;
    }

    fn read(&mut self, node: usize, reader: ReaderId, at: u64, bytes: u32) {
        let answer = self.nodes[node].answer(reader).expect("an answer");
        let size = self.plan.blobs[answer.blob];
        let whole = u64::from(bytes).min(size - at);
        let align = u64::from(DIRECT_ALIGN);
        let short = whole > align && self.chance.within(1, SHORT_READ_ONE_IN) == 1;
        let got = if short { self.chance.within(align, whole) } else { whole };
        let got = u32::try_from(got).expect("at most a slot");
        let at_ns = self.nodes[node].disk_ns(got, self.now_ns);
        self.at(at_ns, Item::FileRead(node, reader, got));
    }

    /// Hands over what the sender's buffer takes.
    fn push_send(&mut self, node: usize, reader: ReaderId) {
        let answer = self.nodes[node].answer(reader).expect("an answer");
        let Some((asked, accepted)) = answer.sending else { return };
        if answer.ending {
            return;
        }
        let (stream, blob, position) = (answer.stream, answer.blob, answer.position);
        let rest = u64::from(asked - accepted);
        let taken = self.net.accept(stream, rest, self.now_ns, &mut self.wires);
        self.flush_wires();
        let range = position..position + taken;
        let here = &mut self.nodes[node];
        let wrong = here.blobs[blob].taints.iter().filter(|&taint| range.contains(taint));
        self.taints[stream].extend(wrong);
        let answer = here.answer(reader).expect("an answer");
        answer.position += taken;
        let accepted = accepted + u32::try_from(taken).expect("at most what was asked for");
        answer.sending = Some((asked, accepted));
        if accepted == asked {
            answer.ending = true;
            self.soon(Item::Sent(node, reader));
        }
    }

    /// A stream's sender may have room in its buffer.
    pub(super) fn has_room(&mut self, stream: usize) {
        let from = self.net.streams[stream].from;
        if from == self.registry {
            return self.fill_from_registry(stream);
        }
        let Some(node) = self.node_at(from) else { return };
        let Some(reader) = self.nodes[node].reader_of(stream) else { return };
        let writable = self.net.streams[stream].is_writable();
        let answer = self.nodes[node].answer(reader).expect("an answer");
        if answer.polling && writable && !std::mem::replace(&mut answer.ending, true) {
            self.soon(Item::Writable(node, reader));
        } else {
            self.push_send(node, reader);
        }
    }

    /// A node's source may have bytes for it.
    pub(super) fn has_bytes(&mut self, node: usize, stream: usize) {
        let index = self.requests[stream].blob;
        let blob = &mut self.nodes[node].blobs[index];
        let there = self.net.streams[stream].arrived > 0;
        if blob.source != Some(stream) || blob.receiving.is_none() || blob.ending || !there {
            return;
        }
        blob.ending = true;
        let flow = blob.flow.expect("an open flow");
        self.soon(Item::Receive(node, flow));
    }

    /// An operation has ended.
    pub(super) fn completed(&mut self, node: usize, item: Item) {
        match item {
            Item::Receive(_, flow) => self.receive(node, flow),
            Item::Cancelled(_, flow) => {
                let Some(index) = self.nodes[node].flows[usize::from(flow.0)] else { return };
                if self.nodes[node].blobs[index].receiving.take().is_some() {
                    self.apply(node, Event::SourceLost { flow, lane: 0 });
                }
            }
            Item::Written(_, flow, slot, true) => self.apply(node, Event::Written { flow, slot }),
            Item::Written(_, flow, slot, false) => {
                let index = self.nodes[node].blob_of(flow);
                self.nodes[node].blobs[index].phase = Phase::Failed;
                self.apply(node, Event::WriteFailed { flow, slot });
                self.give_up(node, index);
            }
            Item::Hashed(_, flow, slot, bytes) => {
                self.apply(node, Event::Hashed { flow, slot, bytes });
            }
            Item::Finalized(_, flow) => self.finalized(node, flow),
            Item::Restart(_, flow) => {
                let index = self.nodes[node].flows[usize::from(flow.0)];
                let wanted = |index: usize| self.nodes[node].blobs[index].phase == Phase::Fetching;
                if index.is_some_and(wanted) {
                    self.apply(node, Event::Restart { flow });
                }
            }
            Item::Sent(_, reader) => {
                let answer = self.nodes[node].answer(reader).expect("an answer");
                answer.ending = false;
                let (_, bytes) = answer.sending.take().expect("a send in flight");
                self.apply(node, Event::Sent { reader, bytes });
            }
            Item::FileRead(_, reader, bytes) => {
                self.apply(node, Event::FileRead { reader, bytes });
            }
            Item::Writable(_, reader) => {
                let Some(answer) = self.nodes[node].answer(reader) else { return };
                if std::mem::take(&mut answer.polling) {
                    answer.ending = false;
                    self.apply(node, Event::Writable { reader });
                }
            }
            _ => unreachable!("not an operation's end"),
        }
    }

    fn receive(&mut self, node: usize, flow: FlowId) {
        let Some(index) = self.nodes[node].flows[usize::from(flow.0)] else { return };
        let blob = &mut self.nodes[node].blobs[index];
        blob.ending = false;
        let (Some(asked), Some(stream)) = (blob.receiving, blob.source) else { return };
        let taken = self.net.take(stream, u64::from(asked), self.now_ns, &mut self.wires);
        self.flush_wires();
        if taken == 0 {
            return;
        }
        let at = self.nodes[node].relay.received_bytes(flow);
        let range = at..at + taken;
        let wrong = self.taints[stream].iter().filter(|&taint| range.contains(taint));
        let blob = &mut self.nodes[node].blobs[index];
        blob.taints.extend(wrong);
        (blob.receiving, blob.progress_ns) = (None, self.now_ns);
        let bytes = u32::try_from(taken).expect("at most what was asked for");
        self.apply(node, Event::Received { flow, lane: 0, bytes });
    }

    fn finalized(&mut self, node: usize, flow: FlowId) {
        let index = self.nodes[node].blob_of(flow);
        let blob = &mut self.nodes[node].blobs[index];
        let matches = blob.taints.is_empty();
        if !matches {
            (blob.wanted, blob.connected, blob.known) = (false, false, false);
            blob.mismatches += 1;
            self.mismatches += 1;
            let last = self.nodes[node].sources.len() - 1;
            self.nodes[node].blobs[index].place = last;
            self.drop_source(node, index);
            let delay_ns = self.chance.within(1, 50 * MS_NS);
            self.after(delay_ns, Item::Restart(node, flow));
        }
        self.apply(node, Event::Finalized { flow, matches });
    }
}
