//! The relay that moves references to pages instead of bytes: splice in, tee to one pipe per
//! reader, splice out, all without blocking; a second thread writes the file with O_DIRECT.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use xylem_benches::bytes::{self, to_usize};
use xylem_benches::direct::DirectFile;
use xylem_benches::relay::RelayArgs;
use xylem_benches::sys::{self, Epoll, Pipe, Region};

/// Capacity of the pipe between the sender's socket and the tees, in bytes.
const MAIN_PIPE_BYTES: u32 = 1 << 20;
/// Capacity of a reader's pipe: what an out pipe holds more than the main one is how far readers
/// may drift.
const READER_PIPE_BYTES: u32 = 4 << 20;
/// Bytes per write to the file.
const BLOCK_BYTES: usize = 4 << 20;
/// Blocks that are being filled or written at once.
const BLOCKS_MAX: usize = 3;
/// A relay in which nothing moves for this long has failed, in milliseconds.
const SILENCE_MAX_MS: u16 = 60_000;

/// Relay one connection to readers and a file with splice and tee
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    relay: RelayArgs,
    /// Bytes that must have arrived before the relay wakes up
    #[arg(long, value_parser = bytes::parse, default_value = "1")]
    low_water: u64,
}

/// One reader: its socket, and the chunks that wait for it in its pipe.
struct Reader {
    socket: TcpStream,
    pipe: Pipe,
    chunks: VecDeque<usize>,
}

impl Reader {
    /// Sends what the socket takes; whether anything moved.
    fn drain(&mut self) -> Result<bool> {
        let mut moved = false;
        while let Some(chunk) = self.chunks.front_mut() {
            let waiting: usize = *chunk;
            match sys::splice(self.pipe.read.as_fd(), self.socket.as_fd(), waiting) {
                Ok(sent) => *chunk -= sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot send"),
            }
            moved = true;
            if *chunk == 0 {
                self.chunks.pop_front();
            }
        }
        Ok(moved)
    }
}

/// Blocks on their way between the relay and the thread that writes them.
struct FileEnd {
    block: Region,
    filled: usize,
    full: SyncSender<(Region, usize)>,
    empty: Receiver<Region>,
    writer: JoinHandle<Result<()>>,
}

impl FileEnd {
    fn start(path: &Path, size: u64) -> Result<Self> {
        let mut file = DirectFile::create(path, size)?;
        let (full, blocks) = sync_channel::<(Region, usize)>(BLOCKS_MAX);
        let (give_back, empty) = sync_channel(BLOCKS_MAX);
        for _ in 1..BLOCKS_MAX {
            give_back.send(Region::new(BLOCK_BYTES)?)?;
        }
        let writer = thread::spawn(move || {
            for (block, len) in blocks {
                file.write(&block, len)?;
                // The relay no longer wants blocks back once it has ended.
                drop(give_back.send(block));
            }
            file.finish()
        });
        Ok(Self { block: Region::new(BLOCK_BYTES)?, filled: 0, full, empty, writer })
    }

    /// Takes `len` bytes out of a pipe that holds them.
    fn take(&mut self, pipe: &Pipe, mut len: usize) -> Result<()> {
        while len > 0 {
            let end = (self.filled + len).min(BLOCK_BYTES);
            let read = sys::read(pipe.read.as_fd(), &mut self.block[self.filled..end])?;
            self.filled += read;
            len -= read;
            if self.filled == BLOCK_BYTES {
                let next = self.empty.recv().context("the file's writer has ended")?;
                self.full.send((std::mem::replace(&mut self.block, next), self.filled))?;
                self.filled = 0;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if self.filled > 0 {
            self.full.send((self.block, self.filled))?;
        }
        drop(self.full);
        self.writer.join().expect("the file's writer does not panic")
    }
}

struct Relay {
    input: TcpStream,
    main: Pipe,
    readers: Vec<Reader>,
    file: FileEnd,
    /// Chunks a reader's pipe has slots for, whatever the size of their pieces.
    chunks_max: usize,
    ended: bool,
}

impl Relay {
    /// Takes what has arrived, unless a reader's pipe might not have room for it; whether anything
    /// moved.
    fn fill(&mut self) -> Result<bool> {
        if self.ended || self.readers.iter().any(|r| r.chunks.len() == self.chunks_max) {
            return Ok(false);
        }
        let want = to_usize(self.main.capacity_bytes.into());
        let len = match sys::splice(self.input.as_fd(), self.main.write.as_fd(), want) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot receive"),
        };
        self.ended = len == 0;
        for reader in self.readers.iter_mut().filter(|_| len > 0) {
            // A chunk has at most the main pipe's slots, and `chunks_max` of those fit: tee takes
            // it all.
            let teed = sys::tee(self.main.read.as_fd(), reader.pipe.write.as_fd(), len)?;
            ensure!(teed == len, "tee took {teed} of {len} bytes");
            reader.chunks.push_back(len);
        }
        self.file.take(&self.main, len)?;
        Ok(true)
    }

    fn run(mut self) -> Result<()> {
        let epoll = Epoll::new()?;
        let readers = self.readers.iter().map(|reader| &reader.socket);
        for socket in readers.chain([&self.input]) {
            socket.set_nonblocking(true)?;
            epoll.watch(socket.as_fd())?;
        }
        loop {
            let mut moved = self.fill()?;
            for reader in &mut self.readers {
                moved |= reader.drain()?;
            }
            if self.ended && self.readers.iter().all(|reader| reader.chunks.is_empty()) {
                break;
            }
            if !moved {
                epoll.wait(SILENCE_MAX_MS).context("nothing moved")?;
            }
        }
        drop(self.readers);
        self.file.finish()
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let file = FileEnd::start(&args.relay.file, args.relay.size)?;
    let main = Pipe::new(MAIN_PIPE_BYTES)?;
    let pipes = args.relay.to.iter().map(|_| Pipe::new(READER_PIPE_BYTES));
    let pipes = pipes.collect::<io::Result<Vec<_>>>()?;
    let smallest = pipes.iter().map(|pipe| pipe.capacity_bytes).min().context("no reader")?;
    let chunks_max = usize::try_from(smallest / main.capacity_bytes)?;
    let (input, outputs) = args.relay.connect()?;
    sys::set_receive_low_water(input.as_fd(), u32::try_from(args.low_water)?)?;
    let ends = outputs.into_iter().zip(pipes);
    let readers = ends.map(|(socket, pipe)| Reader { socket, pipe, chunks: VecDeque::new() });
    let readers = readers.collect();
    Relay { input, main, readers, file, chunks_max, ended: false }.run()
}
