//! A table with stable indices and generations: connections and flows live in one each. No I/O.

use crate::ring::token::GENERATION_MASK;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by index. A generation tells the tenants of an index apart.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u16>,
    max: u16,
}

impl<T> Table<T> {
    pub(super) const fn new(max: u16) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), max }
    }

    /// Puts a value in; gives it back when the table is full.
    pub(super) fn insert(&mut self, value: T) -> Result<u16, T> {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[usize::from(index)];
            entry.generation = (entry.generation + 1) & GENERATION_MASK;
            entry.value = Some(value);
            return Ok(index);
        }
        match u16::try_from(self.entries.len()) {
            Ok(index) if index < self.max => {
                self.entries.push(Entry { generation: 0, value: Some(value) });
                Ok(index)
            }
            _ => Err(value),
        }
    }

    pub(super) fn get(&self, index: u16) -> Option<&T> {
        self.entries.get(usize::from(index))?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut T> {
        self.entries.get_mut(usize::from(index))?.value.as_mut()
    }

    pub(super) fn generation(&self, index: u16) -> u32 {
        self.entries.get(usize::from(index)).map_or(0, |entry| entry.generation)
    }

    /// Whether an index still has the tenant of that generation.
    pub(super) fn is_current(&self, index: u16, generation: u32) -> bool {
        self.get(index).is_some() && self.generation(index) == generation
    }

    pub(super) fn remove(&mut self, index: u16) -> Option<T> {
        let value = self.entries.get_mut(usize::from(index))?.value.take()?;
        self.free.push(index);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        // Indices are below `max`, a u16.
        (0u16..).zip(&self.entries).filter_map(|(i, entry)| Some((i, entry.value.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Indices that are or were in use: for loops that change the table.
    pub(super) fn indices(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_differ_by_generation() {
        let mut table = Table::new(2);
        assert_eq!(table.insert('a'), Ok(0));
        assert_eq!(table.insert('b'), Ok(1));
        assert_eq!(table.insert('c'), Err('c'));
        let first = table.generation(0);
        assert_eq!(table.remove(0), Some('a'));
        assert!(!table.is_current(0, first));
        assert_eq!(table.insert('c'), Ok(0));
        assert!(!table.is_current(0, first));
        assert!(table.is_current(0, first + 1));
        assert_eq!(table.len(), 2);
    }
}
