//! Compaction in tiers, where every level has several runs: all runs of a level are merged into one run of the next.
//!
//! A key is written once in each level, while a reader has more runs to look into than with levels of one run (`compaction`).
//! A merge goes from the lowest key to the highest, in steps: what has been merged is in the new run, and the runs that it came from
//! begin after it ([`Run::from`](super::Run)). So a step replaces some pages by about as many, and between steps every key is in
//! one place.

use super::directory::Directory;
use super::page::{Filtered, PageCursor, PageRef, RunId, paginate};
use super::{Replacement, Shelf, sort_keys};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Key;

/// Most runs that are merged at once.
const MERGED_RUNS_MAX: usize = 16;

/// The sizes of tiers.
#[derive(Clone, Copy, Debug)]
pub struct Tiered {
    /// Runs of a level at which they are merged; two at least.
    pub runs: usize,
    /// Pages that one step replaces, about.
    pub step_pages: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// What filters are made of.
    pub filtered: Filtered,
}

/// A merge that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The level of the runs that are merged.
    pub level: usize,
    /// Their numbers.
    pub runs: Vec<i64>,
    /// The run of the next level that they become.
    pub into: RunId,
    /// What is below this key has been merged.
    pub from: Key,
}

/// One step of a merge.
#[derive(Debug)]
pub struct TieredStep {
    /// What it replaces.
    pub replacement: Replacement,
    /// The merge after it.
    pub merge: Merge,
    /// Whether that is all of it.
    pub is_last: bool,
}

impl Tiered {
    /// The merge to go on with: that of the lowest level which has one under way, or has too many runs.
    pub fn due(&self, directory: &Directory) -> Option<Merge> {
        (0..directory.levels()).find_map(|level| {
            if let Some(merge) = directory.merges().iter().find(|merge| merge.level == level) {
                return Some(merge.clone());
            }
            let runs: Vec<i64> = directory.runs_of_level(level).map(|run| run.id.run).collect();
            let is_target = directory.merges().iter().any(|merge| merge.into.level == level);
            // The run that a merge is filling is not whole yet.
            if runs.len() < self.runs.max(2) + usize::from(is_target) {
                return None;
            }
            let target =
                directory.merges().iter().find(|merge| merge.into.level == level).map(|merge| merge.into.run);
            let runs = runs.into_iter().filter(|run| Some(*run) != target).take(MERGED_RUNS_MAX).collect();
            let into = directory.fresh_run_of(level + 1);
            Some(Merge { level, runs, into, from: Key::EMPTY })
        })
    }

    /// Merges some pages.
    ///
    /// # Errors
    /// The shelf's.
    pub fn step<S: Shelf>(
        &self,
        shelf: &S,
        directory: &Directory,
        is_removed: &dyn Fn(Seq) -> bool,
        mut merge: Merge,
    ) -> Result<TieredStep, StoreError> {
        let runs = directory.runs_of_level(merge.level).filter(|run| merge.runs.contains(&run.id.run));
        let runs: Vec<&[PageRef]> = runs.map(|run| &run.pages[..]).collect();
        let bound = bound(&runs, self.step_pages.max(1));
        let is_taken = |page: &&PageRef| bound.is_none_or(|bound| page.last <= bound);
        let is_read = |page: &&PageRef| bound.is_none_or(|bound| page.first <= bound);
        let taken = runs.iter().flat_map(|pages| pages.iter().take_while(is_taken));
        let old = taken.map(|page| page.id).collect();
        let mut keys = Vec::new();
        for page in runs.iter().flat_map(|pages| pages.iter().take_while(is_read)) {
            let mut cursor = PageCursor::at(shelf.page(page.id)?, merge.from.as_bytes())?;
            while let Some(key) = cursor.next()?
                && bound.is_none_or(|bound| key <= bound)
            {
                if !key.seq().is_some_and(is_removed) {
                    keys.push(key);
                }
            }
        }
        sort_keys(&mut keys);
        let mut new = Vec::new();
        paginate(&keys, merge.into, self.page_bytes, self.filtered, &mut new);
        let is_last = bound.is_none();
        if let Some(bound) = bound {
            merge.from = bound.successor().ok_or_else(super::page::malformed)?;
        }
        Ok(TieredStep { replacement: Replacement { old, new }, merge, is_last })
    }
}

