//! Making pages of keys, and writing them.

use super::conn::{Bulk, SqlConn, SqlValue};
use super::directory::PageRef;
use super::page::{self, Builder, Cursor};
use super::rows::Rows;
use super::{SqlBackend, filter};
use crate::store::backend::StoreError;
use crate::store::keyed::Key;

const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_page (page, level, run, first, last, filter, keys) VALUES ",
    row: "(?,?,?,?,?,?,?)",
    after: " ON CONFLICT (page) DO UPDATE SET level = excluded.level, run = excluded.run, first = excluded.first, \
            last = excluded.last, filter = excluded.filter, keys = excluded.keys",
};
const DELETE: Bulk = Bulk { before: "DELETE FROM relay_page WHERE page IN (", row: "?", after: ")" };

/// A page to be written.
pub(super) struct Page {
    pub(super) level: usize,
    pub(super) run: i64,
    pub(super) entry: PageRef,
    keys: Vec<u8>,
}

/// Numbers for new pages: those of the pages that they replace, which makes it one row written instead of two, and
/// then such as no page has.
pub(super) struct Numbers<'a> {
    again: &'a [i64],
    fresh: i64,
}

impl<'a> Numbers<'a> {
    pub(super) fn new(again: &'a [i64], fresh: i64) -> Self {
        Numbers { again, fresh }
    }

    fn take(&mut self) -> i64 {
        if let Some((number, others)) = self.again.split_first() {
            self.again = others;
            return *number;
        }
        self.fresh += 1;
        self.fresh - 1
    }

    /// Those that were not needed again.
    pub(super) fn left(self) -> &'a [i64] {
        self.again
    }
}

/// Sorts keys, and drops tombstones of which there is one of a later second.
pub(super) fn put_in_order(keys: &mut Vec<Key>) {
    // A few sorted stretches, which a stable sort finds and merges.
    keys.sort();
    keys.dedup_by(|key, before| key.is_same_tombstone(before));
}

/// Cuts sorted keys into pages of about the same size, none much larger than `bytes_max`.
pub(super) fn paginate(
    keys: &[Key],
    (level, run): (usize, i64),
    bytes_max: usize,
    numbers: &mut Numbers<'_>,
    out: &mut Vec<Page>,
) {
    let bytes = page::bytes(keys);
    // What is not exact about it must not leave a last page of a few keys.
    let share = bytes.div_ceil(bytes.div_ceil(bytes_max).max(1)) + bytes_max / 64;
    let mut keys = keys.iter().peekable();
    while let Some(first) = keys.peek().copied() {
        let mut builder = Builder::new();
        let (mut last, mut sought) = (first, Vec::new());
        while builder.len() < share
            && let Some(key) = keys.next()
        {
            builder.push(key);
            last = key;
            sought.extend(key.sought().copied());
        }
        let entry =
            PageRef { number: numbers.take(), first: *first, last: *last, filter: filter::of(&sought) };
        out.push(Page { level, run, entry, keys: builder.finish() });
    }
}

impl<C: SqlConn> SqlBackend<C> {
    /// Appends the keys of these pages, without those of events that are gone, and counts these.
    pub(super) fn living_keys<'p>(
        &self,
        pages: impl IntoIterator<Item = &'p PageRef>,
        keys: &mut Vec<Key>,
    ) -> Result<usize, StoreError> {
        let (state, rows, mut gone) = (self.state.borrow(), Rows::new(self), 0);
        for page in pages {
            let mut cursor = Cursor::first(rows.page(page.number)?)?;
            while let Some(key) = cursor.next()? {
                match key.seq().is_some_and(|seq| state.gone.contains(seq)) {
                    true => gone += 1,
                    false => keys.push(key),
                }
            }
        }
        Ok(gone)
    }

    pub(super) fn write_pages(&self, pages: &[Page]) -> Result<(), StoreError> {
        let rows = pages.iter().map(|Page { level, run, entry, keys }| {
            [
                SqlValue::Int(entry.number),
                SqlValue::Int(*level as i64),
                SqlValue::Int(*run),
                SqlValue::Blob(entry.first.as_bytes()),
                SqlValue::Blob(entry.last.as_bytes()),
                SqlValue::Blob(&entry.filter),
                SqlValue::Blob(keys),
            ]
        });
        WRITE.run(&self.conn, rows)
    }

    /// Writes `new` in the place of the pages `old`, of which the numbers `left` are not used again.
    pub(super) fn replace_pages(&self, old: &[i64], left: &[i64], new: Vec<Page>) -> Result<(), StoreError> {
        self.conn.transaction(&mut || {
            DELETE.run(&self.conn, left.iter().map(|number| [SqlValue::Int(*number)]))?;
            self.write_pages(&new)
        })?;
        let mut cache = self.pages.borrow_mut();
        old.iter().for_each(|number| cache.remove(*number));
        let state = &mut *self.state.borrow_mut();
        state.worn.retain(|number| !old.contains(number));
        state.directory.remove(old);
        state.directory.insert_all(new);
        Ok(())
    }
}
