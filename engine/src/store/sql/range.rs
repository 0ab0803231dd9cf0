//! The keys of a range, merged from the memtable and from the pages of all runs.

use std::iter::Peekable;

use super::bloom;
use super::memtable;
use super::page::{PageCursor, PageId, PageRef};
use super::page_table::PageTable;
use super::removed::RemovedSeqs;
use super::tables::Tables;
use super::tree::Tree;
use crate::sql::SqlConn;
use crate::store::backend::StoreError;
use crate::store::kv::Key;

/// A range being read.
pub(super) struct KeyRange<'a> {
    recent: Peekable<memtable::Range<'a>>,
    runs: Vec<RunCursor<'a>>,
    pages: Pages<'a>,
}

/// What all runs are read with.
struct Pages<'a> {
    from: &'a [u8],
    to: &'a [u8],
    /// The id or tombstone, if the range is of one; pages whose filter rules it out are not read.
    hash: Option<[u8; 32]>,
    table: &'a mut PageTable,
    removed: &'a RemovedSeqs,
    /// Keys of removed events, skipped in one page, from which it needs to be rewritten.
    skipped_max: usize,
    /// Such pages.
    needs_rewrite: Vec<PageId>,
}

/// A cursor over one run.
struct RunCursor<'a> {
    /// Pages after the open one.
    pages: &'a [PageRef],
    open: Option<OpenPage>,
    /// The next key, if it has been read.
    head: Option<Key>,
}

struct OpenPage {
    id: PageId,
    cursor: PageCursor,
    /// Keys of removed events skipped so far.
    skipped: usize,
}

impl<'a> KeyRange<'a> {
    /// From key `from` to key `to`, both included.
    pub(super) fn new(
        tables: &'a mut Tables,
        from: &'a [u8],
        to: &'a [u8],
        skipped_max: usize,
    ) -> Result<Self, StoreError> {
        let (Some(first), Some(last)) = (Key::read(from), Key::read(to)) else {
            return Err(StoreError::Failed("a lookup key is too long".into()));
        };
        let Tables { memtable, tree: Tree { manifest, pages, removed, .. }, .. } = tables;
        let runs = manifest.runs().iter().filter_map(|run| {
            let pages = run.pages_from(from);
            let reaches = pages.first().is_some_and(|page| page.first <= last);
            reaches.then_some(RunCursor { pages, open: None, head: None })
        });
        let is_one = from.first() == to.first() && first.lookup_hash() == last.lookup_hash();
        let hash = first.lookup_hash().copied().filter(|_| is_one);
        Ok(KeyRange {
            recent: memtable.range(first, last).peekable(),
            runs: runs.collect(),
            pages: Pages { from, to, hash, table: pages, removed, skipped_max, needs_rewrite: Vec::new() },
        })
    }

    /// The next key, ascending.
    pub(super) fn next<C: SqlConn>(&mut self, conn: &C) -> Result<Option<Key>, StoreError> {
        let mut least: Option<(Key, usize)> = None;
        for (run_index, run) in self.runs.iter_mut().enumerate() {
            if run.head.is_none() {
                run.advance(conn, &mut self.pages)?;
            }
            if let Some(head) = run.head
                && least.is_none_or(|(key, _)| head < key)
            {
                least = Some((head, run_index));
            }
        }
        match (self.recent.peek(), least) {
            (Some(recent), Some((key, _))) if **recent < key => Ok(self.recent.next().copied()),
            (_, Some((_, run_index))) => Ok(self.runs[run_index].head.take()),
            (_, None) => Ok(self.recent.next().copied()),
        }
    }

    /// Pages in which many keys of removed events were skipped.
    pub(super) fn into_needs_rewrite(self) -> Vec<PageId> {
        self.pages.needs_rewrite
    }
}

impl RunCursor<'_> {
    /// Reads the next key into `head`, if there is one.
    fn advance<C: SqlConn>(&mut self, conn: &C, pages: &mut Pages<'_>) -> Result<(), StoreError> {
        loop {
            if let Some(open) = &mut self.open {
                while let Some(key) = open.cursor.next()? {
                    if key.as_bytes() > pages.to {
                        (self.open, self.pages) = (None, &[]);
                        return Ok(());
                    }
                    if key.seq().is_some_and(|seq| pages.removed.contains(seq)) {
                        open.skipped += 1;
                        if open.skipped == pages.skipped_max {
                            pages.needs_rewrite.push(open.id);
                        }
                        continue;
                    }
                    self.head = Some(key);
                    return Ok(());
                }
                self.open = None;
            }
            let Some((page, others)) = self.pages.split_first() else { return Ok(()) };
            if page.first.as_bytes() > pages.to {
                self.pages = &[];
                return Ok(());
            }
            self.pages = others;
            if pages.hash.as_ref().is_none_or(|hash| bloom::may_contain(&page.bloom, hash)) {
                let cursor = PageCursor::at(pages.table.read(conn, page.id)?, pages.from)?;
                self.open = Some(OpenPage { id: page.id, cursor, skipped: 0 });
            }
        }
    }
}
