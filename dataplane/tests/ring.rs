//! The real ring on loopback: one blob through one node, whole, in parts, with sources and readers
//! that fail.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{MIB, Node, Origin, Response, digest_of, file, noise};
use xylem_dataplane::driver::Settings;
use xylem_dataplane::link::{FillFile, Lost, ToCold, ToHot};

#[test]
fn one_fetch_feeds_all_who_ask() {
    let data = Arc::new(noise(9 * MIB + 12345, 1));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![]);
    let node = Node::start(4 << 20);
    let readers: Vec<_> = (0..5).map(|_| node.get(&digest, "")).collect();
    assert_eq!(node.hear_want(), digest);
    let stored = file();
    node.fetch(digest, stored.try_clone().unwrap().into(), origin.source("registry"));
    for reader in readers {
        let response = reader.join().unwrap();
        assert_eq!((response.status, response.whole), (200, true), "{}", response.head);
        assert!(response.body == *data);
    }
    assert!(matches!(node.hear(), ToCold::Stored { size, .. } if size == data.len() as u64));
    assert_eq!(origin.requests.load(Ordering::SeqCst), 1, "fetched once, however many ask");
    let mut in_file = Vec::new();
    { &stored }.read_to_end(&mut in_file).unwrap();
    assert!(in_file == *data);
    // Finished: served from the file, also in parts.
    let whole = node.get(&digest, "").join().unwrap();
    assert!(whole.body == *data);
    let part = node.get(&digest, "Range: bytes=1048570-3145733\r\n").join().unwrap();
    assert_eq!(part.status, 206);
    assert!(part.body == data[1_048_570..=3_145_733]);
    let beyond = node.get(&digest, "Range: bytes=99999999-\r\n").join().unwrap();
    assert_eq!(beyond.status, 416);
}

#[test]
fn a_lost_source_is_continued_at_the_own_offset() {
    let data = Arc::new(noise(5 * MIB + 7, 2));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![MIB + 4321, 3 * MIB, usize::MAX]);
    let node = Node::start(4 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), origin.source("parent"));
    for expected in [MIB as u64 + 4321, 4 * MIB as u64 + 4321] {
        match node.hear() {
            ToCold::Lost { attempt, at, cause, .. } => {
                assert_eq!(at, expected);
                assert!(matches!(cause, Lost::Short | Lost::Broken(_)), "{cause:?}");
                let source = origin.source("registry");
                node.tell(ToHot::Source { digest, attempt, restart: false, source });
            }
            other => panic!("expected a lost source, heard {other:?}"),
        }
    }
    let response = reader.join().unwrap();
    assert!(response.whole && response.body == *data, "readers notice nothing");
    assert_eq!(origin.body_bytes.load(Ordering::SeqCst), data.len() as u64, "nothing twice");
}

/// A peer that brings nothing where another one was lost is told of sooner, as one that is late.
#[test]
fn who_is_silent_after_a_loss_is_late() {
    let data = Arc::new(noise(5 * MIB, 11));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![2 * MIB]);
    let node = Node::start(4 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), common::silent());
    assert_eq!(node.hear_silence(), (0, false));
    node.tell(ToHot::GiveUp { digest, attempt: 0, moved: false });
    let ToCold::Lost { attempt: 0, at: 0, .. } = node.hear() else { panic!("a lost source") };
    node.tell(ToHot::Source { digest, attempt: 0, restart: false, source: origin.source("n2") });
    let ToCold::Lost { attempt: 1, .. } = node.hear() else { panic!("a lost source") };
    let source = common::silent();
    node.tell(ToHot::Source { digest, attempt: 1, restart: false, source });
    assert_eq!(node.hear_silence(), (2, true));
    node.tell(ToHot::GiveUp { digest, attempt: 2, moved: false });
    let ToCold::Lost { attempt: 2, at, .. } = node.hear() else { panic!("a lost source") };
    assert_eq!(at, 2 * MIB as u64);
    node.tell(ToHot::Source { digest, attempt: 2, restart: false, source: origin.source("n3") });
    assert!(reader.join().unwrap().body == *data, "readers notice nothing");
}

