//! A store over a sorted key-value database: what LMDB, SQL and the store on files have in common.
//!
//! Each keeps one ordered set of short keys (postings, ids, expiries) and event bodies by sequence number; tombstones are among the
//! keys in SQL and on files, and apart in LMDB.
//! `key.rs` defines the bytes, [`Overlay`] collects a write, and [`KvTransaction`] is the [`Reader`] and [`Writer`] of
//! any [`KeySource`]. A backend only reads ranges of keys and writes an overlay.

mod conversion;
mod key;
mod overlay;
mod pending_removal;

use std::borrow::Cow;
use std::ops::RangeInclusive;

pub use conversion::{ConversionReader, ConversionWriter, TombstoneHash};
pub use key::{Key, POSTING_BYTES, hash_of_tombstone, hashed_tombstone, posting_head};
pub(in crate::store) use key::{prefix_of, read_until, tombstone_key};
pub(in crate::store) use overlay::keys_of;
pub use overlay::{Change, Overlay};
pub use pending_removal::{PendingRemovalRow, PendingRemovals};

use super::backend::id_of_posting;
use super::backend::{
    Posting, PostingCount, Rank, Reader, Seq, StartAt, Stats, StoreError, Tombstone, Writer,
};
use super::sums::{SumBudget, Summed, SummedPart};
use super::terms::Term;
use crate::types::{Event, EventId, Kind, Timestamp};

/// What is stored, in one state of the store.
pub trait KeySource {
    /// Whether an [`Overlay`] must list the keys of removed events. It always lists their sequence numbers.
    const WANTS_REMOVED_KEYS: bool;

    /// Whether events are removed by their numbers alone, so that their keys need not be known ([`Overlay::unreadable`]).
    const REMOVES_BY_NUMBER: bool = false;

    /// Calls `each` with up to `max` keys from `from` to `to`, both included, ascending.
    fn keys(&self, from: &[u8], to: &[u8], max: usize, each: &mut dyn FnMut(&[u8]))
    -> Result<(), StoreError>;

    /// [`Reader::count_postings`], of the postings from `from` to `to`, both included.
    fn count_postings(
        &self,
        from: &[u8],
        to: &[u8],
        horizon: Seq,
        budget: &mut usize,
    ) -> Result<PostingCount, StoreError> {
        let _ = (from, to, horizon, budget);
        Ok(PostingCount::Unsupported)
    }

    /// [`Reader::summed_postings`], of the postings from `from` to `to`, both included.
    fn summed_postings(
        &self,
        from: &[u8],
        to: &[u8],
        now: Timestamp,
        budget: &mut SumBudget,
    ) -> Result<Summed, StoreError> {
        let _ = (from, to, now, budget);
        Ok(Summed::Unsupported)
    }

    /// [`Reader::block_postings`].
    fn block_postings(
        &self,
        part: &SummedPart,
        block: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        let _ = (part, block, out);
        Ok(())
    }

    /// [`Reader::id_of`], of a posting of this state.
    fn id_of(&self, posting: &Posting) -> Result<EventId, StoreError> {
        id_of_posting(posting, self.body(posting.seq)?.as_deref())
    }

