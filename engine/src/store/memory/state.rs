//! The maps of the memory backend, and how to undo each change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::store::{Posting, Rank, Seq, StartAt, Stats, StoreError, Term, Tombstone};
use crate::types::{CanonicalEvent, Event, EventId, Kind, NO_EXPIRY, Timestamp};

/// Everything stored.
#[derive(Debug, Default)]
pub(super) struct State {
    last_seq: Seq,
    events: BTreeMap<Seq, Arc<[u8]>>,
    /// Of events that are not pending removal.
    ids: HashMap<EventId, Seq>,
    pending_removal: BTreeSet<Seq>,
    /// No term has an empty map.
    postings: BTreeMap<Term, List>,
    expiring: BTreeSet<(Timestamp, Seq)>,
    tombstones: HashMap<Tombstone, Timestamp>,
    bytes: u64,
    unlogged_removals: u64,
}

/// One term's postings: rank and sequence number, then kind and whether they expire.
type List = BTreeMap<(Rank, Seq), (Kind, bool)>;

/// How to undo one change.
#[derive(Debug)]
pub(super) enum Undo {
    Insert { seq: Seq, event: Event, terms: Box<[Term]>, last_seq: Seq },
    MarkRemoved { seq: Seq, id: EventId },
    Remove { seq: Seq, event: Event, terms: Box<[Term]>, was_pending_removal: bool },
    PutTombstone { key: Tombstone, before: Option<Timestamp> },
    UnloggedRemoval,
}

