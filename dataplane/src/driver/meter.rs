//! What is counted of each connection, and the report that carries it to the cold half. Counts
//! only; decides nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xylem_protocol::limits::{SAMPLES_MAX, SLOT_BYTES, UNIT_BYTES};

use super::Driver;
use super::flow::LaneId;
use crate::clock::monotonic_ns;
use crate::hops::{ConnSample, Direction};
use crate::link::{FlowProgress, Report, ToCold};
use crate::relay::FlowId;
use crate::ring::{Slot, socket};
use crate::usdt;

/// For how long after it last moved a connection that sends is looked at: on a slow link the kernel
/// goes on sending what the relay has handed over.
const SENDING_ON: Duration = Duration::from_secs(2);

/// How often the cold half is told.
pub(super) const REPORT_PERIOD: Duration = Duration::from_millis(100);

const UNITS_PER_SLOT: usize = (SLOT_BYTES / UNIT_BYTES) as usize;

/// One connection's counts.
#[derive(Debug)]
pub(super) struct Traffic {
    number: u64,
    cookie: u64,
    pub(super) peer: Option<Arc<str>>,
    pub(super) receiving: bool,
    /// It is closed before its answer has ended.
    pub(super) discarded: bool,
    bytes: u64,
    active: Duration,
    starved: Duration,
    /// When the last bytes moved, within a body.
    last: Option<Instant>,
    /// Whether a body's first byte was seen since the request.
    first_seen: Option<Instant>,
    /// Whether it moved since the last report.
    moved: bool,
    first_byte_us: Vec<u32>,
    residence_us: Vec<u32>,
}

impl Traffic {
    /// `number` is the connection's, `cookie` the kernel's name for it.
    pub(super) const fn new(number: u64, cookie: u64) -> Self {
        Self {
            number,
            cookie,
            peer: None,
            receiving: false,
            discarded: false,
            bytes: 0,
            active: Duration::ZERO,
            starved: Duration::ZERO,
            last: None,
            first_seen: None,
            moved: false,
            first_byte_us: Vec::new(),
            residence_us: Vec::new(),
        }
    }

    /// Counts bytes of a head or an answer: a body, if one follows, begins now.
    pub(super) const fn count(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        self.last = Some(now);
        self.moved = true;
    }

    /// Counts bytes of a body that arrived; `asked` is when the request was sent.
    pub(super) fn received_body(&mut self, bytes: u64, asked: Instant, now: Instant) {
        if self.first_seen != Some(asked) {
            self.first_seen = Some(asked);
            push(&mut self.first_byte_us, now - asked);
        }
        self.body(bytes, now);
    }

    /// Counts bytes of a body.
    pub(super) fn body(&mut self, bytes: u64, now: Instant) {
        if let Some(last) = self.last {
            self.active += now - last;
        }
        self.count(bytes, now);
    }

    /// The relay reads on, or sends on: until now it could not.
    pub(super) fn wanted(&mut self, now: Instant) {
        if let Some(last) = self.last {
            self.starved += now - last;
        }
    }

    fn sample(&mut self, fd: &OwnedFd, closed: bool) -> Option<ConnSample> {
        let peer = self.peer.clone()?;
        self.moved = false;
        let starved_ns = nanos(self.starved.min(self.active));
        let (direction, starved_ns, withheld_ns) = if self.receiving {
            (Direction::Receiving, 0, starved_ns)
        } else {
            (Direction::Sending, starved_ns, 0)
        };
        Some(ConnSample {
            conn: self.number,
            cookie: self.cookie,
            peer,
            direction,
            at_ns: monotonic_ns(),
            relay_payload_bytes: self.bytes,
            closed,
            discarded: closed && self.discarded,
            active_ns: nanos(self.active),
            starved_ns,
            withheld_ns,
            // Refused only by something that is no TCP socket.
            tcp: socket::tcp_info(fd.as_fd()).unwrap_or_default(),
            first_byte_us: std::mem::take(&mut self.first_byte_us),
            residence_us: std::mem::take(&mut self.residence_us),
        })
    }
}

