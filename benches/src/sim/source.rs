//! Who fetches from whom: requests, answers, broken connections, dead nodes, and the watchdog that
//! takes the next source.

use xylem_dataplane::relay::{Event, FlowId};
use xylem_protocol::limits::{STALL_MS, UNIT_BYTES};

use super::net::{Host, StreamId};
use super::node::{Answer, Phase};
use super::plan::{MS_NS, SECOND_NS};
use super::world::{Asker, Item, Request, World};

/// How long the peers of a node that died in silence believe in it.
const SILENCE_NS: u64 = 5 * SECOND_NS;

impl World {
    /// The node that lives at a host.
    pub(super) fn node_at(&self, host: Host) -> Option<usize> {
        // The registry has the first host, the nodes have the next ones, clients the last.
        let index = host.checked_sub(1).filter(|&index| index < self.nodes.len())?;
        self.nodes[index].alive.then_some(index)
    }

    pub(super) fn start(&mut self, node: usize) {
        if !self.nodes[node].alive || self.closing {
            return;
        }
        for blob in 0..self.plan.blobs.len() {
            if self.nodes[node].blobs[blob].phase == Phase::Absent {
                self.fetch(node, blob);
            }
        }
    }

    fn fetch(&mut self, node: usize, index: usize) {
        let here = &mut self.nodes[node];
        let flow = here.take_flow(index);
        let resume = here.plan.resume_units[index] * u64::from(UNIT_BYTES);
        let size = (resume > 0).then_some(self.plan.blobs[index]);
        let blob = &mut here.blobs[index];
        (blob.phase, blob.flow, blob.known) = (Phase::Fetching, Some(flow), resume > 0);
        self.apply(
            node,
            Event::Fetch { flow, resume, size, striped: false, splits: false, rank: 0 },
        );
    }

    /// The relay wants a source.
    pub(super) fn wanted(&mut self, node: usize, flow: FlowId, at: u64) {
        let index = self.nodes[node].blob_of(flow);
        let blob = &mut self.nodes[node].blobs[index];
        blob.wanted = true;
        if at == 0 {
            blob.taints.clear();
        }
        self.after(1, Item::Reconnect(node, index));
    }

    pub(super) fn connect(&mut self, node: usize, index: usize) {
        let here = &self.nodes[node];
        let blob = &here.blobs[index];
        let Some(flow) = blob.flow.filter(|_| here.alive && blob.wanted) else { return };
        if blob.source.is_some() || !here.relay.is_waiting_for_source(flow, 0) {
            return;
        }
        let at = here.relay.received_bytes(flow);
        let from = here.sources[blob.place.min(here.sources.len() - 1)];
        let end = self.plan.blobs[index];
        let request = Request { who: Asker::Node(node), blob: index, at, end };
        let stream = self.ask(from, here.host, request);
        let blob = &mut self.nodes[node].blobs[index];
        (blob.source, blob.progress_ns) = (Some(stream), self.now_ns);
    }

    /// Opens a connection and sends a request.
    pub(super) fn ask(&mut self, from: Host, to: Host, request: Request) -> StreamId {
        let buffer_max = self.chance.magnitude(64 << 10, 4 << 20);
        let window = self.chance.magnitude(64 << 10, 1 << 20);
        let stream = self.net.open(from, to, buffer_max, window);
        self.requests.push(request);
        self.taints.push(Vec::new());
        // A handshake, then the request.
        self.after(3 * self.net.delay_ns(from, to), Item::Asked(stream));
        let one_in = self.plan.break_one_in;
        if one_in > 0 && self.chance.within(1, one_in * 4) == 1 {
            let life_ns = self.chance.magnitude(100_000, 2 * SECOND_NS);
            self.after(life_ns, Item::Break(stream));
        }
        stream
    }

    /// A connection breaks; both ends learn of it.
    pub(super) fn break_stream(&mut self, stream: StreamId) {
        let Request { at, end, .. } = self.requests[stream];
        let over = self.net.streams[stream].delivered == end - at;
        if !over {
            self.leave_stream(stream);
            self.after(MS_NS, Item::Reset(stream));
        }
    }

    /// The sender ends a stream.
    pub(super) fn cut_stream(&mut self, stream: StreamId) {
        let (from, to) = (self.net.streams[stream].from, self.net.streams[stream].to);
        if std::mem::take(&mut self.net.streams[stream].open) {
            self.after(self.net.delay_ns(from, to), Item::Reset(stream));
        }
    }

