//! Parameters and columns that may have nothing.

use relay_engine::sql::column::{bytes, int, signed};
use relay_engine::sql::{Param, SqlValue, StoreError};
use relay_engine::types::{NO_EXPIRY, Timestamp};

use crate::figures::DAYS;

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

/// Seconds of each day, big-endian; the largest number is nothing, and no bytes are nothing on all days.
pub(super) fn daily_param(daily: &[Option<u64>; DAYS]) -> Param {
    if daily.iter().all(Option::is_none) {
        return [].as_slice().into();
    }
    let seconds =
        daily.map(|day| day.map_or(u32::MAX, |seconds| seconds.min(u64::from(u32::MAX - 1)) as u32));
    seconds.map(u32::to_be_bytes).as_flattened().into()
}

/// The reverse of [`daily_param`].
pub(super) fn daily(row: &[SqlValue<'_>], column: usize) -> Result<[Option<u64>; DAYS], StoreError> {
    let (seconds, _) = bytes(row, column)?.as_chunks::<4>();
    let mut days = [None; DAYS];
    for (day, bytes) in days.iter_mut().zip(seconds) {
        *day = Some(u32::from_be_bytes(*bytes)).filter(|seconds| *seconds < u32::MAX).map(u64::from);
    }
    Ok(days)
}
