//! Opening the ring: what the kernel must offer, and what to do when it does not.

use std::collections::{HashMap, VecDeque};
use std::io;

use io_uring::{IoUring, Probe, opcode};
use xylem_protocol::limits::{RING_ENTRIES, SLOT_BYTES};

use super::arena::{Arena, slots_in};
use super::heads::{HEAD_BUFFERS, HeadBuffers};
use super::{Ring, socket};

/// Why there is no ring, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No memory for the slots.
    #[error("cannot map memory for the slots; lower --memory")]
    Memory(#[source] io::Error),
    /// Switched off.
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = {0}); \
         run: sysctl -w kernel.io_uring_disabled=0"
    )]
    Disabled(u8),
    /// Refused.
    #[error(
        "io_uring is refused although the kernel has it on; a seccomp profile forbids it: \
         allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden(#[source] io::Error),
    /// Too old.
    #[error("this kernel lacks what the ring needs (Linux 6.1 or later)")]
    TooOld(#[source] io::Error),
    /// An operation is missing.
    #[error("this kernel's io_uring lacks the operation {0}; Linux 6.1 or later is needed")]
    Operation(&'static str),
    /// Locked memory.
    #[error(
        "cannot lock {need_bytes} bytes for the slots, the limit of this user is {limit_bytes}; \
         lower --memory, raise the limit (LimitMEMLOCK=, ulimit -l), or go without: --lock off"
    )]
    Locked {
        /// Asked for.
        need_bytes: u64,
        /// `RLIMIT_MEMLOCK`.
        limit_bytes: u64,
    },
    /// Anything else.
    #[error("cannot set up io_uring")]
    Other(#[source] io::Error),
}

/// Slots when nothing is said: 8 MiB.
pub const MEMORY_BYTES: u64 = 8 << 20;

/// Slots when 8 MiB cannot be locked.
const MEMORY_SMALL_BYTES: u64 = 4 << 20;

impl Ring {
    /// Opens a ring with slots of `memory_bytes` in all; without a number 8 MiB, or 4 MiB where no
    /// more can be locked.
    ///
    /// With `lock` the slots are registered, which counts against the locked memory of the user.
    /// The thread that opens it must be the one that drives it.
    ///
    /// # Errors
    /// [`RingError`], which says what to do.
    pub fn open(memory_bytes: Option<u64>, lock: bool) -> Result<Self, RingError> {
        let io = build()?;
        probe(&io)?;
        let arena = match memory_bytes {
            _ if !lock => Arena::new(memory_bytes.unwrap_or(MEMORY_BYTES))?,
            Some(bytes) => register(&io, bytes)?,
            None => match register(&io, MEMORY_BYTES) {
                Err(RingError::Locked { .. }) => register(&io, MEMORY_SMALL_BYTES)?,
                other => other?,
            },
        };
        let mut ring = Self {
            io,
            arena,
            registered: lock,
            heads: HeadBuffers::new(),
            owned: HashMap::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
        };
        for buffer in 0..HEAD_BUFFERS {
            ring.provide_head(buffer);
        }
        Ok(ring)
    }
}

fn build() -> Result<IoUring, RingError> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(4 * RING_ENTRIES)
        .build(RING_ENTRIES)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => match disabled() {
                0 => RingError::Forbidden(error),
                setting => RingError::Disabled(setting),
            },
            Some(libc::EINVAL) => RingError::TooOld(error),
            Some(libc::ENOMEM) => RingError::Locked {
                need_bytes: u64::from(RING_ENTRIES) * 128,
                limit_bytes: socket::lockable_bytes(),
            },
            _ => RingError::Other(error),
        })
}

/// `kernel.io_uring_disabled` (Linux 6.6): 0 on, 1 for the privileged, 2 off. 0 where it does not
/// exist.
fn disabled() -> u8 {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn probe(io: &IoUring) -> Result<(), RingError> {
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(RingError::TooOld)?;
    for (code, name) in [
        (opcode::Accept::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::WriteFixed::CODE, "write_fixed"),
        (opcode::ReadFixed::CODE, "read_fixed"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::PollAdd::CODE, "poll_add"),
        (opcode::Timeout::CODE, "timeout"),
        (opcode::AsyncCancel::CODE, "async_cancel"),
        (opcode::ProvideBuffers::CODE, "provide_buffers"),
    ] {
        if !probe.is_supported(code) {
            return Err(RingError::Operation(name));
        }
    }
    Ok(())
}

fn register(io: &IoUring, memory_bytes: u64) -> Result<Arena, RingError> {
    let arena = Arena::new(memory_bytes)?;
    // SAFETY: the slots stay mapped for as long as the ring: `Ring` owns both, and leaks the arena
    // if it has to.
    let result = unsafe { io.submitter().register_buffers(&arena.iovecs()) };
    match result {
        Ok(()) => Ok(arena),
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Err(RingError::Locked {
            need_bytes: u64::from(slots_in(memory_bytes)) * u64::from(SLOT_BYTES),
            limit_bytes: socket::lockable_bytes(),
        }),
        Err(error) => Err(RingError::Other(error)),
    }
}
