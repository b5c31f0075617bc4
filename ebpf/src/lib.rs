//! The types that the kernel programs and user space share, defined once; no logic but reading a
//! flag.
#![no_std]

use core::mem::{offset_of, size_of};

/// Sockets kept at once. The map is an LRU: past this, the ones idle for longest are forgotten.
pub const SOCKETS_MAX: u32 = 8192;

/// Name of the map, and of its pin: socket cookie (`u64`) to [`SocketCounters`].
pub const MAP_SOCKETS: &str = "SOCKETS";

/// Name of the `sock_ops` program.
pub const PROGRAM_SOCK_OPS: &str = "xylem_sockops";
/// Name of the `cgroup_skb` ingress program.
pub const PROGRAM_INGRESS: &str = "xylem_ingress";
/// Name of the `cgroup_skb` egress program.
pub const PROGRAM_EGRESS: &str = "xylem_egress";

/// The connection was opened from here: `bytes_acked` holds one for the SYN.
pub const FLAG_ACTIVE: u32 = 1 << 0;
/// First seen after the handshake: wire counts start late, and an own SYN is not taken out.
pub const FLAG_LATE: u32 = 1 << 1;

/// Set in `fin_in`, `fin_out` and `ack_in` when there was one; the low half is a sequence number.
pub const SEEN: u64 = 1 << 32;

/// What the kernel knows of one TCP socket, as of the last packet that changed anything.
///
/// The programs write it under the socket's lock, except for the four fields of ingress
/// (`wire_in_*`, `fin_in`, `ack_in`), which nothing else writes. A reader may see fields of two
/// adjacent moments; each single field is whole. That is why the payload is worked out from one
/// count and constants of the connection, and not from two counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// The kernel's `bytes_acked`: sent and acknowledged, with SYN and FIN; see
    /// [`Self::payload_acked`].
    pub bytes_acked: u64,
    /// The kernel's `bytes_received`: received in order, with FIN; see [`Self::payload_received`].
    pub bytes_received: u64,
    /// Bytes of all received packets with their IP and TCP headers, duplicates included.
    pub wire_in_bytes: u64,
    /// Received packets as the stack saw them, after merging (GRO).
    pub wire_in_packets: u64,
    /// Bytes of all sent packets with their IP and TCP headers, retransmissions included.
    pub wire_out_bytes: u64,
    /// Sent packets as the stack saw them, before splitting (TSO).
    pub wire_out_packets: u64,
    /// [`SEEN`] and the sequence number after the peer's FIN, or 0.
    pub fin_in: u64,
    /// [`SEEN`] and the sequence number after our FIN, or 0.
    pub fin_out: u64,
    /// [`SEEN`] and the latest acknowledgement number that arrived, or 0.
    pub ack_in: u64,
    /// TCP state, as in `linux/tcp_states.h`.
    pub state: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: u32,
    /// Minimum round-trip time of the kernel's window, microseconds.
    pub min_rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Payload bytes of a segment.
    pub mss_bytes: u32,
    /// Segments delivered in the latest rate sample.
    pub rate_delivered: u32,
    /// Length of the latest rate sample, microseconds.
    pub rate_interval_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Round-trip samples taken.
    pub rtt_samples: u32,
    /// Sequence number at which `bytes_acked` was 0.
    pub snd_base: u32,
    /// Sequence number at which `bytes_received` was 0.
    pub rcv_base: u32,
}

/// `TCP_CLOSE` of the kernel: the counters are final.
pub const STATE_CLOSE: u32 = 7;

const _: () =
    assert!(size_of::<SocketCounters>() == 128, "the programs and the map agree on this size");
/// Largest window that TCP can announce, bytes.
const WINDOW_MAX: u32 = 1 << 30;

#[expect(clippy::cast_possible_truncation, reason = "sequence numbers are the count modulo 2^32")]
const fn low_half(n: u64) -> u32 {
    n as u32
}

const _: () = assert!(size_of::<SocketCounters>().is_multiple_of(8), "no padding at the end");
const _: () = assert!(offset_of!(SocketCounters, state) == 72, "no padding inside");

impl SocketCounters {
    /// Payload sent and acknowledged, bytes; SYN and FIN taken out.
    ///
    /// The latest acknowledgement that arrived counts even when no callback followed it: not every
    /// one gives a round-trip sample, and on an idle connection there is no next packet to make up
    /// for it.
    pub const fn payload_acked(&self) -> u64 {
        let acked = self.acked();
        let end = self.snd_base.wrapping_add(low_half(acked));
        let fin = (self.fin_out == SEEN | end as u64) as u64;
        acked.saturating_sub((self.flags & FLAG_ACTIVE) as u64 + fin)
    }

