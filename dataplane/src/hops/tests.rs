//! Hops of made-up connections: what adds up, what is told apart, and when a connection is done.

use xylem_ebpf::{FLAG_ACTIVE, SEEN, STATE_CLOSE};
use xylem_protocol::pb;

use super::*;

const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

fn sample(conn: u64, peer: &str, direction: Direction) -> ConnSample {
    ConnSample { conn, cookie: 1000 + conn, peer: Arc::from(peer), direction, ..Default::default() }
}

fn no_kernel(_cookie: u64) -> Option<SocketCounters> {
    None
}

fn only(hops: &Hops) -> HopFigures {
    let mut reports = hops.reports("me");
    assert_eq!(reports.len(), 1, "{reports:?}");
    reports.remove(0)
}

#[test]
fn kernel_equals_relay_open_idle_and_closed() {
    let mut hops = Hops::new();
    let mut up = sample(1, "registry", Direction::Receiving);
    up.relay_payload_bytes = 5000;
    hops.record(up.clone());
    let mut kernel = SocketCounters {
        bytes_received: 5000,
        bytes_acked: 101,
        wire_in_bytes: 5400,
        state: u32::from(ESTABLISHED),
        flags: FLAG_ACTIVE,
        ..Default::default()
    };
    assert!(hops.settle(S, |cookie| (cookie == 1001).then_some(kernel)).is_empty());
    let hop = only(&hops);
    assert_eq!((hop.relay_bytes, hop.kernel_bytes, hop.wire_bytes), (5000, 5000, 5400));
    assert_eq!((hop.parent.as_str(), hop.child.as_str()), ("registry", "me"));
    assert!(hop.from_child);
    assert_eq!(hop.source, Source::Bpf);

    up.closed = true;
    hops.record(up);
    kernel.bytes_received = 5001;
    kernel.fin_in = SEEN | 5001;
    assert!(hops.settle(S, |_| Some(kernel)).is_empty(), "the kernel is not done");
    assert_eq!(only(&hops).kernel_bytes, 5000);
    kernel.state = STATE_CLOSE;
    assert_eq!(hops.settle(S, |_| Some(kernel)), [1001]);
    assert_eq!(hops.settle(S, |_| panic!("nothing left to ask for")), Vec::<u64>::new());
    let hop = only(&hops);
    assert_eq!((hop.relay_bytes, hop.kernel_bytes, hop.source), (5000, 5000, Source::Bpf));
}

#[test]
fn the_last_acknowledgement_may_come_after_the_close() {
    let mut hops = Hops::new();
    let mut down = sample(1, "child", Direction::Sending);
    (down.relay_payload_bytes, down.closed) = (3000, true);
    hops.record(down);
    let mut kernel = SocketCounters { bytes_acked: 1000, state: 4, ..Default::default() };
    assert!(hops.settle(0, |_| Some(kernel)).is_empty());
    assert_eq!(only(&hops).kernel_bytes, 1000);
    (kernel.bytes_acked, kernel.fin_out, kernel.state) = (3001, SEEN | 3001, STATE_CLOSE);
    assert_eq!(hops.settle(0, |_| Some(kernel)), [1001]);
    assert_eq!(only(&hops).kernel_bytes, 3000);
}

#[test]
fn a_peer_that_never_answers_is_not_waited_for_for_ever() {
    let mut hops = Hops::new();
    let mut down = sample(1, "child", Direction::Sending);
    (down.closed, down.at_ns) = (true, S);
    hops.record(down);
    let kernel = SocketCounters { state: 4, ..Default::default() };
    assert!(hops.settle(S + SETTLE_NS_MAX, |_| Some(kernel)).is_empty());
    assert_eq!(hops.settle(S + SETTLE_NS_MAX + 1, |_| Some(kernel)), [1001]);
}

#[test]
fn an_entry_that_the_map_forgot_stays_as_last_seen() {
    let mut hops = Hops::new();
    let mut down = sample(1, "child", Direction::Sending);
    down.relay_payload_bytes = 700;
    hops.record(down.clone());
    let kernel = SocketCounters { bytes_acked: 700, state: 1, ..Default::default() };
    hops.settle(0, |_| Some(kernel));
    hops.settle(0, no_kernel);
    assert_eq!((only(&hops).kernel_bytes, only(&hops).source), (700, Source::Bpf));
}

