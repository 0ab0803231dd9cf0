//! Events that are pending removal until they are removed: a bitmap by sequence number, in rows. All of it is in memory too. While
//! there is any the schema is another one, because versions that do not know of it would serve events pending removal.

use super::queries::{Bulk, SMALL_ROWS, each_row};
use super::{SCHEMA, SCHEMA_WITH_PENDING_REMOVALS};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::StoreError;
use crate::store::kv::{Overlay, PendingRemovalRow, PendingRemovals};

const READ: &str = "SELECT number, bits FROM relay_hidden WHERE number > ? ORDER BY number LIMIT ?";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_hidden (number, bits) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (number) DO UPDATE SET bits = excluded.bits",
};
const DELETE: Bulk = Bulk { before: "DELETE FROM relay_hidden WHERE number IN (", row: "?", after: ")" };
const WRITE_SCHEMA: &str = "INSERT INTO relay_meta (name, value) VALUES ('schema', ?) \
                            ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// The rows that a write changed, as they are after it.
#[derive(Debug, Default)]
pub(super) struct ChangedRows(Vec<(u64, PendingRemovalRow)>);

/// Reads all rows.
pub(super) fn load<C: SqlConn>(conn: &C) -> Result<PendingRemovals, StoreError> {
    let mut pending_removal = PendingRemovals::default();
    each_row(conn, READ, -1, SMALL_ROWS, &mut |row| match *row {
        [SqlValue::Int(number), SqlValue::Blob(bits)] => {
            pending_removal.put_row(number as u64, PendingRemovalRow::read(bits)?);
            Ok(number)
        }
        _ => Err(StoreError::Corrupt("table relay_hidden: unexpected column types".into())),
    })?;
    Ok(pending_removal)
}

/// Writes the rows that a write changes. Runs inside a transaction; [`commit`] follows it.
pub(super) fn write<C: SqlConn>(
    conn: &C,
    stored: &PendingRemovals,
    overlay: &Overlay,
) -> Result<ChangedRows, StoreError> {
    let changed = stored.changed_by(overlay)?;
    if changed.is_empty() {
        return Ok(ChangedRows::default());
    }
    let (empty, others): (Vec<_>, Vec<_>) =
        changed.iter().partition(|(_, row)| *row == PendingRemovalRow::EMPTY);
    let number = |number: &u64| SqlValue::Int(number.cast_signed());
    WRITE.run(conn, others.iter().map(|(at, row)| [number(at), SqlValue::Blob(row.as_bytes())]))?;
    DELETE.run(conn, empty.iter().map(|(at, _)| [number(at)]))?;
    let is_left = |at: u64| empty.iter().all(|(number, _)| *number != at);
    let has_pending_removals = !others.is_empty() || stored.rows().any(|(at, _)| is_left(at));
    if has_pending_removals == stored.is_empty() {
        let schema = if has_pending_removals { SCHEMA_WITH_PENDING_REMOVALS } else { SCHEMA };
        conn.exec(WRITE_SCHEMA, &[SqlValue::Int(schema)])?;
    }
    Ok(ChangedRows(changed))
}

/// Takes over a write that is durable.
pub(super) fn commit(stored: &mut PendingRemovals, ChangedRows(changed): ChangedRows) {
    changed.into_iter().for_each(|(number, row)| stored.put_row(number, row));
}
