//! Where blobs come from, and what happens when they do not.

use std::net::SocketAddr;

use xylem_protocol::limits::{MOVE_BYTES_MAX, REGISTRY_TRIES_MAX, UNIT_BYTES};
use xylem_protocol::{Digest, pb};

use super::control::PaperControl;
use super::paper::{Bench, Page, PaperServer, Setup, digest, status};
use crate::link::{FlowProgress, Lost, Report, Source, ToCold, ToHot, first_attempt};
use crate::ring::{Arena, Slot};
use crate::store::{Begun, record};

pub(super) fn nowhere() -> PaperServer {
    PaperServer::start(|_| Page::new(500, ""))
}

/// The upstream, address and head of a plain source.
pub(super) fn plain(source: Source) -> (String, SocketAddr, String) {
    match source {
        Source::Http { upstream, address, head, .. } => {
            (upstream.to_string(), address, String::from_utf8(head).unwrap())
        }
        Source::Cold { .. } => panic!("not a plain source"),
    }
}

pub(super) async fn fetched(bench: &Bench) -> Source {
    let (source, file) = match bench.next_else().await {
        ToHot::Fetch { source, file, .. } => (source, file),
        other => panic!("no fetch but {other:?}"),
    };
    if file.is_none() {
        let file = bench.next().await;
        assert!(matches!(file, ToHot::File { .. }), "no file but {file:?}");
    }
    source
}

pub(super) async fn next_source(bench: &Bench) -> (u32, bool, Source) {
    match bench.next().await {
        ToHot::Source { attempt, restart, source, .. } => (attempt, restart, source),
        other => panic!("no source but {other:?}"),
    }
}

pub(super) async fn refused(bench: &Bench) -> (u16, &'static str, String) {
    match bench.next().await {
        ToHot::Refuse { status, code, message, .. } => (status, code, message),
        other => panic!("no refusal but {other:?}"),
    }
}

#[test]
fn a_blob_is_fetched_committed_and_then_here() {
    let server = nowhere();
    Setup::registry(&server).run(async |bench| {
        let blob = digest(b"xylem");
        bench.want(blob, "");
        bench.want(blob, "");
        let (upstream, address, head) = plain(fetched(bench).await);
        assert_eq!((upstream.as_str(), address), ("registry", server.address));
        let first = format!("GET /v2/a/b/blobs/{blob} HTTP/1.1\r\nHost: {address}\r\n");
        assert!(head.starts_with(&first) && head.ends_with("\r\n"), "{head}");
        assert!(!head.contains("Xylem"), "a registry is told nothing of trees: {head}");
        bench.write(blob, b"xylem and padding");
        bench.tell(ToCold::Stored { digest: blob, size: 5, first_byte_ns: 0, readers: 0 });
        let committed = bench.next().await;
        assert!(
            matches!(committed, ToHot::Committed { digest } if digest == blob),
            "{committed:?}"
        );
        bench.want(blob, "");
        let present = bench.next().await;
        assert!(matches!(present, ToHot::Present { size: 5, .. }), "{present:?}");
    });
}

#[test]
fn the_registry_is_tried_a_few_times() {
    Setup::registry(&nowhere()).run(async |bench| {
        let blob = digest(b"x");
        bench.want(blob, "");
        fetched(bench).await;
        for attempt in 0..REGISTRY_TRIES_MAX - 1 {
            bench.lose(blob, attempt, 0, Lost::Short);
            bench.lose(blob, attempt, 0, Lost::Short);
            let (sent, restart, _) = next_source(bench).await;
            assert_eq!((sent, restart), (attempt, false));
        }
        bench.lose(blob, REGISTRY_TRIES_MAX - 1, 0, Lost::Stalled(700));
        let (status, _, message) = refused(bench).await;
        assert_eq!(status, 504);
        assert!(message.contains("registry") && message.contains("700 ms"), "{message}");
    });
}

#[test]
fn what_the_registry_does_not_have_is_not_asked_for_again() {
    Setup::registry(&nowhere()).run(async |bench| {
        let blob = digest(b"x");
        bench.want(blob, "");
        fetched(bench).await;
        bench.lose(blob, 0, 0, status("404 Not Found"));
        let (status, code, _) = refused(bench).await;
        assert_eq!((status, code), (404, "BLOB_UNKNOWN"));
        assert_eq!(std::fs::read_dir(bench.store.join("partial")).unwrap().count(), 0);
    });
}

