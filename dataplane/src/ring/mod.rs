//! The io_uring: opened, probed, registered, driven. The only directory of the daemon with
//! `unsafe`.
//!
//! What keeps the kernel from writing into freed memory: slots and head buffers live as long as the
//! [`Ring`]; every other buffer (heads to send, addresses, times) is owned by the ring from push to
//! last completion; and a ring that is dropped with operations in flight cancels them, waits, and
//! leaks what the kernel may still hold.

pub mod arena;
mod eventfd;
mod heads;
mod open;
mod ops;
pub mod socket;
pub mod token;

use std::collections::{HashMap, VecDeque};
use std::io;

use io_uring::{IoUring, cqueue, squeue};

pub use arena::{Arena, Slot, SlotLease};
pub use eventfd::{EventFd, watch};
use heads::HeadBuffers;
pub use open::{MEMORY_BYTES, RingError};
use token::Token;

/// What the kernel says of one operation.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// Which operation.
    pub token: Token,
    /// Its result, or a negative errno.
    result: i32,
    /// Whether more completions of the same operation will follow.
    pub more: bool,
    /// The head buffer that the kernel chose.
    buffer: Option<u16>,
}

impl Completion {
    /// The result, or the error: errno is turned around here and nowhere else.
    ///
    /// # Errors
    /// What the operation failed with.
    pub fn outcome(&self) -> io::Result<u32> {
        u32::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }
}

/// Memory that an operation in flight points into.
#[derive(Debug)]
#[expect(dead_code, reason = "only the kernel reads it")]
enum Owned {
    Bytes(Vec<u8>),
    Address(Box<libc::sockaddr_storage>),
    Time(Box<io_uring::types::Timespec>),
}

/// One io_uring, its slots and its head buffers.
pub struct Ring {
    io: IoUring,
    arena: Arena,
    /// Whether the slots are registered: then they are named by index, else by address.
    registered: bool,
    heads: HeadBuffers,
    owned: HashMap<u64, Owned>,
    /// Entries that did not fit into the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// Operations whose last completion is to come.
    in_flight: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Ring {
    /// The slots.
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Submits what was pushed, waits for at least one completion, and appends what is there to
    /// `completions`.
    ///
    /// # Errors
    /// The kernel refuses the ring itself; nothing can go on.
    pub fn turn(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        while self.refill() {
            self.io.submit()?;
        }
        match self.io.submit_and_wait(1) {
            Ok(_) => {}
            // A signal; or the completion queue is full, and emptying it is what comes next.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        self.reap(completions);
        Ok(())
    }

    /// Submits what was pushed, without waiting. A refusal shows at the next turn.
    pub fn submit(&mut self) {
        if !self.refill() {
            let _ = self.io.submit();
        }
    }

    /// Moves entries from the backlog; true if some are left.
    fn refill(&mut self) -> bool {
        let mut queue = self.io.submission();
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: what the entry points into is owned as `push` says.
            if unsafe { queue.push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                return true;
            }
        }
        false
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        for entry in self.io.completion() {
            let Some(token) = Token::decode(entry.user_data()) else { continue };
            let more = cqueue::more(entry.flags());
            if !more {
                self.in_flight -= 1;
                self.owned.remove(&entry.user_data());
            }
            let buffer = cqueue::buffer_select(entry.flags());
            completions.push(Completion { token, result: entry.result(), more, buffer });
        }
    }

    /// Queues an operation.
    ///
    /// What it points into must live until its last completion: slots and head buffers do (they are
    /// dropped after the ring, or leaked), anything else is handed over as `owned`.
    fn push(&mut self, token: Token, entry: squeue::Entry, owned: Option<Owned>) {
        let data = token.encode();
        if let Some(owned) = owned {
            let other = self.owned.insert(data, owned);
            assert!(other.is_none(), "two operations of one name: {token:?}");
        }
        self.in_flight += 1;
        self.queue(entry.user_data(data));
    }

    /// Queues an operation that completes silently when it goes well.
    fn push_quiet(&mut self, token: Token, entry: squeue::Entry) {
        self.queue(entry.user_data(token.encode()).flags(squeue::Flags::SKIP_SUCCESS));
    }

    fn queue(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back(entry);
        }
        // SAFETY: what the entry points into is owned as `push` says.
        let pushed = unsafe { self.io.submission().push(&entry) };
        if pushed.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Copies a received head out of its buffer and gives the buffer back to the kernel.
    pub fn take_head(&mut self, completion: &Completion, into: &mut Vec<u8>) {
        let (Some(buffer), Ok(bytes)) = (completion.buffer, completion.outcome()) else { return };
        into.extend_from_slice(self.heads.bytes(buffer, bytes));
        self.provide_head(buffer);
    }
}

/// Waits for completions, of at most a tenth of a second, when a ring is dropped.
const DROP_TURNS_MAX: u32 = 20;

impl Drop for Ring {
    fn drop(&mut self) {
        let all = io_uring::types::CancelBuilder::any();
        let patience = io_uring::types::Timespec::new().nsec(100_000_000);
        // What cannot be cancelled is leaked below.
        let _ = self.io.submitter().register_sync_cancel(Some(patience), all);
        let mut rest = Vec::new();
        for _ in 0..DROP_TURNS_MAX {
            self.reap(&mut rest);
            if self.in_flight == 0 {
                return;
            }
            let arguments = io_uring::types::SubmitArgs::new().timespec(&patience);
            // Out of time is what the bound is for.
            let _ = self.io.submitter().submit_with_args(1, &arguments);
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.owned));
            self.arena.leak();
            self.heads.leak();
        }
    }
}
