//! How much evidence is kept, and since when it is complete. Forgotten evidence does not count, and nothing older counts either, even if a relay
//! still has it, so that the figures are those of all events since then.

use std::collections::BTreeMap;

use relay_engine::sql::column::{int, key};
use relay_engine::sql::{SqlConn, StoreError, exec, query_all, query_one};
use relay_engine::types::{PubKey, Timestamp};

use super::state::State;
use super::{one, role_number, role_of};
use crate::evidence::Role;
use crate::figures::Since;

/// Authors of whom something was forgotten, once for each role.
const HORIZONS_MAX: u64 = 1_000;

/// The most that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests, results and demands for payment: the newest.
    pub events: u64,
    /// Those of one author and one role: the newest.
    pub author_events: u64,
    /// Bytes of events that are kept whole: the newest.
    pub kept_bytes: u64,
    /// Zap receipts: first those of known jobs, and of each the newest.
    pub receipts: u64,
    /// Providers. A new one takes the place of the one that has the fewest customers and was seen least recently, if that one has no
    /// customers or has been silent for a day.
    pub providers: u64,
    /// Announcements of all. A list with `q` reads them, some kilobytes each at most.
    pub offers: u64,
    /// Announcements of a provider.
    pub provider_offers: u64,
    /// Heartbeats. They come before the announcement, too.
    pub heartbeats: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            events: 100_000,
            author_events: 4_000,
            kept_bytes: 64 << 20,
            receipts: 100_000,
            providers: 5_000,
            offers: 10_000,
            provider_offers: 16,
            heartbeats: 20_000,
        }
    }
}

/// All that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) events: u64,
    pub(super) kept_bytes: u64,
    pub(super) receipts: u64,
}

impl Totals {
    pub(super) fn add(&mut self, kept_bytes: u64) {
        self.events += 1;
        self.kept_bytes += kept_bytes;
    }

    pub(super) fn subtract(&mut self, kept_bytes: u64) {
        self.events = self.events.saturating_sub(1);
        self.kept_bytes = self.kept_bytes.saturating_sub(kept_bytes);
    }
}

/// Something of this author and role that states this time has been forgotten.
pub(super) fn forgotten_of(
    conn: &impl SqlConn,
    author: &PubKey,
    role: Role,
    at: Timestamp,
) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO market_horizons (author, role, at) VALUES (?, ?, ?) \
                       ON CONFLICT (author, role) DO UPDATE SET at = max(at, excluded.at)";
    exec(conn, PUT, &[(*author).into(), role_number(role).into(), at.into()])?;
    let count = query_one(conn, "SELECT count(*) FROM market_horizons", &[], |row| int(row, 0))?;
    if count.unwrap_or(0) > HORIZONS_MAX {
        const LEAST: &str = "DELETE FROM market_horizons WHERE (author, role) = \
                             (SELECT author, role FROM market_horizons ORDER BY at, author, role LIMIT 1)";
        exec(conn, LEAST, &[])?;
    }
    Ok(())
}

/// What has left the window need not be remembered.
pub(super) fn forget_horizons(conn: &impl SqlConn, window: Timestamp) -> Result<(), StoreError> {
    exec(conn, "DELETE FROM market_horizons WHERE at <= ?", &one(window))
}

/// All of a provider's answers that state a later time are kept, and all requests but those of [`forgotten`] authors.
pub(super) fn since(conn: &impl SqlConn, provider: &PubKey) -> Result<Since, StoreError> {
    const OWN: &str = "SELECT role, at FROM market_horizons WHERE author = ?";
    let all = State::read(conn)?.horizon;
    let mut since = Since { results: all, demands: all };
    for (role, at) in query_all(conn, OWN, &one(*provider), |row| Ok((role_of(int(row, 0)?), int(row, 1)?)))?
    {
        match role {
            Role::Request => {}
            Role::Result => since.results = since.results.max(at),
            Role::PaymentRequired => since.demands = since.demands.max(at),
        }
    }
    Ok(since)
}

/// Authors of whom requests that state a time up to this do not count.
pub(super) fn forgotten(conn: &impl SqlConn) -> Result<BTreeMap<PubKey, Timestamp>, StoreError> {
    const ALL: &str = "SELECT author, at FROM market_horizons WHERE role = 0";
    Ok(query_all(conn, ALL, &[], |row| Ok((key(row, 0)?, int(row, 1)?)))?.into_iter().collect())
}