    /// The receiver ends a stream.
    pub(super) fn leave_stream(&mut self, stream: StreamId) {
        let (from, to) = (self.net.streams[stream].from, self.net.streams[stream].to);
        if std::mem::take(&mut self.net.streams[stream].open) {
            self.after(self.net.delay_ns(from, to), Item::Gone(stream));
        }
    }

    pub(super) fn drop_source(&mut self, node: usize, index: usize) {
        if let Some(stream) = self.nodes[node].blobs[index].source.take() {
            self.leave_stream(stream);
        }
    }

    pub(super) fn asked(&mut self, stream: StreamId) {
        let (from, to) = (self.net.streams[stream].from, self.net.streams[stream].to);
        if !self.net.streams[stream].open {
            return;
        }
        if from == self.registry {
            self.after(self.net.delay_ns(from, to), Item::Answered(stream));
            let Request { at, end, .. } = self.requests[stream];
            if self.corruptions > 0 && at < end && self.chance.percent(30) {
                self.corruptions -= 1;
                let wrong = self.chance.within(at, end - 1);
                self.taints[stream].push(wrong);
            }
            return self.fill_from_registry(stream);
        }
        let Some(node) = self.node_at(from) else {
            let told = self.nodes[from - 1].plan.death.is_some_and(|(_, told)| told);
            if told || matches!(self.requests[stream].who, Asker::Client(_)) {
                self.cut_stream(stream);
            }
            return;
        };
        self.serve(node, stream);
    }

    fn serve(&mut self, node: usize, stream: StreamId) {
        let index = self.requests[stream].blob;
        if self.closing || self.nodes[node].blobs[index].phase == Phase::Failed {
            return self.cut_stream(stream);
        }
        match (self.nodes[node].blobs[index].phase, self.nodes[node].blobs[index].flow) {
            (Phase::Absent, _) => self.fetch(node, index),
            (Phase::Stored, None) => {
                let flow = self.nodes[node].take_flow(index);
                self.nodes[node].blobs[index].flow = Some(flow);
                self.apply(node, Event::Serve { flow, size: self.plan.blobs[index] });
            }
            _ => {}
        }
        if self.nodes[node].blobs[index].known {
            self.admit(node, stream);
        } else {
            self.nodes[node].blobs[index].waiting.push(stream);
        }
    }

    fn admit(&mut self, node: usize, stream: StreamId) {
        let (from, to) = (self.net.streams[stream].from, self.net.streams[stream].to);
        if !self.net.streams[stream].open {
            return;
        }
        let Request { blob, at, end, .. } = self.requests[stream];
        self.after(self.net.delay_ns(from, to), Item::Answered(stream));
        let flow = self.nodes[node].blobs[blob].flow.expect("an open flow");
        let reader = self.nodes[node].take_reader(Answer {
            stream,
            blob,
            sending: None,
            ending: false,
            polling: false,
            position: at,
        });
        self.apply(node, Event::Join { reader, flow, stripe: None, start: at, end });
    }

    pub(super) fn fill_from_registry(&mut self, stream: StreamId) {
        let Request { at, end, .. } = self.requests[stream];
        let rest = end - at - self.net.streams[stream].accepted;
        if self.net.streams[stream].open && rest > 0 {
            self.net.accept(stream, rest, self.now_ns, &mut self.wires);
            self.flush_wires();
        }
    }

    /// The head of an answer is here.
    pub(super) fn answered(&mut self, stream: StreamId) {
        let Request { who, blob: index, .. } = self.requests[stream];
        if !self.net.streams[stream].open {
            return;
        }
        let node = match who {
            Asker::Client(client) => return self.client_drain(client),
            Asker::Node(node) => node,
        };
        let blob = &mut self.nodes[node].blobs[index];
        if blob.source != Some(stream) {
            return;
        }
        (blob.connected, blob.known, blob.progress_ns) = (true, true, self.now_ns);
        let waiting = std::mem::take(&mut blob.waiting);
        let flow = blob.flow.expect("an open flow");
        self.apply(node, Event::SourceReady { flow, lane: 0, size: self.plan.blobs[index] });
        for stream in waiting {
            self.admit(node, stream);
        }
    }

