//! Reading the columns of a row.

use relay_engine::sql::{SqlValue, StoreError};
use relay_engine::types::PubKey;

fn corrupt(column: usize) -> StoreError {
    StoreError::Corrupt(format!("column {column} of a table of the agent router has the wrong type"))
}

/// A number that is not negative.
pub(super) fn int(row: &[SqlValue<'_>], column: usize) -> Result<u64, StoreError> {
    match row.get(column) {
        Some(SqlValue::Int(int)) => u64::try_from(*int).map_err(|_| corrupt(column)),
        _ => Err(corrupt(column)),
    }
}

/// Bytes.
pub(super) fn blob<'a>(row: &[SqlValue<'a>], column: usize) -> Result<&'a [u8], StoreError> {
    match row.get(column) {
        Some(SqlValue::Blob(blob)) => Ok(blob),
        _ => Err(corrupt(column)),
    }
}

/// A public key.
pub(super) fn pubkey(row: &[SqlValue<'_>], column: usize) -> Result<PubKey, StoreError> {
    blob(row, column)?.try_into().map(PubKey).map_err(|_| corrupt(column))
}
