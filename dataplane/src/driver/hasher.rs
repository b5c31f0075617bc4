//! The hash thread: SHA-256 of each flow in order, CRC32C of each unit. It reads slots that the
//! relay holds for it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;
use xylem_protocol::limits::{FLOWS_MAX, HASH_JOBS_MAX};

use crate::relay::FlowId;
use crate::ring::arena::SlotView;
use crate::ring::{EventFd, Slot};

/// What the ring thread asks for.
#[derive(Debug)]
enum Job {
    /// The next bytes; the first ones of a flow, or of its next beginning, come with the hash of
    /// what its file holds.
    Hash { flow: FlowId, slot: Slot, view: SlotView, begin: Option<Box<Sha256>> },
    /// The last bytes were given: what is the digest?
    Finish { flow: FlowId, begin: Option<Box<Sha256>> },
}

/// What the hash thread answers, in the order of the jobs.
#[derive(Debug)]
pub(super) enum Hashed {
    /// A part is done.
    Part { flow: FlowId, slot: Slot, bytes: u32, crc: u32 },
    /// The digest of the whole.
    Whole { flow: FlowId, digest: Digest },
}

/// Jobs in flight: every slot's units, and an end for every flow.
const JOBS_MAX: usize = HASH_JOBS_MAX + FLOWS_MAX as usize;

/// The two queues. The hash thread parks when it has nothing to do: a queue that spins before it
/// sleeps would take the other core from those who fill it.
#[derive(Debug)]
struct Queues {
    jobs: ArrayQueue<Job>,
    done: ArrayQueue<Hashed>,
    ended: AtomicBool,
}

/// The ring thread's handle.
#[derive(Debug)]
pub(super) struct Hasher {
    queues: Arc<Queues>,
    thread: Option<JoinHandle<()>>,
}

impl Hasher {
    /// Starts the thread; `bell` rings when an answer lies in the queue.
    pub(super) fn start(bell: Arc<EventFd>) -> io::Result<Self> {
        let queues = Arc::new(Queues {
            jobs: ArrayQueue::new(JOBS_MAX),
            done: ArrayQueue::new(JOBS_MAX),
            ended: AtomicBool::new(false),
        });
        let work_queues = queues.clone();
        let thread = std::thread::Builder::new()
            .name("xylem-hash".into())
            .spawn(move || work(&work_queues, &bell))?;
        Ok(Self { queues, thread: Some(thread) })
    }

    pub(super) fn hash(
        &self,
        flow: FlowId,
        slot: Slot,
        view: SlotView,
        begin: Option<Box<Sha256>>,
    ) {
        self.give(Job::Hash { flow, slot, view, begin });
    }

    pub(super) fn finish(&self, flow: FlowId, begin: Option<Box<Sha256>>) {
        self.give(Job::Finish { flow, begin });
    }

    fn give(&self, job: Job) {
        let given = self.queues.jobs.push(job);
        assert!(given.is_ok(), "the queue has room for every slot's units and every flow");
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    pub(super) fn next(&self) -> Option<Hashed> {
        self.queues.done.pop()
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.queues.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

fn work(queues: &Queues, bell: &EventFd) {
    let mut flows: HashMap<FlowId, Sha256> = HashMap::new();
    while !queues.ended.load(Ordering::Acquire) {
        let Some(job) = queues.jobs.pop() else {
            std::thread::park();
            continue;
        };
        let answer = answer(job, &mut flows);
        let given = queues.done.push(answer);
        assert!(given.is_ok(), "as many answers as jobs fit");
        bell.ring();
    }
}

fn answer(job: Job, flows: &mut HashMap<FlowId, Sha256>) -> Hashed {
    match job {
        Job::Hash { flow, slot, view, begin } => {
            if let Some(begin) = begin {
                flows.insert(flow, *begin);
            }
            let bytes = view.bytes();
            flows.entry(flow).or_default().update(bytes);
            let length = u32::try_from(bytes.len()).expect("at most a unit");
            Hashed::Part { flow, slot, bytes: length, crc: crc32c::crc32c(bytes) }
        }
        Job::Finish { flow, begin } => {
            let hasher = flows.remove(&flow);
            let hasher = begin.map(|begin| *begin).or(hasher).unwrap_or_default();
            Hashed::Whole { flow, digest: Digest::from_bytes(hasher.finalize().into()) }
        }
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
        let next = || loop {
            match hasher.next() {
                Some(hashed) => return hashed,
                None => std::thread::yield_now(),
            }
        };
        let flow = FlowId(3);
        let begin = Some(Box::new(Sha256::new_with_prefix(b"ab")));
        hasher.hash(flow, Slot(1), arena.view(Slot(1), 2, 4), begin);
        hasher.finish(flow, None);
        let part = next();
        let crc = crc32c::crc32c(b"cdef");
        assert!(matches!(part, Hashed::Part { bytes: 4, crc: c, .. } if c == crc));
        let whole = next();
        let expected = Digest::from_bytes(Sha256::digest(b"abcdef").into());
        assert!(matches!(whole, Hashed::Whole { digest, .. } if digest == expected));
    }
}