    /// A receiver learns that its stream is over.
    pub(super) fn reset(&mut self, stream: StreamId) {
        let Request { who, blob, .. } = self.requests[stream];
        match who {
            Asker::Client(client) => self.client_reset(client, stream),
            Asker::Node(node) if self.nodes[node].alive => {
                if self.nodes[node].blobs[blob].source == Some(stream) {
                    self.lose(node, blob);
                }
            }
            Asker::Node(_) => {}
        }
    }

    /// A source is lost: the next one, or the same again, continues at the own offset.
    fn lose(&mut self, node: usize, index: usize) {
        let again = self.chance.percent(30);
        let here = &mut self.nodes[node];
        let last = here.sources.len() - 1;
        let blob = &mut here.blobs[index];
        (blob.source, blob.connected, blob.receiving) = (None, false, None);
        if !again {
            blob.place = (blob.place + 1).min(last);
        }
        let Some(flow) = blob.flow else { return };
        self.failovers += 1;
        self.apply(node, Event::SourceLost { flow, lane: 0 });
        let delay_ns = self.chance.within(1, 50 * MS_NS);
        self.after(delay_ns, Item::Reconnect(node, index));
    }

    /// A sender learns that its receiver has gone.
    pub(super) fn gone(&mut self, stream: StreamId) {
        let from = self.net.streams[stream].from;
        let Some(node) = self.node_at(from) else { return };
        let index = self.requests[stream].blob;
        self.nodes[node].blobs[index].waiting.retain(|&other| other != stream);
        let Some(reader) = self.nodes[node].reader_of(stream) else { return };
        let here = &mut self.nodes[node];
        let answer = here.answer(reader).expect("an answer");
        match answer.sending {
            Some((_, accepted)) if !answer.ending => {
                answer.sending = None;
                here.unreported_bytes += u64::from(accepted);
                self.apply(node, Event::SendFailed { reader });
            }
            _ => self.apply(node, Event::Leave { reader }),
        }
    }

    /// A blob has failed at a node: whoever waits for it has to go elsewhere.
    pub(super) fn give_up(&mut self, node: usize, index: usize) {
        self.drop_source(node, index);
        for stream in std::mem::take(&mut self.nodes[node].blobs[index].waiting) {
            self.cut_stream(stream);
        }
        self.progress += 1;
    }

    pub(super) fn die(&mut self, node: usize) {
        if self.closing {
            return;
        }
        self.nodes[node].alive = false;
        let told = self.nodes[node].plan.death.is_some_and(|(_, told)| told);
        let host = self.nodes[node].host;
        for id in 0..self.net.streams.len() {
            let stream = &mut self.net.streams[id];
            if !stream.open || (stream.from != host && stream.to != host) {
                continue;
            }
            stream.open = false;
            let receives = stream.to == host;
            let client = matches!(self.requests[id].who, Asker::Client(_));
            match (receives, told) {
                (true, true) => self.after(MS_NS, Item::Gone(id)),
                (true, false) => self.after(SILENCE_NS, Item::Gone(id)),
                (false, true) => self.after(MS_NS, Item::Reset(id)),
                // The node's watchdog finds out; a client has none.
                (false, false) if client => self.after(SILENCE_NS, Item::Reset(id)),
                (false, false) => {}
            }
        }
    }

    /// The driver's watchdog, and its housekeeping.
    pub(super) fn watch(&mut self, node: usize) {
        for index in 0..self.plan.blobs.len() {
            let here = &mut self.nodes[node];
            let blob = &mut here.blobs[index];
            let Some(flow) = blob.flow else { continue };
            if blob.phase == Phase::Stored {
                let idle = here.relay.readers_of(flow) == 0;
                if idle && !self.closing && self.chance.percent(5) {
                    self.apply(node, Event::Abandon { flow });
                }
                continue;
            }
            // An empty blob misses no byte, but the answer that says so.
            let missing = here.relay.is_waiting_for_source(flow, 0)
                || here.relay.received_bytes(flow) < self.plan.blobs[index];
            if here.relay.is_starved(flow, 0) || !missing || blob.source.is_none() {
                blob.progress_ns = self.now_ns;
            } else if blob.progress_ns + STALL_MS * MS_NS < self.now_ns {
                self.drop_source(node, index);
                self.lose(node, index);
            }
        }
    }
}
