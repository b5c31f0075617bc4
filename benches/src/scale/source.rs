//! Who asks whom: requests and answers, sources that are lost, and the watchdog that finds those
//! which are silent. The rules are those of the agent and the driver.

use xylem_dataplane::relay::{Event, ReaderId};
use xylem_protocol::limits::{
    ALIVE_MS, CONNECT_MS, MOVE_BYTES_MAX, MOVES_MAX, PEER_ANSWER_MS, PEER_AVOID_MS, PEER_STUCK_MS,
    REPAIR_MS, SILENT_MS, STALL_MS,
};
use xylem_protocol::stripe::{offset_in_stripe, place_in_blob, stripe_bytes};

use super::control::Word;
use super::net::{Host, StreamId};
use super::node::{Lane, Phase, Source};
use super::run::MS_NS;
use super::world::{FLOW, Item, REGISTRY, Request, World};

/// Between the loss of a source and the request to the next one, ns: two messages between ring
/// thread and agent.
const NEXT_SOURCE_NS: u64 = 200_000;

/// How much silence is looked into.
const fn silence_ms(lane: &Lane) -> u64 {
    if lane.gap_from_ns.is_some() { REPAIR_MS } else { SILENT_MS }
}

const fn host(source: Source) -> Host {
    match source {
        Source::Peer(node) => node + 1,
        Source::Registry => REGISTRY,
    }
}

impl World {
    /// Asks the next source, if the relay wants one and control has said who that is.
    pub(super) fn connect(&mut self, node: u32, number: u8) {
        let now_ns = self.agenda.now_ns();
        let here = &mut self.nodes[node as usize];
        let lane = &here.lanes[usize::from(number)];
        if !here.is_fetching() || !here.placed || !lane.wanted || lane.source.is_some() {
            return;
        }
        let is_new = |peer: &&u32| {
            **peer != node && !lane.tried.contains(peer) && !here.avoids(**peer, now_ns)
        };
        let peer = here.branch(number).iter().find(is_new);
        let source = peer.map_or(Source::Registry, |&peer| Source::Peer(peer));
        let (at, stripe) = (here.relay().edge(FLOW, number), here.striped.then_some(number));
        if at >= self.run.size {
            return;
        }
        let lane = &mut here.lanes[usize::from(number)];
        if let Source::Peer(peer) = source {
            lane.tried.push(peer);
        }
        lane.attempt += 1;
        self.counts.reparentings += u64::from(lane.attempt > 1);
        (lane.source, lane.since_ns, lane.connected) = (Some(source), now_ns, false);
        lane.came = 0;
        let attempt = lane.attempt;
        let delay_ns = self.run.delay_ns;
        if let Source::Peer(peer) = source {
            match self.nodes[peer as usize].phase {
                Phase::Gone => {
                    self.nodes[node as usize].avoid(peer, now_ns + PEER_AVOID_MS * MS_NS);
                    return self.agenda.after(2 * delay_ns, Item::Lost(node, number, attempt));
                }
                Phase::Silent => {
                    let until_ns = now_ns + (CONNECT_MS + PEER_AVOID_MS) * MS_NS;
                    self.nodes[node as usize].avoid(peer, until_ns);
                    return self
                        .agenda
                        .after(CONNECT_MS * MS_NS, Item::Lost(node, number, attempt));
                }
                Phase::Absent | Phase::Fetching | Phase::Stored => {}
            }
            self.watch_again(node, number, now_ns);
        }
        let stream = self.net.open(host(source), node + 1);
        self.requests.push(Request { node, lane: number, attempt, source, stripe, at });
        self.nodes[node as usize].lanes[usize::from(number)].stream = Some(stream);
        // A handshake, the request, and the time of the source.
        self.agenda.after(3 * delay_ns + self.run.ask_ns, Item::Asked(stream));
    }

    /// A request is at its source.
    pub(super) fn asked(&mut self, stream: StreamId) {
        let Request { node, lane, attempt, source, stripe, at } = self.requests[stream as usize];
        let delay_ns = self.run.delay_ns;
        if !self.net.is_open(stream) {
            return;
        }
        let Source::Peer(peer) = source else {
            self.agenda.after(delay_ns, Item::Answered(stream));
            let size = self.run.size;
            let bytes = stripe.map_or(size - at, |stripe| {
                stripe_bytes(size, stripe) - offset_in_stripe(at, stripe)
            });
            return self.net.supply(stream, bytes, &mut self.agenda);
        };
        let there = &mut self.nodes[peer as usize];
        match there.phase {
            Phase::Silent => return,
            Phase::Absent | Phase::Gone => {
                self.net.stop(stream);
                return self.agenda.after(delay_ns, Item::Lost(node, lane, attempt));
            }
            Phase::Fetching | Phase::Stored => {}
        }
        if there.sized {
            self.admit(peer, stream);
        } else {
            there.waiting.push(stream);
        }
    }

