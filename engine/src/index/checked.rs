//! Filters that a posting cannot answer for alone: their times, and their conditions beyond the anchor.
//!
//! Conditions are kept as ids of interned keys. Whether one holds is then whether the event has one of
//! those keys, which a match knows already; no value is compared twice and no filter is kept.

use super::SubSlot;
use super::ids::{FreeIds, next_id, shrink_sparse};
use super::keys::InternedTerms;
use super::kinds::{KindSets, KindsCode};
use crate::types::{Kind, Timestamp};

/// Ends the list of a slot's checked filters.
pub(super) const NO_FILTER: u32 = u32::MAX;

/// The dense part: 24 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedFilter {
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    pub(super) slot: SubSlot,
    /// The same subscription's next checked filter, or [`NO_FILTER`].
    next: u32,
}

impl CheckedFilter {
    #[inline]
    pub(super) fn allows_time(&self, created_at: Timestamp) -> bool {
        self.since <= created_at && created_at <= self.until
    }
}

/// What [`super::postings::Check::Full`] checks besides the time.
#[derive(Debug)]
pub(super) struct Conditions {
    /// [`KindsCode::ANY`], unless a key of the filter has all its groups ([`super::postings::GROUPS_MAX`]): then the filter
    /// checks its kinds itself.
    pub(super) kinds: KindsCode,
    lists: Box<[Condition]>,
}

/// Of these keys, sorted, the event needs one.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) subject: ConditionSubject,
    pub(super) keys: Box<[u32]>,
}

/// What a condition is about, so that only the event's keys of that sort are looked up in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConditionSubject {
    Author,
    /// A tag's letter.
    Tag(u8),
    /// Nothing that a condition asks about.
    Other,
}

/// A key of the event that is matched; each is listed once.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventTerm {
    pub(super) key: u32,
    pub(super) subject: ConditionSubject,
}

/// All of them, and the stamps that say whether a key is among them.
pub(super) struct EventTerms<'a> {
    pub(super) list: &'a [EventTerm],
    pub(super) stamps: &'a [u32],
    pub(super) epoch: u32,
}

impl Conditions {
    /// Whether they are met. Counts `compared` up by the keys that may have to be compared for that.
    pub(super) fn are_met(
        &self,
        kind: Kind,
        event_keys: &EventTerms<'_>,
        kind_sets: &KindSets,
        compared: &mut usize,
    ) -> bool {
        kind_sets.allow(self.kinds, kind)
            && self.lists.iter().all(|list| {
                *compared += list.keys.len().min(SHORT_LIST.max(event_keys.list.len()));
                event_keys.any(list)
            })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.lists)
            + self.lists.iter().map(|list| size_of_val(&*list.keys)).sum::<usize>()
    }
}

impl EventTerms<'_> {
    fn any(&self, condition: &Condition) -> bool {
        let Condition { subject, keys } = condition;
        if keys.len() <= SHORT_LIST.max(self.list.len()) {
            return keys.iter().any(|key| self.stamps[*key as usize] == self.epoch);
        }
        let mut same_subject = self.list.iter().filter(|same_subject| same_subject.subject == *subject);
        same_subject.any(|same_subject| keys.binary_search(&same_subject.key).is_ok())
    }
}

/// Up to here, or to as many as the event has keys, checking each key's stamp is as fast as looking up the
/// event's keys.
const SHORT_LIST: usize = 4;

/// All checked filters by id.
#[derive(Debug, Default)]
pub(super) struct CheckedFilters {
    pub(super) filters: Vec<CheckedFilter>,
    pub(super) conditions: Vec<Option<Box<Conditions>>>,
    free: FreeIds,
    condition_bytes: usize,
    /// Keys that conditions refer to, once for each reference.
    pub(super) condition_keys: usize,
}

/// A free entry's slot.
const FREE: SubSlot = SubSlot(u32::MAX);

impl CheckedFilters {
    pub(super) fn add(&mut self, slot: SubSlot, since: Timestamp, until: Timestamp, next: u32) -> u32 {
        let filter = CheckedFilter { since, until, slot, next };
        match self.free.take(self.filters.len()) {
            Some(id) => {
                self.filters[id as usize] = filter;
                id
            }
            None => {
                let id = next_id(self.filters.len());
                self.filters.push(filter);
                self.conditions.push(None);
                id
            }
        }
    }

    /// Gives the filter its conditions. Its kinds and keys have their references already.
    pub(super) fn set_conditions(&mut self, id: u32, kinds: KindsCode, lists: Vec<Condition>) {
        let conditions = Box::new(Conditions { kinds, lists: lists.into() });
        self.condition_bytes += conditions.bytes();
        self.condition_keys += conditions.lists.iter().map(|list| list.keys.len()).sum::<usize>();
        self.conditions[id as usize] = Some(conditions);
    }

    /// Makes the filter check its kinds itself, if it does not. Returns whether that is new; then `kinds`
    /// needs a reference.
    pub(super) fn check_kinds(&mut self, id: u32, kinds: KindsCode) -> bool {
        match &mut self.conditions[id as usize] {
            None => self.set_conditions(id, kinds, Vec::new()),
            Some(conditions) if conditions.kinds == kinds => return false,
            Some(conditions) => conditions.kinds = kinds,
        }
        true
    }

    /// Frees a filter that no posting refers to any more and releases its references. Returns the next of its
    /// subscription and the number of keys released.
    pub(super) fn remove(
        &mut self,
        id: u32,
        keys: &mut InternedTerms,
        kind_sets: &mut KindSets,
    ) -> (u32, usize) {
        let next = std::mem::replace(&mut self.filters[id as usize].next, NO_FILTER);
        self.filters[id as usize].slot = FREE;
        self.free.release(id);
        let Some(conditions) = self.conditions[id as usize].take() else { return (next, 0) };
        self.condition_bytes -= conditions.bytes();
        kind_sets.release(conditions.kinds);
        let mut released = 0;
        for key in conditions.lists.iter().flat_map(|list| &list.keys) {
            keys.release(*key);
            released += 1;
        }
        self.condition_keys -= released;
        (next, released)
    }

    /// Drops up to `budget` free entries from the end; whether there may be more.
    pub(super) fn trim(&mut self, budget: &mut usize) -> bool {
        while self.filters.last().is_some_and(|filter| filter.slot == FREE) {
            if *budget == 0 {
                return true;
            }
            *budget -= 1;
            self.filters.pop();
            self.conditions.pop();
        }
        shrink_sparse(&mut self.filters);
        shrink_sparse(&mut self.conditions);
        self.free.shrink(self.filters.len());
        false
    }

    pub(super) fn bytes(&self) -> usize {
        self.filters.capacity() * size_of::<CheckedFilter>()
            + self.conditions.capacity() * size_of::<Option<Box<Conditions>>>()
            + self.free.bytes()
            + self.condition_bytes
    }
}
