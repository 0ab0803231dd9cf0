//! Which pages there are: runs of pages, sorted within each run, in levels.
//!
//! A key is in exactly one page. Level 0 has one run for each flush, and the runs' pages overlap. A clone shares all runs
//! that are not changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::page::{PageId, PageRef, RunId};
use super::tiers::Merge;
use crate::store::backend::Seq;
use crate::store::kv::{Key, prefix_of};
use crate::types::Timestamp;

/// Pages that do not overlap.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which run.
    pub id: RunId,
    /// Ascending, and not empty.
    pub pages: Vec<PageRef>,
    /// No posting in it has a later `created_at`.
    pub newest: Timestamp,
    /// Keys below this one have been merged into another run, though its first pages may still hold some.
    pub from: Key,
    /// Its keys are of events with these sequence numbers.
    pub seqs: RangeInclusive<Seq>,
    /// The prefix of each page's last key. A search looks at these: there are many pages, and what is known of one takes three cache lines.
    lasts: Vec<u64>,
}

impl Run {
    /// The pages that may hold keys from `from` on.
    pub(super) fn pages_from(&self, from: &[u8]) -> &[PageRef] {
        let prefix = prefix_of(from);
        let below = self.lasts.partition_point(|last| *last < prefix);
        // Those of which the prefix does not say it.
        let unsure = self.lasts[below..].partition_point(|last| *last == prefix);
        let Some(unsure) = self.pages.get(below..below + unsure) else { return &[] };
        let below = below + unsure.partition_point(|page| page.last.as_bytes() < from);
        self.pages.get(below..).unwrap_or(&[])
    }

    /// The page that holds this key of an event, if the run does.
    fn page_of(&self, key: &Key, seq: Seq) -> Option<&PageRef> {
        if *key < self.from || !self.seqs.contains(&seq) {
            return None;
        }
        let page = self.pages_from(key.as_bytes()).first()?;
        (page.first <= *key && page.seqs.contains(&seq)).then_some(page)
    }

    /// Derives from the pages what is known of all of them.
    fn sum_up(&mut self) {
        self.newest = self.pages.iter().map(|page| page.newest).max().unwrap_or(0);
        let first = self.pages.iter().map(|page| *page.seqs.start()).min().unwrap_or(Seq(0));
        let last = self.pages.iter().map(|page| *page.seqs.end()).max().unwrap_or(Seq(0));
        self.seqs = first..=last;
        self.lasts = self.pages.iter().map(|page| page.last.prefix()).collect();
    }
}

/// All runs.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// By level and run.
    runs: Vec<Arc<Run>>,
    merges: Vec<Merge>,
    last_page: Option<PageId>,
}

impl Directory {
    /// All runs, by level and number.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().map(|run| &**run)
    }

    /// The least id above those of all pages.
    pub fn fresh_page(&self) -> PageId {
        PageId(self.last_page.map_or(1, |page| page.0 + 1))
    }

    /// A run of level 0 above all others of it.
    pub fn fresh_run(&self) -> RunId {
        self.fresh_run_of(0)
    }

    /// A run of a level above all others of it, also those that a merge has emptied or will fill.
    pub(super) fn fresh_run_of(&self, level: usize) -> RunId {
        let stored = self.runs_of_level(level).map(|run| run.id.run);
        let filled = self.merges.iter().filter(|merge| merge.into.level == level).map(|merge| merge.into.run);
        let emptied = self.merges.iter().filter(|merge| merge.level == level).flat_map(|merge| &merge.runs);
        let last = stored.chain(filled).chain(emptied.copied()).max();
        RunId { level, run: last.unwrap_or(0) + 1 }
    }

    /// Merges that are under way, at most one of each level.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Records how far a merge has come; its pages have been replaced.
    pub fn set_merge(&mut self, merge: Merge, is_done: bool) {
        self.merges.retain(|known| known.level != merge.level);
        if is_done {
            return;
        }
        for run in &mut self.runs {
            if run.id.level == merge.level && merge.runs.contains(&run.id.run) {
                Arc::make_mut(run).from = merge.from;
            }
        }
        self.merges.push(merge);
    }

    /// How many levels there are.
    pub fn levels(&self) -> usize {
        self.runs.last().map_or(0, |run| run.id.level + 1)
    }

    /// The runs of one level.
    pub fn runs_of_level(&self, level: usize) -> impl Iterator<Item = &Run> {
        self.runs().filter(move |run| run.id.level == level)
    }

    /// Pages of earlier versions do not say which events their keys are of: none is above `last`.
    pub fn bound_seqs(&mut self, last: Seq) {
        for run in &mut self.runs {
            if *run.seqs.end() > last {
                let run = Arc::make_mut(run);
                for page in &mut run.pages {
                    page.seqs = *page.seqs.start()..=last.min(*page.seqs.end());
                }
                run.sum_up();
            }
        }
    }

    /// The pages that may hold this key of an event; one of them does, if it has been flushed.
    pub(super) fn pages_of(&self, key: &Key, seq: Seq) -> impl Iterator<Item = &PageRef> {
        self.runs.iter().filter_map(move |run| run.page_of(key, seq))
    }

    /// A page and its run.
    pub(super) fn find(&self, id: PageId) -> Option<(&Run, &PageRef)> {
        self.runs().find_map(|run| Some((run, run.pages.iter().find(|page| page.id == id)?)))
    }

    /// The `nth` page of all.
    pub(super) fn nth(&self, nth: usize) -> Option<PageId> {
        let mut left = nth;
        self.runs().find_map(|run| match run.pages.get(left) {
            Some(page) => Some(page.id),
            None => {
                left -= run.pages.len();
                None
            }
        })
    }

    /// Adds pages that have been written.
    pub fn insert_all(&mut self, pages: impl IntoIterator<Item = (RunId, PageRef)>) {
        let mut runs: BTreeMap<RunId, Vec<PageRef>> = BTreeMap::new();
        for (run, page) in pages {
            runs.entry(run).or_default().push(page);
        }
        runs.into_iter().for_each(|(run, pages)| self.insert(run, pages));
    }

    /// Adds pages to a run, in any order.
    fn insert(&mut self, id: RunId, pages: Vec<PageRef>) {
        self.last_page = self.last_page.max(pages.iter().map(|page| page.id).max());
        let index = match self.runs.binary_search_by_key(&id, |run| run.id) {
            Ok(index) => index,
            Err(index) => {
                let (newest, from, seqs) = (0, Key::EMPTY, Seq(0)..=Seq(0));
                self.runs.insert(
                    index,
                    Arc::new(Run { id, pages: Vec::new(), newest, from, seqs, lasts: Vec::new() }),
                );
                index
            }
        };
        let run = Arc::make_mut(&mut self.runs[index]);
        run.pages.extend(pages);
        run.pages.sort_unstable_by_key(|page| page.first);
        run.sum_up();
        let pages = &run.pages;
        debug_assert!(pages.windows(2).all(|pair| pair[0].last < pair[1].first), "pages of a run overlap");
    }

    /// Takes pages out.
    pub fn remove(&mut self, ids: &[PageId]) {
        let ids: BTreeSet<PageId> = ids.iter().copied().collect();
        for run in &mut self.runs {
            if run.pages.iter().any(|page| ids.contains(&page.id)) {
                let run = Arc::make_mut(run);
                run.pages.retain(|page| !ids.contains(&page.id));
                run.sum_up();
            }
        }
        self.runs.retain(|run| !run.pages.is_empty());
    }
}
