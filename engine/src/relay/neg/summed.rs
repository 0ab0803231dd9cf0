//! Reconciliations of many events, from the store's sums ([`SummedSet`]): nothing is collected and nothing is kept, each message is
//! answered about what is stored then. What such an answer reads grows with the ranges of the message in which the sides differ, and
//! it is made in one step: where a message takes too much, the set is collected, or, if it is too large for that, fewer of the
//! message's ranges are answered at once.

use std::ops::Range;
use std::sync::Arc;

use super::sets::SetKey;
use crate::reconcile::{Answer, EventSet, IdSum, Item, StoreError, answer_first};
use crate::relay::Relay;
use crate::store::{Backend, OpenedSet, Reader, SumBudget, SummedSet};
use crate::types::{EventId, Filter, Kind, Now, Timestamp};

/// Ids that an answer may look up, where reading a block counts as 16: some milliseconds. Identical sets of a million in ten runs
/// take half of it.
const IDS_MAX: usize = 16_384;
/// So many look-ups are always allowed: enough for a leading range of mode Skip and one range after it. If only the Skip were answered, the
/// client would send the same message again, for ever.
const LOOKUPS_MIN: usize = 3;
/// [`IDS_MAX`] of such a message. Where that is not enough the reconciliation ends.
const IDS_MAX_OF_LEAST: usize = 8 * IDS_MAX;
/// Steps that may find out nothing new, because others use the table of sums at the same time.
const IDLE_STEPS_MAX: u32 = 64;
/// How long events that are being flushed or removed are waited for, in milliseconds: that is done in the background.
const WAIT_MS: u64 = 1_000;

/// How far a message has been answered from sums.
pub(super) enum Summed {
    /// The set has to be collected.
    Collect,
    /// It goes on in another turn.
    Again,
    /// The answer.
    Answered(Answer),
}

/// A set of the store's, as the protocol asks for it.
struct StoreSet<'a, R>(Box<SummedSet<'a, R>>);

impl<R: Reader> EventSet for StoreSet<'_, R> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn position(&self, range: Range<usize>, bound: &Item) -> Result<usize, StoreError> {
        Ok(self.0.position(bound.created_at, &bound.id)?.clamp(range.start, range.end))
    }

    fn list(&self, range: Range<usize>, each: &mut dyn FnMut(Item) -> bool) -> Result<(), StoreError> {
        let mut each = |created_at: Timestamp, id: EventId| each(Item { created_at, id });
        self.0.list(range, &mut each)
    }

    fn sum(&self, range: Range<usize>) -> Result<IdSum, StoreError> {
        self.0.sum(range)
    }
}

/// How many pages of a set have become known, step by step.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::relay) struct Learning {
    known: usize,
    idle_steps: u32,
}

impl Learning {
    /// A step has come to an end. Whether another one is worth it.
    pub(super) fn goes_on(&mut self, budget: &SumBudget) -> bool {
        let known = budget.known + budget.learned;
        self.idle_steps = if known > self.known { 0 } else { self.idle_steps + 1 };
        self.known = self.known.max(known);
        self.idle_steps <= IDLE_STEPS_MAX
    }
}

/// An answer from sums that is being worked out.
pub(super) struct SumsQuery {
    pub(super) key: Arc<SetKey>,
    asked_at: Now,
    /// Look-ups for whose ranges there is an answer at once.
    pub(super) lookups_max: usize,
    learning: Learning,
    /// What earlier steps have cost above their budgets.
    debt: usize,
}

impl SumsQuery {
    pub(super) fn new(key: Arc<SetKey>, asked_at: Now, lookups_max: usize) -> Self {
        SumsQuery { key, asked_at, lookups_max, learning: Learning::default(), debt: 0 }
    }

    /// Pays from `budget`. False if that is not enough.
    fn pay(&mut self, cost: usize, budget: &mut usize) -> bool {
        self.debt += cost;
        let paid = self.debt.min(*budget);
        (self.debt, *budget) = (self.debt - paid, *budget - paid);
        self.debt == 0 && *budget > 0
    }
}

