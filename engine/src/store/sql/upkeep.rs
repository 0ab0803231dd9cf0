//! What keeps reading cheap: recent keys are folded into pages, and pages sink to levels where fewer overlap.
//!
//! Nothing here changes what is stored. Each step is a transaction of its own after a write; one that fails leaves
//! everything as it was, and is tried again after the next write.

use super::conn::{Bulk, SqlConn, SqlValue};
use super::directory::PageRef;
use super::page::{Builder, Cursor};
use super::rows::Rows;
use super::{SqlBackend, ids};
use crate::store::backend::StoreError;
use crate::store::keyed::Key;

const WRITE_PAGES: Bulk = Bulk {
    before: "INSERT INTO relay_page (page, level, run, first, last, ids, keys) VALUES ",
    row: "(?,?,?,?,?,?,?)",
    after: " ON CONFLICT (page) DO UPDATE SET level = excluded.level, run = excluded.run, first = excluded.first, \
            last = excluded.last, ids = excluded.ids, keys = excluded.keys",
};
const DELETE_PAGES: Bulk = Bulk { before: "DELETE FROM relay_page WHERE page IN (", row: "?", after: ")" };
const WRITE_META: &str = "INSERT INTO relay_meta (name, value) VALUES ('folded', ?), ('folded_events', ?) \
                          ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Events written for which one more merge is made.
const EVENTS_A_MERGE: usize = 128;
/// How many times the recent keys or bytes may be what they should be before writes are refused, because folding
/// them fails.
const OVERDUE: usize = 8;

/// A page to be written.
struct Page {
    entry: PageRef,
    keys: Vec<u8>,
}

impl<C: SqlConn> SqlBackend<C> {
    /// After a write of `events`: does what is due of all this, but no more than a share of it.
    pub(super) fn tend(&self, events: usize) {
        let done = self.tend_or_fail(1 + events / EVENTS_A_MERGE);
        if done.is_err() {
            self.upkeep_failures.set(self.upkeep_failures.get() + 1);
        }
    }

    /// Before a write: fails if what is kept in memory has grown far too large because it cannot be folded.
    pub(super) fn check_overdue(&self) -> Result<(), StoreError> {
        match self.is_fold_due(OVERDUE) {
            true => self.fold(),
            false => Ok(()),
        }
    }

    fn tend_or_fail(&self, merges: usize) -> Result<(), StoreError> {
        if self.is_fold_due(1) {
            self.fold()?;
        }
        let worn = self.state.borrow_mut().worn.pop_first();
        if let Some(number) = worn {
            self.renew(number)?;
        }
        for _ in 0..merges {
            let Some(level) = self.merge_due() else { return Ok(()) };
            self.merge(level)?;
        }
        Ok(())
    }

    fn is_fold_due(&self, times: usize) -> bool {
        let (state, sizes) = (self.state.borrow(), &self.sizes);
        state.recent.len() >= sizes.recent_keys.saturating_mul(times)
            || state.recent_bytes >= sizes.recent_bytes.saturating_mul(times)
    }

    /// Moves all recent keys into a run of level 0.
    fn fold(&self) -> Result<(), StoreError> {
        let (pages, last_seq, events) = {
            let state = self.state.borrow();
            let run = state.last_seq.0 as i64;
            let pages = self.paginate(state.recent.iter().copied(), &[]);
            self.conn.transaction(&mut || {
                self.write_pages(&pages, 0, run)?;
                let (folded, events) = (state.last_seq.0 as i64, state.folded_events + state.recent_events);
                self.conn.exec(WRITE_META, &[SqlValue::Int(folded), SqlValue::Int(events as i64)])
            })?;
            (pages, state.last_seq, state.folded_events + state.recent_events)
        };
        let mut state = self.state.borrow_mut();
        state.directory.insert(0, last_seq.0 as i64, pages.into_iter().map(|page| page.entry));
        (state.folded, state.folded_events) = (last_seq, events);
        state.recent.clear();
        (state.recent_events, state.recent_bytes) = (0, 0);
        Ok(())
    }

    /// The level that has too much.
    fn merge_due(&self) -> Option<usize> {
        let state = self.state.borrow();
        let is_merging = state.merge_from.first().is_some_and(Option::is_some);
        if is_merging || state.directory.runs_of_level(0).count() >= self.sizes.runs {
            return Some(0);
        }
        (1..state.directory.levels())
            .find(|level| state.directory.pages_of_level(*level) > self.sizes.level_pages_max(*level))
    }

