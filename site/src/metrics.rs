//! Names and help texts of Prometheus metrics: those of the machine, and those that both hosts have. Metrics of one host only
//! are named where they are counted.
//!
//! Names lack the suffixes of the text format (`_total`, `_bucket`, `_sum`, `_count`). Times are in seconds.

use relay_engine::relay::{Histogram, Metrics};
use serde::{Deserialize, Serialize};

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// The help text.
    pub help: &'static str,
    /// Its type.
    pub kind: MetricKind,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// A current value.
    Gauge,
    /// A value that only rises.
    Counter,
    /// Counts of values by bucket.
    Histogram,
}

impl Metric {
    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Metric { name, help, kind: MetricKind::Gauge }
    }

    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Metric { name, help, kind: MetricKind::Counter }
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Metric { name, help, kind: MetricKind::Histogram }
    }
}

/// With the label `verb`; strfry's name.
pub const CLIENT_MESSAGES: Metric = Metric::counter("nostr_client_messages", "Messages from clients by verb");
/// With the label `verb`; strfry's name.
pub const RELAY_MESSAGES: Metric = Metric::counter("nostr_relay_messages", "Messages to clients by verb");
/// With the label `kind`; strfry's name.
pub const EVENTS: Metric = Metric::counter("nostr_events", "Accepted events by kind");
/// Counted by the engine.
pub const CONNECTIONS: Metric = Metric::gauge("relay_connections", "Open WebSocket connections");
/// Counted by the engine.
pub const EVENTS_STORED: Metric = Metric::counter("relay_events_stored", "Events stored");
/// Counted by the engine.
pub const EVENTS_REFUSED: Metric = Metric::counter("relay_events_refused", "Events refused");
/// Counted by the engine.
pub const EVENTS_DUPLICATE: Metric =
    Metric::counter("relay_events_duplicate", "Events that were already stored or already being processed");
/// Counted by a host.
pub const CLOSED_STALLED: Metric = Metric::counter(
    "relay_connections_closed_stalled",
    "Connections closed because their client read nothing for too long",
);
/// Counted by a host.
pub const REFUSED_BY_ADDRESS: Metric = Metric::counter(
    "relay_connections_refused_by_address",
    "Connections refused because their client address had too many",
);
/// Counted by a host.
pub const CONNECTIONS_OF_BUSIEST_ADDRESS: Metric = Metric::gauge(
    "relay_connections_of_busiest_address",
    "Connections of the client address that has the most",
);
/// By the label `address`, of the ten that cost the most. For administrators only, because addresses are personal data.
pub const ADDRESS_COST: Metric = Metric::gauge(
    "relay_address_cost",
    "Work of the client addresses that cost the most lately, in units of about a microsecond; halved every minute",
);
/// By the label `author`, of the ten that have the most.
pub const AUTHOR_BYTES: Metric = Metric::gauge(
    "relay_author_bytes",
    "Bytes of the events of the authors who sent the most lately; halved every minute",
);
/// Counted by a host's writer.
pub const COMMIT_BATCH_EVENTS: Metric = Metric::histogram("relay_commit_batch_events", "Events in a commit");
/// Counted by a host's writer.
pub const COMMIT_ERRORS: Metric = Metric::counter("relay_commit_errors", "Failed commits");
/// Counted by a host.
pub const EVENTS_EXPIRED: Metric =
    Metric::counter("relay_events_expired", "Events removed because they had expired");
/// Counted by a host.
pub const EVENTS_REMOVED_BY_RETENTION: Metric =
    Metric::counter("relay_events_removed_by_retention", "Events removed by the retention of the store");
/// Read from a store.
pub const STORE_EVENTS: Metric = Metric::gauge("relay_store_events", "Events in the store");
/// Read from a store.
pub const STORE_PENDING_REMOVAL: Metric = Metric::gauge(
    "relay_store_pending_removal_events",
    "Deleted events that are still to be removed from the store",
);
/// Read from a store.
pub const STORE_BYTES: Metric = Metric::gauge("relay_store_bytes", "Size of the store in bytes");
/// Counted by a store.
pub const STORE_MAINTENANCE_FAILURES: Metric = Metric::counter(
    "relay_store_maintenance_failures",
    "Steps of the store's maintenance that failed, such as flushes and merges; each is tried again",
);

/// By the label `state`. Counters of agents are added up while agents are loaded, and begin at zero with the host.
pub const AGENT_JOBS: Metric =
    Metric::counter("relay_agent_jobs", "Jobs of all agents that have ended since the start, by state");
