//! Retention removes events that are too old by the first rule that has their kind, and, if there are still too many, those that
//! were stored first. It makes one step at a time, between commits.

use std::time::{Duration, Instant};

use relay_engine::store::{Backend, Reader, Removed, Seq, StoreError, sweep_first, sweep_older_than};
use relay_engine::types::{Kind, Timestamp};

use crate::config::Store;

/// Between two sweeps, so many of those of expired events pass.
const SWEEPS: u64 = 60;
/// Time after a pass over all events that has left too many, because they are kept, until the next one.
const PASS_WAIT: Duration = Duration::from_secs(3_600);
/// Events removed by one step.
const EVENTS_MAX: usize = 512;

/// When what is removed.
pub(crate) struct Retention {
    settings: Store,
    /// Ages of the rules, in seconds, each once.
    ages: Vec<u64>,
    /// When the next step is due.
    at: Instant,
    /// The last event that the present sweep by number has looked at.
    looked_at: Seq,
    /// When that may go on.
    surplus_at: Instant,
}

impl Retention {
    /// It begins at once.
    pub(crate) fn new(settings: &Store, now: Instant) -> Self {
        let mut ages: Vec<u64> = settings.retention.iter().map(|rule| rule.age_seconds).collect();
        ages.retain(|age| *age > 0);
        ages.sort_unstable();
        ages.dedup();
        Retention { settings: settings.clone(), ages, at: now, looked_at: Seq(0), surplus_at: now }
    }

    /// When [`Retention::step`] has something to do.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        (!self.ages.is_empty() || self.settings.retention_events_max > 0).then_some(self.at)
    }

    /// One step. Returns how many events it has removed.
    ///
    /// # Errors
    /// The backend's; it is tried again with the next sweep.
    pub(crate) fn step<B: Backend>(
        &mut self,
        store: &B,
        now: Timestamp,
        instant: Instant,
    ) -> Result<usize, StoreError> {
        self.at = instant + Duration::from_secs(self.settings.sweep_seconds.saturating_mul(SWEEPS));
        let mut removed = self.sweep_ages(store, now)?;
        if !removed.more && self.settings.retention_events_max > 0 && instant >= self.surplus_at {
            let surplus = self.sweep_surplus(store, instant)?;
            removed = Removed { events: removed.events + surplus.events, ..surplus };
        }
        if removed.more {
            self.at = instant;
        }
        Ok(removed.events)
    }

    fn sweep_ages<B: Backend>(&self, store: &B, now: Timestamp) -> Result<Removed, StoreError> {
        for age in &self.ages {
            let is_swept = |kind: Kind| self.settings.age_of(kind) == Some(*age);
            let removed = sweep_older_than(store, now.saturating_sub(*age), &is_swept, EVENTS_MAX)?;
            if removed != Removed::default() {
                // The others come with the next step.
                return Ok(Removed { more: true, ..removed });
            }
        }
        Ok(Removed::default())
    }

    /// Removes some of the events that are too many, those first that were stored first.
    fn sweep_surplus<B: Backend>(&mut self, store: &B, instant: Instant) -> Result<Removed, StoreError> {
        let surplus = store.reader()?.stats()?.events.saturating_sub(self.settings.retention_events_max);
        let most = usize::try_from(surplus).unwrap_or(usize::MAX).min(EVENTS_MAX);
        if most == 0 {
            self.looked_at = Seq(0);
            return Ok(Removed::default());
        }
        let is_swept = |kind: Kind| self.settings.is_removed_by_number(kind);
        let (removed, looked_at) = sweep_first(store, self.looked_at, &is_swept, most)?;
        self.looked_at = looked_at;
        if !removed.more {
            // All that is left is kept.
            (self.looked_at, self.surplus_at) = (Seq(0), instant + PASS_WAIT);
        }
        Ok(removed)
    }
}
