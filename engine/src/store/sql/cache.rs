//! BLOBs that were read lately, by the number of their row.

use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Cache {
    rows: BTreeMap<i64, Row>,
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
        Cache { rows: BTreeMap::new(), bytes: 0, bytes_max, clock: 0 }
    }

    pub(super) fn get(&mut self, number: i64) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let row = self.rows.get_mut(&number)?;
        row.used = self.clock;
        Some(Arc::clone(&row.bytes))
    }

    /// The row of this number or the greatest below it, of those that are here.
    pub(super) fn get_before(&mut self, number: i64) -> Option<(i64, Arc<[u8]>)> {
        self.clock += 1;
        let (found, row) = self.rows.range_mut(..=number).next_back()?;
        row.used = self.clock;
        Some((*found, Arc::clone(&row.bytes)))
    }

    /// Keeps a row, and lets go of those that were used longest ago.
    pub(super) fn put(&mut self, number: i64, bytes: Arc<[u8]>) {
        self.remove(number);
        self.clock += 1;
        self.bytes += bytes.len();
        self.rows.insert(number, Row { bytes, used: self.clock });
        while self.bytes > self.bytes_max && self.rows.len() > 1 {
            // A few hundred rows at most, and only after one was read.
            let oldest = self.rows.iter().min_by_key(|(_, row)| row.used).map(|(number, _)| *number);
            oldest.into_iter().for_each(|number| self.remove(number));
        }
    }

    pub(super) fn remove(&mut self, number: i64) {
        if let Some(row) = self.rows.remove(&number) {
            self.bytes -= row.bytes.len();
        }
    }
}
