//! The kernel programs: count what each TCP socket of one cgroup sends and receives; they never
//! drop or change a packet.
//!
//! When which program looks:
//!
//! | event                        | program  | takes                                            |
//! |------------------------------|----------|--------------------------------------------------|
//! | handshake done               | sock_ops | makes the entry, asks for the callbacks          |
//! | an ACK gave a round trip     | sock_ops | snapshot                                         |
//! | state change, also closing   | sock_ops | snapshot: the final counts                       |
//! | a packet leaves, every ACK   | egress   | wire count, the end of a FIN, and if bytes moved |
//! |                              |          | a snapshot: the *receiving* end is exact         |
//! | a packet arrives             | ingress  | wire count, the end of a FIN, and the            |
//! |                              |          | acknowledgement: the *sending* end is exact      |
//!
//! All but ingress run under the socket's lock, so a snapshot never overwrites a newer one. Ingress
//! runs before the stack takes the lock; it therefore reads no TCP state, and writes fields of its
//! own. Round-trip samples alone do not keep the sending end exact: now and then the last
//! acknowledgement of a response gives none, and the count stays behind for as long as the
//! connection idles.
//!
//! SYN and FIN take a sequence number each, and the kernel counts them as bytes. Whether a FIN is
//! in the count cannot be told from the TCP state (FIN_WAIT2 goes to CLOSE with and without the
//! peer's FIN), so the programs note the sequence number after each FIN they see;
//! `SocketCounters::payload_acked` and `payload_received` compare.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB,
    BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_TCP_ESTABLISHED, bpf_sock, bpf_tcp_sock,
};
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_tcp_sock as tcp_sock_of};
use aya_ebpf::macros::{btf_map, cgroup_skb, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockOpsContext};
use xylem_ebpf::{FLAG_ACTIVE, FLAG_LATE, SEEN, SOCKETS_MAX, SocketCounters};

#[btf_map]
static SOCKETS: LruHashMap<u64, SocketCounters, { SOCKETS_MAX as usize }> = LruHashMap::new();

/// Verdict of a `cgroup_skb` program: let the packet pass.
const PASS: i32 = 1;
const PROTOCOL_TCP: u32 = 6;
const TCP_FIN: u8 = 0x01;
const TCP_HEADER_MIN: usize = 20;
const TCP_ACK: u8 = 0x10;
const TCP_SEQ: usize = 4;
const TCP_ACK_SEQ: usize = 8;
const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const IPV6_HEADER: usize = 40;
const IPV6_NEXT_HEADER: usize = 6;

#[sock_ops]
fn xylem_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(&ctx, FLAG_ACTIVE),
        // Called just before the state becomes ESTABLISHED; state callbacks are not yet asked for.
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(&ctx, 0),
        BPF_SOCK_OPS_RTT_CB => sampled(&ctx, None),
        BPF_SOCK_OPS_STATE_CB => sampled(&ctx, Some(ctx.arg(1))),
        _ => {}
    }
    1
}

/// Makes the socket's entry and asks for the callbacks of its later life.
#[inline(always)]
fn established(ctx: &SockOpsContext, flags: u32) {
    let wanted = BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = ctx.set_cb_flags((ctx.cb_flags() | wanted) as i32);
    let Some(tcp) = tcp_of_ops(ctx) else { return };
    // SAFETY: the context is the one the kernel called us with; the helper only reads it.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    let counters = first_look(flags, BPF_TCP_ESTABLISHED, tcp);
    let _ = SOCKETS.insert(cookie, counters, 0);
}

/// Takes a snapshot after a round-trip sample, or (`state`) at a change of state.
#[inline(always)]
fn sampled(ctx: &SockOpsContext, state: Option<u32>) {
    // SAFETY: the context is the one the kernel called us with; the helper only reads it.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    let Some(entry) = SOCKETS.get_ptr_mut(cookie) else { return };
    let Some(tcp) = tcp_of_ops(ctx) else { return };
    // SAFETY: the map's value stays valid until the program ends (RCU). Another CPU may run ingress
    // on it; that writes fields which are not touched here.
    let counters = unsafe { &mut *entry };
    match state {
        Some(state) => counters.state = state,
        None => counters.rtt_samples += 1,
    }
    snapshot(counters, tcp);
}

