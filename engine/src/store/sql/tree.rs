//! The keys that are in pages: which pages there are, which of their keys are of removed events, and how pages are
//! replaced. When that is done is decided in `maintenance`.

use super::manifest::Manifest;
use super::page::{Page, PageCursor, PageId, PageIds, PageRef, paginate};
use super::page_table::{self, PageTable};
use super::removed::RemovedSeqs;
use super::rewrites::RewriteQueue;
use crate::sql::SqlConn;
use crate::store::backend::StoreError;
use crate::store::kv::Key;

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) manifest: Manifest,
    pub(super) pages: PageTable,
    pub(super) removed: RemovedSeqs,
    pub(super) rewrites: RewriteQueue,
    /// Where the compaction of level 0 continues, while one is under way.
    pub(super) level_0_next: Option<Key>,
}

impl Tree {
    /// Reads which pages there are, a row each, and the bitmap of removed events.
    pub(super) fn load<C: SqlConn>(conn: &C, cache_bytes: usize) -> Result<Self, StoreError> {
        let mut entries = Vec::new();
        page_table::each_page_ref(conn, &mut |run, page| entries.push((run, page)))?;
        let mut manifest = Manifest::default();
        manifest.insert_all(entries);
        Ok(Tree {
            manifest,
            pages: PageTable::new(cache_bytes),
            removed: RemovedSeqs::load(conn)?,
            rewrites: RewriteQueue::default(),
            level_0_next: None,
        })
    }

    /// Sorted keys as pages of a new run of level 0.
    pub(super) fn new_run(&self, keys: &[Key], page_bytes: usize) -> Vec<Page> {
        let (mut pages, mut ids) = (Vec::new(), PageIds::new(&[], self.manifest.fresh_page()));
        paginate(keys, self.manifest.fresh_run(), page_bytes, &mut ids, &mut pages);
        pages
    }

    /// Records pages that have been written.
    pub(super) fn insert(&mut self, pages: Vec<Page>) {
        self.manifest.insert_all(pages.into_iter().map(|page| (page.run, page.page_ref)));
    }

    /// Appends the keys of these pages, without those of removed events, which it counts.
    pub(super) fn live_keys<'p, C: SqlConn>(
        &mut self,
        conn: &C,
        pages: impl IntoIterator<Item = &'p PageRef>,
        keys: &mut Vec<Key>,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        for page in pages {
            let mut cursor = PageCursor::first(self.pages.read(conn, page.id)?)?;
            while let Some(key) = cursor.next()? {
                match key.seq().is_some_and(|seq| self.removed.contains(seq)) {
                    true => removed += 1,
                    false => keys.push(key),
                }
            }
        }
        Ok(removed)
    }

    /// In one transaction, writes `new` in place of the pages `old`, of whose ids `new` does not use `unused`.
    pub(super) fn replace<C: SqlConn>(
        &mut self,
        conn: &C,
        old: &[PageId],
        unused: &[PageId],
        new: Vec<Page>,
    ) -> Result<(), StoreError> {
        conn.transaction(&mut || {
            page_table::delete(conn, unused)?;
            page_table::write(conn, &new)
        })?;
        self.pages.evict(old);
        self.rewrites.forget(old);
        self.manifest.remove(old);
        self.insert(new);
        Ok(())
    }

    /// Writes a page without the keys of removed events, if those are a quarter of it.
    pub(super) fn rewrite<C: SqlConn>(
        &mut self,
        conn: &C,
        id: PageId,
        page_bytes: usize,
    ) -> Result<(), StoreError> {
        let Some((run, page)) = self.manifest.find(id) else { return Ok(()) };
        let (mut keys, mut pages) = (Vec::new(), Vec::new());
        let removed = self.live_keys(conn, [&page], &mut keys)?;
        if removed * 3 < keys.len() {
            return Ok(());
        }
        let old = [id];
        let mut ids = PageIds::new(&old, self.manifest.fresh_page());
        paginate(&keys, run, page_bytes, &mut ids, &mut pages);
        self.replace(conn, &old, ids.unused(), pages)
    }
}
