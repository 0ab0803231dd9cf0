//! Pages of sorted keys: their bytes, and how keys are cut into pages.
//!
//! ```text
//! page     = entry*  restart:2*  count of restarts:2
//! entry    = shared:1  length of rest:1  rest
//! ```
//!
//! An entry leaves out the bytes that its key shares with the one before. Every sixteenth entry shares none, and
//! `restart` is its offset, so that a key is found by binary search. Integers are big-endian.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::filter;
use super::posting_counts::counted_alone;
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Key;
use crate::types::Timestamp;

const RESTART_KEYS: usize = 16;

/// By what a shelf knows a page: the id of a row, the number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageId(pub i64);

/// What is kept of a page in memory: everything but its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// Which page it is.
    pub id: PageId,
    /// Its first key.
    pub first: Key,
    /// Its last key.
    pub last: Key,
    /// What it may hold; see [`Filtered`].
    pub filter: Arc<[u8]>,
    /// No posting in it has a later `created_at`.
    pub newest: Timestamp,
    /// How many postings were written into it; `None` if that is unknown, or if counting them is not enough
    /// ([`PostingCounts`](super::PostingCounts)).
    pub postings: Option<u32>,
    /// Its keys are of events with these sequence numbers.
    pub seqs: RangeInclusive<Seq>,
}

/// The run that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// Its level; 0 is the first that keys come into.
    pub level: usize,
    /// Unique among the runs of its level.
    pub run: i64,
}

/// A page to be written. Whoever writes it gives it an id.
#[derive(Clone, Debug)]
pub struct Page {
    /// Where it belongs.
    pub run: RunId,
    /// Its first key.
    pub first: Key,
    /// Its last key.
    pub last: Key,
    /// [`PageRef::filter`].
    pub filter: Arc<[u8]>,
    /// [`PageRef::newest`].
    pub newest: Timestamp,
    /// [`PageRef::postings`].
    pub postings: Option<u32>,
    /// [`PageRef::seqs`].
    pub seqs: RangeInclusive<Seq>,
    /// Its keys.
    pub bytes: Vec<u8>,
}

impl Page {
    /// What is kept of it once it has been written as `id`.
    pub fn page_ref(&self, id: PageId) -> PageRef {
        PageRef {
            id,
            first: self.first,
            last: self.last,
            filter: Arc::clone(&self.filter),
            newest: self.newest,
            postings: self.postings,
            seqs: self.seqs.clone(),
        }
    }
}

/// What the filters of a shelf's pages are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// Ids and tombstones.
    Hashes,
    /// These, and what the postings of authors, addresses and tags begin with.
    HashesAndHeads,
}

/// Cuts sorted keys into pages of about the same size, none much larger than `bytes_max`.
pub fn paginate(keys: &[Key], run: RunId, bytes_max: usize, filtered: Filtered, out: &mut Vec<Page>) {
    let bytes = encoded_bytes(keys);
    // The estimate must not leave a last page of a few keys.
    let share = bytes.div_ceil(bytes.div_ceil(bytes_max).max(1)) + bytes_max / 64;
    let mut keys = keys.iter().peekable();
    while let Some(first) = keys.peek().copied() {
        let mut builder = Builder::new();
        let (mut last, mut newest) = (first, 0);
        let (mut postings, mut first_seq, mut last_seq) = (Some(0), Seq(u64::MAX), Seq(0));
        let mut hashes = filter::Hashes::new(filtered);
        while builder.len() < share
            && let Some(key) = keys.next()
        {
            builder.push(key);
            last = key;
            hashes.add(key);
            newest = newest.max(key.created_at().unwrap_or(0));
            if let Some(seq) = key.seq() {
                (first_seq, last_seq) = (first_seq.min(seq), last_seq.max(seq));
            }
            if let Some(posting) = key.posting() {
                postings = postings.filter(|_| counted_alone(&posting)).map(|postings| postings + 1);
            }
        }
        let (filter, seqs) = (hashes.into_filter(), first_seq..=last_seq);
        let bytes = builder.finish();
        out.push(Page { run, first: *first, last: *last, filter, newest, postings, seqs, bytes });
    }
}

/// A page being written.
struct Builder {
    bytes: Vec<u8>,
    restarts: Vec<u16>,
    keys: usize,
    last: Key,
}

impl Builder {
    fn new() -> Self {
        Builder { bytes: Vec::new(), restarts: Vec::new(), keys: 0, last: Key::EMPTY }
    }

    /// Adds a key above all others.
    fn push(&mut self, key: &Key) {
        let shared = if self.keys.is_multiple_of(RESTART_KEYS) {
            self.restarts.push(self.bytes.len() as u16);
            0
        } else {
            self.last.shared(key)
        };
        let rest = &key.as_bytes()[shared..];
        self.bytes.extend([shared as u8, rest.len() as u8]);
        self.bytes.extend_from_slice(rest);
        self.last = *key;
        self.keys += 1;
    }

    fn len(&self) -> usize {
        self.bytes.len() + 2 * self.restarts.len() + 2
    }

