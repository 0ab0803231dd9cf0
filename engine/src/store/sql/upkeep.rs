//! What keeps reading cheap: recent keys are folded into pages, and pages sink to levels where fewer overlap.
//!
//! Nothing here changes what is stored. Each step is a transaction of its own after a write; one that fails leaves
//! everything as it was, and is tried again after the next write.

use super::SqlBackend;
use super::conn::{SqlConn, SqlValue};
use super::pages::{Numbers, paginate};
use crate::store::backend::StoreError;
use crate::store::keyed::Key;

const WRITE_META: &str = "INSERT INTO relay_meta (name, value) VALUES ('folded', ?), ('folded_events', ?) \
                          ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Events written for which one more merge is made.
const EVENTS_A_MERGE: usize = 128;
/// How many times the recent keys or bytes may be what they should be before writes are refused, because folding
/// them fails.
const OVERDUE: usize = 8;

impl<C: SqlConn> SqlBackend<C> {
    /// After a write of `events`: does what is due of all this, but no more than a share of it.
    pub(super) fn tend(&self, events: usize) {
        if self.tend_or_fail(1 + events / EVENTS_A_MERGE).is_err() {
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
        let (last_seq, events, pages) = {
            let state = self.state.borrow();
            let keys: Vec<Key> = state.recent.iter().copied().collect();
            let (mut pages, mut numbers) = (Vec::new(), Numbers::new(&[], state.directory.fresh_number()));
            let run = state.last_seq.0 as i64;
            paginate(&keys, (0, run), self.sizes.page_bytes, &mut numbers, &mut pages);
            let events = state.folded_events + state.recent_events;
            self.conn.transaction(&mut || {
                self.write_pages(&pages)?;
                self.conn.exec(WRITE_META, &[SqlValue::Int(run), SqlValue::Int(events as i64)])
            })?;
            (state.last_seq, events, pages)
        };
        let mut state = self.state.borrow_mut();
        state.directory.insert_all(pages);
        (state.folded, state.folded_events) = (last_seq, events);
        state.recent.clear();
        (state.recent_events, state.recent_bytes) = (0, 0);
        Ok(())
    }

    /// The level that has too much.
    fn merge_due(&self) -> Option<usize> {
        let state = self.state.borrow();
        if state.merge_from.is_some() || state.directory.runs_of_level(0).count() >= self.sizes.runs {
            return Some(0);
        }
        (1..state.directory.levels())
            .find(|level| state.directory.level(*level).len() > self.sizes.level_pages_max(*level))
    }

    /// Writes a page without the keys of events that are gone.
    fn renew(&self, number: i64) -> Result<(), StoreError> {
        let Some((place, page)) = self.state.borrow().directory.find(number) else { return Ok(()) };
        let (mut keys, mut pages) = (Vec::new(), Vec::new());
        self.living_keys([&page], &mut keys)?;
        let old = [number];
        let mut numbers = Numbers::new(&old, self.state.borrow().directory.fresh_number());
        paginate(&keys, place, self.sizes.page_bytes, &mut numbers, &mut pages);
        self.replace_pages(&old, numbers.left(), pages)
    }
}
