//! A store in SQLite, over whatever runs SQL for it: Durable Object storage, or any SQLite connection.
//!
//! ```text
//! relay_event      seq INTEGER PRIMARY KEY, json BLOB          events from number seq on, a line each: lines.rs
//! relay_page       page INTEGER PRIMARY KEY, level, run, first, last, filter, keys BLOB   sorted keys: page.rs
//! relay_gone       chunk INTEGER PRIMARY KEY, bits BLOB        events taken out of what is in pages: gone.rs
//! relay_tombstone  row INTEGER PRIMARY KEY, fold, keys BLOB    tombstones of a write since a fold: buried.rs
//! relay_meta       name TEXT PRIMARY KEY, value INTEGER        schema, folds, folded, folded_events
//! ```
//!
//! On Durable Objects a row written costs what a thousand rows read cost, so the layout is chosen by rows
//! written. A write stores its events, several in a row, and nothing else: their keys (drawn in `store::keyed`; id,
//! all, kind, author, author and kind, each indexed tag; address and expiry where there are any) are kept in
//! memory, and read off the events again when the backend is opened. Every thousand events or so the keys are *folded*:
//! written as pages of 32 KB, a run of level 0. Eight such runs are *merged* into level 1, and what a level has too
//! much sinks to the next, some pages at a time: a log-structured merge tree, in rows. A key stands for an event by its
//! number and is in one place, so there is nothing to reconcile; an event that is taken out leaves a bit behind,
//! and its keys are left out when their pages are next merged. Tombstones are keys too, that stand for no event and stay;
//! until they are folded, those of a write are a row, which is written over after the fold.
//!
//! So an event writes a row if it comes alone, less if others come with it, and less than a tenth of a row of pages over its
//! life. Taking it out writes its row again, and a row of bits if its keys are in pages; all deletions of a write that
//! are to be remembered write a row. Asking reads a page from memory, or a row for each level and run.
//!
//! Statements keep within what Durable Objects take: 100 parameters, rows under 2 MB, integers below 2^53
//! (larger ones are BLOBs), no `BEGIN` and no PRAGMA. Durability is the connection's affair.

mod buried;
mod cache;
mod conn;
mod directory;
mod filter;
mod gone;
mod lines;
mod merge;
mod page;
mod pages;
mod rows;
mod sizes;
mod state;
mod upkeep;
mod write;

use std::cell::{Cell, RefCell};
use std::fmt;

use cache::Cache;
use conn::integers;
pub use conn::{SqlConn, SqlValue};
use rows::Rows;
pub use sizes::SqlSizes;
use state::State;

use super::backend::{Backend, Seq, StoreError};
use super::keyed::{Overlay, View};
use super::terms::TermClasses;

/// The layout written by this version. Another one is refused.
const SCHEMA: i64 = 3;

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
const READ_SCHEMA: &str = "SELECT value FROM relay_meta WHERE name = 'schema'";
const WRITE_SCHEMA: &str = "INSERT INTO relay_meta (name, value) VALUES ('schema', ?)";

const CLASSES: TermClasses = TermClasses { all: true, author_kind: true };

/// Largest event in bytes: a row of a Durable Object is at most 2 MB.
pub const EVENT_BYTES_MAX: usize = 2_000_000 - 1024;

/// Events in SQLite. It is the only writer of its tables.
#[derive(Debug)]
pub struct SqlBackend<C> {
    conn: C,
    sizes: SqlSizes,
    state: RefCell<State>,
    pages: RefCell<Cache>,
    rows: RefCell<Cache>,
    upkeep_failures: Cell<u64>,
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
    /// Opens the tables in `conn`, creating them where missing. Other tables are left alone. Reads a row for each page
    /// (one or two hundred events), and the rows of events and tombstones since the last fold.
    ///
    /// # Errors
    /// [`SqlOpenError::Schema`] for tables of another version, which stay as they are.
    pub fn open(conn: C) -> Result<Self, SqlOpenError> {
        Self::open_with(conn, SqlSizes::default())
    }

    /// The same, with other sizes; those that do not work become the nearest that do.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with(conn: C, sizes: SqlSizes) -> Result<Self, SqlOpenError> {
        let sizes = sizes.bounded();
        conn.exec(CREATE[0], &[])?;
        match integers(&conn, READ_SCHEMA, &[])?.first() {
            Some(&SCHEMA) => {}
            Some(&found) => return Err(SqlOpenError::Schema { found, known: SCHEMA }),
            None => conn.transaction(&mut || {
                CREATE[1..].iter().try_for_each(|create| conn.exec(create, &[]))?;
                conn.exec(WRITE_SCHEMA, &[SqlValue::Int(SCHEMA)])
            })?,
        }
        let state = State::load(&conn, CLASSES)?;
        Ok(SqlBackend {
            conn,
            sizes,
            state: RefCell::new(state),
            pages: RefCell::new(Cache::new(sizes.page_cache_bytes)),
            rows: RefCell::new(Cache::new(sizes.row_cache_bytes)),
            upkeep_failures: Cell::new(0),
        })
    }

    /// The connection.
    pub fn conn(&self) -> &C {
        &self.conn
    }

    /// How often folding or merging failed. What is stored does not suffer, but reading becomes slower, and in the
    /// end writes are refused.
    pub fn upkeep_failures(&self) -> u64 {
        self.upkeep_failures.get()
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
        CLASSES
    }

    /// A moment ends with the next write: one connection sees its own changes.
    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        Ok(View::reader(Rows::new(self)))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut overdue = self.check_overdue();
        let mut work = Some(work);
        let mut done = None;
        self.conn.transaction(&mut || {
            let work = work.take().ok_or_else(|| StoreError::Failed("a transaction ran twice".into()))?;
            let mut writer = View::writer(Rows::new(self));
            let value = work(&mut writer)?;
            let (_, overlay) = writer.into_parts();
            if overlay.last_seq() > Seq(0) {
                // What only takes out may make the room that is missing. The tombstone that may come with it is one.
                std::mem::replace(&mut overdue, Ok(()))?;
            }
            let written = self.apply(&overlay)?;
            done = Some((value, overlay, written));
            Ok(())
        })?;
        let (value, overlay, written) =
            done.ok_or_else(|| StoreError::Failed("a transaction did not run".into()))?;
        if !overlay.is_empty() {
            written.rows.iter().for_each(|row| self.rows.borrow_mut().remove(*row));
            self.state.borrow_mut().take_over(&overlay, written);
            self.tend(overlay.keys().count() + overlay.tombstones().count());
        }
        Ok(value)
    }
}
