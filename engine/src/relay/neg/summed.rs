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
/// How long events that are being flushed or removed are waited for, in milliseconds, and how often they are looked for: that is done in the background.
const WAIT_MS: u64 = 1_000;
const LOOK_MS: u64 = 20;

/// How far a message has been answered from sums.
pub(super) enum Summed {
    /// The set has to be collected.
    Collect,
    /// It goes on in another turn.
    Again,
    /// It goes on at that time.
    Later(Now),
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

/// How far the sums of all events are known.
pub(super) enum Learned {
    /// They are not used: they are off, the store keeps none, or the events are fewer than `neg_summed_events_min`.
    Unused,
    /// There is more to learn.
    Some,
    /// It has to be tried again later.
    NotNow,
    /// All.
    All,
}

/// An answer from sums that is being worked out.
pub(super) struct SumsQuery {
    pub(super) key: Arc<SetKey>,
    /// Look-ups for whose ranges there is an answer at once.
    pub(super) lookups_max: usize,
    learning: Learning,
    /// Since when too many events are being flushed or removed.
    busy_since: Option<Now>,
    /// What steps have cost above their budgets.
    pub(super) debt: usize,
}

impl SumsQuery {
    pub(super) fn new(key: Arc<SetKey>, lookups_max: usize) -> Self {
        SumsQuery { key, lookups_max, learning: Learning::default(), busy_since: None, debt: 0 }
    }

    /// Pays from `budget`, and the rest in later steps.
    fn pay(&mut self, cost: usize, budget: &mut usize) {
        let paid = cost.min(*budget);
        self.debt += cost - paid;
        *budget -= paid;
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
        let hidden = query.key.hidden(&self.config.policy.guarded_kinds);
        let reader = self.store.reader()?;
        // One that is at hand answers anything.
        let is_at_hand = self.neg_sets.is_at_hand(&query.key, reader.unlogged_removals()?, now);
        let Some(hidden) = hidden.filter(|_| !is_at_hand) else { return Ok(Summed::Collect) };
        let min = limits.neg_summed_events_min;
        let (filter, classes, mut sums) = (query.key.filter(), self.store.classes(), SumBudget::new(*budget));
        let opened = SummedSet::open(&reader, filter, classes, hidden, now.seconds(), min, &mut sums)?;
        query.pay(sums.spent, budget);
        let mut set = match opened {
            OpenedSet::NotNow => {
                let since = *query.busy_since.get_or_insert(now);
                let is_waited_for = now.millis_since(since) < WAIT_MS;
                return Ok(if is_waited_for {
                    Summed::Later(now.plus_millis(LOOK_MS))
                } else {
                    Summed::Collect
                });
            }
            OpenedSet::OutOfBudget => {
                query.busy_since = None;
                let goes_on = query.learning.goes_on(&sums);
                return Ok(if goes_on { Summed::Again } else { Summed::Collect });
            }
            OpenedSet::Unsupported | OpenedSet::Few => return Ok(Summed::Collect),
            OpenedSet::Set(set) => set,
        };
        let is_least = query.lookups_max <= LOOKUPS_MIN;
        set.limit(if is_least { IDS_MAX_OF_LEAST } else { IDS_MAX });
        let set = StoreSet(set);
        let mut answer = answer_first(&set, message, bytes_max, query.lookups_max);
        let StoreSet(set) = set;
        answer.cost += set.cost();
        if !set.is_exhausted() {
            return Ok(Summed::Answered(answer));
        }
        query.pay(answer.cost, budget);
        if is_least || set.len() <= limits.neg_set_events_max {
            return Ok(Summed::Collect);
        }
        query.lookups_max = (query.lookups_max.min(message.len()) / 4).max(LOOKUPS_MIN);
        Ok(Summed::Again)
    }

    /// Learns some of the sums of all events that a client without keys sees.
    pub(super) fn learn_sums(
        &self,
        now: Timestamp,
        learning: &mut Learning,
        budget: &mut usize,
    ) -> Result<Learned, StoreError> {
        let min = self.config.limits.neg_summed_events_min;
        if min == 0 {
            return Ok(Learned::Unused);
        }
        let guarded: &[Kind] = &self.config.policy.guarded_kinds;
        let reader = self.store.reader()?;
        let (classes, mut sums) = (self.store.classes(), SumBudget::new(*budget));
        let opened = SummedSet::open(&reader, &Filter::default(), classes, guarded, now, min, &mut sums)?;
        *budget = budget.saturating_sub(sums.spent);
        Ok(match opened {
            OpenedSet::Unsupported | OpenedSet::Few => Learned::Unused,
            OpenedSet::OutOfBudget if learning.goes_on(&sums) => Learned::Some,
            OpenedSet::OutOfBudget | OpenedSet::NotNow => Learned::NotNow,
            OpenedSet::Set(_) => Learned::All,
        })
    }
}
