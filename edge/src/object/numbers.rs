//! What an object counts besides its machine, and what both tell.

use relay_engine::relay::{Histogram, Metrics};
use relay_site::metrics::{
    CLIENT_MESSAGES, CLOSED_STALLED, COMMIT_BATCH_EVENTS, COMMIT_ERRORS, COUNTERS_AND_GAUGES, EVENTS,
    EVENTS_EXPIRED, HISTOGRAMS, Metric, RELAY_MESSAGES, events_by_kind, received_by_verb, sent_by_verb,
};

use crate::metrics::{FOR_EVENTS, FOR_REQUESTS, FOR_UPKEEP, Family, ROWS_READ, ROWS_WRITTEN};

/// Rows of the SQL cursor, which are what storage costs.
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

/// What rows were for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowsFor {
    /// Taking events in: known already, what they replace, storing them.
    pub(super) events: RowCount,
    /// Answering REQ and COUNT.
    pub(super) requests: RowCount,
    /// Sessions that do not fit beside their sockets, waking up, sweeping.
    pub(super) upkeep: RowCount,
}

/// Numbers of one object since it woke up.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) rows: RowsFor,
    pub(super) turns: u64,
    pub(super) commits: u64,
    pub(super) commit_events: Histogram,
    pub(super) commit_errors: u64,
    pub(super) sessions_restored: u64,
    pub(super) sessions_lost: u64,
    pub(super) sessions_interrupted: u64,
    pub(super) attachments_saved: u64,
    pub(super) attachment_bytes: u64,
    pub(super) parts_saved: u64,
    pub(super) parts_failed: u64,
    pub(super) events_expired: u64,
    pub(super) events_retired: u64,
    pub(super) alarms: u64,
    pub(super) closed_stalled: u64,
    pub(super) deliveries_failed: u64,
}

const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            rows: RowsFor::default(),
            turns: 0,
            commits: 0,
            commit_events: Histogram::new(SIZES),
            commit_errors: 0,
            sessions_restored: 0,
            sessions_lost: 0,
            sessions_interrupted: 0,
            attachments_saved: 0,
            attachment_bytes: 0,
            parts_saved: 0,
            parts_failed: 0,
            events_expired: 0,
            events_retired: 0,
            alarms: 0,
            closed_stalled: 0,
            deliveries_failed: 0,
        }
    }
}

impl Numbers {
    /// Everything there is to tell, for [`crate::metrics::render`]; `others` are numbers that are kept elsewhere.
    pub(super) fn families(&self, machine: &Metrics, others: Vec<(Metric, u64)>) -> Vec<Family> {
        let rows = [
            (FOR_EVENTS, self.rows.events),
            (FOR_REQUESTS, self.rows.requests),
            (FOR_UPKEEP, self.rows.upkeep),
        ];
        let mut all = vec![
            Family::by(CLIENT_MESSAGES, "verb", received_by_verb(machine)),
            Family::by(RELAY_MESSAGES, "verb", sent_by_verb(machine)),
            Family::by(EVENTS, "kind", events_by_kind(machine)),
            Family::by(ROWS_READ, "for", rows.map(|(purpose, count)| (purpose, count.read))),
            Family::by(ROWS_WRITTEN, "for", rows.map(|(purpose, count)| (purpose, count.written))),
        ];
        all.extend(COUNTERS_AND_GAUGES.map(|(metric, of)| Family::number(metric, of(machine))));
        all.extend(OWN.map(|(metric, of)| Family::number(metric, of(self))));
        all.extend(others.into_iter().map(|(metric, value)| Family::number(metric, value)));
        all.extend(HISTOGRAMS.map(|(metric, per_unit, of)| Family::histogram(metric, per_unit, of(machine))));
        all.push(Family::histogram(COMMIT_BATCH_EVENTS, 1.0, &self.commit_events));
        all
    }
}

type Number = fn(&Numbers) -> u64;

/// What only an object of the edge counts.
const OWN: [(Metric, Number); 15] = [
    (Metric::counter("relay_turns", "Times the buffer of messages was flushed"), |n| n.turns),
    (Metric::counter("relay_commits", "Transactions that stored events"), |n| n.commits),
    (COMMIT_ERRORS, |n| n.commit_errors),
    (Metric::counter("relay_sessions_restored", "Sessions taken up after hibernation or eviction"), |n| {
        n.sessions_restored
    }),
    (
        Metric::counter(
            "relay_sessions_lost",
            "Sessions that could not be taken up; their sockets were closed",
        ),
        |n| n.sessions_lost,
    ),
    (
        Metric::counter(
            "relay_sessions_interrupted",
            "Sessions whose messages were lost unanswered with the memory; their sockets were closed",
        ),
        |n| n.sessions_interrupted,
    ),
    (Metric::counter("relay_attachments_saved", "Times a session was written beside its socket"), |n| {
        n.attachments_saved
    }),
    (Metric::counter("relay_attachment_bytes", "Bytes of sessions written beside their sockets"), |n| {
        n.attachment_bytes
    }),
    (
        Metric::counter("relay_parts_saved", "Parts of sessions that did not fit there and went to storage"),
        |n| n.parts_saved,
    ),
    (Metric::counter("relay_parts_failed", "Parts of sessions that could not be stored"), |n| n.parts_failed),
    (EVENTS_EXPIRED, |n| n.events_expired),
    (Metric::counter("relay_events_retired", "Events swept because they were older than is kept"), |n| {
        n.events_retired
    }),
    (
        Metric::counter(
            "relay_stream_deliveries_failed",
            "Batches of streams that their consumers did not take; they are handed out again",
        ),
        |n| n.deliveries_failed,
    ),
    (Metric::counter("relay_alarms", "Alarms that have rung"), |n| n.alarms),
    (CLOSED_STALLED, |n| n.closed_stalled),
];
