//! All limits of the relay, with unit and reason.
//!
//! What exceeds a limit is refused with a message. NIP-11 advertises these same values.

use super::kind::{Kind, is_list};
use super::time::Timestamp;

/// The limits of one relay. Each has a default that suits a public relay on a small box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest client message in bytes. Content and tags as long as they may be must fit, see [`Limits::check`]; a REQ for
    /// 20,000 authors, 1.3 MB, does too.
    pub message_bytes_max: usize,
    /// Largest event in bytes of canonical JSON. A follow list of 3,000 people is about 220 KB.
    pub event_bytes_max: usize,
    /// Most tags in an event that is not a list. An indexed tag is a posting in the store, and every tag is read by each
    /// filter that asks for tags. Of 2,343 real events none has more than 1,443.
    pub event_tags_max: usize,
    /// Most tags in a list ([`is_list`]): people follow thousands. Where it is less than `event_tags_max`, that holds.
    pub list_tags_max: usize,
    /// Longest content in Unicode characters. The longest that NIP-44 encrypts is 87,472, a book some 500,000.
    pub content_chars_max: usize,
    /// How far `created_at` may lie in the past, in seconds; `None` takes any age.
    pub created_at_age_seconds_max: Option<Timestamp>,
    /// How far `created_at` may lie ahead of the relay's clock, in seconds.
    pub created_at_ahead_seconds_max: Timestamp,
    /// NIP-13: leading zero bits an event's id needs; 0 asks for none. See also `Policy::pow_commitment_required`.
    pub pow_bits_min: u32,
    /// Live subscriptions a connection may hold.
    pub subscriptions_max: usize,
    /// Filters in one REQ or COUNT.
    pub filters_max: usize,
    /// Values in all lists of one REQ or COUNT: bounds the index memory of a subscription.
    pub filter_values_max: usize,
    /// Values in all lists of all subscriptions of a connection: bounds what one client costs, at some 300 bytes a value. A
    /// filter itself counts as one, and a tag value as one more for each 256 bytes. A filter without ids, authors and tags
    /// is compared with every event, so it counts more: 1,000 values by default, or 100 for each kind if it has kinds
    /// (`relay/values.rs` has the formula).
    pub connection_values_max: usize,
    /// The same for all connections of a shard, running COUNTs included. With `used` of them in use, a REQ or COUNT
    /// may take `(shard_values_max / 2 - used) / 3`. The other half is reserved, so that every connection may hold 500
    /// values, or four filters that match all events.
    pub shard_values_max: usize,
    /// Largest `limit` honoured; larger ones are clamped and NIP-67 says `more`.
    pub limit_max: u32,
    /// `limit` of a filter that has none.
    pub limit_default: u32,
    /// What one step of a scan, count or replay may cost before another client address is served, and what a step of live
    /// delivery may cost. A unit of cost is about a microsecond of work: a posting, a small event, a subscription that an event is
    /// queued for; large events, and those that many conditions ask about, cost more (`store/cost.rs`).
    pub step_cost_max: usize,
    /// Cost of one COUNT in all; past it the answer is `approximate`.
    pub count_cost_max: u64,
    /// Output waiting for one reader, in bytes, from which on its scans and live events pause and
    /// resume after the last event sent.
    pub outbox_pause_bytes: usize,
    /// Output waiting for one reader, in bytes, past which the connection is closed with 1008, because it
    /// sends requests faster than it reads the answers.
    pub outbox_bytes_max: usize,
    /// Messages of one connection that may wait for an earlier one to take effect; then reading pauses. So
    /// it does when they have `message_bytes_max` bytes together.
    pub deferred_messages_max: usize,
    /// Events one verification batch closes at.
    pub verify_batch_max: usize,
    /// Longest an event waits for its batch to fill, in milliseconds.
    pub verify_wait_ms_max: u64,
    /// EVENT messages that may be between arrival and commit, all connections together; then reading pauses. From a half on
    /// it pauses for connections that have more than a 256th of this (or of the bytes) in flight.
    pub in_flight_events_max: usize,
    /// Bytes of those events, from which on reading pauses too.
    pub in_flight_bytes_max: usize,
    /// Connections one shard holds; a host of several shards counts them over all.
    pub connections_max: usize,
    /// Public keys one connection may authenticate.
    pub auth_keys_max: usize,
    /// NIP-42: how far `created_at` of an AUTH event may be off, in seconds.
    pub auth_age_seconds_max: Timestamp,
    /// Malformed messages in a row after which a connection is closed for abuse.
    pub malformed_messages_max: u32,
    /// EVENT and AUTH messages a connection may send per minute on average; 0 is unlimited.
    pub events_per_minute_max: u32,
    /// REQ and COUNT messages a connection may send per minute on average; 0 is unlimited.
    pub requests_per_minute_max: u32,
    /// Bytes of messages of all connections that may wait for an earlier one to take effect. A connection whose own take
    /// more than a quarter of what is left is not read until fewer wait. So those with the most pause first, and one with
    /// nothing waiting is always read.
    pub deferred_bytes_max: usize,
    /// Output waiting for all readers of a shard, in bytes. A reader's `outbox_pause_bytes` (and `outbox_bytes_max`, for
    /// ephemeral events) holds in full while at most a quarter of it is queued, and falls from there on; from half of
    /// it on, each reader may have `shard_outbox_bytes_max / 2 / connections_max`. An event for each reader, and answers such as
    /// OK, may go past it.
    pub shard_outbox_bytes_max: usize,
    /// Memory of the filters of all connections of a shard, in bytes, the index included: some 180 for an id, an author or a
    /// short tag value, 16 for a kind, 320 for a filter and 512 for a request beside them. Given out as `shard_values_max` is;
    /// what a connection has of the other half is 128 KB.
    pub shard_filter_bytes_max: usize,
    /// EVENT and AUTH messages that all connections of a client address may send per minute on average; 0 is unlimited. Carriers
    /// put many people behind one address, and a relay that sends others' events has one. An event with a wrong signature
    /// counts as twenty.
    pub address_events_per_minute_max: u32,
    /// What the live delivery of the events of a client address may cost per minute on average, over all shards: one
    /// for each subscription that an event is compared with, and one more (six more on the edge) for each that it is sent to.
    /// An event that costs less than 60 is not charged. When the budget is used up, EVENT messages of the address are
    /// refused; 0 is unlimited. The default is a tenth of a thread.
    pub address_fanout_cost_per_minute_max: u32,
    /// REQ and COUNT messages that all connections of a client address may send per minute on average; 0 is unlimited.
    pub address_requests_per_minute_max: u32,
    /// Scans, counts and replays of a client address that may be unfinished in a shard at a time: that have begun, whether
    /// or not they wait for memory. Those that wait for their reader are not counted. Further ones wait before their first step,
    /// and hold only their filters in memory.
    pub address_queries_max: usize,
    /// Bytes that running scans, counts and replays of all connections may come to hold: cursors, and what is read
    /// ahead of them. A query that may need more than 256 KiB (some 700 authors or tag values) waits until all such queries
    /// together fit into half of this, and all queries of its address into a quarter.
    pub query_bytes_max: usize,
    /// Reconciliations (NIP-77) that a connection may have open, here called sessions; their ids are apart from those of
    /// subscriptions.
    pub neg_sessions_max: usize,
    /// Most events of a set that is collected for a reconciliation. A set takes 40 bytes of memory an event.
    pub neg_set_events_max: usize,
    /// Events of a reconciliation from which on it is answered from sums that the store keeps, if it does (the store on files): no set is
    /// collected and held, and there may be more events than `neg_set_events_max`. Each message is answered about what is stored when it comes. 0: never.
    pub neg_summed_events_min: usize,
    /// Memory of the sets of all reconciliations of a shard, of sets kept for later ones and of messages waiting for
    /// their answer, in bytes; what one step collects may go past it. Reconciliations of the same filter share a set. When it is used up, sets that are kept are dropped,
    /// and reconciliations that have been idle for a minute are closed; then no more are opened. While more than half is in
    /// use, an address may have one set, or sets of a quarter together.
    pub neg_sets_bytes_max: usize,
    /// Most events for which the set of all events (the filter `{}`) is collected before anybody asks for it, and kept up to
    /// date, so that the first reconciliation of it need not wait for a scan: one to three seconds for a million events. It takes
    /// 40 bytes an event in each shard, and memory of `neg_sets_bytes_max`. Where it would be answered from sums, these are learned instead, for an hour after a
    /// reconciliation of any number of events. 0 is never.
    pub neg_prepared_events_max: usize,
}

