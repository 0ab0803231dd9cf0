//! Statements with parameters that own their bytes.

use super::{SqlConn, SqlValue, StoreError};
use crate::types::{EventId, PubKey};

/// Largest integer. In Durable Objects they are numbers of JavaScript.
const INT_MAX: u64 = 1 << 53;

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// Between -2^53 and 2^53.
    Int(i64),
    /// Bytes.
    Blob(Vec<u8>),
}

impl From<u64> for Param {
    /// An integer beyond 2^53 is 2^53.
    fn from(int: u64) -> Self {
        Param::Int(int.min(INT_MAX) as i64)
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

impl From<Vec<u8>> for Param {
    fn from(bytes: Vec<u8>) -> Self {
        Param::Blob(bytes)
    }
}

impl From<&str> for Param {
    fn from(text: &str) -> Self {
        Param::Blob(text.as_bytes().to_vec())
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

fn values(params: &[Param]) -> Vec<SqlValue<'_>> {
    params
        .iter()
        .map(|param| match param {
            Param::Int(int) => SqlValue::Int(*int),
            Param::Blob(bytes) => SqlValue::Blob(bytes),
        })
        .collect()
}

/// Runs a statement that returns nothing.
///
/// # Errors
/// As [`SqlConn::exec`].
pub fn exec(conn: &impl SqlConn, sql: &str, params: &[Param]) -> Result<(), StoreError> {
    conn.exec(sql, &values(params))
}

/// All rows of a query, each read by `read`.
///
/// # Errors
/// As [`SqlConn::query`], and those of `read`.
pub fn query_all<T>(
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
///
/// # Errors
/// As [`query_all`].
pub fn query_one<T>(
    conn: &impl SqlConn,
    sql: &str,
    params: &[Param],
    read: impl FnMut(&[SqlValue<'_>]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    Ok(query_all(conn, sql, params, read)?.pop())
}

/// Whether a query has a row.
///
/// # Errors
/// As [`SqlConn::query`].
pub fn has_row(conn: &impl SqlConn, sql: &str, params: &[Param]) -> Result<bool, StoreError> {
    Ok(query_one(conn, sql, params, |_| Ok(()))?.is_some())
}
