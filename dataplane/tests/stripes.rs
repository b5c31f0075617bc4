//! The ring thread and stripes: a blob from two sources, and a source left for a better one.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{MIB, Node, Origin, PATIENCE, digest_of, file, noise, silent};
use xylem_dataplane::link::{FillFile, Lost, Source, ToCold, ToHot, first_attempt};

const PIECE: usize = 2 * MIB;

/// A node as the source of a stripe.
fn stripe_of(node: &Node, digest: &xylem_protocol::Digest, stripe: u8) -> Source {
    let head = format!("GET /v2/a/blobs/{digest}?stripe={stripe}/2 HTTP/1.1\r\nHost: node\r\n");
    Source::Http {
        upstream: "parent".into(),
        address: node.address,
        head: head.into_bytes(),
        registry: false,
        answer_ms: 15_000,
    }
}

fn fetch_striped(node: &Node, data: &[u8], file: OwnedFd, [source, twin]: [Source; 2]) {
    let file = Some(FillFile { file, direct: false });
    let twin = Some(Box::new(twin));
    node.tell(ToHot::Fetch {
        digest: digest_of(data),
        file,
        resume: None,
        source,
        twin,
        splits: false,
    });
}

#[test]
fn one_stripe_from_a_node_and_one_from_the_registry() {
    let data = Arc::new(noise(9 * PIECE + 12_345, 21));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![]);
    let (parent, node) = (Node::start(8 << 20), Node::start(8 << 20));
    let reader = node.get(&digest, "");
    node.hear_want();
    let stored = file();
    let sources = [stripe_of(&parent, &digest, 0), origin.source("registry")];
    fetch_striped(&node, &data, stored.try_clone().unwrap().into(), sources);
    assert_eq!(parent.hear_want(), digest);
    parent.fetch(digest, file().into(), origin.source("registry"));
    assert!(reader.join().unwrap().body == *data, "in the blob's order");
    assert!(matches!(parent.hear(), ToCold::Stored { .. }));
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    let mut in_file = Vec::new();
    { &stored }.read_to_end(&mut in_file).unwrap();
    assert!(in_file == *data);
    // The parent took all of it, and the node pieces 1, 3, 5, 7 and the last one.
    let sent = origin.body_bytes.load(Ordering::SeqCst) - data.len() as u64;
    assert_eq!(sent, 4 * PIECE as u64 + 12_345);
    let stripe = node.get(&digest, &format!("Range: bytes={}-\r\n", PIECE - 6)).join().unwrap();
    assert_eq!(stripe.body, data[PIECE - 6..], "whole ranges as ever");
}

#[test]
fn a_whole_blob_is_striped_where_it_stands() {
    let data = Arc::new(noise(12 * PIECE, 22));
    let digest = digest_of(&data);
    // The first source ends in the middle of the fourth piece.
    let origin = Origin::start(data.clone(), vec![7 * PIECE / 2]);
    let second = Origin::start(data.clone(), vec![]);
    let node = Node::start(8 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), origin.source("registry"));
    let ToCold::Lost { attempt: 0, at, .. } = node.hear() else { panic!("a lost source") };
    assert_eq!(at, 7 * PIECE as u64 / 2);
    node.tell(ToHot::Source { digest, attempt: 0, restart: false, source: silent() });
    node.tell(ToHot::Split { digest, attempt: 1 });
    for (attempt, expected) in [(1, 4 * PIECE), (first_attempt(1), 7 * PIECE / 2)] {
        match node.hear() {
            ToCold::Lost { attempt: told, at, cause: Lost::Split, .. } => {
                assert_eq!((told, at), (attempt, expected as u64));
            }
            other => panic!("expected a split, heard {other:?}"),
        }
    }
    for attempt in [1, first_attempt(1)] {
        let source = second.source("registry");
        node.tell(ToHot::Source { digest, attempt, restart: false, source });
    }
    assert!(reader.join().unwrap().body == *data, "readers notice nothing");
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    let sent = second.body_bytes.load(Ordering::SeqCst);
    assert_eq!(sent, data.len() as u64 - 7 * PIECE as u64 / 2, "nothing twice");
}

