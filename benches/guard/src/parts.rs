//! The work whose instructions are counted: the same on every run, with nothing random in it.

use std::collections::VecDeque;
use std::hint::black_box;

use sha2::{Digest as _, Sha256};

use crate::http::{Request, ResponseHead};
use crate::limits::UNIT_BYTES;
use crate::relay::{Action, Event, FlowId, ReaderId, Relay};
use crate::tree::ft::Ft;
use crate::tree::twin::Twin;
use crate::{Digest, usdt};

/// Slots of the relay: 8 MiB.
const SLOTS: u16 = 8;
/// Of the blob that is relayed.
const BLOB_BYTES: u64 = 64 << 20;
/// What a receive brings at most: what a link of 1 Gbit/s brings in a millisecond.
const RECEIVED_MAX: u32 = 128 << 10;
/// Nodes of a tree, and how many of them leave and come back.
const NODES: u32 = 1_000;
/// Heads that are parsed.
const HEADS: u32 = 1_000;
/// Times that all probes are passed.
const PROBES: u32 = 10_000;

/// What a node asks its parent for, and what it is answered.
const REQUEST: &[u8] = b"GET /v2/library/demo/blobs/sha256:\
    6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b?stripe=0/2 HTTP/1.1\r\n\
    host: 10.77.0.2:4400\r\nuser-agent: xylemd\r\naccept: */*\r\nrange: bytes=1048576-\r\n\
    xylem-path: n3,n7\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 206 Partial Content\r\ncontent-type: application/octet-stream\r\n\
    content-length: 66060288\r\ncontent-range: bytes 1048576-67108863/67108864\r\n\
    docker-content-digest: sha256:\
    6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b\r\n\
    accept-ranges: bytes\r\n\r\n";

/// One part, made ready; what is done to make it so is not counted.
#[derive(Debug)]
pub enum Part {
    /// A blob through the relay, to a file and two readers; whole or in stripes.
    Relay(Box<Relay>, bool),
    /// Leaves and joins in a function tree.
    Ft(Box<Ft>),
    /// The same in twin trees.
    Twin(Box<Twin>),
    /// Request heads.
    Request,
    /// Response heads.
    Response,
    /// A unit's SHA-256 and CRC32C.
    Hash(Vec<u8>),
    /// The static probes, with nobody who looks.
    Probes(Digest),
}

impl Part {
    /// The names of all parts.
    pub const NAMES: [&str; 8] = [
        "relay",
        "relay-striped",
        "tree-ft",
        "tree-twin",
        "http-request",
        "http-response",
        "hash",
        "probes",
    ];

    /// Makes a part ready; `None`: there is no such part.
    #[must_use]
    pub fn ready(name: &str) -> Option<Self> {
        let edges = &mut Vec::new();
        Some(match name {
            "relay" => Self::Relay(Box::new(Relay::new(SLOTS)), false),
            "relay-striped" => Self::Relay(Box::new(Relay::new(SLOTS)), true),
            "tree-ft" => {
                let mut tree = Ft::default();
                for _ in 0..NODES {
                    tree.join(edges).expect("room");
                }
                Self::Ft(Box::new(tree))
            }
            "tree-twin" => {
                let mut trees = Twin::default();
                for _ in 0..NODES {
                    trees.join(edges).expect("room");
                }
                Self::Twin(Box::new(trees))
            }
            "http-request" => Self::Request,
            "http-response" => Self::Response,
            "hash" => Self::Hash((0..=u8::MAX).cycle().take(UNIT_BYTES as usize).collect()),
            "probes" => Self::Probes(Digest::from_bytes([7; 32])),
            _ => return None,
        })
    }

