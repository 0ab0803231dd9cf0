//! The one store of a simulation, and what was in it when.
//!
//! A version is the number of changes made so far. Everything is read from the memory backend itself, past
//! the failures, so the history is what really is stored and not what anybody says.

use std::collections::BTreeMap;
use std::rc::Rc;

use relay_engine::relay::Live;
use relay_engine::store::{Backend, MemoryBackend, Reader, Seq};
use relay_engine::testing::FailingBackend;
use relay_engine::types::{Event, EventId, Filter, Timestamp};

/// The store of all shards.
pub(super) type Store = Rc<FailingBackend<MemoryBackend>>;

/// Numbers and events of all that is stored.
pub(super) fn stored(store: &Store) -> BTreeMap<Seq, Event> {
    let reader = store.inner().reader().expect("memory does not fail");
    let mut seqs = Vec::new();
    reader.log(Seq(0), usize::MAX, &mut seqs).expect("memory does not fail");
    let event = |seq: Seq| {
        let json = reader.event(seq).expect("memory does not fail").expect("the log names what is stored");
        Event::from_canonical(json.as_ref().into())
    };
    seqs.into_iter().map(|seq| (seq, event(seq))).collect()
}

/// One event's time in the store.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    /// Its sequence number.
    pub(super) seq: Seq,
    /// The event.
    pub(super) event: Event,
    /// The version in which it was stored.
    pub(super) from: u64,
    /// The version in which it was removed.
    pub(super) to: u64,
}

/// Still there.
pub(super) const FOREVER: u64 = u64::MAX;

/// All that ever was stored.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In the order of their numbers.
    pub(super) stays: Vec<Stay>,
    /// The current version.
    pub(super) version: u64,
}

impl History {
    /// Notes what a commit did; `live` is what it says it stored.
    ///
    /// # Panics
    /// If something is stored that the commit did not say, or numbers do not rise.
    pub(super) fn committed(&mut self, store: &Store, live: &[Live], nothing_kept: bool) {
        self.version += 1;
        let stored = stored(store);
        let mut changed = self.note_gone(&stored);
        for Live { seq, event } in live {
            let seq = seq.expect("what is stored has a number");
            assert!(self.stays.last().is_none_or(|last| last.seq < seq), "numbers rise");
            let to = if stored.contains_key(&seq) { FOREVER } else { self.version };
            self.stays.push(Stay { seq, event: event.clone(), from: self.version, to });
            changed = true;
        }
        let alive: Vec<Seq> = self.alive().map(|stay| stay.seq).collect();
        assert!(alive.iter().eq(stored.keys()), "stored is what commits said: {alive:?} {:?}", stored.keys());
        assert!(!(nothing_kept && changed), "a failed commit keeps nothing");
    }

    /// Notes what a sweep of expired events did.
    ///
    /// # Panics
    /// If it took out anything else.
    pub(super) fn swept(&mut self, store: &Store, now: Timestamp) {
        self.version += 1;
        self.note_gone(&stored(store));
        let gone = self.stays.iter().filter(|stay| stay.to == self.version);
        assert!(gone.clone().all(|stay| stay.event.is_expired(now)), "only expired events are swept");
    }

    fn note_gone(&mut self, stored: &BTreeMap<Seq, Event>) -> bool {
        let mut changed = false;
        for stay in self.stays.iter_mut().filter(|stay| stay.to == FOREVER) {
            if !stored.contains_key(&stay.seq) {
                stay.to = self.version;
                changed = true;
            }
        }
        changed
    }

    /// What is stored.
    pub(super) fn alive(&self) -> impl Iterator<Item = &Stay> {
        self.stays.iter().filter(|stay| stay.to == FOREVER)
    }

    /// Every stay of this event.
    pub(super) fn stays_of(&self, id: EventId) -> impl Iterator<Item = &Stay> {
        self.stays.iter().filter(move |stay| stay.event.id == id)
    }

    /// Whether the stored part of a REQ must hold this event: it was there from version `from` to `to`, and
    /// for some filter fewer events than its limit come before it, even counting all that came or went.
    pub(super) fn must_answer(
        &self,
        stay: &Stay,
        filters: &[Filter],
        limits: (u32, u32),
        from: u64,
        to: u64,
    ) -> bool {
        let before = |other: &&Stay, filter: &Filter| {
            let key = |stay: &Stay| (std::cmp::Reverse(stay.event.created_at), stay.event.id);
            other.from <= to && other.to > from && filter.matches(&other.event) && key(other) < key(stay)
        };
        let (limit_default, limit_max) = limits;
        stay.from <= from
            && stay.to > to
            && filters.iter().any(|filter| {
                let limit = filter.limit.unwrap_or(limit_default).min(limit_max) as usize;
                filter.matches(&stay.event)
                    && self.stays.iter().filter(|other| before(other, filter)).count() < limit
            })
    }
}
