//! Virtual links under load: a host sends in chunks at the rate of its uplink, its streams take
//! turns, and what it is sent comes in at the rate of its downlink. Counts only; no byte exists.
//!
//! A stream is one direction of one connection. It holds what its sender has handed over and not
//! sent (at most a send buffer), and what was sent and not taken by its receiver (at most a
//! window). A chunk is on the uplink alone while it is sent, so that streams share it evenly by
//! bytes; on the downlink it takes its time beside others, behind what came before it. A stream
//! whose window is closed gives its turn to the others.

use std::collections::VecDeque;

use super::agenda::Agenda;

/// A host's index.
pub(super) type Host = u32;
/// A stream's index; never used again.
pub(super) type StreamId = u32;

/// A full-duplex link, bytes per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// How much is on a link at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    /// Most bytes of one turn.
    pub(super) chunk: u64,
    /// Most bytes handed over and not sent.
    pub(super) send: u64,
    /// Most bytes sent and not taken.
    pub(super) window: u64,
    /// From the end of sending to the begin of receiving, ns.
    pub(super) delay_ns: u64,
}

#[derive(Debug)]
struct Port {
    link: Link,
    sending: bool,
    turns: VecDeque<StreamId>,
    /// When all that was sent here will have come in.
    busy_until_ns: u64,
    sent: u64,
}

#[derive(Debug)]
struct Stream {
    from: Host,
    to: Host,
    /// Whether its sender sends.
    sends: bool,
    /// Whether its receiver takes.
    takes: bool,
    /// Whether nobody says any more what has arrived.
    mute: bool,
    /// Whether it stands in its host's queue.
    queued: bool,
    /// Whether its sender wants to know when there is room.
    eager: bool,
    /// Handed over and not sent.
    buffered: u64,
    /// When the last of what was sent arrives.
    last_arrival_ns: u64,
    /// Since when the window is closed, and for how long it was before.
    closed_from_ns: Option<u64>,
    closed_ns: u64,
    /// Since when there is something that has not arrived, and for how long there was before.
    busy_from_ns: Option<u64>,
    busy_ns: u64,
    /// All that has arrived.
    carried: u64,
    /// Sent and not arrived.
    flying: u64,
    /// Arrived and not taken.
    arrived: u64,
}

/// What the network wants to hear again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire {
    /// A host may send its next chunk.
    Next(Host),
    /// A chunk has come in.
    Arrived(StreamId, u32),
}

/// All hosts and streams.
#[derive(Debug)]
pub(super) struct Net {
    buffers: Buffers,
    ports: Vec<Port>,
    streams: Vec<Stream>,
    /// Streams that have room again and whose sender wants to know.
    roomy: Vec<StreamId>,
}

impl Net {
    pub(super) const fn new(buffers: Buffers) -> Self {
        Self { buffers, ports: Vec::new(), streams: Vec::new(), roomy: Vec::new() }
    }

    /// Adds a host.
    pub(super) fn add(&mut self, link: Link) -> Host {
        let host = index(self.ports.len());
        self.ports.push(Port {
            link,
            sending: false,
            turns: VecDeque::new(),
            busy_until_ns: 0,
            sent: 0,
        });
        host
    }

    /// Opens a stream.
    pub(super) fn open(&mut self, from: Host, to: Host) -> StreamId {
        let id = index(self.streams.len());
        self.streams.push(Stream {
            from,
            to,
            sends: true,
            takes: true,
            mute: false,
            queued: false,
            eager: false,
            buffered: 0,
            last_arrival_ns: 0,
            closed_from_ns: None,
            closed_ns: 0,
            busy_from_ns: None,
            busy_ns: 0,
            carried: 0,
            flying: 0,
            arrived: 0,
        });
        id
    }

    /// Gives a host another link.
    pub(super) fn set_link(&mut self, host: Host, link: Link) {
        self.ports[host as usize].link = link;
    }

    /// When the last byte that was sent is there.
    pub(super) fn last_arrival_ns(&self, id: StreamId) -> u64 {
        self.stream(id).last_arrival_ns
    }

