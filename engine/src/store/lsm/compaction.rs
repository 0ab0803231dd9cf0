//! Compaction in levels, where every level but the first is one run: keys of one level go into the pages of the next.
//!
//! Each key goes into the page of the lower level into whose range it falls; pages of the lower level into which none
//! falls stay as they are. So one step writes about as many pages as it is asked to, however the keys lie.

use super::directory::Directory;
use super::page::{Filtered, Page, PageRef, RunId, paginate};
use super::{Replacement, Shelf, live_keys, sort_keys};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Key;

/// The sizes of levels, and where the compaction of level 0 continues, while one is under way.
#[derive(Clone, Copy, Debug)]
pub struct Leveled {
    /// Runs of level 0 at which they are compacted into level 1; one at least.
    pub runs: usize,
    /// Pages of level 1 above which some are compacted into level 2.
    pub level_pages: usize,
    /// How many times larger than a level the next one may be.
    pub fan_out: usize,
    /// Pages that one step reads, and about as many that it writes; two at least.
    pub step_pages: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
}

/// Neighbouring pages of the lower level that are rewritten, and the keys that come into them.
struct MergeRange {
    pages: Vec<PageRef>,
    keys: Vec<Key>,
}

/// Pages to compact into the next level, and where to go on.
struct Input {
    pages: Vec<PageRef>,
    /// The run of the first.
    run: RunId,
    /// The first key of the next page of level 0, if there is one.
    next: Option<Key>,
}

/// One step of a compaction.
#[derive(Debug, Default)]
pub struct LeveledStep {
    /// What it replaces; nothing if no page was left.
    pub replacement: Replacement,
    /// Where the compaction of level 0 continues after it, if it is one of level 0.
    pub level_0_next: Option<Key>,
}

impl Leveled {
    /// The level that has more than it should, if any. `level_0_next`: of the step before.
    pub fn due(&self, directory: &Directory, level_0_next: Option<Key>) -> Option<usize> {
        if level_0_next.is_some() || directory.runs_of_level(0).count() >= self.runs {
            return Some(0);
        }
        (1..directory.levels()).find(|level| level_of(directory, *level).len() > self.pages_max(*level))
    }

    /// Pages of `level` above which some are compacted into the next.
    fn pages_max(&self, level: usize) -> usize {
        let times = self.fan_out.saturating_pow(level.saturating_sub(1) as u32);
        self.level_pages.saturating_mul(times)
    }

    /// Moves keys of some pages of `level` to the next.
    ///
    /// # Errors
    /// The shelf's.
    pub fn step<S: Shelf>(
        &self,
        shelf: &S,
        directory: &Directory,
        is_removed: &dyn Fn(Seq) -> bool,
        level: usize,
        level_0_next: Option<Key>,
    ) -> Result<LeveledStep, StoreError> {
        let upper = match level {
            0 => upper_of_runs(directory, &level_0_next.unwrap_or(Key::EMPTY), self.step_pages),
            _ => upper_of_level(directory, level, self.step_pages),
        };
        // Pages that were flushed meanwhile with lower keys wait for the next compaction of level 0.
        let Some(upper) = upper else { return Ok(LeveledStep::default()) };
        let mut keys = Vec::new();
        live_keys(shelf, is_removed, &upper.pages, &mut keys)?;
        sort_keys(&mut keys);

        // Of one page some keys may stay where they are; of several, pages of other runs would overlap them.
        let pages_max = if upper.pages.len() > 1 { usize::MAX } else { self.step_pages };
        let (merge_ranges, kept) = merge_ranges(&keys, level_of(directory, level + 1), pages_max);
        let old = merge_ranges.iter().flat_map(|range| &range.pages).chain(&upper.pages);
        let old = old.map(|page| page.id).collect();
        let mut new: Vec<Page> = Vec::new();
        for mut range in merge_ranges {
            live_keys(shelf, is_removed, &range.pages, &mut range.keys)?;
            sort_keys(&mut range.keys);
            let run = RunId { level: level + 1, run: 0 };
            paginate(&range.keys, run, self.page_bytes, Filtered::Hashes, &mut new);
        }
        paginate(kept, upper.run, self.page_bytes, Filtered::Hashes, &mut new);
        // Pages of other runs that begin before the first key kept wait for the next pass.
        let level_0_next = if level == 0 { kept.first().copied().or(upper.next) } else { level_0_next };
        Ok(LeveledStep { replacement: Replacement { old, new }, level_0_next })
    }
}

/// The one run of a level below level 0.
fn level_of(directory: &Directory, level: usize) -> &[PageRef] {
    directory.runs_of_level(level).next().map_or(&[], |run| &run.pages)
}

/// Pages of level 0 from key `from` on, at least one, that overlap about `pages_max` of level 1 and themselves.
fn upper_of_runs(directory: &Directory, from: &Key, pages_max: usize) -> Option<Input> {
    let mut pages: Vec<(&PageRef, RunId)> = directory
        .runs_of_level(0)
        .flat_map(|run| run.pages.iter().map(|page| (page, run.id)))
        .filter(|(page, _)| page.first >= *from)
        .collect();
    pages.sort_unstable_by_key(|(page, _)| page.first);
    let run = pages.first()?.1;
    let taken = take_overlapping(pages.iter().map(|(page, _)| *page), level_of(directory, 1), pages_max);
    let next = pages.get(taken).map(|(page, _)| page.first);
    Some(Input { pages: pages[..taken].iter().map(|(page, _)| (*page).clone()).collect(), run, next })
}

/// Pages of a level below level 0: the one that overlaps fewest of the next level, and those after it while all
/// these are about `pages_max`.
fn upper_of_level(directory: &Directory, level: usize, pages_max: usize) -> Option<Input> {
    let (upper, lower) = (level_of(directory, level), level_of(directory, level + 1));
    let overlap = |page: &PageRef| overlapped(lower, &page.first, &page.last).len();
    let index = (0..upper.len()).min_by_key(|index| overlap(&upper[*index]))?;
    let taken = take_overlapping(upper[index..].iter(), lower, pages_max);
    Some(Input { pages: upper[index..index + taken].to_vec(), run: RunId { level, run: 0 }, next: None })
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

/// Assigns `keys` to the pages of `lower` whose range they fall into, up to `pages_max` pages; returns the remaining keys.
fn merge_ranges<'k>(keys: &'k [Key], lower: &[PageRef], pages_max: usize) -> (Vec<MergeRange>, &'k [Key]) {
    let mut merge_ranges: Vec<MergeRange> = Vec::new();
    let (mut left, mut last_index, mut pages) = (keys, None, 0);
    while let Some(first) = left.first() {
        // A key between two pages goes to the one before it, and one before all to the first.
        let index = lower.partition_point(|page| page.first <= *first).saturating_sub(1);
        let end =
            lower.get(index + 1).map_or(left.len(), |next| left.partition_point(|key| *key < next.first));
        if pages == pages_max {
            return (merge_ranges, left);
        }
        let (here, others) = left.split_at(end);
        left = others;
        if last_index.is_none_or(|last| last + 1 != index) {
            merge_ranges.push(MergeRange { pages: Vec::new(), keys: Vec::new() });
        }
        if let Some(range) = merge_ranges.last_mut() {
            range.keys.extend_from_slice(here);
            range.pages.extend(lower.get(index).cloned());
        }
        (last_index, pages) = (Some(index), pages + 1);
    }
    (merge_ranges, &[])
}
