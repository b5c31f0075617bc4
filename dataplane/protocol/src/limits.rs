//! Every bound on what one process may make another hold: lengths, counts, queues. Numbers only, no
//! code.
//!
//! Sizes that the operator sets (`--memory`) are derived from these in `dataplane::ring::arena`.

/// Bytes of a unit: the granule of the presence bitmap, of checksums and of striping (FaaSNet
/// §3.5).
pub const UNIT_BYTES: u32 = 512 * 1024;

/// Bytes of a slot, the registered buffer that a block lives in between socket and disk.
pub const SLOT_BYTES: u32 = 1024 * 1024;

/// Most bytes asked of the socket by one receive; larger receives do not get cheaper.
pub const RECV_MAX: u32 = UNIT_BYTES;

/// Fewest and most slots in the pool: 2 MiB to 1 GiB of `--memory`.
pub const SLOTS_MIN: u16 = 4;
/// See [`SLOTS_MIN`].
pub const SLOTS_MAX: u16 = 1024;

/// Alignment of offsets, lengths and addresses for `O_DIRECT`, bytes.
pub const DIRECT_ALIGN: u32 = 4096;

/// Longest HTTP head accepted from a client, a peer or a registry, bytes.
pub const HEAD_MAX: u32 = 16 * 1024;

/// Most header lines in one head.
pub const HEADERS_MAX: usize = 64;

/// Longest request body that the node's own API accepts, bytes.
pub const BODY_MAX: u32 = 16 * 1024;

/// Largest manifest or index relayed, bytes (the distribution specification's recommended limit).
pub const MANIFEST_MAX: u32 = 4 * 1024 * 1024;

/// Largest answer that the cold half may give to one request, bytes.
pub const ANSWER_MAX: u32 = MANIFEST_MAX + 64 * 1024;

/// Largest blob, bytes: 1 TiB.
pub const BLOB_MAX: u64 = 1 << 40;

/// What one connection may hold of an unfinished request or an answer that it does not take, bytes,
/// without being counted against [`HELD_BYTES_MAX`].
pub const HELD_EACH: usize = 4096;

/// What all connections together may hold beyond that, bytes; more is refused.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most downstream connections of one node; the next one is closed at once.
pub const CONNECTIONS_MAX: u16 = 12_000;

/// Most blobs being fetched or waiting to be fetched at once.
pub const FLOWS_MAX: u16 = 512;

/// Smallest blob whose stripes come by two trees, bytes. Below, the second connection costs more
/// than the second uplink brings.
pub const STRIPED_MIN: u64 = 4 * 1024 * 1024;

/// Bytes of a blob within which it follows this node to another place in its trees.
pub const MOVE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Times that a blob follows.
pub const MOVES_MAX: u32 = 16;

/// Most finished blobs open for reading at once.
pub const OPEN_BLOBS_MAX: u16 = 1024;

/// Most readers of one blob at once.
pub const READERS_PER_BLOB_MAX: u16 = 4096;

/// Most requests waiting for the cold half's answer.
pub const PENDING_MAX: u16 = 4096;

/// Messages in each queue between the hot and the cold half.
pub const QUEUE_MAX: usize = 4096;

/// Hash jobs in flight; one for each slot's two units suffices.
pub const HASH_JOBS_MAX: usize = 2 * SLOTS_MAX as usize;

/// Latencies noted for one connection, and connections closed, between two reports.
pub const SAMPLES_MAX: usize = 4096;

/// Submission queue entries of the ring.
pub const RING_ENTRIES: u32 = 1024;

/// Longest repository name, bytes (distribution specification).
pub const REPOSITORY_MAX: usize = 255;

/// Longest tag, bytes (distribution specification).
pub const TAG_MAX: usize = 128;

/// Longest `host:port` of a registry, bytes.
pub const HOST_MAX: usize = 255;

/// Most registries that one node is configured for, and most that it remembers beside those when
/// it takes any.
pub const REGISTRIES_MAX: usize = 64;

/// Most mirrors of one registry.
pub const MIRRORS_MAX: usize = 8;

/// Most grants remembered, in each half of a node: who may have which blob or manifest. About 150
/// bytes each.
pub const GRANTS_MAX: usize = 16 * 1024;

/// Most digests that are remembered as given to anybody; 32 bytes each on disk.
pub const PUBLIC_MAX: usize = 64 * 1024;

/// How long a registry that could not be reached is not asked again who may have what is here, ms.
pub const REGISTRY_DOWN_MS: u64 = 2_000;

/// Default time for which a registry's yes to a caller is remembered, ms.
pub const GRANT_MS: u64 = 300_000;

/// How long an upstream stream whose credentials the registry no longer takes waits for a client
/// to bring new ones, ms.
pub const CREDENTIAL_WAIT_MS: u64 = 2_000;

/// Longest `Authorization` that is passed on, bytes; a head is not longer.
pub const AUTHORIZATION_MAX: usize = HEAD_MAX as usize;

/// Tags whose last digest is remembered.
pub const TAGS_REMEMBERED_MAX: usize = 1024;