/// By the label `cause`.
pub const AGENT_FAILURES: Metric = Metric::counter(
    "relay_agent_failures",
    "Refusals and failures of jobs of all agents since the start, by cause",
);
/// By the label `state`.
pub const AGENT_PAYMENTS: Metric = Metric::counter(
    "relay_agent_payments",
    "Invoices of all agents since the start, by what has become of them",
);
/// In millisatoshis; counted by agents.
pub const AGENT_RECEIVED_MSAT: Metric = Metric::counter(
    "relay_agent_received_msat",
    "Millisatoshis that customers have paid to all agents since the start",
);
/// Counted by agents.
pub const AGENT_ATTEMPTS: Metric =
    Metric::counter("relay_agent_attempts", "Attempts at jobs of all agents that have begun since the start");
/// Counted by agents.
pub const AGENT_ANSWER_SECONDS: Metric = Metric::histogram(
    "relay_agent_answer_seconds",
    "Time from a job request to its result, of all agents since the start",
);
/// Reported by agents that are loaded.
pub const AGENT_JOBS_QUEUED: Metric =
    Metric::gauge("relay_agent_jobs_queued", "Jobs of loaded agents that wait, as agents reported last");
/// Reported by agents that are loaded.
pub const AGENT_JOBS_RUNNING: Metric = Metric::gauge(
    "relay_agent_jobs_running",
    "Jobs of loaded agents that executors work on, as agents reported last",
);
/// By the label `state`; read from the router of agents (`relay_agent::router`).
pub const AGENTS: Metric = Metric::gauge("relay_agents", "Deployed agents by state");
/// Counted by a host.
pub const AGENT_DELIVERIES_FAILED: Metric = Metric::counter(
    "relay_agent_deliveries_failed",
    "Deliveries of events that agents did not accept; each is made again",
);
/// Counted by a host.
pub const AGENT_EVENTS_DROPPED: Metric = Metric::counter(
    "relay_agent_events_dropped",
    "Events that agents were not given because too much waited for them already",
);
/// By the label `agent`, of the ten that have ended the most. For administrators only: how much an agent is used concerns its owner.
pub const AGENT_JOBS_OF_BUSIEST: Metric = Metric::counter(
    "relay_agent_jobs_of_busiest",
    "Jobs that have ended since the start, of the agents that have ended the most",
);

/// By the labels `operation` and `status` (`2xx`).
pub const BLOSSOM_REQUESTS: Metric =
    Metric::counter("relay_blossom_requests", "Requests for blobs by operation and class of status");
/// Counted by a host.
pub const BLOSSOM_BYTES_RECEIVED: Metric =
    Metric::counter("relay_blossom_bytes_received", "Bytes of blobs received from clients and other servers");
/// Counted by a host.
pub const BLOSSOM_BYTES_SENT: Metric =
    Metric::counter("relay_blossom_bytes_sent", "Bytes of blobs sent to clients");
/// Counted by a host.
pub const BLOSSOM_UPLOADS: Metric =
    Metric::gauge("relay_blossom_uploads", "Uploads whose bytes are being taken");
/// Counted by a host.
pub const BLOSSOM_UPLOADS_WAITING: Metric =
    Metric::gauge("relay_blossom_uploads_waiting", "Uploads that wait until others are done");
/// Read from the index.
pub const BLOSSOM_BLOBS: Metric = Metric::gauge("relay_blossom_blobs", "Blobs that are stored");
/// Read from the index.
pub const BLOSSOM_STORED_BYTES: Metric =
    Metric::gauge("relay_blossom_stored_bytes", "Size of all blobs in bytes");
/// Read from the index.
pub const BLOSSOM_REMOVALS: Metric = Metric::gauge(
    "relay_blossom_removals_waiting",
    "Blobs and staged uploads whose bytes are still to be removed from the store",
);

/// Metrics that name clients, authors or agents: only for administrators.
pub const FOR_ADMINS: [Metric; 3] = [ADDRESS_COST, AUTHOR_BYTES, AGENT_JOBS_OF_BUSIEST];

/// Reads a counter or gauge of a machine.
pub type ReadValue = fn(&Metrics) -> u64;

