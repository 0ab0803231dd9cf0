//! Which pages there are: runs of pages, sorted within each run, in levels.
//!
//! A key is in exactly one page. Level 0 has one run for each flush, and the runs' pages overlap; every other level is one
//! run. Compaction moves keys from a level into the pages of the next that they overlap.

use std::collections::{BTreeMap, BTreeSet};

use super::page::{PageId, PageRef, RunId};
use crate::store::kv::Key;

#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: RunId,
    /// Ascending, and not empty.
    pub(super) pages: Vec<PageRef>,
}

impl Run {
    /// The pages that may hold keys from `from` on.
    pub(super) fn pages_from(&self, from: &[u8]) -> &[PageRef] {
        let below = self.pages.partition_point(|page| page.last.as_bytes() < from);
        self.pages.get(below..).unwrap_or(&[])
    }
}

#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// By level and run.
    runs: Vec<Run>,
    last_page: Option<PageId>,
}

/// Pages to compact into the next level, and where to go on.
#[derive(Debug)]
pub(super) struct CompactionInput {
    pub(super) pages: Vec<PageRef>,
    /// The run of the first.
    pub(super) run: RunId,
    /// The first key of the next page of level 0, if there is one.
    pub(super) next: Option<Key>,
}

impl Manifest {
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The least id above those of all pages.
    pub(super) fn fresh_page(&self) -> PageId {
        PageId(self.last_page.map_or(1, |page| page.0 + 1))
    }

    /// A run of level 0 above all others of it.
    pub(super) fn fresh_run(&self) -> RunId {
        let last = self.runs_of_level(0).map(|run| run.id.run).max();
        RunId { level: 0, run: last.unwrap_or(0) + 1 }
    }

    pub(super) fn levels(&self) -> usize {
        self.runs.last().map_or(0, |run| run.id.level + 1)
    }

    pub(super) fn runs_of_level(&self, level: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.id.level == level)
    }

    /// A page and its run.
    pub(super) fn find(&self, id: PageId) -> Option<(RunId, PageRef)> {
        self.runs.iter().find_map(|run| {
            let page = run.pages.iter().find(|page| page.id == id)?;
            Some((run.id, page.clone()))
        })
    }

    /// The `nth` page of all.
    pub(super) fn nth(&self, nth: usize) -> Option<PageId> {
        self.runs.iter().flat_map(|run| &run.pages).nth(nth).map(|page| page.id)
    }

    pub(super) fn insert_all(&mut self, pages: impl IntoIterator<Item = (RunId, PageRef)>) {
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
                self.runs.insert(index, Run { id, pages: Vec::new() });
                index
            }
        };
        let found = &mut self.runs[index].pages;
        found.extend(pages);
        found.sort_unstable_by_key(|page| page.first);
        debug_assert!(found.windows(2).all(|pair| pair[0].last < pair[1].first), "pages of a run overlap");
    }

    pub(super) fn remove(&mut self, ids: &[PageId]) {
        let ids: BTreeSet<PageId> = ids.iter().copied().collect();
        for run in &mut self.runs {
            run.pages.retain(|page| !ids.contains(&page.id));
        }
        self.runs.retain(|run| !run.pages.is_empty());
    }

    /// The one run of a level below level 0.
    pub(super) fn level(&self, level: usize) -> &[PageRef] {
        self.runs_of_level(level).next().map_or(&[], |run| &run.pages)
    }

    /// Pages of level 0 from key `from` on, at least one, that overlap about `pages_max` of level 1 and themselves.
    pub(super) fn upper_of_runs(&self, from: &Key, pages_max: usize) -> Option<CompactionInput> {
        let mut pages: Vec<(&PageRef, RunId)> = self
            .runs_of_level(0)
            .flat_map(|run| run.pages.iter().map(|page| (page, run.id)))
            .filter(|(page, _)| page.first >= *from)
            .collect();
        pages.sort_unstable_by_key(|(page, _)| page.first);
        let run = pages.first()?.1;
        let taken = take_overlapping(pages.iter().map(|(page, _)| *page), self.level(1), pages_max);
        let next = pages.get(taken).map(|(page, _)| page.first);
        Some(CompactionInput {
            pages: pages[..taken].iter().map(|(page, _)| (*page).clone()).collect(),
            run,
            next,
        })
    }

    /// Pages of a level below level 0: the one that overlaps fewest of the next level, and those after it while all
    /// these are about `pages_max`.
    pub(super) fn upper_of_level(&self, level: usize, pages_max: usize) -> Option<CompactionInput> {
        let (upper, lower) = (self.level(level), self.level(level + 1));
        let overlap = |page: &PageRef| overlapped(lower, &page.first, &page.last).len();
        let index = (0..upper.len()).min_by_key(|index| overlap(&upper[*index]))?;
        let taken = take_overlapping(upper[index..].iter(), lower, pages_max);
        Some(CompactionInput {
            pages: upper[index..index + taken].to_vec(),
            run: RunId { level, run: 0 },
            next: None,
        })
    }
}

/// The pages of a sorted run that overlap `first..=last`.
fn overlapped<'a>(pages: &'a [PageRef], first: &Key, last: &Key) -> &'a [PageRef] {
    let begin = pages.partition_point(|page| page.last < *first);
    let len = pages[begin..].partition_point(|page| page.first <= *last);
    &pages[begin..begin + len]
}

/// How many of `pages`, in order, together with the pages of `lower` that they overlap make about `pages_max`. At least one.
fn take_overlapping<'a>(
    pages: impl Iterator<Item = &'a PageRef>,
    lower: &[PageRef],
    pages_max: usize,
) -> usize {
    let (mut taken, mut first, mut last) = (0, Key::EMPTY, Key::EMPTY);
    for page in pages {
        if taken == 0 {
            first = page.first;
        }
        last = last.max(page.last);
        if taken > 0 && taken + 1 + overlapped(lower, &first, &last).len() > pages_max {
            break;
        }
        taken += 1;
    }
    taken
}