#[test]
fn without_programs_tcp_info_counts() {
    let mut hops = Hops::new();
    let mut up = sample(1, "registry", Direction::Receiving);
    up.relay_payload_bytes = 900;
    up.tcp = TcpInfo { state: ESTABLISHED, bytes_received: 900, ..Default::default() };
    hops.record(up.clone());
    hops.settle(0, no_kernel);
    assert_eq!((only(&hops).kernel_bytes, only(&hops).source), (900, Source::TcpInfo));
    // The parent's FIN has come; then the socket is gone, and what was known stays.
    up.tcp = TcpInfo { state: CLOSE_WAIT, bytes_received: 901, ..Default::default() };
    hops.record(up.clone());
    hops.settle(0, no_kernel);
    assert_eq!(only(&hops).kernel_bytes, 900);
    (up.tcp, up.closed) = (TcpInfo::default(), true);
    hops.record(up);
    assert_eq!(hops.settle(0, no_kernel), [1001]);
    assert_eq!(only(&hops).kernel_bytes, 900);
}

#[test]
fn tcp_info_takes_the_own_fin_out_once_it_is_acknowledged() {
    let info = |state, bytes_acked| TcpInfo { state, bytes_acked, ..Default::default() };
    let sending = Direction::Sending;
    assert_eq!(info(4, 50).payload(sending), Some(50), "FIN_WAIT1");
    assert_eq!(info(5, 51).payload(sending), Some(50), "FIN_WAIT2");
    assert_eq!(info(9, 50).payload(sending), Some(50), "LAST_ACK");
    assert_eq!(info(7, 51).payload(sending), None, "CLOSE");
}

#[test]
fn connections_of_one_hop_add_up_and_hops_stay_apart() {
    let mut hops = Hops::new();
    for (conn, peer, direction, bytes) in [
        (1, "a", Direction::Sending, 10),
        (2, "a", Direction::Sending, 20),
        (3, "b", Direction::Sending, 40),
        (4, "a", Direction::Receiving, 80),
    ] {
        let mut sample = sample(conn, peer, direction);
        (sample.relay_payload_bytes, sample.closed) = (bytes, conn == 1);
        hops.record(sample);
    }
    assert_eq!(hops.settle(0, no_kernel), [1001]);
    let bytes: Vec<_> = hops
        .reports("me")
        .into_iter()
        .map(|hop| (hop.parent, hop.child, hop.relay_bytes, hop.source))
        .collect();
    let row = |parent: &str, child: &str, n| (parent.to_owned(), child.to_owned(), n, Source::None);
    assert_eq!(bytes, [row("me", "a", 30), row("a", "me", 80), row("me", "b", 40)]);
}

#[test]
fn names_that_peers_make_up_are_bounded() {
    let mut hops = Hops::new();
    for conn in 0..HOPS_MAX as u64 + 50 {
        let mut sample = sample(conn, &format!("n{conn}"), Direction::Sending);
        sample.relay_payload_bytes = 1;
        hops.record(sample);
    }
    hops.settle(0, no_kernel);
    let reports = hops.reports("me");
    assert!(reports.len() <= HOPS_MAX + 2);
    let others = reports.iter().find(|hop| hop.child == OTHERS).expect("an entry for the rest");
    assert_eq!(others.relay_bytes, 50);
}

/// Records two connections that were each active for `active_ns` until `at_ns`.
fn two(hops: &mut Hops, at_ns: u64, active_ns: u64, bytes: u64) {
    for conn in [1, 2] {
        let mut sample = sample(conn, "p", Direction::Receiving);
        (sample.at_ns, sample.active_ns, sample.relay_payload_bytes) = (at_ns, active_ns, bytes);
        hops.record(sample);
    }
    hops.settle(at_ns, no_kernel);
}

#[test]
fn the_rate_of_parallel_connections_is_over_the_time_they_share() {
    let mut hops = Hops::new();
    two(&mut hops, 10 * S, S, 50_000_000);
    assert_eq!(only(&hops).bytes_s, 100_000_000);
    two(&mut hops, 11 * S, 2 * S, 100_000_000);
    assert_eq!(only(&hops).bytes_s, 100_000_000);
    // A pause, then half a second each, one after the other.
    two(&mut hops, 20 * S, 5 * S / 2, 150_000_000);
    assert_eq!(only(&hops).bytes_s, 100_000_000);
    assert!((only(&hops).mbit_s() - 800.0).abs() < 1e-9);
}