/// The counters and gauges of a machine.
pub const COUNTERS_AND_GAUGES: [(Metric, ReadValue); 27] = [
    (CONNECTIONS, |m| m.connections),
    (Metric::gauge("relay_subscriptions", "Live subscriptions"), |m| m.subscriptions),
    (
        Metric::gauge(
            "relay_filter_values",
            "Values in the filters of live subscriptions and running COUNTs",
        ),
        |m| m.filter_values,
    ),
    (
        Metric::gauge("relay_filter_bytes", "Memory charged for live filters and running COUNTs, in bytes"),
        |m| m.filter_bytes,
    ),
    (Metric::gauge("relay_reconciliations", "Open reconciliations (NIP-77)"), |m| m.reconciliations),
    (
        Metric::gauge(
            "relay_reconciliation_bytes",
            "Memory of the sets of events of reconciliations, in bytes",
        ),
        |m| m.reconciliation_bytes,
    ),
    (Metric::gauge("relay_index_bytes", "Memory of the index of live filters, in bytes"), |m| m.index_bytes),
    (Metric::gauge("relay_outbox_bytes", "Output that waits for its readers, in bytes"), |m| m.outbox_bytes),
    (
        Metric::gauge("relay_deliveries_waiting", "Live events not yet delivered to all their subscriptions"),
        |m| m.deliveries_waiting,
    ),
    (Metric::counter("relay_deliveries_deferred", "Live events that were delivered in several steps"), |m| {
        m.deliveries_deferred
    }),
    (Metric::counter("relay_connections_opened", "WebSocket connections opened"), |m| m.connections_opened),
    (
        Metric::counter(
            "relay_connections_refused",
            "Connections refused because `limits.connections_max` were open",
        ),
        |m| m.connections_refused,
    ),
    (
        Metric::counter(
            "relay_messages_deferred",
            "Messages deferred until an earlier message of the connection took effect",
        ),
        |m| m.messages_deferred,
    ),
    (Metric::gauge("relay_query_memory_bytes", "Memory reserved for running queries, in bytes"), |m| {
        m.query_bytes
    }),
    (Metric::gauge("relay_deferred_bytes", "Bytes of deferred messages"), |m| m.deferred_bytes),
    (Metric::counter("relay_message_bytes_received", "Bytes of messages from clients"), |m| m.bytes_received),
    (Metric::counter("relay_message_bytes_sent", "Bytes of messages to clients"), |m| m.bytes_sent),
    (EVENTS_STORED, |m| m.events_stored),
    (Metric::counter("relay_events_ephemeral", "Ephemeral events delivered"), |m| m.events_ephemeral),
    (EVENTS_DUPLICATE, |m| m.events_duplicate),
    (EVENTS_REFUSED, |m| m.events_refused),
    (Metric::counter("relay_events_invalid_signature", "Events with an invalid signature"), |m| {
        m.events_invalid_signature
    }),
    (
        Metric::counter(
            "relay_ephemeral_missed",
            "Ephemeral events not sent to slow clients, which a NOTICE reports",
        ),
        |m| m.ephemeral_missed,
    ),
    (
        Metric::counter(
            "relay_subscriptions_lagged",
            "Times a subscription fell behind because its client read slowly",
        ),
        |m| m.subscriptions_lagged,
    ),
    (
        Metric::counter(
            "relay_consumers_lagged",
            "Times a consumer of the relay's events fell behind because it was slow",
        ),
        |m| m.streams_lagged,
    ),
    (
        Metric::counter(
            "relay_consumer_read_errors",
            "Failed reads of the store for consumers; each is retried",
        ),
        |m| m.stream_errors,
    ),
    (Metric::counter("relay_store_read_errors", "Failed reads of the store"), |m| m.store_read_errors),
];

/// Reads a histogram of a machine.
pub type ReadHistogram = fn(&Metrics) -> &Histogram;

/// The histograms of a machine, each with the factor between its values and the unit in its name: 1e6 for microseconds in a
/// name that ends in `_seconds`.
pub const HISTOGRAMS: [(Metric, f64, ReadHistogram); 4] = [
    (Metric::histogram("relay_verify_batch_events", "Events in a verification batch"), 1.0, |m| {
        &m.verify_batch_events
    }),
    (Metric::histogram("relay_req_to_eose_seconds", "Time from REQ to EOSE"), 1e6, |m| &m.req_to_eose_us),
    (Metric::histogram("relay_fanout_candidates", "Candidate subscriptions for an event"), 1.0, |m| {
        &m.fanout_candidates
    }),
    (Metric::histogram("relay_fanout_matches", "Subscriptions that matched an event"), 1.0, |m| {
        &m.fanout_matches
    }),
];

