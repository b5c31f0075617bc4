//! Ten thousand clients that only stay, and more than a node takes: memory grows by a bounded
//! amount each, whoever really asks is served, and nothing is kept when they have gone.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::badinput::xylemd;
use super::{STATE, with_hosts};
use crate::build::Binaries;
use crate::cluster::image::hex;
use crate::cluster::{CONTROL, Cluster, NODE_PORT, REGISTRY};
use crate::{http, run, sys};

/// Connections that stay.
const CROWD: usize = 10_000;
/// Connections that a node takes: the next one is closed at once.
const CONNECTIONS_MAX: usize = 12_000;
/// Beyond that.
const SURPLUS: usize = 100;
/// Descriptors that this process and the node need.
const DESCRIPTORS: usize = CONNECTIONS_MAX + 4 * SURPLUS;
/// What one connection that stays may cost a node, in memory of its own.
const BYTES_EACH_MAX: u64 = 2048;
/// What an allocator may keep of a round that is over.
const KEPT_BYTES_MAX: u64 = 4 << 20;
/// What each client that does not finish its head has sent: below the bound of one.
const HEAD_BYTES: usize = 15 << 10;
/// What all of them may make a node hold: 64 MiB that it counts, what each may have uncounted, and
/// what buffers are larger than their contents.
const HEADS_BYTES_MAX: u64 = 144 << 20;
/// Descriptors of a node that has few: some are its own.
const FEW: usize = 128;
/// Clients of that node.
const MORE: usize = 2 * FEW;
/// A processor's share that a node which cannot accept may take.
const BUSY_MAX: f64 = 0.2;
const WINDOW: Duration = Duration::from_secs(1);

/// A crowd that stays, twice, and a pull meanwhile.
pub(super) fn ten_thousand_idle_connections(programs: &Binaries) -> Result<()> {
    raise_own_limit()?;
    with_hosts(programs, 1, "1gbit", |cluster| {
        cluster.start_registry()?;
        cluster.push()?;
        // The limit that a shell gives: the node raises it to the hard one by itself.
        let to = start(cluster, "--nofile=1024:")?;
        let image = cluster.image()?;
        let pid = cluster.lab.process(&cluster.nodes()[0].clone())?.pid();
        pull(cluster, to, image.blobs().next().context("an image without blobs")?.0)?;
        let before = resident_bytes(pid)?;
        let mut crowd = join(cluster, CONTROL, to, CROWD)?;
        wait_for_connections(cluster, |count| count >= CROWD)?;
        let first = resident_bytes(pid)?;
        let each = first.saturating_sub(before) / CROWD as u64;
        println!("    {CROWD} connections that stay: {each} bytes of the node's memory each");
        ensure!(each <= BYTES_EACH_MAX, "a connection costs {each} bytes");
        pull(cluster, to, image.largest().0)?;
        beyond(cluster, to, &mut crowd)?;
        drop(crowd);
        wait_for_connections(cluster, |count| count <= 1)?;
        let crowded = resident_bytes(pid)?;
        let crowd = join(cluster, REGISTRY, to, CROWD)?;
        wait_for_connections(cluster, |count| count >= CROWD)?;
        let second = resident_bytes(pid)?;
        let growth = second.saturating_sub(crowded.max(first));
        println!("    the second round costs {growth} bytes more than the first");
        ensure!(growth <= KEPT_BYTES_MAX, "a second round costs {growth} bytes more");
        drop(crowd);
        cluster.all_alive()
    })
}

/// Takes all the places there are: whoever comes then is closed, until somebody leaves.
fn beyond(cluster: &Cluster, to: SocketAddr, crowd: &mut Vec<TcpStream>) -> Result<()> {
    // The node itself may still hold the connections of the last question.
    crowd.extend(join(cluster, CONTROL, to, CONNECTIONS_MAX + SURPLUS - crowd.len())?);
    let mut turned_away = 0;
    for stream in crowd.iter_mut().rev().take(SURPLUS) {
        stream.set_read_timeout(Some(STATE))?;
        match stream.read(&mut [0]) {
            Ok(0) => turned_away += 1,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => turned_away += 1,
            other => ensure!(false, "one too many is answered with {other:?}"),
        }
    }
    ensure!(turned_away == SURPLUS, "{turned_away} of {SURPLUS} too many were turned away");
    crowd[0].set_nonblocking(true)?;
    let first = crowd[0].read(&mut [0]);
    let stays = first.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    ensure!(stays, "the first of the crowd was sent away too: {first:?}");
    crowd.truncate(CONNECTIONS_MAX - SURPLUS);
    wait_for_connections(cluster, |count| count <= CONNECTIONS_MAX - SURPLUS + 1).map(drop)
}

