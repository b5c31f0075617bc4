//! A model, not a product: a node that passes a blob on by whole units only, each once all of it
//! is here, where ours passes on bytes as they come; it verifies nothing and repairs nothing.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use xylem_benches::bytes::{self, to_usize};
use xylem_benches::http::{read_request, resolve_range};

/// Bytes that are read, written or sent at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Units that are asked for ahead of the one that comes: the parent's pause is hidden.
const AHEAD: u64 = 2;
/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Receive a blob from parents, each of which gives every other unit, and give whole units to
/// whoever asks; says `ready`, begins at the end of stdin, says `done`, and serves until killed
#[derive(Debug, Parser)]
struct Args {
    /// Where to serve
    #[arg(long)]
    listen: SocketAddr,
    /// Where the blob goes
    #[arg(long)]
    file: PathBuf,
    /// Its size
    #[arg(long, value_parser = bytes::parse)]
    size: u64,
    /// Bytes that are passed on only together
    #[arg(long, value_parser = bytes::parse)]
    unit: u64,
    /// The path of the blob at all parents
    #[arg(long)]
    path: String,
    /// Whom to read from; the first gives the first unit
    #[arg(long = "parent", required = true)]
    parents: Vec<SocketAddr>,
}

/// The blob as far as it is here.
#[derive(Debug)]
struct Blob {
    file: File,
    size: u64,
    unit: u64,
    present: Mutex<Vec<bool>>,
    changed: Condvar,
}

impl Blob {
    fn units(&self) -> u64 {
        self.size.div_ceil(self.unit)
    }

    /// The bytes of a unit: the first, and one past the last.
    fn span(&self, unit: u64) -> (u64, u64) {
        let start = unit * self.unit;
        (start, (start + self.unit).min(self.size))
    }

    fn arrived(&self, unit: u64) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present[to_usize(unit)] = true;
        self.changed.notify_all();
    }

    /// Waits until all units that a range touches are here.
    fn wait_for(&self, start: u64, end: u64) {
        let units = to_usize(start / self.unit)..to_usize(end.div_ceil(self.unit));
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |present: &mut Vec<bool>| !present[units.clone()].iter().all(|it| *it);
        drop(self.changed.wait_while(present, missing));
    }
}

fn serve(blob: &Blob, mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut requests = BufReader::new(socket.try_clone()?);
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Some(request) = read_request(&mut requests)? {
        let range = request.range.context("only units are served, by their ranges")?;
        let (start, end) = resolve_range(&range, blob.size).context("a range outside")?;
        blob.wait_for(start, end);
        let length = end - start;
        let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all(head.as_bytes())?;
        let mut at = start;
        while at < end {
            let length = to_usize(end - at).min(CHUNK_BYTES);
            blob.file.read_exact_at(&mut chunk[..length], at)?;
            socket.write_all(&chunk[..length])?;
            at += length as u64;
        }
    }
    Ok(())
}

/// Fetches every so-manieth unit.
fn fetch(blob: &Blob, from: SocketAddr, path: &str, first: u64, step: u64) -> Result<()> {
    let mut socket = TcpStream::connect(from)?;
    socket.set_nodelay(true)?;
    let ask = |socket: &mut TcpStream, unit: u64| -> Result<()> {
        if unit < blob.units() {
            let (start, end) = blob.span(unit);
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: {from}\r\nRange: bytes={start}-{}\r\n\r\n",
                end - 1
            );
            socket.write_all(head.as_bytes())?;
        }
        Ok(())
    };
    for ahead in 0..AHEAD {
        ask(&mut socket, first + ahead * step)?;
    }
    let mut answers = BufReader::with_capacity(CHUNK_BYTES, socket.try_clone()?);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut unit = first;
    while unit < blob.units() {
        let (start, end) = blob.span(unit);
        ensure!(read_head(&mut answers)? == end - start, "not the unit that was asked for");
        let mut at = start;
        while at < end {
            let length = to_usize(end - at).min(CHUNK_BYTES);
            let read = answers.read(&mut chunk[..length])?;
            ensure!(read > 0, "{from} closed in the middle of a unit");
            blob.file.write_all_at(&chunk[..read], at)?;
            at += read as u64;
        }
        blob.arrived(unit);
        ask(&mut socket, unit + AHEAD * step)?;
        unit += step;
    }
    Ok(())
}

/// Reads the head of an answer with a part of a blob; the length of the part.
fn read_head(answers: &mut impl BufRead) -> Result<u64> {
    let mut head = answers.take(HEAD_BYTES_MAX as u64);
    let mut line = String::new();
    let mut length = None;
    loop {
        line.clear();
        ensure!(head.read_line(&mut line)? > 0, "an answer's head is cut off or too long");
        let line = line.trim_end();
        if line.is_empty() {
            return length.context("an answer without a length");
        }
        if line.starts_with("HTTP/") {
            ensure!(line.split(' ').nth(1) == Some("206"), "the answer is `{line}`");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse().context("a length that is no number")?);
        }
    }
}

fn run(args: Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen).context("cannot listen")?;
    let file = File::options().read(true).write(true).create_new(true).open(&args.file);
    let file = file.context("cannot create the file")?;
    let units = to_usize(args.size.div_ceil(args.unit));
    let blob = Arc::new(Blob {
        file,
        size: args.size,
        unit: args.unit,
        present: Mutex::new(vec![false; units]),
        changed: Condvar::new(),
    });
    let served = Arc::clone(&blob);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let blob = Arc::clone(&served);
            thread::spawn(move || {
                // A child that has all it wants closes: that is no news.
                let _ = serve(&blob, socket);
            });
        }
    });
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).context("no gate on stdin")?;
    let step = args.parents.len() as u64;
    thread::scope(|scope| {
        let fetches: Vec<_> = (0..step)
            .zip(&args.parents)
            .map(|(first, &from)| {
                let (blob, path) = (&blob, &args.path);
                scope.spawn(move || fetch(blob, from, path, first, step))
            })
            .collect();
        fetches.into_iter().try_for_each(|it| it.join().expect("fetching does not panic"))
    })?;
    println!("done");
    loop {
        thread::park();
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
