//! The control process: arranges nodes into trees. See `xylem_control::server`.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use xylem_control::limits::{HEARTBEAT_MAX_MS, HEARTBEAT_MIN_MS, HEARTBEAT_MS, SETTLE_MS};
use xylem_control::server::{Options, Server};
use xylem_control::tree::ShapeKind;

/// Arranges nodes into trees for each image and tells each node whom to read from; carries no image
/// data itself.
///
/// Nodes (xylemd --control) and the command line (xylem) use the same port. State is kept in memory
/// and rebuilt from the nodes' reports after a restart.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to serve nodes (gRPC) and xylem (HTTP)
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4440")]
    listen: SocketAddr,
    /// Shape of the trees
    #[arg(long, value_enum, default_value = "twin")]
    shape: Shape,
    /// Period of the nodes' heartbeats; a node that misses 3 leaves its trees
    #[arg(long, value_name = "MS", default_value_t = HEARTBEAT_MS)]
    #[arg(value_parser = clap::value_parser!(u32).range(HEARTBEAT_RANGE))]
    heartbeat: u32,
    /// What to log on stderr: error, warn, info, debug, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: EnvFilter,
}

const HEARTBEAT_RANGE: RangeInclusive<i64> = HEARTBEAT_MIN_MS as i64..=HEARTBEAT_MAX_MS as i64;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// One balanced binary tree per image, the function tree
    Ft,
    /// Two trees per image, each for half of the data; no node has children in both
    Twin,
}

impl From<Shape> for ShapeKind {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Ft => Self::Ft,
            Shape::Twin => Self::Twin,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xylem-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { listen, shape, heartbeat, log } = arguments;
    tracing_subscriber::fmt()
        .with_env_filter(log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // One core suffices for all that control does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let (shape, heartbeat_ms) = (shape.into(), heartbeat);
        let server =
            Server::bind(Options { listen, shape, heartbeat_ms, settle_ms: SETTLE_MS }).await?;
        println!("xylem-control listening on {}", server.address());
        std::io::stdout().flush().context("cannot write to stdout")?;
        server
            .run(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            })
            .await?;
        Ok(())
    })
}
