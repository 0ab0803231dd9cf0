//! The registry over SQL: events of the relay in, figures out. Applying an event again changes nothing.
//!
//! ```text
//! bounds   how much is kept
//! state    how much there is, and how far the stream has been read
//! receipts zap receipts
//! apply    events: evidence, announcements, heartbeats, deletions, requests to vanish
//! forget   what is removed for its number, or because its author wants it
//! refresh  figures that events or time have changed, the end of the window, bounds
//! query    lists, one provider, what a proof needs
//! ```
//!
//! One registry writes: what it has to count again is in its memory. Others may read the same database.

mod apply;
mod bounds;
mod forget;
mod query;
mod receipts;
mod refresh;
mod schema;
mod sql;
mod state;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use relay_agent::nip57::KIND_ZAP_RECEIPT;
use relay_agent::nip90::KIND_FEEDBACK;
use relay_engine::sql::column::{bytes, id, int, key};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, query_all};
use relay_engine::types::{Filter, Kind, PubKey, Timestamp};

use self::sql::expiry;
use self::state::State;
use crate::evidence::{Evidence, Role};
use crate::figures::Since;

pub use apply::Item;
pub use bounds::Bounds;
pub use query::{Cursor, Entry, ListQuery, Page, Proven, Sort};
pub use schema::SCHEMA;

/// Evidence is kept for a day longer than requests count, because a result or a receipt may state an earlier time than its request.
const KEPT_SECONDS: u64 = crate::figures::WINDOW_SECONDS + 86_400;
/// Seconds without a sign of life after which a new provider takes the place of one that has customers, if all have.
const SILENT_SECONDS: u64 = 86_400;

/// How much later than `seen` of a provider a heartbeat is before it is written there too: that is three rows, and a heartbeat two.
const SEEN_SECONDS: u64 = 3_600;

/// Kinds of job requests.
pub const REQUESTS: RangeInclusive<Kind> = 5_000..=5_999;
/// Kinds of results.
pub const RESULTS: RangeInclusive<Kind> = 6_000..=6_999;
/// Kinds of the events that the registry acts on, other than requests and results.
const OTHER_KINDS: [Kind; 6] = [5, 62, 7_000, KIND_ZAP_RECEIPT, 11_998, 31_990];
/// How many kinds that are.
const KINDS: usize = 2_006;

/// Kinds of the relay's events that the registry acts on.
const EVENT_KINDS: [Kind; KINDS] = event_kinds();

const fn event_kinds() -> [Kind; KINDS] {
    let mut kinds = [0; KINDS];
    let mut at = 0;
    while at < OTHER_KINDS.len() {
        kinds[at] = OTHER_KINDS[at];
        at += 1;
    }
    let mut kind = *REQUESTS.start();
    while kind <= *RESULTS.end() {
        kinds[at] = kind;
        at += 1;
        kind += 1;
    }
    kinds
}

/// What a host reads of the relay's stream: requests, answers and zap receipts of the window; announcements, heartbeats and removals of any time.
/// Events of guarded kinds are not read: what only some may read does not appear in public figures.
pub fn filters(guarded: &[Kind], now: Timestamp) -> Vec<Filter> {
    let kinds = |is_wanted: &dyn Fn(Kind) -> bool| {
        let wanted = EVENT_KINDS.iter().copied().filter(|kind| is_wanted(*kind) && !guarded.contains(kind));
        Some(wanted.collect::<Box<[_]>>())
    };
    let is_evidence =
        |kind: Kind| (*REQUESTS.start()..=KIND_FEEDBACK).contains(&kind) || kind == KIND_ZAP_RECEIPT;
    let since = now.saturating_sub(crate::figures::WINDOW_SECONDS);
    let mut filters = vec![
        Filter { kinds: kinds(&is_evidence), since: Some(since), ..Filter::default() },
        Filter { kinds: kinds(&|kind| !is_evidence(kind)), ..Filter::default() },
    ];
    filters.iter_mut().for_each(Filter::normalise);
    filters
}

/// The registry.
#[derive(Debug)]
pub struct Registry<C> {
    conn: C,
    /// Providers whose figures are to be counted again.
    changed: BTreeSet<PubKey>,
    bounds: Bounds,
    state: State,
}

impl<C: SqlConn> Registry<C> {
    /// Opens a database, or makes its tables. Tables of an older version are made again. If the last process has ended before it
    /// had counted figures again, [`Registry::refresh`] counts all of them.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of a newer version.
    pub fn open(conn: C) -> Result<Self, StoreError> {
        Self::open_bounded(conn, Bounds::default())
    }

