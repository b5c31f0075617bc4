//! What is known of each hop: connection samples of the ring thread, merged with the kernel's
//! counters into cumulative figures. Pure: no socket, map or clock; those come in as arguments.
//!
//! ```text
//! ring thread --ConnSample--> record --+
//! probes ------SocketCounters--------> settle --> reports: per peer and direction, since the start
//! ```
//!
//! All byte counts are TCP payload from parent to child, heads and bodies, without SYN and FIN. The
//! relay's and the kernel's are taken by different means and agree once a connection is quiet: the
//! kernel counts at the sending end what was *acknowledged*, which lags by a round trip.

mod report;
mod sample;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hdrhistogram::Histogram;
use xylem_ebpf::SocketCounters;
use xylem_protocol::limits::HOPS_MAX;

pub use report::{HopFigures, Source};
pub use sample::{ConnSample, Direction, TcpInfo};
pub use verdict::Verdict;
use verdict::{ReceivingTimes, SendingTimes};

/// Name of the entry for the peers past [`HOPS_MAX`]: a peer gives its name itself.
pub const OTHERS: &str = "others";

const NS_PER_US: u64 = 1000;

/// How long a closed connection waits for the kernel's last word.
const SETTLE_NS_MAX: u64 = 60_000_000_000;

/// Shortest interval whose rate counts for the peak of a receiving end.
const PEAK_NS_MIN: u64 = 10_000_000;

/// Longest time that a histogram tells apart, microseconds: one minute.
const HISTOGRAM_US_MAX: u64 = 60_000_000;

type HopKey = (Arc<str>, Direction);

/// A connection that is open, or closed and waiting for the kernel's last word.
#[derive(Debug)]
struct Conn {
    hop: HopKey,
    /// The latest sample, its lists emptied.
    sample: ConnSample,
    /// The latest payload by `TCP_INFO` in a state that tells.
    tcp_payload: Option<u64>,
    kernel: Option<SocketCounters>,
    /// What of `sample` is in the hop's times already.
    counted_active_ns: u64,
    counted_bytes: u64,
    counted_withheld_ns: u64,
    counted_held_ns: u64,
}

/// Sums over a hop's connections.
#[derive(Clone, Debug, Default)]
struct Sums {
    relay_bytes: u64,
    kernel_bytes: u64,
    wire_bytes: u64,
    retransmits: u64,
    sending: SendingTimes,
    withheld_ns: u64,
    /// Connections by where their kernel figures came from.
    by_bpf: u64,
    by_tcp_info: u64,
    by_none: u64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.relay_bytes += other.relay_bytes;
        self.kernel_bytes += other.kernel_bytes;
        self.wire_bytes += other.wire_bytes;
        self.retransmits += other.retransmits;
        self.sending.add(&other.sending);
        self.withheld_ns += other.withheld_ns;
        self.by_bpf += other.by_bpf;
        self.by_tcp_info += other.by_tcp_info;
        self.by_none += other.by_none;
    }
}

/// The path's figures of the latest sample that had any.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    at_ns: u64,
    srtt_us: u32,
    cwnd: u32,
    /// Least of all.
    min_rtt_us: u32,
}

#[derive(Debug)]
struct Hop {
    /// Of the connections that are gone.
    gone: Sums,
    path: Path,
    /// Time in which at least one connection was active, as closely as samples tell.
    active_ns: u64,
    /// Payload in that time.
    active_bytes: u64,
    /// When the latest sample was taken, and the one that `held_ns` was worked out with.
    sampled_ns: u64,
    settled_ns: u64,
    /// Sending: time in which bytes waited for the network, at least.
    held_ns: u64,
    /// Until when `active_ns` has been worked out.
    counted_until_ns: u64,
    peak_bytes_s: u64,
    first_byte: Histogram<u32>,
    residence: Histogram<u32>,
}

