//! What filters cost, counted in values (ids, authors, kinds, tag values) for each connection and for the shard. Clients
//! choose them by the thousand, so both have a bound.
//!
//! Their memory is charged by its real size ([`bytes`]), and has a bound of its own. A live filter also costs the time
//! of every event that it is a candidate of, 2 to 5 ns. That is seldom if it names ids, authors or tags; but one that names
//! none of them is a candidate of every event, or of every event of its kinds. It is charged for that as further values
//! ([`breadth_values`]).

use std::ops::{Add, Sub};

use super::FastMap;
use super::ids::ConnId;
use crate::index::Breadth;
use crate::types::{Filter, Limits, PubKey};

/// Values guaranteed to a connection, however much others hold, while the shard has any left; likewise this many filters
/// without ids, authors, kinds and tags: [`UNCONDITIONAL_FILTERS_MIN`].
const GUARANTEED_VALUES: usize = 500;
const UNCONDITIONAL_FILTERS_MIN: usize = 4;
/// Live filters that may be candidates of every event, in a shard: some 50 us an event.
const CANDIDATES_MAX: usize = 10_000;
/// The same of one connection.
const CONNECTION_CANDIDATES_MAX: usize = 100;
/// Assumed frequency of a kind: one event in this many.
const KIND_SHARE: usize = 10;
/// Bytes of a tag value that cost as much to keep as a value does.
const VALUE_BYTES: usize = 256;

/// Bytes of filters that a connection may hold however much others do, while the shard has any left.
const GUARANTEED_BYTES: usize = 128 << 10;

/// Memory of a request beside its filters: the subscription, its id twice, its entries in three tables.
const REQUEST_BYTES: usize = 512;
/// Memory of a filter beside its values: itself, its times and its conditions in the index.
const FILTER_BYTES: usize = 320;
/// Memory of a value in the index: its key, its entry in the table of keys, a list of postings.
const KEY_BYTES: usize = 144;
/// Memory of a kind: all filters share one key for each, so it is a posting and a number.
const KIND_BYTES: usize = 16;
/// Memory of a tag value's text beside its bytes: a pointer, a length, and what the allocator adds.
const TEXT_BYTES: usize = 32;

/// What a filter is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A subscription, until it ends.
    Subscription,
    /// A COUNT until it is answered, or a reconciliation until its set is collected.
    OneTime,
}

/// What filters cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FilterUsage {
    /// Values, and what is charged as such.
    pub(super) values: usize,
    /// Memory.
    pub(super) bytes: usize,
}

impl FilterUsage {
    fn of(filters: &[Filter], purpose: Purpose, limits: &Limits) -> Self {
        // The filter itself counts too.
        let values = filters
            .iter()
            .map(|filter| 1 + stored_values(filter) + breadth_values(filter, purpose, limits))
            .sum();
        FilterUsage { values, bytes: REQUEST_BYTES + filters.iter().map(bytes).sum::<usize>() }
    }
}

impl Add for FilterUsage {
    type Output = FilterUsage;

    fn add(self, other: FilterUsage) -> FilterUsage {
        FilterUsage { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }
}

impl Sub for FilterUsage {
    type Output = FilterUsage;

    fn sub(self, other: FilterUsage) -> FilterUsage {
        FilterUsage { values: self.values - other.values, bytes: self.bytes - other.bytes }
    }
}

/// The cost of all filters that are held, by connection.
#[derive(Debug, Default)]
pub(super) struct FilterValues {
    all: FilterUsage,
    by_conn: FastMap<ConnId, Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    subscriptions: FilterUsage,
    one_time: FilterUsage,
}

impl Held {
    fn of(&mut self, purpose: Purpose) -> &mut FilterUsage {
        match purpose {
            Purpose::Subscription => &mut self.subscriptions,
            Purpose::OneTime => &mut self.one_time,
        }
    }
}

/// Why filters are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// The connection would hold more than a connection may.
    ForConnection,
    /// The shard is busy: this many more values would be accepted now.
    ForShard { free: usize },
}

/// What is charged for a live filter that every event is compared with, so that there are no more than
/// [`CANDIDATES_MAX`] of them whatever the bounds are.
fn broad_filter_values(limits: &Limits) -> usize {
    (limits.shard_values_max / CANDIDATES_MAX).min(limits.connection_values_max / CONNECTION_CANDIDATES_MAX)
}