    /// The same with other bounds.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_bounded(conn: C, bounds: Bounds) -> Result<Self, StoreError> {
        schema::open(&conn)?;
        let state = State::read(&conn)?;
        let mut changed = BTreeSet::new();
        if state.is_dirty {
            changed.extend(query_all(&conn, "SELECT pubkey FROM market_providers", &[], |row| key(row, 0))?);
        }
        Ok(Registry { conn, changed, bounds, state })
    }

    /// Opens a database to read it, which another registry writes.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_to_read(conn: C) -> Result<Self, StoreError> {
        schema::open(&conn)?;
        Ok(Registry { conn, changed: BTreeSet::new(), bounds: Bounds::default(), state: State::default() })
    }

    /// The last sequence number of the relay that has been applied.
    ///
    /// # Errors
    /// If the database fails.
    pub fn position(&self) -> Result<Option<u64>, StoreError> {
        Ok(State::read(&self.conn)?.position)
    }

    /// All evidence that may concern a provider and is known. Reads the requests that name it: together those of all providers are bounded.
    fn evidence_of(
        &self,
        provider: &PubKey,
        as_of: Timestamp,
        since: Since,
    ) -> Result<Vec<Evidence>, StoreError> {
        // Columns as of `read_evidence`.
        const NAMED: &str = "SELECT e.role, e.id, e.author, e.at, e.kind, e.request, e.open, e.expires, e.copy, e.asked_msat \
             FROM market_named n JOIN market_evidence e ON e.id = n.request LEFT JOIN market_horizons h ON h.author = e.author AND h.role = 0 \
             WHERE n.provider = ? AND n.at > ? AND n.at > ifnull(h.at, 0)";
        const ANSWERS: &str = "SELECT role, id, author, at, kind, request, open, expires, copy, asked_msat FROM market_evidence \
             WHERE author = ? AND role = ? AND at > ?";
        const OPEN: &str = "SELECT r.role, r.id, r.author, r.at, r.kind, r.request, r.open, r.expires, r.copy, r.asked_msat \
             FROM market_evidence a JOIN market_evidence r ON r.request = a.request AND r.role = 0 \
             LEFT JOIN market_horizons h ON h.author = r.author AND h.role = 0 \
             WHERE a.author = ? AND a.role = 1 AND a.at > ? AND r.open = 1 AND r.at > ifnull(h.at, 0)";
        let window = since.results.max(as_of.saturating_sub(crate::figures::WINDOW_SECONDS));
        let mut found = query_all(&self.conn, NAMED, &[(*provider).into(), window.into()], |row| {
            read_evidence(row).map(|one| Evidence { named: vec![*provider], ..one })
        })?;
        for (role, since) in
            [(Role::Result, since.results), (Role::PaymentRequired, since.results.max(since.demands))]
        {
            let params: [Param; 3] = [(*provider).into(), role_number(role).into(), since.into()];
            found.extend(query_all(&self.conn, ANSWERS, &params, read_evidence)?);
        }
        found.extend(query_all(
            &self.conn,
            OPEN,
            &[(*provider).into(), since.results.into()],
            read_evidence,
        )?);
        Ok(found)
    }
}

fn read_evidence(row: &[SqlValue<'_>]) -> Result<Evidence, StoreError> {
    Ok(Evidence {
        role: role_of(int(row, 0)?),
        id: id(row, 1)?,
        author: key(row, 2)?,
        at: int(row, 3)?,
        kind: int(row, 4)? as Kind,
        request: id(row, 5)?,
        is_open: int(row, 6)? == 1,
        named: Vec::new(),
        expires: expiry(row, 7)?,
        is_kept: int(row, 8)? > 0,
        asked_msat: int(row, 9)?,
    })
}

fn role_of(number: u64) -> Role {
    match number {
        0 => Role::Request,
        1 => Role::Result,
        _ => Role::PaymentRequired,
    }
}

fn role_number(role: Role) -> u64 {
    match role {
        Role::Request => 0,
        Role::Result => 1,
        Role::PaymentRequired => 2,
    }
}

/// A row's `json`, of evidence.
fn kept_json(row: &[SqlValue<'_>]) -> Result<Vec<u8>, StoreError> {
    bytes(row, 0).map(<[u8]>::to_vec)
}

fn one(param: impl Into<Param>) -> [Param; 1] {
    [param.into()]
}
