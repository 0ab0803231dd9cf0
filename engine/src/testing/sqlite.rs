//! An SQLite database in memory behind the [`SqlConn`] seam. It outlives what is opened on it, counts what is written, takes
//! no row and no integer that a Durable Object would not take, and fails when it is told to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::sql::{SqlConn, SqlValue, StoreError};
use rusqlite::limits::Limit;
use rusqlite::types::{Value, ValueRef};

/// Largest value and largest row, in bytes, as in Durable Objects.
const ROW_BYTES_MAX: i32 = 2_000_000;

/// A connection; clones share the database.
#[derive(Clone, Debug)]
pub struct Sqlite(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    conn: rusqlite::Connection,
    /// Rows that queries have returned so far.
    rows_returned: Cell<u64>,
    /// Statements so far; beginning and ending a transaction are among them.
    statements: Cell<u64>,
    /// The statement that fails next, by its number.
    failing: Cell<u64>,
    /// What all statements fail with, until told otherwise.
    failure: RefCell<Option<StoreError>>,
    /// Whether the disk is full.
    full: Cell<bool>,
    rows_written: Cell<u64>,
    /// Rows that one change of a table writes: its own and one in each index.
    widths: RefCell<HashMap<String, u64>>,
}

impl Default for Sqlite {
    fn default() -> Self {
        Self::new()
    }
}

