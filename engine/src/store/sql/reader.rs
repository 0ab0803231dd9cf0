//! Reading: [`KeySource`] over the tables.

use std::borrow::Cow;
use std::cell::RefCell;

use super::event_row;
use super::range::KeyRange;
use super::tables::Tables;
use crate::sql::SqlConn;
use crate::store::backend::{Seq, Stats, StoreError};
use crate::store::kv::{KeySource, read_until, tombstone_key};
use crate::types::Timestamp;

/// The tables as they are now.
#[derive(Debug)]
pub struct SqlSource<'a, C> {
    pub(super) conn: &'a C,
    pub(super) tables: &'a RefCell<Tables>,
    /// Keys of removed events, skipped in one page, from which it needs to be rewritten.
    pub(super) skipped_max: usize,
}

impl<C: SqlConn> KeySource for SqlSource<'_, C> {
    const WANTS_REMOVED_KEYS: bool = false;

    fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let tables = &mut *self.tables.borrow_mut();
        let mut range = KeyRange::new(tables, from, to, self.skipped_max)?;
        for _ in 0..max {
            let Some(key) = range.next(self.conn)? else { break };
            each(key.as_bytes());
        }
        let needs_rewrite = range.into_needs_rewrite();
        tables.tree.rewrites.push_all(needs_rewrite);
        Ok(())
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
        // The latest timestamp comes first.
        let (from, to) = (tombstone_key(key, Timestamp::MAX), tombstone_key(key, 0));
        let mut found = None;
        self.keys(from.as_bytes(), to.as_bytes(), 1, &mut |key| found = read_until(key))?;
        Ok(found)
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
