//! Parameters and columns.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::PubKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::blob::Sha256;

/// Largest integer. In Durable Objects they are numbers of JavaScript.
const INT_MAX: u64 = 1 << 53;

/// A parameter.
#[derive(Clone, Debug)]
pub(super) enum Param {
    Int(u64),
    Blob(Vec<u8>),
}

impl From<u64> for Param {
    /// An integer beyond 2^53 is 2^53.
    fn from(int: u64) -> Self {
        Param::Int(int.min(INT_MAX))
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

impl From<Sha256> for Param {
    fn from(sha256: Sha256) -> Self {
        Param::Blob(sha256.0.to_vec())
    }
}

impl From<PubKey> for Param {
    fn from(key: PubKey) -> Self {
        Param::Blob(key.0.to_vec())
    }
}

fn values(params: &[Param]) -> Vec<SqlValue<'_>> {
    params
        .iter()
        .map(|param| match param {
            Param::Int(int) => SqlValue::Int(*int as i64),
            Param::Blob(bytes) => SqlValue::Blob(bytes),
        })
        .collect()
}

/// Runs a statement.
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

/// Whether a query has a row.
pub(super) fn has(conn: &impl SqlConn, sql: &str, params: &[Param]) -> Result<bool, StoreError> {
    Ok(query_one(conn, sql, params, |_| Ok(()))?.is_some())
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// An integer column.
pub(super) fn int(row: &[SqlValue<'_>], column: usize) -> Result<u64, StoreError> {
    match row.get(column) {
        Some(SqlValue::Int(int)) => (*int).try_into().map_err(|_| corrupt("a negative number")),
        _ => Err(corrupt("a column is no integer")),
    }
}

/// An integer column in which 0 is nothing.
pub(super) fn nonzero_int(row: &[SqlValue<'_>], column: usize) -> Result<Option<u64>, StoreError> {
    Ok(Some(int(row, column)?).filter(|int| *int > 0))
}

pub(super) fn bytes<'a>(row: &[SqlValue<'a>], column: usize) -> Result<&'a [u8], StoreError> {
    match row.get(column) {
        Some(SqlValue::Blob(bytes)) => Ok(bytes),
        _ => Err(corrupt("a column is no BLOB")),
    }
}

pub(super) fn text(row: &[SqlValue<'_>], column: usize) -> Result<String, StoreError> {
    String::from_utf8(bytes(row, column)?.to_vec()).map_err(|_| corrupt("a text is not UTF-8"))
}

pub(super) fn sha256(row: &[SqlValue<'_>], column: usize) -> Result<Sha256, StoreError> {
    bytes(row, column)?.try_into().map(Sha256).map_err(|_| corrupt("a hash"))
}

pub(super) fn key(row: &[SqlValue<'_>], column: usize) -> Result<PubKey, StoreError> {
    bytes(row, column)?.try_into().map(PubKey).map_err(|_| corrupt("a public key"))
}

pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("JSON: {error}")))
}

/// Our own types are written; none of them can fail.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A public key in hexadecimal, which hosts have checked.
pub(super) fn parse_key(text: &str) -> Result<PubKey, StoreError> {
    PubKey::from_hex(text.as_bytes()).map_err(|_| StoreError::Failed("not a public key".to_owned()))
}

/// As hexadecimal text.
pub(super) fn hex(bytes: &[u8]) -> String {
    faster_hex::hex_string(bytes)
}