/// Heads that are begun and never ended: all together hold a bounded amount, and end.
pub(super) fn unfinished_heads(programs: &Binaries) -> Result<()> {
    raise_own_limit()?;
    with_hosts(programs, 1, "1gbit", |cluster| {
        let to = start(cluster, "--nofile=1024:")?;
        let pid = cluster.lab.process(&cluster.nodes()[0].clone())?.pid();
        wait_for_connections(cluster, |count| count <= 1)?;
        let before = resident_bytes(pid)?;
        let mut crowd = join(cluster, CONTROL, to, CROWD)?;
        let begun = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES));
        let mut most = 0;
        for (number, stream) in crowd.iter_mut().enumerate() {
            // One that was refused may be closed already.
            let _ = stream.write_all(begun.as_bytes());
            if number % SURPLUS == 0 {
                most = most.max(resident_bytes(pid)?);
            }
        }
        // Whatever a node waits for, it still answers others.
        wait_for_connections(cluster, |count| count > 0)?;
        let growth = most.max(resident_bytes(pid)?).saturating_sub(before);
        println!("    {CROWD} heads of {HEAD_BYTES} bytes and no end: {growth} bytes at most");
        ensure!(growth <= HEADS_BYTES_MAX, "unfinished heads hold {growth} bytes");
        for stream in &mut crowd {
            stream.set_read_timeout(Some(2 * STATE))?;
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest);
            let reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
            ensure!(ended.as_ref().err().is_none_or(reset), "a head has no end: {ended:?}");
            let refused = rest.is_empty() || rest.starts_with(b"HTTP/1.1 503 ");
            ensure!(refused, "half a head gets {}", String::from_utf8_lossy(&rest));
        }
        cluster.all_alive()
    })
}

/// A node that has too few descriptors waits for one, and does nothing else meanwhile.
pub(super) fn without_descriptors(programs: &Binaries) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        let to = start(cluster, &format!("--nofile={FEW}:{FEW}"))?;
        let pid = cluster.lab.process(&cluster.nodes()[0].clone())?.pid();
        let crowd = join(cluster, CONTROL, to, MORE)?;
        let path = format!("/proc/{pid}/fd");
        run::wait_for("the last descriptor", STATE, || {
            Ok((fs::read_dir(&path)?.count() >= FEW).then_some(()))
        })?;
        let before = cpu_ticks(pid)?;
        run::pace(WINDOW)?;
        let ticks = cpu_ticks(pid)? - before;
        let share = ticks as f64 / sys::ticks_per_second() as f64 / WINDOW.as_secs_f64();
        ensure!(share <= BUSY_MAX, "without descriptors the node takes {share:.2} of a processor");
        drop(crowd);
        wait_for_connections(cluster, |count| count <= 1)?;
        cluster.all_alive()
    })
}

/// Starts the node with a limit of open files.
fn start(cluster: &mut Cluster, limit: &str) -> Result<SocketAddr> {
    let node = cluster.nodes()[0].clone();
    let daemon = xylemd(cluster, &cluster.store(&node))?;
    let mut limited = Command::new("prlimit");
    limited.arg(limit).arg(daemon.get_program()).args(daemon.get_args());
    cluster.lab.start(&node, &node, limited)?;
    cluster.lab.process(&node)?.wait_for_words(" listening on ")?;
    Ok(cluster.lab.host(&node)?.at(NODE_PORT))
}

/// Connections from another host, which say nothing. A host whose ports are spent is slow to find
/// more: another round wants another host.
fn join(cluster: &Cluster, from: &str, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    cluster.lab.within(from, || {
        let connect = |_| {
            run::go_on()?;
            TcpStream::connect_timeout(&to, STATE).context("cannot connect")
        };
        (0..count).map(connect).collect()
    })
}

fn pull(cluster: &Cluster, to: SocketAddr, digest: &str) -> Result<()> {
    let path = format!("/v2/demo/blobs/{digest}");
    let answer = cluster.lab.within(CONTROL, || http::get(to, &path, &[]))?;
    ensure!(answer.status == 200, "{path} gets {}", answer.status);
    let found = format!("sha256:{}", hex(&Sha256::digest(&answer.body)));
    ensure!(found == digest, "{path} gets the bytes of {found}");
    Ok(())
}

/// Waits until the node has that many connections, by its own count. The one that asks is among
/// them, and while there is no place the node cannot be asked.
fn wait_for_connections(cluster: &Cluster, is_so: impl Fn(usize) -> bool) -> Result<()> {
    let node = &cluster.nodes()[0];
    run::wait_for("another number of connections", STATE, || {
        let Ok(status) = cluster.get(node, "/xylem/v1/status") else { return Ok(None) };
        let count = status["connections"]["downstream"].as_u64().context("no connections")?;
        Ok(is_so(usize::try_from(count)?).then_some(()))
    })
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Time on processors, of user and system.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, which may have blanks, ends with the last parenthesis; then the state is third.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || times.next().context("no times")?.parse::<u64>().context("no number");
    Ok(next()? + next()?)
}

/// This process holds the other ends.
fn raise_own_limit() -> Result<()> {
    let mut prlimit = run::command("prlimit");
    prlimit.args(["--nofile", "--noheadings", "--raw", "--output=HARD"]);
    let hard: usize = run::output(&mut prlimit)?.trim().parse().unwrap_or(usize::MAX);
    ensure!(hard >= DESCRIPTORS, "open files are limited to {hard}: {DESCRIPTORS} are needed");
    let mut raise = run::command("prlimit");
    raise.arg(format!("--nofile={hard}:")).args(["--pid", &std::process::id().to_string()]);
    run::output(&mut raise).map(drop)
}