/// A registry without ranges sends all of it where a piece was asked for: what nobody wants of it
/// is passed over.
#[test]
fn stripes_of_a_registry_that_knows_no_ranges() {
    for bytes in [9 * PIECE + 12_345, 10 * PIECE] {
        let data = Arc::new(noise(bytes, 25));
        let digest = digest_of(&data);
        let origin = Origin::without_ranges(data.clone(), vec![]);
        let node = Node::start(8 << 20);
        let reader = node.get(&digest, "");
        node.hear_want();
        let stored = file();
        let sources = [origin.source("registry"), origin.source("registry")];
        fetch_striped(&node, &data, stored.try_clone().unwrap().into(), sources);
        assert!(reader.join().unwrap().body == *data, "in the blob's order");
        assert!(matches!(node.hear(), ToCold::Stored { .. }), "nothing is lost");
        let mut in_file = Vec::new();
        { &stored }.read_to_end(&mut in_file).unwrap();
        assert!(in_file == *data);
        assert_eq!(origin.requests.load(Ordering::SeqCst), 2, "one for each stripe");
    }
}

/// Nor can a blob be gone on with in its middle there, whole or by stripes.
#[test]
fn a_registry_that_knows_no_ranges_begins_anew() {
    let data = Arc::new(noise(12 * PIECE, 26));
    let digest = digest_of(&data);
    let origin = Origin::without_ranges(data.clone(), vec![7 * PIECE / 2, 5 * PIECE + 1]);
    let node = Node::start(8 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), origin.source("registry"));
    for (attempt, expected) in [(0, 7 * PIECE / 2), (1, 5 * PIECE + 1)] {
        let ToCold::Lost { attempt: lost, at, cause: Lost::Short, .. } = node.hear() else {
            panic!("a lost source")
        };
        assert_eq!((lost, at), (attempt, expected as u64));
        let source = if attempt == 0 { origin.source("registry") } else { silent() };
        node.tell(ToHot::Source { digest, attempt, restart: false, source });
    }
    node.tell(ToHot::Split { digest, attempt: 2 });
    for attempt in [2, first_attempt(1)] {
        let ToCold::Lost { cause: Lost::Split, .. } = node.hear() else { panic!("a split") };
        let source = origin.source("registry");
        node.tell(ToHot::Source { digest, attempt, restart: false, source });
    }
    assert!(reader.join().unwrap().body == *data, "readers notice nothing");
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    assert_eq!(origin.requests.load(Ordering::SeqCst), 4);
}

/// A connection that had brought a blob before was asked again when it was left before it answered,
/// instead of the better source.
#[test]
fn a_kept_connection_is_left_before_it_answers() {
    let first = noise(2 * MIB, 23);
    let (second, digest) = (noise(MIB, 24), digest_of(&noise(MIB, 24)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, is_asked) = std::sync::mpsc::channel();
    let body = first.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, asked, body) = (stream.unwrap(), asked.clone(), body.clone());
            std::thread::spawn(move || {
                for number in 0.. {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read(&mut byte).unwrap_or(0) == 0 {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let _ = asked.send(number);
                    if number == 0 {
                        let length = body.len();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                        stream.write_all(head.as_bytes()).unwrap();
                        stream.write_all(&body).unwrap();
                    }
                }
            });
        }
    });
    let (upstream, head) = ("parent".into(), b"GET /blob HTTP/1.1\r\nHost: x\r\n".to_vec());
    let source = Source::Http { upstream, address, head, registry: false, answer_ms: 15_000 };
    let node = Node::start(4 << 20);
    node.fetch(digest_of(&first), file().into(), source.clone());
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    node.fetch(digest, file().into(), source);
    assert_eq!(is_asked.recv_timeout(PATIENCE), Ok(0));
    assert_eq!(is_asked.recv_timeout(PATIENCE), Ok(1), "on the connection that it kept");
    node.tell(ToHot::GiveUp { digest, attempt: 0, moved: true });
    match node.hear() {
        ToCold::Lost { attempt: 0, at: 0, cause: Lost::Moved, .. } => {}
        other => panic!("expected a move, heard {other:?}"),
    }
    let origin = Origin::start(Arc::new(second), vec![]);
    let source = origin.source("registry");
    node.tell(ToHot::Source { digest, attempt: 0, restart: false, source });
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
}
