//! The one piece of memory that blocks live in: slots, registered with the ring. Hands out pointers
//! to the ring's operations, and slices to the other threads for as long as they hold a slot.
//!
//! Memory is a sum of its holders. With `n` slots of 1 MiB:
//!
//! ```text
//! n × SLOT_BYTES                     blocks: received, being sent, written, hashed
//! HEAD_BUFFERS × HEAD_BUFFER_BYTES   heads being received (provided buffers)
//! ```

use std::ptr::NonNull;
use std::sync::Arc;

use xylem_protocol::limits::{SLOT_BYTES, SLOTS_MAX, SLOTS_MIN};

use super::RingError;

const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

const _: () = assert!(HUGE_PAGE_BYTES.is_multiple_of(SLOT_BYTES as usize));

/// Index of a slot in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// Anonymous memory on transparent huge pages; unmapped when the last lease and the ring have let
/// go.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that no thread owns. Who may touch which slot when is decided
// by the relay on the ring thread, which is the only maker of leases and views.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access goes through leases and views only.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> Result<Self, RingError> {
        let rounded = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                rounded,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(RingError::Memory(std::io::Error::last_os_error()));
        }
        // SAFETY: the range was mapped just above. Refusal (no huge pages) only costs speed.
        unsafe { libc::madvise(base, rounded, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| RingError::Memory(std::io::ErrorKind::OutOfMemory.into()))?;
        let mapping = Self { base, bytes: rounded };
        mapping.touch();
        Ok(mapping)
    }

    /// Faults every page in now: later it would lie in the path of the first block.
    fn touch(&self) {
        for offset in (0..self.bytes).step_by(4096) {
            // SAFETY: offset lies in the mapping, which no one else has seen yet.
            unsafe { self.base.add(offset).write_volatile(0) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mmap; every lease and view holds an Arc of this
        // mapping, so none is left, and the ring that has the memory registered keeps its own
        // reference to the pages.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The slots.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    slots: u16,
}

impl Arena {
    /// Maps and touches memory for as many slots as fit into `memory_bytes`.
    ///
    /// # Errors
    /// [`RingError::Memory`] when the kernel refuses.
    pub fn new(memory_bytes: u64) -> Result<Self, RingError> {
        let slots = slots_in(memory_bytes);
        let mapping = Arc::new(Mapping::new(usize::from(slots) * SLOT_BYTES as usize)?);
        Ok(Self { mapping, slots })
    }

    /// How many slots there are.
    pub const fn slots(&self) -> u16 {
        self.slots
    }

    /// Address of a byte in a slot, for the ring's operations.
    pub(super) fn pointer(&self, slot: Slot, offset: u32) -> *mut u8 {
        assert!(slot.0 < self.slots && offset < SLOT_BYTES, "slot {slot:?} offset {offset}");
        let index = usize::from(slot.0) * SLOT_BYTES as usize + offset as usize;
        // SAFETY: the assertion keeps the index inside the mapping.
        unsafe { self.mapping.base.add(index).as_ptr() }
    }

    /// One `iovec` for each slot, to register with the ring; a slot's index is its buffer's.
    pub(super) fn iovecs(&self) -> Vec<libc::iovec> {
        (0..self.slots)
            .map(|slot| libc::iovec {
                iov_base: self.pointer(Slot(slot), 0).cast(),
                iov_len: SLOT_BYTES as usize,
            })
            .collect()
    }

    /// Keeps the memory for ever: the kernel may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(self.mapping.clone());
    }

    /// Lends a part of a slot to another thread for writing.
    ///
    /// The caller (the relay, by an [`crate::relay::Action::Recv`] on a cold flow) has the only
    /// claim to these bytes and makes none again until the lease is back.
    pub(crate) fn lease(&self, slot: Slot, offset: u32, bytes: u32) -> SlotLease {
        assert!(offset + bytes <= SLOT_BYTES, "lease beyond the slot");
        SlotLease { slot, offset, bytes, arena: self.mapping.clone() }
    }

    /// Shows a part of a slot to another thread for reading.
    ///
    /// The caller (the relay, by an [`crate::relay::Action::Hash`]) keeps the slot and lets nobody
    /// write to these bytes until the reader has said that it is done.
    pub(crate) fn view(&self, slot: Slot, offset: u32, bytes: u32) -> SlotView {
        SlotView(self.lease(slot, offset, bytes))
    }
}

/// How many slots a memory setting gives.
pub fn slots_in(memory_bytes: u64) -> u16 {
    let slots = memory_bytes / u64::from(SLOT_BYTES);
    u16::try_from(slots).unwrap_or(SLOTS_MAX).clamp(SLOTS_MIN, SLOTS_MAX)
}

/// A part of a slot, lent for writing.
#[derive(Debug)]
pub struct SlotLease {
    slot: Slot,
    offset: u32,
    bytes: u32,
    arena: Arc<Mapping>,
}

impl SlotLease {
    fn pointer(&self) -> *mut u8 {
        let index = self.slot.0 as usize * SLOT_BYTES as usize + self.offset as usize;
        // SAFETY: Arena::lease checked that offset + bytes lie in the slot, and the slot in the
        // mapping.
        unsafe { self.arena.base.add(index).as_ptr() }
    }

    /// The bytes to fill in.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the mapping, which this lease keeps alive; the relay made this
        // lease the only claim to it (Arena::lease).
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.bytes as usize) }
    }
}

/// A part of a slot, shown for reading.
#[derive(Debug)]
pub(crate) struct SlotView(SlotLease);

impl SlotView {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in the mapping, which this view keeps alive; the relay lets nobody
        // write to it until the hash job is reported done (Arena::view). The kernel may read it at
        // the same time.
        unsafe { std::slice::from_raw_parts(self.0.pointer(), self.0.bytes as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_slots() {
        assert_eq!(slots_in(8 << 20), 8);
        assert_eq!(slots_in(1), SLOTS_MIN);
        assert_eq!(slots_in(u64::MAX), SLOTS_MAX);
    }

    #[test]
    fn a_lease_writes_what_a_view_reads() {
        let arena = Arena::new(4 << 20).unwrap();
        arena.lease(Slot(3), 4096, 5).bytes_mut().copy_from_slice(b"xylem");
        assert_eq!(arena.view(Slot(3), 4096, 5).bytes(), b"xylem");
        assert_eq!(arena.view(Slot(2), 4096, 5).bytes(), [0; 5]);
    }

    #[test]
    #[should_panic(expected = "beyond the slot")]
    fn a_lease_stays_in_its_slot() {
        let arena = Arena::new(4 << 20).unwrap();
        let _ = arena.lease(Slot(0), SLOT_BYTES - 1, 2);
    }
}
