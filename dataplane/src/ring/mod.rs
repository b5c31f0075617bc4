//! The io_uring: opened, probed, registered, driven. The only directory of the daemon with `unsafe`.

pub mod arena;
mod eventfd;

pub use arena::{Arena, Slot, SlotLease};
pub use eventfd::EventFd;

/// Why there is no ring, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No memory for the slots.
    #[error("cannot map memory for the slots; lower --memory")]
    Memory(#[source] std::io::Error),
}