    fn admit(&mut self, peer: u32, stream: StreamId) {
        if !self.net.is_open(stream) {
            return;
        }
        self.agenda.after(self.run.delay_ns, Item::Answered(stream));
        let reader = self.nodes[peer as usize].take_reader(stream);
        let Request { stripe, at: start, .. } = self.requests[stream as usize];
        let size = self.run.size;
        let end =
            stripe.map_or(size, |stripe| place_in_blob(stripe_bytes(size, stripe) - 1, stripe) + 1);
        let join = Event::Join { reader, flow: FLOW, stripe, start, end };
        self.ready.push_back((peer, join));
    }

    /// The head of an answer is here.
    pub(super) fn answered(&mut self, stream: StreamId) {
        let Request { node, lane: number, .. } = self.requests[stream as usize];
        let now_ns = self.agenda.now_ns();
        let here = &mut self.nodes[node as usize];
        let lane = &mut here.lanes[usize::from(number)];
        if lane.stream != Some(stream) || !here.phase.eq(&Phase::Fetching) {
            return;
        }
        (lane.connected, lane.since_ns, here.sized) = (true, now_ns, true);
        let waiting = std::mem::take(&mut here.waiting);
        self.ready.push_back((
            node,
            Event::SourceReady { flow: FLOW, lane: number, size: self.run.size },
        ));
        for stream in waiting {
            self.admit(node, stream);
        }
    }

    /// A source is lost, unless it has been left already.
    pub(super) fn lost(&mut self, node: u32, number: u8, attempt: u32) {
        let here = &self.nodes[node as usize];
        let lane = &here.lanes[usize::from(number)];
        let Some(source) = lane.source.filter(|_| here.is_fetching() && lane.attempt == attempt)
        else {
            return;
        };
        // Who does not read, for want of a slot, misses nothing yet.
        if lane.connected && !here.is_starved(number) {
            self.note_gap(node, number, source);
        }
        self.drop_source(node, number);
        let lane = &mut self.nodes[node as usize].lanes[usize::from(number)];
        lane.receiving = None;
        lane.connected = false;
        self.ready.push_back((node, Event::SourceLost { flow: FLOW, lane: number }));
        self.connect_soon(node, number, attempt);
    }

    /// The agent is asked for the next source.
    pub(super) fn connect_soon(&mut self, node: u32, number: u8, attempt: u32) {
        self.agenda.after(NEXT_SOURCE_NS, Item::Connect(node, number, attempt));
    }

    /// Control has given a node another place: a blob at its beginning follows, others only when
    /// they are told to.
    pub(super) fn moved(&mut self, node: u32, at_once: bool) {
        let size = self.run.size;
        let here = &mut self.nodes[node as usize];
        if !here.is_fetching() || here.moves >= MOVES_MAX {
            return;
        }
        let is_young = here.relay().received_bytes(FLOW) <= MOVE_BYTES_MAX;
        if !here.striped && here.has_two_parents(size) && is_young {
            if here.lanes[0].source.is_some() {
                self.ready.push_back((node, Event::Split { flow: FLOW }));
            }
            return;
        }
        let follows = at_once || (is_young && here.striped);
        if !follows {
            return;
        }
        for number in here.lane_ids() {
            let here = &mut self.nodes[node as usize];
            let parent =
                here.branch(number).first().copied().map_or(Source::Registry, Source::Peer);
            let lane = &mut here.lanes[usize::from(number)];
            if lane.source.is_none_or(|source| source == parent) {
                continue;
            }
            lane.tried.clear();
            here.moves += 1;
            let attempt = lane.attempt;
            self.lost(node, number, attempt);
        }
    }

    /// The receiver leaves its source.
    pub(super) fn drop_source(&mut self, node: u32, number: u8) {
        self.close_lane(node, number);
        let here = &mut self.nodes[node as usize];
        let lane = &mut here.lanes[usize::from(number)];
        lane.source = None;
        let Some(stream) = lane.stream.take() else { return };
        here.lost_bytes += self.net.close(stream);
        self.agenda.after(self.run.delay_ns, Item::Gone(stream));
    }

