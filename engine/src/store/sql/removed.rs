//! Events that were removed after their keys had been flushed to pages: a bitmap by sequence number, in rows of 16,384
//! bits. Their keys stay in the pages, are skipped when read, and are left out when pages are compacted. The bits stay,
//! since sequence numbers are never used twice.

use rustc_hash::FxHashMap;

use super::queries::{Bulk, SMALL_ROWS, each_row};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};

const READ: &str = "SELECT chunk, bits FROM relay_gone WHERE chunk > ? ORDER BY chunk LIMIT ?";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_gone (chunk, bits) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (chunk) DO UPDATE SET bits = excluded.bits",
};

/// Bits of one row.
const ROW_BITS: u64 = 1 << 14;
const ROW_BYTES: usize = ROW_BITS as usize / 8;

/// The bits of one row.
type Bits = [u8; ROW_BYTES];

#[derive(Debug, Default)]
pub(super) struct RemovedSeqs {
    chunks: FxHashMap<u64, Box<Bits>>,
    len: u64,
}

/// The rows that a write changed, as they are after it.
#[derive(Debug, Default)]
pub(super) struct ChangedBits(Vec<(u64, Box<Bits>)>);

impl RemovedSeqs {
    /// Reads all rows.
    pub(super) fn load<C: SqlConn>(conn: &C) -> Result<Self, StoreError> {
        let mut removed = RemovedSeqs::default();
        each_row(conn, READ, -1, SMALL_ROWS, &mut |row| match *row {
            [SqlValue::Int(chunk), SqlValue::Blob(bytes)] => {
                let bits: Bits = bytes.try_into().map_err(|_| {
                    StoreError::Corrupt(format!("a bitmap of removed events has {} bytes", bytes.len()))
                })?;
                removed.set(chunk as u64, Box::new(bits));
                Ok(chunk)
            }
            _ => Err(StoreError::Corrupt("table relay_gone: unexpected column types".into())),
        })?;
        Ok(removed)
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        let (chunk, byte, bit) = chunk_byte_and_bit(seq);
        self.chunks.get(&chunk).is_some_and(|bits| bits[byte] & bit != 0)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes the rows that change when `seqs`, ascending, are added. Runs inside a transaction;
    /// [`RemovedSeqs::commit`] follows it.
    pub(super) fn write<C: SqlConn>(&self, conn: &C, seqs: &[Seq]) -> Result<ChangedBits, StoreError> {
        let mut changed: Vec<(u64, Box<Bits>)> = Vec::new();
        for seq in seqs {
            let (chunk, byte, bit) = chunk_byte_and_bit(*seq);
            if changed.last().is_none_or(|(last, _)| *last != chunk) {
                let bits = self.chunks.get(&chunk).cloned();
                changed.push((chunk, bits.unwrap_or_else(|| Box::new([0; ROW_BYTES]))));
            }
            if let Some((_, bits)) = changed.last_mut() {
                bits[byte] |= bit;
            }
        }
        let rows =
            changed.iter().map(|(chunk, bits)| [SqlValue::Int(*chunk as i64), SqlValue::Blob(&**bits)]);
        WRITE.run(conn, rows)?;
        Ok(ChangedBits(changed))
    }

    pub(super) fn commit(&mut self, ChangedBits(changed): ChangedBits) {
        changed.into_iter().for_each(|(chunk, bits)| self.set(chunk, bits));
    }

    fn set(&mut self, chunk: u64, bits: Box<Bits>) {
        let count = |bits: &Bits| bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        self.len += count(&bits);
        if let Some(before) = self.chunks.insert(chunk, bits) {
            self.len -= count(&before);
        }
    }
}

fn chunk_byte_and_bit(seq: Seq) -> (u64, usize, u8) {
    let within = seq.0 % ROW_BITS;
    (seq.0 / ROW_BITS, within as usize / 8, 1 << (within % 8))
}