    fn finish(mut self) -> Vec<u8> {
        for restart in &self.restarts {
            self.bytes.extend(restart.to_be_bytes());
        }
        self.bytes.extend((self.restarts.len() as u16).to_be_bytes());
        self.bytes
    }
}

/// Bytes that sorted keys take in pages, approximately.
fn encoded_bytes(keys: &[Key]) -> usize {
    let before = [None].into_iter().chain(keys.iter().map(Some));
    let entry = |(index, (key, before)): (usize, (&Key, Option<&Key>))| match before {
        Some(before) if !index.is_multiple_of(RESTART_KEYS) => 2 + key.as_bytes().len() - before.shared(key),
        _ => 4 + key.as_bytes().len(),
    };
    keys.iter().zip(before).enumerate().map(entry).sum()
}

/// A cursor over the keys of a page.
#[derive(Debug)]
pub(super) struct PageCursor<B> {
    page: B,
    /// Where the entries end.
    end: usize,
    at: usize,
    last: Key,
    /// The key that was looked for, or the first after it, until it is taken.
    found: Option<Key>,
}

impl<B: AsRef<[u8]>> PageCursor<B> {
    /// Before the first key.
    pub(super) fn first(page: B) -> Result<Self, StoreError> {
        let (end, _) = parts(page.as_ref()).ok_or_else(malformed)?;
        Ok(PageCursor { page, end, at: 0, last: Key::EMPTY, found: None })
    }

    /// Before the first key that is not below `from`.
    pub(super) fn at(page: B, from: &[u8]) -> Result<Self, StoreError> {
        let (end, restarts) = parts(page.as_ref()).ok_or_else(malformed)?;
        let entries = &page.as_ref()[..end];
        let (restarts, _) = restarts.as_chunks::<2>();
        let below = restarts.partition_point(|at| {
            let entry = usize::from(u16::from_be_bytes(*at));
            whole_key(entries, entry).is_some_and(|key| key < from)
        });
        let at = below.checked_sub(1).map_or(0, |index| usize::from(u16::from_be_bytes(restarts[index])));
        let mut cursor = PageCursor { page, end, at, last: Key::EMPTY, found: None };
        while let Some(key) = cursor.next()? {
            if key.as_bytes() >= from {
                cursor.found = Some(key);
                break;
            }
        }
        Ok(cursor)
    }

    /// The next key.
    pub(super) fn next(&mut self) -> Result<Option<Key>, StoreError> {
        if let Some(found) = self.found.take() {
            return Ok(Some(found));
        }
        if self.at == self.end {
            return Ok(None);
        }
        let (key, next) = read(&self.page.as_ref()[..self.end], self.at, &self.last).ok_or_else(malformed)?;
        (self.last, self.at) = (key, next);
        Ok(Some(key))
    }
}

/// Where the entries end, and the restarts.
fn parts(page: &[u8]) -> Option<(usize, &[u8])> {
    let (rest, count) = page.split_last_chunk()?;
    let end = rest.len().checked_sub(2 * usize::from(u16::from_be_bytes(*count)))?;
    Some((end, &rest[end..]))
}

/// The key of the entry at `at`, and where the next one is.
fn read(entries: &[u8], at: usize, before: &Key) -> Option<(Key, usize)> {
    let (&[shared, len], rest) = entries.get(at..)?.split_first_chunk()?;
    let rest = rest.get(..usize::from(len))?;
    let key = before.splice(usize::from(shared), rest)?;
    Some((key, at + 2 + rest.len()))
}

/// The key of an entry that shares nothing, in place.
fn whole_key(entries: &[u8], at: usize) -> Option<&[u8]> {
    let (&[0, len], rest) = entries.get(at..)?.split_first_chunk()? else { return None };
    rest.get(..usize::from(len))
}

pub(super) fn malformed() -> StoreError {
    StoreError::Corrupt("a page of keys is malformed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys_from(page: &Arc<[u8]>, from: &[u8]) -> Vec<Vec<u8>> {
        let mut cursor = PageCursor::at(Arc::clone(page), from).expect("well-formed");
        let mut keys = Vec::new();
        while let Some(key) = cursor.next().expect("well-formed") {
            keys.push(key.as_bytes().to_vec());
        }
        keys
    }

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..62)
    }

    proptest! {
        #[test]
        fn a_page_holds_what_was_put_in(
            keys in prop::collection::btree_set(any_key(), 0..80),
            from in any_key(),
        ) {
            let mut builder = Builder::new();
            for key in &keys {
                builder.push(&Key::read(key).expect("short enough"));
            }
            let len = builder.len();
            let page: Arc<[u8]> = builder.finish().into();
            prop_assert_eq!(page.len(), len);
            let all: Vec<_> = keys.iter().cloned().collect();
            prop_assert_eq!(&keys_from(&page, b""), &all);
            let behind: Vec<_> = keys.range(from.clone()..).cloned().collect();
            prop_assert_eq!(keys_from(&page, &from), behind);
        }

        #[test]
        fn any_bytes_are_a_page_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), from in any_key()) {
            let page: Arc<[u8]> = bytes.into();
            if let Ok(mut cursor) = PageCursor::at(page, &from) {
                while let Ok(Some(_)) = cursor.next() {}
            }
        }
    }
}
