//! The tables.
//!
//! ```text
//! blossom_meta      name PRIMARY KEY, value BLOB            schema, ids, totals, position (JSON)
//! blossom_blobs     sha256 PRIMARY KEY, owner, ...          live blobs, each with one of its owners: blobs.rs
//!                   index (owner, uploaded, sha256, size)   lists and quotas
//!                   index (ends_at) where ends_at > 0       retention
//!                   index (uploaded, sha256)                lists of all
//! blossom_owners    PRIMARY KEY (owner, uploaded, sha256)   further owners of blobs: owners.rs
//!                   index (sha256)
//! blossom_uploads   id INTEGER PRIMARY KEY, ...             uploads under way, in memory too: uploads.rs, state.rs
//! blossom_parts     id INTEGER PRIMARY KEY, upload, ...     their parts, in memory too: parts.rs
//! blossom_removals  key PRIMARY KEY, taken_at, again        bytes that are to be removed: removals.rs
//! blossom_bans      sha256 PRIMARY KEY, reason, at          admin.rs
//! blossom_reports   row INTEGER PRIMARY KEY, ...            the last ones: admin.rs
//!                   unique index (sha256, reporter)
//!                   index (reporter)
//! blossom_events    PRIMARY KEY (event, sha256), author     what kind 1063 describes: events.rs
//!                   index (sha256, author)
//! blossom_thumbnails PRIMARY KEY (thumbnail, picture)       thumbnails: thumbnails.rs
//! blossom_leaving   owner PRIMARY KEY, until                authors of requests to vanish whose blobs are being removed (the table
//!                                                           keeps its old name): events.rs
//! ```
//!
//! `since` of blobs and of owners is when that owner became one, or has uploaded the blob again after a request to vanish, in Unix
//! seconds: a request to vanish removes only owners from before it.
//!
//! Durable Objects bill rows written, entries of indexes too. An upload writes six: itself and out again, its blob and the
//! indexes of its owner and its time, and the totals; with retention seven.

use relay_engine::sql::column::{bytes, int};
use relay_engine::sql::{SqlConn, StoreError, exec, query_one};

use super::sql::{corrupt, from_json, to_json};

/// The schema version that this version writes. Another one is refused.
const SCHEMA: u64 = 1;

/// The first databases of schema version 1 have no such index. With it an administrator's list of all blobs reads a page and not all of them.
const UPLOADED: &str =
    "CREATE INDEX IF NOT EXISTS blossom_blobs_uploaded ON blossom_blobs (uploaded, sha256)";
/// The first databases of schema version 1 have no such table.
const THUMBNAILS: &str = "CREATE TABLE IF NOT EXISTS blossom_thumbnails (thumbnail BLOB NOT NULL, picture BLOB NOT NULL, \
                          PRIMARY KEY (thumbnail, picture)) WITHOUT ROWID";
/// Nor this one.
const PAYMENTS: &str =
    "CREATE TABLE IF NOT EXISTS blossom_payments (upload INTEGER PRIMARY KEY, proof BLOB NOT NULL)";
const CREATE: [&str; 20] = [
    "CREATE TABLE IF NOT EXISTS blossom_meta (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS blossom_blobs (sha256 BLOB PRIMARY KEY, owner BLOB NOT NULL, \
     since INTEGER NOT NULL, uploaded INTEGER NOT NULL, size INTEGER NOT NULL, mime BLOB NOT NULL, \
     expires_at INTEGER NOT NULL, unused INTEGER NOT NULL, accessed INTEGER NOT NULL, ends_at INTEGER NOT NULL, \
     media BLOB NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS blossom_blobs_owner ON blossom_blobs (owner, uploaded, sha256, size)",
    "CREATE INDEX IF NOT EXISTS blossom_blobs_ends ON blossom_blobs (ends_at) WHERE ends_at > 0",
    "CREATE TABLE IF NOT EXISTS blossom_owners (owner BLOB NOT NULL, uploaded INTEGER NOT NULL, \
     sha256 BLOB NOT NULL, since INTEGER NOT NULL, size INTEGER NOT NULL, \
     PRIMARY KEY (owner, uploaded, sha256)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS blossom_owners_sha256 ON blossom_owners (sha256)",
    "CREATE TABLE IF NOT EXISTS blossom_uploads (id INTEGER PRIMARY KEY, owner BLOB NOT NULL, \
     sha256 BLOB NOT NULL, size INTEGER NOT NULL, key_max INTEGER NOT NULL, total_max INTEGER NOT NULL, \
     abandoned_at INTEGER NOT NULL, began_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, unused INTEGER NOT NULL, flags INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS blossom_parts (id INTEGER PRIMARY KEY, upload INTEGER NOT NULL, \
     start INTEGER NOT NULL, length INTEGER NOT NULL, stored INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS blossom_removals (key BLOB PRIMARY KEY, taken_at INTEGER NOT NULL, \
     again INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS blossom_bans (sha256 BLOB PRIMARY KEY, reason BLOB NOT NULL, \
     at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS blossom_reports (row INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, \
     reporter BLOB NOT NULL, event BLOB NOT NULL, category BLOB NOT NULL, content BLOB NOT NULL, at INTEGER NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS blossom_reports_once ON blossom_reports (sha256, reporter)",
    "CREATE INDEX IF NOT EXISTS blossom_reports_reporter ON blossom_reports (reporter)",
    "CREATE TABLE IF NOT EXISTS blossom_events (event BLOB NOT NULL, sha256 BLOB NOT NULL, \
     author BLOB NOT NULL, PRIMARY KEY (event, sha256)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS blossom_events_sha256 ON blossom_events (sha256, author)",
    "CREATE TABLE IF NOT EXISTS blossom_leaving (owner BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID",
    THUMBNAILS,
    PAYMENTS,
    UPLOADED,
    "INSERT INTO blossom_meta (name, value) VALUES (x'736368656d61', x'31')",
];

const GET: &str = "SELECT value FROM blossom_meta WHERE name = ?";
const PUT: &str = "INSERT INTO blossom_meta (name, value) VALUES (?, ?) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Makes the tables of an empty database, or checks those that there are.
pub(super) fn open(conn: &impl SqlConn) -> Result<(), StoreError> {
    let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'blossom_meta'";
    if query_one(conn, tables, &[], |row| int(row, 0))?.unwrap_or(0) == 0 {
        return conn.transaction(&mut || CREATE.iter().try_for_each(|sql| conn.exec(sql, &[])));
    }
    match get_meta::<u64>(conn, "schema")? {
        Some(SCHEMA) => [THUMBNAILS, PAYMENTS, UPLOADED].iter().try_for_each(|sql| conn.exec(sql, &[])),
        other => Err(corrupt(&format!(
            "the database has schema version {}; this version of the relay reads {SCHEMA}",
            other.unwrap_or_default()
        ))),
    }
}

/// The value of a name.
pub(super) fn get_meta<T: serde::de::DeserializeOwned>(
    conn: &impl SqlConn,
    name: &str,
) -> Result<Option<T>, StoreError> {
    query_one(conn, GET, &[name.as_bytes().into()], |row| from_json(bytes(row, 0)?))
}

/// Sets the value of a name. One row.
pub(super) fn put_meta(
    conn: &impl SqlConn,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<(), StoreError> {
    exec(conn, PUT, &[name.as_bytes().into(), to_json(value).into()])
}
