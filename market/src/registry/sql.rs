//! Parameters and columns that may have nothing.

use relay_engine::sql::column::{int, signed};
use relay_engine::sql::{Param, SqlValue, StoreError};
use relay_engine::types::{NO_EXPIRY, Timestamp};

/// Nothing is -1.
pub(super) fn optional_param(int: Option<u64>) -> Param {
    int.map_or(Param::Int(-1), Param::from)
}

/// -1 is nothing.
pub(super) fn optional(row: &[SqlValue<'_>], column: usize) -> Result<Option<u64>, StoreError> {
    Ok(signed(row, column)?.try_into().ok())
}

/// 0 is never.
pub(super) fn expiry(row: &[SqlValue<'_>], column: usize) -> Result<Timestamp, StoreError> {
    Ok(Some(int(row, column)?).filter(|expires| *expires > 0).unwrap_or(NO_EXPIRY))
}

/// The same as a parameter. What has expired at second 0 has expired at second 1.
pub(super) fn expiry_param(expires: Timestamp) -> Param {
    if expires == NO_EXPIRY { Param::Int(0) } else { expires.max(1).into() }
}
