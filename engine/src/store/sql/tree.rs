//! The keys that are in pages: which pages there are, which of their keys are of removed events, and how pages are
//! replaced. When that is done is decided in `maintenance`.

use super::page_table::{self, PageTable, Row};
use super::removed;
use super::sizes::SqlSizes;
use crate::sql::SqlConn;
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Key;
use crate::store::lsm::{
    Directory, Filtered, LeveledStep, Page, PageId, PostingCounts, RemovedSeqs, Replacement, RewriteQueue,
    paginate, rewrite,
};

/// Rows are as they were before filters knew of heads.
pub(super) const FILTERED: Filtered = Filtered::Hashes;

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) directory: Directory,
    pub(super) pages: PageTable,
    pub(super) removed: RemovedSeqs,
    /// How many postings pages hold.
    pub(super) counts: PostingCounts,
    pub(super) rewrites: RewriteQueue,
    /// Where the compaction of level 0 continues, while one is under way.
    pub(super) level_0_next: Option<Key>,
}

impl Tree {
    /// Reads which pages there are, a row each, and the bitmap of removed events. Keys up to those of `last_seq` have been flushed.
    pub(super) fn load<C: SqlConn>(conn: &C, cache_bytes: usize, last_seq: Seq) -> Result<Self, StoreError> {
        let mut entries = Vec::new();
        page_table::each_page_ref(conn, last_seq, &mut |run, page| entries.push((run, page)))?;
        let mut directory = Directory::default();
        directory.insert_all(entries);
        let removed = removed::load(conn)?;
        Ok(Tree {
            counts: PostingCounts::of(&directory, &removed),
            directory,
            pages: PageTable::new(cache_bytes),
            removed,
            rewrites: RewriteQueue::default(),
            level_0_next: None,
        })
    }

    /// Sorted keys as pages of a new run of level 0.
    pub(super) fn new_run(&self, keys: &[Key], page_bytes: usize) -> Vec<Row> {
        let mut pages = Vec::new();
        paginate(keys, self.directory.fresh_run(), page_bytes, FILTERED, &mut pages);
        let mut ids = PageIds::new(&[], self.directory.fresh_page());
        ids.rows(pages)
    }

    /// Records pages that have been written.
    pub(super) fn insert(&mut self, rows: Vec<Row>) {
        self.insert_instead_of(&[], rows);
    }

    /// Records pages that have been written, and that others are not there any more.
    fn insert_instead_of(&mut self, old: &[PageId], rows: Vec<Row>) {
        let new: Vec<_> = rows.into_iter().map(|row| (row.page.run, row.page_ref())).collect();
        // Nothing is removed while pages are being made.
        self.counts.replace(old, new.iter().map(|(_, page)| page), &self.removed, &self.removed);
        self.directory.remove(old);
        self.directory.insert_all(new);
    }

    /// Moves keys of some pages of `level` to the next, in one transaction.
    pub(super) fn compact<C: SqlConn>(
        &mut self,
        conn: &C,
        level: usize,
        sizes: &SqlSizes,
    ) -> Result<(), StoreError> {
        let is_removed = |seq: Seq| self.removed.contains(seq);
        let LeveledStep { replacement, level_0_next } = sizes.levels().step(
            &self.pages.shelf(conn),
            &self.directory,
            &is_removed,
            level,
            self.level_0_next,
        )?;
        self.replace(conn, replacement)?;
        self.level_0_next = level_0_next;
        Ok(())
    }

    /// Writes a page without the keys of removed events, if those are a quarter of it.
    pub(super) fn rewrite<C: SqlConn>(
        &mut self,
        conn: &C,
        id: PageId,
        page_bytes: usize,
    ) -> Result<(), StoreError> {
        let is_removed = |seq: Seq| self.removed.contains(seq);
        let shelf = self.pages.shelf(conn);
        match rewrite(&shelf, &self.directory, &is_removed, id, page_bytes, FILTERED)? {
            Some(replacement) => self.replace(conn, replacement),
            None => Ok(()),
        }
    }

    /// Replaces pages in one transaction. New ones take the ids of old ones first, which makes it one row written instead of two.
    fn replace<C: SqlConn>(&mut self, conn: &C, replacement: Replacement) -> Result<(), StoreError> {
        let Replacement { old, new } = replacement;
        if old.is_empty() {
            return Ok(());
        }
        let mut ids = PageIds::new(&old, self.directory.fresh_page());
        let rows = ids.rows(new);
        conn.transaction(&mut || {
            page_table::delete(conn, ids.unused)?;
            page_table::write(conn, &rows)
        })?;
        self.pages.evict(&old);
        self.rewrites.forget(&old);
        self.insert_instead_of(&old, rows);
        Ok(())
    }
}

/// Ids for new pages: first those of the pages that they replace, then fresh ones.
struct PageIds<'a> {
    /// Ids of replaced pages that no new page has taken.
    unused: &'a [PageId],
    fresh: PageId,
}

impl<'a> PageIds<'a> {
    fn new(reused: &'a [PageId], fresh: PageId) -> Self {
        PageIds { unused: reused, fresh }
    }

    fn rows(&mut self, pages: Vec<Page>) -> Vec<Row> {
        pages.into_iter().map(|page| Row { id: self.take(), page }).collect()
    }

    fn take(&mut self) -> PageId {
        if let Some((id, others)) = self.unused.split_first() {
            self.unused = others;
            return *id;
        }
        let id = self.fresh;
        self.fresh.0 += 1;
        id
    }
}