impl Hop {
    fn new() -> Self {
        let histogram = || {
            // Bounds and precision are constants that the library takes.
            Histogram::new_with_max(HISTOGRAM_US_MAX, 2).expect("valid histogram bounds")
        };
        Self {
            gone: Sums::default(),
            path: Path::default(),
            active_ns: 0,
            active_bytes: 0,
            sampled_ns: 0,
            settled_ns: 0,
            held_ns: 0,
            counted_until_ns: 0,
            peak_bytes_s: 0,
            first_byte: histogram(),
            residence: histogram(),
        }
    }
}

/// What all connections of one hop did since the last round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Sum of the connections' active times.
    sum_ns: u64,
    /// The longest of them.
    longest_ns: u64,
    withheld_ns: u64,
    /// The longest time in which bytes of one connection waited for the network.
    held_ns: u64,
    bytes: u64,
    at_ns: u64,
}

/// All hops of one node.
#[derive(Debug, Default)]
pub struct Hops {
    hops: BTreeMap<HopKey, Hop>,
    conns: HashMap<u64, Conn>,
}

impl Hops {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a sample of one connection.
    pub fn record(&mut self, mut sample: ConnSample) {
        let key = self.key(&sample);
        let hop = self.hops.entry(key.clone()).or_insert_with(Hop::new);
        hop.sampled_ns = hop.sampled_ns.max(sample.at_ns);
        for us in sample.first_byte_us.drain(..) {
            hop.first_byte.saturating_record(u64::from(us));
        }
        for us in sample.residence_us.drain(..) {
            hop.residence.saturating_record(u64::from(us));
        }
        let conn = self.conns.entry(sample.conn).or_insert_with(|| Conn {
            hop: key,
            sample: ConnSample::default(),
            tcp_payload: None,
            kernel: None,
            counted_active_ns: 0,
            counted_bytes: 0,
            counted_withheld_ns: 0,
            counted_held_ns: 0,
        });
        conn.tcp_payload = sample.tcp.payload(sample.direction).or(conn.tcp_payload);
        if sample.tcp.state == 0 {
            // Not asked this time: what was known stays.
            sample.tcp = conn.sample.tcp;
        }
        conn.sample = sample;
    }

    /// The hop that a sample belongs to.
    fn key(&self, sample: &ConnSample) -> HopKey {
        if let Some(conn) = self.conns.get(&sample.conn) {
            return conn.hop.clone();
        }
        let key = (sample.peer.clone(), sample.direction);
        if self.hops.contains_key(&key) || self.hops.len() < HOPS_MAX {
            return key;
        }
        (Arc::from(OTHERS), sample.direction)
    }

    /// Asks `read` for the kernel's counters of every connection, closed ones until they are final,
    /// and brings the sums up to date; once before each report. Returns the cookies that are done
    /// with, so that the map can drop them.
    pub fn settle(
        &mut self,
        now_ns: u64,
        mut read: impl FnMut(u64) -> Option<SocketCounters>,
    ) -> Vec<u64> {
        let mut rounds: BTreeMap<HopKey, Round> = BTreeMap::new();
        for conn in self.conns.values_mut() {
            // What the map has forgotten stays as it was last seen.
            conn.kernel = read(conn.sample.cookie).or(conn.kernel);
            conn.count(rounds.entry(conn.hop.clone()).or_default());
        }
        for (key, round) in rounds {
            if let Some(hop) = self.hops.get_mut(&key) {
                hop.advance(round);
            }
        }
        let mut done = Vec::new();
        self.conns.retain(|_, conn| {
            if let Some(hop) = self.hops.get_mut(&conn.hop) {
                hop.path.update(conn);
                if conn.is_final(now_ns) {
                    hop.gone.add(&conn.sums());
                    done.push(conn.sample.cookie);
                    return false;
                }
            }
            true
        });
        done
    }

