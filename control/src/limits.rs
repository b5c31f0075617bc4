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

/// Most branches of one assignment: trees of one image, each for a stripe of its blobs.
pub const BRANCHES_MAX: u32 = 2;

/// How long a group of nodes takes newcomers, ms. Those who come together are put together; who
/// comes when others are well on their way disturbs them: at 1 Gbit/s a blob stays where it is from
/// 0.27 s on.
pub const GROUP_OPEN_MS: u64 = 250;

/// How long a group is left with the node that feeds it, ms, if that one sends too much.
pub const REFEED_MS_MIN: u64 = 1_000;

/// How long somebody has to send too much, ms, before a whole row of groups is fed anew, where no
/// node is slow: while many come and go that is the case again and again.
pub const OVERLOAD_MS_MIN: u64 = 2_000;

/// Most idle seeds that are compared for one newcomer.
pub const SEEDS_LOOKED_AT_MAX: u32 = 1024;

/// Less time than this between two counts of a hop says nothing, µs.
pub const HOP_PERIOD_US_MIN: u64 = 150_000;

/// A hop that nobody has heard of has just begun if bytes waited no longer than this, µs.
pub const HOP_NEW_US_MAX: u64 = 2_000_000;

/// Least time that such a hop is taken to have existed, µs: more than a period of reports.
pub const HOP_FIRST_US: u64 = 300_000;

/// Nodes of which it must be known what they send, before it can be said what is usual.
pub const SENDERS_MIN: u32 = 3;

/// How long the best that a node has shown is kept, ms; up to twice as long.
pub const BEST_KEPT_MS: u64 = 10_000;

/// How long it counts for the node itself where few of its fellows crawl, ms; up to twice as long.
/// Longer than what holds a fast node up now and then, shorter than people wait for an image.
pub const BEST_COUNTS_MS: u64 = 1_250;

/// For how long a hop's last report tells of the present, ms.
pub const HOP_FRESH_MS: u64 = 1_500;

/// How long a node must be suspected before its uplink is taken for slow, ms.
pub const SLOW_AFTER_MS: u64 = 450;

/// And in how many reports, one after the other.
pub const SLOW_REPORTS_MIN: u32 = 3;

/// A slow uplink sends less than one in so many of what others do.
pub const SLOW_SHARE: u64 = 3;

/// Nodes that may be found to be slow in a minute, or one in 32 of those that report if that is
/// more: each costs some others their parents.
pub const SLOW_PER_MINUTE_MIN: u32 = 8;

/// Nodes that may be found to be slow in [`WITNESS_MS`] because the registry sends faster than they
/// send, with nobody to compare with: as many as there are roots, and as many that are none.
pub const SLOW_BY_INTAKE_MAX: u32 = 2;

/// How long a node is taken for slow before it gets another try, ms; doubled each time, so often.
pub const SLOW_KEPT_MS: u64 = 600_000;
/// See [`SLOW_KEPT_MS`].
pub const SLOW_KEPT_DOUBLED_MAX: u32 = 4;

/// How long a node that bore witness alone against one parent is not heard against the next, ms:
/// its own downlink may be at fault.
pub const WITNESS_MS: u64 = 600_000;

/// Nodes up to which all report four times in each heartbeat; above, once.
pub const REPORTERS_FAST_MAX: u32 = 1_000;

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

/// Heartbeats that a node may miss whom another one has found to be silent.
pub const STUCK_HEARTBEATS_MAX: u32 = 1;

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

/// Most registries that one `xylem install` is for.
pub const REGISTRIES_MAX: u32 = 256;

/// Longest host name, and longest part of it between dots, bytes (RFC 1035).
pub const HOST_MAX: u32 = 253;
/// See [`HOST_MAX`].
pub const HOST_LABEL_MAX: u32 = 63;

/// Largest configuration file of a container runtime that is read, bytes.
pub const CONFIG_FILE_MAX: u64 = 1024 * 1024;

/// Most entries of a configuration directory that are looked at.
pub const CONFIG_ENTRIES_MAX: u32 = 4096;

/// Most directories that are made for, and removed with, a configuration file.
pub const DIRECTORIES_MAX: u32 = 16;

/// How long `xylem install` waits for what the node says of its registries, ms.
pub const STATUS_WAIT_MAX_MS: u64 = 3000;

/// How long `xylem doctor` waits for the node's own checks, ms: some ask the registry.
pub const CHECKS_WAIT_MAX_MS: u64 = 30_000;

/// How long a node may take to answer a ping, ms.
pub const PING_MAX_MS: u64 = 1000;

/// How far the clock may be off, ms.
pub const CLOCK_OFF_MAX_MS: u64 = 5000;

/// Most checks that are taken from a node.
pub const CHECKS_MAX: u32 = 256;

/// Longest text of a check that is shown, characters.
pub const CHECK_TEXT_MAX: u32 = 500;

/// Most preheats that are remembered; those that are over make room.
pub const PREHEATS_MAX: u32 = 64;

/// Most nodes in all of them together, at most 1 KiB each.
pub const PREHEAT_NODES_MAX: u32 = 4 * NODES_MAX;