    /// Does the work: the function in which instructions are counted. How many operations it was.
    ///
    /// # Panics
    /// If a part does not do what it is for.
    #[inline(never)]
    pub fn counted(self) -> u32 {
        match self {
            Self::Relay(relay, striped) => relayed(*relay, striped),
            Self::Ft(mut tree) => {
                let mut edges = Vec::with_capacity(64);
                for _ in 0..NODES {
                    let root = tree.root().expect("a root");
                    tree.leave(black_box(root), &mut edges).expect("it is there");
                    tree.join(&mut edges).expect("room");
                    edges.clear();
                }
                2 * NODES
            }
            Self::Twin(mut trees) => {
                let mut edges = Vec::with_capacity(64);
                for _ in 0..NODES {
                    let root = trees.root(0).expect("a root");
                    trees.leave(black_box(root), &mut edges).expect("it is there");
                    trees.join(&mut edges).expect("room");
                    edges.clear();
                }
                2 * NODES
            }
            Self::Request => {
                for _ in 0..HEADS {
                    let (_, bytes) =
                        Request::parse(black_box(REQUEST)).expect("good").expect("all");
                    assert_eq!(bytes, REQUEST.len());
                }
                HEADS
            }
            Self::Response => {
                for _ in 0..HEADS {
                    let parsed = ResponseHead::parse(black_box(RESPONSE)).expect("good");
                    assert_eq!(parsed.expect("all").1, RESPONSE.len());
                }
                HEADS
            }
            Self::Hash(unit) => {
                black_box(Sha256::digest(black_box(&unit)));
                black_box(crc32c::crc32c(black_box(&unit)));
                1
            }
            Self::Probes(blob) => {
                let name = blob.prefix();
                for at in 0..PROBES {
                    usdt::received(black_box(&blob), u64::from(at), UNIT_BYTES);
                    usdt::forwarded(name, u64::from(at), UNIT_BYTES);
                    usdt::stored(black_box(&blob), u64::from(at), UNIT_BYTES);
                    usdt::committed(black_box(&blob), u64::from(at));
                }
                4 * PROBES
            }
        }
    }
}

/// Everything ends at once and in order, as on a machine that is never waited for. The events.
fn relayed(mut relay: Relay, striped: bool) -> u32 {
    let (flow, readers) = (FlowId(0), [ReaderId(0), ReaderId(1)]);
    let mut events = VecDeque::with_capacity(256);
    let mut actions = Vec::with_capacity(256);
    let (mut count, mut sources, mut done, mut stored) = (0, 0, 0, false);
    let size = BLOB_BYTES;
    events.push_back(Event::Fetch {
        flow,
        resume: 0,
        size: Some(size),
        striped,
        splits: false,
        rank: 0,
    });
    while let Some(event) = events.pop_front() {
        count += 1;
        relay.apply(event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Connect { flow, lane, .. } => {
                    events.push_back(Event::SourceReady { flow, lane, size });
                    sources += 1;
                    if sources == 1 + u8::from(striped) {
                        events.extend(readers.map(|reader| Event::Join {
                            reader,
                            flow,
                            stripe: None,
                            start: 0,
                            end: size,
                        }));
                    }
                }
                Action::Recv { flow, lane, bytes, .. } => {
                    let bytes = bytes.min(RECEIVED_MAX);
                    events.push_back(Event::Received { flow, lane, bytes });
                }
                Action::Write { flow, slot, .. } => {
                    events.push_back(Event::Written { flow, slot });
                }
                Action::Hash { flow, slot, bytes, .. } => {
                    events.push_back(Event::Hashed { flow, slot, bytes });
                }
                Action::Send { reader, bytes, .. } => {
                    events.push_back(Event::Sent { reader, bytes });
                }
                Action::Finalize { flow } => {
                    events.push_back(Event::Finalized { flow, matches: true });
                }
                Action::Stored { .. } => stored = true,
                Action::Done { .. } => done += 1,
                Action::Closed { .. } => {}
                other => panic!("nothing of this sort is needed here: {other:?}"),
            }
        }
    }
    assert!(stored && done == readers.len(), "the blob is stored and both readers have it");
    count
}