    /// A sender learns that its receiver has gone.
    pub(super) fn gone(&mut self, stream: StreamId) {
        self.net.stop(stream);
        let Source::Peer(peer) = self.requests[stream as usize].source else { return };
        let there = &mut self.nodes[peer as usize];
        if !there.is_up() {
            return;
        }
        there.waiting.retain(|&other| other != stream);
        let Some(reader) = self.reader_of(peer, stream) else { return };
        let answer = self.nodes[peer as usize].answer(reader);
        answer.polling = false;
        let event = match answer.sending.take() {
            Some(_) => Event::SendFailed { reader },
            None => Event::Leave { reader },
        };
        self.ready.push_back((peer, event));
    }

    /// The reader that feeds a stream.
    pub(super) fn reader_of(&self, node: u32, stream: StreamId) -> Option<ReaderId> {
        let answers = &self.nodes[node as usize].answers;
        let feeds = |answer: &Option<_>| {
            answer.as_ref().is_some_and(|answer: &super::node::Answer| answer.stream == stream)
        };
        let index = answers.iter().position(feeds)?;
        Some(ReaderId(u16::try_from(index).expect("few readers")))
    }

    fn watch_again(&mut self, node: u32, number: u8, from_ns: u64) {
        let lane = &self.nodes[node as usize].lanes[usize::from(number)];
        let (attempt, period_ms) = (lane.attempt, silence_ms(lane));
        let at_ns = self.next_tick_ns(node, from_ns + period_ms * MS_NS + 1);
        self.agenda.at(at_ns, Item::Watch(node, number, attempt));
    }

    /// The watchdog of one source: asks a silent peer whether it is alive, and leaves it when it
    /// does not say so, or has been silent for too long.
    pub(super) fn watch(&mut self, node: u32, number: u8, attempt: u32) {
        self.assert_moving();
        let now_ns = self.agenda.now_ns();
        let here = &self.nodes[node as usize];
        let lane = &here.lanes[usize::from(number)];
        let live = here.is_fetching() && lane.attempt == attempt;
        let Some(Source::Peer(peer)) = lane.source.filter(|_| live) else { return };
        if here.relay().edge(FLOW, number) >= self.run.size {
            return;
        }
        if here.is_starved(number) {
            // The node does not read: its source is not to blame.
            self.nodes[node as usize].lanes[usize::from(number)].since_ns = now_ns;
        }
        let lane = &self.nodes[node as usize].lanes[usize::from(number)];
        let silence_ns = now_ns - lane.since_ns;
        if silence_ns <= silence_ms(lane) * MS_NS {
            let since_ns = lane.since_ns;
            return self.watch_again(node, number, since_ns);
        }
        let patience_ms = if lane.connected { STALL_MS } else { PEER_ANSWER_MS };
        // Where another source was lost there is always the registry.
        if silence_ns > patience_ms * MS_NS || lane.gap_from_ns.is_some() {
            return self.lost(node, number, attempt);
        }
        if self.nodes[peer as usize].phase == Phase::Silent {
            if self.nodes[node as usize].avoids(peer, now_ns) {
                return self.give_up(node, peer);
            }
            self.agenda.after(ALIVE_MS * MS_NS, Item::Stuck(node, peer));
        }
        self.watch_again(node, number, now_ns);
    }

    /// A peer does not say whether it is alive: it is left, and control is told, once.
    pub(super) fn stuck(&mut self, node: u32, peer: u32) {
        let now_ns = self.agenda.now_ns();
        let here = &mut self.nodes[node as usize];
        if !here.is_up() {
            return;
        }
        if !here.avoids(peer, now_ns) {
            here.avoid(peer, now_ns + PEER_STUCK_MS * MS_NS);
            self.say(node, Word::Stuck(peer));
        }
        self.give_up(node, peer);
    }

    /// Everything that comes from a peer is to come from elsewhere.
    fn give_up(&mut self, node: u32, peer: u32) {
        for number in self.nodes[node as usize].lane_ids() {
            let lane = &self.nodes[node as usize].lanes[usize::from(number)];
            if lane.source == Some(Source::Peer(peer)) {
                let attempt = lane.attempt;
                self.lost(node, number, attempt);
            }
        }
    }
}