/// Most images of one preheat: one for each platform.
pub const IMAGES_MAX: u32 = 8;

/// Longest reason of a node that is kept, characters.
pub const PREHEAT_ERROR_MAX: u32 = 200;

/// How long a node that was told may say nothing, ms.
pub const PREHEAT_SILENCE_MS: u64 = 10_000;

/// Longest text that says which nodes are meant, bytes, and most names in it.
pub const SELECTOR_MAX: u32 = 4096;
/// See [`SELECTOR_MAX`].
pub const SELECTOR_PARTS_MAX: u32 = 256;

/// Largest order to preheat, bytes.
pub const ORDER_MAX: u32 = 16 * 1024;

/// Nodes up to which each has its own bar while they preheat.
pub const BARS_MAX: u32 = 20;

/// Largest size that may be typed, bytes: that of a blob.
pub const SIZE_MAX: u64 = 1 << 40;

/// Lowest and highest rate that may be typed, bytes per second: 8 kbit/s and 1 Tbit/s.
pub const RATE_MIN: u64 = 1000;
/// See [`RATE_MIN`].
pub const RATE_MAX: u64 = 125_000_000_000;

/// Largest file of joins and leaves that `xylem plan` replays, bytes.
pub const OPS_MAX: u64 = 64 * 1024 * 1024;

/// Leaves that `xylem plan` tries at most, each from the whole trees, to say what one moves.
pub const LEAVES_TRIED_MAX: u32 = 512;

/// From a node's first byte to that of its child, us: what a hop over a link of 1 Gbit/s was
/// measured to take.
pub const HOP_US: u64 = 300;

/// Field tags and lengths around one string of a message, bytes.
const FRAMING: usize = 6;
/// `sha256:` and 64 digits.
const DIGEST_TEXT: usize = 71;
const PARENTS: usize = BRANCHES_MAX as usize * (shared::NODE_NAME_MAX + FRAMING);
const MEMBERSHIP: usize = DIGEST_TEXT + shared::REPOSITORY_MAX + PARENTS + 3 * FRAMING + 24;
const REPORT: usize = 2 * shared::NODE_NAME_MAX + 22 * (FRAMING + 10);
const HELLO: usize =
    shared::NODE_NAME_MAX + ADDRESS_MAX as usize + 2 * LABEL_MAX as usize + 5 * FRAMING;

/// Longest file of credentials that `xylem pull` reads, bytes.
pub const AUTH_FILE_MAX: u64 = 1 << 20;

/// Longest name and password, bytes.
pub const CREDENTIALS_MAX: u64 = 16 << 10;

/// A token that says it ends sooner is taken to be good for this long all the same, seconds: each
/// one costs a question.
pub const TOKEN_LIFE_MIN_S: u64 = 3;

const _: () = {
    assert!(2 * BEST_COUNTS_MS < BEST_KEPT_MS, "others are compared with for longer");
    assert!(UPSTREAMS_MAX as usize <= shared::UPSTREAMS_MAX);
    assert!(BRANCHES_MAX as usize <= shared::BRANCHES_MAX);
    assert!(TREES_PER_NODE_MAX as usize >= shared::TREES_MAX, "no hello is too long");
    assert!(HELLO + TREES_PER_NODE_MAX as usize * MEMBERSHIP <= MESSAGE_MAX as usize);
    assert!(REPORTS_MAX as usize * REPORT <= MESSAGE_MAX as usize);
    assert!(REPORTS_MAX <= HOPS_PER_NODE_MAX, "a message fits into what is kept");
    assert!(OUTGOING_MAX >= 2 * TREES_PER_NODE_MAX, "a newcomer is told all its places at once");
    assert!(OUTGOING_MAX >= TREES_PER_NODE_MAX + PREHEATS_MAX, "and all its preheats");
    assert!(PREHEATS_MAX as usize <= shared::PREHEATS_MAX, "a node takes all that control has");
    assert!(PREHEAT_NODES_MAX >= NODES_MAX && SELECTOR_MAX < ORDER_MAX);
    assert!(IMAGES_MAX as usize == shared::PLATFORMS_MAX);
    assert!(PREHEAT_SILENCE_MS > 4 * shared::PREHEAT_REPORT_MS);
    assert!(TREE_NODES_MAX <= NODES_MAX && NODES_MAX < CONNECTIONS_MAX);
    assert!(STUCK_HEARTBEATS_MAX < HEARTBEATS_MISSED_MAX);
    assert!(LOST_HEARTBEATS_MAX < HEARTBEATS_MISSED_MAX);
    assert!(HEARTBEAT_MIN_MS < HEARTBEAT_MS && HEARTBEAT_MS < HEARTBEAT_MAX_MS);
    assert!(HOST_LABEL_MAX < HOST_MAX);
    assert!(PING_MAX_MS < CHECKS_WAIT_MAX_MS);
    assert!(GONE_KEPT_MS > HEARTBEAT_MAX_MS as u64 * HEARTBEATS_MISSED_MAX as u64);
};
