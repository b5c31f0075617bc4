//! Where the bench's bytes come from: a small registry over generated blobs, or one plain
//! connection for relays that know no HTTP.

use anyhow::{Context, Result};
use clap::Parser;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use xylem_benches::bytes;
use xylem_benches::gate::{self, SenderReady};
use xylem_benches::pattern::{Blob, POOL_BYTES, pool};
use xylem_benches::serve::{Registry, SEND_BYTES};

/// How long a relay may take until it listens.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Serve or send generated data
#[derive(Debug, Parser)]
struct Args {
    /// Serve as a registry on this address (blobs under /v2/bench/)
    #[arg(long, required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Send the first blob to this address as plain bytes
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Length of each blob
    #[arg(long, value_parser = bytes::parse, default_value = "1GiB")]
    size: u64,
    /// Number of blobs
    #[arg(long, default_value_t = 1)]
    blobs: u64,
    /// Length of the pool that blobs repeat; multiples of 4 KiB make swapped blocks look right
    #[arg(long, value_parser = bytes::parse, default_value_t = POOL_BYTES)]
    pool: u64,
    /// Wait for a line on stdin before sending
    #[arg(long)]
    gate: bool,
    /// Say of each answer on stdout when it was asked for and when its body was sent
    #[arg(long)]
    stamps: bool,
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + CONNECT_MAX;
    loop {
        match TcpStream::connect(to) {
            Err(_) if Instant::now() < deadline => thread::sleep(CONNECT_PAUSE),
            done => return done.with_context(|| format!("cannot connect to {to}")),
        }
    }
}

fn send(blob: &Blob, mut socket: TcpStream) -> Result<()> {
    let mut offset = 0;
    while offset < blob.size() {
        let bytes = blob.bytes(offset, SEND_BYTES);
        socket.write_all(bytes).context("cannot send")?;
        offset += bytes.len() as u64;
    }
    socket.shutdown(Shutdown::Write)?;
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let pool = pool(args.pool)?;
    if let Some(to) = args.connect {
        let socket = connect(to)?;
        gate::pass(args.gate)?;
        return send(&Blob::new(&pool, 0, args.size), socket);
    }
    let listen = args.listen.context("nothing to do: give --listen or --connect")?;
    let blobs = (0..args.blobs).map(|index| Blob::new(&pool, index, args.size)).collect();
    let registry = Registry::new(blobs, args.stamps)?;
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    gate::report(&SenderReady {
        listen: listener.local_addr()?.to_string(),
        blobs: registry.blobs(),
        manifest: registry.manifest().to_owned(),
    })?;
    registry.serve(&listener)
}
