//! Where the bench's bytes end: takes one body, over HTTP or plain, and says when; it keeps
//! nothing.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;
use xylem_benches::gate::{self, SinkReport};
use xylem_benches::{bytes, http, pattern, sys};
use xylem_protocol::http::HEADER_NODE;

/// Bytes asked of the kernel per receive.
const RECV_BYTES: u64 = 1 << 20;
/// The same when bytes are copied to the process; 512 KiB is what the receive floor is defined
/// with.
const RECV_COPIED_BYTES: u64 = 512 << 10;
/// A connection that is silent for this long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Receive one body and report when it came
#[derive(Debug, Parser)]
struct Args {
    /// Connect to this address
    #[arg(long, required_unless_present = "listen", conflicts_with = "listen")]
    connect: Option<SocketAddr>,
    /// Take one connection on this address
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Ask for this path; without it the connection is the body
    #[arg(long)]
    get: Option<String>,
    /// Ask as the node of this name, which a relay of ours measures as a hop
    #[arg(long, requires = "get")]
    node: Option<String>,
    /// Copy the bytes to the process instead of dropping them in the kernel
    #[arg(long)]
    copy: bool,
    /// Fail unless the body has this digest (sha256:HEX); copies
    #[arg(long)]
    verify: Option<String>,
    /// Fail unless the body has this many bytes
    #[arg(long, value_parser = bytes::parse)]
    expect: Option<u64>,
    /// Wait for a line on stdin before asking; only with --connect
    #[arg(long)]
    gate: bool,
}

struct Body {
    socket: TcpStream,
    buffer: Option<sys::Region>,
    hash: Option<Sha256>,
}

impl Body {
    /// Takes what is there, up to `left` bytes; 0 at the end.
    fn receive(&mut self, left: u64) -> Result<u64> {
        let received = if let Some(buffer) = &mut self.buffer {
            let len = buffer.len().min(bytes::to_usize(left));
            let received = self.socket.read(&mut buffer[..len]).context("cannot receive")?;
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..received]);
            }
            received
        } else {
            let len = bytes::to_usize(left.min(RECV_BYTES));
            sys::recv_discard(self.socket.as_fd(), len).context("cannot receive")?
        };
        Ok(received as u64)
    }
}

/// Asks when there is something to ask for; the body's length, and what came of it with the head.
fn ask(args: &Args, socket: &mut TcpStream) -> Result<(u64, Vec<u8>)> {
    let Some(path) = &args.get else { return Ok((u64::MAX, Vec::new())) };
    let host = socket.peer_addr()?.to_string();
    let name = args.node.as_ref().map(|node| format!("{HEADER_NODE}: {node}\r\n"));
    let what = format!("GET {path}");
    let response = http::ask(socket, &host, &what, "*/*", &name.unwrap_or_default())?;
    ensure!(response.status == 200, "{path}: status {}", response.status);
    Ok((response.length, response.body))
}

fn receive(args: &Args, mut socket: TcpStream) -> Result<SinkReport> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    let copied = args.copy || args.verify.is_some();
    let buffer = match copied {
        true => Some(sys::Region::new(bytes::to_usize(RECV_COPIED_BYTES))?),
        false => None,
    };
    let start_ns = sys::monotonic_ns();
    let (length, early) = ask(args, &mut socket)?;
    let mut first_byte_ns = if early.is_empty() { 0 } else { sys::monotonic_ns() };
    let hash = args.verify.is_some().then(|| Sha256::new().chain_update(&early));
    let mut body = Body { socket, buffer, hash };
    let mut received = early.len() as u64;
    while received < length {
        let more = body.receive(length - received)?;
        if first_byte_ns == 0 {
            first_byte_ns = sys::monotonic_ns();
        }
        if more == 0 {
            break;
        }
        received += more;
    }
    let end_ns = sys::monotonic_ns();
    ensure!(
        args.get.is_none() || received == length,
        "body cut off at {received} of {length} bytes"
    );
    let from_ns = if args.get.is_some() { start_ns } else { first_byte_ns };
    Ok(SinkReport {
        bytes: received,
        seconds: Duration::from_nanos(end_ns - from_ns).as_secs_f64(),
        start_ns,
        first_byte_ns,
        end_ns,
        digest: body.hash.map(pattern::spell),
    })
}

fn open(args: &Args) -> Result<TcpStream> {
    if let Some(to) = args.connect {
        let socket = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        gate::pass(args.gate)?;
        return Ok(socket);
    }
    let listen = args.listen.context("nothing to do: give --connect or --listen")?;
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    gate::say(&format!("ready {}", listener.local_addr()?))?;
    Ok(listener.accept().context("cannot accept")?.0)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let socket = open(&args)?;
    let report = receive(&args, socket)?;
    gate::report(&report)?;
    if let Some(expect) = args.expect {
        ensure!(report.bytes == expect, "received {} bytes, expected {expect}", report.bytes);
    }
    match (&args.verify, &report.digest) {
        (Some(want), Some(got)) if want != got => bail!("received {got}, expected {want}"),
        _ => Ok(()),
    }
}
