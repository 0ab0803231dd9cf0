//! A store in SQLite, over whatever runs SQL for it: Durable Object storage, or any SQLite connection.
//!
//! ```text
//! relay_event      seq INTEGER PRIMARY KEY, json BLOB          events from seq on, a line each: event_row.rs
//! relay_page       page INTEGER PRIMARY KEY, level, run, first, last, filter, keys BLOB   sorted keys: store::lsm
//! relay_gone       chunk INTEGER PRIMARY KEY, bits BLOB        removed events whose keys are in pages: removed.rs
//! relay_hidden     number INTEGER PRIMARY KEY, bits BLOB       events pending removal: pending_removal.rs
//! relay_tombstone  row INTEGER PRIMARY KEY, fold, keys BLOB    tombstones put since flush number fold: tombstones.rs
//! relay_meta       name TEXT PRIMARY KEY, value INTEGER        schema; folds, folded, folded_events: memtable.rs
//! ```
//!
//! Stored names keep older words of this code: `fold` is a flush, `gone` means removed, `hidden` means pending removal.
//! `filter` is the page's Bloom filter (`store::lsm`).
//!
//! On Durable Objects a row written costs what a thousand rows read cost, so the layout is chosen by rows
//! written: a log-structured merge tree (`store::lsm`), in rows. A write stores its events, several in a row, and nothing else. Their keys
//! (described in `store::kv`; id, all, kind, author, author and kind, each indexed tag; address and expiry where there are
//! any) are kept in memory, the *memtable*, and derived from the events again when the backend is opened. Every thousand
//! events or so the memtable is *flushed*: written as pages of 32 KB, a run of level 0. Eight such runs are *compacted* into
//! level 1, and a level that is over its size moves pages to the next, some at a time. A key refers to an event by its sequence
//! number and is in one place, so there is nothing to reconcile; of a removed event a bit remains, and its keys
//! are left out when their pages are next compacted. Tombstones are keys too, that stand for no event and stay; until they
//! are flushed, those of a write are a row, which is overwritten after the flush.
//!
//! So an event writes a row if it comes alone, less if others come with it, and less than a tenth of a row of pages over its
//! life. Removing it writes its row again, and a row of bits if its keys are in pages; all tombstones of a write are a row.
//! Marking many events as pending removal writes a row for each 8,192 sequence numbers that they are among.
//! A query reads pages from memory, or a row for each level and run.
//!
//! Statements keep within what Durable Objects take: 100 parameters, rows under 2 MB, integers below 2^53
//! (larger ones are BLOBs), no `BEGIN` and no PRAGMA. The connection makes writes durable.

mod cache;
mod event_row;
mod event_table;
mod maintenance;
mod memtable;
mod page_table;
mod pending_removal;
mod queries;
mod reader;
mod removed;
mod sizes;
mod tables;
mod tombstones;
mod tree;

use std::cell::{Cell, RefCell};
use std::fmt;

pub use crate::sql::{SqlConn, SqlValue};
pub use event_table::EVENT_BYTES_MAX;
use queries::integers;
use reader::SqlSource;
pub use sizes::SqlSizes;
use tables::Tables;

use super::backend::{Backend, Seq, StoreError};
use super::kv::{KvTransaction, Overlay};
use super::terms::TermClasses;

/// The schema versions written by this version: while no event is pending removal, and while any is. Another one is refused.
const SCHEMA: i64 = 3;
const SCHEMA_WITH_PENDING_REMOVALS: i64 = 4;

const CREATE: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS relay_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS relay_event (seq INTEGER PRIMARY KEY, json BLOB NOT NULL)",
    // What is read of all pages comes before what is read of one.
    "CREATE TABLE IF NOT EXISTS relay_page (page INTEGER PRIMARY KEY, level INTEGER NOT NULL, \
     run INTEGER NOT NULL, first BLOB NOT NULL, last BLOB NOT NULL, filter BLOB NOT NULL, keys BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS relay_gone (chunk INTEGER PRIMARY KEY, bits BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS relay_tombstone (row INTEGER PRIMARY KEY, \
     fold INTEGER NOT NULL, keys BLOB NOT NULL)",
];
/// Databases of earlier versions lack it.
const CREATE_PENDING_REMOVAL: &str =
    "CREATE TABLE IF NOT EXISTS relay_hidden (number INTEGER PRIMARY KEY, bits BLOB NOT NULL)";
const READ_SCHEMA: &str = "SELECT value FROM relay_meta WHERE name = 'schema'";
const WRITE_SCHEMA: &str = "INSERT INTO relay_meta (name, value) VALUES ('schema', ?)";

const CLASSES: TermClasses = TermClasses { all: true, author_kind: true };

/// Events in SQLite. It is the only writer of its tables.
#[derive(Debug)]
pub struct SqlBackend<C> {
    conn: C,
    sizes: SqlSizes,
    /// Whether there is a table for events pending removal.
    has_pending_removal_table: bool,
    /// Borrowed for one call of a reader, or one step of a write.
    tables: RefCell<Tables>,
    maintenance_failures: Cell<u64>,
}

