//! Stripes: which bytes of a blob travel down which of two trees.
//!
//! Stripe `i` of a blob is made of every other piece of [`STRIPE_BYTES`]: those whose number is `i`
//! modulo [`STRIPES`]. A peer asks for one by `?stripe=i/2`, and gets a representation of its own:
//! `Content-Length` and `Range` count in the stripe, `Xylem-Size` tells the blob's size. An
//! extension between nodes; registries and runtimes never see it.

use crate::limits::SLOT_BYTES;

/// Length of a piece. A multiple of a slot's, so that no slot holds bytes of both stripes.
pub const STRIPE_BYTES: u64 = 2 * SLOT_BYTES as u64;

/// Stripes of a blob: as many as there are trees that are interior-disjoint without more children
/// per node (Sanders, Speck, Träff 2009).
pub const STRIPES: u8 = 2;

/// The stripe that a byte of a blob is in.
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below STRIPES")]
pub const fn stripe_of(at: u64) -> u8 {
    (at / STRIPE_BYTES % STRIPES as u64) as u8
}

/// Offset behind the piece that a byte of a blob is in.
pub const fn piece_end(at: u64) -> u64 {
    at - at % STRIPE_BYTES + STRIPE_BYTES
}

/// Bytes of a stripe of a blob of `size` bytes.
pub const fn stripe_bytes(size: u64, stripe: u8) -> u64 {
    offset_in_stripe(size, stripe)
}

/// How many bytes of a stripe lie before a place in the blob.
pub const fn offset_in_stripe(at: u64, stripe: u8) -> u64 {
    let period = STRIPE_BYTES * STRIPES as u64;
    let into = (at % period).saturating_sub(stripe as u64 * STRIPE_BYTES);
    let part = if into < STRIPE_BYTES { into } else { STRIPE_BYTES };
    at / period * STRIPE_BYTES + part
}

/// Offset in the blob behind the last byte of a stripe; 0 of an empty one.
pub const fn stripe_end(size: u64, stripe: u8) -> u64 {
    match stripe_bytes(size, stripe) {
        0 => 0,
        bytes => place_in_blob(bytes - 1, stripe) + 1,
    }
}

/// Where a stripe's byte lies in the blob.
pub const fn place_in_blob(offset: u64, stripe: u8) -> u64 {
    let piece = offset / STRIPE_BYTES * STRIPES as u64 + stripe as u64;
    piece * STRIPE_BYTES + offset % STRIPE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_stripe_and_comes_back() {
        for size in [0, 1, STRIPE_BYTES - 1, STRIPE_BYTES, STRIPE_BYTES + 1, 7 * STRIPE_BYTES + 5] {
            assert_eq!(stripe_bytes(size, 0) + stripe_bytes(size, 1), size);
            let ends = [stripe_end(size, 0), stripe_end(size, 1)];
            assert_eq!(ends.into_iter().max(), Some(size));
            assert!((0..2).all(|of| ends[of] == 0 || stripe_of(ends[of] - 1) as usize == of));
        }
        let mut next = [0, 0];
        for at in (0..36).map(|quarter| quarter * STRIPE_BYTES / 4) {
            let stripe = stripe_of(at);
            let offset = offset_in_stripe(at, stripe);
            assert_eq!(offset, next[usize::from(stripe)], "a stripe has no holes");
            assert_eq!(place_in_blob(offset, stripe), at);
            assert_eq!(offset_in_stripe(at, 1 - stripe), next[usize::from(1 - stripe)]);
            next[usize::from(stripe)] += STRIPE_BYTES / 4;
        }
    }

    #[test]
    fn a_piece_ends_where_the_next_begins() {
        assert_eq!(piece_end(0), STRIPE_BYTES);
        assert_eq!(piece_end(STRIPE_BYTES - 1), STRIPE_BYTES);
        assert_eq!(piece_end(STRIPE_BYTES), 2 * STRIPE_BYTES);
    }
}
