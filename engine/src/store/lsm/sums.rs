//! Sums of the ids of postings, by page: what NIP-77 adds up instead of reading pages and events.
//!
//! A page that is asked for is read once: of each block of some keys the number of postings and the sum of their ids are kept, in one table that all
//! states of the store share. When an event is removed, the one page that holds a posting of it has one less; where several
//! pages may be that page, they are forgotten, and read again when they are asked for. Pages are never changed, so what was learned
//! from a page in one state is true in every state in which the same of its events are removed; a state that is older than
//! the last removal from a page reads it for itself. Nothing of this is stored.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::count::parts;
use super::page::{PageCursor, PageId, PageRef};
use super::posting_counts::counted_alone;
use super::range::{Range, View};
use super::removed::RemovedSeqs;
use super::{Directory, Shelf};
use crate::store::backend::{Posting, Seq, StoreError};
use crate::store::kv::Key;
use crate::store::sums::{
    AT_ENDS_MAX, ExpiringRequest, SumBudget, Summed, SummedBlock, SummedBlocks, SummedPart, SummedPostings,
    UNFLUSHED_MAX,
};
use crate::types::{EventId, IdSum, Timestamp};

/// Bytes of a page for each key of a block: 128 keys in pages of 32 KiB.
const PAGE_BYTES_PER_KEY: usize = 256;
/// Keys that are looked at for one unit of cost.
const KEYS: usize = 64;
/// Ids that are looked up for one unit of cost.
const IDS: usize = 4;
/// Pages that are added up for one unit of cost.
const PAGES: usize = 64;
/// Bytes of all that is known. Above, what was used least recently is forgotten, half of it. One set may use half.
const BYTES_MAX: usize = 128 << 20;
/// What is known of a page takes about so many bytes.
const BYTES_OF_PAGE: usize = 1_200;
/// Most removal requests of a page that have expired since it was learned; if there are more, it is learned again.
const OUTDATED_MAX: usize = 16;
/// Removal requests outside the sums of which it is remembered when they expire. If there are more, these are forgotten.
const EXPIRIES_MAX: usize = 1 << 16;
/// What reading when one expires costs.
const EXPIRY_COST: usize = 16;

/// What is known of pages, shared by all states of a store.
#[derive(Clone, Debug)]
pub struct PostingSums {
    table: Arc<Mutex<Table>>,
    block_keys: usize,
}

#[derive(Debug, Default)]
struct Table {
    pages: FxHashMap<i64, Entry>,
    /// Of the last state.
    directory: Arc<Directory>,
    removed: Arc<RemovedSeqs>,
    bytes: usize,
    uses: u64,
    learned: u64,
    /// When removal requests expire that are in no sums.
    expiries: FxHashMap<Seq, Timestamp>,
}

#[derive(Debug)]
struct Entry {
    /// How many events were removed when it was learned or changed last.
    since: u64,
    blocks: Arc<SummedBlocks>,
    used: u64,
}

fn bytes_of(blocks: &SummedBlocks) -> usize {
    let requests = blocks.expiring_requests.len() * size_of::<ExpiringRequest>();
    128 + blocks.blocks.len() * size_of::<SummedBlock>() + requests
}

impl Table {
    fn insert(&mut self, page: i64, entry: Entry) {
        self.forget(page);
        self.bytes += bytes_of(&entry.blocks);
        self.pages.insert(page, entry);
        if self.bytes > BYTES_MAX {
            let mut used: Vec<u64> = self.pages.values().map(|entry| entry.used).collect();
            let middle = used.len() / 2;
            let (_, middle, _) = used.select_nth_unstable(middle);
            let middle = *middle;
            self.pages.retain(|_, entry| entry.used >= middle);
            self.bytes = self.pages.values().map(|entry| bytes_of(&entry.blocks)).sum();
        }
    }

    fn forget(&mut self, page: i64) {
        if let Some(entry) = self.pages.remove(&page) {
            self.bytes -= bytes_of(&entry.blocks);
        }
    }

