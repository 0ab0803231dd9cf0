//! What all agents of a host have counted together, for `/metrics`.
//!
//! An agent's own counters ([`Metrics`](crate::machine::Metrics)) outlive restarts and are in its database, which is closed most
//! of the time. So a host adds up what its agents report while they are open ([`Agent::take_metrics_delta`]): these counters begin
//! at zero when the host starts. Labels are few, whatever agents report: states and causes are from fixed lists, and agents
//! are named only as the [`BUSIEST_MAX`] that have ended the most jobs.
//!
//! [`Agent::take_metrics_delta`]: crate::machine::Agent::take_metrics_delta

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use relay_engine::types::PubKey;

use crate::job::JobState;
use crate::machine::{AgentState, LATENCY_BOUNDS_MILLIS, MetricsDelta, PAYMENTS, known_cause};
use crate::router::AgentEntry;

/// How many of the busiest agents are reported.
pub const BUSIEST_MAX: usize = 10;
/// The label of unknown causes: a Durable Object that still runs another version of the code may report them.
const OTHER: &str = "other";

/// The numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that have ended, by [`JobState::name`] of all states in which jobs end; `done` once the result is stored.
    pub jobs: BTreeMap<&'static str, u64>,
    /// Refusals and failures by cause: those of [`machine::CAUSES`](crate::machine::CAUSES) and
    /// [`failure::CAUSES`](crate::executor::failure::CAUSES) that have occurred, and `other`.
    pub failures: BTreeMap<&'static str, u64>,
    /// Invoices by what has become of them: all of [`machine::PAYMENTS`](crate::machine::PAYMENTS).
    pub payments: BTreeMap<&'static str, u64>,
    /// What customers have paid, in millisatoshis.
    pub received_msat: u64,
    /// Attempts that have begun.
    pub attempts: u64,
    /// Results by the time from request to result: a number for each of [`LATENCY_BOUNDS_MILLIS`], not accumulated, and
    /// one for those that took longer.
    pub latency: Vec<u64>,
    /// The sum of these times, in milliseconds.
    pub latency_millis: u64,
    /// Jobs that wait, as agents reported last.
    pub queued: u64,
    /// Jobs that executors work on, as agents reported last.
    pub running: u64,
    /// Deliveries that agents did not accept; each is made again.
    pub deliveries_failed: u64,
    /// Events that agents were not given, because too much waited for them already.
    pub events_dropped: u64,
}

impl Default for Totals {
    fn default() -> Self {
        let ends = JobState::ALL.into_iter().filter(|state| state.is_final());
        Totals {
            jobs: ends.map(|state| (state.name(), 0)).collect(),
            failures: BTreeMap::new(),
            payments: PAYMENTS.into_iter().map(|name| (name, 0)).collect(),
            received_msat: 0,
            attempts: 0,
            latency: vec![0; LATENCY_BOUNDS_MILLIS.len() + 1],
            latency_millis: 0,
            queued: 0,
            running: 0,
            deliveries_failed: 0,
            events_dropped: 0,
        }
    }
}

/// Adds up what the agents of a host report. Needs memory only for agents that have ended a job, until they are deleted, and for
/// those that have unfinished ones.
#[derive(Debug, Default)]
pub struct Tally {
    totals: Totals,
    /// Jobs that each agent has ended.
    ended: HashMap<PubKey, u64>,
    /// Jobs that wait and jobs that run, of agents that have any.
    unfinished: HashMap<PubKey, (u64, u64)>,
}

impl Tally {
    /// An agent reports.
    pub fn add(&mut self, agent: &PubKey, counted: &MetricsDelta) {
        self.forget_unfinished(agent);
        let totals = &mut self.totals;
        let mut ended = 0;
        for (state, count) in &counted.jobs {
            if let Some(total) = totals.jobs.get_mut(&**state) {
                *total += count;
                ended += count;
            }
        }
        for (cause, count) in &counted.failures {
            *totals.failures.entry(known_cause(cause).unwrap_or(OTHER)).or_default() += count;
        }
        for (name, count) in &counted.payments {
            totals.payments.get_mut(&**name).into_iter().for_each(|total| *total += count);
        }
        totals.received_msat = totals.received_msat.saturating_add(counted.received_msat);
        totals.attempts += counted.attempts;
        totals.latency.iter_mut().zip(&counted.latency).for_each(|(total, count)| *total += count);
        totals.latency_millis += counted.latency_millis;
        if ended > 0 {
            *self.ended.entry(*agent).or_default() += ended;
        }
        if counted.queued + counted.running > 0 {
            totals.queued += counted.queued;
            totals.running += counted.running;
            self.unfinished.insert(*agent, (counted.queued, counted.running));
        }
    }

    /// Takes back the numbers of unfinished jobs that an agent reported last: it has been closed, or reports anew.
    pub fn forget_unfinished(&mut self, agent: &PubKey) {
        if let Some((queued, running)) = self.unfinished.remove(agent) {
            self.totals.queued -= queued;
            self.totals.running -= running;
        }
    }

