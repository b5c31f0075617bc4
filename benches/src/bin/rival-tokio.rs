//! The relay one would write with tokio: one task, one buffer, both sockets and the file joined.

use anyhow::{Context, Result};
use clap::Parser;
use std::net::TcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xylem_benches::bytes::{self, to_usize};
use xylem_benches::direct::create_buffered;
use xylem_benches::relay::RelayArgs;

/// Relay one connection to two readers and a file with tokio
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    relay: RelayArgs,
    /// Bytes read at a time
    #[arg(long, value_parser = bytes::parse, default_value = "64k")]
    buffer: u64,
    /// Use the runtime with one thread instead of the one with a worker per CPU
    #[arg(long)]
    current_thread: bool,
}

fn adopt(socket: TcpStream) -> Result<tokio::net::TcpStream> {
    socket.set_nonblocking(true)?;
    Ok(tokio::net::TcpStream::from_std(socket)?)
}

async fn relay(
    input: TcpStream,
    outputs: [TcpStream; 2],
    file: std::fs::File,
    buffer_bytes: u64,
) -> Result<()> {
    let mut input = adopt(input)?;
    let [left, right] = outputs;
    let (mut left, mut right) = (adopt(left)?, adopt(right)?);
    let mut file = tokio::fs::File::from_std(file);
    let mut buffer = vec![0; to_usize(buffer_bytes)];
    loop {
        let read = input.read(&mut buffer).await.context("cannot receive")?;
        if read == 0 {
            break;
        }
        let bytes = &buffer[..read];
        tokio::try_join!(left.write_all(bytes), right.write_all(bytes), file.write_all(bytes))?;
    }
    file.flush().await.context("cannot write the file")
}

fn main() -> Result<()> {
    let args = Args::parse();
    let file = create_buffered(&args.relay.file, args.relay.size)?;
    let mut runtime = match args.current_thread {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let (input, outputs) = args.relay.connect()?;
    let outputs = <[TcpStream; 2]>::try_from(outputs);
    let outputs = outputs.ok().context("this relay has two readers: give --to twice")?;
    runtime.block_on(relay(input, outputs, file, args.buffer))
}
