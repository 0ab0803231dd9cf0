//! A cache of BLOBs by row id; the least recently used are evicted.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a row takes beside its bytes.
const ROW_BYTES: usize = 100;

#[derive(Debug)]
pub(super) struct BlobCache {
    rows: BTreeMap<i64, Row>,
    /// Their row ids by when they were used.
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

impl BlobCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        BlobCache { rows: BTreeMap::new(), used: BTreeMap::new(), bytes: 0, bytes_max, clock: 0 }
    }

    pub(super) fn get(&mut self, id: i64) -> Option<Arc<[u8]>> {
        self.get_before(id).filter(|(found, _)| *found == id).map(|(_, bytes)| bytes)
    }

    /// The cached row of this id or the greatest below it.
    pub(super) fn get_before(&mut self, id: i64) -> Option<(i64, Arc<[u8]>)> {
        let (found, row) = self.rows.range_mut(..=id).next_back()?;
        self.clock += 1;
        self.used.remove(&row.used);
        self.used.insert(self.clock, *found);
        row.used = self.clock;
        Some((*found, Arc::clone(&row.bytes)))
    }

    /// Adds a row, and evicts those that were used longest ago.
    pub(super) fn put(&mut self, id: i64, bytes: Arc<[u8]>) {
        self.remove(id);
        self.clock += 1;
        self.bytes += bytes.len() + ROW_BYTES;
        self.used.insert(self.clock, id);
        self.rows.insert(id, Row { bytes, used: self.clock });
        while self.bytes > self.bytes_max
            && self.rows.len() > 1
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&mut self, id: i64) {
        if let Some(row) = self.rows.remove(&id) {
            self.used.remove(&row.used);
            self.bytes -= row.bytes.len() + ROW_BYTES;
        }
    }
}
