//! Events pending removal as a bitmap by sequence number, in rows of 8,192 bits. A row without bits is not stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::overlay::Overlay;
use crate::store::backend::{Seq, StoreError};

/// Bytes of a row: three of them fit a page of LMDB.
const ROW_BYTES: usize = 1 << 10;
const ROW_BITS: u64 = 8 * ROW_BYTES as u64;

/// The bits of one row. Which row it is follows from a sequence number ([`PendingRemovalRow::number_of`]).
#[derive(Clone, PartialEq, Eq)]
pub struct PendingRemovalRow([u8; ROW_BYTES]);

impl PendingRemovalRow {
    /// No bits.
    pub const EMPTY: PendingRemovalRow = PendingRemovalRow([0; ROW_BYTES]);

    /// The number of the row that this event's bit is in.
    pub fn number_of(seq: Seq) -> u64 {
        seq.0 / ROW_BITS
    }

    /// A row that was stored.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it has another length.
    pub fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let row = bytes.try_into().map(PendingRemovalRow);
        row.map_err(|_| {
            StoreError::Corrupt(format!("a row of events pending removal has {} bytes", bytes.len()))
        })
    }

    /// The row as it is stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a stored row has this event's bit.
    pub fn has(row: &[u8], seq: Seq) -> bool {
        let (byte, bit) = byte_and_bit(seq);
        row.get(byte).is_some_and(|byte| byte & bit != 0)
    }

    /// How many events a stored row marks.
    pub fn count(row: &[u8]) -> u64 {
        row.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// The events that stored row `number` marks, ascending.
    pub fn seqs(number: u64, row: &[u8]) -> impl Iterator<Item = Seq> + '_ {
        let set = row.iter().enumerate().filter(|(_, byte)| **byte != 0);
        set.flat_map(move |(at, byte)| {
            let bits = (0..8u64).filter(move |bit| byte & (1 << bit) != 0);
            bits.map(move |bit| Seq(number * ROW_BITS + at as u64 * 8 + bit))
        })
    }

    /// Marks an event of this row, or forgets that it was pending removal.
    pub(super) fn set(&mut self, seq: Seq, is_pending_removal: bool) {
        let (byte, bit) = byte_and_bit(seq);
        match is_pending_removal {
            true => self.0[byte] |= bit,
            false => self.0[byte] &= !bit,
        }
    }
}

/// All rows, for a backend that keeps them in memory. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct PendingRemovals {
    rows: BTreeMap<u64, Arc<PendingRemovalRow>>,
    len: u64,
}

impl PendingRemovals {
    /// How many events are pending removal.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether an event is. Costs a comparison while none is.
    pub fn contains(&self, seq: Seq) -> bool {
        self.len > 0
            && self
                .rows
                .get(&PendingRemovalRow::number_of(seq))
                .is_some_and(|row| PendingRemovalRow::has(row.as_bytes(), seq))
    }

    /// All, ascending.
    pub fn seqs(&self) -> impl Iterator<Item = Seq> {
        self.rows().flat_map(|(number, row)| PendingRemovalRow::seqs(number, row.as_bytes()))
    }

    /// The rows, by number, ascending. None is empty.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &PendingRemovalRow)> {
        self.rows.iter().map(|(number, row)| (*number, &**row))
    }

    /// The rows that a write changes, as they will be.
    ///
    /// # Errors
    /// None; the signature is that of [`Overlay::pending_removal_rows`].
    pub fn changed_by(&self, overlay: &Overlay) -> Result<Vec<(u64, PendingRemovalRow)>, StoreError> {
        let row = |number| self.rows.get(&number).map_or(PendingRemovalRow::EMPTY, |row| (**row).clone());
        overlay.pending_removal_rows(|number| Ok(row(number)))
    }

    /// Marks an event, or forgets that it was pending removal.
    pub fn set(&mut self, seq: Seq, is_pending_removal: bool) {
        let number = PendingRemovalRow::number_of(seq);
        let mut row = self.rows.get(&number).map_or(PendingRemovalRow::EMPTY, |row| (**row).clone());
        row.set(seq, is_pending_removal);
        self.put_row(number, row);
    }

    /// Puts a row, as it is stored or after a change.
    pub fn put_row(&mut self, number: u64, row: PendingRemovalRow) {
        let count = |row: &PendingRemovalRow| PendingRemovalRow::count(row.as_bytes());
        self.len += count(&row);
        let before = match row == PendingRemovalRow::EMPTY {
            true => self.rows.remove(&number),
            false => self.rows.insert(number, Arc::new(row)),
        };
        self.len -= before.as_ref().map_or(0, |row| count(row));
    }
}

fn byte_and_bit(seq: Seq) -> (usize, u8) {
    let within = seq.0 % ROW_BITS;
    (within as usize / 8, 1 << (within % 8))
}

impl std::fmt::Debug for PendingRemovalRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(PendingRemovalRow::seqs(0, &self.0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_the_numbers_that_were_set() {
        let seqs = [16_384, 16_385, 16_391, 16_392, 24_575].map(Seq);
        assert!(seqs.iter().all(|seq| PendingRemovalRow::number_of(*seq) == 2));
        assert_eq!(PendingRemovalRow::number_of(Seq(24_576)), 3);
        let mut row = PendingRemovalRow::EMPTY;
        seqs.iter().for_each(|seq| row.set(*seq, true));
        assert_eq!(PendingRemovalRow::seqs(2, row.as_bytes()).collect::<Vec<_>>(), seqs);
        assert_eq!(PendingRemovalRow::count(row.as_bytes()), 5);
        assert!(
            PendingRemovalRow::has(row.as_bytes(), Seq(16_391))
                && !PendingRemovalRow::has(row.as_bytes(), Seq(16_390))
        );
        row.set(Seq(16_391), false);
        assert!(!PendingRemovalRow::has(row.as_bytes(), Seq(16_391)));
        assert_eq!(PendingRemovalRow::read(row.as_bytes()), Ok(row));
        assert!(PendingRemovalRow::read(&[0; 3]).is_err());
    }
}
