//! Which pages there are: runs of pages, sorted within each run, in levels.
//!
//! A key is in exactly one page. Level 0 has one run for each fold, and their pages overlap; every other level is one
//! run. Pages sink from level to level by being merged with those of the next that they overlap.

use std::collections::BTreeSet;

use crate::store::keyed::Key;

/// A page, without its keys.
#[derive(Clone, Debug)]
pub(super) struct PageRef {
    pub(super) number: i64,
    pub(super) first: Key,
    pub(super) last: Key,
    /// The filter of its ids; see `ids`.
    pub(super) ids: Box<[u8]>,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) level: usize,
    /// The last number that was folded into it; 0 below level 0.
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

/// Pages to merge, and where to go on.
#[derive(Debug)]
pub(super) struct Merge {
    /// Numbers, those of the upper level first.
    pub(super) pages: Vec<i64>,
    /// The first key of the next page of the upper level, if there is one.
    pub(super) next: Option<Key>,
}

impl Directory {
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// A number that no page ever had.
    pub(super) fn fresh_number(&self, nth: usize) -> i64 {
        self.last_number + 1 + nth as i64
    }

    pub(super) fn levels(&self) -> usize {
        self.runs.last().map_or(0, |run| run.level + 1)
    }

    pub(super) fn runs_of_level(&self, level: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.level == level)
    }

    pub(super) fn pages_of_level(&self, level: usize) -> usize {
        self.runs_of_level(level).map(|run| run.pages.len()).sum()
    }

    /// The run and level of a page.
    pub(super) fn find(&self, number: i64) -> Option<(usize, i64)> {
        let holds = |run: &&Run| run.pages.iter().any(|page| page.number == number);
        self.runs.iter().find(holds).map(|run| (run.level, run.run))
    }

    /// Adds pages, in any order.
    pub(super) fn insert(&mut self, level: usize, run: i64, pages: impl IntoIterator<Item = PageRef>) {
        let mut pages = pages.into_iter().peekable();
        if pages.peek().is_none() {
            return;
        }
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

    /// Some pages of `level` from key `from` on, and all those of the next level that they overlap: at least one,
    /// otherwise about `pages_max`.
    pub(super) fn merge(&self, level: usize, from: &Key, pages_max: usize) -> Option<Merge> {
        let mut upper: Vec<&PageRef> =
            self.runs_of_level(level).flat_map(|run| &run.pages).filter(|page| page.first >= *from).collect();
        upper.sort_unstable_by_key(|page| page.first);
        let lower = self.runs_of_level(level + 1).next().map_or(&[][..], |run| &run.pages);
        let first = upper.first()?.first;
        let begin = lower.partition_point(|page| page.last < first);
        let (mut last, mut taken, mut end) = (Key::EMPTY, 0, begin);
        for page in &upper {
            let reach = last.max(page.last);
            let reach_end = begin + lower[begin..].partition_point(|lower| lower.first <= reach);
            if taken > 0 && taken + 1 + reach_end - begin > pages_max {
                break;
            }
            (last, end) = (reach, reach_end);
            taken += 1;
        }
        let pages = upper[..taken].iter().copied().chain(&lower[begin..end]).map(|page| page.number);
        Some(Merge { pages: pages.collect(), next: upper.get(taken).map(|page| page.first) })
    }
}
