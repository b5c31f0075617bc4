//! A map with a bound: what was longest not used goes first. For the small tables of the cold half,
//! not for blocks.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map of at most so many entries.
#[derive(Debug)]
pub struct Lru<K, V> {
    entries: HashMap<K, (u64, V)>,
    /// Keys by the time of their last use.
    order: BTreeMap<u64, K>,
    clock: u64,
    entries_max: usize,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    /// An empty map.
    pub fn new(entries_max: usize) -> Self {
        assert!(entries_max > 0, "a map that holds nothing");
        Self { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, entries_max }
    }

    /// The value, which counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let (stamp, value) = self.entries.get_mut(key)?;
        self.order.remove(stamp);
        self.clock += 1;
        *stamp = self.clock;
        self.order.insert(self.clock, key.clone());
        Some(value)
    }

    /// The value, without counting as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Puts a value in. Returns what had to go for it: another key's entry, or this key's earlier
    /// value.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let earlier = self.remove(&key).map(|value| (key.clone(), value));
        let gone = if self.entries.len() == self.entries_max { self.pop() } else { None };
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        self.entries.insert(key, (self.clock, value));
        earlier.or(gone)
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (stamp, value) = self.entries.remove(key)?;
        self.order.remove(&stamp);
        Some(value)
    }

    /// Takes out the entry longest not used.
    pub fn pop(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    /// The same, to change the values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(key, (_, value))| (key, value))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_goes() {
        let mut map = Lru::new(2);
        assert_eq!(map.insert("a", 1), None);
        assert_eq!(map.insert("b", 2), None);
        assert_eq!(map.get(&"a"), Some(&mut 1));
        assert_eq!(map.insert("c", 3), Some(("b", 2)));
        assert_eq!(map.insert("c", 4), Some(("c", 3)));
        assert_eq!(map.len(), 2);
        assert_eq!(map.pop(), Some(("a", 1)));
        assert_eq!(map.remove(&"c"), Some(4));
        assert!(map.is_empty() && map.pop().is_none());
    }
}
