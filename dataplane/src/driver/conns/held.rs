//! What connections hold in memory of their own: unfinished requests, and answers that are on their
//! way. A bound on the sum, not on who they are.

use xylem_protocol::limits::{HELD_BYTES_MAX, HELD_EACH};

use crate::driver::Driver;

/// The sum of what is counted.
#[derive(Debug, Default)]
pub(in crate::driver) struct Held {
    bytes: usize,
}

impl Held {
    /// Counts `bytes` instead of what a connection held before, `own`; false, and nothing counted,
    /// where there is no room for it.
    fn replace(&mut self, own: &mut usize, bytes: usize) -> bool {
        self.bytes -= std::mem::take(own);
        let counted = bytes.saturating_sub(HELD_EACH);
        let fits = counted <= HELD_BYTES_MAX - self.bytes;
        if fits {
            self.bytes += counted;
            *own = counted;
        }
        fits
    }
}

impl Driver {
    /// Notes that a connection holds this much from now on; false if all of them hold too much.
    pub(super) fn hold(&mut self, index: u16, bytes: usize) -> bool {
        let Some(conn) = self.conns.get_mut(index) else { return true };
        self.held.replace(&mut conn.held, bytes)
    }

    /// Reads on where a request has begun.
    pub(super) fn read_rest(&mut self, index: u16) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        let bytes = conn.head.len();
        if self.hold(index, bytes) {
            return self.read_request(index);
        }
        if let Some(conn) = self.conns.get_mut(index) {
            (conn.keep_alive, conn.drain) = (false, true);
            conn.head = Vec::new();
        }
        self.answer_error(index, 503, "TOOMANYREQUESTS", "too many unfinished requests; try again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_bounded_and_small_ones_are_free() {
        let mut held = Held::default();
        let (mut first, mut second) = (0, 0);
        assert!(held.replace(&mut first, HELD_BYTES_MAX), "less than the bound by HELD_EACH");
        assert!(held.replace(&mut second, HELD_EACH) && second == 0);
        assert!(held.replace(&mut second, 2 * HELD_EACH));
        assert!(!held.replace(&mut second, 3 * HELD_EACH) && second == 0);
        assert!(held.replace(&mut first, 0));
        assert!(held.replace(&mut second, HELD_BYTES_MAX));
        assert!(held.replace(&mut second, 0));
        assert_eq!(held.bytes, 0);
    }
}