#[test]
fn without_an_upstream_nothing_is_to_be_had() {
    Setup::default().run(async |bench| {
        bench.want(digest(b"x"), "");
        let (status, _, message) = refused(bench).await;
        assert_eq!(status, 404);
        assert!(message.contains("--upstream"), "{message}");
    });
}

#[test]
fn redirects_and_challenges_are_followed() {
    let server = PaperServer::start(|line| match line.split(' ').nth(1) {
        Some(path) if path.starts_with("/token?service=s&scope=") => {
            Page::new(200, r#"{"token":"secret"}"#)
        }
        other => Page::new(404, other.unwrap_or_default()),
    });
    let address = server.address;
    Setup::registry(&server).run(async |bench| {
        let blob = digest(b"x");
        bench.want(blob, "");
        assert!(!plain(fetched(bench).await).2.contains("Authorization"));
        let challenge = format!(
            "401 U\r\nWWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"s\""
        );
        bench.lose(blob, 0, 0, status(&challenge));
        let (_, _, source) = next_source(bench).await;
        assert!(plain(source).2.contains("\r\nAuthorization: Bearer secret\r\n"));
        bench.lose(blob, 1, 0, status("307 T\r\nLocation: http://127.0.0.1:9/cdn?x=1"));
        let (_, _, source) = next_source(bench).await;
        let (_, to, head) = plain(source);
        assert_eq!(to.port(), 9);
        assert!(head.starts_with("GET /cdn?x=1 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n"), "{head}");
        assert!(!head.contains("secret"), "tokens stay at home: {head}");
        bench.lose(blob, 2, 0, status("302 F\r\nLocation: ftp://x/"));
        assert_eq!(refused(bench).await.0, 502);
    });
}

#[test]
fn a_wrong_digest_is_fetched_once_more_and_then_refused() {
    Setup::registry(&nowhere()).run(async |bench| {
        let (blob, actual) = (digest(b"right"), digest(b"wrong"));
        bench.want(blob, "");
        fetched(bench).await;
        bench.write(blob, b"wrong");
        bench.tell(ToCold::Mismatch { digest: blob, attempt: 0, actual });
        let (attempt, restart, source) = next_source(bench).await;
        assert_eq!((attempt, restart), (0, true));
        assert_eq!(plain(source).0, "registry");
        bench.tell(ToCold::Mismatch { digest: blob, attempt: 1, actual });
        let (status, code, message) = refused(bench).await;
        assert_eq!((status, code), (502, "DIGEST_INVALID"));
        assert!(
            message.contains(&blob.to_string()) && message.contains(&actual.to_string()),
            "{message}"
        );
        assert!(!bench.store.join("partial").join(blob.hex()).exists());
        assert!(!bench.store.join("blobs/sha256").join(blob.hex()).exists());
    });
}

#[test]
fn a_request_that_has_been_here_is_a_loop() {
    Setup::registry(&nowhere()).run(async |bench| {
        bench.want(digest(b"x"), "Xylem-Path: n1,me,n2\r\n");
        assert_eq!(refused(bench).await.0, 508);
    });
}

#[test]
fn a_partial_blob_is_resumed() {
    let content = vec![7; 3 * UNIT_BYTES as usize];
    let blob = digest(&content);
    let units = content.clone();
    let setup = Setup {
        fill: Some(Box::new(move |store| {
            assert!(matches!(store.begin(&blob).unwrap(), Begun::Partial(_)));
            let units_file = store.open_record(&blob, 0).unwrap();
            let crc = crc32c::crc32c(&units[..UNIT_BYTES as usize]);
            let file =
                std::fs::OpenOptions::new().write(true).open(store.partial_path(&blob)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &units[..2 * UNIT_BYTES as usize], 0)
                .unwrap();
            let write = |bytes: &[u8], at| {
                std::os::unix::fs::FileExt::write_all_at(&units_file, bytes, at).unwrap();
            };
            write(&record::header(units.len() as u64), 0);
            let (at, bytes) = record::entries(0, &[crc, crc]);
            write(&bytes, at);
        })),
        ..Setup::registry(&nowhere())
    };
    setup.run(async |bench| {
        bench.want(blob, "");
        let ToHot::Fetch { resume: Some(resume), .. } = bench.next().await else {
            panic!("no resumption")
        };
        assert_eq!(
            (resume.bytes, resume.size),
            (2 * u64::from(UNIT_BYTES), 3 * u64::from(UNIT_BYTES))
        );
        let crc = crc32c::crc32c(&content[..UNIT_BYTES as usize]);
        bench.tell(ToCold::Units { digest: blob, size: resume.size, first: 2, crc: vec![crc] });
        bench.write(blob, &content);
        bench.tell(ToCold::Stored {
            digest: blob,
            size: resume.size,
            first_byte_ns: 0,
            readers: 0,
        });
        assert!(matches!(bench.next().await, ToHot::Committed { .. }));
    });
}

#[test]
fn parents_come_before_the_registry() {
    let control =
        PaperControl::start(&[("n1", "10.0.0.1:1"), ("n2", "10.0.0.2:1"), ("me", "10.0.0.3:1")]);
    let server = nowhere();
    let setup = Setup { control: Some(control.address), ..Setup::registry(&server) };
    let image = digest(b"image");
    setup.run(async |bench| {
        let pb::node_message::Kind::Hello(hello) = control.hears().await else {
            panic!("no hello")
        };
        assert_eq!((hello.node.as_str(), hello.address.as_str()), ("me", "127.0.0.1:1"));
        let blob = digest(b"x");
        bench.want(blob, &format!("Xylem-Node: n9\r\nXylem-Image: {image}\r\nXylem-Path: n9\r\n"));
        let (upstream, address, head) = plain(fetched(bench).await);
        assert_eq!((upstream.as_str(), address.to_string().as_str()), ("n1", "10.0.0.1:1"));
        for line in
            ["Xylem-Node: me".into(), format!("Xylem-Image: {image}"), "Xylem-Path: n9,me".into()]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        bench.lose(blob, 0, 0, Lost::Connect(std::io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(plain(next_source(bench).await.2).0, "n2");
        bench.lose(blob, 1, 5, status("404 Not Found"));
        assert_eq!(plain(next_source(bench).await.2).0, "registry", "never itself, nobody twice");
        let joined = control.hears().await;
        assert!(
            matches!(&joined, pb::node_message::Kind::Join(join) if join.image == image.to_string())
        );
        // What cannot be connected to costs that once.
        let second = digest(b"z");
        bench.want(second, &format!("Xylem-Image: {image}\r\n"));
        assert_eq!(plain(fetched(bench).await).0, "n2");
        // Somebody on the way is not asked: it waits for us.
        let other = digest(b"y");
        bench.want(other, &format!("Xylem-Image: {image}\r\nXylem-Path: n1\r\n"));
        assert_eq!(plain(fetched(bench).await).0, "n2");
    });
    let said = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let last = said.block_on(control.hears());
    assert!(matches!(last, pb::node_message::Kind::Goodbye(_)), "{last:?}");
}

/// A blob that is well on its way stays with its parent, unless control says that it must not.
#[test]
fn only_what_must_move_moves_in_mid_blob() {
    let control = PaperControl::start(&[("n1", "10.0.0.1:1")]);
    let server = nowhere();
    let setup = Setup { control: Some(control.address), ..Setup::registry(&server) };
    let image = digest(b"image");
    setup.run(async |bench| {
        control.hears().await;
        let blob = digest(b"x");
        bench.want(blob, &format!("Xylem-Image: {image}\r\n"));
        assert_eq!(plain(fetched(bench).await).0, "n1");
        bench.tell(ToCold::Report(Box::new(Report {
            flows: vec![FlowProgress {
                digest: blob,
                received_bytes: 10 * MOVE_BYTES_MAX,
                edges: [0; 2],
                stored_bytes: 0,
                size_bytes: 20 * MOVE_BYTES_MAX,
                readers: 1,
                first_byte_ns: 0,
                upstream: "n1".into(),
            }],
            ..Report::default()
        })));
        let place = |epoch, node: &str, at_once| pb::Assignment {
            image: image.to_string(),
            epoch,
            branches: vec![pb::Branch {
                upstreams: vec![pb::Peer { node: node.into(), address: "10.0.0.2:1".into() }],
            }],
            group: 7,
            at_once,
        };
        control.assign(place(2, "n2", false));
        while !bench.ask("GET /xylem/v1/status", "").await.body.contains("\"epoch\":2") {}
        control.assign(place(3, "n3", true));
        match bench.next_else().await {
            ToHot::GiveUp { digest, attempt: 0, moved: true } => assert_eq!(digest, blob),
            other => panic!("it stays, and {other:?}"),
        }
        bench.lose(blob, 0, 10 * MOVE_BYTES_MAX, Lost::Moved);
        assert_eq!(plain(next_source(bench).await.2).0, "n3");
    });
}

#[test]
fn control_that_is_down_costs_a_moment() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup = Setup { control: Some(closed), ..Setup::registry(&nowhere()) };
    setup.run(async |bench| {
        bench.want(digest(b"x"), &format!("Xylem-Image: {}\r\n", digest(b"image")));
        assert_eq!(plain(fetched(bench).await).0, "registry");
    });
}

#[test]
fn bytes_come_out_of_tls_into_lent_slots() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let body = content.clone();
    let server = PaperServer::start_tls(&ca, move |_| Page {
        cut: Some(body.len() - 10),
        ..Page::new(206, body.clone())
            .with("Content-Range", format!("bytes 0-{}/{}", body.len() - 1, body.len()))
    });
    let upstream = Some(format!("https://localhost:{}", server.address.port()));
    Setup { upstream, ca: Some(ca), ..Setup::default() }.run(async |bench| {
        let blob = digest(&content);
        bench.want(blob, "");
        assert!(matches!(fetched(bench).await, Source::Cold { .. }));
        let ToHot::Opened { attempt: 0, size, .. } = bench.next().await else {
            panic!("not opened")
        };
        assert_eq!(size, content.len() as u64);
        let arena = Arena::new(4 << 20).unwrap();
        let mut got = Vec::new();
        let cause = loop {
            let lease = arena.lease(Slot(1), 0, 30_000);
            bench.tell(ToCold::Fill { digest: blob, attempt: 0, at: got.len() as u64, lease });
            let ToHot::Filled { mut lease, result, .. } = bench.next().await else { panic!() };
            match result {
                Ok(bytes) => got.extend_from_slice(&lease.bytes_mut()[..bytes as usize]),
                Err(cause) => break cause,
            }
        };
        assert!(matches!(cause, Lost::Broken(_) | Lost::Short), "{cause:?}");
        assert_eq!(got.len(), content.len() - 10, "all that came before the break is handed on");
        assert_eq!(got, content[..got.len()]);
        bench.lose(blob, 0, got.len() as u64, cause);
        assert!(matches!(next_source(bench).await.2, Source::Cold { .. }));
        // The paper server knows no ranges: it cannot be opened in the middle.
        let (status, _, message) = refused_in_the_end(bench, blob).await;
        assert_eq!(status, 502);
        assert!(message.contains("another range"), "{message}");
        assert!(server.heads().last().unwrap().contains(&format!("bytes={}-", got.len())));
    });
}

#[test]
fn a_registry_inside_tls_that_knows_no_ranges_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let body = content.clone();
    let server = PaperServer::start_tls(&ca, move |head| Page {
        cut: (!head.contains("bytes=250000-")).then_some(250_000),
        ..Page::new(200, body.clone())
    });
    let upstream = Some(format!("https://localhost:{}", server.address.port()));
    Setup { upstream, ca: Some(ca), ..Setup::default() }.run(async |bench| {
        let blob = digest(&content);
        bench.want(blob, "");
        assert!(matches!(fetched(bench).await, Source::Cold { .. }));
        let arena = Arena::new(4 << 20).unwrap();
        let (mut got, mut attempt) = (Vec::new(), 0);
        while got.len() < content.len() {
            let ToHot::Opened { size, .. } = bench.next().await else { panic!("not opened") };
            assert_eq!(size, content.len() as u64);
            let cause = loop {
                if got.len() == content.len() {
                    return;
                }
                let lease = arena.lease(Slot(1), 0, 30_000);
                bench.tell(ToCold::Fill { digest: blob, attempt, at: got.len() as u64, lease });
                let ToHot::Filled { mut lease, result, .. } = bench.next().await else { panic!() };
                match result {
                    Ok(bytes) => got.extend_from_slice(&lease.bytes_mut()[..bytes as usize]),
                    Err(cause) => break cause,
                }
                assert_eq!(got, content[..got.len()], "what was there already is passed over");
            };
            assert_eq!((attempt, got.len()), (0, 250_000), "{cause:?}");
            bench.lose(blob, attempt, got.len() as u64, cause);
            assert!(matches!(next_source(bench).await.2, Source::Cold { .. }));
            attempt += 1;
        }
    });
}

