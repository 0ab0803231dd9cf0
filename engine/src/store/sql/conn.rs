//! What runs SQL: the few lines a host writes, and statements over many rows.

use crate::store::backend::StoreError;

/// Most parameters of one statement (Durable Objects).
const PARAMS_MAX: usize = 100;
/// Bytes of parameters after which a statement takes no further row, so that a batch of large events is not
/// held in memory twice.
const STATEMENT_BYTES: usize = 1 << 20;

/// A parameter or a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlValue<'a> {
    /// Between -2^53 and 2^53, so it may travel as a double.
    Int(i64),
    /// Bytes.
    Blob(&'a [u8]),
}

/// A connection to an SQLite database.
///
/// Calls are synchronous and come from one thread. Statement texts repeat, so preparing them once pays.
pub trait SqlConn {
    /// Runs one statement that returns nothing.
    ///
    /// # Errors
    /// [`StoreError::Full`] where there is no room, else [`StoreError::Failed`].
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError>;

    /// Runs one statement and calls `row` with the columns of each row. An error of `row` ends it.
    ///
    /// # Errors
    /// As [`Self::exec`], and [`StoreError::Corrupt`] for a column that is neither integer nor BLOB.
    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Runs `work` once, and keeps all of it, durably, if it returns `Ok`, else nothing of it.
    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// The size of the database in bytes.
    fn bytes(&self) -> Result<u64, StoreError>;
}

/// The first columns of all rows, which are integers.
pub(super) fn integers<C: SqlConn>(
    conn: &C,
    sql: &str,
    params: &[SqlValue<'_>],
) -> Result<Vec<i64>, StoreError> {
    let mut values = Vec::new();
    conn.query(sql, params, &mut |row| match row {
        [SqlValue::Int(value), ..] => {
            values.push(*value);
            Ok(())
        }
        _ => Err(StoreError::Corrupt("a column is no integer".into())),
    })?;
    Ok(values)
}

/// A statement for many rows, as few times as its parameters allow.
pub(super) struct Bulk {
    pub(super) before: &'static str,
    pub(super) row: &'static str,
    pub(super) after: &'static str,
}

impl Bulk {
    pub(super) fn run<'a, C: SqlConn, const N: usize>(
        &self,
        conn: &C,
        rows: impl Iterator<Item = [SqlValue<'a>; N]>,
    ) -> Result<(), StoreError> {
        let mut params = Vec::new();
        let mut bytes = 0;
        for row in rows {
            for value in row {
                bytes += if let SqlValue::Blob(blob) = value { blob.len() } else { 8 };
                params.push(value);
            }
            if params.len() + N > PARAMS_MAX || bytes >= STATEMENT_BYTES {
                self.exec(conn, &params, N)?;
                params.clear();
                bytes = 0;
            }
        }
        if params.is_empty() { Ok(()) } else { self.exec(conn, &params, N) }
    }

    fn exec<C: SqlConn>(&self, conn: &C, params: &[SqlValue<'_>], columns: usize) -> Result<(), StoreError> {
        let rows = vec![self.row; params.len() / columns].join(",");
        conn.exec(&[self.before, &rows, self.after].concat(), params)
    }
}
