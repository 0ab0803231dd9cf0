//! Reading: [`KeySource`] over the tables.

use std::borrow::Cow;
use std::cell::RefCell;

use super::event_row;
use super::page_table::SqlShelf;
use super::tables::Tables;
use super::tree::FILTERED;
use crate::sql::SqlConn;
use crate::store::backend::{PostingCount, Seq, Stats, StoreError};
use crate::store::kv::KeySource;
use crate::store::lsm::{View, WornPages};
use crate::types::Timestamp;

/// The tables as they are now.
#[derive(Debug)]
pub struct SqlSource<'a, C> {
    pub(super) conn: &'a C,
    pub(super) tables: &'a RefCell<Tables>,
    /// Keys of removed events, skipped in one page, from which it needs to be rewritten.
    pub(super) skipped_max: usize,
}

impl<C: SqlConn> SqlSource<'_, C> {
    fn with_view<T>(
        &self,
        read: impl FnOnce(View<'_, SqlShelf<'_, C>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let tables = self.tables.borrow();
        let is_removed = |seq: Seq| tables.tree.removed.contains(seq) || tables.memtable.is_removed(seq);
        read(View {
            shelf: &tables.tree.pages.shelf(self.conn),
            memtable: tables.memtable.keys(),
            directory: &tables.tree.directory,
            filtered: FILTERED,
            is_removed: &is_removed,
        })
    }
}

impl<C: SqlConn> KeySource for SqlSource<'_, C> {
    const WANTS_REMOVED_KEYS: bool = true;

    fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let mut worn = WornPages { skipped_max: self.skipped_max, pages: Vec::new() };
        self.with_view(|view| view.keys(from, to, max, &mut worn, each))?;
        if !worn.pages.is_empty() {
            self.tables.borrow_mut().tree.rewrites.push_all(worn.pages);
        }
        Ok(())
    }

    fn count_postings(
        &self,
        from: &[u8],
        to: &[u8],
        horizon: Seq,
        budget: &mut usize,
    ) -> Result<PostingCount, StoreError> {
        let tables = self.tables.borrow();
        self.with_view(|view| view.count(&tables.tree.counts, from, to, horizon, budget))
    }

    fn body(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let Some((first, row)) = self.tables.borrow_mut().events.row_of(self.conn, seq)? else {
            return Ok(None);
        };
        Ok(event_row::find(&row, first, seq).map(|json| Cow::Owned(json.to_vec())))
    }

    fn bodies_after(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        self.tables.borrow_mut().events.seqs_after(self.conn, after, max, out)
    }

    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
        Ok(self.tables.borrow().pending_removal.contains(seq))
    }

    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        out.extend(self.tables.borrow().pending_removal.seqs().take(max));
        Ok(())
    }

    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        self.with_view(|view| view.tombstone(key))
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        Ok(self.tables.borrow().events.last_seq())
    }

    fn unlogged_removals(&self) -> Result<u64, StoreError> {
        Ok(self.tables.borrow().unlogged_removals)
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        let (events, pending_removal) = {
            let tables = self.tables.borrow();
            (tables.event_count(), tables.pending_removal.len())
        };
        Ok(Stats { events, pending_removal, bytes: self.conn.bytes()? })
    }
}
