//! Virtual links: each host sends and receives chunks at its own rates, its streams take turns, and
//! a stream holds no more than its buffers. Counts only; no byte exists.

use std::collections::VecDeque;

use super::plan::Link;

/// Bytes that take one turn on a link.
pub(super) const CHUNK_BYTES: u64 = 64 * 1024;

/// A host's index.
pub(super) type Host = usize;
/// A stream's index; never used again.
pub(super) type StreamId = usize;

/// A host's side of its link.
#[derive(Debug)]
pub(super) struct Port {
    link: Link,
    sending: bool,
    turns: VecDeque<StreamId>,
    received_until_ns: u64,
}

/// One direction of one connection: the body of one answer.
#[derive(Debug)]
pub(super) struct Stream {
    /// Who sends.
    pub(super) from: Host,
    /// Who receives.
    pub(super) to: Host,
    /// Whether both ends still hold it.
    pub(super) open: bool,
    /// Bytes that the sender has handed over.
    pub(super) accepted: u64,
    /// Bytes that the receiver has taken.
    pub(super) delivered: u64,
    /// Bytes in the sender's buffer.
    buffered: u64,
    /// Bytes under way.
    flying: u64,
    /// Bytes in the receiver's buffer.
    pub(super) arrived: u64,
    buffer_max: u64,
    window: u64,
    queued: bool,
}

impl Stream {
    /// Room in the sender's buffer.
    pub(super) const fn room(&self) -> u64 {
        self.buffer_max - self.buffered
    }

    /// Whether a poll for writing would answer.
    pub(super) const fn is_writable(&self) -> bool {
        self.room() * 3 >= self.buffer_max
    }

    /// Panics if a byte was lost or made.
    pub(super) fn check(&self) {
        let within = self.buffered + self.flying + self.arrived;
        assert_eq!(
            self.accepted,
            self.delivered + within,
            "bytes lost or made on a link: {self:?}"
        );
    }
}

/// What the network wants to hear again, and when.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire {
    /// A host may send its next chunk.
    Next(Host),
    /// A chunk stands before the receiver's link.
    Before(StreamId, u64),
    /// A chunk is in the receiver's buffer.
    Arrived(StreamId, u64),
}

/// All hosts and streams.
#[derive(Debug, Default)]
pub(super) struct Net {
    /// By host.
    ports: Vec<Port>,
    /// By id.
    pub(super) streams: Vec<Stream>,
}

impl Net {
    /// Adds a host.
    pub(super) fn add(&mut self, link: Link) -> Host {
        self.ports.push(Port {
            link,
            sending: false,
            turns: VecDeque::new(),
            received_until_ns: 0,
        });
        self.ports.len() - 1
    }

    /// Opens a stream.
    pub(super) fn open(&mut self, from: Host, to: Host, buffer_max: u64, window: u64) -> StreamId {
        self.streams.push(Stream {
            from,
            to,
            open: true,
            accepted: 0,
            delivered: 0,
            buffered: 0,
            flying: 0,
            arrived: 0,
            buffer_max,
            window,
            queued: false,
        });
        self.streams.len() - 1
    }

    /// One way between two hosts.
    pub(super) fn delay_ns(&self, from: Host, to: Host) -> u64 {
        self.ports[from].link.delay_ns + self.ports[to].link.delay_ns
    }

    /// The sender hands over up to `bytes`; says how many there was room for.
    pub(super) fn accept(
        &mut self,
        id: StreamId,
        bytes: u64,
        now_ns: u64,
        later: &mut Vec<(u64, Wire)>,
    ) -> u64 {
        let stream = &mut self.streams[id];
        let taken = bytes.min(stream.room());
        stream.buffered += taken;
        stream.accepted += taken;
        self.queue(id, now_ns, later);
        taken
    }

    /// The receiver takes up to `bytes`; says how many there were.
    pub(super) fn take(
        &mut self,
        id: StreamId,
        bytes: u64,
        now_ns: u64,
        later: &mut Vec<(u64, Wire)>,
    ) -> u64 {
        let stream = &mut self.streams[id];
        let taken = bytes.min(stream.arrived);
        stream.arrived -= taken;
        stream.delivered += taken;
        self.queue(id, now_ns, later);
        taken
    }

    /// A host may send again; says whose buffer has got room by it.
    pub(super) fn next(&mut self, host: Host, now_ns: u64, later: &mut Vec<(u64, Wire)>) {
        self.ports[host].sending = false;
        self.send(host, now_ns, later);
    }

    /// A chunk stands before its receiver's link.
    pub(super) fn before(
        &mut self,
        id: StreamId,
        bytes: u64,
        now_ns: u64,
        later: &mut Vec<(u64, Wire)>,
    ) {
        let port = &mut self.ports[self.streams[id].to];
        let begin = now_ns.max(port.received_until_ns);
        port.received_until_ns = begin + time_ns(bytes, port.link.down);
        later.push((port.received_until_ns, Wire::Arrived(id, bytes)));
    }

    /// A chunk is here; says whether somebody is still there to take it.
    pub(super) fn arrived(&mut self, id: StreamId, bytes: u64) -> bool {
        let stream = &mut self.streams[id];
        stream.flying -= bytes;
        stream.arrived += bytes;
        stream.check();
        stream.open
    }

    fn queue(&mut self, id: StreamId, now_ns: u64, later: &mut Vec<(u64, Wire)>) {
        let stream = &mut self.streams[id];
        if !stream.queued && stream.open {
            stream.queued = true;
            let host = stream.from;
            self.ports[host].turns.push_back(id);
            self.send(host, now_ns, later);
        }
    }

    fn send(&mut self, host: Host, now_ns: u64, later: &mut Vec<(u64, Wire)>) {
        let port = &mut self.ports[host];
        if port.sending {
            return;
        }
        while let Some(id) = port.turns.pop_front() {
            let stream = &mut self.streams[id];
            let window = stream.window.saturating_sub(stream.flying + stream.arrived);
            let bytes = stream.buffered.min(window).min(CHUNK_BYTES);
            if bytes == 0 || !stream.open {
                stream.queued = false;
                continue;
            }
            stream.buffered -= bytes;
            stream.flying += bytes;
            port.turns.push_back(id);
            port.sending = true;
            let sent_ns = now_ns + time_ns(bytes, port.link.up);
            let to = stream.to;
            later.push((sent_ns, Wire::Next(host)));
            let delay_ns = self.delay_ns(host, to);
            later.push((sent_ns + delay_ns, Wire::Before(id, bytes)));
            return;
        }
    }
}

/// How long so many bytes take, at least 1 ns.
pub(super) fn time_ns(bytes: u64, rate: u64) -> u64 {
    (bytes * 1_000_000_000 / rate).max(1)
}
