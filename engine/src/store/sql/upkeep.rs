//! What keeps reading cheap: recent keys are folded into pages, and pages sink to levels where fewer overlap.
//!
//! Nothing here changes what is stored. Each step is a transaction of its own after a write (or before one, if folding has
//! failed for long); one that fails leaves everything as it was, and is tried again after the next write.

use super::conn::{SqlConn, SqlValue};
use super::pages::{Numbers, paginate, put_in_order};
use super::{SqlBackend, int};
use crate::store::backend::StoreError;
use crate::store::keyed::Key;

const WRITE_META: &str = "INSERT INTO relay_meta (name, value) VALUES ('folds', ?), ('folded', ?), ('folded_events', ?) \
                          ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Keys written for which one more merge is made. A merge takes several thousand keys down a level, and each key goes down
/// three levels or four, so this keeps up; tests hold that it does.
const KEYS_A_MERGE: usize = 1_024;
/// Events taken out for which one page is looked at, whether many of its keys are of such. A page has a thousand keys,
/// and an event about ten, so all pages are looked at by the time that half of what they stand for is gone.
const GONE_A_LOOK: u64 = 64;
/// Pages that are written anew after one write.
const RENEWALS: usize = 4;
/// How many times the recent keys or bytes may be what they should be before writes are refused, because folding
/// them fails.
const OVERDUE: usize = 8;

impl<C: SqlConn> SqlBackend<C> {
    /// After a write of so many keys: does what is due of all this, but no more than a share of it.
    pub(super) fn tend(&self, keys: usize) {
        if self.tend_or_fail(1 + keys / KEYS_A_MERGE).is_err() {
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
        self.look_for_gone();
        for _ in 0..RENEWALS {
            let worn = self.state.borrow_mut().worn.pop_first();
            let Some(number) = worn else { break };
            self.renew(number)?;
        }
        for _ in 0..merges {
            let Some(level) = self.merge_due() else { return Ok(()) };
            self.merge(level)?;
        }
        Ok(())
    }

    /// Looks at one page after the other as events go: nobody may ever read those that have most to lose.
    fn look_for_gone(&self) {
        let state = &mut *self.state.borrow_mut();
        for _ in 0..RENEWALS {
            if state.gone_since_look < GONE_A_LOOK {
                return;
            }
            state.gone_since_look -= GONE_A_LOOK;
            if let Some(number) = state.directory.nth(state.look_at) {
                state.look_at += 1;
                state.worn.insert(number);
            } else {
                state.look_at = 0;
            }
        }
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
            let is_gone = |key: &&Key| key.seq().is_some_and(|seq| state.recent_gone.contains(&seq));
            let mut keys: Vec<Key> = state.recent.iter().filter(|key| !is_gone(key)).copied().collect();
            put_in_order(&mut keys);
            let (mut pages, mut numbers) = (Vec::new(), Numbers::new(&[], state.directory.fresh_number()));
            let run = state.directory.fresh_run();
            paginate(&keys, (0, run), self.sizes.page_bytes, &mut numbers, &mut pages);
            let events = state.folded_events + state.recent_events;
            self.conn.transaction(&mut || {
                self.write_pages(&pages)?;
                let meta =
                    [SqlValue::Int(state.folds + 1), int(state.last_seq), SqlValue::Int(events as i64)];
                self.conn.exec(WRITE_META, &meta)
            })?;
            (state.last_seq, events, pages)
        };
        let mut state = self.state.borrow_mut();
        state.directory.insert_all(pages);
        (state.folded, state.folded_events) = (last_seq, events);
        (state.folds, state.buried_rows) = (state.folds + 1, 0);
        state.recent.clear();
        state.recent_gone.clear();
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

    /// Writes a page without the keys of events that are gone, if those are a quarter of it.
    fn renew(&self, number: i64) -> Result<(), StoreError> {
        let Some((place, page)) = self.state.borrow().directory.find(number) else { return Ok(()) };
        let (mut keys, mut pages) = (Vec::new(), Vec::new());
        let gone = self.living_keys([&page], &mut keys)?;
        if gone * 3 < keys.len() {
            return Ok(());
        }
        let old = [number];
        let mut numbers = Numbers::new(&old, self.state.borrow().directory.fresh_number());
        paginate(&keys, place, self.sizes.page_bytes, &mut numbers, &mut pages);
        self.replace_pages(&old, numbers.left(), pages)
    }
}
