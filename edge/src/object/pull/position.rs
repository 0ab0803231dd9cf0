//! How far the comparison with a relay is, as a row: it survives the loss of the object's memory.
//!
//! ```text
//! edge_pull  (name BLOB primary key, until INTEGER, due INTEGER, failures INTEGER)
//! ```
//!
//! A comparison goes from the newest second to the oldest. What is newer than `until` is compared; the next slice begins there, in
//! second `due`. The row is written once a slice, after all that came in it is stored.

use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::types::Timestamp;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS edge_pull (name BLOB PRIMARY KEY, until INTEGER NOT NULL, \
                      due INTEGER NOT NULL, failures INTEGER NOT NULL) WITHOUT ROWID";
const READ: &str = "SELECT until, due, failures FROM edge_pull WHERE name = ?";
const WRITE: &str = "INSERT OR REPLACE INTO edge_pull (name, until, due, failures) VALUES (?, ?, ?, ?)";

/// How far the comparison with a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The newest second that is to be compared.
    pub(super) until: Timestamp,
    /// When the next slice begins, in seconds since 1970.
    pub(super) due: Timestamp,
    /// Slices in a row that have failed without progress.
    pub(super) failures: u32,
}

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

/// That of a relay and filter; `None` if there was no slice yet.
pub(super) fn read<C: SqlConn>(conn: &C, name: &str) -> Result<Option<Position>, StoreError> {
    let mut found = None;
    conn.query(READ, &[SqlValue::Blob(name.as_bytes())], &mut |row| match row {
        [SqlValue::Int(until), SqlValue::Int(due), SqlValue::Int(failures)] => {
            found = Some(Position {
                until: until.cast_unsigned(),
                due: due.cast_unsigned(),
                failures: u32::try_from(*failures).unwrap_or(u32::MAX),
            });
            Ok(())
        }
        _ => Err(StoreError::Corrupt("the position in a comparison has another type".into())),
    })?;
    Ok(found)
}

pub(super) fn write<C: SqlConn>(conn: &C, name: &str, position: Position) -> Result<(), StoreError> {
    let Position { until, due, failures } = position;
    let values = [
        SqlValue::Blob(name.as_bytes()),
        SqlValue::Int(until.cast_signed()),
        SqlValue::Int(due.cast_signed()),
        SqlValue::Int(failures.into()),
    ];
    conn.exec(WRITE, &values)
}
