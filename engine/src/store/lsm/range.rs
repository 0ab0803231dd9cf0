//! The keys of a range, merged from the memtable's slices and the pages of all runs.
//!
//! A run is read from when what there is before its next possible key has been taken: of one term's postings, which are newest
//! first, runs that hold only older ones are not read until the answer has become as old.

use super::Shelf;
use super::directory::{Directory, Run};
use super::filter::{self, Hash};
use super::memtable::Memtable;
use super::page::{Filtered, PageCursor, PageId, PageRef};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::{Key, read_until, tombstone_key};
use crate::types::Timestamp;

/// A consistent state, to be read.
#[derive(Clone, Copy)]
pub struct View<'a, S> {
    /// Where pages are.
    pub shelf: &'a S,
    /// Keys that are in no page.
    pub memtable: &'a Memtable,
    /// Which pages there are.
    pub directory: &'a Directory,
    /// What the filters of pages are made of.
    pub filtered: Filtered,
    /// Events whose keys are left out.
    pub is_removed: &'a dyn Fn(Seq) -> bool,
}

/// Pages in which a reader skipped many keys of removed events, so that they need to be rewritten.
#[derive(Debug)]
pub struct WornPages {
    /// How many in one page are many.
    pub skipped_max: usize,
    /// Such pages.
    pub pages: Vec<PageId>,
}

/// Sorted keys that are read one after the other.
#[allow(
    clippy::large_enum_variant,
    reason = "an allocation for each run would cost more than moving a cursor"
)]
enum Source<'a, B> {
    Slice(&'a [Key]),
    /// A run of which it is not known yet whether it has keys of the range.
    Unsearched(&'a Run),
    Run(RunCursor<'a, B>),
}

/// A cursor over one run.
struct RunCursor<'a, B> {
    /// Pages after the open one.
    pages: &'a [PageRef],
    /// The first key that is read.
    from: Key,
    open: Option<OpenPage<B>>,
}

struct OpenPage<B> {
    id: PageId,
    cursor: PageCursor<B>,
    /// Keys of removed events skipped so far.
    skipped: usize,
}

/// A source, and its next key; or, before it is first read, a key that is not above that one.
struct Next<'a, B> {
    key: Key,
    is_read: bool,
    source: Source<'a, B>,
}

impl<S: Shelf> View<'_, S> {
    /// Calls `each` with up to `max` keys from `from` to `to`, both included, ascending.
    ///
    /// # Errors
    /// The shelf's, and [`StoreError::Failed`] for bounds that are longer than any key.
    pub fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        worn: &mut WornPages,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let range = Range::new(from, to, self.filtered)?;
        let mut sources = self.sources(&range);
        let mut left = max;
        while left > 0
            && let Some(index) = least(&sources, usize::MAX)
        {
            let second = least(&sources, index).map(|second| sources[second].key);
            let source = &mut sources[index];
            loop {
                if source.is_read {
                    each(source.key.as_bytes());
                    left -= 1;
                }
                match self.advance(&mut source.source, &range, worn)? {
                    Some(key) => (source.key, source.is_read) = (key, true),
                    None => {
                        sources.swap_remove(index);
                        break;
                    }
                }
                if left == 0 || second.is_some_and(|second| source.key > second) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The timestamp of a tombstone.
    ///
    /// # Errors
    /// The shelf's.
    pub fn tombstone(&self, tombstone: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        // The latest timestamp comes first.
        let (from, to) = (tombstone_key(tombstone, Timestamp::MAX), tombstone_key(tombstone, 0));
        let (mut found, mut worn) = (None, WornPages { skipped_max: usize::MAX, pages: Vec::new() });
        self.keys(from.as_bytes(), to.as_bytes(), 1, &mut worn, &mut |key| found = read_until(key))?;
        Ok(found)
    }

    /// All that may have keys of the range.
    fn sources(&self, range: &Range) -> Vec<Next<'_, S::Bytes>> {
        let slices = self.memtable.slices().iter().filter_map(|slice| {
            let rest = &slice[slice.partition_point(|key| *key < range.from)..];
            let key = *rest.first().filter(|key| **key <= range.to)?;
            Some(Next { key, is_read: false, source: Source::Slice(rest) })
        });
        let runs = self.directory.runs().filter_map(|run| range.of_run(run));
        slices.chain(runs).collect()
    }

    /// The next key of a source, without those of removed events.
    fn advance(
        &self,
        source: &mut Source<'_, S::Bytes>,
        range: &Range,
        worn: &mut WornPages,
    ) -> Result<Option<Key>, StoreError> {
        match source {
            Source::Slice(keys) => {
                while let Some((key, rest)) = keys.split_first() {
                    *keys = rest;
                    if *key > range.to {
                        break;
                    }
                    if !key.seq().is_some_and(self.is_removed) {
                        return Ok(Some(*key));
                    }
                }
                Ok(None)
            }
            Source::Unsearched(run) => {
                let Some(mut cursor) = range.cursor(run) else { return Ok(None) };
                let next = cursor.next(self, range, worn)?;
                *source = Source::Run(cursor);
                Ok(next)
            }
            Source::Run(run) => run.next(self, range, worn),
        }
    }
}

