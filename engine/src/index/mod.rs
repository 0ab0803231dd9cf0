//! Live subscriptions, inverted: from an event to those that want it, at the cost of what matches.
//!
//! ```text
//! event --> its keys (kind, author, id, tag values), interned to ids
//!       key --> groups: same kinds, same check
//!             group --> slots, or filters whose times or further conditions must be checked
//!                   slot --> stamp: reported for this event already, or dead?
//! ```
//!
//! A filter is anchored on one of its lists (`compile`), so a posting is one 32-bit id and a match is a
//! read of plain lists: two or three nanoseconds for each match while they are in the cache
//! (`examples/match_cost.rs` measures it). Filters are not kept; what a posting cannot answer is kept as
//! ids of keys (`checked`).
//!
//! Unsubscribing marks the slot dead and nothing else. Its postings go in passes (`sweep`) that stop
//! whenever their budget does; the slot has no new owner before they are gone. Subscribing does a part of a pass when one
//! is due, so memory stays bounded even where no host calls [`Index::sweep`].
//!
//! Words used here: a *key* is an interned term (an id, an author, a kind or a tag value). The *anchor* of a filter is the
//! list by whose keys it is found. A *posting* is what is found there: a *slot* (a subscription), or a *checked filter*,
//! which has times or further *conditions*. Postings of a key with the same kinds and the same check are a *group*. A
//! *stamp* says in which match, or *epoch*, a key or slot was met last. A slot is *dead* from the end of its subscription
//! until its postings are gone.
//!
//! This module never compares filters with events one by one, never allocates in a match once its scratch list and
//! the caller's have grown, and never stops for a whole table, except to reset stamps once in 2^32 events.

mod checked;
mod compile;
mod ids;
mod keys;
mod kinds;
mod matching;
mod pages;
mod postings;
mod slots;
mod sweep;
mod term;
#[cfg(test)]
mod tests;

pub use compile::Breadth;

use checked::{CheckedFilters, EventTerm};
use keys::InternedTerms;
use kinds::KindSets;
use matching::MatchedEvent;
use slots::Slots;
use sweep::Phase;
use term::KeyedHash;

use crate::types::{CanonicalEvent, Event, Filter, MatchCost};

/// A subscription's id: dense, so that a table of what belongs to each is a plain list. It has a new
/// owner only after its subscription ended and a sweep took out its postings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SubSlot(pub u32);

/// What one match did, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatchStats {
    /// Postings visited, those of dead subscriptions and of repeats included.
    pub candidates: usize,
    /// Slots reported.
    pub matches: usize,
    /// Bytes of tags read, and keys compared: what large events and filters of many conditions cost.
    pub cost: MatchCost,
}

/// The live subscriptions of one shard.
#[derive(Debug)]
pub struct Index {
    keys: InternedTerms,
    slots: Slots,
    checked: CheckedFilters,
    kind_sets: KindSets,
    /// The event being matched, counted from 1.
    epoch: u32,
    /// Scratch: keys of that event.
    event_keys: Vec<EventTerm>,
    phase: Phase,
    postings: usize,
    /// References of dead subscriptions that have not been swept.
    dead_references: usize,
    posting_bytes: usize,
    group_bytes: usize,
}

/// How much a subscription sweeps for each reference it adds (a posting, or a key that a condition refers to), where a pass is
/// due. A pass costs at most three for each reference, so there are fewer dead ones than live ones.
const SWEEP_SHARE: usize = 4;
/// What it sweeps at least.
const SWEEP_MIN: usize = 64;

impl Index {
    /// An index whose hash has a known key, for tests and simulations. Anyone can slow it down.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// An empty index, about 11 KB. `seed` must be a secret of this process, from the system's randomness:
    /// clients choose the keys of its tables.
    pub fn with_seed(seed: u64) -> Self {
        Index {
            keys: InternedTerms::new(KeyedHash::new(seed)),
            slots: Slots::default(),
            checked: CheckedFilters::default(),
            kind_sets: KindSets::default(),
            epoch: 0,
            event_keys: Vec::new(),
            phase: Phase::Idle,
            postings: 0,
            dead_references: 0,
            posting_bytes: 0,
            group_bytes: 0,
        }
    }