    /// Whether both ends hold it.
    pub(super) fn is_open(&self, id: StreamId) -> bool {
        let stream = self.stream(id);
        stream.sends && stream.takes
    }

    /// Bytes that can be taken.
    pub(super) fn arrived(&self, id: StreamId) -> u64 {
        self.stream(id).arrived
    }

    /// Bytes that a host has sent.
    pub(super) fn sent(&self, host: Host) -> u64 {
        self.ports[host as usize].sent
    }

    /// For how long a stream's window has been closed while there was something to send.
    pub(super) fn closed_ns(&self, id: StreamId, now_ns: u64) -> u64 {
        let stream = self.stream(id);
        stream.closed_ns + stream.closed_from_ns.map_or(0, |from_ns| now_ns - from_ns)
    }

    /// Bytes that a stream has carried.
    pub(super) fn carried(&self, id: StreamId) -> u64 {
        self.stream(id).carried
    }

    /// For how long something that was handed over has not arrived yet.
    pub(super) fn busy_ns(&self, id: StreamId, now_ns: u64) -> u64 {
        let stream = self.stream(id);
        stream.busy_ns + stream.busy_from_ns.map_or(0, |from_ns| now_ns - from_ns)
    }

    /// A stream that has got room since its sender found none.
    pub(super) fn next_roomy(&mut self) -> Option<StreamId> {
        self.roomy.pop()
    }

    /// The sender hands over up to `bytes`; says how many there was room for. With less room than
    /// that it will be told of more.
    pub(super) fn hand<I: From<Wire>>(
        &mut self,
        id: StreamId,
        bytes: u64,
        agenda: &mut Agenda<I>,
    ) -> u64 {
        let room = self.buffers.send.saturating_sub(self.stream(id).buffered);
        let taken = bytes.min(room);
        self.stream_mut(id).eager = taken < bytes;
        self.supply(id, taken, agenda);
        taken
    }

    /// Whether the sender's buffer has room; if not, it will be told.
    pub(super) fn is_writable(&mut self, id: StreamId) -> bool {
        let send = self.buffers.send;
        let stream = self.stream_mut(id);
        stream.eager = stream.buffered >= send;
        !stream.eager
    }

    /// The sender hands over all, whatever its buffer holds: for senders that wait for nothing.
    pub(super) fn supply<I: From<Wire>>(
        &mut self,
        id: StreamId,
        bytes: u64,
        agenda: &mut Agenda<I>,
    ) {
        let stream = self.stream_mut(id);
        if bytes > 0 && stream.sends {
            stream.buffered += bytes;
            stream.busy_from_ns.get_or_insert(agenda.now_ns());
            self.queue(id, agenda);
        }
    }

    /// The receiver takes up to `bytes`; says how many there were.
    pub(super) fn take<I: From<Wire>>(
        &mut self,
        id: StreamId,
        bytes: u64,
        agenda: &mut Agenda<I>,
    ) -> u64 {
        let stream = self.stream_mut(id);
        let taken = bytes.min(stream.arrived);
        stream.arrived -= taken;
        if stream.buffered > 0 {
            self.queue(id, agenda);
        }
        taken
    }

    /// The sender sends no more; what it sent arrives.
    pub(super) fn stop(&mut self, id: StreamId) {
        let stream = self.stream_mut(id);
        stream.sends = false;
        stream.eager = false;
        stream.buffered = 0;
    }

    /// The receiver takes no more; says how many bytes were here in vain. What is on the way lands
    /// in vain.
    pub(super) fn close(&mut self, id: StreamId) -> u64 {
        let stream = self.stream_mut(id);
        stream.takes = false;
        std::mem::take(&mut stream.arrived)
    }

    /// The receiver has vanished, and nobody says so: the sender sends until the window is full,
    /// and waits for the network.
    pub(super) fn vanish(&mut self, id: StreamId, now_ns: u64) {
        let stream = self.stream_mut(id);
        (stream.takes, stream.mute) = (false, true);
        stream.flying += std::mem::take(&mut stream.arrived);
        stream.closed_ns += stream.closed_from_ns.take().map_or(0, |from_ns| now_ns - from_ns);
    }

