//! What control's HTTP API says, as types: written by the server, read by the command line. No
//! behaviour.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Control's version.
    pub version: String,
    /// Shape of the trees: `ft` or `twin`.
    pub shape: String,
    /// Seconds since control started.
    pub uptime_s: f64,
    /// All nodes, by name, also those that are gone since a few minutes.
    pub nodes: Vec<Node>,
    /// How many images have trees.
    pub trees: u32,
}

/// One node in [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// `ip:port` of its data port.
    pub address: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Whether its stream to control is open.
    pub connected: bool,
    /// Milliseconds since its latest message.
    pub last_seen_ms: u64,
    /// Bytes of all complete blobs.
    pub held_bytes: u64,
    /// Free space of its store, bytes.
    pub free_bytes: u64,
    /// Blobs that it is receiving.
    pub active_flows: u32,
    /// Whether its uplink was found to be slow, so that nobody is to read from it.
    #[serde(default)]
    pub slow_uplink: bool,
    /// Version of its software.
    pub version: String,
}

/// `GET /api/v1/trees`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trees {
    /// By image and stripe.
    pub trees: Vec<Tree>,
}

/// One tree: of an image, or of one stripe of its blobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// Digest of the image's manifest.
    pub image: String,
    /// Repository name under which it was asked for first.
    pub name: String,
    /// Shape: `ft` or `twin`.
    pub shape: String,
    /// Which stripe, counted from 0.
    pub stripe: u8,
    /// How many stripes there are, each with a tree; 1: blobs come whole.
    pub stripes: u8,
    /// Grows with each change of the image's trees.
    pub epoch: u64,
    /// Level by level from the root, left to right.
    pub nodes: Vec<TreeNode>,
}

/// One node of a [`Tree`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Its name.
    pub node: String,
    /// `ip:port` of its data port.
    pub address: String,
    /// Whom it reads from; `None` at the root, which reads the registry.
    pub parent: Option<String>,
    /// Who reads from it, left before right.
    pub children: Vec<String>,
    /// Edges to who reads the registry.
    pub level: u32,
    /// Whether it has all of the image.
    pub complete: bool,
}

/// `GET /api/v1/hops`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hops {
    /// Those from the registry first, then by parent and child.
    pub hops: Vec<Hop>,
}

/// One hop, merged from the reports of its two ends. Byte counts are TCP payload, parent to child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Name of the sending node, or `registry`.
    pub parent: String,
    /// Name of the receiving node.
    pub child: String,
    /// Counted by the relay.
    pub relay_bytes: u64,
    /// Counted by the kernel; 0 without a source.
    pub kernel_bytes: u64,
    /// With packet headers; 0 where not known.
    pub wire_bytes: u64,
    /// Payload over the time in which the hop was active.
    pub mbit_s: f64,
    /// Smoothed round trip.
    pub srtt_ms: f64,
    /// Shortest round trip.
    pub min_rtt_ms: f64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Request sent to first body byte, median.
    pub first_byte_ms: f64,
    /// The same, 99th percentile.
    pub first_byte_p99_ms: f64,
    /// A unit's time in the parent, received to sent, median.
    pub unit_p50_ms: f64,
    /// The same, 99th percentile.
    pub unit_p99_ms: f64,
    /// What limits the hop: `sender`, `network`, `receiver` or `unknown`.
    pub verdict: String,
    /// Where the kernel's figures come from: `bpf`, `tcp_info` or `none`.
    pub source: String,
}

/// Body of `POST /api/v1/preheats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreheatOrder {
    /// `host[:port]`, as image references name it.
    pub registry: String,
    /// Repository.
    pub name: String,
    /// Tag or digest.
    pub reference: String,
    /// `os/architecture`; none: each node's own.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// `all`, `zone=ZONE`, or names separated by commas, in which `*` and `?` may stand.
    #[serde(default = "all")]
    pub nodes: String,
}

fn all() -> String {
    "all".to_owned()
}

/// Answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preheated {
    /// Its number.
    pub id: u64,
    /// How many nodes are meant.
    pub nodes: u32,
    /// Whether the same was running already.
    pub joined: bool,
}

/// `GET /api/v1/preheats/N`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preheat {
    /// Its number.
    pub id: u64,
    /// `REGISTRY/NAME:TAG` or `REGISTRY/NAME@DIGEST`.
    pub image: String,
    /// As ordered.
    pub platforms: Vec<String>,
    /// Which nodes were meant.
    pub selector: String,
    /// `running`, `done` (all have it) or `failed` (all have ended, not all have it).
    pub state: PreheatState,
    /// Seconds since its start.
    pub age_s: f64,
    /// By name.
    pub nodes: Vec<PreheatNode>,
}

/// One node in [`Preheat`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreheatNode {
    /// Its name.
    pub node: String,
    /// How it stands.
    pub state: PreheatState,
    /// Bytes that are there.
    pub done_bytes: u64,
    /// Bytes in all; 0 until they are known.
    pub total_bytes: u64,
    /// Digests of the images' manifests, as far as they are known.
    pub images: Vec<String>,
    /// Why it does not have it; one line.
    pub error: Option<String>,
}

/// How a preheat stands, or one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreheatState {
    /// Told, and has not answered yet.
    Waiting,
    /// Pulls.
    Running,
    /// Has it.
    Done,
    /// Could not pull it.
    Failed,
    /// Has gone, or was not there.
    Left,
}