/// The source with the least next key, but for one.
fn least<B>(sources: &[Next<'_, B>], without: usize) -> Option<usize> {
    let mut least: Option<(usize, &Key)> = None;
    for (index, source) in sources.iter().enumerate() {
        if index != without && least.is_none_or(|(_, key)| source.key < *key) {
            least = Some((index, &source.key));
        }
    }
    least.map(|(index, _)| index)
}

/// What is read.
pub(super) struct Range {
    pub(super) from: Key,
    pub(super) to: Key,
    /// What the range is of, if filters know that; pages whose filter rules it out are not read.
    hash: Option<Hash>,
}

impl Range {
    /// From one key to another, both included.
    pub(super) fn new(from: &[u8], to: &[u8], filtered: Filtered) -> Result<Self, StoreError> {
        let (Some(from), Some(to)) = (Key::read(from), Key::read(to)) else {
            return Err(StoreError::Failed("a lookup key is too long".into()));
        };
        Ok(Range { from, to, hash: Hash::of_range(&from, &to, filtered) })
    }

    pub(super) fn may_be_in(&self, page: &PageRef) -> bool {
        self.hash.is_none_or(|hash| filter::may_contain(&page.filter, hash))
    }

    /// A run that may have keys of the range, before it is read. Of one term's postings, newest first, the run's own newest second says what
    /// its first key may be, and it is searched when the answer gets there; anything else is looked up in filters at once.
    fn of_run<'a, B>(&self, run: &'a Run) -> Option<Next<'a, B>> {
        let from = self.from.max(run.from);
        let (key, source) = match Key::least_of(&self.from, &self.to, run.newest) {
            Some(least) => (least.max(from), Source::Unsearched(run)),
            None => {
                let cursor = self.cursor(run)?;
                (cursor.pages.first()?.first.max(from), Source::Run(cursor))
            }
        };
        (key <= self.to).then_some(Next { key, is_read: false, source })
    }

    /// A cursor over a run, if its pages may have keys of the range.
    fn cursor<'a, B>(&self, run: &'a Run) -> Option<RunCursor<'a, B>> {
        let from = self.from.max(run.from);
        let mut pages = run.pages_from(from.as_bytes());
        loop {
            let (page, rest) = pages.split_first()?;
            if page.first > self.to {
                return None;
            }
            if self.may_be_in(page) {
                return Some(RunCursor { pages, from, open: None });
            }
            pages = rest;
        }
    }
}

impl<B: AsRef<[u8]>> RunCursor<'_, B> {
    fn next<S: Shelf<Bytes = B>>(
        &mut self,
        view: &View<'_, S>,
        range: &Range,
        worn: &mut WornPages,
    ) -> Result<Option<Key>, StoreError> {
        loop {
            if let Some(open) = &mut self.open {
                while let Some(key) = open.cursor.next()? {
                    if key > range.to {
                        (self.open, self.pages) = (None, &[]);
                        return Ok(None);
                    }
                    if key.seq().is_some_and(view.is_removed) {
                        open.skipped += 1;
                        if open.skipped == worn.skipped_max {
                            worn.pages.push(open.id);
                        }
                        continue;
                    }
                    return Ok(Some(key));
                }
                self.open = None;
            }
            let Some((page, others)) = self.pages.split_first() else { return Ok(None) };
            if page.first > range.to {
                self.pages = &[];
                return Ok(None);
            }
            self.pages = others;
            if range.may_be_in(page) {
                let cursor = PageCursor::at(view.shelf.page(page.id)?, self.from.as_bytes())?;
                self.open = Some(OpenPage { id: page.id, cursor, skipped: 0 });
            }
        }
    }
}

impl<S> std::fmt::Debug for View<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("memtable", &self.memtable.len()).finish_non_exhaustive()
    }
}
