//! SQLite files of the server: one for each agent, that of the agents' router, Blossom's index and the market's registry.

use std::path::Path;
use std::time::Duration;

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode};

/// What is committed survives power loss. The file is this process's alone, so no shared memory is mapped for it. Pages that a
/// connection keeps in memory are few, because there may be a thousand connections.
const SETTINGS: &str = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                        PRAGMA cache_size = -256; PRAGMA journal_size_limit = 1048576; PRAGMA temp_store = MEMORY";
/// The same for a file with several connections, which share memory.
const SHARED_SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                               PRAGMA journal_size_limit = 4194304; PRAGMA temp_store = MEMORY";
/// How long another process that has the file open, such as a backup, is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Statements that stay prepared.
const STATEMENTS_MAX: usize = 64;

/// A connection to a file.
#[derive(Debug)]
pub(crate) struct Sqlite {
    conn: Connection,
}

impl Sqlite {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// If it is not a database, is in use, or cannot be read or written.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let conn = Connection::open(path).map_err(failure)?;
        conn.busy_timeout(BUSY_TIMEOUT).map_err(failure)?;
        conn.execute_batch(SETTINGS).map_err(failure)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(Sqlite { conn })
    }

    /// Opens a file that has several connections in this process, or makes it.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub(crate) fn open_shared(path: &Path) -> Result<Self, StoreError> {
        let conn = Connection::open(path).map_err(failure)?;
        conn.busy_timeout(BUSY_TIMEOUT).map_err(failure)?;
        conn.execute_batch(SHARED_SETTINGS).map_err(failure)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(Sqlite { conn })
    }

    /// A database in memory, which ends with its connection.
    pub(super) fn in_memory() -> Result<Self, StoreError> {
        Connection::open_in_memory().map(|conn| Sqlite { conn }).map_err(failure)
    }

    /// Whether the next commits wait for the disk. Those that do not may be lost with the machine's power, all together from
    /// some point on; a later one that waits makes them durable too.
    pub(crate) fn wait_for_disk(&self, waits: bool) -> Result<(), StoreError> {
        let level = if waits { "FULL" } else { "NORMAL" };
        self.conn.pragma_update(None, "synchronous", level).map_err(failure)
    }

    /// Ends a transaction that has failed, if SQLite has not done so itself.
    fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction can't be rolled back");
        }
    }
}

fn failure(error: rusqlite::Error) -> StoreError {
    let words = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(words),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(words),
        _ => StoreError::Failed(words),
    }
}

fn bind<'a>(params: &[SqlValue<'a>]) -> impl Iterator<Item = ToSqlOutput<'a>> {
    params.iter().map(|param| match *param {
        SqlValue::Int(int) => ToSqlOutput::Borrowed(ValueRef::Integer(int)),
        SqlValue::Blob(blob) => ToSqlOutput::Borrowed(ValueRef::Blob(blob)),
    })
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare_cached(sql).map_err(failure)?;
        statement.execute(rusqlite::params_from_iter(bind(params))).map_err(failure)?;
        Ok(())
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare_cached(sql).map_err(failure)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(bind(params))).map_err(failure)?;
        let mut values = Vec::with_capacity(columns);
        while let Some(found) = rows.next().map_err(failure)? {
            values.clear();
            for column in 0..columns {
                values.push(match found.get_ref(column).map_err(failure)? {
                    ValueRef::Integer(int) => SqlValue::Int(int),
                    ValueRef::Blob(blob) => SqlValue::Blob(blob),
                    other => {
                        let kind = other.data_type();
                        return Err(StoreError::Corrupt(format!("column {column} is {kind}")));
                    }
                });
            }
            row(&values)?;
            values = renew(values);
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(failure)?;
        let outcome = work().and_then(|()| self.conn.execute_batch("COMMIT").map_err(failure));
        if outcome.is_err() {
            self.roll_back();
        }
        outcome
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes: i64 = self.conn.query_row(sql, [], |row| row.get(0)).map_err(failure)?;
        Ok(bytes.unsigned_abs())
    }
}

/// An empty vector whose elements may borrow from the next row; its memory is used again.
fn renew<'a>(mut values: Vec<SqlValue<'_>>) -> Vec<SqlValue<'a>> {
    values.clear();
    values.into_iter().map(|_| SqlValue::Int(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        let conn = Sqlite::open(&path).unwrap();
        conn.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)", &[]).unwrap();
        let put =
            |id: i64| conn.exec("INSERT INTO t VALUES (?, ?)", &[SqlValue::Int(id), SqlValue::Blob(b"x")]);
        conn.transaction(&mut || put(1).and_then(|()| put(2))).unwrap();
        let failed =
            conn.transaction(&mut || put(3).and_then(|()| Err(StoreError::Full("on purpose".into()))));
        assert_eq!(failed, Err(StoreError::Full("on purpose".into())));
        assert!(conn.transaction(&mut || put(4).and_then(|()| put(1))).is_err());
        let rows = |conn: &Sqlite| {
            let mut ids = Vec::new();
            conn.query("SELECT id, v FROM t ORDER BY id", &[], &mut |row| {
                let [SqlValue::Int(id), SqlValue::Blob(b"x")] = row else { panic!("{row:?}") };
                ids.push(*id);
                Ok(())
            })
            .unwrap();
            ids
        };
        assert_eq!(rows(&conn), [1, 2]);
        drop(conn);
        assert_eq!(rows(&Sqlite::open(&path).unwrap()), [1, 2]);
        std::fs::write(&path, "this is not a database, however long it may be").unwrap();
        assert!(matches!(Sqlite::open(&path), Err(StoreError::Corrupt(_))));
    }
}
