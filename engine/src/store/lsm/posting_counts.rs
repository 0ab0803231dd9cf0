//! How many postings each page holds, without those of removed events: what a count adds up instead of reading pages.
//!
//! A page that is written has a known number. When an event is removed, the one page that holds a posting of it has one less;
//! where several pages may be that page, none of their numbers is known any more. An unknown number is found by reading the page,
//! and then it is known to all states that share it: a clone is a state of its own, and shares what is not changed in it. What
//! is known is never stored; after opening all numbers are unknown but those of pages of which no event can have been removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::directory::Directory;
use super::page::{PageId, PageRef};
use super::removed::RemovedSeqs;
use crate::store::backend::{Posting, Seq};
use crate::store::kv::Key;
use crate::types::is_removal_request;

/// Numbers that change together in memory.
const CHUNK: i64 = 256;
/// Stands for a number that is unknown.
const UNKNOWN: u32 = u32::MAX;

type Chunk = [AtomicU32; CHUNK as usize];

/// The numbers of one state.
#[derive(Clone, Debug, Default)]
pub struct PostingCounts {
    chunks: BTreeMap<i64, Arc<Chunk>>,
}

/// Whether the key of the event's expiry says when the posting stops counting. It does not exist for removal requests, which
/// are kept though nobody is shown them any more; a page with such a posting is read each time.
pub(super) fn counted_alone(posting: &Posting) -> bool {
    !(posting.expires && is_removal_request(posting.kind))
}

impl PostingCounts {
    /// Of the pages that were found when a store was opened, with the events that are removed.
    pub fn of(directory: &Directory, removed: &RemovedSeqs) -> Self {
        let mut counts = PostingCounts::default();
        for page in directory.runs().flat_map(|run| &run.pages) {
            let is_whole = !removed.has_any_in(*page.seqs.start(), *page.seqs.end());
            counts.set(page.id, page.postings.filter(|_| is_whole));
        }
        counts
    }

    /// How many postings a page holds, if that is known.
    pub(super) fn get(&self, page: PageId) -> Option<u32> {
        let chunk = self.chunks.get(&page.0.div_euclid(CHUNK))?;
        Some(chunk[page.0.rem_euclid(CHUNK) as usize].load(Ordering::Relaxed))
            .filter(|found| *found != UNKNOWN)
    }

    /// A reader of this state has counted a page.
    pub(super) fn learn(&self, page: PageId, postings: u32) {
        // A state in which the page holds other postings has another copy of the chunk.
        if let Some(chunk) = self.chunks.get(&page.0.div_euclid(CHUNK)) {
            chunk[page.0.rem_euclid(CHUNK) as usize].store(postings, Ordering::Relaxed);
        }
    }

    /// Pages have been replaced. Of the new ones none holds a posting of an event that is in `removed`, but for those that are not
    /// in `before`, what was removed when they were made.
    pub fn replace<'a>(
        &mut self,
        old: &[PageId],
        new: impl IntoIterator<Item = &'a PageRef>,
        before: &RemovedSeqs,
        removed: &RemovedSeqs,
    ) {
        old.iter().for_each(|page| self.set(*page, None));
        for page in new {
            let is_whole = before.is_same_in(removed, *page.seqs.start(), *page.seqs.end());
            self.set(page.id, page.postings.filter(|_| is_whole));
        }
    }

    /// Events with these keys, among others, have been removed, after their keys had been flushed or before.
    pub fn subtract<'a>(&mut self, directory: &Directory, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            let Some(posting) = key.posting() else { continue };
            let mut pages = directory.pages_of(key, posting.seq).map(|page| page.id);
            let Some(page) = pages.next() else { continue };
            match pages.next() {
                None => {
                    let known = self.get(page);
                    debug_assert_ne!(known, Some(0), "a page has fewer postings than were counted");
                    // A number that is wrong would be wrong for as long as the page is.
                    self.set(page, known.and_then(|known| known.checked_sub(1)));
                }
                Some(second) => [page, second].into_iter().chain(pages).for_each(|page| self.set(page, None)),
            }
        }
    }

    /// These events have been removed, and their keys are not known: nor is any more how many postings the pages hold that may have one.
    pub fn forget(&mut self, directory: &Directory, seqs: &[Seq]) {
        for page in directory.runs().flat_map(|run| &run.pages) {
            if seqs.iter().any(|seq| page.seqs.contains(seq)) {
                self.set(page.id, None);
            }
        }
    }

    /// Sets a number, also if it stays unknown: what a reader of this state finds is not what one of another state does, and they share a
    /// chunk otherwise.
    fn set(&mut self, page: PageId, postings: Option<u32>) {
        let chunk = self.chunks.entry(page.0.div_euclid(CHUNK)).or_insert_with(|| Arc::new(unknown()));
        if Arc::get_mut(chunk).is_none() {
            *chunk = Arc::new(std::array::from_fn(|at| AtomicU32::new(chunk[at].load(Ordering::Relaxed))));
        }
        chunk[page.0.rem_euclid(CHUNK) as usize].store(postings.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}

fn unknown() -> Chunk {
    std::array::from_fn(|_| AtomicU32::new(UNKNOWN))
}
