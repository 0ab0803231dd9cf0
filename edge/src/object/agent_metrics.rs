//! The metrics of agents, as far as they have reported to the relay's object since it woke up.

use relay_agent::identity::npub;
use relay_agent::machine::{LATENCY_BOUNDS_MILLIS, MetricsDelta};
use relay_agent::totals::agents_by_state;
use relay_engine::relay::Histogram;
use relay_engine::types::PubKey;
use relay_site::metrics::{
    AGENT_ANSWER_SECONDS, AGENT_ATTEMPTS, AGENT_DELIVERIES_FAILED, AGENT_EVENTS_DROPPED, AGENT_FAILURES,
    AGENT_JOBS, AGENT_JOBS_OF_BUSIEST, AGENT_JOBS_QUEUED, AGENT_JOBS_RUNNING, AGENT_PAYMENTS,
    AGENT_RECEIVED_MSAT, AGENTS,
};

use super::RowCountingConn;
use super::agents::Agents;
use crate::metrics::Family;

/// Milliseconds in a second.
const MILLIS: f64 = 1e3;

impl<C: RowCountingConn> Agents<C> {
    /// An agent reports what it has counted.
    pub(super) fn count(&mut self, agent: &PubKey, counted: &MetricsDelta) {
        self.tally.add(agent, counted);
        if self.router.get(agent).is_none() {
            self.tally.deleted(agent);
        }
    }

    /// All metric families of agents. They name the busiest, see [`crate::metrics::without_names`]. Reads no row.
    pub(super) fn families(&self) -> [Family; 12] {
        let totals = self.tally.totals();
        let seconds = Histogram {
            bounds: &LATENCY_BOUNDS_MILLIS,
            counts: totals.latency.clone(),
            sum: totals.latency_millis,
        };
        let busiest = self.tally.busiest().into_iter().map(|(agent, ended)| (npub(&agent), ended));
        [
            Family::by(AGENT_JOBS, "state", totals.jobs.clone()),
            Family::by(AGENT_FAILURES, "cause", totals.failures.clone()),
            Family::by(AGENT_PAYMENTS, "state", totals.payments.clone()),
            Family::single(AGENT_RECEIVED_MSAT, totals.received_msat),
            Family::single(AGENT_ATTEMPTS, totals.attempts),
            Family::histogram(AGENT_ANSWER_SECONDS, MILLIS, &seconds),
            Family::single(AGENT_JOBS_QUEUED, totals.queued),
            Family::single(AGENT_JOBS_RUNNING, totals.running),
            Family::by(AGENTS, "state", agents_by_state(self.router.agents())),
            Family::single(AGENT_DELIVERIES_FAILED, totals.deliveries_failed),
            Family::single(AGENT_EVENTS_DROPPED, totals.events_dropped),
            Family::by(AGENT_JOBS_OF_BUSIEST, "agent", busiest),
        ]
    }
}
