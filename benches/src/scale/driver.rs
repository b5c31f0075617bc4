//! What a driver does, in virtual time: the relay's actions become items of the agenda, their ends
//! become events.

use xylem_dataplane::relay::{Action, Event, ReaderId};
use xylem_dataplane::ring::Slot;

use super::net::StreamId;
use super::node::{Phase, Source};
use super::world::{FLOW, Item, World};

impl World {
    pub(super) fn act(&mut self, node: u32, action: Action) {
        let here = &mut self.nodes[node as usize];
        match action {
            Action::Connect { lane: number, .. } => {
                let lane = &mut here.lanes[usize::from(number)];
                lane.wanted = true;
                match lane.attempt {
                    0 => self.connect(node, number),
                    attempt => self.connect_soon(node, number, attempt),
                }
            }
            Action::Split { .. } => self.split(node),
            Action::Recv { lane, bytes, .. } => {
                let lane = &mut here.lanes[usize::from(lane)];
                lane.receiving = Some(bytes);
                if let Some(stream) = lane.stream.filter(|&stream| self.net.arrived(stream) > 0) {
                    self.arrived(stream);
                }
            }
            Action::Write { .. }
            | Action::Hash { .. }
            | Action::Finalize { .. }
            | Action::Read { .. } => self.work(node, action),
            Action::Stored { .. } => self.stored(node),
            Action::Send { reader, bytes, .. } => {
                here.answer(reader).sending = Some((bytes, 0));
                self.push(node, reader);
            }
            Action::CancelSend { reader } => {
                let answer = here.answer(reader);
                if let Some((_, bytes)) = answer.sending.take() {
                    self.ready.push_back((node, Event::Sent { reader, bytes }));
                }
            }
            Action::AwaitWritable { reader } => {
                let answer = here.answer(reader);
                answer.polling = true;
                let stream = answer.stream;
                if self.net.is_writable(stream) {
                    self.has_room(stream);
                }
            }
            Action::Done { reader } | Action::Cut { reader, .. } => {
                let answer = here.answers[usize::from(reader.0)].take().expect("an answer");
                self.close_sent(node, answer);
                if matches!(action, Action::Cut { .. }) {
                    self.net.stop(answer.stream);
                }
            }
            Action::CancelRecv { lane, .. } => {
                // What has come already is on its way to the relay.
                if here.lanes[usize::from(lane)].receiving.take().is_some() {
                    self.ready.push_back((node, Event::SourceLost { flow: FLOW, lane }));
                }
            }
            Action::Closed { .. } => unreachable!("no flow of the simulation is given up"),
        }
    }

    /// Disk and hash thread have something to do.
    fn work(&mut self, node: u32, action: Action) {
        let now_ns = self.agenda.now_ns();
        let (disk_rate, disk_ns) = (self.run.disk_rate, self.run.disk_ns);
        let here = &mut self.nodes[node as usize];
        match action {
            Action::Write { slot, bytes, .. } => {
                let at_ns = here.disk_ns(bytes, disk_rate, disk_ns, now_ns);
                self.agenda.at(at_ns, Item::Written(node, slot.0));
            }
            Action::Hash { slot, bytes, .. } => {
                let at_ns = here.hash_ns(bytes, self.run.hash_rate, now_ns);
                self.agenda.at(at_ns, Item::Hashed(node, slot.0, bytes));
            }
            Action::Finalize { .. } => {
                let at_ns = here.hash_ns(0, self.run.hash_rate, now_ns);
                self.agenda.at(at_ns, Item::Finalized(node));
            }
            Action::Read { reader, bytes, at, .. } => {
                let rest = self.run.size - at;
                let bytes = bytes.min(u32::try_from(rest).unwrap_or(u32::MAX));
                let at_ns = here.disk_ns(bytes, disk_rate, disk_ns, now_ns);
                self.agenda.at(at_ns, Item::FileRead(node, reader.0, bytes));
            }
            _ => unreachable!("neither for the disk nor for the hash thread"),
        }
    }

