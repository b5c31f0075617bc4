//! Small buffers for heads, chosen by the kernel at the moment bytes arrive: idle connections hold
//! none.

use std::ptr::NonNull;

/// How many there are.
pub(super) const HEAD_BUFFERS: u16 = 64;

/// Bytes of one; longer heads come in several.
pub(super) const HEAD_BUFFER_BYTES: u32 = 4096;

/// The kernel's name for the group.
pub(super) const HEAD_GROUP: u16 = 0;

const BYTES: usize = HEAD_BUFFERS as usize * HEAD_BUFFER_BYTES as usize;

/// The buffers, in one allocation.
#[derive(Debug)]
pub(super) struct HeadBuffers {
    base: NonNull<u8>,
    leaked: bool,
}

// SAFETY: plain memory with one owner, the ring.
unsafe impl Send for HeadBuffers {}

impl HeadBuffers {
    pub(super) fn new() -> Self {
        let memory = Box::leak(vec![0u8; BYTES].into_boxed_slice());
        Self { base: NonNull::from(memory).cast(), leaked: false }
    }

    pub(super) fn pointer(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < HEAD_BUFFERS, "head buffer {buffer}");
        // SAFETY: the assertion keeps the offset inside the allocation.
        unsafe { self.base.add(usize::from(buffer) * HEAD_BUFFER_BYTES as usize).as_ptr() }
    }

    /// What the kernel put into a buffer.
    pub(super) fn bytes(&self, buffer: u16, bytes: u32) -> &[u8] {
        let bytes = bytes.min(HEAD_BUFFER_BYTES) as usize;
        // SAFETY: the range lies in the allocation, and the kernel has given the buffer up (its
        // completion is here) until `provide_head` hands it over again, which needs the ring
        // mutably and so comes after this borrow.
        unsafe { std::slice::from_raw_parts(self.pointer(buffer), bytes) }
    }

    pub(super) const fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for HeadBuffers {
    fn drop(&mut self) {
        if !self.leaked {
            let memory = std::ptr::slice_from_raw_parts_mut(self.base.as_ptr(), BYTES);
            // SAFETY: made by Box::leak in `new` with this length; the ring has nothing in flight
            // (Ring::drop).
            drop(unsafe { Box::from_raw(memory) });
        }
    }
}
