//! Which pages need to be rewritten, because many of their keys may be of removed events.
//!
//! Readers report pages in which they skipped many such keys. Pages that are not read are checked one after the other as
//! events are removed.

use std::collections::BTreeSet;

use super::manifest::Manifest;
use super::page::PageId;

/// Removed events for which one page is checked. A page has a thousand keys and an event about ten, so all pages have been
/// checked by the time that two thirds of the events they stand for are removed.
const REMOVED_PER_CHECK: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct RewriteQueue {
    needs_rewrite: BTreeSet<PageId>,
    /// Removed events for which no page has been checked yet.
    removed: u64,
    /// The page to check next, in the order of levels, runs and keys.
    next_check: usize,
}

impl RewriteQueue {
    pub(super) fn push_all(&mut self, pages: Vec<PageId>) {
        self.needs_rewrite.extend(pages);
    }

    pub(super) fn pop(&mut self) -> Option<PageId> {
        self.needs_rewrite.pop_first()
    }

    /// Records pages that have been replaced.
    pub(super) fn forget(&mut self, pages: &[PageId]) {
        self.needs_rewrite.retain(|page| !pages.contains(page));
    }

    /// Records events that were removed and whose keys are in pages.
    pub(super) fn count_removed(&mut self, events: u64) {
        self.removed += events;
    }

    /// Queues the pages whose turn it is, at most `pages_max`.
    pub(super) fn push_due(&mut self, manifest: &Manifest, pages_max: usize) {
        for _ in 0..pages_max {
            if self.removed < REMOVED_PER_CHECK {
                return;
            }
            self.removed -= REMOVED_PER_CHECK;
            if let Some(page) = manifest.nth(self.next_check) {
                self.next_check += 1;
                self.needs_rewrite.insert(page);
            } else {
                self.next_check = 0;
            }
        }
    }
}
