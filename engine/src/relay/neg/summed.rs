//! Reconciliations of many events, from the store's sums ([`SummedSet`]): nothing is collected and nothing is kept, each message is
//! answered about what is stored then. What such an answer reads grows with the ranges of the message in which the sides differ, and
//! it is made in one step: where a message takes too much, the set is collected, or, if it is too large for that, fewer of the
//! message's ranges are answered at once.

use std::ops::Range;
use std::sync::Arc;

use super::sets::SetKey;
use crate::reconcile::{Answer, EventSet, IdSum, Item, LOOKUPS_MAX, StoreError, answer_first};
use crate::relay::Relay;
use crate::store::{Backend, OpenedSet, Reader, SummedSet};
use crate::types::{EventId, Filter, Kind, Timestamp};

/// Ids that an answer may look up, where reading a block counts as 16: some milliseconds. Identical sets of a million in ten runs
/// take half of it.
const IDS_MAX: usize = 16_384;
/// So many look-ups are always allowed: enough for a leading range of mode Skip and one range after it. If only the Skip were answered, the
/// client would send the same message again, for ever.
const LOOKUPS_MIN: usize = 3;
/// [`IDS_MAX`] of such a message. Where that is not enough the reconciliation ends.
const IDS_MAX_OF_LEAST: usize = 8 * IDS_MAX;

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

/// An answer from sums that is being worked out.
pub(super) struct SumsQuery {
    pub(super) key: Arc<SetKey>,
    /// Look-ups for whose ranges there is an answer at once.
    lookups_max: usize,
}

impl SumsQuery {
    pub(super) fn new(key: Arc<SetKey>) -> Self {
        SumsQuery { key, lookups_max: LOOKUPS_MAX }
    }
}

impl<B: Backend> Relay<B> {
    /// Answers `message` about the events of a key from the store's sums, if it has them and the events are many.
    pub(super) fn answer_from_sums(
        &self,
        now: Timestamp,
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
        // One that is at hand answers anything.
        let Some(hidden) = hidden.filter(|_| !self.neg_sets.is_at_hand(&query.key)) else {
            return Ok(Summed::Collect);
        };
        let reader = self.store.reader()?;
        let opened = SummedSet::open(&reader, query.key.filter(), self.store.classes(), hidden, now, budget)?;
        let mut set = match opened {
            OpenedSet::Unsupported => return Ok(Summed::Collect),
            OpenedSet::OutOfBudget => return Ok(Summed::Again),
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
            return Ok(Summed::Answered(answer));
        }
        *budget = budget.saturating_sub(answer.cost);
        if is_least || set.len() <= limits.neg_set_events_max {
            return Ok(Summed::Collect);
        }
        query.lookups_max = (query.lookups_max.min(message.len()) / 4).max(LOOKUPS_MIN);
        Ok(Summed::Again)
    }

    /// Learns some of the sums of all events that a client without keys sees. Returns whether all are known then; `None` if sums are not
    /// used for these events: they are off, the store keeps none, or the events are fewer than `neg_summed_events_min`.
    pub(super) fn learn_sums(&self, now: Timestamp, budget: &mut usize) -> Result<Option<bool>, StoreError> {
        if self.config.limits.neg_summed_events_min == 0 {
            return Ok(None);
        }
        let guarded: &[Kind] = &self.config.policy.guarded_kinds;
        let reader = self.store.reader()?;
        let classes = self.store.classes();
        Ok(match SummedSet::open(&reader, &Filter::default(), classes, guarded, now, budget)? {
            OpenedSet::Unsupported => None,
            OpenedSet::OutOfBudget => Some(false),
            OpenedSet::Set(set) => (set.len() >= self.config.limits.neg_summed_events_min).then_some(true),
        })
    }
}
