//! The table of pages: its rows, and a cache of those read lately.

use std::sync::Arc;

use super::cache::BlobCache;
use super::page::{Page, PageId, PageRef, RunId};
use super::queries::{Bulk, SMALL_ROWS, each_row};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::StoreError;
use crate::store::kv::Key;

const READ_PAGE_REFS: &str =
    "SELECT page, level, run, first, last, filter FROM relay_page WHERE page > ? ORDER BY page LIMIT ?";
const READ: &str = "SELECT keys FROM relay_page WHERE page = ?";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_page (page, level, run, first, last, filter, keys) VALUES ",
    row: "(?,?,?,?,?,?,?)",
    after: " ON CONFLICT (page) DO UPDATE SET level = excluded.level, run = excluded.run, first = excluded.first, \
            last = excluded.last, filter = excluded.filter, keys = excluded.keys",
};
const DELETE: Bulk = Bulk { before: "DELETE FROM relay_page WHERE page IN (", row: "?", after: ")" };

#[derive(Debug)]
pub(super) struct PageTable {
    cache: BlobCache,
}

impl PageTable {
    pub(super) fn new(cache_bytes: usize) -> Self {
        PageTable { cache: BlobCache::new(cache_bytes) }
    }

    /// The keys of a page, encoded.
    pub(super) fn read<C: SqlConn>(&mut self, conn: &C, id: PageId) -> Result<Arc<[u8]>, StoreError> {
        if let Some(page) = self.cache.get(id.0) {
            return Ok(page);
        }
        let mut found: Option<Arc<[u8]>> = None;
        conn.query(READ, &[SqlValue::Int(id.0)], &mut |row| match row {
            [SqlValue::Blob(keys)] => {
                found = Some((*keys).into());
                Ok(())
            }
            _ => Err(StoreError::Corrupt("table relay_page: unexpected column types".into())),
        })?;
        let page = found.ok_or_else(|| StoreError::Corrupt(format!("page {} is missing", id.0)))?;
        self.cache.put(id.0, Arc::clone(&page));
        Ok(page)
    }

    /// Drops pages from the cache, because they have been replaced.
    pub(super) fn evict(&mut self, ids: &[PageId]) {
        ids.iter().for_each(|id| self.cache.remove(id.0));
    }
}

/// Reads all pages without their keys, and calls `each` with them.
pub(super) fn each_page_ref<C: SqlConn>(
    conn: &C,
    each: &mut dyn FnMut(RunId, PageRef),
) -> Result<(), StoreError> {
    each_row(conn, READ_PAGE_REFS, 0, SMALL_ROWS, &mut |row| match *row {
        [
            SqlValue::Int(id),
            SqlValue::Int(level),
            SqlValue::Int(run),
            SqlValue::Blob(first),
            SqlValue::Blob(last),
            SqlValue::Blob(bloom),
        ] => {
            let (Some(first), Some(last)) = (Key::read(first), Key::read(last)) else {
                return Err(StoreError::Corrupt(format!(
                    "table relay_page, page {id}: invalid first or last key"
                )));
            };
            let run = RunId { level: level as usize, run };
            each(run, PageRef { id: PageId(id), first, last, bloom: bloom.into() });
            Ok(id)
        }
        _ => Err(StoreError::Corrupt("table relay_page: unexpected column types".into())),
    })
}

/// Writes pages over those of the same ids. Runs inside a transaction.
pub(super) fn write<C: SqlConn>(conn: &C, pages: &[Page]) -> Result<(), StoreError> {
    let rows = pages.iter().map(|Page { run, page_ref, keys }| {
        [
            SqlValue::Int(page_ref.id.0),
            SqlValue::Int(run.level as i64),
            SqlValue::Int(run.run),
            SqlValue::Blob(page_ref.first.as_bytes()),
            SqlValue::Blob(page_ref.last.as_bytes()),
            SqlValue::Blob(&page_ref.bloom),
            SqlValue::Blob(keys),
        ]
    });
    WRITE.run(conn, rows)
}

/// Deletes pages. Runs inside a transaction.
pub(super) fn delete<C: SqlConn>(conn: &C, ids: &[PageId]) -> Result<(), StoreError> {
    DELETE.run(conn, ids.iter().map(|id| [SqlValue::Int(id.0)]))
}
