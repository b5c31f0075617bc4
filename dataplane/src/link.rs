//! The seam between the hot half (the ring thread) and the cold half (agent): every message there
//! is, and the two bounded queues they travel in. No block passes here but those that come out of
//! TLS, and those by their slot.
//!
//! A blob goes through these messages in this order:
//!
//! ```text
//! hot  -> cold  Admit       may this caller have the blob?  -> Admitted | Answer
//! hot  -> cold  Want        a reader asks for a blob that is not open here (once)
//! cold -> hot   Present     it is in the store: serve the file
//!            or Fetch       it is not: here is a source, and a file to fill, or the file follows
//!                           in File while the source is being asked
//!            or Refuse      it cannot be had: tell the readers so
//! hot  -> cold  Lost        the source ended early       -> Source | Refuse
//! hot  -> cold  Silent      is the source alive, or is there a better one?
//!                                                        -> GiveUp, or nothing
//! hot  -> cold  Mismatch    all bytes here, wrong digest -> Source (registry, from 0) | Refuse
//! hot  -> cold  Stored      all bytes here and verified  -> Committed | Refuse
//! hot  -> cold  StoreFailed the disk refused a write; the flow is over, its readers are told
//! ```
//!
//! The cold half may send Fetch or Present without a Want: that is a pull without a reader.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use sha2::Sha256;
use xylem_protocol::Digest;
use xylem_protocol::http::{HeadError, Request, ResponseHead};
use xylem_protocol::limits::QUEUE_MAX;

use crate::access::{GrantKey, Vouchers};
use crate::hops::ConnSample;
use crate::ring::{EventFd, SlotLease};

/// A downstream connection that waits for an answer; opaque to the cold half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Which try at a lane of a blob a message is about; messages of an earlier try are ignored. The
/// highest bit is the lane: 0 when one source brings everything, otherwise the stripe.
pub type Attempt = u32;

/// The first try at a lane.
pub const fn first_attempt(lane: u8) -> Attempt {
    (lane as Attempt) << 31
}

/// The lane that a try is about.
pub const fn lane_of(attempt: Attempt) -> u8 {
    (attempt >> 31) as u8
}

/// Where a blob's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Plain HTTP, read by the ring thread itself.
    Http {
        /// Name of the hop's upper end: a node's name, or `registry`.
        upstream: Arc<str>,
        /// Where to connect to.
        address: SocketAddr,
        /// Request head up to and including the last header line's CRLF, without `Range` and the
        /// empty line.
        head: Vec<u8>,
        /// Whether it is a registry: it knows nothing of trees.
        registry: bool,
        /// Its longest silence before its answer's head, ms; a registry's in mid-body too.
        answer_ms: u64,
    },
    /// TLS: the cold half reads it into slots that the ring thread lends it.
    Cold {
        /// Name of the hop's upper end.
        upstream: Arc<str>,
    },
}

impl Source {
    /// Name of the hop's upper end: a node's name, or `registry`.
    pub const fn upstream(&self) -> &Arc<str> {
        match self {
            Self::Http { upstream, .. } | Self::Cold { upstream } => upstream,
        }
    }
}

