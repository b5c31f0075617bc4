//! The hash thread: SHA-256 of each flow in order, CRC32C of each unit. It reads slots that the
//! relay holds for it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::limits::{FLOWS_MAX, HASH_JOBS_MAX};

use crate::relay::FlowId;
use crate::ring::arena::SlotView;
use crate::ring::{EventFd, Slot};

/// What the ring thread asks for.
#[derive(Debug)]
enum Job {
    /// A flow begins, or begins anew, with the hash of what its file holds.
    Begin { flow: FlowId, hasher: Sha256 },
    /// The next bytes.
    Hash { flow: FlowId, slot: Slot, view: SlotView },
    /// The last bytes were given: what is the digest?
    Finish { flow: FlowId },
}

/// What the hash thread answers, in the order of the jobs.
#[derive(Debug)]
pub(super) enum Hashed {
    /// A part is done.
    Part { flow: FlowId, slot: Slot, bytes: u32, crc: u32 },
    /// The digest of the whole.
    Whole { flow: FlowId, digest: Digest },
}

/// The ring thread's handle.
#[derive(Debug)]
pub(super) struct Hasher {
    jobs: Option<Sender<Job>>,
    done: Receiver<Hashed>,
    thread: Option<JoinHandle<()>>,
}

/// Jobs in flight: every slot's units, and a beginning and an end for every flow.
const JOBS_MAX: usize = HASH_JOBS_MAX + 2 * FLOWS_MAX as usize;

impl Hasher {
    /// Starts the thread; `bell` rings when an answer lies in the queue.
    pub(super) fn start(bell: Arc<EventFd>) -> io::Result<Self> {
        let (jobs, todo) = bounded(JOBS_MAX);
        let (answers, done) = bounded(JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("xylem-hash".into())
            .spawn(move || work(&todo, &answers, &bell))?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    pub(super) fn begin(&self, flow: FlowId, hasher: Sha256) {
        self.give(Job::Begin { flow, hasher });
    }

    pub(super) fn hash(&self, flow: FlowId, slot: Slot, view: SlotView) {
        self.give(Job::Hash { flow, slot, view });
    }

    pub(super) fn finish(&self, flow: FlowId) {
        self.give(Job::Finish { flow });
    }

    fn give(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("a running hash thread");
        // The queue has room for every slot's units and every flow: it cannot be full.
        jobs.try_send(job).expect("a hash thread that keeps its queue");
    }

    pub(super) fn next(&self) -> Option<Hashed> {
        self.done.try_recv().ok()
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

fn work(todo: &Receiver<Job>, answers: &Sender<Hashed>, bell: &EventFd) {
    let mut flows: HashMap<FlowId, Sha256> = HashMap::new();
    for job in todo {
        let answer = match job {
            Job::Begin { flow, hasher } => {
                flows.insert(flow, hasher);
                continue;
            }
            Job::Hash { flow, slot, view } => {
                let bytes = view.bytes();
                flows.entry(flow).or_default().update(bytes);
                let length = u32::try_from(bytes.len()).expect("at most a unit");
                Hashed::Part { flow, slot, bytes: length, crc: crc32c::crc32c(bytes) }
            }
            Job::Finish { flow } => {
                let hasher = flows.remove(&flow).unwrap_or_default();
                Hashed::Whole { flow, digest: Digest::from_bytes(hasher.finalize().into()) }
            }
        };
        // As many answers as jobs fit: full means that the ring thread is gone.
        if answers.try_send(answer).is_err() {
            return;
        }
        bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Arena;

    #[test]
    fn hashes_in_order_and_from_a_resumed_state() {
        let arena = Arena::new(4 << 20).unwrap();
        arena.lease(Slot(1), 0, 6).bytes_mut().copy_from_slice(b"abcdef");
        let bell = Arc::new(EventFd::new().unwrap());
        let hasher = Hasher::start(bell).unwrap();
        let flow = FlowId(3);
        hasher.begin(flow, Sha256::new_with_prefix(b"ab"));
        hasher.hash(flow, Slot(1), arena.view(Slot(1), 2, 4));
        hasher.finish(flow);
        let part = hasher.done.recv().unwrap();
        let crc = crc32c::crc32c(b"cdef");
        assert!(matches!(part, Hashed::Part { bytes: 4, crc: c, .. } if c == crc));
        let whole = hasher.done.recv().unwrap();
        let expected = Digest::from_bytes(Sha256::digest(b"abcdef").into());
        assert!(matches!(whole, Hashed::Whole { digest, .. } if digest == expected));
    }
}