/// Messages from clients by verb, for [`CLIENT_MESSAGES`].
pub fn received_by_verb(machine: &Metrics) -> [(&'static str, u64); 9] {
    [
        ("EVENT", machine.messages_event),
        ("REQ", machine.messages_req),
        ("COUNT", machine.messages_count),
        ("CLOSE", machine.messages_close),
        ("AUTH", machine.messages_auth),
        ("NEG-OPEN", machine.messages_neg_open),
        ("NEG-MSG", machine.messages_neg_msg),
        ("NEG-CLOSE", machine.messages_neg_close),
        ("malformed", machine.messages_malformed),
    ]
}

/// Messages to clients by verb, for [`RELAY_MESSAGES`].
pub fn sent_by_verb(machine: &Metrics) -> [(&'static str, u64); 9] {
    [
        ("EVENT", machine.sent_event),
        ("OK", machine.sent_ok),
        ("EOSE", machine.sent_eose),
        ("CLOSED", machine.sent_closed),
        ("NOTICE", machine.sent_notice),
        ("COUNT", machine.sent_count),
        ("AUTH", machine.sent_auth),
        ("NEG-MSG", machine.sent_neg_msg),
        ("NEG-ERR", machine.sent_neg_err),
    ]
}

/// Accepted events by kind, for [`EVENTS`]. Kinds without a counter of their own are `other`.
pub fn events_by_kind(machine: &Metrics) -> impl Iterator<Item = (String, u64)> {
    let known = machine.events_by_kind.iter().map(|(kind, count)| (kind.to_string(), *count));
    known.chain([("other".to_owned(), machine.events_of_other_kinds)])
}

/// A histogram's buckets: upper bounds in the unit of the metric's name, the last one infinite, and the count of each, not
/// cumulative.
pub fn buckets(histogram: &Histogram, per_unit: f64) -> impl Iterator<Item = (f64, u64)> {
    let bounds = histogram.bounds.iter().map(move |bound| *bound as f64 / per_unit);
    bounds.chain([f64::INFINITY]).zip(histogram.counts.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_unique() {
        let mut all = vec![CLIENT_MESSAGES, RELAY_MESSAGES, EVENTS, CLOSED_STALLED, COMMIT_BATCH_EVENTS];
        all.extend([
            COMMIT_ERRORS,
            EVENTS_EXPIRED,
            EVENTS_REMOVED_BY_RETENTION,
            STORE_EVENTS,
            STORE_PENDING_REMOVAL,
            STORE_BYTES,
        ]);
        all.extend([REFUSED_BY_ADDRESS, CONNECTIONS_OF_BUSIEST_ADDRESS]);
        all.extend(FOR_ADMINS);
        all.extend([
            AGENT_JOBS,
            AGENT_FAILURES,
            AGENT_PAYMENTS,
            AGENT_RECEIVED_MSAT,
            AGENT_ATTEMPTS,
            AGENT_ANSWER_SECONDS,
            AGENT_JOBS_QUEUED,
        ]);
        all.extend([AGENT_JOBS_RUNNING, AGENTS, AGENT_DELIVERIES_FAILED]);
        all.extend([BLOSSOM_REQUESTS, BLOSSOM_BYTES_RECEIVED, BLOSSOM_BYTES_SENT, BLOSSOM_UPLOADS]);
        all.extend([BLOSSOM_UPLOADS_WAITING, BLOSSOM_BLOBS, BLOSSOM_STORED_BYTES, BLOSSOM_REMOVALS]);
        all.extend(COUNTERS_AND_GAUGES.map(|(metric, _)| metric));
        all.extend(HISTOGRAMS.map(|(metric, ..)| metric));
        for metric in &all {
            assert_eq!(all.iter().filter(|other| other.name == metric.name).count(), 1, "{}", metric.name);
            assert!(
                metric.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{}",
                metric.name
            );
            let endings = ["_total", "_bucket", "_sum", "_count"];
            assert!(!endings.iter().any(|ending| metric.name.ends_with(ending)), "{}", metric.name);
        }
    }

    #[test]
    fn microseconds_become_seconds() {
        let mut histogram = Histogram::new(&[500, 2_000_000]);
        [100, 600, 3_000_000, 4_000_000].into_iter().for_each(|value| histogram.record(value));
        let expected = [(0.0005, 1), (2.0, 1), (f64::INFINITY, 2)];
        assert!(buckets(&histogram, 1e6).eq(expected));
    }
}
