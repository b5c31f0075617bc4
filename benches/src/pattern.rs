//! The bytes that the sender sends: deterministic, cheap to send, and never equal in two places
//! that a relay could confuse; nothing here does I/O.

use crate::bytes::to_usize;
use crate::sys::Region;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::io::{self, Read};
use std::sync::Arc;

/// Length of the pool in bytes. Eight less than a power of two: a blob repeats the pool end to end,
/// and two offsets that are multiples of 4096 then hold the same bytes only when they are 32 GiB
/// apart.
pub const POOL_BYTES: u64 = (64 << 20) - 8;

/// How far apart in the pool two neighbouring blobs start, in bytes.
const BLOB_STRIDE_BYTES: u64 = 8 * 131_101;

/// A blob: its length, and where in the pool it starts.
#[derive(Debug, Clone)]
pub struct Blob {
    pool: Arc<Region>,
    start: u64,
    size: u64,
}

/// Fills a new pool of `bytes` bytes with xorshift64 output.
///
/// # Errors
/// Out of memory.
pub fn pool(bytes: u64) -> io::Result<Arc<Region>> {
    let mut pool = Region::new(to_usize(bytes))?;
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for word in pool.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    Ok(Arc::new(pool))
}

impl Blob {
    /// The `index`-th blob over a pool.
    #[must_use]
    pub fn new(pool: &Arc<Region>, index: u64, size: u64) -> Self {
        let start = index * BLOB_STRIDE_BYTES % pool.len() as u64;
        Self { pool: Arc::clone(pool), start, size }
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes at `offset`, at most `len` of them; shorter at the pool's seam, empty at the end.
    #[must_use]
    pub fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        let left = self.size.saturating_sub(offset);
        let from = to_usize((self.start + offset) % self.pool.len() as u64);
        let len = len.min(to_usize(left)).min(self.pool.len() - from);
        &self.pool[from..from + len]
    }

    /// The blob's digest in the registry's spelling, `sha256:<hex>`.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut offset = 0;
        while offset < self.size {
            let bytes = self.bytes(offset, 1 << 20);
            hash.update(bytes);
            offset += bytes.len() as u64;
        }
        spell(hash)
    }
}

/// The digest of everything that a reader gives.
///
/// # Errors
/// The reader's.
pub fn digest_of(mut from: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(spell(hash));
        }
        hash.update(&buffer[..read]);
    }
}

/// Ends a hash and spells it as `sha256:<hex>`.
#[must_use]
pub fn spell(hash: Sha256) -> String {
    let mut text = String::from("sha256:");
    for byte in hash.finalize() {
        write!(text, "{byte:02x}").expect("a string takes what is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_units_are_alike() {
        let pool = pool((1 << 20) - 8).unwrap();
        let blob = Blob::new(&pool, 1, 32 << 20);
        let heads: std::collections::HashSet<Vec<u8>> =
            (0..64).map(|unit| blob.bytes(unit << 19, 64).to_vec()).collect();
        assert_eq!(heads.len(), 64);
    }

    #[test]
    fn pieces_of_any_length_make_the_same_digest() {
        let pool = pool(65_528).unwrap();
        let blob = Blob::new(&pool, 3, 300_001);
        let mut hash = Sha256::new();
        let mut offset = 0;
        while offset < blob.size() {
            let bytes = blob.bytes(offset, 4099);
            hash.update(bytes);
            offset += bytes.len() as u64;
        }
        assert_eq!(offset, 300_001);
        assert_eq!(spell(hash), blob.digest());
    }
}