/// Bytes of an EVENT message beside what its tags and its content take: 364, and what white space may take.
const EVENT_MESSAGE_BYTES: usize = 512;
/// Most bytes of a character in JSON: one beyond the basic plane as two escapes, `\ud83d\udc9c`, as Python writes it.
const CHAR_BYTES_MAX: usize = 12;
/// Bytes of a tag of a follow list: a key, a relay, a comma. Tags may be longer, as long as the message is not.
const TAG_BYTES: usize = 100;

impl Limits {
    /// Whether what NIP-11 promises fits into a message: content of `content_chars_max` in any escaping, and a follow list of
    /// `event_tags_max`. More tags, up to `list_tags_max`, are taken as far as they fit.
    ///
    /// # Errors
    /// The name of the limit that is too large for `message_bytes_max`, and a message that names the largest value that fits.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let max = self.message_bytes_max.saturating_sub(EVENT_MESSAGE_BYTES);
        for (name, limit, bytes, what) in [
            ("limits.content_chars_max", self.content_chars_max, CHAR_BYTES_MAX, "a character may take"),
            ("limits.event_tags_max", self.event_tags_max, TAG_BYTES, "a tag of a follow list takes"),
        ] {
            if limit > max / bytes {
                let message = format!(
                    "is too large: {what} {bytes} bytes, so that no more than {} fit into limits.message_bytes_max, {}",
                    max / bytes,
                    self.message_bytes_max
                );
                return Err((name, message));
            }
        }
        Ok(())
    }

    /// Most tags in an event of this kind.
    pub fn tags_max_of(&self, kind: Kind) -> usize {
        if is_list(kind) { self.tags_max_of_any() } else { self.event_tags_max }
    }

    /// Most tags in an event whose kind is not known.
    pub fn tags_max_of_any(&self) -> usize {
        self.event_tags_max.max(self.list_tags_max)
    }

    /// Whether a connection's messages are counted against a rate.
    pub fn counts_messages(&self) -> bool {
        self.events_per_minute_max > 0 || self.requests_per_minute_max > 0
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 2 << 20,
            event_bytes_max: 1 << 20,
            event_tags_max: 2_500,
            list_tags_max: 5_000,
            content_chars_max: 128 << 10,
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
            step_cost_max: 2_000,
            count_cost_max: 1_000_000,
            outbox_pause_bytes: 1 << 20,
            outbox_bytes_max: 8 << 20,
            deferred_messages_max: 256,
            verify_batch_max: 256,
            verify_wait_ms_max: 2,
            in_flight_events_max: 16_384,
            in_flight_bytes_max: 64 << 20,
            connections_max: 10_000,
            auth_keys_max: 16,
            auth_age_seconds_max: 600,
            malformed_messages_max: 100,
            events_per_minute_max: 0,
            requests_per_minute_max: 0,
            deferred_bytes_max: 64 << 20,
            shard_outbox_bytes_max: 256 << 20,
            shard_filter_bytes_max: 512 << 20,
            address_events_per_minute_max: 60_000,
            address_fanout_cost_per_minute_max: 6_000_000,
            address_requests_per_minute_max: 60_000,
            address_queries_max: 64,
            query_bytes_max: 64 << 20,
            neg_sessions_max: 20,
            neg_set_events_max: 1_000_000,
            neg_summed_events_min: 65_536,
            neg_sets_bytes_max: 64 << 20,
            neg_prepared_events_max: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nip_11_promises_fits_the_message_and_the_event() {
        let limits = Limits::default();
        assert_eq!(limits.check(), Ok(()));
        // In canonical JSON a control character takes six bytes, and no other character takes more.
        assert!(6 * limits.content_chars_max + EVENT_MESSAGE_BYTES <= limits.event_bytes_max);
        assert!(TAG_BYTES * limits.list_tags_max + EVENT_MESSAGE_BYTES <= limits.event_bytes_max);
        assert!(limits.event_bytes_max + EVENT_MESSAGE_BYTES <= limits.message_bytes_max);
        assert!(67 * limits.filter_values_max + EVENT_MESSAGE_BYTES <= limits.message_bytes_max);

        let small = Limits { message_bytes_max: 12_512, ..limits };
        let fits = Limits { content_chars_max: 1_000, event_tags_max: 120, ..small.clone() };
        assert_eq!(fits.check(), Ok(()));
        assert_eq!(small.check().unwrap_err().0, "limits.content_chars_max");
        let (name, message) = Limits { content_chars_max: 1_001, ..fits.clone() }.check().unwrap_err();
        assert_eq!(name, "limits.content_chars_max");
        assert!(message.contains("no more than 1000 fit"), "{message}");
        assert_eq!(
            Limits { event_tags_max: 121, ..fits.clone() }.check().unwrap_err().0,
            "limits.event_tags_max"
        );
        assert!(Limits { message_bytes_max: 0, ..fits }.check().is_err());
    }

    #[test]
    fn lists_may_be_longer() {
        let limits = Limits { event_tags_max: 5, list_tags_max: 9, ..Limits::default() };
        assert_eq!([1, 5, 7, 0, 30_023, 1059].map(|kind| limits.tags_max_of(kind)), [5; 6]);
        assert_eq!([3, 10_002, 30_003].map(|kind| limits.tags_max_of(kind)), [9; 3]);
        assert_eq!(Limits { list_tags_max: 2, ..limits }.tags_max_of(3), 5);
    }
}
