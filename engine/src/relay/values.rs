//! What filters cost to keep, counted in values (ids, authors, kinds, tag values) for each connection and for the shard.
//! Clients choose them by the thousand, so both have a bound.

use super::FastMap;
use super::ids::ConnId;
use crate::types::{Filter, Limits};

/// Values that a connection may hold however much others do, while the shard has any left.
const SMALL_VALUES_MAX: usize = 500;

/// What a filter is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptFor {
    /// A subscription, until it ends.
    Subscription,
    /// A COUNT, until it is answered.
    Count,
}

/// Values held, by connection.
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

/// What filters cost: one that holds no values is not free.
fn cost(filters: &[Filter]) -> usize {
    filters.iter().map(|filter| 1 + filter.value_count()).sum()
}

impl FilterValues {
    /// Values of all connections.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    pub(super) fn add(&mut self, conn: ConnId, what: KeptFor, filters: &[Filter]) {
        let cost = cost(filters);
        *self.by_conn.entry(conn).or_default().of(what) += cost;
        self.all += cost;
    }

    pub(super) fn remove(&mut self, conn: ConnId, what: KeptFor, filters: &[Filter]) {
        let Some(held) = self.by_conn.get_mut(&conn) else { return };
        let cost = cost(filters);
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
        let new = cost(filters);
        if what == KeptFor::Subscription && subscriptions + new > limits.connection_values_max {
            return Err(TooMany::ForConnection);
        }
        let all_max = limits.shard_values_max;
        let small =
            SMALL_VALUES_MAX.saturating_sub(subscriptions + counts).min(all_max.saturating_sub(self.all));
        let large = (all_max / 2).saturating_sub(self.all) / 3;
        let free = small.max(large);
        // What replaces as much as it brings is no burden.
        if new > replaced && new > free {
            return Err(TooMany::ForShard { free });
        }
        Ok(())
    }
}