    /// A posting of a page is gone.
    fn subtract(&mut self, page: i64, key: &Key, id: &EventId, since: u64) {
        let Some(entry) = self.pages.get_mut(&page) else { return };
        let blocks = Arc::make_mut(&mut entry.blocks);
        let mut is_summed = true;
        if let Some(posting) = key.posting().filter(|posting| !counted_alone(posting)) {
            let is_it = |request: &ExpiringRequest| request.posting == posting;
            if let Some(index) = blocks.expiring_requests.iter().position(is_it) {
                is_summed = blocks.expiring_requests.remove(index).is_summed;
            }
        }
        entry.since = since;
        if !is_summed {
            return;
        }
        let index = blocks.blocks.partition_point(|block| block.first <= *key);
        let block = index.checked_sub(1).and_then(|index| blocks.blocks.get_mut(index));
        let Some(block) = block.filter(|block| block.postings > 0) else {
            debug_assert!(false, "a page has fewer postings than were summed");
            return self.forget(page);
        };
        block.postings -= 1;
        block.sum.subtract(IdSum::of(id));
    }
}

impl PostingSums {
    /// Of a store that has these pages, each of about `page_bytes`, and these events removed.
    pub fn new(directory: &Arc<Directory>, removed: &Arc<RemovedSeqs>, page_bytes: usize) -> Self {
        let (directory, removed) = (Arc::clone(directory), Arc::clone(removed));
        let table = Arc::new(Mutex::new(Table { directory, removed, ..Table::default() }));
        PostingSums { table, block_keys: (page_bytes / PAGE_BYTES_PER_KEY).max(2) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that may panic leaves an entry half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of what is known.
    pub fn bytes(&self) -> usize {
        self.table().bytes
    }

    /// How many pages have been read to learn their sums.
    pub fn learned(&self) -> u64 {
        self.table().learned
    }

    /// What is known of pages in a state in which `removed` events are removed, but for what should be learned again.
    fn get<'a>(
        &self,
        pages: impl Iterator<Item = &'a PageRef>,
        removed: u64,
        now: Timestamp,
    ) -> Vec<Option<Arc<SummedBlocks>>> {
        let mut table = self.table();
        table.uses += 1;
        let uses = table.uses;
        let get = |page: &PageRef| {
            let entry = table.pages.get_mut(&page.id.0).filter(|entry| entry.since <= removed)?;
            entry.used = uses;
            let outdated = entry.blocks.outdated(now).take(OUTDATED_MAX + 1).count();
            (outdated <= OUTDATED_MAX).then(|| Arc::clone(&entry.blocks))
        };
        pages.map(get).collect()
    }

    fn expiry(&self, seq: Seq) -> Option<Timestamp> {
        self.table().expiries.get(&seq).copied()
    }

    fn learn_expiry(&self, seq: Seq, expires_at: Timestamp) {
        let expiries = &mut self.table().expiries;
        if expiries.len() >= EXPIRIES_MAX {
            expiries.clear();
        }
        expiries.insert(seq, expires_at);
    }

    /// A page has been read, in a state with this directory in which `removed` was removed.
    fn learn(
        &self,
        page: &PageRef,
        blocks: &Arc<SummedBlocks>,
        directory: &Directory,
        removed: &RemovedSeqs,
    ) {
        let mut table = self.table();
        table.learned += 1;
        // By now the page may have been replaced, or more of its events removed.
        let is_same = std::ptr::eq(&*table.directory, directory)
            && table.removed.is_same_in(removed, *page.seqs.start(), *page.seqs.end());
        if is_same {
            let (since, used) = (removed.len(), table.uses);
            table.insert(page.id.0, Entry { since, blocks: Arc::clone(blocks), used });
        }
    }

    /// Pages have been replaced; the state that has `directory` is about to be shown.
    pub fn replace(&self, old: &[PageId], directory: &Arc<Directory>) {
        let mut table = self.table();
        old.iter().for_each(|page| table.forget(page.0));
        table.directory = Arc::clone(directory);
    }

    /// Events with these keys, among others, have been removed; the state in which `removed` is removed is about to be shown.
    pub fn subtract<'a>(&self, keys: impl Iterator<Item = &'a Key>, removed: &Arc<RemovedSeqs>) {
        let directory = {
            let mut table = self.table();
            table.removed = Arc::clone(removed);
            if table.pages.is_empty() {
                return;
            }
            // Whoever removes is the only one who changes it.
            Arc::clone(&table.directory)
        };
        let keys: Vec<&Key> = keys.collect();
        let ids = keys.iter().filter_map(|key| key.id_and_seq()).map(|(id, seq)| (seq, id));
        let ids: FxHashMap<Seq, EventId> = ids.collect();
        let mut subtracted = Vec::new();
        let mut unsure = Vec::new();
        for key in keys {
            let Some(posting) = key.posting() else { continue };
            let mut pages = directory.pages_of(key, posting.seq).map(|page| page.id.0);
            match (pages.next(), pages.next(), ids.get(&posting.seq)) {
                (None, ..) => {}
                (Some(page), None, Some(id)) => subtracted.push((page, key, id)),
                (Some(first), second, _) => {
                    unsure.extend([Some(first), second].into_iter().flatten().chain(pages))
                }
            }
        }
        let mut table = self.table();
        unsure.into_iter().for_each(|page| table.forget(page));
        subtracted.into_iter().for_each(|(page, key, id)| table.subtract(page, key, id, removed.len()));
    }
}

