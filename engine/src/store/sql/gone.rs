//! Which numbers are gone: events taken out after their keys had been folded into pages. A bit each, in rows of
//! 16,384 numbers. Their keys stay in the pages, are passed by when read, and are left out when pages are merged;
//! the bits stay, since numbers are never used twice.

use rustc_hash::FxHashMap;

use crate::store::backend::{Seq, StoreError};

/// Numbers of one row.
const CHUNK: u64 = 1 << 14;
const CHUNK_BYTES: usize = CHUNK as usize / 8;

/// The bits of one row.
pub(super) type Bits = [u8; CHUNK_BYTES];

#[derive(Debug, Default)]
pub(super) struct Gone {
    chunks: FxHashMap<u64, Box<Bits>>,
    len: u64,
}

impl Gone {
    pub(super) fn contains(&self, seq: Seq) -> bool {
        let (chunk, byte, bit) = place(seq);
        self.chunks.get(&chunk).is_some_and(|bits| bits[byte] & bit != 0)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The rows that change when `seqs` go, as they will be.
    pub(super) fn with(&self, seqs: impl Iterator<Item = Seq>) -> Vec<(u64, Box<Bits>)> {
        let mut changed: Vec<(u64, Box<Bits>)> = Vec::new();
        for seq in seqs {
            let (chunk, byte, bit) = place(seq);
            if changed.last().is_none_or(|(last, _)| *last != chunk) {
                let bits = self.chunks.get(&chunk).cloned();
                changed.push((chunk, bits.unwrap_or_else(|| Box::new([0; CHUNK_BYTES]))));
            }
            if let Some((_, bits)) = changed.last_mut() {
                bits[byte] |= bit;
            }
        }
        changed
    }

    pub(super) fn set(&mut self, chunk: u64, bits: Box<Bits>) {
        let count = |bits: &Bits| bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        self.len += count(&bits);
        if let Some(before) = self.chunks.insert(chunk, bits) {
            self.len -= count(&before);
        }
    }

    /// A row that was read.
    pub(super) fn load(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let bits: Bits = bytes.try_into().map_err(|_| {
            StoreError::Corrupt(format!("a row of numbers that are gone has {} bytes", bytes.len()))
        })?;
        self.set(chunk, Box::new(bits));
        Ok(())
    }
}

fn place(seq: Seq) -> (u64, usize, u8) {
    let within = seq.0 % CHUNK;
    (seq.0 / CHUNK, within as usize / 8, 1 << (within % 8))
}