/// Why a source was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("connection broke")]
    Broken(#[source] std::io::Error),
    /// The connection ended before the body did.
    #[error("upstream ended the body early")]
    Short,
    /// No byte for too long.
    #[error("upstream sent nothing for {0} ms")]
    Stalled(u64),
    /// Another status than 200 or 206.
    #[error("upstream answered {}", .0.status)]
    Status(Box<ResponseHead>),
    /// None is lost: each stripe is to have one of its own from here on.
    #[error("one source is no longer enough")]
    Split,
    /// None is lost: control has named a better one.
    #[error("another parent")]
    Moved,
    /// A head that is none.
    #[error("upstream's answer cannot be read")]
    Head(#[from] HeadError),
    /// A 200 or 206 that is not the range that was asked for, or of another size than before.
    #[error("upstream answered with another range or size than asked for")]
    Range,
}

/// Bytes that are in the file already, and the hash so far.
#[derive(Debug, Clone)]
pub struct Resume {
    /// How many; a multiple of the unit.
    pub bytes: u64,
    /// SHA-256 over them.
    pub hasher: Sha256,
    /// The whole blob's size.
    pub size: u64,
}

/// A file to be filled with a blob.
#[derive(Debug)]
pub struct FillFile {
    /// Open for reading and writing; not preallocated while the size is unknown.
    pub file: OwnedFd,
    /// Whether it was opened with `O_DIRECT`.
    pub direct: bool,
}

/// From the ring thread to the cold half.
#[derive(Debug)]
pub enum ToCold {
    /// A request for something that is not a blob's body. To be answered once with
    /// [`ToHot::Answer`].
    Ask {
        /// Whom to answer.
        ticket: Ticket,
        /// Its head.
        request: Box<Request>,
        /// Its body, for the node's own API.
        body: Vec<u8>,
    },
    /// A request for a blob whose caller's right to it is not known. To be answered once, with
    /// [`ToHot::Admitted`] or [`ToHot::Answer`].
    Admit {
        /// Who asks.
        ticket: Ticket,
        /// The request's head.
        request: Box<Request>,
    },
    /// A blob that is not open here.
    Want {
        /// Which.
        digest: Digest,
        /// The head of the first request for it: repository, tree, path.
        request: Box<Request>,
    },
    /// A flow's source ended before the end.
    Lost {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// Bytes that are here: the next source starts there.
        at: u64,
        /// Why.
        cause: Lost,
    },
    /// A flow's source is a peer that has been silent for a while: is it alive?
    Silent {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// Nothing has come since another source was lost in mid-body: somebody else may be
        /// quicker.
        late: bool,
    },
    /// All bytes are here and their hash is another.
    Mismatch {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// All bytes are written and verified: commit.
    Stored {
        /// Which blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// When its first byte of this time came, `CLOCK_MONOTONIC`; 0 if none did.
        first_byte_ns: u64,
        /// Readers now.
        readers: u32,
    },
    /// A write failed; the flow is over and its readers were told.
    StoreFailed {
        /// Which blob.
        digest: Digest,
        /// Why.
        cause: std::io::Error,
    },
    /// A slot to fill from a [`Source::Cold`]: the bytes from `at` on.
    Fill {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// Offset in the blob of the first byte to fill in.
        at: u64,
        /// Where to put them. Comes back with [`ToHot::Filled`], also when nothing was filled.
        lease: SlotLease,
    },
    /// Units that have been hashed: for the partial blob's record.
    Units {
        /// Which blob.
        digest: Digest,
        /// The whole blob's size: stands in the record, so that it can be resumed.
        size: u64,
        /// First unit.
        first: u32,
        /// CRC32C of each.
        crc: Vec<u32>,
    },
    /// What the ring thread has counted; once a tick while something moves.
    Report(Box<Report>),
}

/// From the cold half to the ring thread.
#[derive(Debug)]
pub enum ToHot {
    /// Rights that are to be remembered.
    Grants {
        /// Whose and to what.
        keys: Vec<GrantKey>,
        /// How long.
        until: Instant,
    },
    /// All rights to that digest are to be forgotten.
    Revoke {
        /// Which.
        digest: Digest,
    },
    /// The keys by which nodes vouch for their callers.
    Vouchers(Vouchers),
    /// An [`ToCold::Admit`]'s caller may have the blob, this time.
    Admitted {
        /// Who.
        ticket: Ticket,
    },
    /// The answer to an [`ToCold::Ask`], or to an [`ToCold::Admit`] whose caller may not.
    Answer {
        /// Whom.
        ticket: Ticket,
        /// Status code.
        status: u16,
        /// `Content-Type`.
        content_type: String,
        /// Digest of the manifest that the body is.
        digest: Option<Digest>,
        /// Further header lines, each ended by CRLF.
        extra: String,
        /// `Content-Length` of the answer to a HEAD, whose body is empty.
        head_length: Option<u64>,
        /// The body.
        body: Bytes,
    },
    /// The blob lies complete in this file.
    Present {
        /// Which.
        digest: Digest,
        /// Open for reading.
        file: OwnedFd,
        /// Its size.
        size: u64,
        /// Whether the file takes `O_DIRECT` and was opened so.
        direct: bool,
    },
    /// Fetch the blob from this source into this file.
    Fetch {
        /// Which.
        digest: Digest,
        /// Where to put it; `None`: it follows with [`ToHot::File`], or [`ToHot::Refuse`] does.
        file: Option<FillFile>,
        /// What the file holds already.
        resume: Option<Resume>,
        /// Where from.
        source: Source,
        /// Where the second stripe comes from; `source` is for the first then.
        twin: Option<Box<Source>>,
        /// Whether a [`ToHot::Split`] may follow before long.
        splits: bool,
    },
    /// Each stripe is to have a source of its own: asked for by [`ToCold::Lost`] with
    /// [`Lost::Split`], one for each lane.
    Split {
        /// Which blob.
        digest: Digest,
        /// The present try at the whole.
        attempt: Attempt,
    },
    /// The file of a blob whose source is being asked already.
    File {
        /// Which blob.
        digest: Digest,
        /// Where to put it.
        file: FillFile,
    },
    /// The next source of a flow.
    Source {
        /// Which blob.
        digest: Digest,
        /// The try that was lost; the new one is the next number.
        attempt: Attempt,
        /// From the first byte again (after a mismatch), or from where the flow is.
        restart: bool,
        /// Where from.
        source: Source,
    },
    /// A flow's source is stuck: leave it, as if it had stalled; or another one is better.
    GiveUp {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// Nothing is wrong with it.
        moved: bool,
    },
    /// The blob cannot be had.
    Refuse {
        /// Which.
        digest: Digest,
        /// Status for readers that have no head yet; the others are cut off.
        status: u16,
        /// Error code of the distribution specification.
        code: &'static str,
        /// One line: what happened, why, what to do.
        message: String,
        /// Further header lines, each ended by CRLF.
        extra: String,
    },
    /// The blob is committed; its file stays valid.
    Committed {
        /// Which.
        digest: Digest,
    },
    /// A [`Source::Cold`] has answered: the blob's size.
    Opened {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// Whole size in bytes.
        size: u64,
    },
    /// A lent slot comes back.
    Filled {
        /// Which blob.
        digest: Digest,
        /// Which try.
        attempt: Attempt,
        /// The slot.
        lease: SlotLease,
        /// How many bytes were filled in, or why there are no more.
        result: Result<u32, Lost>,
    },
    /// Finish: close everything.
    Shutdown,
}

/// Progress of one flow.
#[derive(Debug, Clone)]
pub struct FlowProgress {
    /// Which blob.
    pub digest: Digest,
    /// Bytes received, resumed ones included.
    pub received_bytes: u64,
    /// Of each stripe: the place in the blob before which all of it has come.
    pub edges: [u64; 2],
    /// Bytes on disk.
    pub stored_bytes: u64,
    /// Whole size; 0 while not known.
    pub size_bytes: u64,
    /// Readers now.
    pub readers: u32,
    /// When the first byte came, `CLOCK_MONOTONIC`; 0 before.
    pub first_byte_ns: u64,
    /// Name of the hop's upper end.
    pub upstream: Arc<str>,
}

/// What the ring thread counts.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Flows now.
    pub flows: Vec<FlowProgress>,
    /// Connections that moved since the last report, and those that closed.
    pub connections: Vec<ConnSample>,
    /// Downstream connections now.
    pub downstream: u32,
    /// Slots in use now.
    pub slots_used: u32,
    /// Readers served from the file now.
    pub catching_up: u32,
    /// Times that a reader was moved from the live edge to the file.
    pub detached_total: u64,
    /// For each source that was lost and replaced since the last report: from its last byte to the
    /// next one's first, ms.
    pub gaps_ms: Vec<u32>,
}

/// The hot half's ends.
#[derive(Debug)]
pub struct HotEnd {
    /// To the cold half.
    pub to_cold: Outbox<ToCold>,
    /// From the cold half.
    pub from_cold: Receiver<ToHot>,
    /// Rings when something lies in `from_cold`.
    pub bell: Arc<EventFd>,
}

/// The cold half's ends.
#[derive(Debug)]
pub struct ColdEnd {
    /// To the ring thread.
    pub to_hot: Outbox<ToHot>,
    /// From the ring thread.
    pub from_hot: Receiver<ToCold>,
    /// Rings when something lies in `from_hot`.
    pub bell: Arc<EventFd>,
}

/// A bounded queue and the other side's bell.
#[derive(Debug, Clone)]
pub struct Outbox<T> {
    queue: Sender<T>,
    bell: Arc<EventFd>,
}

impl<T> Outbox<T> {
    /// Puts a message in and rings.
    ///
    /// # Errors
    /// Gives the message back when the queue is full or the other half is gone.
    pub fn send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(message)?;
        self.bell.ring();
        Ok(())
    }
}

/// Makes the pair of queues.
///
/// # Errors
/// No event descriptor could be had.
pub fn pair() -> std::io::Result<(HotEnd, ColdEnd)> {
    let (hot_bell, cold_bell) = (Arc::new(EventFd::new()?), Arc::new(EventFd::new()?));
    let (cold_queue, from_hot) = bounded(QUEUE_MAX);
    let (hot_queue, from_cold) = bounded(QUEUE_MAX);
    let hot = HotEnd {
        to_cold: Outbox { queue: cold_queue, bell: cold_bell.clone() },
        from_cold,
        bell: hot_bell.clone(),
    };
    let cold =
        ColdEnd { to_hot: Outbox { queue: hot_queue, bell: hot_bell }, from_hot, bell: cold_bell };
    Ok((hot, cold))
}