#[test]
fn a_receiving_hop_judges_by_its_best_interval() {
    let mut hops = Hops::new();
    let mut up = sample(1, "registry", Direction::Receiving);
    for (at, bytes) in [(1, 100_000_000), (2, 105_000_000), (3, 110_000_000), (4, 115_000_000)] {
        (up.at_ns, up.active_ns, up.relay_payload_bytes) = (at * S, at * S, bytes);
        hops.record(up.clone());
        hops.settle(at * S, no_kernel);
    }
    assert_eq!(only(&hops).verdict, Verdict::Sender);
    up.withheld_ns = 3 * S;
    hops.record(up);
    hops.settle(4 * S, no_kernel);
    assert_eq!(only(&hops).verdict, Verdict::Receiver);
}

#[test]
fn a_sending_hop_judges_by_the_kernels_clocks() {
    let mut hops = Hops::new();
    let mut down = sample(1, "c", Direction::Sending);
    down.active_ns = S;
    down.tcp = TcpInfo { state: ESTABLISHED, busy_time_us: 990_000, ..Default::default() };
    hops.record(down.clone());
    hops.settle(S, no_kernel);
    assert_eq!(only(&hops).verdict, Verdict::Network);
    down.tcp.rwnd_limited_us = 700_000;
    hops.record(down.clone());
    assert_eq!(only(&hops).verdict, Verdict::Receiver);
    // A later sample without TCP_INFO leaves the clocks as they were.
    down.tcp = TcpInfo::default();
    hops.record(down);
    assert_eq!(only(&hops).verdict, Verdict::Receiver);
}

#[test]
fn path_figures_come_from_the_latest_and_the_least() {
    let mut hops = Hops::new();
    for (conn, at_ns, srtt_us, min_rtt_us) in [(1, 5, 300, 90), (2, 9, 200, 120), (3, 2, 900, 0)] {
        let mut down = sample(conn, "c", Direction::Sending);
        down.at_ns = at_ns;
        down.tcp = TcpInfo { state: 1, srtt_us, min_rtt_us, cwnd: 10, ..Default::default() };
        down.tcp.total_retrans = 2;
        if conn == 3 {
            down.tcp.min_rtt_us = u32::MAX;
        }
        hops.record(down);
    }
    hops.settle(10, no_kernel);
    let hop = only(&hops);
    assert_eq!((hop.srtt_us, hop.min_rtt_us, hop.cwnd, hop.retransmits), (200, 90, 10, 6));
}

#[test]
fn times_go_into_histograms_and_out_as_json_and_message() {
    let mut hops = Hops::new();
    let mut up = sample(1, "registry", Direction::Receiving);
    up.first_byte_us = vec![1000; 99];
    up.first_byte_us.push(u32::MAX);
    up.residence_us = vec![250];
    hops.record(up);
    let hop = only(&hops);
    let json = hop.to_json();
    let close = |name: &str, ms: f64| {
        let value = json[name].as_f64().expect("a number");
        assert!((value - ms).abs() <= ms / 100.0, "{name} {value}");
    };
    close("first_byte_ms", 1.0);
    for quantile in ["unit_p50_ms", "unit_p99_ms", "unit_p999_ms"] {
        close(quantile, 0.25);
    }
    assert_eq!(json["verdict"], "unknown");
    assert_eq!(json["source"], "none");
    let message = pb::HopReport::from(hop.clone());
    assert_eq!(message.first_byte_us, hop.first_byte_us);
    assert_eq!(message.verdict(), pb::Verdict::Unknown);
    assert_eq!(message.parent, "registry");
}

#[test]
fn how_long_bytes_waited_is_counted_on() {
    let mut hops = Hops::new();
    let down = |conn, at_ns, busy_time_us| {
        let mut down = sample(conn, "child", Direction::Sending);
        (down.at_ns, down.active_ns) = (at_ns, at_ns);
        let tcp = TcpInfo { state: ESTABLISHED, busy_time_us, ..TcpInfo::default() };
        down.tcp = TcpInfo { rwnd_limited_us: busy_time_us / 5, ..tcp };
        down
    };
    hops.record(down(1, S, 500_000));
    hops.settle(S, no_kernel);
    let first = only(&hops);
    assert_eq!((first.at_us, first.held_us), (1_000_000, 400_000));
    // Of two at a time, at least as long as the longer one.
    hops.record(down(1, 2 * S, 1_250_000));
    hops.record(down(2, 2 * S, 1_000_000));
    hops.settle(2 * S, no_kernel);
    let second = only(&hops);
    assert_eq!(second.held_us, 1_200_000);
    let report: pb::HopReport = second.into();
    assert_eq!((report.at_us, report.held_us), (2_000_000, 1_200_000));
}