/// The root of the second tree there: its stripe is what it keeps of all that comes.
#[test]
fn a_stripe_of_a_registry_inside_tls_that_knows_no_ranges() {
    const PIECE: usize = 1 << 20;
    let control = PaperControl::start(&[("n1", "10.0.0.1:1")]);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let content: Vec<u8> = (0..5 * PIECE / 4).flat_map(|n| n.to_le_bytes()[..4].to_vec()).collect();
    let body = content.clone();
    let server = PaperServer::start_tls(&ca, move |_| Page::new(200, body.clone()));
    let upstream = Some(format!("https://localhost:{}", server.address.port()));
    let setup =
        Setup { upstream, ca: Some(ca), control: Some(control.address), ..Setup::default() };
    setup.run(async |bench| {
        let (blob, image) = (digest(&content), digest(b"image"));
        let lines = format!("Xylem-Image: {image}\r\n");
        control.hears().await;
        bench.want(digest(b"first"), &lines);
        assert_eq!(plain(fetched(bench).await).0, "n1");
        let peer = pb::Peer { node: "n1".into(), address: "10.0.0.1:1".into() };
        let branches = [vec![peer], vec![]].map(|upstreams| pb::Branch { upstreams });
        let (image, branches) = (image.to_string(), branches.to_vec());
        control.assign(pb::Assignment { image, epoch: 2, branches, group: 7, at_once: false });
        while !bench.ask("GET /xylem/v1/status", "").await.body.contains("\"epoch\":2") {}
        let request =
            super::paper::request(&format!("GET /v2/a/b/blobs/{blob}?stripe=1/2"), &lines);
        bench.tell(ToCold::Want { digest: blob, request: Box::new(request) });
        assert_eq!(plain(fetched(bench).await).0, "n1", "the first stripe");
        let ToHot::Opened { attempt, size, .. } = bench.next().await else { panic!("not opened") };
        assert_eq!((attempt, size), (first_attempt(1), content.len() as u64));
        let arena = Arena::new(4 << 20).unwrap();
        let mut at = PIECE;
        while at < content.len() {
            let rest = u32::try_from(PIECE - at % PIECE).unwrap();
            let lease = arena.lease(Slot(1), 0, rest);
            bench.tell(ToCold::Fill { digest: blob, attempt, at: at as u64, lease });
            let ToHot::Filled { mut lease, result, .. } = bench.next().await else { panic!() };
            let bytes = result.unwrap() as usize;
            assert!(lease.bytes_mut()[..bytes] == content[at..at + bytes], "at {at}");
            at += bytes;
            at += if at.is_multiple_of(PIECE) { PIECE } else { 0 };
        }
        assert_eq!(server.heads().len(), 1, "asked once");
    });
}

async fn refused_in_the_end(bench: &Bench, blob: Digest) -> (u16, &'static str, String) {
    loop {
        match bench.next().await {
            ToHot::Source { .. } => {}
            ToHot::Refuse { digest, status, code, message, .. } => {
                assert_eq!(digest, blob);
                return (status, code, message);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn an_untrusted_registry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = PaperServer::start_tls(&dir.path().join("ca.pem"), |_| Page::new(200, ""));
    let upstream = Some(format!("https://localhost:{}", server.address.port()));
    Setup { upstream, ..Setup::default() }.run(async |bench| {
        let blob = digest(b"x");
        bench.want(blob, "");
        fetched(bench).await;
        let (status, _, message) = refused_in_the_end(bench, blob).await;
        assert_eq!(status, 502);
        assert!(message.to_lowercase().contains("certificate"), "{message}");
    });
}
