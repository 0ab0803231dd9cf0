//! The store that all simulated shards share, and the history of its contents.
//!
//! The store's version counts the changes made so far. The history is read from the memory backend directly, without
//! the injected failures, so it holds what really is stored and not what commits report.

use std::collections::BTreeMap;
use std::rc::Rc;

use relay_engine::relay::LiveEvent;
use relay_engine::store::{Backend, MemoryBackend, Reader, Seq};
use relay_engine::testing::FailingBackend;
use relay_engine::types::{Event, EventId, Filter, Timestamp};

/// The store of all shards.
pub(super) type Store = Rc<FailingBackend<MemoryBackend>>;

/// Whether an event is pending removal.
pub(super) fn has_pending_removals(store: &Store) -> bool {
    let mut seqs = Vec::new();
    let reader = store.inner().reader().expect("memory does not fail");
    reader.pending_removal(1, &mut seqs).expect("memory does not fail");
    !seqs.is_empty()
}

/// Numbers and events of all that is stored and not pending removal.
pub(super) fn stored(store: &Store) -> BTreeMap<Seq, Event> {
    let reader = store.inner().reader().expect("memory does not fail");
    let mut seqs = Vec::new();
    reader.log(Seq(0), usize::MAX, &mut seqs).expect("memory does not fail");
    let event = |seq: Seq| {
        let json = reader.event(seq).expect("memory does not fail");
        json.map(|json| (seq, Event::from_canonical(json.as_ref().into())))
    };
    seqs.into_iter().filter_map(event).collect()
}

/// An event that was stored, and the versions between which it was there.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its sequence number.
    pub(super) seq: Seq,
    /// The event.
    pub(super) event: Event,
    /// The version in which it was stored.
    pub(super) added_in: u64,
    /// The version in which it was removed, or [`NOT_REMOVED`].
    pub(super) removed_in: u64,
}

/// The event is still stored.
pub(super) const NOT_REMOVED: u64 = u64::MAX;

/// Every event that was ever stored.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In the order of their sequence numbers.
    pub(super) entries: Vec<Entry>,
    /// The current version.
    pub(super) version: u64,
}

impl History {
    /// Records what a commit changed; `live` is what it reports as stored.
    ///
    /// # Panics
    /// If the commit stored something that it does not report, or sequence numbers do not rise.
    pub(super) fn committed(&mut self, store: &Store, live: &[LiveEvent], nothing_kept: bool) {
        self.version += 1;
        let stored = stored(store);
        let mut changed = self.record_removals(&stored);
        for LiveEvent { seq, event, .. } in live {
            let seq = seq.expect("a stored event has a sequence number");
            assert!(self.entries.last().is_none_or(|last| last.seq < seq), "sequence numbers rise");
            let removed_in = if stored.contains_key(&seq) { NOT_REMOVED } else { self.version };
            self.entries.push(Entry { seq, event: event.clone(), added_in: self.version, removed_in });
            changed = true;
        }
        let present: Vec<Seq> = self.present().map(|entry| entry.seq).collect();
        assert!(
            present.iter().eq(stored.keys()),
            "stored is what commits report: {present:?} {:?}",
            stored.keys()
        );
        assert!(!(nothing_kept && changed), "a failed commit keeps nothing");
    }

    /// Records what a sweep of expired events removed.
    ///
    /// # Panics
    /// If it removed anything else.
    pub(super) fn swept(&mut self, store: &Store, now: Timestamp) {
        self.version += 1;
        self.record_removals(&stored(store));
        let gone = self.entries.iter().filter(|entry| entry.removed_in == self.version);
        assert!(gone.clone().all(|entry| entry.event.is_expired(now)), "only expired events are swept");
    }

    fn record_removals(&mut self, stored: &BTreeMap<Seq, Event>) -> bool {
        let mut changed = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.removed_in == NOT_REMOVED) {
            if !stored.contains_key(&entry.seq) {
                entry.removed_in = self.version;
                changed = true;
            }
        }
        changed
    }

    /// What is stored now.
    pub(super) fn present(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.removed_in == NOT_REMOVED)
    }

    /// Every time this event was stored: more than once if it was removed in between.
    pub(super) fn entries_of(&self, id: EventId) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.event.id == id)
    }

    /// Whether the stored answer to a REQ must contain this event: it was stored from version `from` to `to`, and
    /// in the order of some filter fewer events than its limit come before it, even if all those count that were
    /// stored for only a part of that time.
    pub(super) fn must_answer(
        &self,
        entry: &Entry,
        filters: &[Filter],
        limits: (u32, u32),
        from: u64,
        to: u64,
    ) -> bool {
        let before = |other: &&Entry, filter: &Filter| {
            let key = |entry: &Entry| (std::cmp::Reverse(entry.event.created_at), entry.event.id);
            other.added_in <= to
                && other.removed_in > from
                && filter.matches(&other.event)
                && key(other) < key(entry)
        };
        let (limit_default, limit_max) = limits;
        entry.added_in <= from
            && entry.removed_in > to
            && filters.iter().any(|filter| {
                let limit = filter.limit.unwrap_or(limit_default).min(limit_max) as usize;
                filter.matches(&entry.event)
                    && self.entries.iter().filter(|other| before(other, filter)).count() < limit
            })
    }
}
