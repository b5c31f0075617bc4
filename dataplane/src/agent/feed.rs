//! Carries a blob out of TLS into the slots that the ring thread lends. Reads no further than there
//! are slots.

use std::rc::Rc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tracing::debug;
use xylem_protocol::Digest;
use xylem_protocol::limits::REGISTRY_ANSWER_MS;
use xylem_protocol::stripe::{STRIPE_BYTES, piece_end};

use super::Agent;
use crate::link::{Attempt, Lost, ToHot};
use crate::oneline::chain;
use crate::origin::{BlobStream, Credentials, OriginError, Repository};
use crate::ring::SlotLease;

/// A slot to fill from `at` on.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) at: u64,
    pub(super) lease: SlotLease,
}

/// One try at one blob.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) digest: Digest,
    pub(super) attempt: Attempt,
    pub(super) repository: Repository,
    /// Which of the registry's addresses.
    pub(super) turn: u32,
    pub(super) credentials: Credentials,
    pub(super) url: reqwest::Url,
    pub(super) at: u64,
    /// Whether it brings a stripe: one piece of it after the other.
    pub(super) striped: bool,
}

impl Feed {
    /// Reads until the blob ends, breaks, or nobody lends slots any more.
    pub(super) async fn run(self, agent: Rc<Agent>, mut leases: mpsc::Receiver<Lent>) {
        let Self { digest, attempt, .. } = self;
        let feed = Rc::new(self);
        match feed.open().await {
            Ok(stream) => feed.carry(&agent, stream, &mut leases).await,
            Err(error) => {
                debug!(%digest, error = chain(&error), "cannot open");
                agent.lost_cold(digest, attempt, &error);
            }
        }
        leases.close();
        while let Some(Lent { lease, .. }) = leases.recv().await {
            give_back(&agent, digest, attempt, lease);
        }
    }

    async fn open(&self) -> Result<BlobStream, OriginError> {
        self.open_at(self.at).await
    }

    /// Opens the blob, or the piece of it, from there on.
    async fn open_at(&self, at: u64) -> Result<BlobStream, OriginError> {
        let Some(registry) = self.repository.origin().registry() else {
            return Err(OriginError::NoUpstream);
        };
        let (registry, name) = (registry.endpoint(self.turn), self.repository.name());
        let end = self.striped.then(|| piece_end(at));
        registry.open(name, self.url.clone(), (at, end), &self.credentials).await
    }

    async fn carry(
        self: &Rc<Self>,
        agent: &Agent,
        stream: BlobStream,
        leases: &mut mpsc::Receiver<Lent>,
    ) {
        let Self { digest, attempt, .. } = **self;
        let size = stream.size;
        agent.post.send(ToHot::Opened { digest, attempt, size });
        let mut tap = Tap { stream, rest: Bytes::new(), failed: None };
        let mut here = if tap.stream.from_start { 0 } else { self.at };
        let mut next = self.ask_next(&tap, here, size);
        while let Some(Lent { at, mut lease }) = leases.recv().await {
            let mut result = Ok(0);
            let is_next = !tap.stream.from_start && at == here + STRIPE_BYTES;
            if self.striped && is_next && at.is_multiple_of(STRIPE_BYTES) {
                match next.take() {
                    Some(asked) => match asked.await {
                        Ok(Ok(stream)) => {
                            tap = Tap { stream, rest: Bytes::new(), failed: None };
                            here = if tap.stream.from_start { 0 } else { at };
                            next = self.ask_next(&tap, at, size);
                        }
                        Ok(Err(error)) => result = Err(lost(error)),
                        Err(_) => result = Err(Lost::Short),
                    },
                    None => result = Err(Lost::Range),
                }
            }
            if result.is_ok() && tap.stream.from_start && at > here {
                result = tap.pass(at - here).await.map(|()| 0);
                here = at;
            }
            if result.is_ok() {
                result =
                    if at == here { tap.fill(lease.bytes_mut()).await } else { Err(Lost::Range) };
            }
            let ended = result.is_err();
            here += u64::from(*result.as_ref().unwrap_or(&0));
            agent.post.send(ToHot::Filled { digest, attempt, lease, result });
            if ended {
                return;
            }
        }
    }

    /// Asks for the next piece of the stripe while the one at hand comes.
    fn ask_next(self: &Rc<Self>, tap: &Tap, at: u64, size: u64) -> Option<Asked> {
        let next = piece_end(at) + STRIPE_BYTES;
        if !self.striped || next >= size || tap.stream.from_start {
            return None;
        }
        let feed = self.clone();
        Some(tokio_uring::spawn(async move { feed.open_at(next).await }))
    }
}

/// A piece that is being asked for.
type Asked = tokio::task::JoinHandle<Result<BlobStream, OriginError>>;

/// Gives a slot back that nothing was filled into.
pub(super) fn give_back(agent: &Agent, digest: Digest, attempt: Attempt, lease: SlotLease) {
    let result = Err(Lost::Short);
    agent.post.send(ToHot::Filled { digest, attempt, lease, result });
}

/// A stream, and what of its last chunk did not fit.
struct Tap {
    stream: BlobStream,
    rest: Bytes,
    /// An error that came after bytes that had to be handed on first.
    failed: Option<OriginError>,
}

impl Tap {
    /// Fills in what is there: at least a byte, then whatever comes without waiting.
    async fn fill(&mut self, buffer: &mut [u8]) -> Result<u32, Lost> {
        let mut filled = 0;
        loop {
            let part = self.rest.len().min(buffer.len() - filled);
            self.rest.copy_to_slice(&mut buffer[filled..filled + part]);
            filled += part;
            if filled == buffer.len() || !self.refill(filled == 0).await? {
                // A slot is 1 MiB.
                return Ok(u32::try_from(filled).unwrap_or(u32::MAX));
            }
        }
    }

    /// Drops bytes that nobody wants: the registry knows no ranges.
    async fn pass(&mut self, mut bytes: u64) -> Result<(), Lost> {
        while bytes > 0 {
            if self.rest.is_empty() {
                self.refill(true).await?;
            }
            let part = self.rest.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.rest.advance(part);
            bytes -= part as u64;
        }
        Ok(())
    }

    /// Takes the next chunk; false if there is none yet and `wait` is not set. The end is an error
    /// here: nobody lends a slot for bytes beyond the blob's size.
    async fn refill(&mut self, wait: bool) -> Result<bool, Lost> {
        if let Some(error) = self.failed.take_if(|_| wait) {
            return Err(lost(error));
        }
        if self.failed.is_some() {
            return Ok(false);
        }
        let chunk = tokio::select! {
            biased;
            chunk = self.stream.chunk() => chunk,
            () = std::future::ready(()), if !wait => return Ok(false),
        };
        match chunk {
            Ok(Some(chunk)) => self.rest = chunk,
            Ok(None) if wait => return Err(Lost::Short),
            Ok(None) => return Ok(false),
            Err(error) if wait => return Err(lost(error)),
            Err(error) => {
                self.failed = Some(error);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn lost(error: OriginError) -> Lost {
    match error {
        OriginError::Timeout(_) => Lost::Stalled(REGISTRY_ANSWER_MS),
        OriginError::Range(_) => Lost::Range,
        error => Lost::Broken(std::io::Error::other(error)),
    }
}
