//! Which pages there are: runs of pages, sorted within each run, in levels.
//!
//! A key is in exactly one page. Level 0 has one run for each fold, and their pages overlap; every other level is one
//! run. Pages sink from level to level by being merged with those of the next that they overlap.

use std::collections::{BTreeMap, BTreeSet};

use super::pages::Page;
use crate::store::keyed::Key;

/// A page, without its keys.
#[derive(Clone, Debug)]
pub(super) struct PageRef {
    pub(super) number: i64,
    pub(super) first: Key,
    pub(super) last: Key,
    /// Which ids and tombstones it may hold; see `filter`.
    pub(super) filter: Box<[u8]>,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) level: usize,
    /// Unlike that of any other run of level 0; 0 below it.
    pub(super) run: i64,
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
pub(super) struct Directory {
    /// By level and run.
    runs: Vec<Run>,
    last_number: i64,
}

/// Pages to merge into the next level, and where to go on.
#[derive(Debug)]
pub(super) struct Upper {
    pub(super) pages: Vec<PageRef>,
    /// The run of the first.
    pub(super) run: i64,
    /// The first key of the next page of level 0, if there is one.
    pub(super) next: Option<Key>,
}

impl Directory {
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The first number that no page has.
    pub(super) fn fresh_number(&self) -> i64 {
        self.last_number + 1
    }

    /// For a run of level 0, above all others of it.
    pub(super) fn fresh_run(&self) -> i64 {
        self.runs_of_level(0).map(|run| run.run).max().unwrap_or(0) + 1
    }

    pub(super) fn levels(&self) -> usize {
        self.runs.last().map_or(0, |run| run.level + 1)
    }

    pub(super) fn runs_of_level(&self, level: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.level == level)
    }

    /// The level and run of a page, and the page.
    pub(super) fn find(&self, number: i64) -> Option<((usize, i64), PageRef)> {
        self.runs.iter().find_map(|run| {
            let page = run.pages.iter().find(|page| page.number == number)?;
            Some(((run.level, run.run), page.clone()))
        })
    }

    /// The `nth` page of all.
    pub(super) fn nth(&self, nth: usize) -> Option<i64> {
        self.runs.iter().flat_map(|run| &run.pages).nth(nth).map(|page| page.number)
    }

    pub(super) fn insert_all(&mut self, pages: Vec<Page>) {
        let mut runs: BTreeMap<_, Vec<PageRef>> = BTreeMap::new();
        for page in pages {
            runs.entry((page.level, page.run)).or_default().push(page.entry);
        }
        runs.into_iter().for_each(|(place, pages)| self.insert(place, pages));
    }

    /// Adds pages to a run, in any order; there is one at least.
    pub(super) fn insert(&mut self, (level, run): (usize, i64), pages: Vec<PageRef>) {
        let place = match self.runs.binary_search_by_key(&(level, run), |run| (run.level, run.run)) {
            Ok(place) => place,
            Err(place) => {
                self.runs.insert(place, Run { level, run, pages: Vec::new() });
                place
            }
        };
        let found = &mut self.runs[place].pages;
        found.extend(pages);
        found.sort_unstable_by_key(|page| page.first);
        self.last_number = found.iter().map(|page| page.number).max().unwrap_or(0).max(self.last_number);
        debug_assert!(found.windows(2).all(|pair| pair[0].last < pair[1].first), "pages of a run overlap");
    }

    pub(super) fn remove(&mut self, numbers: &[i64]) {
        let numbers: BTreeSet<i64> = numbers.iter().copied().collect();
        for run in &mut self.runs {
            run.pages.retain(|page| !numbers.contains(&page.number));
        }
        self.runs.retain(|run| !run.pages.is_empty());
    }

    /// The one run of a level below level 0.
    pub(super) fn level(&self, level: usize) -> &[PageRef] {
        self.runs_of_level(level).next().map_or(&[], |run| &run.pages)
    }

    /// Pages of level 0 from key `from` on, at least one, that overlap about `pages_max` of level 1 and themselves.
    pub(super) fn upper_of_runs(&self, from: &Key, pages_max: usize) -> Option<Upper> {
        let mut pages: Vec<(&PageRef, i64)> = self
            .runs_of_level(0)
            .flat_map(|run| run.pages.iter().map(|page| (page, run.run)))
            .filter(|(page, _)| page.first >= *from)
            .collect();
        pages.sort_unstable_by_key(|(page, _)| page.first);
        let run = pages.first()?.1;
        let taken = reach(pages.iter().map(|(page, _)| *page), self.level(1), pages_max);
        let next = pages.get(taken).map(|(page, _)| page.first);
        Some(Upper { pages: pages[..taken].iter().map(|(page, _)| (*page).clone()).collect(), run, next })
    }

    /// Pages of a level below level 0: the one that overlaps fewest of the next level, and those behind it while all
    /// these are about `pages_max`.
    pub(super) fn upper_of_level(&self, level: usize, pages_max: usize) -> Option<Upper> {
        let (upper, lower) = (self.level(level), self.level(level + 1));
        let overlap = |page: &PageRef| overlapped(lower, &page.first, &page.last).len();
        let place = (0..upper.len()).min_by_key(|place| overlap(&upper[*place]))?;
        let taken = reach(upper[place..].iter(), lower, pages_max);
        Some(Upper { pages: upper[place..place + taken].to_vec(), run: 0, next: None })
    }
}

/// The pages of a sorted run that overlap `first..=last`.
fn overlapped<'a>(pages: &'a [PageRef], first: &Key, last: &Key) -> &'a [PageRef] {
    let begin = pages.partition_point(|page| page.last < *first);
    let len = pages[begin..].partition_point(|page| page.first <= *last);
    &pages[begin..begin + len]
}

/// How many of `pages`, in order, are about `pages_max` together with those of `lower` that they overlap. One at least.
fn reach<'a>(pages: impl Iterator<Item = &'a PageRef>, lower: &[PageRef], pages_max: usize) -> usize {
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
