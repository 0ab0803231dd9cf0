//! The registry over SQL: events of the relay in, figures out. Whatever is applied again changes nothing.
//!
//! ```text
//! apply    events: evidence, announcements, heartbeats, deletions, requests to vanish
//! refresh  figures that events or time have changed, the end of the window, bounds
//! query    lists, one provider, what a proof needs
//! ```
//!
//! One registry writes: what it has to count again is in its memory. Others may read the same database.

mod apply;
mod query;
mod refresh;
mod schema;
mod sql;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use relay_engine::sql::column::{bytes, id, int, key};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, query_all};
use relay_engine::types::{Kind, PubKey, Timestamp};

use self::sql::expiry;
use crate::evidence::{Evidence, Role};

pub use apply::Item;
pub use query::{Cursor, Entry, ListQuery, Page, Proven, Sort};

/// Evidence is kept for a day longer than requests count, because a result may state an earlier time than its request.
const KEPT_SECONDS: u64 = crate::figures::WINDOW_SECONDS + 86_400;
/// Rows of evidence of one author: the newest.
const AUTHOR_EVIDENCE_MAX: u64 = 4_000;
/// Rows of evidence.
const EVIDENCE_MAX: u64 = 100_000;
/// Providers. A new one takes the place of the one that has the fewest customers and was seen least recently.
const PROVIDERS_MAX: u64 = 10_000;
/// Announcements of a provider.
const OFFERS_MAX: u64 = 16;
/// Heartbeats. They come before the announcement, too.
const BEATS_MAX: u64 = 20_000;

const REQUESTS: RangeInclusive<Kind> = 5_000..=5_999;
const RESULTS: RangeInclusive<Kind> = 6_000..=6_999;
/// Kinds of the events that the registry acts on, other than requests and results.
const OTHER_KINDS: [Kind; 5] = [5, 62, 7_000, 11_998, 31_990];
/// How many kinds that are.
const KINDS: usize = 2_005;

/// Kinds of the relay's events that a host applies.
pub const EVENT_KINDS: [Kind; KINDS] = event_kinds();

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

/// The registry.
#[derive(Debug)]
pub struct Registry<C> {
    conn: C,
    /// Keys whose figures are to be counted again.
    changed: BTreeSet<PubKey>,
    /// Rows of evidence since the last sweep.
    added: u64,
}

impl<C: SqlConn> Registry<C> {
    /// Opens a database, or makes its tables. All figures are counted again at the first [`Registry::refresh`], because the last
    /// process may have ended before it had.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of another version.
    pub fn open(conn: C) -> Result<Self, StoreError> {
        schema::open(&conn)?;
        let changed = query_all(&conn, "SELECT pubkey FROM market_providers", &[], |row| key(row, 0))?;
        Ok(Registry { conn, changed: changed.into_iter().collect(), added: 0 })
    }

    /// Opens a database to read it, which another registry writes.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_to_read(conn: C) -> Result<Self, StoreError> {
        schema::open(&conn)?;
        Ok(Registry { conn, changed: BTreeSet::new(), added: 0 })
    }

    /// The last sequence number of the relay that has been applied.
    ///
    /// # Errors
    /// If the database fails.
    pub fn position(&self) -> Result<Option<u64>, StoreError> {
        schema::get_meta(&self.conn, "position")
    }

    /// All evidence that may concern a provider.
    fn evidence_of(&self, provider: &PubKey, as_of: Timestamp) -> Result<Vec<Evidence>, StoreError> {
        // Columns as of `read_evidence`. `length` of a BLOB is its bytes.
        const NAMED: &str = "SELECT e.role, e.id, e.author, e.at, e.kind, e.request, e.open, e.expires, length(e.json) \
             FROM market_named n JOIN market_evidence e ON e.id = n.request WHERE n.provider = ? AND n.at > ?";
        const ANSWERS: &str = "SELECT role, id, author, at, kind, request, open, expires, length(json) FROM market_evidence \
             WHERE author = ? AND role > 0";
        const OPEN: &str = "SELECT r.role, r.id, r.author, r.at, r.kind, r.request, r.open, r.expires, length(r.json) \
             FROM market_evidence a JOIN market_evidence r ON r.request = a.request AND r.role = 0 \
             WHERE a.author = ? AND a.role = 1 AND r.open = 1";
        let window = as_of.saturating_sub(crate::figures::WINDOW_SECONDS);
        let mut found = query_all(&self.conn, NAMED, &[(*provider).into(), window.into()], |row| {
            read_evidence(row).map(|one| Evidence { named: vec![*provider], ..one })
        })?;
        for sql in [ANSWERS, OPEN] {
            found.extend(query_all(&self.conn, sql, &[(*provider).into()], read_evidence)?);
        }
        Ok(found)
    }
}

fn read_evidence(row: &[SqlValue<'_>]) -> Result<Evidence, StoreError> {
    Ok(Evidence {
        role: match int(row, 0)? {
            0 => Role::Request,
            1 => Role::Result,
            _ => Role::PaymentRequired,
        },
        id: id(row, 1)?,
        author: key(row, 2)?,
        at: int(row, 3)?,
        kind: int(row, 4)? as Kind,
        request: id(row, 5)?,
        is_open: int(row, 6)? == 1,
        named: Vec::new(),
        expires: expiry(row, 7)?,
        is_kept: int(row, 8)? > 0,
    })
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