    /// A chunk is here; says whether somebody is there to take it.
    pub(super) fn land(&mut self, id: StreamId, bytes: u32, now_ns: u64) -> bool {
        let stream = self.stream_mut(id);
        if stream.mute {
            return false;
        }
        stream.flying -= u64::from(bytes);
        stream.carried += u64::from(bytes);
        if stream.flying + stream.buffered == 0 {
            stream.busy_ns += stream.busy_from_ns.take().map_or(0, |from_ns| now_ns - from_ns);
        }
        if stream.takes {
            stream.arrived += u64::from(bytes);
        }
        stream.takes
    }

    /// A host may send again.
    pub(super) fn next<I: From<Wire>>(&mut self, host: Host, agenda: &mut Agenda<I>) {
        self.ports[host as usize].sending = false;
        self.send(host, agenda);
    }

    fn stream(&self, id: StreamId) -> &Stream {
        &self.streams[id as usize]
    }

    fn stream_mut(&mut self, id: StreamId) -> &mut Stream {
        &mut self.streams[id as usize]
    }

    fn queue<I: From<Wire>>(&mut self, id: StreamId, agenda: &mut Agenda<I>) {
        let stream = &mut self.streams[id as usize];
        if !stream.queued {
            stream.queued = true;
            let closed_ns = stream.closed_from_ns.take().map(|from_ns| agenda.now_ns() - from_ns);
            stream.closed_ns += closed_ns.unwrap_or(0);
            let host = stream.from;
            self.ports[host as usize].turns.push_back(id);
            self.send(host, agenda);
        }
    }

    fn send<I: From<Wire>>(&mut self, host: Host, agenda: &mut Agenda<I>) {
        let Buffers { chunk, window, delay_ns, .. } = self.buffers;
        if self.ports[host as usize].sending {
            return;
        }
        while let Some(id) = self.ports[host as usize].turns.pop_front() {
            let stream = &mut self.streams[id as usize];
            let wanted = stream.buffered.min(chunk);
            let open = window.saturating_sub(stream.flying + stream.arrived);
            // No small chunks because the window is nearly closed: it opens soon.
            if wanted == 0 || wanted > open || !stream.sends {
                stream.queued = false;
                let is_closed = wanted > open && !stream.mute;
                stream.closed_from_ns = is_closed.then(|| agenda.now_ns());
                continue;
            }
            stream.buffered -= wanted;
            stream.flying += wanted;
            if stream.eager {
                stream.eager = false;
                self.roomy.push(id);
            }
            let to = stream.to;
            let port = &mut self.ports[host as usize];
            port.turns.push_back(id);
            port.sending = true;
            port.sent += wanted;
            let sent_ns = agenda.now_ns() + ns_of(wanted, port.link.up);
            agenda.at(sent_ns, Wire::Next(host).into());
            let port = &mut self.ports[to as usize];
            let begin_ns = port.busy_until_ns.max(agenda.now_ns() + delay_ns);
            port.busy_until_ns = begin_ns + ns_of(wanted, port.link.down);
            let arrived_ns = port.busy_until_ns.max(sent_ns + delay_ns);
            self.streams[id as usize].last_arrival_ns = arrived_ns;
            let bytes = u32::try_from(wanted).expect("a chunk is small");
            agenda.at(arrived_ns, Wire::Arrived(id, bytes).into());
            return;
        }
    }
}

/// How long so many bytes take, ns.
pub(super) const fn ns_of(bytes: u64, rate: u64) -> u64 {
    bytes * 1_000_000_000 / rate
}