    /// Merges some pages of `level` with those of the next that they overlap.
    fn merge(&self, level: usize) -> Result<(), StoreError> {
        let (merge, pages) = {
            let state = self.state.borrow();
            let from = state.merge_from.get(level).copied().flatten().unwrap_or(Key::EMPTY);
            let found = state.directory.merge(level, &from, self.sizes.merge_pages);
            // What was added below while level 0 was being merged waits for the next time.
            let Some(merge) = found else {
                drop(state);
                self.go_on_from(level, None);
                return Ok(());
            };
            let keys = self.living_keys(&merge.pages)?;
            let pages = self.paginate(keys.into_iter(), &merge.pages);
            self.replace_pages(&merge.pages, &pages, level + 1, 0)?;
            (merge, pages)
        };
        self.take_over_pages(&merge.pages, pages, level + 1, 0);
        self.go_on_from(level, merge.next);
        Ok(())
    }

    fn go_on_from(&self, level: usize, from: Option<Key>) {
        let merge_from = &mut self.state.borrow_mut().merge_from;
        if merge_from.len() <= level {
            merge_from.resize(level + 1, None);
        }
        merge_from[level] = from;
    }

    /// Writes a page without the keys of events that are gone.
    fn renew(&self, number: i64) -> Result<(), StoreError> {
        let Some((level, run)) = self.state.borrow().directory.find(number) else { return Ok(()) };
        let pages = self.paginate(self.living_keys(&[number])?.into_iter(), &[number]);
        self.replace_pages(&[number], &pages, level, run)?;
        self.take_over_pages(&[number], pages, level, run);
        Ok(())
    }

    /// The keys of these pages, ascending, without those of events that are gone.
    fn living_keys(&self, numbers: &[i64]) -> Result<Vec<Key>, StoreError> {
        let (state, rows) = (self.state.borrow(), Rows::new(self));
        let mut keys = Vec::new();
        for number in numbers {
            let mut cursor = Cursor::first(rows.page(*number)?)?;
            while let Some(key) = cursor.next()? {
                if !key.seq().is_some_and(|seq| state.gone.contains(seq)) {
                    keys.push(key);
                }
            }
        }
        // A few sorted stretches, which a stable sort finds and merges.
        keys.sort();
        Ok(keys)
    }

    /// Cuts keys into pages, which get the numbers `again` and then new ones.
    fn paginate(&self, keys: impl Iterator<Item = Key>, again: &[i64]) -> Vec<Page> {
        let state = self.state.borrow();
        let mut pages: Vec<Page> = Vec::new();
        let mut keys = keys.peekable();
        while let Some(first) = keys.peek().copied() {
            let mut builder = Builder::new();
            let (mut last, mut found) = (first, Vec::new());
            while builder.len() < self.sizes.page_bytes
                && let Some(key) = keys.next()
            {
                builder.push(&key);
                last = key;
                found.extend(key.id().copied());
            }
            let nth = pages.len();
            let number = again.get(nth).copied();
            let number = number.unwrap_or_else(|| state.directory.fresh_number(nth - again.len().min(nth)));
            pages.push(Page {
                entry: PageRef { number, first, last, ids: ids::filter(&found) },
                keys: builder.finish(),
            });
        }
        pages
    }

    fn replace_pages(&self, old: &[i64], new: &[Page], level: usize, run: i64) -> Result<(), StoreError> {
        self.conn.transaction(&mut || {
            let left = old.get(new.len()..).unwrap_or(&[]);
            DELETE_PAGES.run(&self.conn, left.iter().map(|number| [SqlValue::Int(*number)]))?;
            self.write_pages(new, level, run)
        })
    }

    fn write_pages(&self, pages: &[Page], level: usize, run: i64) -> Result<(), StoreError> {
        let rows = pages.iter().map(|Page { entry, keys }| {
            [
                SqlValue::Int(entry.number),
                SqlValue::Int(level as i64),
                SqlValue::Int(run),
                SqlValue::Blob(entry.first.as_bytes()),
                SqlValue::Blob(entry.last.as_bytes()),
                SqlValue::Blob(&entry.ids),
                SqlValue::Blob(keys),
            ]
        });
        WRITE_PAGES.run(&self.conn, rows)
    }

    fn take_over_pages(&self, old: &[i64], new: Vec<Page>, level: usize, run: i64) {
        let mut cache = self.pages.borrow_mut();
        old.iter().for_each(|number| cache.remove(*number));
        let directory = &mut self.state.borrow_mut().directory;
        directory.remove(old);
        directory.insert(level, run, new.into_iter().map(|page| page.entry));
    }
}