impl PostingSums {
    /// These events have been removed, and their keys are not known: what pages sum up to that may have one is forgotten. To be called
    /// after [`PostingSums::subtract`].
    pub fn forget(&self, seqs: &[Seq]) {
        let mut table = self.table();
        let directory = Arc::clone(&table.directory);
        for page in directory.runs().flat_map(|run| &run.pages) {
            if seqs.iter().any(|seq| page.seqs.contains(seq)) {
                table.forget(page.id.0);
            }
        }
    }
}

/// What a read of sums is given beside the keys.
pub struct SumSource<'a> {
    /// What is known.
    pub sums: &'a PostingSums,
    /// What is removed in this state.
    pub removed: &'a RemovedSeqs,
    /// The id of a posting's event.
    pub id_of: &'a dyn Fn(&Posting) -> Result<EventId, StoreError>,
    /// When a posting's event expires.
    pub expires_at: &'a dyn Fn(&Posting) -> Result<Timestamp, StoreError>,
    /// The time.
    pub now: Timestamp,
}

impl std::fmt::Debug for SumSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SumSource").finish_non_exhaustive()
    }
}

impl<S: Shelf> View<'_, S> {
    /// The blocks of the postings from `from` to `to`, both included, which are bounds of one term's. Pages whose sums are unknown are
    /// read as long as `budget` [allows](SumBudget::may_learn); a call may overdraw it by one of them and by the ends of each run.
    ///
    /// # Errors
    /// The shelf's, those of the source, and [`StoreError::Failed`] for bounds that are longer than any key.
    pub fn summed(
        &self,
        source: &SumSource<'_>,
        from: &[u8],
        to: &[u8],
        budget: &mut SumBudget,
    ) -> Result<Summed, StoreError> {
        let range = Range::new(from, to, self.filtered)?;
        // If a page at an end of the range has at most so many keys of it, they are read each time, and the page is not learned.
        let few = 2 * source.sums.block_keys;
        let mut found = SummedPostings::default();
        budget.spent += 1;
        let parts = parts(self.directory, &range);
        budget.pages += parts.iter().map(|part| part.within.len() + 2).sum::<usize>();
        if budget.pages > BYTES_MAX / 2 / BYTES_OF_PAGE {
            return Ok(Summed::Unsupported);
        }
        for part in parts {
            let mut run = Vec::new();
            let [first, last] = part.ends;
            let ends = |page: &PageRef| [first, last].into_iter().flatten().any(|end| end.id == page.id);
            let all = first.into_iter().chain(part.within).chain(last);
            let all: Vec<&PageRef> = all.filter(|page| range.may_be_in(page)).collect();
            let known = source.sums.get(all.iter().copied(), source.removed.len(), source.now);
            for (page, known) in all.into_iter().zip(known) {
                if budget.at_ends + found.loose.len() > AT_ENDS_MAX {
                    return Ok(Summed::Unsupported);
                }
                let blocks = match known {
                    Some(blocks) => {
                        budget.known += 1;
                        // Many pages are added up in the time that a unit takes.
                        budget.spent += usize::from(budget.known.is_multiple_of(PAGES));
                        blocks
                    }
                    None => {
                        if ends(page) && self.read_few(page, &part.from, &range.to, few, &mut found.loose)? {
                            budget.spent += 1 + few / KEYS;
                            continue;
                        }
                        if !budget.may_learn() {
                            return Ok(Summed::OutOfBudget);
                        }
                        budget.learned += 1;
                        let (blocks, keys, ids) = self.sum_page(page, source)?;
                        budget.spent += 1 + keys / KEYS + ids / IDS;
                        let blocks = Arc::new(blocks);
                        source.sums.learn(page, &blocks, self.directory, source.removed);
                        blocks
                    }
                };
                let list = &blocks.blocks;
                let low = list.partition_point(|block| block.first < part.from);
                let high = match page.last <= range.to {
                    true => list.len(),
                    false => list.partition_point(|block| block.first <= range.to).saturating_sub(1),
                };
                let loose = found.loose.len();
                if low >= high {
                    self.read(page, &part.from, &|key| *key > range.to, &mut found.loose)?;
                    budget.spent += 1 + (found.loose.len() - loose) / KEYS;
                    continue;
                }
                if low > 0 {
                    self.read(page, &part.from, &|key| *key >= list[low].first, &mut found.loose)?;
                }
                if high < list.len() {
                    self.read(page, &list[high].first, &|key| *key > range.to, &mut found.loose)?;
                }
                budget.spent += (found.loose.len() - loose).div_ceil(KEYS);
                let outdated = blocks.outdated(source.now);
                found
                    .outdated
                    .extend(outdated.filter(|request| (low..high).contains(&request.block)).copied());
                run.push(SummedPart { page: page.id.0, of_page: Arc::clone(&blocks), blocks: low..high });
            }
            if !run.is_empty() {
                found.runs.push(run);
            }
        }
        budget.at_ends += found.loose.len();
        let at_ends = found.loose.len();
        for slice in self.memtable.slices() {
            let rest = &slice[slice.partition_point(|key| *key < range.from)..];
            let keys = rest.iter().take_while(|key| **key <= range.to).filter_map(Key::posting);
            found.loose.extend(keys.filter(|posting| !(self.is_removed)(posting.seq)));
            if budget.unflushed + found.loose.len() - at_ends > UNFLUSHED_MAX {
                return Ok(Summed::NotNow);
            }
        }
        budget.unflushed += found.loose.len() - at_ends;
        budget.spent += found.loose.len() / KEYS;
        Ok(match self.leave_out_expired(source, &mut found.loose, budget)? {
            true => Summed::Postings(found),
            false => Summed::OutOfBudget,
        })
    }

    /// Leaves out postings of removal requests that have expired. False if the budget is used up: when some expire is remembered then.
    fn leave_out_expired(
        &self,
        source: &SumSource<'_>,
        postings: &mut Vec<Posting>,
        budget: &mut SumBudget,
    ) -> Result<bool, StoreError> {
        if postings.iter().all(counted_alone) {
            return Ok(true);
        }
        let mut kept = Vec::with_capacity(postings.len());
        for posting in postings.drain(..) {
            let expires_at = match counted_alone(&posting) {
                true => Timestamp::MAX,
                false => match source.sums.expiry(posting.seq) {
                    Some(expires_at) => expires_at,
                    None if !budget.may_learn() => return Ok(false),
                    None => {
                        let expires_at = (source.expires_at)(&posting)?;
                        source.sums.learn_expiry(posting.seq, expires_at);
                        (budget.learned, budget.spent) = (budget.learned + 1, budget.spent + EXPIRY_COST);
                        expires_at
                    }
                },
            };
            if expires_at > source.now {
                kept.push(posting);
            }
        }
        *postings = kept;
        Ok(true)
    }

    /// Appends the postings of one block.
    ///
    /// # Errors
    /// The shelf's.
    pub fn block(&self, part: &SummedPart, block: usize, out: &mut Vec<Posting>) -> Result<(), StoreError> {
        let blocks = &part.of_page.blocks;
        let Some(SummedBlock { first, .. }) = blocks.get(block) else { return Ok(()) };
        let next = blocks.get(block + 1).map(|next| next.first);
        let mut cursor = PageCursor::at(self.shelf.page(PageId(part.page))?, first.as_bytes())?;
        let is_summed = |posting: &Posting| {
            let mut requests = part.of_page.expiring_requests.iter();
            requests.all(|request| request.is_summed || request.posting != *posting)
        };
        while let Some(key) = cursor.next()?.filter(|key| next.is_none_or(|next| *key < next)) {
            let posting = key.posting().filter(|posting| !(self.is_removed)(posting.seq));
            out.extend(posting.filter(|posting| counted_alone(posting) || is_summed(posting)));
        }
        Ok(())
    }

    /// The sums of a page, and how many keys and ids that took.
    fn sum_page(
        &self,
        page: &PageRef,
        source: &SumSource<'_>,
    ) -> Result<(SummedBlocks, usize, usize), StoreError> {
        let mut cursor = PageCursor::first(self.shelf.page(page.id)?)?;
        let mut found = SummedBlocks::default();
        let (mut keys, mut ids) = (0, 0);
        while let Some(key) = cursor.next()? {
            if keys % source.sums.block_keys == 0 {
                found.blocks.push(SummedBlock { first: key, postings: 0, sum: IdSum::default() });
            }
            keys += 1;
            let posting = key.posting().filter(|posting| !(self.is_removed)(posting.seq));
            let at = found.blocks.len() - 1;
            if let Some(posting) = posting {
                ids += 1;
                let id = (source.id_of)(&posting)?;
                let mut is_summed = true;
                if !counted_alone(&posting) {
                    let expires_at = (source.expires_at)(&posting)?;
                    is_summed = expires_at > source.now;
                    let request = ExpiringRequest { block: at, posting, id, expires_at, is_summed };
                    found.expiring_requests.push(request);
                }
                if is_summed {
                    found.blocks[at].postings += 1;
                    found.blocks[at].sum.add(IdSum::of(&id));
                }
            }
        }
        found.blocks.shrink_to_fit();
        found.expiring_requests.shrink_to_fit();
        Ok((found, keys, ids))
    }

    /// Appends the postings of a page from `from` to `to`, if they are few. If not, nothing is done.
    fn read_few(
        &self,
        page: &PageRef,
        from: &Key,
        to: &Key,
        max: usize,
        out: &mut Vec<Posting>,
    ) -> Result<bool, StoreError> {
        let (known, mut keys) = (out.len(), 0);
        let mut cursor = PageCursor::at(self.shelf.page(page.id)?, from.as_bytes())?;
        while let Some(key) = cursor.next()?.filter(|key| key <= to) {
            keys += 1;
            if keys > max {
                out.truncate(known);
                return Ok(false);
            }
            out.extend(key.posting().filter(|posting| !(self.is_removed)(posting.seq)));
        }
        Ok(true)
    }

    /// Appends the postings of a page from `from` on, up to where `is_end` says.
    fn read(
        &self,
        page: &PageRef,
        from: &Key,
        is_end: &dyn Fn(&Key) -> bool,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        let mut cursor = PageCursor::at(self.shelf.page(page.id)?, from.as_bytes())?;
        while let Some(key) = cursor.next()?.filter(|key| !is_end(key)) {
            out.extend(key.posting().filter(|posting| !(self.is_removed)(posting.seq)));
        }
        Ok(())
    }
}
