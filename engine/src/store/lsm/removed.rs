//! Events whose keys are left out wherever they are read: a bitmap by sequence number, in rows of 16,384 bits. The bits stay,
//! since sequence numbers are never used twice. A clone shares the rows.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::store::backend::{Seq, StoreError};

/// Bits of one row.
const ROW_BITS: u64 = 1 << 14;
const ROW_BYTES: usize = ROW_BITS as usize / 8;

/// The bits of one row.
type Bits = [u8; ROW_BYTES];

/// The bitmap.
#[derive(Clone, Debug, Default)]
pub struct RemovedSeqs {
    rows: FxHashMap<u64, Arc<Bits>>,
    len: u64,
}

/// The rows that a write changed, as they are after it.
#[derive(Debug, Default)]
pub struct ChangedBits(Vec<(u64, Arc<Bits>)>);

impl ChangedBits {
    /// The rows, by number, ascending.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(number, bits)| (*number, &bits[..]))
    }
}

impl RemovedSeqs {
    /// Whether an event was removed.
    pub fn contains(&self, seq: Seq) -> bool {
        let (number, byte, bit) = row_byte_and_bit(seq);
        self.len > 0 && self.rows.get(&number).is_some_and(|bits| bits[byte] & bit != 0)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How many there are from `first` on, up to `last`.
    pub fn count_in(&self, first: Seq, last: Seq) -> u64 {
        let mut count = 0;
        let mut seq = first.0;
        while seq <= last.0 {
            let number = seq / ROW_BITS;
            let next = (number + 1) * ROW_BITS;
            if let Some(bits) = self.rows.get(&number) {
                let end = if last.0 < next { last.0 % ROW_BITS } else { ROW_BITS - 1 };
                count += ones(bits, (seq % ROW_BITS) as usize, end as usize);
            }
            seq = next;
        }
        count
    }

    /// Whether there is any from `first` on, up to `last`. Rows are looked at up to the first that has one, however wide the range is.
    pub fn has_any_in(&self, first: Seq, last: Seq) -> bool {
        if self.len == 0 || first > last {
            return false;
        }
        let (from, to) = (first.0 / ROW_BITS, last.0 / ROW_BITS);
        // A row is there because it has a bit.
        let is_in = |number: u64| match self.rows.get(&number) {
            Some(_) if from < number && number < to => true,
            Some(bits) => {
                let begin = if number == from { first.0 % ROW_BITS } else { 0 };
                let end = if number == to { last.0 % ROW_BITS } else { ROW_BITS - 1 };
                ones(bits, begin as usize, end as usize) > 0
            }
            None => false,
        };
        if self.rows.len() as u64 <= to - from {
            return self.rows.keys().any(|number| (from..=to).contains(number) && is_in(*number));
        }
        (from..=to).any(is_in)
    }

    /// Whether the same events from `first` on, up to `last`, are here and in another state of this set. Rows that both share are not looked at.
    pub fn is_same_in(&self, other: &RemovedSeqs, first: Seq, last: Seq) -> bool {
        // They are added only.
        if self.len == other.len || first > last {
            return true;
        }
        let (from, to) = (first.0 / ROW_BITS, last.0 / ROW_BITS);
        let is_same = |number: u64| {
            let rows = [self, other].map(|removed| removed.rows.get(&number));
            if let [Some(one), Some(other)] = rows
                && Arc::ptr_eq(one, other)
            {
                return true;
            }
            let begin = if number == from { first.0 % ROW_BITS } else { 0 };
            let end = if number == to { last.0 % ROW_BITS } else { ROW_BITS - 1 };
            let [one, other] =
                rows.map(|bits| bits.map_or(0, |bits| ones(bits, begin as usize, end as usize)));
            one == other
        };
        let rows = if self.rows.len() > other.rows.len() { &self.rows } else { &other.rows };
        if rows.len() as u64 <= to - from {
            return rows.keys().all(|number| !(from..=to).contains(number) || is_same(*number));
        }
        (from..=to).all(is_same)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rows that change when `seqs`, ascending, are added. [`RemovedSeqs::commit`] follows.
    pub fn adding(&self, seqs: &[Seq]) -> ChangedBits {
        let mut changed: Vec<(u64, Arc<Bits>)> = Vec::new();
        for seq in seqs {
            let (number, byte, bit) = row_byte_and_bit(*seq);
            if changed.last().is_none_or(|(last, _)| *last != number) {
                let bits = self.rows.get(&number).cloned();
                changed.push((number, bits.unwrap_or_else(|| Arc::new([0; ROW_BYTES]))));
            }
            if let Some((_, bits)) = changed.last_mut() {
                Arc::make_mut(bits)[byte] |= bit;
            }
        }
        ChangedBits(changed)
    }

    /// Takes changed rows over.
    pub fn commit(&mut self, ChangedBits(changed): ChangedBits) {
        changed.into_iter().for_each(|(number, bits)| self.set(number, bits));
    }

    /// The rows that `before` does not have as they are here.
    pub fn changed_since(&self, before: &RemovedSeqs) -> ChangedBits {
        let is_new = |(number, bits): &(&u64, &Arc<Bits>)| {
            before.rows.get(number).is_none_or(|known| !Arc::ptr_eq(known, bits))
        };
        let mut rows: Vec<_> =
            self.rows.iter().filter(is_new).map(|(n, bits)| (*n, Arc::clone(bits))).collect();
        rows.sort_unstable_by_key(|(number, _)| *number);
        ChangedBits(rows)
    }

    /// Up to `max` events that are here and not in `other`, ascending.
    pub fn missing_in(&self, other: &RemovedSeqs, max: usize) -> Vec<Seq> {
        let is_changed = |(number, bits): &(&u64, &Arc<Bits>)| {
            other.rows.get(number).is_none_or(|known| !Arc::ptr_eq(known, bits) && known != *bits)
        };
        let mut rows: Vec<_> = self.rows.iter().filter(is_changed).collect();
        rows.sort_unstable_by_key(|(number, _)| **number);
        let mut found = Vec::new();
        for (number, bits) in rows {
            let known = other.rows.get(number);
            for (at, byte) in bits.iter().enumerate() {
                let mut new = byte & !known.map_or(0, |known| known[at]);
                while new != 0 {
                    if found.len() == max {
                        return found;
                    }
                    found.push(Seq(number * ROW_BITS + 8 * at as u64 + u64::from(new.trailing_zeros())));
                    new &= new - 1;
                }
            }
        }
        found
    }

    /// Puts a row that was stored.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it has another length.
    pub fn put_row(&mut self, number: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let bits: Bits = bytes.try_into().map_err(|_| {
            StoreError::Corrupt(format!("a bitmap of removed events has {} bytes", bytes.len()))
        })?;
        self.set(number, Arc::new(bits));
        Ok(())
    }

    fn set(&mut self, number: u64, bits: Arc<Bits>) {
        let count = |bits: &Bits| bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        self.len += count(&bits);
        if let Some(before) = self.rows.insert(number, bits) {
            self.len -= count(&before);
        }
    }
}

/// How many bits are set from one to another, both included.
fn ones(bits: &Bits, first: usize, last: usize) -> u64 {
    let mut count = 0;
    for (at, byte) in bits.iter().enumerate().take(last / 8 + 1).skip(first / 8) {
        let from = if at == first / 8 { 0xff << (first % 8) } else { 0xff };
        let to = if at == last / 8 { 0xff >> (7 - last % 8) } else { 0xff };
        count += u64::from((byte & from & to).count_ones());
    }
    count
}

fn row_byte_and_bit(seq: Seq) -> (u64, usize, u8) {
    let within = seq.0 % ROW_BITS;
    (seq.0 / ROW_BITS, within as usize / 8, 1 << (within % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_until_they_change() {
        let mut removed = RemovedSeqs::default();
        let add = |removed: &mut RemovedSeqs, seqs: &[u64]| {
            let seqs: Vec<Seq> = seqs.iter().copied().map(Seq).collect();
            let changed = removed.adding(&seqs);
            removed.commit(changed);
        };
        add(&mut removed, &[1, 2, 20_000, 40_000]);
        let before = removed.clone();
        add(&mut removed, &[2, 20_001]);
        assert_eq!((before.len(), removed.len()), (4, 5));
        assert!(!before.contains(Seq(20_001)) && removed.contains(Seq(20_001)) && removed.contains(Seq(1)));
        let changed: Vec<u64> = removed.changed_since(&before).rows().map(|(number, _)| number).collect();
        assert_eq!(changed, [0, 1]);
        assert_eq!(removed.count_in(Seq(2), Seq(20_000)), 2);
        assert_eq!(removed.count_in(Seq(0), Seq(100_000)), 5);
        for first in 19_990..20_010 {
            for last in first - 1..20_010 {
                let expected = (first..=last).filter(|seq| removed.contains(Seq(*seq))).count() as u64;
                assert_eq!(removed.count_in(Seq(first), Seq(last)), expected, "{first} to {last}");
                assert_eq!(removed.has_any_in(Seq(first), Seq(last)), expected > 0, "{first} to {last}");
            }
        }
        let marks = [0, 1, 2, 3, 16_383, 16_384, 19_999, 20_000, 20_001, 20_002, 32_768, 40_000, 90_000];
        for first in marks {
            for last in marks {
                let counts = [&before, &removed].map(|removed| removed.count_in(Seq(first), Seq(last)));
                let (first, last) = (Seq(first), Seq(last));
                assert_eq!(removed.has_any_in(first, last), counts[1] > 0, "{first:?} to {last:?}");
                assert_eq!(before.is_same_in(&removed, first, last), counts[0] == counts[1]);
                assert_eq!(removed.is_same_in(&before, first, last), counts[0] == counts[1]);
            }
        }
        assert_eq!(removed.missing_in(&before, 9), [Seq(20_001)]);
        assert_eq!(removed.missing_in(&RemovedSeqs::default(), 4), [1, 2, 20_000, 20_001].map(Seq));
        assert_eq!(before.missing_in(&removed, 9), []);
        let mut copy = before.clone();
        for (number, bits) in removed.changed_since(&before).rows() {
            copy.put_row(number, bits).expect("a row");
        }
        assert_eq!(copy.len(), 5);
        assert!(copy.put_row(7, &[0; 3]).is_err());
    }
}
