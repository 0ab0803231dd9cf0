//! BLOBs that were read lately, by the number of their row.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a row takes beside its bytes.
const ROW_BYTES: usize = 100;

#[derive(Debug)]
pub(super) struct Cache {
    rows: BTreeMap<i64, Row>,
    /// Their numbers by when they were used.
    used: BTreeMap<u64, i64>,
    bytes: usize,
    bytes_max: usize,
    clock: u64,
}

#[derive(Debug)]
struct Row {
    bytes: Arc<[u8]>,
    used: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Cache { rows: BTreeMap::new(), used: BTreeMap::new(), bytes: 0, bytes_max, clock: 0 }
    }

    pub(super) fn get(&mut self, number: i64) -> Option<Arc<[u8]>> {
        self.get_before(number).filter(|(found, _)| *found == number).map(|(_, bytes)| bytes)
    }

    /// The row of this number or the greatest below it, of those that are here.
    pub(super) fn get_before(&mut self, number: i64) -> Option<(i64, Arc<[u8]>)> {
        let (found, row) = self.rows.range_mut(..=number).next_back()?;
        self.clock += 1;
        self.used.remove(&row.used);
        self.used.insert(self.clock, *found);
        row.used = self.clock;
        Some((*found, Arc::clone(&row.bytes)))
    }

    /// Keeps a row, and lets go of those that were used longest ago.
    pub(super) fn put(&mut self, number: i64, bytes: Arc<[u8]>) {
        self.remove(number);
        self.clock += 1;
        self.bytes += bytes.len() + ROW_BYTES;
        self.used.insert(self.clock, number);
        self.rows.insert(number, Row { bytes, used: self.clock });
        while self.bytes > self.bytes_max
            && self.rows.len() > 1
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&mut self, number: i64) {
        if let Some(row) = self.rows.remove(&number) {
            self.used.remove(&row.used);
            self.bytes -= row.bytes.len() + ROW_BYTES;
        }
    }
}
