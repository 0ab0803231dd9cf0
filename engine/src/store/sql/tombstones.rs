//! Tombstones that have not been flushed to pages: the keys of those that a write put, one after the other, in rows.
//!
//! Row ids begin at 1 after each flush, and a row says how many flushes there were before it. So rows that a flush has
//! made obsolete are overwritten; deleting them would be another row written.

use super::queries::{Bulk, LARGE_ROWS};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::StoreError;
use crate::store::kv::Key;

const READ: &str = "SELECT keys FROM relay_tombstone WHERE row > ? AND row <= ? AND fold = ? ORDER BY row";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_tombstone (row, fold, keys) VALUES ",
    row: "(?,?,?)",
    after: " ON CONFLICT (row) DO UPDATE SET fold = excluded.fold, keys = excluded.keys",
};

/// `'d' hash:32 not until:8`
const KEY_BYTES: usize = 41;
/// A row is at most 2 MB.
const ROW_KEYS: usize = 16 << 10;

/// Reads the rows since flush `flushes` and passes their keys to `add`. Returns how many rows there are.
pub(super) fn load<C: SqlConn>(conn: &C, flushes: i64, add: &mut dyn FnMut(Key)) -> Result<i64, StoreError> {
    let (mut rows, mut end) = (0, 0);
    // After the last row come older ones, so a chunk that is not full ends it.
    while rows == end {
        end += LARGE_ROWS;
        let params = [SqlValue::Int(rows), SqlValue::Int(end), SqlValue::Int(flushes)];
        conn.query(READ, &params, &mut |row| match row {
            [SqlValue::Blob(row)] => {
                keys(row)?.for_each(&mut *add);
                rows += 1;
                Ok(())
            }
            _ => Err(StoreError::Corrupt("table relay_tombstone: unexpected column types".into())),
        })?;
    }
    Ok(rows)
}

/// Writes `keys` after the first `rows` rows since flush `flushes`. Returns how many rows that adds. Runs inside a
/// transaction.
pub(super) fn write<C: SqlConn>(conn: &C, flushes: i64, rows: i64, keys: &[Key]) -> Result<i64, StoreError> {
    let blobs: Vec<Vec<u8>> =
        keys.chunks(ROW_KEYS).map(|keys| keys.iter().flat_map(Key::as_bytes).copied().collect()).collect();
    let numbered = blobs.iter().zip(rows + 1..);
    WRITE.run(
        conn,
        numbered.map(|(keys, row)| [SqlValue::Int(row), SqlValue::Int(flushes), SqlValue::Blob(keys)]),
    )?;
    Ok(blobs.len() as i64)
}

fn keys(row: &[u8]) -> Result<impl Iterator<Item = Key>, StoreError> {
    let (keys, rest) = row.as_chunks::<KEY_BYTES>();
    if !rest.is_empty() || keys.iter().any(|key| key[0] != b'd') {
        return Err(StoreError::Corrupt("a row of tombstones is malformed".into()));
    }
    Ok(keys.iter().filter_map(|key| Key::read(key)))
}