/// Longest file of those tags, bytes; beyond it the older ones go.
pub const TAGS_FILE_MAX: u64 = 4 << 20;

/// How long after a tag was confirmed that is written down, ms: others may be until then.
pub const TAGS_WRITE_MS: u64 = 1_000;

/// Longest node name, bytes.
pub const NODE_NAME_MAX: usize = 63;

/// Most nodes in a `Xylem-Path` header.
pub const PATH_NODES_MAX: usize = 32;

/// Most alternatives that control names for one upstream.
pub const UPSTREAMS_MAX: usize = 4;

/// Most branches of one assignment, and so most stripes of a blob.
pub const BRANCHES_MAX: usize = 2;

/// Most hops that a node tells apart, each about 20 KiB; further peers share one entry.
pub const HOPS_MAX: usize = 256;

/// Most layers in one manifest.
pub const LAYERS_MAX: usize = 4096;

/// A peer whose bytes should flow and that has been silent for this long is asked whether it is
/// alive, ms. It may be waiting for its own upstream.
pub const SILENT_MS: u64 = 300;

/// How long a peer may take to go on where another source was lost, ms. Then whoever else there is
/// is asked, the registry at last: also if the peer is alive, since it may be waiting for those who
/// wait here.
pub const REPAIR_MS: u64 = 100;

/// How long a silent peer may take to say that it is alive, ms. Then it is left for the next
/// source.
pub const ALIVE_MS: u64 = 350;

/// A peer that is alive and whose body should flow is left after so much silence all the same, ms;
/// while other blobs come, after [`PEER_ANSWER_MS`]: its turn may come later there.
pub const STALL_MS: u64 = 3_000;

/// How long a peer that did not say that it is alive is not asked for further blobs, ms.
pub const PEER_STUCK_MS: u64 = 10_000;

/// The ring thread blames nobody for a silence in which it did not run itself for this long, ms.
pub const OWN_STALL_MS: u64 = 100;

/// Longest wait for a connection, ms.
pub const CONNECT_MS: u64 = 500;

/// Longest wait for the head of a peer's answer, ms: it may have to wait for its own upstream.
pub const PEER_ANSWER_MS: u64 = 10_000;

/// Longest silence of a registry, ms.
pub const REGISTRY_ANSWER_MS: u64 = 15_000;

/// Most upstream connections kept for the next blob.
pub const IDLE_UPLINKS_MAX: usize = 16;

/// How long a client may take to send a whole head, ms.
pub const HEAD_WAIT_MS: u64 = 15_000;

/// How long an idle keep-alive connection is kept, ms.
pub const IDLE_MS: u64 = 120_000;

/// How long a client that was refused may go on sending before its connection is reset, ms.
pub const DRAIN_MS: u64 = 5_000;

/// How much of what it sends is dropped until then, bytes.
pub const DRAIN_BYTES_MAX: u64 = 64 << 20;

/// Period of the ring thread's tick, ms: watchdogs and hop samples hang on it.
pub const TICK_MS: u64 = 25;

/// How long after its image is first asked for a blob waits for control to name a parent, before
/// it comes from the registry, ms; at most, where control has lately needed as long.
pub const JOIN_WAIT_MS: u64 = 100;

/// The same at least, however quick control has been, ms: a control that answers in 30 to 70 us has
/// taken in a burst of several hundred nodes by then, none of which is to go to the registry.
pub const JOIN_WAIT_MIN_MS: u64 = 25;

/// How long a manifest waits for that at most, ms: it is small, and its client waits for nothing
/// else.
pub const MANIFEST_JOIN_WAIT_MS: u64 = 20;

/// The same at least, ms.
pub const MANIFEST_JOIN_WAIT_MIN_MS: u64 = 5;

/// Such waits are counted in steps of this length, ms: in a step in which this node did not run,
/// control's answer may have come unread.
pub const JOIN_STEP_MS: u64 = 5;

/// How long a peer that could not be connected to is not asked for further blobs, ms. Longer than a
/// connection attempt, so that a dead parent costs that once and not for every blob; short, because
/// control names another one within seconds.
pub const PEER_AVOID_MS: u64 = 2_000;

/// Most trees that a node remembers; the one longest not asked for is left.
pub const TREES_MAX: usize = 256;

/// Most blobs whose tree is remembered.
pub const BLOB_IMAGES_MAX: usize = 16 * 1024;

/// Bytes of manifests kept in memory; larger ones are read from the store.
pub const MANIFEST_CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How long a peer may take to answer with a whole manifest, ms: the registry's is as good.
pub const PEER_MANIFEST_MS: u64 = 500;

/// How long the cold half may take to answer one request, ms.
pub const ANSWER_WAIT_MS: u64 = 30_000;

/// How often the registry is tried for one blob.
pub const REGISTRY_TRIES_MAX: u32 = 3;

/// Wait before the second try at the registry, ms; doubled for each further one.
pub const REGISTRY_BACKOFF_MS: u64 = 250;

/// Most redirects and token challenges followed for one blob.
pub const REDIRECTS_MAX: u32 = 5;

