//! What the tests of the ring share: a registry of one blob that can misbehave, a node without its
//! cold half.

#![expect(dead_code, reason = "each test binary uses a part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use xylem_dataplane::driver::{self, Settings};
use xylem_dataplane::link::{self, Attempt, ColdEnd, FillFile, Source, ToCold, ToHot};
use xylem_protocol::Digest;

pub(crate) const MIB: usize = 1 << 20;

/// Longest wait for anything: a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that do not repeat.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    data.truncate(bytes);
    data
}

/// SHA-256 as a digest.
pub(crate) fn digest_of(data: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(data).into())
}

/// A registry that serves one blob at any path, with `Range`.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicU32>,
    pub(crate) body_bytes: Arc<AtomicU64>,
}

/// How an origin misbehaves: the n-th request's body is cut after so many bytes.
pub(crate) type Cuts = Vec<usize>;

impl Origin {
    pub(crate) fn start(data: Arc<Vec<u8>>, cuts: Cuts) -> Self {
        Self::begin(data, cuts, true)
    }

    /// The same, which answers everything by all of the blob.
    pub(crate) fn without_ranges(data: Arc<Vec<u8>>, cuts: Cuts) -> Self {
        Self::begin(data, cuts, false)
    }

    fn begin(data: Arc<Vec<u8>>, cuts: Cuts, ranges: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU32::new(0));
        let body_bytes = Arc::new(AtomicU64::new(0));
        let counters = (requests.clone(), body_bytes.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (data, cuts, counters) = (data.clone(), cuts.clone(), counters.clone());
                std::thread::spawn(move || serve(stream, &data, (&cuts, ranges), &counters));
            }
        });
        Self { address, requests, body_bytes }
    }

    pub(crate) fn source(&self, upstream: &str) -> Source {
        Source::Http {
            upstream: upstream.into(),
            address: self.address,
            head: b"GET /blob HTTP/1.1\r\nHost: origin\r\n".to_vec(),
            registry: true,
            answer_ms: 15_000,
        }
    }
}

fn serve(
    mut stream: TcpStream,
    data: &[u8],
    (cuts, ranges): (&[usize], bool),
    (requests, body_bytes): &(Arc<AtomicU32>, Arc<AtomicU64>),
) {
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let number = requests.fetch_add(1, Ordering::SeqCst) as usize;
        let text = String::from_utf8_lossy(&head);
        let range = text.lines().find_map(|line| line.strip_prefix("Range: bytes="));
        let range = range.filter(|_| ranges);
        let (start, last) = range.map_or(("0", ""), |range| range.split_once('-').unwrap());
        let start: usize = start.parse().unwrap();
        let end = last.parse().map_or(data.len(), |last: usize| data.len().min(last + 1));
        let body = &data[start..end];
        let answer = if range.is_some() {
            let (last, size) = (end - 1, data.len());
            format!("HTTP/1.1 206 P\r\nContent-Range: bytes {start}-{last}/{size}\r\n")
        } else {
            "HTTP/1.1 200 OK\r\n".to_owned()
        };
        let answer = format!("{answer}Content-Length: {}\r\n\r\n", body.len());
        let sent = body.len().min(cuts.get(number).copied().unwrap_or(usize::MAX));
        if stream.write_all(answer.as_bytes()).is_err() || stream.write_all(&body[..sent]).is_err()
        {
            return;
        }
        body_bytes.fetch_add(sent as u64, Ordering::SeqCst);
        if sent < body.len() {
            return;
        }
    }
}

/// A source that takes a request and never answers.
pub(crate) fn silent() -> Source {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut rest = Vec::new();
        // Until the node hangs up.
        let _ = stream.read_to_end(&mut rest);
    });
    let (upstream, head) = ("parent".into(), b"GET /blob HTTP/1.1\r\nHost: x\r\n".to_vec());
    Source::Http { upstream, address, head, registry: false, answer_ms: 15_000 }
}

pub(crate) fn file() -> std::fs::File {
    tempfile::tempfile().unwrap()
}

/// A ring thread whose cold half is the test.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) cold: ColdEnd,
    pub(crate) memory_bytes: u64,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn start(memory_bytes: u64) -> Self {
        Self::start_with(Settings {
            memory_bytes: Some(memory_bytes),
            lock: true,
            node: "n1".into(),
            verify: true,
            grantor: None,
        })
    }

    pub(crate) fn start_with(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (hot, cold) = link::pair().unwrap();
        let (ready, memory) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            driver::run(settings, listener, hot, |memory| ready.send(memory).unwrap()).unwrap();
        });
        let memory_bytes = memory.recv_timeout(PATIENCE).unwrap();
        Self { address, cold, memory_bytes, thread: Some(thread) }
    }

    /// The next message that is no report, and not about silence, which is a matter of time.
    pub(crate) fn hear(&self) -> ToCold {
        loop {
            match self.cold.from_hot.recv_timeout(PATIENCE).expect("a message") {
                ToCold::Report(_) | ToCold::Units { .. } | ToCold::Silent { .. } => {}
                message => return message,
            }
        }
    }

    /// The next silent try, and whether it is late.
    pub(crate) fn hear_silence(&self) -> (Attempt, bool) {
        loop {
            match self.cold.from_hot.recv_timeout(PATIENCE).expect("a message") {
                ToCold::Report(_) | ToCold::Units { .. } => {}
                ToCold::Silent { attempt, late, .. } => return (attempt, late),
                other => panic!("expected silence, heard {other:?}"),
            }
        }
    }

    pub(crate) fn tell(&self, message: ToHot) {
        self.cold.to_hot.send(message).unwrap();
    }

    pub(crate) fn hear_want(&self) -> Digest {
        match self.hear() {
            ToCold::Want { digest, .. } => digest,
            other => panic!("expected a want, heard {other:?}"),
        }
    }

    pub(crate) fn fetch(&self, digest: Digest, file: OwnedFd, source: Source) {
        let file = Some(FillFile { file, direct: false });
        self.tell(ToHot::Fetch { digest, file, resume: None, source, twin: None, splits: false });
    }

    /// Asks for a blob; the answer is read on a thread of its own.
    pub(crate) fn get(&self, digest: &Digest, extra: &str) -> JoinHandle<Response> {
        let mut stream = self.connect();
        let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: node\r\n{extra}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::spawn(move || Response::read(&mut stream))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.cold.to_hot.send(ToHot::Shutdown);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("a ring thread that ends well");
            }
        }
    }
}

/// What a client got: the head, and the body up to its length or the connection's end.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) whole: bool,
}

impl Response {
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        // A machine that was stopped interrupts a read that has a bound: this one goes on.
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: u64 = length.map_or(0, |length| length.parse().unwrap());
        let mut body = Vec::new();
        let _ = stream.take(length).read_to_end(&mut body);
        let whole = body.len() as u64 == length;
        Self { status, head, body, whole }
    }
}
