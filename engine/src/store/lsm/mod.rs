//! A log-structured merge tree over keys (`store::kv`), pure: it is given pages and says which ones replace them.
//!
//! | file | role |
//! |---|---|
//! | `memtable` | keys that are in no page yet: sorted slices |
//! | `page`, `filter` | pages of sorted keys: their bytes, and what they may hold |
//! | `directory` | which pages there are: runs, in levels |
//! | `range` | the keys of a range, merged from slices and pages |
//! | `removed` | events whose keys are left out: a bitmap by sequence number |
//! | `compaction`, `tiers` | which pages are merged into which: levels of one run, or of several |
//! | `posting_counts`, `count` | how many postings pages have, without those of removed events; counting a range by that |
//! | `sums` | the sums of the ids of pages' postings |
//! | `rewrites` | which pages are written again without the keys of removed events |
//!
//! A key refers to an event by its sequence number and is in one place, so there is nothing to reconcile when runs are read or
//! merged. Keys of removed events are skipped by readers, and left out when their pages are next merged. Whoever keeps the
//! pages is a [`Shelf`]: rows of a table (`store::sql`), or slots of a file. It writes what a [`Replacement`] says, all of it
//! or nothing, and gives pages their ids.

mod compaction;
mod count;
mod directory;
mod filter;
mod memtable;
mod page;
mod posting_counts;
mod range;
mod removed;
mod rewrites;
mod sums;
mod tiers;

pub use compaction::{Leveled, LeveledStep};
pub use directory::{Directory, Run};
pub use memtable::Memtable;
pub use page::{Filtered, Page, PageId, PageRef, RunId, paginate};
pub use posting_counts::PostingCounts;
pub use range::{View, WornPages};
pub use removed::{ChangedBits, RemovedSeqs};
pub use rewrites::{RewriteQueue, rewrite};
pub use sums::{PostingSums, SumSource};
pub use tiers::{Merge, Tiered, TieredStep};

use super::backend::{Seq, StoreError};
use super::kv::{Key, Overlay, keys_of, tombstone_key};
use super::terms::{TermClasses, terms_of};
use crate::types::Event;

/// Where pages are kept.
pub trait Shelf {
    /// The bytes of a page.
    type Bytes: AsRef<[u8]>;

    /// The keys of a page, as [`Page::bytes`] had them.
    ///
    /// # Errors
    /// The shelf's, and [`StoreError::Corrupt`] for a page that is not there.
    fn page(&self, id: PageId) -> Result<Self::Bytes, StoreError>;
}

/// Pages to write in place of others, all at once.
#[derive(Debug, Default)]
pub struct Replacement {
    /// The pages that are replaced.
    pub old: Vec<PageId>,
    /// Those that come instead, in the order of keys within each run.
    pub new: Vec<Page>,
}

/// Appends the keys of an event that is stored.
pub fn push_keys_of(seq: Seq, json: &[u8], classes: TermClasses, keys: &mut Vec<Key>) {
    let event = Event::from_canonical(json.into());
    keys.extend(keys_of(seq, &event, &terms_of(event.view(), classes)));
}

/// The tombstones that a write puts, as keys.
pub fn tombstone_keys(overlay: &Overlay) -> Vec<Key> {
    overlay.tombstones().map(|(key, until)| tombstone_key(key, until)).collect()
}

/// Sorts keys, and drops tombstones of which there is one with a later timestamp.
pub fn sort_keys(keys: &mut Vec<Key>) {
    // A few sorted stretches, which a stable sort finds and merges.
    keys.sort();
    keys.dedup_by(|key, before| key.is_same_tombstone(before));
}

/// Appends the keys of these pages, without those of removed events, which it counts.
fn live_keys<'p, S: Shelf>(
    shelf: &S,
    is_removed: &dyn Fn(Seq) -> bool,
    pages: impl IntoIterator<Item = &'p PageRef>,
    keys: &mut Vec<Key>,
) -> Result<usize, StoreError> {
    let mut removed = 0;
    for page in pages {
        let mut cursor = page::PageCursor::first(shelf.page(page.id)?)?;
        while let Some(key) = cursor.next()? {
            match key.seq().is_some_and(is_removed) {
                true => removed += 1,
                false => keys.push(key),
            }
        }
    }
    Ok(removed)
}
