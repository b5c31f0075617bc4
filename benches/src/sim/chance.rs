//! Chance from a seed (SplitMix64): the same on every machine and in every release, which no
//! library promises.

/// A source of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The numbers of this seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) const fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high - low + 1)
    }

    /// A number from `low` to `high` whose magnitude is even: for rates and sizes.
    pub(crate) const fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let bits = self.within(low.ilog2() as u64, high.ilog2() as u64);
        let value = (1 << bits) | (self.number() & ((1 << bits) - 1));
        if value < low {
            low
        } else if value > high {
            high
        } else {
            value
        }
    }

    /// An index below `count`.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.within(0, count as u64 - 1)).expect("an index")
    }

    /// Yes in `percent` of 100 cases.
    pub(crate) const fn percent(&mut self, percent: u64) -> bool {
        self.within(0, 99) < percent
    }
}
