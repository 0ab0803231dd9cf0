//! Counting the postings of a range without reading each: pages that lie within it count as a whole ([`PostingCounts`]), and of
//! each run only the pages at both ends are read. A page whose number is unknown is read once.

use super::page::{PageCursor, PageRef};
use super::posting_counts::{PostingCounts, counted_alone};
use super::range::{Range, View};
use super::{Directory, Shelf};
use crate::store::backend::{PostingCount, Seq, StoreError};
use crate::store::kv::Key;

/// Keys that are looked at for one unit of cost.
const KEYS: usize = 64;
/// Numbers that are added up for one unit of cost.
const PAGES: usize = 256;
/// Most postings that are listed because counting them is not enough.
const LISTED_MAX: usize = 64;

/// What has been counted.
#[derive(Default)]
struct Tally {
    postings: u64,
    /// Events of postings that are not [`counted_alone`].
    listed: Vec<Seq>,
    /// Keys looked at.
    keys: usize,
}

/// One run's pages of a range.
pub(super) struct Part<'a> {
    /// The first key that is read.
    pub(super) from: Key,
    /// Pages that may have other keys as well.
    pub(super) ends: [Option<&'a PageRef>; 2],
    /// Those between them, which have keys of the range only.
    pub(super) within: &'a [PageRef],
}

impl<S: Shelf> View<'_, S> {
    /// Counts the postings from `from` to `to`, both included, which are bounds of one term's, of events up to `horizon`. Each page read
    /// costs one, and one for every 64 keys that are looked at; a call may overdraw `budget` by the first page of unknown number
    /// and the ends of each run.
    ///
    /// # Errors
    /// The shelf's, and [`StoreError::Failed`] for bounds that are longer than any key.
    pub fn count(
        &self,
        counts: &PostingCounts,
        from: &[u8],
        to: &[u8],
        horizon: Seq,
        budget: &mut usize,
    ) -> Result<PostingCount, StoreError> {
        let range = Range::new(from, to, self.filtered)?;
        let mut tally = Tally::default();
        *budget = budget.saturating_sub(1);
        let mut has_read = false;
        let parts = parts(self.directory, &range);
        for part in &parts {
            // Such pages come first: what has been read of them need not be read again if the budget runs out.
            for page in part.within {
                let is_old = *page.seqs.end() <= horizon;
                if let Some(postings) = counts.get(page.id).filter(|_| is_old) {
                    tally.postings += u64::from(postings);
                    continue;
                }
                if *budget == 0 && has_read {
                    return Ok(PostingCount::OutOfBudget);
                }
                has_read = true;
                let mut page_tally = Tally::default();
                self.count_page(page, &range.from, &range, horizon, &mut page_tally)?;
                *budget = budget.saturating_sub(1 + page_tally.keys / KEYS);
                if is_old && page_tally.listed.is_empty() {
                    counts.learn(page.id, page_tally.postings as u32);
                }
                tally.postings += page_tally.postings;
                tally.listed.append(&mut page_tally.listed);
                if tally.listed.len() > LISTED_MAX {
                    return Ok(PostingCount::Unsupported);
                }
            }
            *budget = budget.saturating_sub(part.within.len() / PAGES);
        }
        for part in &parts {
            for page in part.ends.into_iter().flatten().filter(|page| range.may_be_in(page)) {
                self.count_page(page, &part.from, &range, horizon, &mut tally)?;
                *budget = budget.saturating_sub(1);
            }
        }
        for slice in self.memtable.slices() {
            let rest = &slice[slice.partition_point(|key| *key < range.from)..];
            rest.iter()
                .take_while(|key| **key <= range.to)
                .for_each(|key| self.tally(key, horizon, &mut tally));
        }
        *budget = budget.saturating_sub(tally.keys / KEYS);
        let Tally { postings, listed, .. } = tally;
        match listed.len() > LISTED_MAX {
            true => Ok(PostingCount::Unsupported),
            false => Ok(PostingCount::Counted { postings, expiring_requests: listed }),
        }
    }

    /// Counts the keys of one page that are in the range.
    fn count_page(
        &self,
        page: &PageRef,
        from: &Key,
        range: &Range,
        horizon: Seq,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let mut cursor = PageCursor::at(self.shelf.page(page.id)?, from.as_bytes())?;
        while let Some(key) = cursor.next()?.filter(|key| *key <= range.to) {
            self.tally(&key, horizon, tally);
        }
        Ok(())
    }

    fn tally(&self, key: &Key, horizon: Seq, tally: &mut Tally) {
        tally.keys += 1;
        let Some(posting) = key.posting() else { return };
        if posting.seq > horizon || (self.is_removed)(posting.seq) {
            return;
        }
        tally.postings += 1;
        if !counted_alone(&posting) {
            tally.listed.push(posting.seq);
        }
    }
}

/// The pages of a range, by run.
pub(super) fn parts<'a>(directory: &'a Directory, range: &Range) -> Vec<Part<'a>> {
    let part = |run: &'a super::Run| {
        let from = range.from.max(run.from);
        let pages = run.pages_from(from.as_bytes());
        let pages = &pages[..pages.partition_point(|page| page.first <= range.to)];
        let (first, rest) = pages.split_first()?;
        let is_within = |page: &PageRef| page.first >= from && page.last <= range.to;
        let (first, rest) = if is_within(first) { (None, pages) } else { (Some(first), rest) };
        // Pages are sorted: only the last may go on behind the range.
        let (last, within) = match rest.split_last() {
            Some((last, within)) if !is_within(last) => (Some(last), within),
            _ => (None, rest),
        };
        Some(Part { from, ends: [first, last], within })
    };
    directory.runs().filter_map(part).collect()
}
