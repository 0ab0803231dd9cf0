//! Statements over many rows, and the columns that come back.

use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};

/// Most parameters of one statement (Durable Objects).
const PARAMS_MAX: usize = 100;
/// Bytes of parameters after which a statement takes no further row, so that a batch of large events is not
/// held in memory twice.
const STATEMENT_BYTES: usize = 1 << 20;

/// Rows read at once, of those that are small and of those that may have 2 MB.
pub(super) const SMALL_ROWS: i64 = 500;
pub(super) const LARGE_ROWS: i64 = 16;

/// The row that an event of this sequence number would begin, within SQL's integers.
pub(super) fn row_id(seq: Seq) -> i64 {
    seq.0.min(1 << 52) as i64
}

/// A sequence number as a parameter.
pub(super) fn int(seq: Seq) -> SqlValue<'static> {
    SqlValue::Int(row_id(seq))
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
        _ => Err(StoreError::Corrupt("a column is not an integer".into())),
    })?;
    Ok(values)
}

/// Reads a table in chunks of `rows`. `sql` takes the last key read and the number of rows; `take` returns the key of
/// its row.
pub(super) fn each_row<C: SqlConn>(
    conn: &C,
    sql: &str,
    after: i64,
    rows: i64,
    take: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<i64, StoreError>,
) -> Result<(), StoreError> {
    let mut after = after;
    loop {
        let mut left = rows;
        conn.query(sql, &[SqlValue::Int(after), SqlValue::Int(rows)], &mut |row| {
            after = take(row)?;
            left -= 1;
            Ok(())
        })?;
        if left > 0 {
            return Ok(());
        }
    }
}

/// Calls `each` with rows of events: the sequence number of the first event, and the lines.
pub(super) fn event_row<C: SqlConn>(
    conn: &C,
    sql: &str,
    params: &[SqlValue<'_>],
    each: &mut dyn FnMut(Seq, &[u8]),
) -> Result<(), StoreError> {
    conn.query(sql, params, &mut |row| match *row {
        [SqlValue::Int(seq), SqlValue::Blob(lines)] => {
            each(Seq(seq as u64), lines);
            Ok(())
        }
        _ => Err(malformed_event()),
    })
}

pub(super) fn malformed_event() -> StoreError {
    StoreError::Corrupt("table relay_event: unexpected column types".into())
}

/// A statement for many rows, run as few times as its parameters allow.
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