    /// The body stored under a sequence number.
    fn body(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError>;

    /// Appends the sequence numbers of up to `max` bodies above `after`, ascending.
    fn bodies_after(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError>;

    /// Whether an event is pending removal. Asked for each event that is read: while none is pending removal it must cost
    /// no more than a comparison.
    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError>;

    /// Appends the sequence numbers of up to `max` events pending removal, ascending.
    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError>;

    /// The timestamp stored under a tombstone's key.
    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError>;

    /// Calls `each` with every tombstone, by its hash, and its timestamp. One may come twice; then the later timestamp is true. A store
    /// that keeps tombstones among its keys need not implement it.
    fn tombstones(
        &self,
        each: &mut dyn FnMut(TombstoneHash, Timestamp) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        const KEYS: usize = 1_024;
        let mut from = Some(key::tombstones_start());
        while let Some(begin) = from.take() {
            let (mut seen, mut last, mut found) = (0, None, Ok(()));
            let end = key::tombstones_end();
            self.keys(begin.as_bytes(), end.as_bytes(), KEYS, &mut |key| {
                seen += 1;
                last = Key::read(key);
                if found.is_ok() {
                    found = match key::read_tombstone(key) {
                        Some((hash, until)) => each(hash, until),
                        None => Err(malformed("a tombstone is too short")),
                    };
                }
            })?;
            found?;
            if seen == KEYS {
                from = last.and_then(|last| last.successor());
            }
        }
        Ok(())
    }

    /// The highest sequence number ever committed.
    fn last_seq(&self) -> Result<Seq, StoreError>;

    /// [`Reader::unlogged_removals`].
    fn unlogged_removals(&self) -> Result<u64, StoreError>;

    /// Statistics; events pending removal are not counted.
    fn stats(&self) -> Result<Stats, StoreError>;
}

/// A [`Reader`] (with `()`) or a [`Writer`] (with [`Overlay`]) of a [`KeySource`].
#[derive(Debug)]
pub struct KvTransaction<S, O> {
    source: S,
    overlay: O,
}

/// The write state of a [`KvTransaction`]: the changes of a write, or nothing for a reader.
pub trait WriteState {
    /// The changes.
    fn changes(&self) -> Option<&Overlay>;
}

impl WriteState for () {
    fn changes(&self) -> Option<&Overlay> {
        None
    }
}

impl WriteState for Overlay {
    fn changes(&self) -> Option<&Overlay> {
        Some(self)
    }
}

impl<S: KeySource> KvTransaction<S, ()> {
    /// A reader.
    pub fn reader(source: S) -> Self {
        KvTransaction { source, overlay: () }
    }
}

impl<S: KeySource> KvTransaction<S, Overlay> {
    /// A writer.
    pub fn writer(source: S) -> Self {
        KvTransaction { source, overlay: Overlay::default() }
    }

    /// The source, and the changes to apply to it.
    pub fn into_parts(self) -> (S, Overlay) {
        (self.source, self.overlay)
    }
}

impl<S: KeySource, O: WriteState> KvTransaction<S, O> {
    /// Calls `each` with up to `max` keys of `range`, changes applied.
    fn keys(
        &self,
        range: RangeInclusive<Key>,
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        if max == 0 || range.is_empty() {
            return Ok(());
        }
        let (from, to) = (*range.start(), *range.end());
        let Some(overlay) = self.overlay.changes() else {
            return self.source.keys(from.as_bytes(), to.as_bytes(), max, each);
        };
        let stored = self.stored_keys(overlay, from, to, max)?;
        let (mut stored, mut added) = (stored.iter().peekable(), overlay.added(range).peekable());
        for _ in 0..max {
            let next = match (stored.peek(), added.peek()) {
                (Some(key), Some(new)) if key < new => stored.next(),
                (Some(_), None) => stored.next(),
                _ => added.next(),
            };
            let Some(key) = next else { break };
            each(key.as_bytes());
        }
        Ok(())
    }

    /// Up to `max` keys of the source from `from` to `to`, without those of removed events.
    fn stored_keys(&self, overlay: &Overlay, from: Key, to: Key, max: usize) -> Result<Vec<Key>, StoreError> {
        let mut found = Vec::new();
        let mut from = Some(from);
        while let Some(begin) = from.take().filter(|_| found.len() < max) {
            let wanted = max - found.len();
            let (mut seen, mut last, mut is_longer) = (0, None, false);
            self.source.keys(begin.as_bytes(), to.as_bytes(), wanted, &mut |key| {
                seen += 1;
                last = Key::read(key);
                is_longer |= last.is_none();
                found.extend(last.filter(|key| !overlay.removes(key)));
            })?;
            if is_longer {
                return Err(malformed("a key is too long"));
            }
            if seen == wanted {
                from = last.and_then(|last| last.splice(last.as_bytes().len(), &[0]));
            }
        }
        Ok(found)
    }

    /// As [`Self::keys`], decoding each key and appending the result to `out`.
    fn read_keys<T>(
        &self,
        range: RangeInclusive<Key>,
        max: usize,
        read: fn(&[u8]) -> Option<T>,
        out: &mut Vec<T>,
    ) -> Result<(), StoreError> {
        let mut is_malformed = false;
        self.keys(range, max, &mut |key| match read(key) {
            Some(value) => out.push(value),
            None => is_malformed = true,
        })?;
        if is_malformed { Err(malformed("a key is too short")) } else { Ok(()) }
    }
}

fn malformed(what: &str) -> StoreError {
    StoreError::Corrupt(what.into())
}

impl<S: KeySource, O: WriteState> Reader for KvTransaction<S, O> {
    fn last_seq(&self) -> Result<Seq, StoreError> {
        let last = self.overlay.changes().map_or(Seq(0), Overlay::last_seq);
        Ok(self.source.last_seq()?.max(last))
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, StoreError> {
        let (mut first, mut found) = (Seq(0), Vec::new());
        loop {
            self.read_keys(key::id(id, first)..=key::id(id, Seq(u64::MAX)), 1, key::read_seq, &mut found)?;
            match found.pop() {
                // One that was pending removal may have been stored again.
                Some(seq) if self.is_pending_removal(seq)? => first = Seq(seq.0 + 1),
                found => return Ok(found),
            }
        }
    }

    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
        match self.overlay.changes().and_then(|overlay| overlay.marks_removed(seq)) {
            Some(is_pending_removal) => Ok(is_pending_removal),
            None => self.source.is_pending_removal(seq),
        }
    }

    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let Some(overlay) = self.overlay.changes() else {
            return self.source.pending_removal(max, out);
        };
        let mut seqs = Vec::new();
        self.source.pending_removal(max.saturating_add(overlay.pending_removal_changes()), &mut seqs)?;
        seqs.retain(|seq| overlay.marks_removed(*seq).is_none());
        seqs.extend(overlay.newly_pending_removal());
        seqs.sort_unstable();
        out.extend(seqs.into_iter().take(max));
        Ok(())
    }

    fn event_or_pending_removal(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        match self.overlay.changes().and_then(|overlay| overlay.body(seq)) {
            Some(body) => Ok(body.map(|body| Cow::Borrowed(&**body))),
            None => self.source.body(seq),
        }
    }

    fn postings(
        &self,
        term: &Term,
        start: StartAt,
        oldest: Timestamp,
        max: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        let head = key::head(term);
        let range = key::posting_from(head, start)..=key::posting_to(head, oldest);
        self.read_keys(range, max, key::read_posting, out)
    }

    fn count_postings(
        &self,
        term: &Term,
        oldest: Timestamp,
        newest: Timestamp,
        horizon: Seq,
        budget: &mut usize,
    ) -> Result<PostingCount, StoreError> {
        if self.overlay.changes().is_some() {
            return Ok(PostingCount::Unsupported);
        }
        let head = key::head(term);
        let from = key::posting_from(head, StartAt::Rank(Rank::newest(newest)));
        let to = key::posting_to(head, oldest);
        self.source.count_postings(from.as_bytes(), to.as_bytes(), horizon, budget)
    }

    fn summed_postings(
        &self,
        term: &Term,
        oldest: Timestamp,
        newest: Timestamp,
        now: Timestamp,
        budget: &mut SumBudget,
    ) -> Result<Summed, StoreError> {
        if self.overlay.changes().is_some() {
            return Ok(Summed::Unsupported);
        }
        let head = key::head(term);
        let from = key::posting_from(head, StartAt::Rank(Rank::newest(newest)));
        let to = key::posting_to(head, oldest);
        self.source.summed_postings(from.as_bytes(), to.as_bytes(), now, budget)
    }

    fn block_postings(
        &self,
        part: &SummedPart,
        block: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        self.source.block_postings(part, block, out)
    }

    fn id_of(&self, posting: &Posting) -> Result<EventId, StoreError> {
        if self.overlay.changes().is_none() {
            return self.source.id_of(posting);
        }
        id_of_posting(posting, self.event_or_pending_removal(posting.seq)?.as_deref())
    }

    fn log(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let Some(overlay) = self.overlay.changes() else {
            return self.source.bodies_after(after, max, out);
        };
        let removed = overlay.bodies().filter(|(seq, body)| *seq > after && body.is_none()).count();
        let mut seqs = Vec::new();
        self.source.bodies_after(after, max.saturating_add(removed), &mut seqs)?;
        seqs.retain(|seq| overlay.body(*seq).is_none());
        // What is new is above everything stored.
        seqs.extend(
            overlay.bodies().filter(|(seq, body)| *seq > after && body.is_some()).map(|(seq, _)| seq),
        );
        out.extend(seqs.into_iter().take(max));
        Ok(())
    }

    fn tombstone(&self, tombstone: &Tombstone) -> Result<Option<Timestamp>, StoreError> {
        let key = key::tombstone(tombstone);
        match self.overlay.changes().and_then(|overlay| overlay.tombstone(&key)) {
            Some(until) => Ok(Some(until)),
            None => self.source.tombstone(&key),
        }
    }

    fn expiring(&self, until: Timestamp, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let range = key::expiry(0, Seq(0))..=key::expiry(until, Seq(u64::MAX));
        self.read_keys(range, max, key::read_seq, out)
    }

    fn kinds(&self) -> Result<Vec<Kind>, StoreError> {
        let last = key::posting_to(key::head(&Term::Kind(Kind::MAX)), 0);
        let mut kinds = Vec::new();
        let mut next = Some(0);
        while let Some(kind) = next {
            let first =
                key::posting_from(key::head(&Term::Kind(kind)), StartAt::Rank(Rank::newest(Timestamp::MAX)));
            let known = kinds.len();
            self.read_keys(first..=last, 1, key::read_kind, &mut kinds)?;
            next = kinds.get(known).and_then(|kind| kind.checked_add(1));
        }
        Ok(kinds)
    }

    fn unlogged_removals(&self) -> Result<u64, StoreError> {
        let more = self.overlay.changes().is_some_and(Overlay::has_unlogged_removal);
        Ok(self.source.unlogged_removals()? + u64::from(more))
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        let mut stats = self.source.stats()?;
        let delta = self.overlay.changes().map_or(0, Overlay::events_delta);
        stats.events = stats.events.saturating_add_signed(delta);
        Ok(stats)
    }
}

impl<S: KeySource> Writer for KvTransaction<S, Overlay> {
    fn insert(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError> {
        self.overlay.insert(seq, event, terms);
        Ok(())
    }

    fn mark_removed(&mut self, seq: Seq) -> Result<(), StoreError> {
        if !self.is_pending_removal(seq)? {
            self.overlay.mark_removed(seq);
        }
        Ok(())
    }

    fn remove(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError> {
        if self.is_pending_removal(seq)? {
            self.overlay.forget_pending_removal(seq, self.source.is_pending_removal(seq)?);
        }
        self.overlay.remove(seq, event, terms, S::WANTS_REMOVED_KEYS);
        Ok(())
    }

    fn remove_unreadable(&mut self, seq: Seq) -> Result<bool, StoreError> {
        if !S::REMOVES_BY_NUMBER {
            return Ok(false);
        }
        if self.is_pending_removal(seq)? {
            self.overlay.forget_pending_removal(seq, self.source.is_pending_removal(seq)?);
        }
        self.overlay.remove_unreadable(seq);
        Ok(true)
    }

    fn put_tombstone(&mut self, key: &Tombstone, until: Timestamp) -> Result<(), StoreError> {
        if self.tombstone(key)?.is_none_or(|known| until > known) {
            self.overlay.put_tombstone(key, until);
        }
        Ok(())
    }

    fn record_unlogged_removal(&mut self) -> Result<(), StoreError> {
        self.overlay.record_unlogged_removal();
        Ok(())
    }
}
