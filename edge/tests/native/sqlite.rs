//! SQLite in memory as the object's connection. Clones share the database, which outlives the object.

use std::cell::Cell;
use std::rc::Rc;

use relay_edge::object::{RowCount, RowCountingConn};
use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};
use rusqlite::types::{Value, ValueRef};

#[derive(Clone)]
pub(super) struct Sqlite {
    conn: Rc<rusqlite::Connection>,
    /// Everything fails while this is set.
    pub(super) is_broken: Rc<Cell<bool>>,
    /// After as many further statements everything fails, until it is set again.
    pub(super) fails_in: Rc<Cell<Option<u64>>>,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        let conn = Rc::new(rusqlite::Connection::open_in_memory().unwrap());
        Sqlite { conn, is_broken: Rc::default(), fails_in: Rc::default() }
    }

    pub(super) fn count(&self, table: &str) -> u64 {
        let rows: i64 =
            self.conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        rows as u64
    }

    /// Events stored: the lines that are not empty.
    pub(super) fn lines(&self) -> Vec<Vec<u8>> {
        let mut statement = self.conn.prepare("SELECT json FROM relay_event ORDER BY seq").unwrap();
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        let rows: Vec<Vec<u8>> = rows.map(Result::unwrap).collect();
        let lines = rows.iter().flat_map(|row| row.split(|byte| *byte == b'\n'));
        lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }

    /// The number of events stored.
    pub(super) fn events(&self) -> u64 {
        self.lines().len() as u64
    }

    fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, StoreError> {
        let fails = self.fails_in.get().is_some_and(|left| {
            self.fails_in.set(Some(left.saturating_sub(1)));
            left == 0
        });
        if fails || self.is_broken.get() {
            return Err(StoreError::Failed("broken on purpose".into()));
        }
        self.conn.prepare_cached(sql).map_err(failed)
    }
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn bind(params: &[SqlValue<'_>]) -> impl Iterator<Item = Value> {
    assert!(params.len() <= 100, "Durable Objects take 100 parameters");
    params.iter().map(|param| match *param {
        SqlValue::Int(int) => Value::Integer(int),
        SqlValue::Blob(blob) => {
            assert!(blob.len() < 2_000_000, "a row of a Durable Object has at most 2 MB");
            Value::Blob(blob.to_vec())
        }
    })
}

impl RowCountingConn for Sqlite {
    fn rows(&self) -> RowCount {
        RowCount { read: 0, written: self.conn.total_changes() }
    }
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let params = rusqlite::params_from_iter(bind(params));
        self.prepare(sql)?.execute(params).map_err(failed).map(drop)
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.prepare(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(bind(params))).map_err(failed)?;
        while let Some(found) = rows.next().map_err(failed)? {
            let values: Vec<SqlValue<'_>> = (0..columns)
                .map(|column| match found.get_ref(column).unwrap() {
                    ValueRef::Integer(int) => SqlValue::Int(int),
                    ValueRef::Blob(blob) => SqlValue::Blob(blob),
                    other => panic!("{other:?}"),
                })
                .collect();
            row(&values)?;
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.prepare("BEGIN IMMEDIATE")?.execute([]).map_err(failed)?;
        // A failure of the commit itself.
        let outcome = work().and_then(|()| self.prepare("SELECT 1").map(drop));
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.conn.execute_batch(end).map_err(failed)?;
        outcome
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