#[cgroup_skb(egress)]
fn xylem_egress(ctx: SkBuffContext) -> i32 {
    let Some((sk, tcp)) = tcp_of_skb(&ctx) else { return PASS };
    // SAFETY: the context is the one the kernel called us with; the helper only reads it.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(entry) = SOCKETS.get_ptr_mut(cookie) else {
        adopt(cookie, sk, tcp, ctx.len());
        return PASS;
    };
    // SAFETY: as in `sampled`; packets of a connection leave under its socket's lock.
    let counters = unsafe { &mut *entry };
    counters.wire_out_bytes += u64::from(ctx.len());
    counters.wire_out_packets += 1;
    if let Some(header) = tcp_header(&ctx)
        && header.flags & TCP_FIN != 0
    {
        counters.fin_out = SEEN | u64::from(header.end);
    }
    // SAFETY: the verifier has seen that the pointer is a TCP socket.
    let (acked, received) = unsafe { ((*tcp).bytes_acked, (*tcp).bytes_received) };
    if acked != counters.bytes_acked || received != counters.bytes_received {
        snapshot(counters, tcp);
    }
    PASS
}

#[cgroup_skb(ingress)]
fn xylem_ingress(ctx: SkBuffContext) -> i32 {
    // Seam for admission: a packet to the data port from an address without a lease would be
    // refused here, by a second map that the daemon fills. Until then everything passes. SAFETY:
    // the context is the one the kernel called us with; the helper only reads it.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(entry) = SOCKETS.get_ptr_mut(cookie) else { return PASS };
    // SAFETY: `entry` is a live map value (RCU) and the two fields are aligned u64; other CPUs add
    // in the same way.
    unsafe {
        add_atomic(&raw mut (*entry).wire_in_bytes, u64::from(ctx.len()));
        add_atomic(&raw mut (*entry).wire_in_packets, 1);
    }
    if let Some(header) = tcp_header(&ctx) {
        // SAFETY: as above; only this program writes the two fields, aligned words.
        unsafe {
            if header.flags & TCP_ACK != 0 {
                (*entry).ack_in = SEEN | u64::from(header.ack);
            }
            if header.flags & TCP_FIN != 0 {
                (*entry).fin_in = SEEN | u64::from(header.end);
            }
        }
    }
    PASS
}

/// Starts counting a connection that is older than the programs, or that the LRU has forgotten.
#[inline(always)]
fn adopt(cookie: u64, sk: *mut bpf_sock, tcp: *mut bpf_tcp_sock, wire_bytes: u32) {
    // SAFETY: the verifier has seen that the pointer is a full socket.
    let state = unsafe { (*sk).state };
    if state != BPF_TCP_ESTABLISHED {
        return;
    }
    let mut counters = first_look(FLAG_LATE, state, tcp);
    counters.wire_out_bytes = u64::from(wire_bytes);
    counters.wire_out_packets = 1;
    let _ = SOCKETS.insert(cookie, counters, 0);
}

/// Counters of a socket that has none yet.
#[inline(always)]
fn first_look(flags: u32, state: u32, tcp: *mut bpf_tcp_sock) -> SocketCounters {
    let mut counters = SocketCounters { flags, state, ..Default::default() };
    snapshot(&mut counters, tcp);
    // SAFETY: the verifier has seen that the pointer is a TCP socket.
    let (snd_una, rcv_nxt) = unsafe { ((*tcp).snd_una, (*tcp).rcv_nxt) };
    counters.snd_base = snd_una.wrapping_sub(counters.bytes_acked as u32);
    counters.rcv_base = rcv_nxt.wrapping_sub(counters.bytes_received as u32);
    counters
}

