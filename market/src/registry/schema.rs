//! The tables.
//!
//! ```text
//! market_meta       name PRIMARY KEY, value              schema version
//! market_state      a row: position in the relay's stream, how much is kept (state.rs)
//! market_evidence   row, id UNIQUE, ...                  requests, results and demands for payment of the window, of anybody
//!                   index (author, role, at)             bounds of authors, requests to vanish
//!                   index (request, role)                answers of a request
//!                   index (at)                           the end of the window
//! market_copies     PRIMARY KEY (at, id)                 evidence that is kept whole, because it expires and is small
//! market_named      PRIMARY KEY (provider, at, request)  which requests name which keys
//!                   index (request)
//! market_receipts   id PRIMARY KEY                        zap receipts of the window, of anybody
//!                   index (author, at)                   requests to vanish
//!                   index (zapped, payer, at)            those of a job and its customer
//!                   index (matched, at)                  bound, the end of the window
//! market_horizons   PRIMARY KEY (author, role), at       the newest evidence of an author and a role that was forgotten for their number
//! market_offers     PRIMARY KEY (provider, d)            announcements
//!                   index (expires)
//! market_beats      provider PRIMARY KEY                 the last heartbeat of a key
//!                   index (at)
//! market_providers  pubkey PRIMARY KEY                   keys with an announcement, and their figures as of `as_of`
//!                   index (refigure_at)                  those whose figures time alone will change
//!                   index (customers, seen)              who makes room for others
//! ```
//!
//! `expires` is 0 if an event never does. `copy` of evidence has the bytes of its copy, which is what a proof shows; 0 without one. `matched` of a receipt is 1 if
//! the request that it is about is known, is the payer's, and names the payee or, if an answer was zapped, was answered by the payee. In columns of figures -1 is nothing; `daily` has four bytes for each day, of which the largest number is nothing.

use relay_engine::sql::column::int;
use relay_engine::sql::{SqlConn, StoreError, exec, query_one};

/// The schema version that this version writes. The tables of an older one are made again: all that they have is in the relay's store.
pub const SCHEMA: u64 = 5;

