//! A store in SQLite, over whatever runs SQL for it: Durable Object storage, or any SQLite connection.
//!
//! ```text
//! relay_event      seq INTEGER PRIMARY KEY, json BLOB          canonical JSON
//! relay_key        key BLOB PRIMARY KEY        without rowid   drawn in store::keyed
//! relay_tombstone  key BLOB PRIMARY KEY, until BLOB:8          big-endian
//! relay_meta       name TEXT PRIMARY KEY, value INTEGER        schema, last_seq
//! ```
//!
//! On Durable Objects a row written costs what a thousand rows read cost, so the layout is chosen by rows
//! written: one for the body, one for each key (id, author, kind, each indexed tag; address and expiry where
//! there are any), and none for counters. A kind 1 event with five tags writes 9 and a returned event reads
//! 2. There are no postings over all events and none by author and kind.
//!
//! Statements keep within what Durable Objects take: 100 parameters, rows under 2 MB, integers below 2^53
//! (larger ones are BLOBs), no `BEGIN` and no PRAGMA. Durability is the connection's affair.

mod conn;
mod rows;

use std::cell::Cell;
use std::fmt;

use conn::{Bulk, integers};
pub use conn::{SqlConn, SqlValue};
use rows::Rows;

use super::backend::{Backend, Seq, StoreError};
use super::keyed::{Change, KeySource, Overlay, View};
use super::terms::TermClasses;

/// The layout written by this version. Another one is refused.
const SCHEMA: i64 = 1;

const CREATE: [&str; 4] = [
    "CREATE TABLE IF NOT EXISTS relay_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS relay_event (seq INTEGER PRIMARY KEY, json BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS relay_key (key BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS relay_tombstone (key BLOB PRIMARY KEY, until BLOB NOT NULL) WITHOUT ROWID",
];
const READ_SCHEMA: &str = "SELECT value FROM relay_meta WHERE name = 'schema'";
const WRITE_SCHEMA: &str = "INSERT INTO relay_meta (name, value) VALUES ('schema', ?)";
const WRITE_LAST_SEQ: &str = "INSERT INTO relay_meta (name, value) VALUES ('last_seq', ?) \
                              ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const INSERT_KEYS: Bulk = Bulk { before: "INSERT INTO relay_key (key) VALUES ", row: "(?)", after: "" };
const DELETE_KEYS: Bulk = Bulk { before: "DELETE FROM relay_key WHERE key IN (", row: "?", after: ")" };
const INSERT_EVENTS: Bulk =
    Bulk { before: "INSERT INTO relay_event (seq, json) VALUES ", row: "(?,?)", after: "" };
const DELETE_EVENTS: Bulk = Bulk { before: "DELETE FROM relay_event WHERE seq IN (", row: "?", after: ")" };
const BURY: Bulk = Bulk {
    before: "INSERT INTO relay_tombstone (key, until) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (key) DO UPDATE SET until = excluded.until",
};

/// Largest event in bytes: a row of a Durable Object is at most 2 MB.
pub const EVENT_BYTES_MAX: usize = 2_000_000 - 1024;

/// Events in SQLite. It is the only writer of its tables.
#[derive(Debug)]
pub struct SqlBackend<C> {
    conn: C,
    /// Events stored, once somebody asked: counting them reads a row for each.
    events: Cell<Option<u64>>,
    /// The last number given, once somebody asked: every request and every commit does.
    last_seq: Cell<Option<Seq>>,
}

/// Why tables were not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlOpenError {
    /// Written by another version.
    Schema {
        /// Its layout.
        found: i64,
        /// The layout of this version.
        known: i64,
    },
    /// SQL failed.
    Store(StoreError),
}

impl fmt::Display for SqlOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlOpenError::Schema { found, known } => {
                write!(f, "the database has layout {found}, and this version reads layout {known}")
            }
            SqlOpenError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SqlOpenError {}

impl From<StoreError> for SqlOpenError {
    fn from(error: StoreError) -> Self {
        SqlOpenError::Store(error)
    }
}

