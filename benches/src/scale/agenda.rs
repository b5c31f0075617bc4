//! What is to happen, in the order of virtual time. Knows nothing of what happens.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// One thing to happen. What is due at the same time happens in the order in which it was put
/// there.
#[derive(Debug)]
struct Entry<I> {
    at_ns: u64,
    order: u64,
    item: I,
}

impl<I> PartialEq for Entry<I> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<I> Eq for Entry<I> {}

impl<I> PartialOrd for Entry<I> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<I> Ord for Entry<I> {
    /// The earliest is the greatest, because the heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.order).cmp(&(self.at_ns, self.order))
    }
}

/// Virtual time, and what it will bring.
#[derive(Debug)]
pub(super) struct Agenda<I> {
    heap: BinaryHeap<Entry<I>>,
    order: u64,
    now_ns: u64,
}

impl<I> Agenda<I> {
    /// Nothing to do at time 0.
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), order: 0, now_ns: 0 }
    }

    /// The time, ns.
    pub(super) const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// How much has been put here so far.
    pub(super) const fn steps(&self) -> u64 {
        self.order
    }

    /// Puts something here.
    pub(super) fn at(&mut self, at_ns: u64, item: I) {
        debug_assert!(at_ns >= self.now_ns, "time runs backwards");
        self.order += 1;
        self.heap.push(Entry { at_ns, order: self.order, item });
    }

    /// The same, so many ns from now.
    pub(super) fn after(&mut self, delay_ns: u64, item: I) {
        self.at(self.now_ns + delay_ns, item);
    }

    /// What comes next; it is that time now.
    pub(super) fn next(&mut self) -> Option<I> {
        let entry = self.heap.pop()?;
        self.now_ns = entry.at_ns;
        Some(entry.item)
    }
}
