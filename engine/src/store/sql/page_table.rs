//! The table of pages: its rows, and a cache of those read lately.

use std::cell::RefCell;
use std::sync::Arc;

use super::cache::BlobCache;
use super::queries::{Bulk, SMALL_ROWS, each_row};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Key;
use crate::store::lsm::{Page, PageId, PageRef, RunId, Shelf};
use crate::types::Timestamp;

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
    cache: RefCell<BlobCache>,
}

/// A page and the id of its row.
pub(super) struct Row {
    pub(super) id: PageId,
    pub(super) page: Page,
}

impl Row {
    pub(super) fn page_ref(&self) -> PageRef {
        self.page.page_ref(self.id)
    }
}

/// The table and its connection.
pub(super) struct SqlShelf<'a, C> {
    conn: &'a C,
    cache: &'a RefCell<BlobCache>,
}

impl PageTable {
    pub(super) fn new(cache_bytes: usize) -> Self {
        PageTable { cache: RefCell::new(BlobCache::new(cache_bytes)) }
    }

    pub(super) fn shelf<'a, C: SqlConn>(&'a self, conn: &'a C) -> SqlShelf<'a, C> {
        SqlShelf { conn, cache: &self.cache }
    }

    /// Drops pages from the cache, because they have been replaced.
    pub(super) fn evict(&self, ids: &[PageId]) {
        let mut cache = self.cache.borrow_mut();
        ids.iter().for_each(|id| cache.remove(id.0));
    }
}

impl<C: SqlConn> Shelf for SqlShelf<'_, C> {
    type Bytes = Arc<[u8]>;

    fn page(&self, id: PageId) -> Result<Arc<[u8]>, StoreError> {
        if let Some(page) = self.cache.borrow_mut().get(id.0) {
            return Ok(page);
        }
        let mut found: Option<Arc<[u8]>> = None;
        self.conn.query(READ, &[SqlValue::Int(id.0)], &mut |row| match row {
            [SqlValue::Blob(keys)] => {
                found = Some((*keys).into());
                Ok(())
            }
            _ => Err(StoreError::Corrupt("table relay_page: unexpected column types".into())),
        })?;
        let page = found.ok_or_else(|| StoreError::Corrupt(format!("page {} is missing", id.0)))?;
        self.cache.borrow_mut().put(id.0, Arc::clone(&page));
        Ok(page)
    }
}

/// Reads all pages without their keys, which are of events up to `last_seq`, and calls `each` with them.
pub(super) fn each_page_ref<C: SqlConn>(
    conn: &C,
    last_seq: Seq,
    each: &mut dyn FnMut(RunId, PageRef),
) -> Result<(), StoreError> {
    each_row(conn, READ_PAGE_REFS, 0, SMALL_ROWS, &mut |row| match *row {
        [
            SqlValue::Int(id),
            SqlValue::Int(level),
            SqlValue::Int(run),
            SqlValue::Blob(first),
            SqlValue::Blob(last),
            SqlValue::Blob(filter),
        ] => {
            let (Some(first), Some(last)) = (Key::read(first), Key::read(last)) else {
                return Err(StoreError::Corrupt(format!(
                    "table relay_page, page {id}: invalid first or last key"
                )));
            };
            let run = RunId { level: level as usize, run };
            // Rows do not say more of their keys.
            let (newest, postings, seqs) = (Timestamp::MAX, None, Seq(0)..=last_seq);
            let (id_of_page, filter) = (PageId(id), filter.into());
            each(run, PageRef { id: id_of_page, first, last, filter, newest, postings, seqs });
            Ok(id)
        }
        _ => Err(StoreError::Corrupt("table relay_page: unexpected column types".into())),
    })
}

/// Writes pages over those of the same ids. Runs inside a transaction.
pub(super) fn write<C: SqlConn>(conn: &C, rows: &[Row]) -> Result<(), StoreError> {
    let rows = rows.iter().map(|Row { id, page }| {
        [
            SqlValue::Int(id.0),
            SqlValue::Int(page.run.level as i64),
            SqlValue::Int(page.run.run),
            SqlValue::Blob(page.first.as_bytes()),
            SqlValue::Blob(page.last.as_bytes()),
            SqlValue::Blob(&page.filter),
            SqlValue::Blob(&page.bytes),
        ]
    });
    WRITE.run(conn, rows)
}

/// Deletes pages. Runs inside a transaction.
pub(super) fn delete<C: SqlConn>(conn: &C, ids: &[PageId]) -> Result<(), StoreError> {
    DELETE.run(conn, ids.iter().map(|id| [SqlValue::Int(id.0)]))
}