impl State {
    pub(super) fn insert(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<Undo, StoreError> {
        if seq <= self.last_seq || self.ids.contains_key(&event.id) {
            return Err(StoreError::Failed(format!(
                "event {} cannot be stored as {seq:?}: the event is stored already, or the last sequence number given is {:?}",
                event.id, self.last_seq
            )));
        }
        let last_seq = std::mem::replace(&mut self.last_seq, seq);
        self.add(seq, event, terms);
        self.ids.insert(event.id, seq);
        Ok(Undo::Insert { seq, event: event.clone(), terms: terms.into(), last_seq })
    }

    /// Nothing to undo if it was pending removal already.
    pub(super) fn mark_removed(&mut self, seq: Seq) -> Result<Option<Undo>, StoreError> {
        let Some(json) = self.events.get(&seq) else {
            return Err(StoreError::Failed(format!(
                "event {seq:?} cannot be marked as removed: it is not stored"
            )));
        };
        let id = CanonicalEvent::trusted(json).id();
        Ok(self.pending_removal.insert(seq).then(|| {
            self.ids.remove(&id);
            Undo::MarkRemoved { seq, id }
        }))
    }

    pub(super) fn remove(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<Undo, StoreError> {
        let was_pending_removal = self.is_pending_removal(seq);
        if !was_pending_removal && self.ids.get(&event.id) != Some(&seq) {
            return Err(StoreError::Corrupt(format!("{seq:?} is not event {}", event.id)));
        }
        self.take(seq, event, terms);
        Ok(Undo::Remove { seq, event: event.clone(), terms: terms.into(), was_pending_removal })
    }

    pub(super) fn put_tombstone(&mut self, key: &Tombstone, until: Timestamp) -> Undo {
        let before = self.tombstone(key);
        self.tombstones.insert(key.clone(), before.unwrap_or(until).max(until));
        Undo::PutTombstone { key: key.clone(), before }
    }

    pub(super) fn record_unlogged_removal(&mut self) -> Undo {
        self.unlogged_removals += 1;
        Undo::UnloggedRemoval
    }

    pub(super) fn unlogged_removals(&self) -> u64 {
        self.unlogged_removals
    }

    pub(super) fn undo(&mut self, step: Undo) {
        match step {
            Undo::UnloggedRemoval => self.unlogged_removals -= 1,
            Undo::Insert { seq, event, terms, last_seq } => {
                self.take(seq, &event, &terms);
                self.last_seq = last_seq;
            }
            Undo::MarkRemoved { seq, id } => {
                self.pending_removal.remove(&seq);
                self.ids.insert(id, seq);
            }
            Undo::Remove { seq, event, terms, was_pending_removal } => {
                self.add(seq, &event, &terms);
                if was_pending_removal {
                    self.pending_removal.insert(seq);
                } else {
                    self.ids.insert(event.id, seq);
                }
            }
            Undo::PutTombstone { key, before: Some(until) } => {
                self.tombstones.insert(key, until);
            }
            Undo::PutTombstone { key, before: None } => {
                self.tombstones.remove(&key);
            }
        }
    }

    fn add(&mut self, seq: Seq, event: &Event, terms: &[Term]) {
        let expires = event.expires_at != NO_EXPIRY;
        self.events.insert(seq, event.shared_json());
        self.bytes += event.json().len() as u64;
        let position = (Rank::of(event.created_at, &event.id), seq);
        for term in terms {
            self.postings.entry(term.clone()).or_default().insert(position, (event.kind, expires));
        }
        if event.sweep_at() != NO_EXPIRY {
            self.expiring.insert((event.sweep_at(), seq));
        }
    }

    fn take(&mut self, seq: Seq, event: &Event, terms: &[Term]) {
        self.events.remove(&seq);
        if !self.pending_removal.remove(&seq) {
            self.ids.remove(&event.id);
        }
        self.bytes -= event.json().len() as u64;
        let position = (Rank::of(event.created_at, &event.id), seq);
        for term in terms {
            if let Some(list) = self.postings.get_mut(term) {
                list.remove(&position);
                if list.is_empty() {
                    self.postings.remove(term);
                }
            }
        }
        self.expiring.remove(&(event.sweep_at(), seq));
    }

    pub(super) fn last_seq(&self) -> Seq {
        self.last_seq
    }

    pub(super) fn seq_of(&self, id: &EventId) -> Option<Seq> {
        self.ids.get(id).copied()
    }

    pub(super) fn event(&self, seq: Seq) -> Option<&[u8]> {
        self.events.get(&seq).map(|json| &**json)
    }

    pub(super) fn is_pending_removal(&self, seq: Seq) -> bool {
        self.pending_removal.contains(&seq)
    }

    pub(super) fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) {
        out.extend(self.pending_removal.iter().take(max));
    }

    pub(super) fn postings(
        &self,
        term: &Term,
        start: StartAt,
        oldest: Timestamp,
        max: usize,
        out: &mut Vec<Posting>,
    ) {
        let Some(list) = self.postings.get(term) else {
            return;
        };
        let first = match start {
            StartAt::Rank(rank) => Bound::Included((rank, Seq(0))),
            StartAt::After(rank, seq) => Bound::Excluded((rank, seq)),
        };
        out.extend(
            list.range((first, Bound::Unbounded))
                .take_while(|((rank, _), _)| rank.created_at >= oldest)
                .take(max)
                .map(|(&(rank, seq), &(kind, expires))| Posting { rank, seq, kind, expires }),
        );
    }

    pub(super) fn log(&self, after: Seq, max: usize, out: &mut Vec<Seq>) {
        let later = (Bound::Excluded(after), Bound::Unbounded);
        out.extend(self.events.range(later).take(max).map(|(&seq, _)| seq));
    }

    pub(super) fn tombstone(&self, key: &Tombstone) -> Option<Timestamp> {
        self.tombstones.get(key).copied()
    }

    pub(super) fn expiring(&self, until: Timestamp, max: usize, out: &mut Vec<Seq>) {
        out.extend(self.expiring.range(..=(until, Seq(u64::MAX))).take(max).map(|&(_, seq)| seq));
    }

    pub(super) fn kinds(&self) -> Vec<Kind> {
        self.postings
            .range(Term::Kind(0)..=Term::Kind(Kind::MAX))
            .filter_map(|(term, _)| match term {
                Term::Kind(kind) => Some(*kind),
                _ => None,
            })
            .collect()
    }

    pub(super) fn stats(&self) -> Stats {
        let (all, pending_removal) = (self.events.len() as u64, self.pending_removal.len() as u64);
        Stats { events: all - pending_removal, pending_removal, bytes: self.bytes }
    }
}