/// Starts a transfer whose file is still being made, up to the reader's first bytes.
fn fetch_without_file(node: &Node, origin: &Origin, data: &[u8]) -> std::net::TcpStream {
    let digest = digest_of(data);
    let mut reader = node.connect();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: node\r\n\r\n");
    reader.write_all(request.as_bytes()).unwrap();
    node.hear_want();
    let source = origin.source("registry");
    node.tell(ToHot::Fetch { digest, file: None, resume: None, source, twin: None, splits: false });
    let mut first = vec![0; MIB];
    reader.peek(&mut first).unwrap();
    reader
}

#[test]
fn the_first_bytes_do_not_wait_for_the_file() {
    let data = Arc::new(noise(9 * MIB + 5, 8));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![]);
    let node = Node::start(4 << 20);
    let mut reader = fetch_without_file(&node, &origin, &data);
    let stored = file();
    let file = FillFile { file: stored.try_clone().unwrap().into(), direct: false };
    node.tell(ToHot::File { digest, file });
    assert!(Response::read(&mut reader).body == *data);
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    let mut in_file = Vec::new();
    { &stored }.read_to_end(&mut in_file).unwrap();
    assert!(in_file == *data, "what came before the file is in it");
}

#[test]
fn no_file_after_all() {
    let data = Arc::new(noise(9 * MIB, 9));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![]);
    let node = Node::start(4 << 20);
    let mut reader = fetch_without_file(&node, &origin, &data);
    node.tell(ToHot::Refuse {
        digest,
        status: 507,
        code: "UNKNOWN",
        message: "full".into(),
        extra: String::new(),
    });
    assert!(!Response::read(&mut reader).whole, "cut off: there is no blob");
    // The slots came back: another blob has them.
    let other = Arc::new(noise(6 * MIB, 10));
    let (origin, second) = (Origin::start(other.clone(), vec![]), digest_of(&other));
    let reader = node.get(&second, "");
    assert_eq!(node.hear_want(), second);
    node.fetch(second, file().into(), origin.source("registry"));
    assert!(reader.join().unwrap().body == *other);
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
}

#[test]
fn a_wrong_digest_is_never_served_whole() {
    let (data, other) = (Arc::new(noise(3 * MIB, 3)), Arc::new(noise(3 * MIB, 4)));
    let digest = digest_of(&data);
    let (bad, good) = (Origin::start(other.clone(), vec![]), Origin::start(data.clone(), vec![]));
    let node = Node::start(4 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), bad.source("parent"));
    let ToCold::Mismatch { attempt, actual, .. } = node.hear() else { panic!("a mismatch") };
    assert_eq!(actual, digest_of(&other));
    assert!(!reader.join().unwrap().whole, "cut before the last byte");
    let second = node.get(&digest, "");
    let source = good.source("registry");
    node.tell(ToHot::Source { digest, attempt, restart: true, source });
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    let second = second.join().unwrap();
    assert!(!second.whole || second.body == *data);
    assert!(node.get(&digest, "").join().unwrap().body == *data);
}

#[test]
fn a_stalled_reader_slows_nobody() {
    let data = Arc::new(noise(24 * MIB, 5));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![]);
    let node = Node::start(4 << 20);
    let mut stalled = node.connect();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: node\r\n\r\n");
    stalled.write_all(request.as_bytes()).unwrap();
    node.hear_want();
    let fast = node.get(&digest, "");
    node.fetch(digest, file().into(), origin.source("registry"));
    assert!(fast.join().unwrap().body == *data, "its sibling gets everything");
    assert!(matches!(node.hear(), ToCold::Stored { .. }), "the disk too");
    let late = Response::read(&mut stalled);
    assert!(late.body == *data, "it gets the rest when it reads");
}

#[test]
fn what_cannot_be_had_is_said() {
    let node = Node::start(4 << 20);
    let digest = digest_of(b"nothing");
    let waiting = node.get(&digest, "");
    node.hear_want();
    node.tell(ToHot::Refuse {
        digest,
        status: 404,
        code: "BLOB_UNKNOWN",
        message: "the registry does not know it".into(),
        extra: String::new(),
    });
    let response = waiting.join().unwrap();
    assert_eq!(response.status, 404);
    assert!(String::from_utf8_lossy(&response.body).contains("BLOB_UNKNOWN"));
    // The next request asks anew.
    let _again = node.get(&digest, "");
    assert_eq!(node.hear_want(), digest);
}

