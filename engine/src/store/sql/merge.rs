//! Merging: pages of one level go into those of the next.
//!
//! Each key goes into the page of the lower level that it falls into; pages of the lower level into which none falls
//! stay as they are. So a merge writes about as many pages as it says, however the keys lie.

use super::SqlBackend;
use super::conn::SqlConn;
use super::directory::PageRef;
use super::pages::{Numbers, paginate, put_in_order};
use crate::store::backend::StoreError;
use crate::store::keyed::Key;

/// Neighbours of the lower level that are written anew, and the keys that come into them.
struct Stretch {
    pages: Vec<PageRef>,
    keys: Vec<Key>,
}

impl<C: SqlConn> SqlBackend<C> {
    /// Merges some pages of `level` into the next.
    pub(super) fn merge(&self, level: usize) -> Result<(), StoreError> {
        let upper = {
            let state = self.state.borrow();
            match level {
                0 => {
                    let from = state.merge_from.unwrap_or(Key::EMPTY);
                    state.directory.upper_of_runs(&from, self.sizes.merge_pages)
                }
                _ => state.directory.upper_of_level(level, self.sizes.merge_pages),
            }
        };
        let Some(upper) = upper else {
            // What was folded below while level 0 was being merged waits for the next time.
            self.state.borrow_mut().merge_from = None;
            return Ok(());
        };
        let mut keys = Vec::new();
        self.living_keys(&upper.pages, &mut keys)?;
        put_in_order(&mut keys);

        // Of one page some keys may stay where they are; of several, pages of other runs would overlap them.
        let pages_max = if upper.pages.len() > 1 { usize::MAX } else { self.sizes.merge_pages };
        let (stretches, kept) = stretches(&keys, self.state.borrow().directory.level(level + 1), pages_max);
        let old: Vec<i64> = stretches
            .iter()
            .flat_map(|stretch| &stretch.pages)
            .chain(&upper.pages)
            .map(|page| page.number)
            .collect();
        let mut numbers = Numbers::new(&old, self.state.borrow().directory.fresh_number());
        let mut pages = Vec::new();
        let bytes_max = self.sizes.page_bytes;
        for mut stretch in stretches {
            self.living_keys(&stretch.pages, &mut stretch.keys)?;
            put_in_order(&mut stretch.keys);
            paginate(&stretch.keys, (level + 1, 0), bytes_max, &mut numbers, &mut pages);
        }
        paginate(kept, (level, upper.run), bytes_max, &mut numbers, &mut pages);
        self.replace_pages(&old, numbers.left(), pages)?;
        if level == 0 {
            // Pages of other runs that begin before the first key kept wait for the next pass.
            self.state.borrow_mut().merge_from = kept.first().copied().or(upper.next);
        }
        Ok(())
    }
}

/// Deals `keys` out to the pages of `lower` that they fall into, until those are `pages_max`; what is left comes back.
fn stretches<'k>(keys: &'k [Key], lower: &[PageRef], pages_max: usize) -> (Vec<Stretch>, &'k [Key]) {
    let mut stretches: Vec<Stretch> = Vec::new();
    let (mut left, mut last_place, mut pages) = (keys, None, 0);
    while let Some(first) = left.first() {
        // A key between two pages goes to the one before it, and one before all to the first.
        let place = lower.partition_point(|page| page.first <= *first).saturating_sub(1);
        let end =
            lower.get(place + 1).map_or(left.len(), |next| left.partition_point(|key| *key < next.first));
        if pages == pages_max {
            return (stretches, left);
        }
        let (here, others) = left.split_at(end);
        left = others;
        if last_place.is_none_or(|last| last + 1 != place) {
            stretches.push(Stretch { pages: Vec::new(), keys: Vec::new() });
        }
        if let Some(stretch) = stretches.last_mut() {
            stretch.keys.extend_from_slice(here);
            stretch.pages.extend(lower.get(place).cloned());
        }
        (last_place, pages) = (Some(place), pages + 1);
    }
    (stretches, &[])
}