/// Memory of a filter while it is live, index and all. Less is taken where others name the same values.
fn bytes(filter: &Filter) -> usize {
    let ids = filter.ids.as_ref().map_or(0, |list| list.len());
    let authors = filter.authors.as_ref().map_or(0, |list| list.len());
    let kinds = filter.kinds.as_ref().map_or(0, |list| list.len());
    let texts = filter.tags.iter().flat_map(|tag| &tag.values);
    let texts: usize = texts.map(|text| TEXT_BYTES + text.len() + KEY_BYTES).sum();
    FILTER_BYTES + (ids + authors) * (size_of::<PubKey>() + KEY_BYTES) + kinds * KIND_BYTES + texts
}

/// What a filter's values cost to keep, by their size.
fn stored_values(filter: &Filter) -> usize {
    let values = filter.tags.iter().flat_map(|tag| &tag.values);
    filter.value_count() + values.map(|value| value.len() / VALUE_BYTES).sum::<usize>()
}

/// Values that are charged to a filter because many events are compared with it.
fn breadth_values(filter: &Filter, purpose: Purpose, limits: &Limits) -> usize {
    if purpose == Purpose::OneTime || filter.matches_nothing() {
        return 0;
    }
    match Breadth::of(filter) {
        Breadth::AllEvents => broad_filter_values(limits),
        Breadth::Kinds(kinds) => kinds * (broad_filter_values(limits) / KIND_SHARE),
        Breadth::Narrow => 0,
    }
}

/// Values that a connection may hold however much others do.
fn guaranteed_values(limits: &Limits) -> usize {
    GUARANTEED_VALUES.max(UNCONDITIONAL_FILTERS_MIN * (1 + broad_filter_values(limits)))
}

impl FilterValues {
    /// What those of all connections cost.
    pub(super) fn all(&self) -> FilterUsage {
        self.all
    }

    pub(super) fn add(&mut self, conn: ConnId, purpose: Purpose, filters: &[Filter], limits: &Limits) {
        let cost = FilterUsage::of(filters, purpose, limits);
        let held = self.by_conn.entry(conn).or_default().of(purpose);
        *held = *held + cost;
        self.all = self.all + cost;
    }

    pub(super) fn remove(&mut self, conn: ConnId, purpose: Purpose, filters: &[Filter], limits: &Limits) {
        let Some(held) = self.by_conn.get_mut(&conn) else { return };
        let cost = FilterUsage::of(filters, purpose, limits);
        *held.of(purpose) = *held.of(purpose) - cost;
        self.all = self.all - cost;
    }

    /// A connection is gone, with everything it held.
    pub(super) fn remove_connection(&mut self, conn: ConnId) {
        if let Some(held) = self.by_conn.remove(&conn) {
            self.all = self.all - held.subscriptions - held.one_time;
        }
    }

    /// Whether the filters of a request fit. `replaced`: what it has just released.
    pub(super) fn admit(
        &self,
        conn: ConnId,
        purpose: Purpose,
        filters: &[Filter],
        replaced: FilterUsage,
        limits: &Limits,
    ) -> Result<(), TooMany> {
        let Held { subscriptions, one_time } = self.by_conn.get(&conn).copied().unwrap_or_default();
        let new = FilterUsage::of(filters, purpose, limits);
        if purpose == Purpose::Subscription
            && subscriptions.values + new.values > limits.connection_values_max
        {
            return Err(TooMany::ForConnection);
        }
        let free = |all_max: usize, all: usize, held: usize, guaranteed: usize| {
            let guaranteed = guaranteed.saturating_sub(held).min(all_max.saturating_sub(all));
            guaranteed.max((all_max / 2).saturating_sub(all) / 3)
        };
        let held = subscriptions + one_time;
        // A request no larger than the one it replaces always fits.
        let values = free(limits.shard_values_max, self.all.values, held.values, guaranteed_values(limits));
        if new.values > replaced.values && new.values > values {
            return Err(TooMany::ForShard { free: values });
        }
        let bytes = free(limits.shard_filter_bytes_max, self.all.bytes, held.bytes, GUARANTEED_BYTES);
        if new.bytes > replaced.bytes && new.bytes > bytes {
            // How many values of the average size of these would fit.
            let fit = new.values as u64 * bytes as u64 / new.bytes as u64;
            return Err(TooMany::ForShard { free: values.min(fit as usize) });
        }
        Ok(())
    }
}