impl<B: Backend> Relay<B> {
    /// Answers `message` about the events of a key from the store's sums, if it has them and the events are many.
    pub(super) fn answer_from_sums(
        &self,
        now: Now,
        query: &mut SumsQuery,
        message: &[u8],
        bytes_max: usize,
        budget: &mut usize,
    ) -> Result<Summed, StoreError> {
        let limits = &self.config.limits;
        if limits.neg_summed_events_min == 0 {
            return Ok(Summed::Collect);
        }
        if !query.pay(0, budget) {
            return Ok(Summed::Again);
        }
        let hidden = query.key.hidden(&self.config.policy.guarded_kinds);
        // One that is at hand answers anything.
        let Some(hidden) = hidden.filter(|_| !self.neg_sets.is_at_hand(&query.key)) else {
            return Ok(Summed::Collect);
        };
        let reader = self.store.reader()?;
        let (filter, classes, mut sums) = (query.key.filter(), self.store.classes(), SumBudget::new(*budget));
        let opened = SummedSet::open(&reader, filter, classes, hidden, now.seconds(), &mut sums)?;
        query.pay(sums.spent, budget);
        let mut set = match opened {
            OpenedSet::Unsupported => return Ok(Summed::Collect),
            OpenedSet::NotNow if now.millis_since(query.asked_at) < WAIT_MS => {
                *budget = 0;
                return Ok(Summed::Again);
            }
            OpenedSet::NotNow => return Ok(Summed::Collect),
            OpenedSet::OutOfBudget if query.learning.goes_on(&sums) => return Ok(Summed::Again),
            OpenedSet::OutOfBudget => return Ok(Summed::Collect),
            OpenedSet::Set(set) => set,
        };
        if set.len() < limits.neg_summed_events_min {
            return Ok(Summed::Collect);
        }
        let is_least = query.lookups_max <= LOOKUPS_MIN;
        set.limit(if is_least { IDS_MAX_OF_LEAST } else { IDS_MAX });
        let set = StoreSet(set);
        let mut answer = answer_first(&set, message, bytes_max, query.lookups_max);
        let StoreSet(set) = set;
        answer.cost += set.cost();
        if !set.is_exhausted() {
            answer.cost += std::mem::take(&mut query.debt);
            return Ok(Summed::Answered(answer));
        }
        query.pay(answer.cost, budget);
        if is_least || set.len() <= limits.neg_set_events_max {
            return Ok(Summed::Collect);
        }
        query.lookups_max = (query.lookups_max.min(message.len()) / 4).max(LOOKUPS_MIN);
        Ok(Summed::Again)
    }

    /// Learns some of the sums of all events that a client without keys sees. Returns whether all are known then; `None` if sums are not
    /// used for these events: they are off, the store keeps none, or not now, or the events are fewer than `neg_summed_events_min`.
    pub(super) fn learn_sums(
        &self,
        now: Timestamp,
        learning: &mut Learning,
        budget: &mut usize,
    ) -> Result<Option<bool>, StoreError> {
        if self.config.limits.neg_summed_events_min == 0 {
            return Ok(None);
        }
        let guarded: &[Kind] = &self.config.policy.guarded_kinds;
        let reader = self.store.reader()?;
        let (classes, mut sums) = (self.store.classes(), SumBudget::new(*budget));
        let opened = SummedSet::open(&reader, &Filter::default(), classes, guarded, now, &mut sums)?;
        *budget = budget.saturating_sub(sums.spent);
        Ok(match opened {
            OpenedSet::Unsupported | OpenedSet::NotNow => None,
            OpenedSet::OutOfBudget => learning.goes_on(&sums).then_some(false),
            OpenedSet::Set(set) => (set.len() >= self.config.limits.neg_summed_events_min).then_some(true),
        })
    }
}
