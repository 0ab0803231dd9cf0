//! The memory of sets: what they hold together, wherever parts of them are shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that all sets of a shard hold. Clones are of the same total.
#[derive(Clone, Debug, Default)]
pub struct TotalBytes(Arc<AtomicUsize>);

impl TotalBytes {
    /// Bytes held now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until what is returned is dropped.
    pub fn count(&self, bytes: usize) -> CountedBytes {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        CountedBytes { bytes, total: self.clone() }
    }
}

/// Bytes that are counted in a total for as long as this lives; those of a clone are counted too.
#[derive(Debug)]
pub struct CountedBytes {
    bytes: usize,
    total: TotalBytes,
}

impl CountedBytes {
    /// How many.
    pub fn get(&self) -> usize {
        self.bytes
    }

    /// There are `bytes` now.
    pub fn set(&mut self, bytes: usize) {
        self.total.0.fetch_add(bytes, Ordering::Relaxed);
        self.total.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Clone for CountedBytes {
    fn clone(&self) -> Self {
        self.total.count(self.bytes)
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
