//! The sender's registry answers as the daemon and curl-like readers need it; only what the bench
//! uses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use xylem_benches::gate::SenderReady;
use xylem_benches::pattern::{Blob, digest_of, pool};

const SIZE: u64 = 300_001;
const POOL: u64 = 65_528;

struct Sender {
    child: Child,
    ready: SenderReady,
}

impl Sender {
    fn start() -> Self {
        let (size, pool) = (SIZE.to_string(), POOL.to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench-sender"))
            .args(["--listen", "127.0.0.1:0", "--size", &size, "--pool", &pool, "--blobs", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, ready: serde_json::from_str(&line).unwrap() }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// Asks on a connection that stays open.
fn ask(connection: &mut BufReader<TcpStream>, method: &str, path: &str, extra: &str) -> Answer {
    write!(connection.get_mut(), "{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n").unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(connection.read_line(&mut head).unwrap() > 0, "closed after {head:?}");
    }
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map(|line| line.split_once(": ").unwrap().1.to_owned())
    };
    let length: usize = field("content-length").unwrap().parse().unwrap();
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    connection.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

#[test]
fn serves_blobs_ranges_and_an_image() {
    let sender = Sender::start();
    let mut connection = BufReader::new(TcpStream::connect(&sender.ready.listen).unwrap());
    assert_eq!(ask(&mut connection, "GET", "/v2/", "").status, 200);

    let second = format!("/v2/bench/blobs/{}", sender.ready.blobs[1]);
    let whole = ask(&mut connection, "GET", &second, "");
    assert_eq!(whole.status, 200);
    assert_eq!(digest_of(&whole.body[..]).unwrap(), sender.ready.blobs[1]);
    assert_eq!(Blob::new(&pool(POOL).unwrap(), 1, SIZE).digest(), sender.ready.blobs[1]);

    let head = ask(&mut connection, "HEAD", &second, "");
    assert!(head.status == 200 && head.head.contains("Content-Length: 300001\r\n"));
    let part = ask(&mut connection, "GET", &second, "Range: bytes=70000-200000\r\n");
    assert_eq!(part.status, 206);
    assert!(part.head.contains("Content-Range: bytes 70000-200000/300001\r\n"), "{}", part.head);
    assert_eq!(part.body, whole.body[70_000..=200_000]);
    assert_eq!(ask(&mut connection, "GET", &second, "Range: bytes=300001-\r\n").status, 416);

    let manifest = ask(&mut connection, "GET", "/v2/bench/manifests/latest", "");
    assert_eq!(digest_of(&manifest.body[..]).unwrap(), sender.ready.manifest);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
    assert_eq!(manifest["layers"][0]["digest"], sender.ready.blobs[0].as_str());
    let config = manifest["config"]["digest"].as_str().unwrap();
    let answer = ask(&mut connection, "GET", &format!("/v2/bench/blobs/{config}"), "");
    assert_eq!(digest_of(&answer.body[..]).unwrap(), config);

    assert_eq!(ask(&mut connection, "GET", "/v2/other/manifests/latest", "").status, 404);
}
