//! The changes of one write, kept in memory until its end: reads check here first, and the backend then
//! writes each table once, in order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::key::{self, Key};
use super::pending_removal::PendingRemovalRow;
use crate::store::backend::{Posting, Rank, Seq, StoreError, Tombstone};
use crate::store::terms::Term;
use crate::types::{Event, NO_EXPIRY, Timestamp};

/// What a write has changed so far.
#[derive(Debug, Default)]
pub struct Overlay {
    keys: BTreeMap<Key, Change>,
    bodies: BTreeMap<Seq, Option<Arc<[u8]>>>,
    tombstones: BTreeMap<Box<[u8]>, Timestamp>,
    /// Events that become pending removal, and ones pending removal that are removed (`false`).
    pending_removal: BTreeMap<Seq, bool>,
    last_seq: Seq,
    has_unlogged_removal: bool,
    unreadable: Vec<Seq>,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is not stored, and is to be added.
    Add,
    /// It is stored, and is to be removed. Expiry keys that only earlier versions of this program wrote may be missing.
    Remove,
}

impl Overlay {
    /// Keys to add and, where the source asks for them ([`super::KeySource::WANTS_REMOVED_KEYS`]), to remove; ascending.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, Change)> {
        self.keys.iter().map(|(key, change)| (key, *change))
    }

    /// Keys to add, ascending.
    pub fn added_keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|(_, change)| **change == Change::Add).map(|(key, _)| key)
    }

    /// Keys of stored events that are removed, where the source asks for them; ascending.
    pub fn removed_keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|(_, change)| **change == Change::Remove).map(|(key, _)| key)
    }

    /// Bodies to store, and sequence numbers of stored ones to remove (`None`), ascending. Those to store are above
    /// every stored one.
    pub fn bodies(&self) -> impl Iterator<Item = (Seq, Option<&[u8]>)> {
        self.bodies.iter().map(|(seq, body)| (*seq, body.as_deref()))
    }

    /// Tombstones to put, ascending. Each timestamp is later than the stored one.
    pub fn tombstones(&self) -> impl Iterator<Item = (&[u8], Timestamp)> {
        self.tombstones.iter().map(|(key, until)| (&**key, *until))
    }

    /// The rows of events pending removal ([`PendingRemovalRow`]) that change, by number, as they will be. `stored` reads a row as it is.
    ///
    /// # Errors
    /// Those of `stored`.
    pub fn pending_removal_rows(
        &self,
        mut stored: impl FnMut(u64) -> Result<PendingRemovalRow, StoreError>,
    ) -> Result<Vec<(u64, PendingRemovalRow)>, StoreError> {
        let mut rows: Vec<(u64, PendingRemovalRow)> = Vec::new();
        for (seq, is_pending_removal) in &self.pending_removal {
            let number = PendingRemovalRow::number_of(*seq);
            match rows.last_mut() {
                Some((last, row)) if *last == number => row.set(*seq, *is_pending_removal),
                _ => {
                    let mut row = stored(number)?;
                    row.set(*seq, *is_pending_removal);
                    rows.push((number, row));
                }
            }
        }
        Ok(rows)
    }

    /// Events that become pending removal (`true`), and ones that were and are removed (`false`), ascending.
    pub fn pending_removals(&self) -> impl Iterator<Item = (Seq, bool)> {
        self.pending_removal.iter().map(|(seq, is_pending_removal)| (*seq, *is_pending_removal))
    }

    /// The highest sequence number given in this write, or in the store that it is a copy of; 0 if none was.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Whether events were removed that no commit names ([`crate::store::Reader::unlogged_removals`]).
    pub fn has_unlogged_removal(&self) -> bool {
        self.has_unlogged_removal
    }

    /// Stored events that are removed and could not be read, so [`Overlay::removed_keys`] lacks their keys.
    pub fn unreadable(&self) -> &[Seq] {
        &self.unreadable
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.bodies.is_empty()
            && self.tombstones.is_empty()
            && self.pending_removal.is_empty()
            && self.last_seq == Seq(0)
    }

    /// Events stored less events pending removal or removed.
    pub fn events_delta(&self) -> i64 {
        let bodies: i64 = self.bodies.values().map(|body| if body.is_some() { 1 } else { -1 }).sum();
        // Those that were pending removal before had been taken off then.
        let pending_removal: i64 = self
            .pending_removal
            .values()
            .map(|is_pending_removal| if *is_pending_removal { -1 } else { 1 })
            .sum();
        bodies + pending_removal
    }

    pub(super) fn insert(&mut self, seq: Seq, event: &Event, terms: &[Term]) {
        for key in keys_of(seq, event, terms) {
            self.keys.insert(key, Change::Add);
        }
        self.bodies.insert(seq, Some(event.shared_json()));
        self.last_seq = self.last_seq.max(seq);
    }

    pub(super) fn record_unlogged_removal(&mut self) {
        self.has_unlogged_removal = true;
    }

    pub(super) fn mark_removed(&mut self, seq: Seq) {
        self.pending_removal.insert(seq, true);
    }

    /// `true` if this write marks the event as removed, `false` if it removes an event that was pending removal.
    pub(super) fn marks_removed(&self, seq: Seq) -> Option<bool> {
        self.pending_removal.get(&seq).copied()
    }

    /// How many events this write marks as removed, or removes after they were pending removal.
    pub(super) fn pending_removal_changes(&self) -> usize {
        self.pending_removal.len()
    }

    /// Events that become pending removal, ascending.
    pub(super) fn newly_pending_removal(&self) -> impl Iterator<Item = Seq> {
        self.pending_removal
            .iter()
            .filter(|(_, is_pending_removal)| **is_pending_removal)
            .map(|(seq, _)| *seq)
    }

    /// An event stops being pending removal. `was_pending`: whether it was pending removal before this write.
    pub(super) fn forget_pending_removal(&mut self, seq: Seq, was_pending: bool) {
        match was_pending {
            true => self.pending_removal.insert(seq, false),
            false => self.pending_removal.remove(&seq),
        };
    }

    pub(super) fn remove(&mut self, seq: Seq, event: &Event, terms: &[Term], wants_removed_keys: bool) {
        // Sequence numbers are never used twice: what is added here is nowhere else.
        if matches!(self.bodies.remove(&seq), Some(Some(_))) {
            for key in keys_of(seq, event, terms) {
                self.keys.remove(&key);
            }
            return;
        }
        self.bodies.insert(seq, None);
        if wants_removed_keys {
            // Stores of earlier versions also list removal requests as expiring.
            let listed = (event.expires_at != NO_EXPIRY).then(|| key::expiry(event.expires_at, seq));
            let keys = keys_of(seq, event, terms).chain(listed);
            self.keys.extend(keys.map(|key| (key, Change::Remove)));
        }
    }

    /// Removes a stored event whose keys are not known.
    pub(super) fn remove_unreadable(&mut self, seq: Seq) {
        self.bodies.insert(seq, None);
        self.unreadable.push(seq);
    }

    /// Whether this is the key of a removed event.
    pub(super) fn removes(&self, key: &Key) -> bool {
        key.seq().is_some_and(|seq| matches!(self.bodies.get(&seq), Some(None)))
    }

    pub(super) fn put_tombstone(&mut self, tombstone: &Tombstone, until: Timestamp) {
        self.tombstones.insert(key::tombstone(tombstone), until);
    }

    pub(super) fn put_tombstone_key(&mut self, key: &[u8], until: Timestamp) {
        self.tombstones.insert(key.into(), until);
    }

    pub(super) fn raise_last_seq(&mut self, seq: Seq) {
        self.last_seq = self.last_seq.max(seq);
    }

    /// Keys to add.
    pub(super) fn added(&self, range: RangeInclusive<Key>) -> impl Iterator<Item = &Key> {
        self.keys.range(range).filter(|(_, change)| **change == Change::Add).map(|(key, _)| key)
    }

    pub(super) fn body(&self, seq: Seq) -> Option<Option<&Arc<[u8]>>> {
        self.bodies.get(&seq).map(Option::as_ref)
    }

    pub(super) fn tombstone(&self, key: &[u8]) -> Option<Timestamp> {
        self.tombstones.get(key).copied()
    }
}

/// Everything an event is found by.
pub(in crate::store) fn keys_of(seq: Seq, event: &Event, terms: &[Term]) -> impl Iterator<Item = Key> {
    let posting = Posting {
        rank: Rank::of(event.created_at, &event.id),
        seq,
        kind: event.kind,
        expires: event.expires_at != NO_EXPIRY,
    };
    let expiry = (event.sweep_at() != NO_EXPIRY).then(|| key::expiry(event.sweep_at(), seq));
    terms
        .iter()
        .map(move |term| key::posting(key::head(term), &posting))
        .chain([key::id(&event.id, seq)])
        .chain(expiry)
}