#[test]
fn bad_heads_get_their_status_and_a_closed_connection() {
    let node = Node::start(4 << 20);
    let long = format!("GET /v2/ HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(17 * 1024));
    let blob = format!("/v2/a/blobs/{}", digest_of(b"never asked for"));
    let backwards = format!("GET {blob} HTTP/1.1\r\nHost: x\r\nRange: bytes=5-2\r\n\r\n");
    for (head, status) in [
        ("GET /v2/a/blobs/sha256:zz HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/a/blobs/x HTTP/1.1\r\nRange: bytes=0-1,3-4\r\n\r\n", 400),
        (backwards.as_str(), 416),
        ("PUT /v2/a/manifests/x HTTP/1.1\r\nContent-Length: 99999\r\n\r\n{", 405),
        ("nonsense\r\n\r\n", 400),
        (long.as_str(), 431),
        ("POST /xylem/v1/pulls HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n", 413),
        ("GET /v2/ HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    ] {
        let mut stream = node.connect();
        stream.write_all(head.as_bytes()).unwrap();
        let response = Response::read(&mut stream);
        assert_eq!(response.status, status, "{head:.60}");
        let rest = stream.read(&mut [0; 16]);
        assert!(!matches!(rest, Ok(1..)), "closed after {head:.60}");
    }
    // Nobody else was disturbed.
    let mut stream = node.connect();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let ToCold::Ask { ticket, .. } = node.hear() else { panic!("a question") };
    node.tell(ToHot::Answer {
        ticket,
        status: 200,
        content_type: "application/json".into(),
        digest: None,
        extra: String::new(),
        head_length: None,
        body: "{}".into(),
    });
    assert_eq!(Response::read(&mut stream).body, b"{}");
}

#[test]
fn a_request_that_has_passed_this_node_does_not_wait_for_it() {
    let data = Arc::new(noise(MIB, 6));
    let digest = digest_of(&data);
    let node = Node::start(4 << 20);
    let _waiting = node.get(&digest, "");
    node.hear_want();
    let looped = node.get(&digest, "Xylem-Path: n1, n2\r\n").join().unwrap();
    assert_eq!(looped.status, 508);
}

#[test]
fn nothing_is_not_taken_for_something() {
    let digest = digest_of(b"something");
    let empty = Origin::start(Arc::new(Vec::new()), vec![]);
    let node = Node::start(4 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), empty.source("parent"));
    let ToCold::Lost { cause: Lost::Range, .. } = node.hear() else { panic!("a lost source") };
    node.tell(ToHot::Refuse {
        digest,
        status: 502,
        code: "UNKNOWN",
        message: "none".into(),
        extra: String::new(),
    });
    assert_eq!(reader.join().unwrap().status, 502);
}

#[test]
fn without_locked_memory_all_is_the_same() {
    let data = Arc::new(noise(3 * MIB + 99, 7));
    let digest = digest_of(&data);
    let origin = Origin::start(data.clone(), vec![]);
    let node = Node::start_with(Settings {
        memory_bytes: Some(4 << 20),
        lock: false,
        node: "n1".into(),
        verify: true,
        grantor: None,
    });
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), origin.source("registry"));
    assert!(reader.join().unwrap().body == *data);
    assert!(matches!(node.hear(), ToCold::Stored { .. }));
    assert!(node.get(&digest, "Range: bytes=5-\r\n").join().unwrap().body == data[5..]);
}

#[test]
fn a_stored_file_does_not_grow_any_more() {
    let node = Node::start(4 << 20);
    let stored = (1..=32).map(|bytes| {
        let data = Arc::new(noise(MIB + bytes, 1));
        let (digest, stored) = (digest_of(&data), file());
        let origin = Origin::start(data, vec![]);
        let reader = node.get(&digest, "");
        assert_eq!(node.hear_want(), digest);
        node.fetch(digest, stored.try_clone().unwrap().into(), origin.source("registry"));
        assert!(matches!(node.hear(), ToCold::Stored { .. }));
        stored.set_len(0).unwrap();
        reader.join().unwrap();
        stored
    });
    let stored: Vec<_> = stored.collect();
    // When the ring thread has ended, no operation is left.
    drop(node);
    for file in stored {
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}

#[test]
fn an_empty_blob() {
    let data = Arc::new(Vec::new());
    let digest = digest_of(&data);
    let origin = Origin::start(data, vec![]);
    let node = Node::start(4 << 20);
    let reader = node.get(&digest, "");
    node.hear_want();
    node.fetch(digest, file().into(), origin.source("registry"));
    assert!(reader.join().unwrap().whole);
    assert!(matches!(node.hear(), ToCold::Stored { size: 0, .. }));
}
