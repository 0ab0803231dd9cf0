//! What is counted. Counters outlive restarts; causes and states are fixed strings, so there are few of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::executor::failure;
use crate::job::JobState;
use crate::store::JobFigures;

/// Upper bounds of the histogram's buckets, in milliseconds; a last one has no bound.
pub const LATENCY_BOUNDS_MILLIS: [u64; 12] =
    [10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000];

/// Why jobs are refused or end without a result, beside the causes of executors ([`failure::CAUSES`]): labels of a metric.
pub const CAUSES: [&str; 31] = [
    "access",
    "bid",
    "chain",
    "encryption",
    "input_event",
    "input_job",
    "input_timeout",
    "input_url",
    "inputs",
    "input_bytes",
    "internal",
    "interrupted",
    "kind",
    "malformed",
    "no_result",
    "open_job",
    "output",
    "output_store",
    "params",
    "payment_timeout",
    "per_customer",
    "queue_full",
    "quota",
    "queue_timeout",
    "rate",
    "request_bytes",
    "result_refused",
    "signer",
    "state",
    "pow",
    "wallet",
];

/// The states of payments, labels of a metric. `late`: received after the job had ended. `partial`: less than the invoice; the rest is asked for.
/// `held`: of hold invoices; `released`: of these, given back. `refunded`: credit that was paid out; `shared`: shares of recipients that were paid out.
/// `zapped`: received by zaps; `zap_refused`: receipts that do not count.
pub const PAYMENTS: [&str; 11] = [
    "held",
    "invoiced",
    "late",
    "partial",
    "refunded",
    "released",
    "settled",
    "shared",
    "unpaid",
    "zap_refused",
    "zapped",
];

/// The cause as it is in [`CAUSES`] or [`failure::CAUSES`]; `None` if it is in neither.
pub(crate) fn known_cause(cause: &str) -> Option<&'static str> {
    CAUSES.into_iter().chain(failure::CAUSES).find(|known| *known == cause)
}

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
    /// Job requests that were delivered again.
    pub duplicates: u64,
    /// Requests that were not answered: too old, ahead of the clock or expired ones, refused ones that name no agent, and those over
    /// the limit of errors.
    pub silent: u64,
    /// Pings that were answered.
    pub pongs: u64,
    /// Tokens read and written, as far as executors know.
    pub tokens: (u64, u64),
    /// Invoices by what has become of them, as in [`PAYMENTS`].
    pub payments: BTreeMap<String, u64>,
    /// What has come, in millisatoshis.
    pub received_msat: u64,
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
    /// What has not been reported to the host yet.
    #[serde(skip)]
    pub(super) unreported: MetricsDelta,
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
            for jobs in [&mut metrics.jobs, &mut metrics.unreported.jobs] {
                *jobs.entry(state.name().to_owned()).or_default() += 1;
            }
        });
        cause.into_iter().for_each(|cause| self.failed(cause));
    }

    /// Something was refused or has failed.
    pub(super) fn failed(&mut self, cause: &str) {
        debug_assert!(known_cause(cause).is_some(), "{cause} is in no list of causes");
        self.count(|metrics| {
            for failures in [&mut metrics.failures, &mut metrics.unreported.failures] {
                *failures.entry(cause.to_owned()).or_default() += 1;
            }
        });
    }

    /// A result is stored, `millis` after the request came.
    pub(super) fn answered(&mut self, millis: u64) {
        self.count(|metrics| {
            metrics.latency.resize(LATENCY_BOUNDS_MILLIS.len() + 1, 0);
            let bucket = latency_bucket(millis);
            metrics.latency[bucket] += 1;
            metrics.latency_millis += millis;
            let unreported = &mut metrics.unreported;
            unreported.latency.resize(unreported.latency.len().max(bucket + 1), 0);
            unreported.latency[bucket] += 1;
            unreported.latency_millis += millis;
        });
    }

    /// Something has become of an invoice; one of [`PAYMENTS`].
    pub(super) fn payment(&mut self, what: &'static str) {
        debug_assert!(PAYMENTS.contains(&what), "{what}");
        self.count(|metrics| {
            for payments in [&mut metrics.payments, &mut metrics.unreported.payments] {
                *payments.entry(what.to_owned()).or_default() += 1;
            }
        });
    }

    /// So much has come.
    pub(super) fn received(&mut self, msat: u64) {
        self.count(|metrics| {
            for received in [&mut metrics.received_msat, &mut metrics.unreported.received_msat] {
                *received = received.saturating_add(msat);
            }
        });
    }

    /// An attempt has begun.
    pub(super) fn attempted(&mut self) {
        self.count(|metrics| {
            metrics.attempts += 1;
            metrics.unreported.attempts += 1;
        });
    }
}

/// What an agent has done for one customer, as far as its history goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CustomerMetrics {
    /// Jobs that have ended, as in [`Metrics::jobs`].
    pub jobs: BTreeMap<String, u64>,
    /// Refusals and failures by their cause.
    pub failures: BTreeMap<String, u64>,
    /// Attempts that have begun.
    pub attempts: u64,
    /// Results by their time, as in [`Metrics::latency`].
    pub latency: Vec<u64>,
    /// The sum of these times.
    pub latency_millis: u64,
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that executors work on.
    pub running: u64,
}

impl CustomerMetrics {
    /// Adds a job.
    pub(super) fn add(&mut self, job: &JobFigures) {
        self.attempts += u64::from(job.attempts);
        match job.state {
            JobState::Running => self.running += 1,
            state if state.is_unfinished() => self.queued += 1,
            // Its result is stored, as it is where all jobs are counted.
            JobState::Responding | JobState::Done => {
                let counts = &mut self.latency;
                counts.resize(LATENCY_BOUNDS_MILLIS.len() + 1, 0);
                let millis = job.finished_at.saturating_sub(job.received_at);
                counts[latency_bucket(millis)] += 1;
                self.latency_millis = self.latency_millis.saturating_add(millis);
                self.ended(JobState::Done, "");
            }
            state => self.ended(state, &job.cause),
        }
    }

    fn ended(&mut self, state: JobState, cause: &str) {
        *self.jobs.entry(state.name().to_owned()).or_default() += 1;
        if !cause.is_empty() {
            *self.failures.entry(cause.to_owned()).or_default() += 1;
        }
    }
}

/// The place of a time in a histogram.
fn latency_bucket(millis: u64) -> usize {
    LATENCY_BOUNDS_MILLIS.partition_point(|bound| *bound < millis)
}

/// What an agent has counted since its host asked before, and the jobs that it has now. What is zero is left out of its JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsDelta {
    /// Jobs that have ended, as in [`Metrics::jobs`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<String, u64>,
    /// As in [`Metrics::failures`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
    /// As in [`Metrics::payments`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub payments: BTreeMap<String, u64>,
    /// As in [`Metrics::received_msat`].
    #[serde(skip_serializing_if = "is_zero")]
    pub received_msat: u64,
    /// Attempts that have begun.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u64,
    /// Results by their time, as in [`Metrics::latency`], without the zeros at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<u64>,
    /// The sum of these times.
    #[serde(skip_serializing_if = "is_zero")]
    pub latency_millis: u64,
    /// Jobs that wait now.
    #[serde(skip_serializing_if = "is_zero")]
    pub queued: u64,
    /// Jobs that executors work on now.
    #[serde(skip_serializing_if = "is_zero")]
    pub running: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
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
        let before = Metrics { is_changed: false, unreported: MetricsDelta::default(), ..metrics.clone() };
        metrics.queued = 5;
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), before);
    }
}
