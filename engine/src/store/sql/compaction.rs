//! Compaction: keys of one level go into the pages of the next.
//!
//! Each key goes into the page of the lower level into whose range it falls; pages of the lower level into which none
//! falls stay as they are. So one step writes about as many pages as it is asked to, however the keys lie.

use super::page::{PageIds, PageRef, RunId, paginate, sort_keys};
use super::sizes::SqlSizes;
use super::tree::Tree;
use crate::sql::SqlConn;
use crate::store::backend::StoreError;
use crate::store::kv::Key;

/// Neighbouring pages of the lower level that are rewritten, and the keys that come into them.
struct MergeRange {
    pages: Vec<PageRef>,
    keys: Vec<Key>,
}

impl Tree {
    /// The level that has more than it should, if any.
    pub(super) fn compaction_due(&self, sizes: &SqlSizes) -> Option<usize> {
        if self.level_0_next.is_some() || self.manifest.runs_of_level(0).count() >= sizes.runs {
            return Some(0);
        }
        (1..self.manifest.levels())
            .find(|level| self.manifest.level(*level).len() > sizes.level_pages_max(*level))
    }

    /// Moves keys of some pages of `level` to the next, in one transaction.
    pub(super) fn compact<C: SqlConn>(
        &mut self,
        conn: &C,
        level: usize,
        sizes: &SqlSizes,
    ) -> Result<(), StoreError> {
        let upper = match level {
            0 => {
                let from = self.level_0_next.unwrap_or(Key::EMPTY);
                self.manifest.upper_of_runs(&from, sizes.compaction_pages)
            }
            _ => self.manifest.upper_of_level(level, sizes.compaction_pages),
        };
        let Some(upper) = upper else {
            // Pages that were flushed meanwhile with lower keys wait for the next compaction of level 0.
            self.level_0_next = None;
            return Ok(());
        };
        let mut keys = Vec::new();
        self.live_keys(conn, &upper.pages, &mut keys)?;
        sort_keys(&mut keys);

        // Of one page some keys may stay where they are; of several, pages of other runs would overlap them.
        let pages_max = if upper.pages.len() > 1 { usize::MAX } else { sizes.compaction_pages };
        let (merge_ranges, kept) = merge_ranges(&keys, self.manifest.level(level + 1), pages_max);
        let old: Vec<_> = merge_ranges
            .iter()
            .flat_map(|range| &range.pages)
            .chain(&upper.pages)
            .map(|page| page.id)
            .collect();
        let mut ids = PageIds::new(&old, self.manifest.fresh_page());
        let mut pages = Vec::new();
        for mut range in merge_ranges {
            self.live_keys(conn, &range.pages, &mut range.keys)?;
            sort_keys(&mut range.keys);
            let run = RunId { level: level + 1, run: 0 };
            paginate(&range.keys, run, sizes.page_bytes, &mut ids, &mut pages);
        }
        paginate(kept, upper.run, sizes.page_bytes, &mut ids, &mut pages);
        self.replace(conn, &old, ids.unused(), pages)?;
        if level == 0 {
            // Pages of other runs that begin before the first key kept wait for the next pass.
            self.level_0_next = kept.first().copied().or(upper.next);
        }
        Ok(())
    }
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
