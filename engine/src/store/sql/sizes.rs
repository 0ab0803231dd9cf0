//! Sizes of the layout's parts. The defaults are for Durable Objects; tests choose them so small that a few events exceed
//! all of them.

use crate::store::REMOVED_KEYS_MAX;
use crate::store::lsm::Leveled;

/// Sizes of the parts of a [`SqlBackend`](super::SqlBackend). What is stored with some is read with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlSizes {
    /// Keys kept in memory until they are flushed to pages. An event has about eleven; a tombstone is one. When the
    /// backend is opened, events and tombstones with up to that many keys are read.
    pub memtable_keys: usize,
    /// Bytes of events whose keys are kept in memory until they are flushed.
    pub memtable_bytes: usize,
    /// Bytes of a page of keys, 128 to 60,000.
    pub page_bytes: usize,
    /// Bytes of events that are stored in one row, if they come in one write. A longer event has a row of its own.
    pub row_bytes: usize,
    /// Runs of level 0 at which they are compacted into level 1; one at least.
    pub runs: usize,
    /// Pages of level 1 above which some are compacted into level 2.
    pub level_pages: usize,
    /// How many times larger than a level the next one may be.
    pub fan_out: usize,
    /// Pages that one compaction step reads, and about as many that it writes; two at least.
    pub compaction_pages: usize,
    /// Keys of removed events, skipped by one reader in one page, from which the page needs to be rewritten.
    pub skipped_keys: usize,
    /// Bytes of pages that are kept in memory.
    pub page_cache_bytes: usize,
    /// Bytes of rows of events that are kept in memory.
    pub row_cache_bytes: usize,
    /// [`Backend::removed_keys_max`](crate::store::Backend::removed_keys_max), where events can be pending removal.
    pub removed_keys_max: usize,
}

impl Default for SqlSizes {
    fn default() -> Self {
        SqlSizes {
            memtable_keys: 8_192,
            memtable_bytes: 2 << 20,
            page_bytes: 32 << 10,
            row_bytes: 16 << 10,
            runs: 8,
            level_pages: 128,
            fan_out: 8,
            compaction_pages: 48,
            skipped_keys: 64,
            page_cache_bytes: 6 << 20,
            row_cache_bytes: 1 << 20,
            // An object has one thread, which takes several times a native writer's time for a key.
            removed_keys_max: REMOVED_KEYS_MAX / 2,
        }
    }
}

impl SqlSizes {
    /// Everything as small as it works.
    #[cfg(feature = "testing")]
    pub fn tiny() -> Self {
        SqlSizes {
            memtable_keys: 24,
            memtable_bytes: 4_000,
            page_bytes: 300,
            row_bytes: 1_000,
            runs: 3,
            level_pages: 4,
            fan_out: 2,
            compaction_pages: 6,
            skipped_keys: 2,
            page_cache_bytes: 2_000,
            row_cache_bytes: 3_000,
            removed_keys_max: 0,
        }
    }

    /// The nearest sizes that work.
    pub(super) fn bounded(self) -> Self {
        SqlSizes {
            page_bytes: self.page_bytes.clamp(128, 60_000),
            runs: self.runs.max(1),
            compaction_pages: self.compaction_pages.max(2),
            skipped_keys: self.skipped_keys.max(1),
            ..self
        }
    }

    /// The sizes of levels.
    pub(super) fn levels(&self) -> Leveled {
        Leveled {
            runs: self.runs,
            level_pages: self.level_pages,
            fan_out: self.fan_out,
            step_pages: self.compaction_pages,
            page_bytes: self.page_bytes,
        }
    }
}
