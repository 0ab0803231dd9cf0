//! An SQLite database in memory behind the [`SqlConn`] seam, which outlives the backend on it.

use std::rc::Rc;

use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};
use rusqlite::types::{Value, ValueRef};

/// A connection; clones share the database.
#[derive(Clone, Debug)]
pub(crate) struct Sqlite(Rc<rusqlite::Connection>);

impl Sqlite {
    /// An empty database.
    pub(crate) fn new() -> Self {
        Sqlite(Rc::new(rusqlite::Connection::open_in_memory().expect("memory opens")))
    }
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn bind(params: &[SqlValue<'_>]) -> impl Iterator<Item = Value> {
    params.iter().map(|param| match *param {
        SqlValue::Int(int) => Value::Integer(int),
        SqlValue::Blob(blob) => Value::Blob(blob.to_vec()),
    })
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(sql).map_err(failed)?;
        statement.execute(rusqlite::params_from_iter(bind(params))).map_err(failed).map(drop)
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(bind(params))).map_err(failed)?;
        while let Some(found) = rows.next().map_err(failed)? {
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
        self.0.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        match work() {
            Ok(()) => self.0.execute_batch("COMMIT").map_err(failed),
            Err(error) => {
                self.0.execute_batch("ROLLBACK").map_err(failed)?;
                Err(error)
            }
        }
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        let pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes: i64 = self.0.query_row(pages, [], |row| row.get(0)).map_err(failed)?;
        Ok(bytes.unsigned_abs())
    }
}
