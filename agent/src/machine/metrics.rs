//! What is counted. Counters outlive restarts; causes and states are fixed words, so there are few of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::job::JobState;

/// Upper bounds of the histogram's buckets, in milliseconds; a last one has no bound.
pub const LATENCY_BOUNDS_MILLIS: [u64; 12] =
    [10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000];

/// Counters of an agent, since it was first deployed, and how many jobs it has now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Jobs that have ended, by [`JobState::name`]; `done` once the result is stored.
    pub jobs: BTreeMap<String, u64>,
    /// Refusals and failures by their cause.
    pub failures: BTreeMap<String, u64>,
    /// Attempts that have begun.
    pub attempts: u64,
    /// Attempts that were interrupted, because the process ended.
    pub interrupted: u64,
    /// Events that were delivered again.
    pub duplicates: u64,
    /// Requests that were refused without an answer: open jobs, and what is over the limit of errors.
    pub silent: u64,
    /// Pings that were answered.
    pub pongs: u64,
    /// Tokens read and written, as far as executors know.
    pub tokens: (u64, u64),
    /// Results by the time from request to result: as many as took at most as long as each of
    /// [`LATENCY_BOUNDS_MILLIS`] and longer than the one before, and a last number for those that took longer.
    pub latency: Vec<u64>,
    /// The sum of these times.
    pub latency_millis: u64,
    /// Jobs that wait.
    #[serde(skip_deserializing)]
    pub queued: usize,
    /// Jobs that executors work on.
    #[serde(skip_deserializing)]
    pub running: usize,
    #[serde(skip)]
    is_changed: bool,
}

impl Metrics {
    pub(super) const NAME: &'static str = "metrics";

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Changes counters.
    pub(super) fn count(&mut self, change: impl FnOnce(&mut Metrics)) {
        change(self);
        self.is_changed = true;
    }

    /// A job has ended; `cause` if it was refused or has failed.
    pub(super) fn ended(&mut self, state: JobState, cause: Option<&str>) {
        self.count(|metrics| {
            *metrics.jobs.entry(state.name().to_owned()).or_default() += 1;
            if let Some(cause) = cause {
                *metrics.failures.entry(cause.to_owned()).or_default() += 1;
            }
        });
    }

    /// A result is stored, `millis` after the request came.
    pub(super) fn answered(&mut self, millis: u64) {
        self.count(|metrics| {
            metrics.latency.resize(LATENCY_BOUNDS_MILLIS.len() + 1, 0);
            let bucket = LATENCY_BOUNDS_MILLIS.partition_point(|bound| *bound < millis);
            metrics.latency[bucket] += 1;
            metrics.latency_millis += millis;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_where_it_belongs() {
        let mut metrics = Metrics::default();
        for millis in [0, 10, 11, 120_000, 120_001, u64::from(u32::MAX)] {
            metrics.answered(millis);
        }
        assert_eq!(metrics.latency, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(metrics.latency.iter().sum::<u64>(), 6);
    }

    #[test]
    fn what_is_stored_is_what_is_read_but_for_the_present() {
        let mut metrics = Metrics::default();
        metrics.ended(JobState::Failed, Some("timeout"));
        metrics.answered(7);
        let before = Metrics { is_changed: false, ..metrics.clone() };
        metrics.queued = 5;
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), before);
    }
}