/// Largest answer of a token service, a tag list or a layout's index, bytes.
pub const SMALL_ANSWER_MAX: usize = 256 * 1024;

/// A token that says it lives longer is asked for again after this time all the same, seconds.
pub const TOKEN_LIFE_MAX_S: u64 = 86_400;

/// Most bearer tokens kept.
pub const TOKENS_MAX: usize = 256;

/// Blobs that one pull fetches at once.
pub const PULL_BLOBS_MAX: usize = 4;

/// Most pulls that run or are remembered.
pub const PULLS_MAX: usize = 64;

/// Longest time for which a question for a pull may wait for its end, ms.
pub const PULL_WAIT_MAX_MS: u64 = 10_000;

/// Most images whose last pull is remembered; the one longest not asked for goes first.
pub const HISTORY_IMAGES_MAX: usize = 64;

/// Most blobs of those images together, and most blobs whose fetch is remembered. A fetch takes
/// about 400 bytes, at most 1.5 KiB: 1.6 MiB in all, at most 6 MiB. A blob in an image takes 40.
pub const HISTORY_BLOBS_MAX: usize = 4096;

/// Most sources remembered for one blob; the first ones go before the last.
pub const HISTORY_SOURCES_MAX: usize = 6;

/// Most parents remembered for one image.
pub const HISTORY_PARENTS_MAX: usize = 8;

/// Longest reason remembered for a source that was lost, bytes.
pub const HISTORY_REASON_MAX: usize = 160;

/// Most tags, and most images of indexes, whose names are remembered; about 300 bytes each.
pub const HISTORY_NAMES_MAX: usize = 1024;

/// How long nothing may happen to an image before a request for it is another pull, ms.
pub const HISTORY_PAUSE_MS: u64 = 10_000;

/// How long a registry may take to answer the doctor's ping, ms.
pub const PING_WAIT_MS: u64 = 2_000;

/// How far this node's clock may be from a registry's, ms.
pub const CLOCK_OFF_MAX_MS: u64 = 60_000;

/// Less free space than this in the store is warned of, bytes.
pub const STORE_FREE_MIN: u64 = 1 << 30;

/// Most preheats that one node is at.
pub const PREHEATS_MAX: usize = 64;

/// Most platforms of one preheat.
pub const PLATFORMS_MAX: usize = 8;

/// How often a node looks how far its preheats are, ms.
pub const PREHEAT_REPORT_MS: u64 = 250;

/// Shortest and longest wait before the link to control is tried again, ms. The longest one, with
/// its jitter, is shorter than the two heartbeats in which a new control collects claims.
pub const CONTROL_BACKOFF_MIN_MS: u64 = 100;
/// See [`CONTROL_BACKOFF_MIN_MS`].
pub const CONTROL_BACKOFF_MAX_MS: u64 = 1_000;

/// Messages to control that may wait while its link is slow.
pub const CONTROL_QUEUE_MAX: usize = 1024;

/// How long a goodbye may take, ms.
pub const GOODBYE_MS: u64 = 500;

/// Longest configuration file, bytes.
pub const CONFIG_FILE_MAX: u64 = 64 * 1024;

const _: () = {
    assert!(SLOT_BYTES.is_multiple_of(UNIT_BYTES));
    assert!(UNIT_BYTES.is_multiple_of(DIRECT_ALIGN));
    assert!(RECV_MAX <= SLOT_BYTES);
    assert!(HEADERS_MAX <= HEAD_MAX as usize);
    assert!(HELD_BYTES_MAX > 8 * ANSWER_MAX as usize, "several large manifests at a time");
    assert!(ANSWER_MAX > MANIFEST_MAX);
    assert!(SILENT_MS > 2 * TICK_MS, "a watchdog finer than its clock");
    assert!(SILENT_MS + ALIVE_MS + 4 * TICK_MS < 1_000, "a stuck parent costs less than a second");
    assert!(SILENT_MS + ALIVE_MS < STALL_MS);
    assert!(JOIN_WAIT_MIN_MS < JOIN_WAIT_MS && MANIFEST_JOIN_WAIT_MS < JOIN_WAIT_MIN_MS);
    assert!(JOIN_STEP_MS <= MANIFEST_JOIN_WAIT_MIN_MS);
    assert!(REPAIR_MS > 2 * TICK_MS && REPAIR_MS + 2 * TICK_MS < 200, "what a lost parent costs");
    assert!(STALL_MS < PEER_ANSWER_MS && PEER_ANSWER_MS < REGISTRY_ANSWER_MS);
    assert!(QUEUE_MAX >= FLOWS_MAX as usize + PENDING_MAX as usize / 2);
    assert!(PING_WAIT_MS < ANSWER_WAIT_MS && PULL_WAIT_MAX_MS < ANSWER_WAIT_MS);
    assert!(HISTORY_BLOBS_MAX >= LAYERS_MAX, "the largest image is explained whole");
    assert!(HISTORY_BLOBS_MAX >= 2 * FLOWS_MAX as usize, "what runs is not forgotten");
    assert!(BLOB_MAX / UNIT_BYTES as u64 <= u32::MAX as u64);
};
