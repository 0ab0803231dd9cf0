//! The set of all events that a client without keys sees, collected before the first client asks for it, and kept up to date:
//! relays that copy each other whole compare it, and collecting one of a million takes seconds. Where the store keeps sums and events are
//! many, only their sums are learned ([`super::summed`]).

use std::sync::Arc;

use super::Relay;
use super::sets::{Collected, Failure, SetKey, SetRequest, SetUse};
use super::summed::{Learned, Learning};
use crate::relay::queries::{Query, StepResult};
use crate::store::{Backend, Reader, Seq};
use crate::types::{Filter, Now};

/// Milliseconds after which the set is brought up to date, or collected again if it was dropped.
const REFRESH_MS: u64 = 60_000;
/// The same if it has more events than it may have, or could not be collected.
const LARGE_REFRESH_MS: u64 = 60 * 60_000;
/// For so long after a NEG-OPEN sums are learned of any number of events.
const USED_MS: u64 = 60 * 60_000;

/// When the set is collected or brought up to date.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::relay) struct Preparation {
    due_at: Now,
    is_running: bool,
    /// When a reconciliation was opened last.
    used_at: Option<Now>,
    learning: Learning,
}

impl Preparation {
    /// When it is to begin.
    pub(in crate::relay) fn poll_timeout(self, events_max: usize) -> Option<Now> {
        (events_max > 0 && !self.is_running).then_some(self.due_at)
    }

    /// A reconciliation has been opened.
    pub(super) fn record_use(&mut self, now: Now) {
        self.used_at = Some(now);
    }

    fn is_used(&self, now: Now) -> bool {
        self.used_at.is_some_and(|at| now.millis_since(at) < USED_MS)
    }
}

impl<B: Backend> Relay<B> {
    /// Begins to collect the set, or to bring it up to date, if it is time. What others hold is not dropped for it.
    pub(in crate::relay) fn prepare_set(&mut self, now: Now) {
        let limits = &self.config.limits;
        let is_due = self.prepared.poll_timeout(limits.neg_prepared_events_max).is_some_and(|at| at <= now);
        if !is_due {
            return;
        }
        self.prepared.due_at = now.plus_millis(REFRESH_MS);
        let key = SetKey::new(&Filter::default(), &self.config.policy.guarded_kinds, &[]);
        if !self.neg_sets.is_kept(&key) && self.neg_sets.bytes() > limits.neg_sets_bytes_max / 4 {
            return;
        }
        let events = self.store.reader().and_then(|reader| reader.stats()).map_or(0, |stats| stats.events);
        let is_few = events <= limits.neg_prepared_events_max as u64;
        if !self.neg_sets.is_kept(&key) && (is_few || self.prepared.is_used(now)) {
            // Sums are enough, where the store keeps them.
            (self.prepared.is_running, self.prepared.learning) = (true, Learning::default());
            return self.enqueue(Query::PrepareSet(None));
        }
        self.prepare_collected(now, &key);
    }

    fn prepare_collected(&mut self, now: Now, key: &Arc<SetKey>) {
        let limits = &self.config.limits;
        match self.neg_sets.get_or_start(&self.store, key, Seq(0), false, now, limits) {
            Ok(set) => {
                self.prepared.is_running = true;
                self.enqueue(Query::PrepareSet(Some(set)));
            }
            Err(error) => _ = self.record_store_error(&error),
        }
    }

    /// A step of that.
    pub(in crate::relay) fn step_prepare(
        &mut self,
        now: Now,
        set: Option<SetUse>,
        budget: &mut usize,
    ) -> StepResult {
        let Some(set) = set else {
            let mut learning = self.prepared.learning;
            let learned = self.learn_sums(now.seconds(), &mut learning, budget);
            self.prepared.learning = learning;
            match learned {
                Ok(Learned::Some) => return StepResult::Again(Query::PrepareSet(None)),
                // It is done again in a minute: pages are merged, and have to be read then.
                Ok(Learned::All | Learned::NotNow) => self.prepared.is_running = false,
                Ok(Learned::Unused) => {
                    self.prepared.is_running = false;
                    let key = SetKey::new(&Filter::default(), &self.config.policy.guarded_kinds, &[]);
                    self.prepare_collected(now, &key);
                }
                Err(error) => {
                    self.prepared.is_running = false;
                    self.record_store_error(&error);
                }
            }
            return StepResult::Done;
        };
        let config = Arc::clone(&self.config);
        let limits = &config.limits;
        let request = SetRequest::new(Seq(0), false, &config.policy.guarded_kinds, limits);
        let collected = self.neg_sets.step(&self.store, &set, now.seconds(), budget, request);
        let has_more = matches!(collected, Some(Collected::More));
        let mut is_failed = false;
        match collected {
            // It is tried again in a minute.
            Some(Collected::Failed(Failure::Store(error))) => _ = self.record_store_error(&error),
            Some(Collected::Failed(_) | Collected::FailedBefore(_)) => is_failed = true,
            // A set that is held is not given up.
            other => drop(other),
        }
        let has_room = self.neg_sets.free(0, limits.neg_sets_bytes_max, Some(set.id()));
        let is_large = self.neg_sets.len(&set) > limits.neg_prepared_events_max;
        if has_more && has_room && !is_large {
            self.metrics.reconciliation_bytes = self.neg_sets.bytes() as u64;
            return StepResult::Again(Query::PrepareSet(Some(set)));
        }
        self.prepared.is_running = false;
        if is_large || is_failed || !has_room {
            self.prepared.due_at = now.plus_millis(LARGE_REFRESH_MS);
            self.neg_sets.give_up(set);
        }
        self.metrics.reconciliation_bytes = self.neg_sets.bytes() as u64;
        StepResult::Done
    }
}
