//! Among whom a node is judged: figures of its fellows.

use crate::limits::SENDERS_MIN;

/// Among whom a node is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// What the better quarter of the nodes in its trees sent at their best, bytes per second.
    pub usual: u64,
    /// What one of them had from the registry at its best, bytes per second.
    pub intake: u64,
    /// Nodes in its trees.
    pub fellows: u32,
    /// Those of them that are slow already.
    pub slow_fellows: u32,
    /// Those that are suspected at this moment.
    pub suspects: u32,
    /// Those that crawl, by [`Watch::crawls`](super::Watch::crawls).
    pub crawl: u32,
}

impl Field {
    /// What is usual where nodes have sent so much at their best, if these are enough to tell; puts
    /// them in order.
    pub fn usual(bests: &mut [u64]) -> u64 {
        if bests.len() < SENDERS_MIN as usize {
            return 0;
        }
        bests.sort_unstable();
        bests[bests.len() * 3 / 4]
    }

    /// How many may be slow: where more than a quarter are, slow is what they are.
    pub(super) const fn few(&self) -> u32 {
        self.fellows.div_ceil(4)
    }
}