impl<C: SqlConn> SqlBackend<C> {
    /// Opens the tables in `conn`, creating them where missing. Other tables are left alone.
    ///
    /// # Errors
    /// [`SqlOpenError::Schema`] for tables of another version, which stay as they are.
    pub fn open(conn: C) -> Result<Self, SqlOpenError> {
        conn.exec(CREATE[0], &[])?;
        match integers(&conn, READ_SCHEMA, &[])?.first() {
            Some(&SCHEMA) => {}
            Some(&found) => return Err(SqlOpenError::Schema { found, known: SCHEMA }),
            None => conn.transaction(&mut || {
                CREATE[1..].iter().try_for_each(|create| conn.exec(create, &[]))?;
                conn.exec(WRITE_SCHEMA, &[SqlValue::Int(SCHEMA)])
            })?,
        }
        Ok(SqlBackend { conn, events: Cell::new(None), last_seq: Cell::new(None) })
    }

    /// The connection.
    pub fn conn(&self) -> &C {
        &self.conn
    }

    /// Runs inside a transaction.
    fn apply(&self, overlay: &Overlay, last_seq: Seq) -> Result<(), StoreError> {
        let conn = &self.conn;
        let of = |wanted| {
            overlay
                .keys()
                .filter(move |(_, change)| *change == wanted)
                .map(|(key, _)| [SqlValue::Blob(key.as_bytes())])
        };
        DELETE_KEYS.run(conn, of(Change::Remove))?;
        let removed = overlay.bodies().filter(|(_, body)| body.is_none());
        DELETE_EVENTS.run(conn, removed.map(|(seq, _)| [int(seq)]))?;
        if overlay.bodies().any(|(_, body)| body.is_some_and(|json| json.len() > EVENT_BYTES_MAX)) {
            return Err(StoreError::Failed(format!("an event is longer than {EVENT_BYTES_MAX} bytes")));
        }
        let inserted = overlay.bodies().filter_map(|(seq, body)| body.map(|json| (seq, json)));
        INSERT_EVENTS.run(conn, inserted.map(|(seq, json)| [int(seq), SqlValue::Blob(json)]))?;
        INSERT_KEYS.run(conn, of(Change::Add))?;
        let tombstones: Vec<_> =
            overlay.tombstones().map(|(key, until)| (key, until.to_be_bytes())).collect();
        BURY.run(conn, tombstones.iter().map(|(key, until)| [SqlValue::Blob(key), SqlValue::Blob(until)]))?;
        // The last event says itself which number was given last, unless it was taken out.
        let newest = overlay.bodies().filter(|(_, body)| body.is_some()).map(|(seq, _)| seq).max();
        if newest != Some(last_seq) && Rows::new(self).stored_last_seq()? < last_seq {
            conn.exec(WRITE_LAST_SEQ, &[int(last_seq)])?;
        }
        Ok(())
    }
}

fn int(seq: Seq) -> SqlValue<'static> {
    SqlValue::Int(seq.0.min(1 << 52) as i64)
}

impl<C: SqlConn + 'static> Backend for SqlBackend<C> {
    type Reader<'a>
        = View<Rows<'a, C>, ()>
    where
        C: 'a;
    type Writer<'a>
        = View<Rows<'a, C>, Overlay>
    where
        C: 'a;

    fn classes(&self) -> TermClasses {
        TermClasses { all: false, author_kind: false }
    }

    /// A moment ends with the next write: one connection sees its own changes.
    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        Ok(View::reader(Rows::new(self)))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut work = Some(work);
        let (mut done, mut last) = (None, None);
        self.conn.transaction(&mut || {
            let work = work.take().ok_or_else(|| StoreError::Failed("a transaction ran twice".into()))?;
            let mut writer = View::writer(Rows::new(self));
            let value = work(&mut writer)?;
            let (rows, overlay) = writer.into_parts();
            if !overlay.is_empty() {
                let last_seq = rows.last_seq()?.max(overlay.last_seq());
                self.apply(&overlay, last_seq)?;
                last = Some(last_seq);
            }
            done = Some((value, overlay.events_delta()));
            Ok(())
        })?;
        let (value, delta) = done.ok_or_else(|| StoreError::Failed("a transaction did not run".into()))?;
        if last.is_some() {
            self.last_seq.set(last);
        }
        self.events.set(self.events.get().map(|events| events.saturating_add_signed(delta)));
        Ok(value)
    }
}