/// Copies what the socket says now; the caller holds the socket's lock.
#[inline(always)]
fn snapshot(counters: &mut SocketCounters, tcp: *mut bpf_tcp_sock) {
    // SAFETY: the verifier has seen that the pointer is a TCP socket, and checks each field's
    // offset.
    let tcp = unsafe { &*tcp };
    counters.bytes_acked = tcp.bytes_acked;
    counters.bytes_received = tcp.bytes_received;
    // The kernel keeps the smoothed time in eighths of a microsecond.
    counters.srtt_us = tcp.srtt_us >> 3;
    counters.min_rtt_us = tcp.rtt_min;
    counters.cwnd = tcp.snd_cwnd;
    counters.mss_bytes = tcp.mss_cache;
    counters.rate_delivered = tcp.rate_delivered;
    counters.rate_interval_us = tcp.rate_interval_us;
    counters.retransmits = tcp.total_retrans;
    counters.segs_in = tcp.segs_in;
    counters.segs_out = tcp.segs_out;
}

/// The TCP socket that a `sock_ops` callback is about.
#[inline(always)]
fn tcp_of_ops(ctx: &SockOpsContext) -> Option<*mut bpf_tcp_sock> {
    // SAFETY: `sk` is a field of the context; the helper takes a non-null socket, which is checked
    // before.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let tcp = tcp_sock_of(sk);
        (!tcp.is_null()).then_some(tcp)
    }
}

/// The full TCP socket that a packet belongs to; `None` for other protocols, listeners' half-open
/// requests and TIME_WAIT.
#[inline(always)]
fn tcp_of_skb(ctx: &SkBuffContext) -> Option<(*mut bpf_sock, *mut bpf_tcp_sock)> {
    // SAFETY: `sk` is a field of the context; each helper takes a non-null socket, which is checked
    // before.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() || (*sk).protocol != PROTOCOL_TCP {
            return None;
        }
        let tcp = tcp_sock_of(sk);
        (!tcp.is_null()).then_some((sk, tcp))
    }
}

/// What is wanted of a TCP header.
struct TcpHeader {
    flags: u8,
    /// Acknowledgement number; valid with `TCP_ACK`.
    ack: u32,
    /// Sequence number after the packet, its FIN counted; valid with `TCP_FIN`.
    end: u32,
}

/// Reads the header of a TCP packet; `None` when it is not at hand.
#[inline(always)]
fn tcp_header(ctx: &SkBuffContext) -> Option<TcpHeader> {
    // SAFETY: reads of the packet lie between `data` and `data_end`, which the comparisons show to
    // the verifier.
    unsafe {
        let start = (*ctx.skb.skb).data as usize;
        let end = (*ctx.skb.skb).data_end as usize;
        if start + IPV6_HEADER > end {
            return None;
        }
        let first = *(start as *const u8);
        let ip_len = match first >> 4 {
            4 => usize::from(first & 0x0f) * 4,
            6 if *((start + IPV6_NEXT_HEADER) as *const u8) == PROTOCOL_TCP as u8 => IPV6_HEADER,
            _ => return None,
        };
        let tcp = start + ip_len;
        if tcp + TCP_HEADER_MIN > end {
            return None;
        }
        let flags = *((tcp + TCP_FLAGS) as *const u8);
        let ack = u32::from_be(((tcp + TCP_ACK_SEQ) as *const u32).read_unaligned());
        let seq = u32::from_be(((tcp + TCP_SEQ) as *const u32).read_unaligned());
        let tcp_len = usize::from(*((tcp + TCP_DATA_OFFSET) as *const u8) >> 4) * 4;
        let payload = ctx.len().wrapping_sub((ip_len + tcp_len) as u32);
        Some(TcpHeader { flags, ack, end: seq.wrapping_add(payload).wrapping_add(1) })
    }
}

/// Adds to a map's field that other CPUs add to as well. (Core has no atomic addition for this
/// target.)
///
/// # Safety
///
/// `field` is an aligned `u64` inside a live map value.
#[inline(always)]
unsafe fn add_atomic(field: *mut u64, n: u64) {
    // SAFETY: one atomic addition to the field that the caller vouches for; no register is changed.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({0} + 0) += {1}",
            in(reg) field,
            in(reg) n,
            options(nostack),
        );
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel is told; no helper used here asks for a GPL-compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
