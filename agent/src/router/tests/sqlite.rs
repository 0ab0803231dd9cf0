//! SQLite in memory, which outlives the router that uses it, counts rows written, and fails when told to.

use std::cell::Cell;
use std::rc::Rc;

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use rusqlite::types::{ToSqlOutput, ValueRef};

#[derive(Clone)]
pub(super) struct Sqlite(Rc<Inner>);

struct Inner {
    conn: rusqlite::Connection,
    rows_written: Cell<u64>,
    fails: Cell<bool>,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        Sqlite(Rc::new(Inner { conn, rows_written: Cell::new(0), fails: Cell::new(false) }))
    }

    /// Rows written since this was last asked. No table has an index beside its key.
    pub(super) fn take_rows(&self) -> u64 {
        self.0.rows_written.take()
    }

    /// Whether every write fails.
    pub(super) fn set_fails(&self, fails: bool) {
        self.0.fails.set(fails);
    }

    pub(super) fn count(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.0.conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64
    }
}

fn bind<'a>(params: &[SqlValue<'a>]) -> Vec<ToSqlOutput<'a>> {
    let bind = |value: &SqlValue<'a>| match *value {
        SqlValue::Int(int) => ToSqlOutput::Borrowed(ValueRef::Integer(int)),
        SqlValue::Blob(blob) => {
            assert!(blob.len() < 2_000_000, "a value of {} bytes", blob.len());
            ToSqlOutput::Borrowed(ValueRef::Blob(blob))
        }
    };
    params.iter().map(bind).collect()
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let mut statement = self.0.conn.prepare_cached(sql).map_err(failed)?;
        if self.0.fails.get() && !sql.starts_with("CREATE") {
            return Err(StoreError::Full("on purpose".to_owned()));
        }
        let rows = statement.execute(rusqlite::params_from_iter(bind(params))).map_err(failed)?;
        self.0.rows_written.set(self.0.rows_written.get() + rows as u64);
        Ok(())
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.conn.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(bind(params))).map_err(failed)?;
        while let Some(found) = rows.next().map_err(failed)? {
            let value = |column| match found.get_ref(column).map_err(failed)? {
                ValueRef::Blob(blob) => Ok(SqlValue::Blob(blob)),
                ValueRef::Integer(int) => Ok(SqlValue::Int(int)),
                other => Err(StoreError::Corrupt(format!("{other:?}"))),
            };
            row(&(0..columns).map(value).collect::<Result<Vec<_>, _>>()?)?;
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let transaction = self.0.conn.unchecked_transaction().map_err(failed)?;
        work()?;
        transaction.commit().map_err(failed)
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