    /// The figures of every hop. `node` is this node's name.
    pub fn reports(&self, node: &str) -> Vec<HopFigures> {
        let mut sums: BTreeMap<&HopKey, Sums> = BTreeMap::new();
        for conn in self.conns.values() {
            sums.entry(&conn.hop).or_default().add(&conn.sums());
        }
        let report = |(key, hop): (&HopKey, &Hop)| {
            let mut total = hop.gone.clone();
            if let Some(live) = sums.get(key) {
                total.add(live);
            }
            hop.figures(node, key, &total)
        };
        self.hops.iter().map(report).collect()
    }
}

impl Conn {
    /// Adds what happened since the last round.
    fn count(&mut self, round: &mut Round) {
        let sample = &self.sample;
        let active_ns = sample.active_ns.saturating_sub(self.counted_active_ns);
        round.sum_ns += active_ns;
        round.longest_ns = round.longest_ns.max(active_ns);
        round.withheld_ns += sample.withheld_ns.saturating_sub(self.counted_withheld_ns);
        round.bytes += sample.relay_payload_bytes.saturating_sub(self.counted_bytes);
        round.at_ns = round.at_ns.max(sample.at_ns);
        let held_ns = self.held_ns().saturating_sub(self.counted_held_ns);
        round.held_ns = round.held_ns.max(held_ns);
        self.counted_held_ns += held_ns;
        self.counted_active_ns = sample.active_ns;
        self.counted_withheld_ns = sample.withheld_ns;
        self.counted_bytes = sample.relay_payload_bytes;
    }

    /// Sending: for how long bytes were queued, and the receiver's window was open.
    fn held_ns(&self) -> u64 {
        let tcp = &self.sample.tcp;
        match self.sample.direction {
            Direction::Sending => tcp.busy_time_us.saturating_sub(tcp.rwnd_limited_us) * NS_PER_US,
            Direction::Receiving => 0,
        }
    }

    /// Whether nothing more is to be learned of it.
    fn is_final(&self, now_ns: u64) -> bool {
        let waited = now_ns.saturating_sub(self.sample.at_ns) > SETTLE_NS_MAX;
        self.sample.closed && (waited || self.kernel.is_none_or(|kernel| kernel.is_closed()))
    }

    fn sums(&self) -> Sums {
        let sample = &self.sample;
        let tcp = &sample.tcp;
        let mut sums = Sums {
            relay_bytes: sample.relay_payload_bytes,
            retransmits: u64::from(tcp.total_retrans),
            withheld_ns: sample.withheld_ns,
            ..Sums::default()
        };
        if sample.direction == Direction::Sending {
            sums.sending = SendingTimes {
                active_ns: sample.active_ns,
                starved_ns: sample.starved_ns,
                busy_ns: tcp.busy_time_us * NS_PER_US,
                window_ns: tcp.rwnd_limited_us * NS_PER_US,
                buffer_ns: tcp.sndbuf_limited_us * NS_PER_US,
            };
        }
        match (&self.kernel, self.tcp_payload) {
            (Some(kernel), _) => {
                sums.by_bpf = 1;
                sums.retransmits = u64::from(kernel.retransmits);
                (sums.kernel_bytes, sums.wire_bytes) = match sample.direction {
                    Direction::Sending => (kernel.payload_acked(), kernel.wire_out_bytes),
                    Direction::Receiving => (kernel.payload_received(), kernel.wire_in_bytes),
                };
            }
            (None, Some(payload)) => {
                sums.by_tcp_info = 1;
                sums.kernel_bytes = payload;
            }
            (None, None) => sums.by_none = 1,
        }
        if sample.discarded {
            // What lay unread on a connection that was left has come down the hop all the same.
            sums.relay_bytes = sums.relay_bytes.max(sums.kernel_bytes);
        }
        sums
    }
}

