//! Columns of a row. One of another type or length is [`StoreError::Corrupt`].

use super::{SqlValue, StoreError};
use crate::types::{EventId, PubKey};

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// An integer.
///
/// # Errors
/// If it is none.
pub fn signed(row: &[SqlValue<'_>], column: usize) -> Result<i64, StoreError> {
    match row.get(column) {
        Some(SqlValue::Int(int)) => Ok(*int),
        _ => Err(corrupt("a column is not an integer")),
    }
}

/// An integer that is not negative.
///
/// # Errors
/// If it is none.
pub fn int(row: &[SqlValue<'_>], column: usize) -> Result<u64, StoreError> {
    signed(row, column)?.try_into().map_err(|_| corrupt("a negative number"))
}

/// Bytes.
///
/// # Errors
/// If it has none.
pub fn bytes<'a>(row: &[SqlValue<'a>], column: usize) -> Result<&'a [u8], StoreError> {
    match row.get(column) {
        Some(SqlValue::Blob(bytes)) => Ok(bytes),
        _ => Err(corrupt("a column is not a BLOB")),
    }
}

/// Text.
///
/// # Errors
/// If it is not UTF-8 in a BLOB.
pub fn text(row: &[SqlValue<'_>], column: usize) -> Result<String, StoreError> {
    String::from_utf8(bytes(row, column)?.to_vec()).map_err(|_| corrupt("a text is not UTF-8"))
}

/// A public key.
///
/// # Errors
/// If it has not 32 bytes.
pub fn key(row: &[SqlValue<'_>], column: usize) -> Result<PubKey, StoreError> {
    bytes(row, column)?.try_into().map(PubKey).map_err(|_| corrupt("a public key has not 32 bytes"))
}

/// An id.
///
/// # Errors
/// If it has not 32 bytes.
pub fn id(row: &[SqlValue<'_>], column: usize) -> Result<EventId, StoreError> {
    bytes(row, column)?.try_into().map(EventId).map_err(|_| corrupt("an id has not 32 bytes"))
}
