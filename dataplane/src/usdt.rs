//! Static probes for tracers (USDT): each is one `nop` and a note in the binary that says where it
//! is and in which registers its arguments are. Nothing else happens while nobody looks.
//!
//! docs/tracing.md shows how to look.

use probe::probe;
use xylem_protocol::Digest;

/// Bytes of a blob came from a source: the blob, offset of the first, how many.
pub(crate) fn received(blob: &Digest, at: u64, bytes: u32) {
    probe!(xylem, received, name(blob), at, bytes);
}

/// Bytes of a blob went to a reader: the blob's [`name`], offset of the first, how many.
pub(crate) fn forwarded(blob: u64, at: u64, bytes: u32) {
    probe!(xylem, forwarded, blob, at, bytes);
}

/// Bytes of a blob are in its file: the blob, offset of the first, how many.
pub(crate) fn stored(blob: &Digest, at: u64, bytes: u32) {
    probe!(xylem, stored, name(blob), at, bytes);
}

/// A blob is verified and on the disk under its name: the blob, its size.
pub(crate) fn committed(blob: &Digest, size: u64) {
    probe!(xylem, committed, name(blob), size);
}

/// What tracers see of a digest: its first 16 digits, as a number.
pub(crate) fn name(blob: &Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blob.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