    /// An agent has been deleted: it is no longer named.
    pub fn deleted(&mut self, agent: &PubKey) {
        self.forget_unfinished(agent);
        self.ended.remove(agent);
    }

    /// An agent has not accepted a delivery.
    pub fn delivery_failed(&mut self) {
        self.totals.deliveries_failed += 1;
    }

    /// The router has dropped so many events.
    pub fn dropped(&mut self, events: u64) {
        self.totals.events_dropped += events;
    }

    /// The numbers.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The agents that have ended the most jobs, most first, [`BUSIEST_MAX`] at most.
    pub fn busiest(&self) -> Vec<(PubKey, u64)> {
        let mut all: Vec<_> = self.ended.iter().map(|(agent, ended)| (*agent, *ended)).collect();
        all.sort_unstable_by_key(|(agent, ended)| (Reverse(*ended), *agent));
        all.truncate(BUSIEST_MAX);
        all
    }
}

/// How many agents are in each state that an agent has before it is deleted, by [`AgentState::name`].
pub fn agents_by_state<'a>(agents: impl IntoIterator<Item = &'a AgentEntry>) -> [(&'static str, u64); 3] {
    let mut counts =
        [AgentState::Active, AgentState::Paused, AgentState::Draining].map(|state| (state.name(), 0));
    for agent in agents {
        let own = counts.iter_mut().find(|(state, _)| *state == agent.state.name());
        own.into_iter().for_each(|(_, count)| *count += 1);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn done(count: u64) -> MetricsDelta {
        MetricsDelta { jobs: counts(&[("done", count)]), ..MetricsDelta::default() }
    }

    fn key(n: u8) -> PubKey {
        PubKey([n; 32])
    }

    #[test]
    fn agents_are_added_up() {
        let mut tally = Tally::default();
        let first = MetricsDelta {
            jobs: counts(&[("done", 2), ("failed", 1)]),
            failures: counts(&[("timeout", 1), ("state", 4)]),
            payments: counts(&[("settled", 2), ("word", 9)]),
            received_msat: 500,
            attempts: 3,
            latency: vec![0, 2],
            latency_millis: 70,
            queued: 5,
            running: 1,
        };
        tally.add(&key(1), &first);
        tally.add(&key(2), &MetricsDelta { latency: vec![1; 13], queued: 7, ..first.clone() });
        let totals = tally.totals();
        assert_eq!(
            totals.jobs,
            [("cancelled", 0), ("done", 4), ("expired", 0), ("failed", 2), ("rejected", 0), ("unpaid", 0)]
                .into()
        );
        assert_eq!(totals.failures, [("timeout", 2), ("state", 8)].into());
        assert_eq!((totals.payments["settled"], totals.payments.len(), totals.received_msat), (4, 11, 1_000));
        assert_eq!(totals.latency, [1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!((totals.attempts, totals.latency_millis), (6, 140));
        assert_eq!((totals.queued, totals.running), (12, 2));
        // An agent's jobs of now replace those of before.
        tally.add(&key(1), &MetricsDelta { queued: 1, ..MetricsDelta::default() });
        assert_eq!((tally.totals().queued, tally.totals().running), (8, 1));
        tally.forget_unfinished(&key(2));
        tally.forget_unfinished(&key(2));
        assert_eq!((tally.totals().queued, tally.totals().running), (1, 0));
        assert_eq!(tally.totals().attempts, 6, "counters stay");
    }

    #[test]
    fn labels_are_few_whatever_agents_report() {
        let mut tally = Tally::default();
        for n in 0..=255 {
            let word = format!("word {n}");
            tally.add(&key(n), &done(u64::from(n) + 1));
            let odd = MetricsDelta {
                jobs: counts(&[(&word, 1)]),
                failures: counts(&[(&word, 1)]),
                ..MetricsDelta::default()
            };
            tally.add(&key(n), &MetricsDelta { latency: vec![1; 100], ..odd });
        }
        let totals = tally.totals();
        assert_eq!(totals.jobs.len(), 6);
        assert_eq!(totals.failures, [(OTHER, 256)].into());
        assert_eq!(totals.latency, [256; LATENCY_BOUNDS_MILLIS.len() + 1]);
        let busiest = tally.busiest();
        assert_eq!(busiest.len(), BUSIEST_MAX);
        assert_eq!(busiest[..2], [(key(255), 256), (key(254), 255)]);
        tally.deleted(&key(255));
        assert_eq!(tally.busiest()[0], (key(254), 255));
    }

    #[test]
    fn agents_without_jobs_take_no_memory() {
        let mut tally = Tally::default();
        tally.add(&key(1), &done(0));
        tally.add(&key(2), &MetricsDelta { queued: 1, ..MetricsDelta::default() });
        tally.deleted(&key(2));
        assert!(tally.ended.is_empty() && tally.unfinished.is_empty());
        assert_eq!(tally.totals(), &Totals::default());
    }
}
