//! What an object counts besides its machine, and what both tell.

use relay_engine::relay::{Histogram, Metrics};

use crate::metrics::Sample;

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
    pub(super) fn samples(&self, relay: &Metrics, others: &[(&str, u64)]) -> Vec<Sample> {
        let mut out = Vec::new();
        let mut put = |name: &str, label: Option<(&str, &str)>, value: u64| {
            out.push(Sample::new(name, label, value));
        };
        for (verb, count) in [
            ("EVENT", relay.messages_event),
            ("REQ", relay.messages_req),
            ("COUNT", relay.messages_count),
            ("CLOSE", relay.messages_close),
            ("AUTH", relay.messages_auth),
            ("bad", relay.messages_bad),
        ] {
            put("nostr_client_messages_total", Some(("verb", verb)), count);
        }
        for (verb, count) in [
            ("EVENT", relay.sent_event),
            ("OK", relay.sent_ok),
            ("EOSE", relay.sent_eose),
            ("CLOSED", relay.sent_closed),
            ("NOTICE", relay.sent_notice),
            ("COUNT", relay.sent_count),
            ("AUTH", relay.sent_auth),
            ("NEG-ERR", relay.sent_neg_err),
        ] {
            put("nostr_relay_messages_total", Some(("verb", verb)), count);
        }
        for (kind, count) in &relay.events_by_kind {
            put("nostr_events_total", Some(("kind", &kind.to_string())), *count);
        }
        put("nostr_events_total", Some(("kind", "other")), relay.events_of_other_kinds);
        let rows = &self.rows;
        for (purpose, count) in
            [("events", rows.events), ("requests", rows.requests), ("upkeep", rows.upkeep)]
        {
            put("relay_rows_read_total", Some(("for", purpose)), count.read);
            put("relay_rows_written_total", Some(("for", purpose)), count.written);
        }
        for (name, value) in [
            ("relay_connections", relay.connections),
            ("relay_subscriptions", relay.subscriptions),
            ("relay_filter_values", relay.filter_values),
            ("relay_connections_opened_total", relay.connections_opened),
            ("relay_connections_refused_total", relay.connections_refused),
            ("relay_messages_deferred_total", relay.messages_deferred),
            ("relay_message_bytes_received_total", relay.bytes_received),
            ("relay_message_bytes_sent_total", relay.bytes_sent),
            ("relay_events_stored_total", relay.events_stored),
            ("relay_events_ephemeral_total", relay.events_ephemeral),
            ("relay_events_duplicate_total", relay.events_duplicate),
            ("relay_events_refused_total", relay.events_refused),
            ("relay_events_forged_total", relay.events_forged),
            ("relay_ephemeral_missed_total", relay.ephemeral_missed),
            ("relay_subscriptions_lagged_total", relay.subscriptions_lagged),
            ("relay_turns_total", self.turns),
            ("relay_commits_total", self.commits),
            ("relay_commit_errors_total", self.commit_errors),
            ("relay_sessions_restored_total", self.sessions_restored),
            ("relay_sessions_lost_total", self.sessions_lost),
            ("relay_sessions_interrupted_total", self.sessions_interrupted),
            ("relay_attachments_saved_total", self.attachments_saved),
            ("relay_attachment_bytes_total", self.attachment_bytes),
            ("relay_parts_saved_total", self.parts_saved),
            ("relay_parts_failed_total", self.parts_failed),
            ("relay_events_expired_total", self.events_expired),
            ("relay_events_retired_total", self.events_retired),
            ("relay_stream_deliveries_failed_total", self.deliveries_failed),
            ("relay_alarms_total", self.alarms),
            ("relay_closed_stalled_total", self.closed_stalled),
        ] {
            put(name, None, value);
        }
        others.iter().for_each(|(name, value)| put(name, None, *value));
        for (name, histogram) in [
            ("relay_verify_batch_events", &relay.verify_batch_events),
            ("relay_commit_batch_events", &self.commit_events),
            ("relay_req_to_eose_microseconds", &relay.req_to_eose_us),
            ("relay_fanout_candidates", &relay.fanout_candidates),
            ("relay_fanout_matches", &relay.fanout_matches),
        ] {
            let mut below = 0;
            let bounds = histogram.bounds.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(&histogram.counts) {
                below += count;
                put(&format!("{name}_bucket"), Some(("le", &bound)), below);
            }
            put(&format!("{name}_sum"), None, histogram.sum);
            put(&format!("{name}_count"), None, histogram.count());
        }
        out
    }
}
