//! The table of events that were removed after their keys had been flushed to pages: the rows of [`RemovedSeqs`].

use super::queries::{Bulk, SMALL_ROWS, each_row};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};
use crate::store::lsm::{ChangedBits, RemovedSeqs};

const READ: &str = "SELECT chunk, bits FROM relay_gone WHERE chunk > ? ORDER BY chunk LIMIT ?";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_gone (chunk, bits) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (chunk) DO UPDATE SET bits = excluded.bits",
};

/// Reads all rows.
pub(super) fn load<C: SqlConn>(conn: &C) -> Result<RemovedSeqs, StoreError> {
    let mut removed = RemovedSeqs::default();
    each_row(conn, READ, -1, SMALL_ROWS, &mut |row| match *row {
        [SqlValue::Int(number), SqlValue::Blob(bytes)] => {
            removed.put_row(number as u64, bytes)?;
            Ok(number)
        }
        _ => Err(StoreError::Corrupt("table relay_gone: unexpected column types".into())),
    })?;
    Ok(removed)
}

/// Writes the rows that change when `seqs`, ascending, are added. Runs inside a transaction; [`RemovedSeqs::commit`] follows it.
pub(super) fn write<C: SqlConn>(
    conn: &C,
    removed: &RemovedSeqs,
    seqs: &[Seq],
) -> Result<ChangedBits, StoreError> {
    let changed = removed.adding(seqs);
    WRITE.run(
        conn,
        changed.rows().map(|(number, bits)| [SqlValue::Int(number as i64), SqlValue::Blob(bits)]),
    )?;
    Ok(changed)
}
