//! Dense ids that are reused. Knows nothing of what they are ids of.
//!
//! The `slab` crate, which `kinds` uses, gives memory back by `shrink_to_fit` alone, which visits the whole table: 0.3
//! ms for 100,000 keys, 5 to 19 ms for a million (64 bytes each, half of them free; AMD Zen 5). Tables that clients can
//! make that large must not stop for that long, and some share their ids with a second list (`stamps`); so they are
//! lists or `pages` that are cut from the end a few entries at a time.

/// The free ids below some table's length.
///
/// A table may be cut short while ids past its new end wait here; those are dropped when they come
/// up. It never grows before all have come up, so an id is never taken twice.
#[derive(Debug, Default)]
pub(super) struct FreeIds {
    free: Vec<u32>,
}

impl FreeIds {
    /// A free id below `len`, or `None` if the table has to grow.
    pub(super) fn take(&mut self, len: usize) -> Option<u32> {
        while let Some(id) = self.free.pop() {
            if (id as usize) < len {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn release(&mut self, id: u32) {
        self.free.push(id);
    }

    /// Frees memory after `len`, the table's length, went down. A constant for each id released, as a pass
    /// over all of them drops at least half.
    pub(super) fn shrink(&mut self, len: usize) {
        if self.free.len() > len * 2 {
            self.free.retain(|id| (*id as usize) < len);
        }
        shrink_sparse(&mut self.free);
    }

    pub(super) fn bytes(&self) -> usize {
        self.free.capacity() * size_of::<u32>()
    }
}

/// Gives memory back when less than a quarter of it is used. Costs a move of what is left.
pub(super) fn shrink_sparse<T>(list: &mut Vec<T>) {
    if list.len() * 4 < list.capacity() && (list.is_empty() || list.capacity() > 16) {
        list.shrink_to(list.len() * 2);
    }
}

/// The next id of a table that has `len` entries.
///
/// # Panics
/// Past 2^32 entries, for which no machine has the memory.
pub(super) fn next_id(len: usize) -> u32 {
    u32::try_from(len)
        .ok()
        .filter(|id| *id < u32::MAX - (1 << 17))
        .expect("tables stay far below 2^32 entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_past_the_end_are_never_taken() {
        let mut ids = FreeIds::default();
        for id in [5, 1, 9, 2] {
            ids.release(id);
        }
        assert_eq!(ids.take(3), Some(2));
        assert_eq!(ids.take(3), Some(1), "9 is past the end");
        assert_eq!(ids.take(3), None, "and so is 5");
        assert_eq!(ids.take(10), None, "they do not come back when the table grows");
    }
}