impl Sqlite {
    /// An empty database.
    ///
    /// # Panics
    /// If SQLite does not open.
    pub fn new() -> Self {
        let conn = rusqlite::Connection::open_in_memory().expect("memory opens");
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX).expect("a limit that SQLite knows");
        // Statements are prepared once, as hosts do.
        conn.set_prepared_statement_cache_capacity(256);
        Sqlite(Rc::new(Shared {
            conn,
            rows_returned: Cell::new(0),
            statements: Cell::new(0),
            failing: Cell::new(u64::MAX),
            failure: RefCell::new(None),
            full: Cell::new(false),
            rows_written: Cell::new(0),
            widths: RefCell::default(),
        }))
    }

    /// The `n`th statement from now on fails, once; 1 is the next one. A commit that fails keeps nothing.
    pub fn fail_at(&self, n: u64) {
        self.0.failing.set(self.0.statements.get().saturating_add(n));
    }

    /// Whether the statement chosen by [`Sqlite::fail_at`] is still to come.
    pub fn is_armed(&self) -> bool {
        self.0.failing.get() != u64::MAX && self.0.failing.get() > self.0.statements.get()
    }

    /// All statements fail with `error` from now on; with `None`, none does.
    pub fn fail_with(&self, error: Option<StoreError>) {
        self.0.failure.replace(error);
        self.0.failing.set(u64::MAX);
    }

    /// Whether the disk is full: then writes fail, and tables that are there open.
    pub fn set_full(&self, full: bool) {
        self.0.full.set(full);
    }

    /// No value and no row may have more bytes than this from now on.
    ///
    /// # Panics
    /// If SQLite knows no such limit.
    pub fn take_rows_of_at_most(&self, bytes: i32) {
        self.0.conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes).expect("a limit that SQLite knows");
    }

    /// Statements so far.
    pub fn statements(&self) -> u64 {
        self.0.statements.get()
    }

    /// Rows that queries have returned so far.
    pub fn rows_returned(&self) -> u64 {
        self.0.rows_returned.get()
    }

    /// Rows written so far, at most as Durable Objects bill them: each row that is inserted, changed or deleted, and as many again
    /// for each index of its table, also where the change is none for the index.
    pub fn rows_written(&self) -> u64 {
        self.0.rows_written.get()
    }

    /// Rows written since this was last asked.
    pub fn take_rows_written(&self) -> u64 {
        self.0.rows_written.take()
    }

    /// Rows of a table.
    ///
    /// # Panics
    /// If there is no such table.
    pub fn count(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.0.conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("a table").unsigned_abs()
    }

    /// How a statement is carried out: a line for each step.
    ///
    /// # Panics
    /// If it is none.
    pub fn plan(&self, sql: &str) -> String {
        let mut explain = self.0.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
        let params = vec![Value::Null; explain.parameter_count()];
        let steps = explain.query_map(rusqlite::params_from_iter(params), |row| row.get::<_, String>(3));
        steps.expect("a plan").map(|step| step.expect("a step") + "\n").collect()
    }

    fn tick(&self) -> Result<(), StoreError> {
        self.0.statements.set(self.0.statements.get() + 1);
        if self.0.statements.get() == self.0.failing.get() {
            self.0.failing.set(u64::MAX);
            return Err(StoreError::Failed("told to fail".to_owned()));
        }
        self.0.failure.borrow().clone().map_or(Ok(()), Err)
    }

    fn width(&self, sql: &str) -> u64 {
        let mut words =
            sql.split_whitespace().skip_while(|word| !matches!(*word, "INTO" | "UPDATE" | "FROM"));
        let table = words.nth(1).unwrap_or_default().to_owned();
        let indices = "SELECT count(*) FROM pragma_index_list(?) WHERE origin <> 'pk'";
        let mut widths = self.0.widths.borrow_mut();
        *widths.entry(table).or_insert_with_key(|table| {
            1 + self
                .0
                .conn
                .query_row(indices, [table], |row| row.get::<_, i64>(0))
                .map_or(0, i64::unsigned_abs)
        })
    }
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// Integers are numbers of JavaScript there.
fn check_integers(params: &[SqlValue<'_>]) -> Result<(), StoreError> {
    let is_exact =
        |param: &SqlValue<'_>| !matches!(param, SqlValue::Int(int) if int.unsigned_abs() > 1 << 53);
    match params.iter().all(is_exact) {
        true => Ok(()),
        false => Err(StoreError::Failed("an integer beyond 2^53".to_owned())),
    }
}

fn bind(params: &[SqlValue<'_>]) -> impl Iterator<Item = Value> {
    params.iter().map(|param| match *param {
        SqlValue::Int(int) => Value::Integer(int),
        SqlValue::Blob(blob) => Value::Blob(blob.to_vec()),
    })
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        if self.0.full.get() && !sql.starts_with("CREATE TABLE IF NOT EXISTS") {
            return Err(StoreError::Full("told to be full".to_owned()));
        }
        self.tick()?;
        check_integers(params)?;
        let mut statement = self.0.conn.prepare_cached(sql).map_err(failed)?;
        let changes = statement.execute(rusqlite::params_from_iter(bind(params))).map_err(failed)? as u64;
        if changes > 0 && !sql.starts_with("CREATE") {
            self.0.rows_written.set(self.0.rows_written.get() + changes * self.width(sql));
        }
        Ok(())
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.tick()?;
        check_integers(params)?;
        let mut statement = self.0.conn.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(bind(params))).map_err(failed)?;
        while let Some(found) = rows.next().map_err(failed)? {
            self.0.rows_returned.set(self.0.rows_returned.get() + 1);
            let mut values = Vec::with_capacity(columns);
            for column in 0..columns {
                values.push(match found.get_ref(column).map_err(failed)? {
                    ValueRef::Integer(int) => SqlValue::Int(int),
                    ValueRef::Blob(blob) => SqlValue::Blob(blob),
                    other => return Err(StoreError::Corrupt(format!("{other:?}"))),
                });
            }
            row(&values)?;
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.tick()?;
        self.0.conn.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        match work().and_then(|()| self.tick()) {
            Ok(()) => self.0.conn.execute_batch("COMMIT").map_err(failed),
            Err(error) => {
                // SQLite has done so itself where the disk is full.
                if !self.0.conn.is_autocommit() {
                    self.0.conn.execute_batch("ROLLBACK").map_err(failed)?;
                }
                Err(error)
            }
        }
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        let pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes: i64 = self.0.conn.query_row(pages, [], |row| row.get(0)).map_err(failed)?;
        Ok(bytes.unsigned_abs())
    }
}
