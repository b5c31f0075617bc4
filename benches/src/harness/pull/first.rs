//! When a reader on the node's machine has the first byte of a cold blob, measured from when the
//! node's upstream has sent it; the same for a reader without a node, on the same link.

use crate::bytes::MIB;
use crate::gate::{SenderReady, SinkReport, Stamp};
use crate::harness::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::lab::{Lab, Netns};
use crate::harness::machine::seconds;
use crate::harness::process::Process;
use crate::harness::stats::Spread;
use anyhow::{Context, Result};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

/// Length of the blobs in bytes.
const BLOB_BYTES: u64 = 64 * MIB;
/// The link: fast enough for a machine of today, slow enough that a held-back unit shows.
const RATE: &str = "1gbit";
const PORT: u16 = 5000;

/// Spans in milliseconds, without a node and with one.
#[derive(Debug, Serialize)]
pub struct FirstByte {
    /// From the reader's request until the upstream has read one.
    pub request_ms: [Spread; 2],
    /// From the upstream's first body byte to the reader's.
    pub answer_ms: [Spread; 2],
    /// What the node adds to the latter: from its own first byte to the reader's.
    pub added_ms: f64,
}

struct Spans {
    request_ms: f64,
    answer_ms: f64,
}

fn read(
    bench: &Bench,
    machine: &Netns,
    upstream: &mut Process,
    from: SocketAddr,
    digest: &str,
) -> Result<Spans> {
    let mut command = Command::new(bench.program("bench-sink"));
    command.args(["--connect", &from.to_string(), "--gate", "--copy"]);
    command.args(["--get", &format!("/v2/bench/blobs/{digest}")]);
    let mut sink = Process::start(command, machine)?;
    sink.expect("ready")?;
    sink.go()?;
    let report: SinkReport = serde_json::from_str(&sink.line()?)?;
    sink.finish()?;
    let stamp = last_stamp(upstream, report.start_ns)?;
    let ms = |from: u64, to: u64| seconds(to.saturating_sub(from)) * 1e3;
    Ok(Spans {
        request_ms: ms(report.start_ns, stamp.asked_ns),
        answer_ms: ms(stamp.sent_ns, report.first_byte_ns),
    })
}

/// The upstream's word on the body it has just sent: it may have answered other questions before.
fn last_stamp(upstream: &mut Process, since_ns: u64) -> Result<Stamp> {
    loop {
        let stamp: Stamp = serde_json::from_str(&upstream.line()?)?;
        if stamp.asked_ns >= since_ns && stamp.body_bytes == BLOB_BYTES {
            return Ok(stamp);
        }
    }
}

/// Reads blobs in turn without a node and through one.
///
/// # Errors
/// No privilege, or a program that fails.
pub fn measure(bench: &Bench, rounds: u32) -> Result<FirstByte> {
    let mut lab = Lab::new()?;
    let (there, machine) = (lab.netns("s")?, lab.netns("f")?);
    let (address, _) = lab.link(&there, &machine, Some(RATE))?;
    let mut command = Command::new(bench.program("bench-sender"));
    command.args(["--listen", &format!("0.0.0.0:{PORT}"), "--stamps"]);
    command.args(["--size", &BLOB_BYTES.to_string(), "--blobs", &(rounds + 1).to_string()]);
    let mut upstream = Process::start(command, &there)?;
    let ready: SenderReady = serde_json::from_str(&upstream.line()?)?;
    let server = (address, PORT).into();
    let node = Daemon::start(bench, &machine, "f", server, &[])?;
    let ways = [server, Daemon::at(Ipv4Addr::LOCALHOST)];
    let mut spans = [Vec::new(), Vec::new()];
    for (round, digest) in ready.blobs.iter().enumerate() {
        for turn in 0..ways.len() {
            bench.go_on()?;
            let way = (round + turn) % ways.len();
            spans[way].push(read(bench, &machine, &mut upstream, ways[way], digest)?);
        }
        node.committed(digest)?;
    }
    node.stop()?;
    // In the first round the node has still to find its upstream.
    let spread = |way: usize, pick: fn(&Spans) -> f64| {
        Spread::of(spans[way].iter().skip(1).map(pick)).context("nothing was read")
    };
    let both =
        |pick: fn(&Spans) -> f64| Ok::<_, anyhow::Error>([spread(0, pick)?, spread(1, pick)?]);
    let answer_ms = both(|it| it.answer_ms)?;
    Ok(FirstByte {
        request_ms: both(|it| it.request_ms)?,
        added_ms: answer_ms[1].median - answer_ms[0].median,
        answer_ms,
    })
}