const TABLES: [&str; 10] = [
    "market_meta",
    "market_state",
    "market_evidence",
    "market_copies",
    "market_named",
    "market_receipts",
    "market_offers",
    "market_beats",
    "market_horizons",
    "market_providers",
];
const CREATE: [&str; 20] = [
    "CREATE TABLE market_meta (name BLOB PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE market_state (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, horizon INTEGER NOT NULL, \
     receipts_horizon INTEGER NOT NULL, events INTEGER NOT NULL, kept_bytes INTEGER NOT NULL, \
     receipts INTEGER NOT NULL, dirty INTEGER NOT NULL)",
    "CREATE TABLE market_evidence (row INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, role INTEGER NOT NULL, author BLOB NOT NULL, \
     at INTEGER NOT NULL, kind INTEGER NOT NULL, request BLOB NOT NULL, open INTEGER NOT NULL, expires INTEGER NOT NULL, \
     copy INTEGER NOT NULL, asked_msat INTEGER NOT NULL)",
    "CREATE INDEX market_evidence_author ON market_evidence (author, role, at)",
    "CREATE INDEX market_evidence_request ON market_evidence (request, role)",
    "CREATE INDEX market_evidence_at ON market_evidence (at)",
    "CREATE TABLE market_copies (at INTEGER NOT NULL, id BLOB NOT NULL, json BLOB NOT NULL, PRIMARY KEY (at, id)) WITHOUT ROWID",
    "CREATE TABLE market_named (provider BLOB NOT NULL, at INTEGER NOT NULL, request BLOB NOT NULL, \
     PRIMARY KEY (provider, at, request)) WITHOUT ROWID",
    "CREATE INDEX market_named_request ON market_named (request)",
    "CREATE TABLE market_receipts (id BLOB PRIMARY KEY, author BLOB NOT NULL, payer BLOB NOT NULL, payee BLOB NOT NULL, \
     zapped BLOB NOT NULL, msat INTEGER NOT NULL, signed_at INTEGER NOT NULL, at INTEGER NOT NULL, matched INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX market_receipts_author ON market_receipts (author, at)",
    "CREATE INDEX market_receipts_zapped ON market_receipts (zapped, payer, at)",
    "CREATE INDEX market_receipts_matched ON market_receipts (matched, at)",
    "CREATE TABLE market_horizons (author BLOB NOT NULL, role INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (author, role)) WITHOUT ROWID",
    "CREATE TABLE market_offers (provider BLOB NOT NULL, d BLOB NOT NULL, id BLOB NOT NULL, at INTEGER NOT NULL, \
     expires INTEGER NOT NULL, msat INTEGER NOT NULL, kinds BLOB NOT NULL, tags BLOB NOT NULL, search BLOB NOT NULL, \
     body BLOB NOT NULL, PRIMARY KEY (provider, d)) WITHOUT ROWID",
    "CREATE TABLE market_beats (provider BLOB PRIMARY KEY, id BLOB NOT NULL, stated INTEGER NOT NULL, at INTEGER NOT NULL, \
     expires INTEGER NOT NULL, online INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE market_providers (pubkey BLOB PRIMARY KEY, seen INTEGER NOT NULL, msat INTEGER NOT NULL, as_of INTEGER NOT NULL, \
     refigure_at INTEGER NOT NULL, customers INTEGER NOT NULL, delivered INTEGER NOT NULL, failed INTEGER NOT NULL, \
     unpaid INTEGER NOT NULL, pending INTEGER NOT NULL, success INTEGER NOT NULL, bound INTEGER NOT NULL, \
     latency INTEGER NOT NULL, capped INTEGER NOT NULL, answered_open INTEGER NOT NULL, daily BLOB NOT NULL, \
     paid INTEGER NOT NULL, paying INTEGER NOT NULL, paid_msat INTEGER NOT NULL, paid_capped INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX market_offers_expires ON market_offers (expires)",
    "CREATE INDEX market_beats_at ON market_beats (at)",
    "CREATE INDEX market_providers_least ON market_providers (customers, seen)",
];
const REFIGURE_INDEX: &str = "CREATE INDEX market_providers_refigure ON market_providers (refigure_at)";

/// Makes the tables of an empty database or of an older version, or checks those that there are.
pub(super) fn open(conn: &impl SqlConn) -> Result<(), StoreError> {
    let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'market_meta'";
    let is_empty = query_one(conn, tables, &[], |row| int(row, 0))?.unwrap_or(0) == 0;
    let found = if is_empty { Some(0) } else { get_meta(conn, "schema")? };
    match found {
        Some(SCHEMA) => Ok(()),
        Some(older) if older < SCHEMA => conn.transaction(&mut || {
            TABLES.iter().try_for_each(|table| conn.exec(&format!("DROP TABLE IF EXISTS {table}"), &[]))?;
            CREATE.iter().chain([&REFIGURE_INDEX]).try_for_each(|sql| conn.exec(sql, &[]))?;
            put_meta(conn, "schema", SCHEMA)
        }),
        other => Err(StoreError::Corrupt(format!(
            "the market's database has schema version {}; this version of the relay reads {SCHEMA}",
            other.unwrap_or_default()
        ))),
    }
}

/// The value of a name.
pub(super) fn get_meta(conn: &impl SqlConn, name: &str) -> Result<Option<u64>, StoreError> {
    query_one(conn, "SELECT value FROM market_meta WHERE name = ?", &[name.as_bytes().into()], |row| {
        int(row, 0)
    })
}

/// Sets the value of a name. One row.
pub(super) fn put_meta(conn: &impl SqlConn, name: &str, value: u64) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO market_meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    exec(conn, PUT, &[name.as_bytes().into(), value.into()])
}