/// Why tables were not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlOpenError {
    /// Written by another version.
    Schema {
        /// Its schema version.
        found: i64,
        /// The newest schema version that this version of the relay reads.
        known: i64,
    },
    /// SQL failed.
    Store(StoreError),
}

impl fmt::Display for SqlOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlOpenError::Schema { found, known } => {
                write!(
                    f,
                    "the database has schema version {found}; this version of the relay reads versions {SCHEMA} to {known}"
                )
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
    /// Opens the tables in `conn`, creating them where missing. Other tables are left alone. Reads a row for each page
    /// (one or two hundred events), and the rows of events and tombstones since the last flush.
    ///
    /// # Errors
    /// [`SqlOpenError::Schema`] for tables of another version, which stay as they are.
    pub fn open(conn: C) -> Result<Self, SqlOpenError> {
        Self::open_with(conn, SqlSizes::default())
    }

    /// Like [`Self::open`], with other sizes; invalid ones are clamped.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with(conn: C, sizes: SqlSizes) -> Result<Self, SqlOpenError> {
        let sizes = sizes.bounded();
        conn.exec(CREATE[0], &[])?;
        let has_pending_removal_table = match integers(&conn, READ_SCHEMA, &[])?.first() {
            Some(&SCHEMA_WITH_PENDING_REMOVALS) => true,
            Some(&SCHEMA) => match conn.exec(CREATE_PENDING_REMOVAL, &[]) {
                // Events can be served and removed without it, and removing them makes space for it.
                Err(StoreError::Full(_)) => false,
                created => created.map(|()| true)?,
            },
            Some(&found) => return Err(SqlOpenError::Schema { found, known: SCHEMA_WITH_PENDING_REMOVALS }),
            None => {
                conn.transaction(&mut || {
                    CREATE[1..].iter().try_for_each(|create| conn.exec(create, &[]))?;
                    conn.exec(CREATE_PENDING_REMOVAL, &[])?;
                    conn.exec(WRITE_SCHEMA, &[SqlValue::Int(SCHEMA)])
                })?;
                true
            }
        };
        let tables = RefCell::new(Tables::load(&conn, &sizes, CLASSES, has_pending_removal_table)?);
        Ok(SqlBackend { conn, sizes, has_pending_removal_table, tables, maintenance_failures: Cell::new(0) })
    }

    /// The connection.
    pub fn conn(&self) -> &C {
        &self.conn
    }

    fn source(&self) -> SqlSource<'_, C> {
        SqlSource { conn: &self.conn, tables: &self.tables, skipped_max: self.sizes.skipped_keys }
    }
}

impl<C: SqlConn + 'static> Backend for SqlBackend<C> {
    type Reader<'a>
        = KvTransaction<SqlSource<'a, C>, ()>
    where
        C: 'a;
    type Writer<'a>
        = KvTransaction<SqlSource<'a, C>, Overlay>
    where
        C: 'a;

    fn classes(&self) -> TermClasses {
        CLASSES
    }

    fn maintenance_failures(&self) -> u64 {
        self.maintenance_failures.get()
    }

    /// From the sizes; unlimited if the database was too full to create the table of events pending removal.
    fn removed_keys_max(&self) -> usize {
        if self.has_pending_removal_table { self.sizes.removed_keys_max } else { usize::MAX }
    }

    /// What it reads changes with the next write: one connection sees its own changes.
    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        Ok(KvTransaction::reader(self.source()))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut overdue = self.tables.borrow_mut().flush_if_overdue(&self.conn, &self.sizes);
        let mut work = Some(work);
        let mut done = None;
        self.conn.transaction(&mut || {
            let work = work.take().ok_or_else(|| StoreError::Failed("a transaction ran twice".into()))?;
            let mut writer = KvTransaction::writer(self.source());
            let value = work(&mut writer)?;
            let (_, overlay) = writer.into_parts();
            if overlay.last_seq() > Seq(0) {
                // A write that only removes may free the space that is missing; it may put tombstones too.
                std::mem::replace(&mut overdue, Ok(()))?;
            }
            let changes = match overlay.is_empty() {
                true => None,
                false => Some(self.tables.borrow_mut().write(&self.conn, &self.sizes, &overlay)?),
            };
            done = Some((value, overlay, changes));
            Ok(())
        })?;
        let (value, overlay, changes) =
            done.ok_or_else(|| StoreError::Failed("a transaction did not run".into()))?;
        if let Some(changes) = changes {
            let mut tables = self.tables.borrow_mut();
            tables.commit(&overlay, changes);
            let keys = overlay.added_keys().count() + overlay.tombstones().count();
            if tables.maintain(&self.conn, &self.sizes, keys).is_err() {
                self.maintenance_failures.set(self.maintenance_failures.get() + 1);
            }
        }
        Ok(value)
    }
}
