//! What a shard counts. Plain numbers: a host renders them.

use std::collections::BTreeMap;

use crate::types::Kind;

/// Kinds counted one by one: a client that sends events of every kind must not fill a metrics page.
pub(super) const KINDS_COUNTED_MAX: usize = 256;

/// A histogram with fixed upper bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending; what lies above goes into one more.
    pub bounds: &'static [u64],
    /// How many values fell into each bucket, not accumulated; one longer than `bounds`.
    pub counts: Vec<u64>,
    /// All values added up.
    pub sum: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: &'static [u64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096];
const MICROS: &[u64] =
    &[50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];
const COUNTS: &[u64] = &[0, 1, 2, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 50_000];

/// The numbers of one shard, since it was made.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Connections open now.
    pub connections: u64,
    /// Connections ever opened.
    pub connections_opened: u64,
    /// Connections refused because all were taken.
    pub connections_refused: u64,
    /// Subscriptions live now.
    pub subscriptions: u64,
    /// Values in the filters of subscriptions and COUNTs, which `shard_values_max` bounds; now.
    pub filter_values: u64,
    /// Memory of those filters as it is charged, which `shard_filter_bytes_max` bounds; now.
    pub filter_bytes: u64,
    /// Bytes of the index of live filters, those of ended subscriptions included until they are swept; now.
    pub index_bytes: u64,
    /// Output that waits for readers, which `shard_outbox_bytes_max` bounds; now.
    pub outbox_bytes: u64,
    /// Live events that wait for their delivery to some subscriptions; now.
    pub deliveries_waiting: u64,
    /// Live events that were not delivered in the step in which they came.
    pub deliveries_deferred: u64,
    /// EVENT messages received.
    pub messages_event: u64,
    /// REQ messages received.
    pub messages_req: u64,
    /// COUNT messages received.
    pub messages_count: u64,
    /// CLOSE messages received.
    pub messages_close: u64,
    /// NEG-OPEN messages received.
    pub messages_neg_open: u64,
    /// NEG-MSG messages received.
    pub messages_neg_msg: u64,
    /// NEG-CLOSE messages received.
    pub messages_neg_close: u64,
    /// AUTH messages received.
    pub messages_auth: u64,
    /// Messages that were none of these, or malformed.
    pub messages_malformed: u64,
    /// Messages that waited until an earlier message of their connection had taken effect.
    pub messages_deferred: u64,
    /// Bytes of messages that wait now, which `deferred_bytes_max` bounds.
    pub deferred_bytes: u64,
    /// Bytes that running scans, counts and replays may come to hold, which `query_bytes_max` bounds; now.
    pub query_bytes: u64,
    /// Reconciliations open now (NIP-77).
    pub reconciliations: u64,
    /// Bytes of the sets of reconciliations, which `neg_sets_bytes_max` bounds; now.
    pub reconciliation_bytes: u64,
    /// Bytes of messages that were parsed: once each, when their turn has come.
    pub bytes_parsed: u64,
    /// Bytes of messages received.
    pub bytes_received: u64,
    /// Bytes of messages handed out.
    pub bytes_sent: u64,
    /// EVENT frames sent.
    pub sent_event: u64,
    /// OK frames sent.
    pub sent_ok: u64,
    /// EOSE frames sent.
    pub sent_eose: u64,
    /// CLOSED frames sent.
    pub sent_closed: u64,
    /// NOTICE frames sent.
    pub sent_notice: u64,
    /// COUNT frames sent.
    pub sent_count: u64,
    /// AUTH frames sent.
    pub sent_auth: u64,
    /// NEG-MSG frames sent.
    pub sent_neg_msg: u64,
    /// NEG-ERR frames sent.
    pub sent_neg_err: u64,
    /// Events stored.
    pub events_stored: u64,
    /// Ephemeral events passed on.
    pub events_ephemeral: u64,
    /// Times a stream began to lag behind its consumer, so that events waited in the store.
    pub streams_lagged: u64,
    /// Failed reads of the store for streams; each is retried.
    pub stream_errors: u64,
    /// Failed reads of the store, those for streams included.
    pub store_read_errors: u64,
    /// Events that were known already.
    pub events_duplicate: u64,
    /// Events refused, for whatever reason.
    pub events_refused: u64,
    /// Events whose signature was wrong.
    pub events_invalid_signature: u64,
    /// Accepted events by kind, for the first 256 kinds seen.
    pub events_by_kind: BTreeMap<Kind, u64>,
    /// Accepted events of all other kinds.
    pub events_of_other_kinds: u64,
    /// Ephemeral events that were not sent to slow clients, which a NOTICE told, or not handed to slow streams.
    pub ephemeral_missed: u64,
    /// Times a subscription fell back to reading from the store because its reader was slow.
    pub subscriptions_lagged: u64,
    /// Events a verification batch.
    pub verify_batch_events: Histogram,
    /// Microseconds from a REQ until the host reported that its EOSE was flushed
    /// ([`handle_flushed`](super::Relay::handle_flushed)).
    pub req_to_eose_us: Histogram,
    /// Subscriptions looked at for an event.
    pub fanout_candidates: Histogram,
    /// Subscriptions that matched an event.
    pub fanout_matches: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            connections: 0,
            connections_opened: 0,
            connections_refused: 0,
            subscriptions: 0,
            filter_values: 0,
            filter_bytes: 0,
            index_bytes: 0,
            outbox_bytes: 0,
            deliveries_waiting: 0,
            deliveries_deferred: 0,
            messages_event: 0,
            messages_req: 0,
            messages_count: 0,
            messages_close: 0,
            messages_neg_open: 0,
            messages_neg_msg: 0,
            messages_neg_close: 0,
            messages_auth: 0,
            messages_malformed: 0,
            messages_deferred: 0,
            deferred_bytes: 0,
            query_bytes: 0,
            reconciliations: 0,
            reconciliation_bytes: 0,
            bytes_parsed: 0,
            bytes_received: 0,
            bytes_sent: 0,
            sent_event: 0,
            sent_ok: 0,
            sent_eose: 0,
            sent_closed: 0,
            sent_notice: 0,
            sent_count: 0,
            sent_auth: 0,
            sent_neg_msg: 0,
            sent_neg_err: 0,
            events_stored: 0,
            events_ephemeral: 0,
            streams_lagged: 0,
            stream_errors: 0,
            store_read_errors: 0,
            events_duplicate: 0,
            events_refused: 0,
            events_invalid_signature: 0,
            events_by_kind: BTreeMap::new(),
            events_of_other_kinds: 0,
            ephemeral_missed: 0,
            subscriptions_lagged: 0,
            verify_batch_events: Histogram::new(SIZES),
            req_to_eose_us: Histogram::new(MICROS),
            fanout_candidates: Histogram::new(COUNTS),
            fanout_matches: Histogram::new(COUNTS),
        }
    }
}

impl Metrics {
    pub(super) fn count_accepted(&mut self, kind: Kind) {
        if let Some(count) = self.events_by_kind.get_mut(&kind) {
            *count += 1;
        } else if self.events_by_kind.len() < KINDS_COUNTED_MAX {
            self.events_by_kind.insert(kind, 1);
        } else {
            self.events_of_other_kinds += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_falls_below_it() {
        let mut histogram = Histogram::new(&[1, 10]);
        for value in [0, 1, 2, 10, 11] {
            histogram.record(value);
        }
        assert_eq!(histogram.counts, [2, 2, 1]);
        assert_eq!((histogram.count(), histogram.sum), (5, 24));
    }
}