    /// Payload received in order, bytes; FIN taken out.
    pub const fn payload_received(&self) -> u64 {
        let end = self.rcv_base.wrapping_add(low_half(self.bytes_received));
        let fin = (self.fin_in == SEEN | end as u64) as u64;
        self.bytes_received.saturating_sub(fin)
    }

    /// `bytes_acked`, carried on to the latest acknowledgement that arrived.
    const fn acked(&self) -> u64 {
        if self.ack_in & SEEN == 0 {
            return self.bytes_acked;
        }
        let una = self.snd_base.wrapping_add(low_half(self.bytes_acked));
        let ahead = low_half(self.ack_in).wrapping_sub(una);
        // Older acknowledgements lie in the upper half; nothing real is further ahead than the
        // largest window.
        if ahead <= WINDOW_MAX { self.bytes_acked + ahead as u64 } else { self.bytes_acked }
    }

    /// Whether the socket is closed, so that nothing will change any more.
    pub const fn is_closed(&self) -> bool {
        self.state == STATE_CLOSE
    }

    /// Delivery rate of the latest sample in bytes per second; 0 where there is none.
    pub const fn delivery_rate_bytes_s(&self) -> u64 {
        if self.rate_interval_us == 0 {
            return 0;
        }
        let bytes = self.rate_delivered as u64 * self.mss_bytes as u64;
        bytes.saturating_mul(1_000_000) / self.rate_interval_us as u64
    }
}

#[cfg(feature = "user")]
// SAFETY: aya may build a value from any bytes of the map. `SocketCounters` is `repr(C)`, `Copy`
// and `'static`, consists of integers only, for which every bit pattern is valid, and has no
// padding; the assertions above uphold the latter.
unsafe impl aya::Pod for SocketCounters {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that starts close to the wrap of the sequence numbers.
    fn near_wrap() -> SocketCounters {
        SocketCounters { snd_base: u32::MAX - 9, rcv_base: u32::MAX - 9, ..Default::default() }
    }

    #[test]
    fn an_open_connection_loses_the_syn_only() {
        let mut c = near_wrap();
        (c.bytes_acked, c.bytes_received) = (101, 50);
        assert_eq!((c.payload_acked(), c.payload_received()), (101, 50));
        c.flags = FLAG_ACTIVE | FLAG_LATE;
        assert_eq!((c.payload_acked(), c.payload_received()), (100, 50));
    }

    #[test]
    fn a_fin_is_taken_out_once_it_is_in_the_count() {
        let mut c = near_wrap();
        // Payload of 100 bytes; its FIN ends at base + 101.
        c.fin_out = SEEN | 91;
        c.fin_in = SEEN | 91;
        (c.bytes_acked, c.bytes_received) = (100, 100);
        assert_eq!((c.payload_acked(), c.payload_received()), (100, 100));
        (c.bytes_acked, c.bytes_received) = (101, 101);
        assert_eq!((c.payload_acked(), c.payload_received()), (100, 100));
    }

    #[test]
    fn the_latest_acknowledgement_counts_before_its_callback() {
        let mut c = near_wrap();
        c.bytes_acked = 60;
        c.ack_in = SEEN | 90;
        assert_eq!(c.payload_acked(), 100);
        // Older than the count, and absurdly far ahead: both are passed over.
        c.ack_in = SEEN | 40;
        assert_eq!(c.payload_acked(), 60);
        c.ack_in = SEEN | u64::from(1_u32 << 31);
        assert_eq!(c.payload_acked(), 60);
        // It also may acknowledge the FIN.
        c.ack_in = SEEN | 91;
        c.fin_out = SEEN | 91;
        assert_eq!(c.payload_acked(), 100);
    }

    #[test]
    fn counts_go_on_past_four_gigabytes() {
        let mut c = near_wrap();
        c.bytes_acked = (5 << 32) + 7;
        c.ack_in = SEEN | u64::from(u32::MAX - 9 + 9);
        assert_eq!(c.payload_acked(), (5 << 32) + 9);
    }

    #[test]
    fn delivery_rate_needs_an_interval() {
        let mut c = SocketCounters { rate_delivered: 10, mss_bytes: 1448, ..Default::default() };
        assert_eq!(c.delivery_rate_bytes_s(), 0);
        c.rate_interval_us = 1000;
        assert_eq!(c.delivery_rate_bytes_s(), 14_480_000);
    }
}