    /// Adds a subscription that wants what any of `filters` matches; `limit` is ignored. No filters, or
    /// only filters for which [`Filter::matches_nothing`] is true, make a subscription that matches nothing.
    ///
    /// The filters must be normalised. One table look-up and one push for each value, 0.2-0.3 us; where a
    /// sweep is due, also a part of it of the same order.
    pub fn subscribe<'a>(&mut self, filters: impl IntoIterator<Item = &'a Filter>) -> SubSlot {
        let slot = self.slots.take();
        self.extend(slot, filters);
        slot
    }

    /// Adds filters to a living subscription: it wants what any of them matches, too. Costs what
    /// [`Index::subscribe`] does.
    pub fn extend<'a>(&mut self, slot: SubSlot, filters: impl IntoIterator<Item = &'a Filter>) {
        debug_assert!(!self.slots.is_dead(slot), "the subscription has ended");
        let (before, mut checked) = (self.references(), self.slots.filters(slot));
        for filter in filters.into_iter().filter(|filter| !filter.matches_nothing()) {
            checked = self.compile(slot, filter, checked);
        }
        let added = self.references() - before;
        self.slots.fill(slot, checked, self.slots.references(slot) + added);
        if self.is_sweep_due() {
            self.sweep_some(added * SWEEP_SHARE + SWEEP_MIN);
        }
    }

    /// Postings, and keys that conditions refer to: what subscriptions cost in memory.
    fn references(&self) -> usize {
        self.postings + self.checked.condition_keys
    }

    /// Ends a subscription: it is never reported again. Takes constant time; a slot that is not alive is
    /// left alone. Forget the slot: it gets another owner later.
    pub fn unsubscribe(&mut self, slot: SubSlot) {
        if let Some(references) = self.slots.mark_dead(slot) {
            self.dead_references += references;
        }
    }

    /// Appends each subscription that wants `event` to `out`, once, in no particular order.
    ///
    /// Costs a table look-up for the id, the author, the kind and each indexed tag whose letter a filter
    /// names, then a few ns for each candidate. Allocates nothing once `out` is large enough.
    pub fn matches(&mut self, event: &Event, out: &mut Vec<SubSlot>) -> MatchStats {
        let matched_event = MatchedEvent {
            created_at: event.created_at,
            kind: event.kind,
            pubkey: event.pubkey,
            id: event.id,
            view: event.view(),
        };
        self.match_event(matched_event, out)
    }

    /// [`Index::matches`] for an event as it is stored, which is read in place.
    pub fn matches_stored(&mut self, view: CanonicalEvent<'_>, out: &mut Vec<SubSlot>) -> MatchStats {
        let matched_event = MatchedEvent {
            created_at: view.created_at(),
            kind: view.kind(),
            pubkey: view.pubkey(),
            id: view.id(),
            view,
        };
        self.match_event(matched_event, out)
    }

    /// Removes postings of ended subscriptions, visiting about `budget_postings` (a few ns each), and
    /// frees what becomes unused. Returns whether there is more to do now.
    ///
    /// A pass starts when a quarter of the postings or slots is dead, so after `false` up to that much may
    /// still wait.
    pub fn sweep(&mut self, budget_postings: usize) -> bool {
        self.sweep_some(budget_postings)
    }

    /// Living subscriptions.
    pub fn len(&self) -> usize {
        self.slots.live()
    }

    /// Whether there is no living subscription.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap bytes, allocator overhead left out. Takes constant time.
    pub fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.slots.bytes()
            + self.checked.bytes()
            + self.kind_sets.bytes()
            + self.posting_bytes
            + self.group_bytes
            + self.event_keys.capacity() * size_of::<EventTerm>()
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}
