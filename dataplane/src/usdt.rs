//! Static probes for tracers (USDT): each is one `nop` and a note in the binary that says where it
//! is and in which registers its arguments are. Nothing else happens while nobody looks.
//!
//! What they say of a blob is [`Digest::prefix`]. docs/tracing.md shows how to look.

use probe::probe;
use xylem_protocol::Digest;

/// Bytes of a blob came from a source: the blob, offset of the first, how many.
pub(crate) fn received(blob: &Digest, at: u64, bytes: u32) {
    probe!(xylem, received, blob.prefix(), at, bytes);
}

/// Bytes of a blob went to a reader: the blob's prefix, offset of the first, how many.
pub(crate) fn forwarded(blob: u64, at: u64, bytes: u32) {
    probe!(xylem, forwarded, blob, at, bytes);
}

/// Bytes of a blob are in its file: the blob, offset of the first, how many.
pub(crate) fn stored(blob: &Digest, at: u64, bytes: u32) {
    probe!(xylem, stored, blob.prefix(), at, bytes);
}

/// A blob is verified and on the disk under its name: the blob, its size.
pub(crate) fn committed(blob: &Digest, size: u64) {
    probe!(xylem, committed, blob.prefix(), size);
}