/// Keeps a duration, in µs, if there is room until the next report.
fn push(samples: &mut Vec<u32>, duration: Duration) {
    if samples.len() < SAMPLES_MAX {
        samples.push(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Counts that belong to no single connection.
#[derive(Debug)]
pub(super) struct Meter {
    /// When each unit of each slot was whole.
    whole: Vec<[Option<Instant>; UNITS_PER_SLOT]>,
    /// Gaps between a lost source's last byte and the next one's first, ms.
    gaps_ms: Vec<u32>,
    /// Last samples of closed connections.
    closed: Vec<ConnSample>,
    /// Connections so far.
    numbers: u64,
    /// Whether bytes moved since the last report, and whether that was told.
    moving: bool,
    told: bool,
}

impl Meter {
    pub(super) fn new(slots: u16) -> Self {
        Self {
            whole: vec![[None; UNITS_PER_SLOT]; usize::from(slots)],
            gaps_ms: Vec::new(),
            closed: Vec::new(),
            numbers: 0,
            moving: false,
            told: true,
        }
    }

    /// A flow's bytes flow again.
    pub(super) fn gap(&mut self, gap: Duration) {
        if self.gaps_ms.len() < SAMPLES_MAX {
            self.gaps_ms.push(u32::try_from(gap.as_millis()).unwrap_or(u32::MAX));
        }
    }

    /// A number that no other connection has.
    pub(super) const fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) const fn is_moving(&self) -> bool {
        self.moving || !self.told
    }

    /// Takes the last sample of a connection that is about to be closed.
    pub(super) fn take_last(&mut self, fd: &OwnedFd, traffic: &mut Traffic) {
        if let Some(sample) = traffic.sample(fd, true)
            && self.closed.len() < SAMPLES_MAX
        {
            self.closed.push(sample);
        }
        self.told = false;
    }
}

impl Driver {
    /// Bytes arrived in a flow's newest slot: stamps the units that are whole now.
    pub(super) fn meter_received(&mut self, at: LaneId, slot: Slot, bytes: u32) {
        let LaneId { flow, lane } = at;
        self.meter.moving = true;
        if let Some(first) = self.flows.get_mut(flow).filter(|flow| flow.first_byte_ns == 0) {
            first.first_byte_ns = monotonic_ns();
        }
        let before = self.relay.edge(FlowId(flow), lane);
        let after = before + u64::from(bytes);
        if let Some(flow) = self.flows.get(flow) {
            usdt::received(&flow.digest, before, bytes);
        }
        let unit = u64::from(UNIT_BYTES);
        let size = self.flows.get(flow).and_then(|flow| flow.size);
        let last_is_whole = size == Some(after) && !after.is_multiple_of(unit);
        let until = after / unit + u64::from(last_is_whole);
        for number in before / unit..until {
            let in_slot = number % UNITS_PER_SLOT as u64;
            let in_slot = usize::try_from(in_slot).expect("below UNITS_PER_SLOT");
            self.meter.whole[usize::from(slot.0)][in_slot] = Some(self.now);
        }
    }

    /// Bytes of a body left: notes how long the units that are out now have been here.
    pub(super) fn meter_sent(&mut self, index: u16, bytes: u32) {
        let now = self.now;
        self.meter.moving = true;
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.traffic.body(u64::from(bytes), now);
        let Some((slot, offset, at)) = conn.sending.take() else { return };
        usdt::forwarded(conn.blob, at, bytes);
        if conn.own_slot == Some(slot) || conn.traffic.peer.is_none() {
            return;
        }
        let end = offset + bytes;
        for unit in offset / UNIT_BYTES..end / UNIT_BYTES {
            if let Some(whole) = self.meter.whole[usize::from(slot.0)][unit as usize] {
                push(&mut conn.traffic.residence_us, now - whole);
            }
        }
    }

    /// Takes a downstream connection's last sample.
    pub(super) fn meter_closed_conn(&mut self, index: u16) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        self.meter.take_last(&conn.fd, &mut conn.traffic);
    }

    /// Tells the cold half what moved.
    pub(super) fn report(&mut self) {
        let mut moved = std::mem::take(&mut self.meter.moving);
        moved |= self.conns.iter().any(|(_, conn)| conn.traffic.is_sending(self.now));
        for index in self.flows.indices() {
            self.tell_units(index);
        }
        if !moved && self.meter.told && self.meter.closed.is_empty() {
            return;
        }
        self.meter.told = !moved;
        let mut connections = std::mem::take(&mut self.meter.closed);
        for index in self.conns.indices() {
            let Some(conn) = self.conns.get_mut(index) else { continue };
            if conn.traffic.moved || conn.traffic.is_sending(self.now) {
                connections.extend(conn.traffic.sample(&conn.fd, false));
            }
        }
        for index in self.flows.indices() {
            let Some(flow) = self.flows.get_mut(index) else { continue };
            for uplink in flow.feeds.iter_mut().filter_map(|feed| feed.uplink.as_mut()) {
                if uplink.traffic.moved {
                    connections.extend(uplink.traffic.sample(&uplink.fd, false));
                }
            }
        }
        for idle in &mut self.idle {
            connections.extend(idle.sample_if_moved());
        }
        let report = Report {
            gaps_ms: std::mem::take(&mut self.meter.gaps_ms),
            flows: self.progress(),
            connections,
            downstream: u32::try_from(self.conns.len()).unwrap_or(u32::MAX),
            catching_up: self.relay.readers_behind(),
            slots_used: self.relay.slots_used(),
            detached_total: self.relay.totals().detached,
        };
        self.tell(ToCold::Report(Box::new(report)));
    }

    fn progress(&self) -> Vec<FlowProgress> {
        let open = self.flows.iter().filter(|(_, flow)| flow.has_relay() && !flow.complete);
        open.map(|(index, flow)| FlowProgress {
            digest: flow.digest,
            received_bytes: self.relay.received_bytes(FlowId(index)),
            edges: [0, 1].map(|lane| {
                self.relay.edge(FlowId(index), lane).min(flow.size.unwrap_or(u64::MAX))
            }),
            stored_bytes: self.relay.stored_bytes(FlowId(index)),
            size_bytes: flow.size.unwrap_or(0),
            readers: u32::try_from(self.relay.readers_of(FlowId(index))).unwrap_or(u32::MAX),
            first_byte_ns: flow.first_byte_ns,
            upstream: flow.feed(0).upstream.clone(),
        })
        .collect()
    }
}

impl Traffic {
    /// Whether the kernel may be sending on to a peer.
    fn is_sending(&self, now: Instant) -> bool {
        let recent = |last| now.saturating_duration_since(last) < SENDING_ON;
        !self.receiving && self.peer.is_some() && self.last.is_some_and(recent)
    }

    /// A sample, if something moved since the last.
    pub(super) fn sample_if_moved(&mut self, fd: &OwnedFd) -> Option<ConnSample> {
        if self.moved { self.sample(fd, false) } else { None }
    }
}
