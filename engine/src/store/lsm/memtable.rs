//! The memtable: keys that are in no page yet, as sorted slices that never change.
//!
//! A write adds a slice, and slices of about the same size are merged, so there are as many as the number of keys has binary
//! digits. A clone shares them: whoever reads keeps what there was. To be flushed, those that there are are frozen first; what
//! is written meanwhile goes into others.

use std::sync::Arc;

use crate::store::kv::Key;

/// Sorted slices of keys.
#[derive(Clone, Debug, Default)]
pub struct Memtable {
    slices: Vec<Arc<[Key]>>,
    /// How many of the first slices are frozen.
    frozen: usize,
    keys: usize,
}

impl Memtable {
    /// How many keys there are, those of removed events included.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// Adds sorted keys.
    pub fn add(&mut self, keys: Vec<Key>) {
        debug_assert!(keys.is_sorted());
        if keys.is_empty() {
            return;
        }
        self.keys += keys.len();
        let mut last: Arc<[Key]> = keys.into();
        while self.slices.len() > self.frozen
            && let Some(before) = self.slices.pop_if(|before| before.len() < 2 * last.len())
        {
            last = merge(&before, &last);
        }
        self.slices.push(last);
    }

    /// The slices, each sorted.
    pub fn slices(&self) -> &[Arc<[Key]>] {
        &self.slices
    }

    /// Freezes what there is. Returns it as a memtable of its own.
    pub fn freeze(&mut self) -> Memtable {
        self.frozen = self.slices.len();
        self.clone()
    }

    /// Takes out what was frozen first, of which there were `slices`.
    pub fn remove_frozen(&mut self, frozen: &Memtable) {
        self.keys -= frozen.keys;
        self.slices.drain(..frozen.slices.len());
        self.frozen -= frozen.slices.len();
    }

    /// All keys for which `wanted` holds, in no order.
    pub fn keys_where(&self, mut wanted: impl FnMut(&Key) -> bool) -> Vec<Key> {
        self.slices.iter().flat_map(|slice| slice.iter()).filter(|key| wanted(key)).copied().collect()
    }
}

fn merge(one: &[Key], other: &[Key]) -> Arc<[Key]> {
    let mut merged = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one, other);
    while let (Some((first, rest)), Some((first_of_other, rest_of_other))) =
        (one.split_first(), other.split_first())
    {
        if first <= first_of_other {
            merged.push(*first);
            one = rest;
        } else {
            merged.push(*first_of_other);
            other = rest_of_other;
        }
    }
    merged.extend_from_slice(one);
    merged.extend_from_slice(other);
    merged.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        Key::read(&n.wrapping_mul(2_654_435_761).to_be_bytes()).expect("short")
    }

    fn sorted(memtable: &Memtable) -> Vec<Key> {
        let mut keys = memtable.keys_where(|_| true);
        keys.sort();
        keys
    }

    fn of(numbers: std::ops::Range<u32>) -> Vec<Key> {
        let mut keys: Vec<Key> = numbers.map(key).collect();
        keys.sort();
        keys
    }

    #[test]
    fn it_has_few_slices_and_all_keys() {
        let mut memtable = Memtable::default();
        for n in 0..1_000 {
            memtable.add(of(n * 3..n * 3 + 3));
            assert!(memtable.slices().iter().all(|slice| slice.is_sorted()));
            assert!(memtable.slices().len() <= 11, "{} slices", memtable.slices().len());
        }
        assert_eq!(sorted(&memtable), of(0..3_000));
        assert_eq!(memtable.len(), 3_000);
    }

    #[test]
    fn what_is_frozen_stays_until_it_is_taken_out() {
        let mut memtable = Memtable::default();
        memtable.add(of(0..100));
        memtable.add(of(100..110));
        let before = memtable.clone();
        let frozen = memtable.freeze();
        memtable.add(of(110..400));
        memtable.add(of(400..401));
        assert_eq!(sorted(&frozen), of(0..110));
        assert_eq!(sorted(&memtable), of(0..401));
        memtable.remove_frozen(&frozen);
        assert_eq!(sorted(&memtable), of(110..401));
        assert_eq!((memtable.len(), sorted(&before)), (291, of(0..110)));
        let frozen = memtable.freeze();
        memtable.remove_frozen(&frozen);
        assert!(memtable.is_empty() && memtable.slices().is_empty());
    }
}
