//! Which pages need to be rewritten, because many of their keys may be of removed events.
//!
//! Readers report pages in which they skipped many such keys. Pages that are not read are checked one after the other as
//! events are removed.

use std::collections::BTreeSet;

use super::directory::Directory;
use super::page::{Filtered, PageId, paginate};
use super::{Replacement, Shelf, live_keys};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Key;

/// Removed events for which one page is checked. A page has a thousand keys and an event about ten, so all pages have been
/// checked by the time that two thirds of the events they stand for are removed.
const REMOVED_PER_CHECK: u64 = 64;

/// Pages to check and rewrite.
#[derive(Debug, Default)]
pub struct RewriteQueue {
    needs_rewrite: BTreeSet<PageId>,
    /// Removed events for which no page has been checked yet.
    removed: u64,
    /// The page to check next, in the order of levels, runs and keys.
    next_check: usize,
}

impl RewriteQueue {
    /// Queues pages that readers found worn.
    pub fn push_all(&mut self, pages: Vec<PageId>) {
        self.needs_rewrite.extend(pages);
    }

    /// The next page to rewrite.
    pub fn pop(&mut self) -> Option<PageId> {
        self.needs_rewrite.pop_first()
    }

    /// Records pages that have been replaced.
    pub fn forget(&mut self, pages: &[PageId]) {
        for page in pages {
            self.needs_rewrite.remove(page);
        }
    }

    /// Records events that were removed and whose keys are in pages.
    pub fn count_removed(&mut self, events: u64) {
        self.removed += events;
    }

    /// Whether the turn of a page has come.
    pub fn is_due(&self, directory: &Directory) -> bool {
        self.removed >= REMOVED_PER_CHECK && directory.levels() > 0
    }

    /// Queues the pages whose turn it is, at most `pages_max`.
    pub fn push_due(&mut self, directory: &Directory, pages_max: usize) {
        for _ in 0..pages_max {
            if self.removed < REMOVED_PER_CHECK {
                return;
            }
            self.removed -= REMOVED_PER_CHECK;
            if let Some(page) = directory.nth(self.next_check) {
                self.next_check += 1;
                self.needs_rewrite.insert(page);
            } else {
                self.next_check = 0;
            }
        }
    }
}

/// A page without the keys of removed events, if those are a quarter of it.
///
/// # Errors
/// The shelf's.
pub fn rewrite<S: Shelf>(
    shelf: &S,
    directory: &Directory,
    is_removed: &dyn Fn(Seq) -> bool,
    id: PageId,
    page_bytes: usize,
    filtered: Filtered,
) -> Result<Option<Replacement>, StoreError> {
    let Some((run, page)) = directory.find(id) else { return Ok(None) };
    let (mut keys, mut new) = (Vec::new(), Vec::new());
    if run.from != Key::EMPTY {
        // It is being merged.
        return Ok(None);
    }
    let removed = live_keys(shelf, is_removed, [page], &mut keys)?;
    if removed * 3 < keys.len() {
        return Ok(None);
    }
    paginate(&keys, run.id, page_bytes, filtered, &mut new);
    Ok(Some(Replacement { old: vec![id], new }))
}
