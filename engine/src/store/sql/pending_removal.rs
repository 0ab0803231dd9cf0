//! Events that are pending removal until they are removed: a bitmap by sequence number, in rows. All of it is in memory too. While
//! there is any the schema is another one, because versions that do not know of it would serve events pending removal.

use std::collections::BTreeMap;

use super::queries::{Bulk, SMALL_ROWS, each_row};
use super::{SCHEMA, SCHEMA_WITH_PENDING_REMOVALS};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::{Overlay, PendingRemovalRow};

const READ: &str = "SELECT number, bits FROM relay_hidden WHERE number > ? ORDER BY number LIMIT ?";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_hidden (number, bits) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (number) DO UPDATE SET bits = excluded.bits",
};
const DELETE: Bulk = Bulk { before: "DELETE FROM relay_hidden WHERE number IN (", row: "?", after: ")" };
const WRITE_SCHEMA: &str = "INSERT INTO relay_meta (name, value) VALUES ('schema', ?) \
                            ON CONFLICT (name) DO UPDATE SET value = excluded.value";

#[derive(Debug, Default)]
pub(super) struct PendingRemovalTable {
    rows: BTreeMap<u64, PendingRemovalRow>,
    len: u64,
}

/// The rows that a write changed, as they are after it.
#[derive(Debug, Default)]
pub(super) struct ChangedRows(Vec<(u64, PendingRemovalRow)>);

impl PendingRemovalTable {
    /// Reads all rows.
    pub(super) fn load<C: SqlConn>(conn: &C) -> Result<Self, StoreError> {
        let mut rows = Vec::new();
        each_row(conn, READ, -1, SMALL_ROWS, &mut |row| match *row {
            [SqlValue::Int(number), SqlValue::Blob(bits)] => {
                rows.push((number as u64, PendingRemovalRow::read(bits)?));
                Ok(number)
            }
            _ => Err(StoreError::Corrupt("table relay_hidden: unexpected column types".into())),
        })?;
        let mut table = PendingRemovalTable::default();
        table.commit(ChangedRows(rows));
        Ok(table)
    }

    /// How many events are pending removal.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.len > 0
            && self
                .rows
                .get(&PendingRemovalRow::number_of(seq))
                .is_some_and(|row| PendingRemovalRow::has(row.as_bytes(), seq))
    }

    /// All, ascending.
    pub(super) fn seqs(&self) -> impl Iterator<Item = Seq> {
        self.rows.iter().flat_map(|(number, row)| PendingRemovalRow::seqs(*number, row.as_bytes()))
    }

    /// Writes the rows that a write changes. Runs inside a transaction; [`PendingRemovalTable::commit`] follows it.
    pub(super) fn write<C: SqlConn>(&self, conn: &C, overlay: &Overlay) -> Result<ChangedRows, StoreError> {
        let row = |number| Ok(self.rows.get(&number).cloned().unwrap_or(PendingRemovalRow::EMPTY));
        let changed = overlay.pending_removal_rows(row)?;
        if changed.is_empty() {
            return Ok(ChangedRows::default());
        }
        let (empty, others): (Vec<_>, Vec<_>) =
            changed.iter().partition(|(_, row)| *row == PendingRemovalRow::EMPTY);
        let number = |number: &u64| SqlValue::Int(number.cast_signed());
        WRITE.run(conn, others.iter().map(|(at, row)| [number(at), SqlValue::Blob(row.as_bytes())]))?;
        DELETE.run(conn, empty.iter().map(|(at, _)| [number(at)]))?;
        let is_left = |at: &u64| empty.iter().all(|(number, _)| number != at);
        let has_pending_removals = !others.is_empty() || self.rows.keys().any(is_left);
        if has_pending_removals == self.rows.is_empty() {
            let schema = if has_pending_removals { SCHEMA_WITH_PENDING_REMOVALS } else { SCHEMA };
            conn.exec(WRITE_SCHEMA, &[SqlValue::Int(schema)])?;
        }
        Ok(ChangedRows(changed))
    }

    pub(super) fn commit(&mut self, ChangedRows(changed): ChangedRows) {
        let count = |row: &PendingRemovalRow| PendingRemovalRow::count(row.as_bytes());
        for (number, row) in changed {
            self.len += count(&row);
            let before = match row == PendingRemovalRow::EMPTY {
                true => self.rows.remove(&number),
                false => self.rows.insert(number, row),
            };
            self.len -= before.as_ref().map_or(0, count);
        }
    }
}
