//! What filters cost, counted in values (ids, authors, kinds, tag values) for each connection and for the shard. Clients
//! choose them by the thousand, so both have a bound.
//!
//! A value is some 300 bytes of memory, and a long one more. A live filter also costs the time of every event that it is a
//! candidate of, 2 to 5 ns: next to nothing where an event must have its id, author or tag, but one that names none of them
//! is a candidate of every event, or of every event of its kinds. It is charged for that as so many values.

use super::FastMap;
use super::ids::ConnId;
use crate::index::Breadth;
use crate::types::{Filter, Limits};

/// Values that a connection may hold however much others do, while the shard has any left; and so it may hold
/// [`GLOBAL_FEEDS_MIN`] filters of every event.
const SMALL_VALUES_MAX: usize = 500;
const GLOBAL_FEEDS_MIN: usize = 4;
/// Live filters that may be candidates of every event, in a shard: some 50 us an event.
const CANDIDATES_MAX: usize = 10_000;
/// The same of one connection.
const CONNECTION_CANDIDATES_MAX: usize = 100;
/// A kind is one event in so many.
const KIND_SHARE: usize = 10;
/// Bytes of a tag value that cost as much to keep as a value does.
const VALUE_BYTES: usize = 256;

/// What a filter is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptFor {
    /// A subscription, until it ends.
    Subscription,
    /// A COUNT, until it is answered.
    Count,
}

/// Values of filters, by connection.
#[derive(Debug, Default)]
pub(super) struct FilterValues {
    all: usize,
    by_conn: FastMap<ConnId, Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    subscriptions: usize,
    counts: usize,
}

impl Held {
    fn of(&mut self, what: KeptFor) -> &mut usize {
        match what {
            KeptFor::Subscription => &mut self.subscriptions,
            KeptFor::Count => &mut self.counts,
        }
    }
}

/// Why filters are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// The connection would hold more than a connection may.
    ForConnection,
    /// The shard is busy: so many more would be taken now.
    ForShard { free: usize },
}

/// What is charged for a live filter that every event is compared with, so that there are no more than
/// [`CANDIDATES_MAX`] of them whatever the bounds are.
fn every_event(limits: &Limits) -> usize {
    (limits.shard_values_max / CANDIDATES_MAX).min(limits.connection_values_max / CONNECTION_CANDIDATES_MAX)
}

/// What filters cost: one that holds no values is not free.
fn cost(filters: &[Filter], what: KeptFor, limits: &Limits) -> usize {
    filters.iter().map(|filter| 1 + kept(filter) + candidate(filter, what, limits)).sum()
}

/// What a filter's values cost to keep, by their size.
fn kept(filter: &Filter) -> usize {
    let values = filter.tags.iter().flat_map(|tag| &tag.values);
    filter.value_count() + values.map(|value| value.len() / VALUE_BYTES).sum::<usize>()
}

/// What a filter costs the events that are compared with it.
fn candidate(filter: &Filter, what: KeptFor, limits: &Limits) -> usize {
    if what == KeptFor::Count || filter.is_empty() {
        return 0;
    }
    match Breadth::of(filter) {
        Breadth::AllEvents => every_event(limits),
        Breadth::Kinds(kinds) => kinds * (every_event(limits) / KIND_SHARE),
        Breadth::Narrow => 0,
    }
}

/// Values that a connection may hold however much others do.
fn small(limits: &Limits) -> usize {
    SMALL_VALUES_MAX.max(GLOBAL_FEEDS_MIN * (1 + every_event(limits)))
}

impl FilterValues {
    /// Values of all connections.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    pub(super) fn add(&mut self, conn: ConnId, what: KeptFor, filters: &[Filter], limits: &Limits) {
        let cost = cost(filters, what, limits);
        *self.by_conn.entry(conn).or_default().of(what) += cost;
        self.all += cost;
    }

    pub(super) fn remove(&mut self, conn: ConnId, what: KeptFor, filters: &[Filter], limits: &Limits) {
        let Some(held) = self.by_conn.get_mut(&conn) else { return };
        let cost = cost(filters, what, limits);
        *held.of(what) -= cost;
        self.all -= cost;
    }

    /// A connection is gone, with everything it held.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if let Some(held) = self.by_conn.remove(&conn) {
            self.all -= held.subscriptions + held.counts;
        }
    }

    /// Whether there is room for the filters of a request. `replaced`: values that it has just made free.
    pub(super) fn admit(
        &self,
        conn: ConnId,
        what: KeptFor,
        filters: &[Filter],
        replaced: usize,
        limits: &Limits,
    ) -> Result<(), TooMany> {
        let Held { subscriptions, counts } = self.by_conn.get(&conn).copied().unwrap_or_default();
        let new = cost(filters, what, limits);
        if what == KeptFor::Subscription && subscriptions + new > limits.connection_values_max {
            return Err(TooMany::ForConnection);
        }
        let all_max = limits.shard_values_max;
        let small =
            small(limits).saturating_sub(subscriptions + counts).min(all_max.saturating_sub(self.all));
        let large = (all_max / 2).saturating_sub(self.all) / 3;
        let free = small.max(large);
        // What replaces as much as it brings is no burden.
        if new > replaced && new > free {
            return Err(TooMany::ForShard { free });
        }
        Ok(())
    }
}