    fn stored(&mut self, node: u32) {
        let here = &mut self.nodes[node as usize];
        assert_eq!(here.relay().received_bytes(FLOW), self.run.size, "stored, but not whole");
        assert_eq!(here.relay().stored_bytes(FLOW), self.run.size, "stored, but not whole");
        here.phase = Phase::Stored;
        here.times.stored = Some(self.agenda.now_ns());
        let lanes = here.lane_ids();
        self.waiting -= 1;
        for lane in lanes {
            self.drop_source(node, lane);
        }
    }

    /// From now on each stripe has a source of its own: the relay will ask for both.
    fn split(&mut self, node: u32) {
        self.nodes[node as usize].striped = true;
        for lane in 0..2 {
            self.drop_source(node, lane);
            let lane = &mut self.nodes[node as usize].lanes[usize::from(lane)];
            lane.tried.clear();
            (lane.wanted, lane.connected) = (false, false);
            lane.attempt += 1;
        }
    }

    /// Hands over what the sender's buffer takes.
    fn push(&mut self, node: u32, reader: ReaderId) {
        let answer = self.nodes[node as usize].answer(reader);
        let Some((asked, accepted)) = answer.sending else { return };
        let taken = self.net.hand(answer.stream, u64::from(asked - accepted), &mut self.agenda);
        let accepted = accepted + u32::try_from(taken).expect("at most what was asked for");
        if accepted == asked {
            answer.sending = None;
            self.ready.push_back((node, Event::Sent { reader, bytes: asked }));
        } else {
            answer.sending = Some((asked, accepted));
        }
    }

    /// A stream's sender may go on.
    pub(super) fn has_room(&mut self, stream: StreamId) {
        let Source::Peer(node) = self.requests[stream as usize].source else { return };
        let Some(reader) = self.reader_of(node, stream) else { return };
        let answer = self.nodes[node as usize].answer(reader);
        if std::mem::take(&mut answer.polling) {
            self.ready.push_back((node, Event::Writable { reader }));
        } else {
            self.push(node, reader);
        }
    }

    /// Bytes have come, or the relay wants some: where both meet, they are received.
    pub(super) fn arrived(&mut self, stream: StreamId) {
        let now_ns = self.agenda.now_ns();
        let request = self.requests[stream as usize];
        let here = &mut self.nodes[request.node as usize];
        let lane = &mut here.lanes[usize::from(request.lane)];
        if lane.stream != Some(stream) {
            return;
        }
        lane.since_ns = now_ns;
        let Some(asked) = lane.receiving else { return };
        let bytes = self.net.take(stream, u64::from(asked), &mut self.agenda);
        let Ok(bytes @ 1..) = u32::try_from(bytes) else { return };
        lane.receiving = None;
        lane.came += u64::from(bytes);
        let gap_ns = lane.gap_from_ns.take().map(|from_ns| now_ns - from_ns);
        self.counts.gaps_ns.extend(gap_ns);
        here.times.first_byte.get_or_insert(now_ns);
        self.moved_ns = now_ns;
        self.ready
            .push_back((request.node, Event::Received { flow: FLOW, lane: request.lane, bytes }));
    }

    /// An operation has ended.
    pub(super) fn completed(&mut self, item: Item) {
        let (node, event) = match item {
            Item::Written(node, slot) => (node, Event::Written { flow: FLOW, slot: Slot(slot) }),
            Item::Hashed(node, slot, bytes) => {
                (node, Event::Hashed { flow: FLOW, slot: Slot(slot), bytes })
            }
            Item::Finalized(node) => (node, Event::Finalized { flow: FLOW, matches: true }),
            Item::FileRead(node, reader, bytes) => {
                (node, Event::FileRead { reader: ReaderId(reader), bytes })
            }
            Item::Tick(node) => {
                self.nodes[node as usize].ticking = false;
                (node, Event::Tick)
            }
            _ => unreachable!("not the end of an operation"),
        };
        self.ready.push_back((node, event));
    }
}
