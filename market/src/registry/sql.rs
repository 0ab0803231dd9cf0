//! Parameters and columns.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{EventId, NO_EXPIRY, PubKey, Timestamp};

/// Largest integer. In Durable Objects they are numbers of JavaScript.
const INT_MAX: u64 = 1 << 53;

/// A parameter.
#[derive(Clone, Debug)]
pub(super) enum Param {
    Int(i64),
    Blob(Vec<u8>),
}

impl From<u64> for Param {
    /// An integer beyond 2^53 is 2^53.
    fn from(int: u64) -> Self {
        Param::Int(int.min(INT_MAX) as i64)
    }
}

impl From<i64> for Param {
    fn from(int: i64) -> Self {
        Param::Int(int)
    }
}

impl From<bool> for Param {
    fn from(truth: bool) -> Self {
        Param::Int(truth.into())
    }
}

impl From<&[u8]> for Param {
    fn from(bytes: &[u8]) -> Self {
        Param::Blob(bytes.to_vec())
    }
}

impl From<PubKey> for Param {
    fn from(key: PubKey) -> Self {
        Param::Blob(key.0.to_vec())
    }
}

impl From<EventId> for Param {
    fn from(id: EventId) -> Self {
        Param::Blob(id.0.to_vec())
    }
}

/// Nothing is -1.
impl From<Option<u64>> for Param {
    fn from(int: Option<u64>) -> Self {
        int.map_or(Param::Int(-1), Param::from)
    }
}

fn values(params: &[Param]) -> Vec<SqlValue<'_>> {
    params
        .iter()
        .map(|param| match param {
            Param::Int(int) => SqlValue::Int(*int),
            Param::Blob(bytes) => SqlValue::Blob(bytes),
        })
        .collect()
}

pub(super) fn exec(conn: &impl SqlConn, sql: &str, params: &[Param]) -> Result<(), StoreError> {
    conn.exec(sql, &values(params))
}

/// All rows of a query, each read by `read`.
pub(super) fn query_all<T>(
    conn: &impl SqlConn,
    sql: &str,
    params: &[Param],
    mut read: impl FnMut(&[SqlValue<'_>]) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    conn.query(sql, &values(params), &mut |row| {
        found.push(read(row)?);
        Ok(())
    })?;
    Ok(found)
}

/// The last row of a query, which has at most one.
pub(super) fn query_one<T>(
    conn: &impl SqlConn,
    sql: &str,
    params: &[Param],
    read: impl FnMut(&[SqlValue<'_>]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    Ok(query_all(conn, sql, params, read)?.pop())
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

pub(super) fn signed(row: &[SqlValue<'_>], column: usize) -> Result<i64, StoreError> {
    match row.get(column) {
        Some(SqlValue::Int(int)) => Ok(*int),
        _ => Err(corrupt("a column is no integer")),
    }
}

pub(super) fn int(row: &[SqlValue<'_>], column: usize) -> Result<u64, StoreError> {
    signed(row, column)?.try_into().map_err(|_| corrupt("a negative number"))
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

pub(super) fn bytes<'a>(row: &[SqlValue<'a>], column: usize) -> Result<&'a [u8], StoreError> {
    match row.get(column) {
        Some(SqlValue::Blob(bytes)) => Ok(bytes),
        _ => Err(corrupt("a column is no BLOB")),
    }
}

fn array(row: &[SqlValue<'_>], column: usize) -> Result<[u8; 32], StoreError> {
    bytes(row, column)?.try_into().map_err(|_| corrupt("a key or id has not 32 bytes"))
}

pub(super) fn key(row: &[SqlValue<'_>], column: usize) -> Result<PubKey, StoreError> {
    array(row, column).map(PubKey)
}

pub(super) fn id(row: &[SqlValue<'_>], column: usize) -> Result<EventId, StoreError> {
    array(row, column).map(EventId)
}
