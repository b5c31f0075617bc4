//! Every system call of the benches that the standard library does not offer; it measures nothing
//! and decides nothing.

pub mod ring;

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::{self, NonNull};

/// Size of a transparent huge page on x86-64 and of the granule that [`Region`] maps, in bytes.
const HUGE_PAGE_BYTES: usize = 2 << 20;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusively borrowed timespec for the length of the call.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let rest_ns = u64::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(seconds * 1_000_000_000 + rest_ns)
}

/// `CLOCK_MONOTONIC` in nanoseconds: one clock for all processes of the machine.
///
/// # Panics
/// Never on Linux, where this clock always exists.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC).expect("linux has CLOCK_MONOTONIC")
}

/// CPU time of a living process in nanoseconds: all its threads, those that ended included.
///
/// # Errors
/// The kernel's, when there is no such process.
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid, exclusively borrowed clock id for the length of the call.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => clock_ns(clock),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What a process had used when it ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Exit code; `None` when a signal ended the process.
    pub code: Option<i32>,
    /// User and system time of all threads, in nanoseconds.
    pub cpu_ns: u64,
}

fn timeval_ns(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    seconds * 1_000_000_000 + micros * 1_000
}

/// Waits for a child and takes its resource usage.
///
/// # Errors
/// The kernel's, when `pid` is no child of this process or was waited for already.
pub fn wait4(pid: u32) -> io::Result<Exit> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status: libc::c_int = 0;
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both out-pointers are exclusively borrowed and valid for the length of the call.
        match check(unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) }) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    Ok(Exit { code, cpu_ns: timeval_ns(usage.ru_utime) + timeval_ns(usage.ru_stime) })
}

/// Asks a process to end in an orderly way (SIGTERM).
///
/// # Errors
/// The kernel's, when there is no such process.
pub fn terminate(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers; the caller owns the child, so the id cannot have been reused.
    check(unsafe { libc::kill(pid, libc::SIGTERM) }).map(drop)
}

/// Stops a process where it is (SIGSTOP): it is there, and does nothing any more.
///
/// # Errors
/// The kernel's, when there is no such process.
pub fn freeze(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers; the caller owns the child, so the id cannot have been reused.
    check(unsafe { libc::kill(pid, libc::SIGSTOP) }).map(drop)
}

/// Moves the calling thread, and no other, into a network namespace.
///
/// # Errors
/// No privilege.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes no pointers, and the borrowed descriptor is open for the call.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Makes a command's process die with its parent, and start in the given network namespace.
pub fn prepare(command: &mut Command, netns: Option<OwnedFd>) {
    // SAFETY: between fork and exec the closure makes two async-signal-safe system calls, allocates
    // nothing and takes no lock; the namespace's descriptor is moved into it and so stays open.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if let Some(netns) = &netns {
                check(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET))?;
            }
            Ok(())
        });
    }
}

/// Drops up to `len` received bytes without copying them (TCP's meaning of `MSG_TRUNC`); 0 at the
/// end.
///
/// # Errors
/// The socket's.
pub fn recv_discard(socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC the kernel writes nothing to the buffer of a TCP socket, so null is
    // valid.
    check_len(unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), len, libc::MSG_TRUNC) })
}

/// Sets the number of queued bytes below which a socket does not count as readable.
///
/// # Errors
/// The kernel's, when the descriptor is no socket.
pub fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the option's value is a c_int that outlives the call, and `len` is its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            len,
        )
    })
    .map(drop)
}

/// Reserves a file's blocks and sets its length.
///
/// # Errors
/// The file system's: no space, or no support.
pub fn allocate(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: fallocate takes no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) }).map(drop)
}

/// A pipe whose two ends do not block.
#[derive(Debug)]
pub struct Pipe {
    /// Where bytes come out.
    pub read: OwnedFd,
    /// Where bytes go in.
    pub write: OwnedFd,
    /// Capacity in bytes of single-page buffers; its number of slots is this over the page size.
    pub capacity_bytes: u32,
}

impl Pipe {
    /// Opens a pipe of the given capacity, or of the largest that an unprivileged process may have.
    ///
    /// # Errors
    /// The kernel's: too many open files, or too much memory in pipes.
    pub fn new(capacity_bytes: u32) -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        // SAFETY: pipe2 succeeded, so both are open descriptors that nothing else owns.
        let (read, write) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let want = libc::c_int::try_from(capacity_bytes).map_err(io::Error::other)?;
        let got = set_pipe_size(write.as_fd(), want)
            .or_else(|_| set_pipe_size(write.as_fd(), libc::c_int::min(want, 1 << 20)))?;
        Ok(Self { read, write, capacity_bytes: u32::try_from(got).map_err(io::Error::other)? })
    }
}

fn set_pipe_size(pipe: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: F_SETPIPE_SZ takes an int and no pointers.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
}

/// Moves up to `len` bytes between a pipe and another descriptor without waiting; 0 at the end.
///
/// # Errors
/// `WouldBlock` when nothing can move now; otherwise the descriptors'.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: both descriptors are borrowed, so open; null offsets mean the streams' own positions.
    check_len(unsafe {
        libc::splice(from.as_raw_fd(), ptr::null_mut(), to.as_raw_fd(), ptr::null_mut(), len, flags)
    })
}

/// Repeats the first `len` bytes of one pipe in another, leaving them where they are.
///
/// # Errors
/// `WouldBlock` when there is nothing to repeat or no room; otherwise the pipes'.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are borrowed, so open; tee takes no pointers.
    check_len(unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), len, libc::SPLICE_F_NONBLOCK) })
}

/// Reads from any descriptor into a slice; 0 at the end.
///
/// # Errors
/// The descriptor's.
pub fn read(from: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the slice is exclusively borrowed and its own length bounds the write.
    check_len(unsafe { libc::read(from.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) })
}

/// Edge-triggered readiness of a few sockets.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Opens an empty set.
    ///
    /// # Errors
    /// The kernel's: too many open files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: epoll_create1 succeeded, so this is an open descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches a socket for becoming readable or writable.
    ///
    /// # Errors
    /// The kernel's, when the descriptor cannot be watched.
    pub fn watch(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: 0 };
        // SAFETY: `event` is valid for the length of the call; the kernel keeps a copy, not the
        // pointer.
        check(unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        })
        .map(drop)
    }

    /// Waits until something changed.
    ///
    /// # Errors
    /// `TimedOut` after `timeout_ms` without any change.
    pub fn wait(&self, timeout_ms: u16) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        // SAFETY: the kernel writes at most the four events that the array has room for.
        let ready = check(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 4, timeout_ms.into())
        })?;
        if ready == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Zeroed anonymous memory on huge pages where there are any; aligned for O_DIRECT.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    mapped: usize,
}

// SAFETY: the mapping belongs to this value alone, so it may move to and be shared with other
// threads under the same borrowing rules as a boxed slice.
unsafe impl Send for Region {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes.
    ///
    /// # Errors
    /// The kernel's: out of memory.
    pub fn new(len: usize) -> io::Result<Self> {
        let mapped = len.max(1).next_multiple_of(HUGE_PAGE_BYTES);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing
        // else.
        let start = unsafe { libc::mmap(ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: exactly the range just mapped; the advice changes no content and may be refused.
        unsafe { libc::madvise(start, mapped, libc::MADV_HUGEPAGE) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, mapped })
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped and zeroed from `start`, for as long as this value lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no slice can outlive the value it borrows from.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}
