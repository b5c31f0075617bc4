//! The plain relay: one thread, one buffer, read and then write to everybody.

use anyhow::{Context, Result};
use clap::Parser;
use std::io::{Read, Write};
use xylem_benches::bytes::{self, to_usize};
use xylem_benches::direct::create_buffered;
use xylem_benches::relay::RelayArgs;

/// Relay one connection to readers and a file with blocking calls
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    relay: RelayArgs,
    /// Bytes read at a time
    #[arg(long, value_parser = bytes::parse, default_value = "64k")]
    buffer: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut file = create_buffered(&args.relay.file, args.relay.size)?;
    let mut buffer = vec![0; to_usize(args.buffer)];
    let (mut input, mut outputs) = args.relay.connect()?;
    loop {
        let read = input.read(&mut buffer).context("cannot receive")?;
        if read == 0 {
            return Ok(());
        }
        for output in &mut outputs {
            output.write_all(&buffer[..read]).context("cannot send")?;
        }
        file.write_all(&buffer[..read]).context("cannot write the file")?;
    }
}
