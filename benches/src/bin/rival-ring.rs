//! The smallest relay that one can write with io_uring: one buffer that goes round, one receive,
//! one send for each reader, a few writes. It is there to compare ways to send, in one and the same
//! loop; nothing is hashed, and whoever is slow holds up all.

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use std::os::fd::OwnedFd;
use xylem_benches::bytes::to_usize;
use xylem_benches::direct::DirectFile;
use xylem_benches::relay::RelayArgs;
use xylem_benches::sys::Region;
use xylem_benches::sys::ring::{Done, Ring, Sending};

/// Of the buffer.
const BUFFER_BYTES: u64 = 8 << 20;
/// Received at most at once.
const RECEIVE_BYTES_MAX: u64 = 512 << 10;
/// Per write to the file; a divisor of the buffer.
const BLOCK_BYTES: u64 = 1 << 20;
/// What O_DIRECT asks of the length of a write.
const ALIGN_BYTES: u64 = 4096;
/// Names of the operations; a send is `SEND` and the number of its reader.
const RECEIVE: u64 = 0;
const WRITE: u64 = 1;
const SEND: u64 = 2;

/// How bytes go to readers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// SEND
    Send,
    /// SEND_ZC
    ZeroCopy,
    /// WRITE_FIXED to the socket
    WriteFixed,
}

/// Relay one connection to readers and a file with a minimal io_uring
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    relay: RelayArgs,
    /// How to send
    #[arg(long, value_enum, default_value = "send")]
    how: How,
}

/// Where a reader stands.
#[derive(Debug, Default)]
struct Reader {
    /// Offset of the next byte to be sent.
    sent: u64,
    /// A send is on its way.
    busy: bool,
    /// Offsets of the zero-copy sends whose bytes the kernel may still read.
    lent: Vec<u64>,
}

impl Reader {
    /// Offset below which the kernel reads nothing any more.
    fn free(&self) -> u64 {
        self.lent.iter().copied().fold(self.sent, u64::min)
    }
}

/// What has come and gone. Offsets are those of the data; the buffer has each at its remainder.
#[derive(Debug)]
struct Relay {
    received: u64,
    receiving: bool,
    ended: bool,
    readers: Vec<Reader>,
    /// Offset of the next block to be written, and the blocks that are being written.
    next_block: u64,
    writing: Vec<u64>,
}

impl Relay {
    /// Offset below which all bytes have gone where they should.
    fn released(&self) -> u64 {
        let written = self.writing.iter().min().copied().unwrap_or(self.next_block);
        self.readers.iter().map(Reader::free).fold(written, u64::min)
    }

    /// From an offset to `end` or the end of the buffer: where in the buffer, and how many.
    fn part(from: u64, end: u64) -> (u64, u64) {
        let at = from % BUFFER_BYTES;
        (at, (end - from).min(BUFFER_BYTES - at))
    }

    /// Begins all that can begin.
    fn begin(&mut self, ring: &mut Ring, sending: Sending) -> Result<()> {
        let room = BUFFER_BYTES - (self.received - self.released());
        if !self.ended && !self.receiving && room > 0 {
            let (at, bytes) = Self::part(self.received, self.received + room);
            ring.receive(at, bytes.min(RECEIVE_BYTES_MAX), RECEIVE)?;
            self.receiving = true;
        }
        for (reader, number) in self.readers.iter_mut().zip(0..) {
            if !reader.busy && reader.sent < self.received {
                let (at, bytes) = Self::part(reader.sent, self.received);
                let name = SEND + number + (reader.sent << 8);
                ring.send(to_usize(number), sending, at, bytes, name)?;
                reader.busy = true;
            }
        }
        while self.next_block + BLOCK_BYTES <= self.received
            || (self.ended && self.next_block < self.received)
        {
            let (at, bytes) = Self::part(self.next_block, self.received);
            let bytes = bytes.min(BLOCK_BYTES).next_multiple_of(ALIGN_BYTES);
            ring.write(at, bytes, self.next_block, WRITE + (self.next_block << 8))?;
            self.writing.push(self.next_block);
            self.next_block = (self.next_block + BLOCK_BYTES).min(self.received);
        }
        Ok(())
    }

    /// Takes the end of an operation.
    fn end(&mut self, done: Done) -> Result<()> {
        let (operation, from) = (done.name & 0xff, done.name >> 8);
        let bytes = done.outcome.with_context(|| format!("operation {operation}"))?;
        let bytes = u64::from(bytes);
        match operation {
            RECEIVE => {
                self.receiving = false;
                self.ended = bytes == 0;
                self.received += bytes;
            }
            WRITE => {
                let whole = (self.received - from).min(BLOCK_BYTES);
                ensure!(bytes >= whole, "a write was cut short");
                self.writing.retain(|&other| other != from);
            }
            send => {
                let reader = &mut self.readers[to_usize(send - SEND)];
                if done.notified {
                    reader.lent.retain(|&other| other != from);
                    return Ok(());
                }
                reader.sent += bytes;
                reader.busy = false;
                reader.lent.extend(done.more.then_some(from));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.ended && self.released() == self.received && self.next_block == self.received
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let sending = match args.how {
        How::Send => Sending::Plain,
        How::ZeroCopy => Sending::ZeroCopy,
        How::WriteFixed => Sending::WriteFixed,
    };
    let file = DirectFile::create(&args.relay.file, args.relay.size)?;
    let buffer = Region::new(to_usize(BUFFER_BYTES))?;
    let (input, outputs) = args.relay.connect()?;
    let readers = outputs.iter().map(|_| Reader::default()).collect();
    let outputs = outputs.into_iter().map(OwnedFd::from).collect();
    let ring = Ring::new(buffer, input.into(), outputs, file.descriptor()?);
    let mut ring = ring.context("no io_uring")?;
    let mut relay = Relay {
        received: 0,
        receiving: false,
        ended: false,
        readers,
        next_block: 0,
        writing: Vec::new(),
    };
    loop {
        relay.begin(&mut ring, sending)?;
        if relay.is_done() {
            break;
        }
        for done in ring.wait()? {
            relay.end(done)?;
        }
    }
    drop(ring);
    file.finish_at(relay.received)
}
