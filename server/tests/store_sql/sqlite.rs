//! A rusqlite connection for tests of the SQL backend.

use std::cell::{Cell, RefCell};
use std::path::Path;

use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlBackend, SqlConn, SqlSizes, SqlValue};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

/// A rusqlite connection that counts rows as Durable Objects bill them, and can convert integers as JavaScript does.
#[derive(Debug)]
pub(crate) struct Sqlite {
    pub(crate) conn: rusqlite::Connection,
    /// Integers are converted to doubles in both directions.
    as_doubles: bool,
    rows_written: Cell<u64>,
    rows_read: Cell<u64>,
    pub(crate) statements: RefCell<Vec<String>>,
    /// Fails the statement after this many.
    pub(crate) fail_after: Cell<Option<u64>>,
    /// Fails statements that contain this word.
    pub(crate) fail_on: Cell<Option<&'static str>>,
    /// Fails the COMMIT after this many.
    pub(crate) fail_commit_after: Cell<Option<u64>>,
}

impl Sqlite {
    /// Ends a transaction that has failed, if SQLite has not done so itself, as where the disk is full.
    fn roll_back(&self) -> Result<(), StoreError> {
        if self.conn.is_autocommit() {
            return Ok(());
        }
        self.conn.execute_batch("ROLLBACK").map_err(failed)
    }

    pub(crate) fn open(path: &Path, as_doubles: bool) -> Self {
        let conn = rusqlite::Connection::open(path).expect("opens");
        let mode: String =
            conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).expect("journal mode");
        assert_eq!(mode, "wal");
        conn.execute_batch("PRAGMA synchronous = FULL").expect("synchronous");
        Sqlite::new(conn, as_doubles)
    }

    pub(crate) fn new(conn: rusqlite::Connection, as_doubles: bool) -> Self {
        conn.set_prepared_statement_cache_capacity(256);
        Sqlite {
            conn,
            as_doubles,
            rows_written: Cell::new(0),
            rows_read: Cell::new(0),
            statements: RefCell::default(),
            fail_after: Cell::new(None),
            fail_on: Cell::new(None),
            fail_commit_after: Cell::new(None),
        }
    }

    fn bind<'a>(&self, sql: &str, params: &[SqlValue<'a>]) -> Result<Vec<ToSqlOutput<'a>>, StoreError> {
        assert!(params.len() <= 100, "{} parameters", params.len());
        assert!(sql.len() <= 100_000, "a statement of {} bytes", sql.len());
        self.statements.borrow_mut().push(sql.to_owned());
        if let Some(left) = self.fail_after.get() {
            let left = left.checked_sub(1).ok_or_else(|| StoreError::Full("on purpose".into()))?;
            self.fail_after.set(Some(left));
        }
        if self.fail_on.get().is_some_and(|word| sql.contains(word)) {
            return Err(StoreError::Full("on purpose".into()));
        }
        let bind = |value: &SqlValue<'a>| match *value {
            SqlValue::Int(int) => {
                assert!(int.unsigned_abs() <= 1 << 53, "{int} loses bits in JavaScript");
                let value = if self.as_doubles { Value::Real(int as f64) } else { Value::Integer(int) };
                ToSqlOutput::Owned(value)
            }
            SqlValue::Blob(blob) => {
                assert!(blob.len() < 2_000_000, "a value of {} bytes", blob.len());
                ToSqlOutput::Borrowed(ValueRef::Blob(blob))
            }
        };
        Ok(params.iter().map(bind).collect())
    }

    pub(crate) fn take_rows(&self) -> (u64, u64) {
        (self.rows_written.take(), self.rows_read.take())
    }
}

fn failed(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full(error.to_string()),
        _ => StoreError::Failed(error.to_string()),
    }
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let params = self.bind(sql, params)?;
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let rows = statement.execute(rusqlite::params_from_iter(params)).map_err(failed)?;
        // No table has an index besides its primary key, so a changed row counts as one row written.
        self.rows_written.set(self.rows_written.get() + rows as u64);
        Ok(())
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let params = self.bind(sql, params)?;
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(params)).map_err(failed)?;
        // A look-up that finds nothing counts as a row read too.
        self.rows_read.set(self.rows_read.get() + 1);
        let mut is_first = true;
        while let Some(found) = rows.next().map_err(failed)? {
            if !std::mem::take(&mut is_first) {
                self.rows_read.set(self.rows_read.get() + 1);
            }
            let mut values = Vec::with_capacity(columns);
            for column in 0..columns {
                values.push(match found.get_ref(column).map_err(failed)? {
                    ValueRef::Blob(blob) => SqlValue::Blob(blob),
                    ValueRef::Integer(int) if self.as_doubles => SqlValue::Int(int as f64 as i64),
                    ValueRef::Integer(int) => SqlValue::Int(int),
                    other => return Err(StoreError::Corrupt(format!("{other:?}"))),
                });
            }
            row(&values)?;
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        match work() {
            Ok(()) => {
                if let Some(left) = self.fail_commit_after.get() {
                    let Some(left) = left.checked_sub(1) else {
                        self.roll_back()?;
                        return Err(StoreError::Full("on purpose".into()));
                    };
                    self.fail_commit_after.set(Some(left));
                }
                self.conn.execute_batch("COMMIT").map_err(failed)
            }
            Err(error) => {
                self.roll_back()?;
                Err(error)
            }
        }
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        let pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes: i64 = self.conn.query_row(pages, [], |row| row.get(0)).map_err(failed)?;
        Ok(bytes.unsigned_abs())
    }
}

pub(crate) fn open(path: &Path, as_doubles: bool) -> SqlBackend<Sqlite> {
    open_with(path, as_doubles, SqlSizes::default())
}

pub(crate) fn open_with(path: &Path, as_doubles: bool, sizes: SqlSizes) -> SqlBackend<Sqlite> {
    SqlBackend::open_with(Sqlite::open(path, as_doubles), sizes).expect("opens")
}

pub(crate) fn in_memory(sizes: SqlSizes) -> SqlBackend<Sqlite> {
    let conn = rusqlite::Connection::open_in_memory().expect("opens");
    SqlBackend::open_with(Sqlite::new(conn, true), sizes).expect("opens")
}

/// Pages of each level.
pub(crate) fn levels(backend: &SqlBackend<Sqlite>) -> Vec<(i64, i64)> {
    let sql = "SELECT level, count(*) FROM relay_page GROUP BY level";
    let mut statement = backend.conn().conn.prepare(sql).expect("prepares");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("queries");
    rows.collect::<Result<_, _>>().expect("rows")
}
