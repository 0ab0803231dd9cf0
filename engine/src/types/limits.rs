//! Every bound of the relay, with unit and reason.
//!
//! What exceeds a bound is refused with a message. NIP-11 advertises these same values.

use super::time::Timestamp;

/// The bounds of one relay. Each has a default that suits a public relay on a small box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest client message in bytes. A REQ for 10,000 authors is 670 KB, so one MiB.
    pub message_bytes_max: usize,
    /// Largest event in bytes of canonical JSON. A follow list of 3,000 people is about 220 KB.
    pub event_bytes_max: usize,
    /// Most tags in an event.
    pub event_tags_max: usize,
    /// Longest content in Unicode characters.
    pub content_chars_max: usize,
    /// How far `created_at` may lie in the past, in seconds; `None` takes any age.
    pub created_at_age_seconds_max: Option<Timestamp>,
    /// How far `created_at` may lie ahead of the relay's clock, in seconds.
    pub created_at_ahead_seconds_max: Timestamp,
    /// NIP-13: leading zero bits an event's id needs; 0 asks for none.
    pub pow_bits_min: u32,
    /// Live subscriptions a connection may hold.
    pub subscriptions_max: usize,
    /// Filters in one REQ or COUNT.
    pub filters_max: usize,
    /// Values in all lists of one REQ or COUNT: bounds the index memory of a subscription.
    pub filter_values_max: usize,
    /// Values in all lists of all subscriptions of a connection, a filter itself counting as one: bounds what one
    /// client costs, at some 300 bytes a value.
    pub connection_values_max: usize,
    /// The same for all connections of a shard, running COUNTs included. While no more than half of them are in use, a REQ or COUNT may have
    /// a third of what is left of that half; the other half is for connections that hold no more than 500.
    pub shard_values_max: usize,
    /// Largest `limit` honoured; larger ones are clamped and NIP-67 says `more`.
    pub limit_max: u32,
    /// `limit` of a filter that has none.
    pub limit_default: u32,
    /// Rows one scan step may read before another connection gets its turn.
    pub scan_rows_max: usize,
    /// Rows one COUNT may read in all; past it the answer is `approximate`.
    pub count_rows_max: u64,
    /// Output waiting for one reader, in bytes, from which on its scans and live events pause and
    /// resume from a cursor.
    pub outbox_bytes_pause: usize,
    /// Output waiting for one reader, in bytes, past which the connection is closed with a reason: it
    /// asks faster than it reads.
    pub outbox_bytes_max: usize,
    /// Messages of one connection that may wait for an earlier one to take effect; then reading pauses. So
    /// it does when they have `message_bytes_max` bytes together.
    pub deferred_messages_max: usize,
    /// Events one verification batch closes at.
    pub verify_batch_max: usize,
    /// Longest an event waits for its batch to fill, in milliseconds.
    pub verify_wait_ms_max: u64,
    /// EVENT messages that may be between arrival and commit, all connections together; then reading pauses.
    pub in_flight_events_max: usize,
    /// Bytes of those events, from which on reading pauses too.
    pub in_flight_bytes_max: usize,
    /// Connections one shard holds.
    pub connections_max: usize,
    /// Public keys one connection may authenticate.
    pub auth_keys_max: usize,
    /// NIP-42: how far `created_at` of an AUTH event may be off, in seconds.
    pub auth_age_seconds_max: Timestamp,
    /// Malformed messages in a row after which a connection is closed for abuse.
    pub bad_messages_max: u32,
    /// EVENT and AUTH messages a connection may send each minute on average; 0 is no bound.
    pub events_per_minute_max: u32,
    /// REQ and COUNT messages a connection may send each minute on average; 0 is no bound.
    pub requests_per_minute_max: u32,
}

impl Limits {
    /// Whether a connection's messages are counted against a rate.
    pub fn counts_messages(&self) -> bool {
        self.events_per_minute_max > 0 || self.requests_per_minute_max > 0
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 1 << 20,
            event_bytes_max: 1 << 20,
            event_tags_max: 10_000,
            content_chars_max: 256 << 10,
            created_at_age_seconds_max: None,
            created_at_ahead_seconds_max: 15 * 60,
            pow_bits_min: 0,
            subscriptions_max: 300,
            filters_max: 100,
            filter_values_max: 20_000,
            connection_values_max: 100_000,
            shard_values_max: 10_000_000,
            limit_max: 5_000,
            limit_default: 500,
            scan_rows_max: 2_000,
            count_rows_max: 1_000_000,
            outbox_bytes_pause: 1 << 20,
            outbox_bytes_max: 8 << 20,
            deferred_messages_max: 256,
            verify_batch_max: 256,
            verify_wait_ms_max: 2,
            in_flight_events_max: 16_384,
            in_flight_bytes_max: 64 << 20,
            connections_max: 10_000,
            auth_keys_max: 16,
            auth_age_seconds_max: 600,
            bad_messages_max: 100,
            events_per_minute_max: 0,
            requests_per_minute_max: 0,
        }
    }
}