/// The key up to which pages are merged in a step, so that about `pages_max` are done with; `None` if that is all of them.
fn bound(runs: &[&[PageRef]], pages_max: usize) -> Option<Key> {
    if runs.iter().map(|pages| pages.len()).sum::<usize>() <= pages_max {
        return None;
    }
    // Of each run so many are enough.
    let firsts = runs.iter().flat_map(|pages| pages.iter().take(pages_max));
    let mut lasts: Vec<Key> = firsts.map(|page| page.last).collect();
    let (_, bound, _) = lasts.select_nth_unstable(pages_max - 1);
    let bound = *bound;
    let last = runs.iter().filter_map(|pages| pages.last()).map(|page| page.last).max();
    (last != Some(bound)).then_some(bound)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeSet, HashMap};

    use super::super::page::{Page, PageId};
    use super::super::{Memtable, View, WornPages};
    use super::*;

    /// Pages in memory.
    #[derive(Default)]
    struct Pages(RefCell<HashMap<i64, Vec<u8>>>);

    impl Shelf for Pages {
        type Bytes = Vec<u8>;

        fn page(&self, id: PageId) -> Result<Vec<u8>, StoreError> {
            let found = self.0.borrow().get(&id.0).cloned();
            found.ok_or_else(|| StoreError::Corrupt(format!("page {} is missing", id.0)))
        }
    }

    impl Pages {
        fn put(&self, directory: &mut Directory, pages: Vec<Page>) {
            for page in pages {
                let id = directory.fresh_page();
                directory.insert_all([(page.run, page.page_ref(id))]);
                self.0.borrow_mut().insert(id.0, page.bytes);
            }
        }
    }

    fn key(n: u32) -> Key {
        let scattered = n.wrapping_mul(2_654_435_761);
        let bytes = [b"i", &scattered.to_be_bytes()[..], &[0; 28], &u64::from(n).to_be_bytes()].concat();
        Key::read(&bytes).expect("short")
    }

    fn all(pages: &Pages, directory: &Directory, is_removed: &dyn Fn(Seq) -> bool) -> Vec<Vec<u8>> {
        let memtable = Memtable::default();
        let filtered = Filtered::HashesAndHeads;
        let view = View { shelf: pages, memtable: &memtable, directory, filtered, is_removed };
        let (mut found, mut worn) = (Vec::new(), WornPages { skipped_max: usize::MAX, pages: Vec::new() });
        view.keys(b"a", b"z", usize::MAX, &mut worn, &mut |key| found.push(key.to_vec())).expect("reads");
        found
    }

    #[test]
    fn every_key_is_in_one_place_after_each_step() {
        let shape = Tiered { runs: 3, step_pages: 4, page_bytes: 300, filtered: Filtered::HashesAndHeads };
        let (pages, mut directory) = (Pages::default(), Directory::default());
        let is_removed = |seq: Seq| seq.0.is_multiple_of(7);
        let (mut expected, mut steps, mut partial) = (BTreeSet::new(), 0, 0);
        for run in 0..40u32 {
            // Some runs are only of low keys, and so are merged before the others of their level.
            let is_low = run % 3 == 2;
            let mut keys: Vec<Key> = (run * 50..run * 50 + 50)
                .map(key)
                .filter(|key| !is_low || key.as_bytes()[1] < 0x40)
                .collect();
            keys.sort();
            expected.extend(
                keys.iter().filter(|key| !is_removed(key.seq().unwrap())).map(|key| key.as_bytes().to_vec()),
            );
            let mut new = Vec::new();
            paginate(&keys, directory.fresh_run(), shape.page_bytes, shape.filtered, &mut new);
            pages.put(&mut directory, new);
            // One step a run, so that merges of several levels are under way at once.
            for _ in 0..3 {
                let Some(merge) = shape.due(&directory) else { break };
                let step = shape.step(&pages, &directory, &is_removed, merge).expect("merges");
                directory.remove(&step.replacement.old);
                step.replacement.old.iter().for_each(|id| drop(pages.0.borrow_mut().remove(&id.0)));
                pages.put(&mut directory, step.replacement.new);
                partial += usize::from(!step.is_last);
                directory.set_merge(step.merge, step.is_last);
                steps += 1;
                assert!(
                    all(&pages, &directory, &is_removed).into_iter().eq(expected.iter().cloned()),
                    "step {steps}"
                );
            }
        }
        assert!(partial > 20 && steps > partial, "{partial} of {steps}");
        assert!(directory.levels() >= 3, "{} levels", directory.levels());
    }
}
