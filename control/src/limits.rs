//! Every bound on what nodes and clients may make control hold: counts, lengths, queues, periods.
//! Numbers only.

use xylem_protocol::limits as shared;

/// Most nodes that control knows at once, connected or lately gone.
pub const NODES_MAX: u32 = 16_384;

/// Most trees at once.
pub const TREES_MAX: u32 = 16_384;

/// Most nodes in one tree.
pub const TREE_NODES_MAX: u32 = NODES_MAX;

/// Most trees that one node may be in: as many as it remembers. The paper gives a machine up to 20.
pub const TREES_PER_NODE_MAX: u32 = 256;

/// Upstreams in one assignment: parent, grandparent, great-grandparent.
pub const UPSTREAMS_MAX: u32 = 3;

/// Most hop reports in one message.
pub const REPORTS_MAX: u32 = 256;

/// Most hops of which one node's reports are kept; the one silent for longest makes room.
pub const HOPS_PER_NODE_MAX: u32 = 256;

/// Largest message that a node may send, bytes.
pub const MESSAGE_MAX: u32 = 128 * 1024;

/// Longest zone or version in a `Hello`, bytes.
pub const LABEL_MAX: u32 = 64;

/// Longest `ip:port`, bytes: an IPv6 address with a scope, in brackets, and five digits.
pub const ADDRESS_MAX: u32 = 64;

/// Messages waiting for one node; a node that lets them fill up is dropped.
pub const OUTGOING_MAX: u32 = 512;

/// Most connections of nodes and clients together; further ones wait to be accepted.
pub const CONNECTIONS_MAX: u32 = NODES_MAX + 1024;

/// Heartbeats that a node may miss before it is taken out of its trees.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Heartbeats for which a node without a stream keeps its places.
pub const LOST_HEARTBEATS_MAX: u32 = 1;

/// For how long after the start places that nodes report are collected before trees are built of
/// them, ms: longer than nodes pause between two tries to attach.
pub const SETTLE_MS: u64 = shared::CONTROL_BACKOFF_MAX_MS + 500;

/// Shortest and longest period of the heartbeat, ms.
pub const HEARTBEAT_MIN_MS: u32 = 50;
/// See [`HEARTBEAT_MIN_MS`].
pub const HEARTBEAT_MAX_MS: u32 = 60_000;

/// Longest period of the server's own clock, ms.
pub const TICK_MAX_MS: u64 = 250;

/// Default period of the heartbeat, ms.
pub const HEARTBEAT_MS: u32 = 1000;

/// How long a node that is gone still stands in the status, ms.
pub const GONE_KEPT_MS: u64 = 600_000;

/// How long a new stream may wait with its hello, ms.
pub const HELLO_WAIT_MAX_MS: u64 = 10_000;

/// How long open connections may take to end after a signal, ms.
pub const SHUTDOWN_MAX_MS: u64 = 2000;

/// Largest answer that the command line takes from control or a node's API, bytes.
pub const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// Field tags and lengths around one string of a message, bytes.
const FRAMING: usize = 6;
/// `sha256:` and 64 digits.
const DIGEST_TEXT: usize = 71;
const MEMBERSHIP: usize =
    DIGEST_TEXT + shared::REPOSITORY_MAX + shared::NODE_NAME_MAX + 4 * FRAMING + 10;
const REPORT: usize = 2 * shared::NODE_NAME_MAX + 18 * (FRAMING + 10);
const HELLO: usize =
    shared::NODE_NAME_MAX + ADDRESS_MAX as usize + 2 * LABEL_MAX as usize + 5 * FRAMING;

const _: () = {
    assert!(UPSTREAMS_MAX as usize <= shared::UPSTREAMS_MAX);
    assert!(TREES_PER_NODE_MAX as usize >= shared::TREES_MAX, "no hello is too long");
    assert!(HELLO + TREES_PER_NODE_MAX as usize * MEMBERSHIP <= MESSAGE_MAX as usize);
    assert!(REPORTS_MAX as usize * REPORT <= MESSAGE_MAX as usize);
    assert!(REPORTS_MAX <= HOPS_PER_NODE_MAX, "a message fits into what is kept");
    assert!(OUTGOING_MAX >= 2 * TREES_PER_NODE_MAX, "a newcomer is told all its places at once");
    assert!(TREE_NODES_MAX <= NODES_MAX && NODES_MAX < CONNECTIONS_MAX);
    assert!(LOST_HEARTBEATS_MAX < HEARTBEATS_MISSED_MAX);
    assert!(HEARTBEAT_MIN_MS < HEARTBEAT_MS && HEARTBEAT_MS < HEARTBEAT_MAX_MS);
    assert!(GONE_KEPT_MS > HEARTBEAT_MAX_MS as u64 * HEARTBEATS_MISSED_MAX as u64);
};
