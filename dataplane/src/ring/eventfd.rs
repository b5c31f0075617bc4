//! A bell between threads: an eventfd that one side rings and the other waits for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An event descriptor, non-blocking and close-on-exec.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: fd was just made and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Rings. A bell that has rung so often that the counter is full rings already.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: one is eight readable bytes for the length of the call. EAGAIN (counter full)
        // means that the bell is ringing; no other error can occur on a descriptor that we own.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Silences the bell; true if it had rung.
    pub fn silence(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: count is eight writable bytes for the length of the call.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
        got == 8
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Registers a bell with this thread's runtime, so that a task can wait for it.
///
/// # Errors
/// The runtime cannot watch it.
pub fn watch(bell: Arc<EventFd>) -> std::io::Result<AsyncFd<Arc<EventFd>>> {
    // SAFETY: the descriptor stays open, and the same, for as long as its EventFd, which the
    // registration holds.
    unsafe { Ok(AsyncFd::register_with_interest(bell, Interest::READABLE)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_until_silenced() {
        let bell = EventFd::new().unwrap();
        assert!(!bell.silence());
        bell.ring();
        bell.ring();
        assert!(bell.silence());
        assert!(!bell.silence());
    }
}
