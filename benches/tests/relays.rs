//! Every rival delivers what it was sent, to both readers and to its file, over loopback; no speed
//! here.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use xylem_benches::pattern::{Blob, digest_of, pool};

/// Not a multiple of anything a relay works in.
const SIZE: u64 = (9 << 20) + 12_345;
/// Small enough that the data wraps around it many times.
const POOL: u64 = (1 << 20) - 8;

/// A program of the bench that is killed when the test gives up.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(path);
        // Sinks are meant to fail in some tests, and need not say where in the code.
        command.args(arguments).env("RUST_BACKTRACE", "0").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn succeeded(mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn expected() -> String {
    Blob::new(&pool(POOL).unwrap(), 0, SIZE).digest()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A sink that checks what it gets; and the address it listens on.
fn sink(digest: &str) -> (Program, String) {
    let arguments = ["--listen", "127.0.0.1:0", "--verify", digest];
    let mut sink = Program::start(env!("CARGO_BIN_EXE_bench-sink"), &arguments);
    let address = sink.line().strip_prefix("ready ").unwrap().to_owned();
    (sink, address)
}

fn send(to: &str) -> Program {
    let (size, pool) = (SIZE.to_string(), POOL.to_string());
    let arguments = ["--connect", to, "--size", &size, "--pool", &pool];
    Program::start(env!("CARGO_BIN_EXE_bench-sender"), &arguments)
}

fn relays_faithfully(name: &str, program: &str, extra: &[&str]) {
    let digest = expected();
    let ((left, left_at), (right, right_at)) = (sink(&digest), sink(&digest));
    let (listen, path, size) = (free_address(), file(name), SIZE.to_string());
    let path_text = path.to_str().unwrap();
    let arguments = ["--listen", &listen, "--to", &left_at, "--to", &right_at];
    let arguments = [&arguments[..], &["--file", path_text, "--size", &size], extra].concat();
    let mut relay = Program::start(program, &arguments);
    assert_eq!(relay.line(), "ready");
    let sender = send(&listen);
    assert!(left.succeeded() && right.succeeded(), "a reader got something else");
    assert!(relay.succeeded() && sender.succeeded());
    assert_eq!(digest_of(std::fs::File::open(&path).unwrap()).unwrap(), digest);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn blocking_64k() {
    let program = env!("CARGO_BIN_EXE_rival-blocking");
    relays_faithfully("blocking-64k", program, &["--buffer", "64k"]);
}

#[test]
fn blocking_512k() {
    let program = env!("CARGO_BIN_EXE_rival-blocking");
    relays_faithfully("blocking-512k", program, &["--buffer", "512k"]);
}

#[test]
fn tokio_64k() {
    let program = env!("CARGO_BIN_EXE_rival-tokio");
    relays_faithfully("tokio-64k", program, &["--buffer", "64k"]);
}

#[test]
fn splice() {
    relays_faithfully("splice", env!("CARGO_BIN_EXE_rival-splice"), &[]);
}

#[test]
fn every_ring() {
    for how in ["send", "zero-copy", "write-fixed"] {
        let program = env!("CARGO_BIN_EXE_rival-ring");
        relays_faithfully(&format!("ring-{how}"), program, &["--how", how]);
    }
}

#[test]
fn a_sink_tells_other_data_apart() {
    let wrong = Blob::new(&pool(POOL).unwrap(), 1, SIZE).digest();
    let (sink, at) = sink(&wrong);
    assert!(send(&at).succeeded());
    assert!(!sink.succeeded());
}

#[test]
fn a_sink_misses_a_cut_tail() {
    let expect = (SIZE + 1).to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--expect", &expect];
    let mut sink = Program::start(env!("CARGO_BIN_EXE_bench-sink"), &arguments);
    let at = sink.line().strip_prefix("ready ").unwrap().to_owned();
    assert!(send(&at).succeeded());
    assert!(!sink.succeeded());
}
