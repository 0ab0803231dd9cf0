//! An object's own counters, and its metrics together with those of its machine.

use relay_engine::relay::{Histogram, Metrics};
use relay_site::metrics::{
    CLIENT_MESSAGES, CLOSED_STALLED, COMMIT_BATCH_EVENTS, COMMIT_ERRORS, COUNTERS_AND_GAUGES, EVENTS,
    EVENTS_EXPIRED, EVENTS_REMOVED_BY_RETENTION, HISTOGRAMS, Metric, RELAY_MESSAGES, events_by_kind,
    received_by_verb, sent_by_verb,
};

#[cfg(feature = "libsecp256k1")]
use crate::metrics::FOR_AGENTS;
use crate::metrics::{FOR_EVENTS, FOR_MAINTENANCE, FOR_REQUESTS, FOR_SYNC, Family, ROWS_READ, ROWS_WRITTEN};

/// Rows as the SQL cursor counts them, which is how storage is billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCount {
    /// Rows read, those of indexes included.
    pub read: u64,
    /// Rows written, those of indexes included.
    pub written: u64,
}

impl RowCount {
    pub(super) fn since(self, earlier: RowCount) -> RowCount {
        RowCount {
            read: self.read.saturating_sub(earlier.read),
            written: self.written.saturating_sub(earlier.written),
        }
    }

    pub(super) fn add(&mut self, other: RowCount) {
        self.read += other.read;
        self.written += other.written;
    }
}

/// Rows by purpose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowsByPurpose {
    /// Ingesting events: checking for duplicates, finding what they replace, storing them.
    pub(super) events: RowCount,
    /// Answering REQ and COUNT.
    pub(super) requests: RowCount,
    /// Session overflows, waking up, sweeps, confirmations of consumers.
    pub(super) maintenance: RowCount,
    /// Copying from other relays: scans of what is here, and positions. Storing what comes is not among it.
    pub(super) sync: RowCount,
    /// Routing events to agents, and their queries.
    #[cfg(feature = "libsecp256k1")]
    pub(super) agents: RowCount,
}

/// Counters of one object since it woke up.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    pub(super) rows: RowsByPurpose,
    pub(super) ticks: u64,
    pub(super) commits: u64,
    pub(super) commit_events: Histogram,
    pub(super) commit_errors: u64,
    pub(super) sessions_restored: u64,
    pub(super) sessions_lost: u64,
    pub(super) sessions_interrupted: u64,
    pub(super) attachments_saved: u64,
    pub(super) attachment_bytes: u64,
    pub(super) overflows_saved: u64,
    pub(super) overflows_failed: u64,
    pub(super) events_expired: u64,
    pub(super) events_removed_by_retention: u64,
    pub(super) alarms: u64,
    pub(super) closed_stalled: u64,
    pub(super) deliveries_failed: u64,
}

const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

impl Default for Counters {
    fn default() -> Self {
        Counters {
            rows: RowsByPurpose::default(),
            ticks: 0,
            commits: 0,
            commit_events: Histogram::new(SIZES),
            commit_errors: 0,
            sessions_restored: 0,
            sessions_lost: 0,
            sessions_interrupted: 0,
            attachments_saved: 0,
            attachment_bytes: 0,
            overflows_saved: 0,
            overflows_failed: 0,
            events_expired: 0,
            events_removed_by_retention: 0,
            alarms: 0,
            closed_stalled: 0,
            deliveries_failed: 0,
        }
    }
}

impl Counters {
    /// All metric families of an object, for [`crate::metrics::render`]; `others` are those that are counted elsewhere.
    pub(super) fn families(&self, machine: &Metrics, others: Vec<(Metric, u64)>) -> Vec<Family> {
        let rows = [
            (FOR_EVENTS, self.rows.events),
            (FOR_REQUESTS, self.rows.requests),
            (FOR_MAINTENANCE, self.rows.maintenance),
            (FOR_SYNC, self.rows.sync),
            #[cfg(feature = "libsecp256k1")]
            (FOR_AGENTS, self.rows.agents),
        ];
        let mut all = vec![
            Family::by(CLIENT_MESSAGES, "verb", received_by_verb(machine)),
            Family::by(RELAY_MESSAGES, "verb", sent_by_verb(machine)),
            Family::by(EVENTS, "kind", events_by_kind(machine)),
            Family::by(ROWS_READ, "purpose", rows.map(|(purpose, count)| (purpose, count.read))),
            Family::by(ROWS_WRITTEN, "purpose", rows.map(|(purpose, count)| (purpose, count.written))),
        ];
        all.extend(COUNTERS_AND_GAUGES.map(|(metric, of)| Family::single(metric, of(machine))));
        all.extend(OWN.map(|(metric, of)| Family::single(metric, of(self))));
        all.extend(others.into_iter().map(|(metric, value)| Family::single(metric, value)));
        all.extend(HISTOGRAMS.map(|(metric, per_unit, of)| Family::histogram(metric, per_unit, of(machine))));
        all.push(Family::histogram(COMMIT_BATCH_EVENTS, 1.0, &self.commit_events));
        all
    }
}

type Number = fn(&Counters) -> u64;

/// The counters' names.
const OWN: [(Metric, Number); 15] = [
    (Metric::counter("relay_ticks", "Ticks of objects"), |n| n.ticks),
    (Metric::counter("relay_commits", "Transactions that stored events"), |n| n.commits),
    (COMMIT_ERRORS, |n| n.commit_errors),
    (Metric::counter("relay_sessions_restored", "Sessions restored after hibernation or eviction"), |n| {
        n.sessions_restored
    }),
    (
        Metric::counter(
            "relay_sessions_lost",
            "Sessions that could not be restored; their sockets were closed",
        ),
        |n| n.sessions_lost,
    ),
    (
        Metric::counter(
            "relay_sessions_interrupted",
            "Sessions whose unanswered messages were lost with the object's memory; their sockets were closed",
        ),
        |n| n.sessions_interrupted,
    ),
    (Metric::counter("relay_attachments_saved", "Socket attachments written"), |n| n.attachments_saved),
    (Metric::counter("relay_attachment_bytes", "Bytes of socket attachments written"), |n| {
        n.attachment_bytes
    }),
    (
        Metric::counter(
            "relay_session_overflow_saved",
            "Overflows of sessions that do not fit into an attachment, written to SQLite",
        ),
        |n| n.overflows_saved,
    ),
    (
        Metric::counter("relay_session_overflow_failed", "Overflows of sessions that could not be written"),
        |n| n.overflows_failed,
    ),
    (EVENTS_EXPIRED, |n| n.events_expired),
    (EVENTS_REMOVED_BY_RETENTION, |n| n.events_removed_by_retention),
    (
        Metric::counter(
            "relay_consumer_deliveries_failed",
            "Batches of events that consumers or agents did not accept; they are sent again",
        ),
        |n| n.deliveries_failed,
    ),
    (Metric::counter("relay_alarms", "Alarms fired"), |n| n.alarms),
    (CLOSED_STALLED, |n| n.closed_stalled),
];
