//! Filters that no event can match yet: their `since` is later than the latest `created_at` that is accepted.
//!
//! In the index they would be candidates for events that they cannot match. Here they wait in the order of `since`, two
//! machine words for each, and go into the index in time: those that are due before the next event is matched,
//! so that nothing depends on timers, and some a little earlier, so that many with the same `since` cause no delay.

use std::collections::BTreeSet;

use crate::index::SubSlot;
use crate::types::{Filter, Timestamp};

/// Filters may enter the index this many seconds before they can match.
const EARLY_SECONDS: Timestamp = 60;
/// Values of filters that enter early at a time: some 0.3 ms.
const EARLY_VALUES: usize = 1_000;

/// Waiting filters, by `since`.
#[derive(Debug, Default)]
pub(super) struct FutureFilters {
    queue: BTreeSet<(Timestamp, SubSlot)>,
    /// The latest `created_at` that is accepted now.
    created_at_max: Timestamp,
    /// Values left to enter early in this call.
    early_values: usize,
}

impl FutureFilters {
    /// Whether an event could match the filter by now.
    pub(super) fn is_due(&self, filter: &Filter) -> bool {
        filter.since.unwrap_or(0) <= self.created_at_max
    }

    /// Keeps those filters of a subscription that are not due.
    pub(super) fn keep(&mut self, slot: SubSlot, filters: &[Filter]) {
        let future = filters.iter().filter(|filter| !self.is_due(filter));
        let future: Vec<_> = future.map(|filter| (filter.since.unwrap_or(0), slot)).collect();
        self.queue.extend(future);
    }

    /// The subscription has ended.
    pub(super) fn forget(&mut self, slot: SubSlot, filters: &[Filter]) {
        if !self.queue.is_empty() {
            for filter in filters {
                self.queue.remove(&(filter.since.unwrap_or(0), slot));
            }
        }
    }

    /// Events may be dated up to `created_at_max` now.
    pub(super) fn advance(&mut self, created_at_max: Timestamp) {
        self.created_at_max = created_at_max;
        self.early_values = EARLY_VALUES;
    }

    /// Pops the next filter that is due, or that an event of this `created_at` could match: its `since`, and its
    /// subscription.
    pub(super) fn pop(&mut self, created_at: Timestamp) -> Option<(Timestamp, SubSlot)> {
        let (since, _) = *self.queue.first()?;
        let is_early = since > self.created_at_max.max(created_at);
        if is_early && (self.early_values == 0 || since > self.created_at_max.saturating_add(EARLY_SECONDS)) {
            return None;
        }
        self.queue.pop_first()
    }

    /// Charges the values of popped filters, the filters themselves included.
    pub(super) fn record_values(&mut self, values: usize) {
        self.early_values = self.early_values.saturating_sub(values);
    }
}
