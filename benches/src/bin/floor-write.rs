//! The write floor: one preallocated file filled with large O_DIRECT writes, and nothing else.

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use xylem_benches::bytes::{self, to_usize};
use xylem_benches::direct::DirectFile;
use xylem_benches::{gate, pattern};

/// Write a file past the page cache
#[derive(Debug, Parser)]
struct Args {
    /// File to write
    #[arg(long)]
    file: PathBuf,
    /// Its length
    #[arg(long, value_parser = bytes::parse, default_value = "1GiB")]
    size: u64,
    /// Bytes per write; a multiple of 4 KiB
    #[arg(long, value_parser = bytes::parse, default_value = "4MiB")]
    block: u64,
    /// Wait for a line on stdin before writing
    #[arg(long)]
    gate: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let block = pattern::pool(args.block)?;
    let mut file = DirectFile::create(&args.file, args.size)?;
    gate::pass(args.gate)?;
    let mut left = args.size;
    while left > 0 {
        let len = left.min(args.block);
        file.write(&block, to_usize(len))?;
        left -= len;
    }
    file.finish()
}