/// An index of the simulation as it is kept.
pub(super) fn index(place: usize) -> u32 {
    u32::try_from(place).expect("fewer than 2^32 of anything")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFERS: Buffers =
        Buffers { chunk: 1000, send: 10_000, window: 10_000, delay_ns: 1_000_000 };

    fn link(rate: u64) -> Link {
        Link { up: rate, down: rate }
    }

    /// Runs until nothing moves; receivers take at once. By stream: when its last byte came, ns.
    fn run(net: &mut Net, agenda: &mut Agenda<Wire>, streams: usize) -> Vec<(u64, u64)> {
        let mut ends = vec![(0, 0); streams];
        while let Some(wire) = agenda.next() {
            match wire {
                Wire::Next(host) => net.next(host, agenda),
                Wire::Arrived(id, bytes) => {
                    if net.land(id, bytes, agenda.now_ns()) {
                        let taken = net.take(id, u64::MAX, agenda);
                        let end = &mut ends[id as usize];
                        *end = (agenda.now_ns(), end.1 + taken);
                    }
                }
            }
        }
        ends
    }

    #[test]
    fn an_uplink_is_shared_evenly() {
        let (mut net, mut agenda) = (Net::new(BUFFERS), Agenda::new());
        let hosts: Vec<Host> = (0..3).map(|_| net.add(link(1_000_000))).collect();
        for to in [1, 2] {
            let id = net.open(hosts[0], hosts[to]);
            net.supply(id, 500_000, &mut agenda);
        }
        let ends = run(&mut net, &mut agenda, 2);
        // 1 MB at 1 MB/s, and one way.
        assert_eq!(ends[1], (1_001_000_000, 500_000));
        assert_eq!(ends[0], (999_000_000, 500_000), "it had the first two turns");
        assert_eq!(net.sent(hosts[0]), 1_000_000);
    }

    #[test]
    fn a_downlink_is_shared_and_a_slow_sender_holds_nobody_up() {
        let (mut net, mut agenda) = (Net::new(BUFFERS), Agenda::new());
        let fast = net.add(link(1_000_000));
        let slow = net.add(link(100_000));
        let to = net.add(link(1_000_000));
        for (from, bytes) in [(fast, 900_000), (slow, 100_000)] {
            let id = net.open(from, to);
            net.supply(id, bytes, &mut agenda);
        }
        let ends = run(&mut net, &mut agenda, 2);
        for (end_ns, _) in ends {
            assert!((950_000_000..1_015_000_000).contains(&end_ns), "{end_ns}");
        }
    }

    #[test]
    fn a_closed_window_holds_a_stream_and_what_is_left_counts_as_lost() {
        let (mut net, mut agenda) = (Net::new(BUFFERS), Agenda::<Wire>::new());
        let (from, to) = (net.add(link(1_000_000)), net.add(link(1_000_000)));
        let id = net.open(from, to);
        assert_eq!(net.hand(id, 50_000, &mut agenda), 10_000);
        while let Some(wire) = agenda.next() {
            match wire {
                Wire::Next(host) => net.next(host, &mut agenda),
                Wire::Arrived(id, bytes) => {
                    assert!(net.land(id, bytes, agenda.now_ns()));
                }
            }
            while net.next_roomy().is_some() {
                net.hand(id, 10_000, &mut agenda);
            }
        }
        assert_eq!((net.arrived(id), net.sent(from)), (10_000, 10_000), "no more than a window");
        let now_ns = agenda.now_ns();
        assert_eq!((net.carried(id), net.busy_ns(id, now_ns)), (10_000, now_ns));
        assert_eq!(net.take(id, 4_000, &mut agenda), 4_000);
        assert_eq!(net.close(id), 6_000);
        assert_eq!(net.close(id), 0, "counted once");
        net.supply(id, 1_000, &mut agenda);
        assert!(!net.land(id, 1_000, now_ns), "what came instead lands in vain");
    }

    #[test]
    fn who_has_vanished_takes_a_window_and_no_more() {
        let (mut net, mut agenda) = (Net::new(BUFFERS), Agenda::<Wire>::new());
        let hosts: Vec<Host> = (0..3).map(|_| net.add(link(1_000_000))).collect();
        let streams = [1, 2].map(|to| net.open(hosts[0], hosts[to]));
        net.vanish(streams[1], 0);
        for id in streams {
            net.supply(id, 500_000, &mut agenda);
        }
        let ends = run(&mut net, &mut agenda, 2);
        assert_eq!(ends[0].1, 500_000);
        assert_eq!(net.sent(hosts[0]), 510_000, "the link is the other's");
        let now_ns = agenda.now_ns();
        assert_eq!((net.carried(streams[1]), net.closed_ns(streams[1], now_ns)), (0, 0));
        assert_eq!(net.busy_ns(streams[1], now_ns), now_ns, "it waits for the network");
    }
}