impl Hop {
    /// Adds a round's active time. Connections overlap in ways that samples do not tell: the time
    /// in which at least one was active is at most the sum, and at most the time since the last
    /// round; the smaller is exact for connections one after another and for ones in parallel.
    fn advance(&mut self, round: Round) {
        self.count_held(&round);
        if round.sum_ns == 0 && round.bytes == 0 {
            return;
        }
        let elapsed_ns = match self.counted_until_ns {
            // The first round: nothing tells when it began.
            0 => round.longest_ns,
            until => round.at_ns.saturating_sub(until).max(round.longest_ns),
        };
        let active_ns = round.sum_ns.min(elapsed_ns);
        self.active_ns += active_ns;
        self.active_bytes += round.bytes;
        self.counted_until_ns = round.at_ns;
        let reading_ns = active_ns.saturating_sub(round.withheld_ns);
        if reading_ns >= PEAK_NS_MIN {
            self.peak_bytes_s = self.peak_bytes_s.max(bytes_per_s(round.bytes, reading_ns));
        }
    }

    /// Adds a round's time in which bytes waited. How connections overlap nobody tells: it is at
    /// least the longest of them.
    fn count_held(&mut self, round: &Round) {
        let elapsed_ns = match self.settled_ns {
            0 => round.held_ns,
            until => round.at_ns.saturating_sub(until),
        };
        self.held_ns += round.held_ns.min(elapsed_ns);
        self.settled_ns = self.settled_ns.max(round.at_ns);
    }

    fn figures(&self, node: &str, (peer, direction): &HopKey, total: &Sums) -> HopFigures {
        let from_child = *direction == Direction::Receiving;
        let (parent, child) = if from_child { (&**peer, node) } else { (node, &**peer) };
        let verdict = if from_child {
            let times = ReceivingTimes {
                active_ns: self.active_ns,
                withheld_ns: total.withheld_ns,
                bytes: self.active_bytes,
                peak_bytes_s: self.peak_bytes_s,
            };
            times.verdict()
        } else {
            total.sending.verdict()
        };
        let source = match (total.by_bpf, total.by_tcp_info, total.by_none) {
            (0, 0, _) => Source::None,
            (_, 0, 0) => Source::Bpf,
            _ => Source::TcpInfo,
        };
        HopFigures {
            parent: parent.to_owned(),
            child: child.to_owned(),
            from_child,
            relay_bytes: total.relay_bytes,
            kernel_bytes: total.kernel_bytes,
            wire_bytes: total.wire_bytes,
            bytes_s: bytes_per_s(self.active_bytes, self.active_ns),
            srtt_us: self.path.srtt_us,
            min_rtt_us: self.path.min_rtt_us,
            cwnd: self.path.cwnd,
            retransmits: total.retransmits,
            first_byte_us: self.first_byte.value_at_quantile(0.5),
            first_byte_p99_us: self.first_byte.value_at_quantile(0.99),
            residence_p50_us: self.residence.value_at_quantile(0.5),
            residence_p99_us: self.residence.value_at_quantile(0.99),
            residence_p999_us: self.residence.value_at_quantile(0.999),
            verdict,
            source,
            at_us: self.sampled_ns / NS_PER_US,
            held_us: self.held_ns / NS_PER_US,
        }
    }
}

impl Path {
    fn update(&mut self, conn: &Conn) {
        let tcp = &conn.sample.tcp;
        let (srtt_us, min_rtt_us, cwnd) = match &conn.kernel {
            Some(kernel) => (kernel.srtt_us, kernel.min_rtt_us, kernel.cwnd),
            None => (tcp.srtt_us, tcp.min_rtt_us, tcp.cwnd),
        };
        if srtt_us == 0 {
            return;
        }
        // The kernel says u32::MAX until it has a sample.
        if min_rtt_us != u32::MAX && (self.min_rtt_us == 0 || min_rtt_us < self.min_rtt_us) {
            self.min_rtt_us = min_rtt_us;
        }
        if conn.sample.at_ns >= self.at_ns {
            (self.at_ns, self.srtt_us, self.cwnd) = (conn.sample.at_ns, srtt_us, cwnd);
        }
    }
}

fn bytes_per_s(bytes: u64, ns: u64) -> u64 {
    if ns == 0 {
        return 0;
    }
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(ns);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
