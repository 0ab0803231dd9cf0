//! Maintenance keeps reads cheap: keys in memory are flushed to pages, and pages are compacted into levels where fewer of
//! them overlap.
//!
//! It changes nothing of what is stored. Each step is a transaction of its own after a write (or before one, if flushing has
//! failed for long); one that fails leaves everything as it was, and is tried again after the next write.

use super::page_table;
use super::sizes::SqlSizes;
use super::tables::Tables;
use crate::sql::SqlConn;
use crate::store::backend::StoreError;

/// Compaction debt: keys written for which one more compaction step is made. A step moves several thousand keys down a
/// level, and each key moves down three or four levels, so compaction keeps up, which tests check.
const KEYS_PER_COMPACTION: usize = 1_024;
/// Pages that are checked and rewritten after one write.
const REWRITES: usize = 4;
/// Multiple of its flush size that the memtable may reach, while flushing fails, before writes are refused.
const FLUSH_OVERDUE_FACTOR: usize = 8;

impl Tables {
    /// After a write of `keys_written` keys: does what is due, but no more than that write's share of it.
    ///
    /// # Errors
    /// The connection's. What was done before stays done.
    pub(super) fn maintain<C: SqlConn>(
        &mut self,
        conn: &C,
        sizes: &SqlSizes,
        keys_written: usize,
    ) -> Result<(), StoreError> {
        if self.memtable.is_full(sizes, 1) {
            self.flush(conn, sizes)?;
        }
        self.tree.rewrites.push_due(&self.tree.directory, REWRITES);
        for _ in 0..REWRITES {
            let Some(page) = self.tree.rewrites.pop() else { break };
            self.tree.rewrite(conn, page, sizes.page_bytes)?;
        }
        for _ in 0..1 + keys_written / KEYS_PER_COMPACTION {
            let Some(level) = sizes.levels().due(&self.tree.directory, self.tree.level_0_next) else {
                return Ok(());
            };
            self.tree.compact(conn, level, sizes)?;
        }
        Ok(())
    }

    /// Before a write: flushes if the memtable has grown far too large because earlier flushes failed.
    ///
    /// # Errors
    /// The connection's. Then the write must not add events.
    pub(super) fn flush_if_overdue<C: SqlConn>(
        &mut self,
        conn: &C,
        sizes: &SqlSizes,
    ) -> Result<(), StoreError> {
        if self.memtable.is_full(sizes, FLUSH_OVERDUE_FACTOR) { self.flush(conn, sizes) } else { Ok(()) }
    }

    /// Moves all keys of the memtable to a new run of level 0.
    fn flush<C: SqlConn>(&mut self, conn: &C, sizes: &SqlSizes) -> Result<(), StoreError> {
        let pages = self.tree.new_run(&self.memtable.live_keys(), sizes.page_bytes);
        let flushed = self.memtable.after_flush(self.events.last_seq());
        conn.transaction(&mut || {
            page_table::write(conn, &pages)?;
            flushed.write(conn)
        })?;
        self.tree.insert(pages);
        self.memtable.clear(flushed);
        Ok(())
    }
}
