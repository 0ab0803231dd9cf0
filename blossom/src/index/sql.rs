//! Parameters and columns of the index's own types.

use relay_engine::sql::column::{bytes, int};
use relay_engine::sql::{Param, SqlValue, StoreError};
use relay_engine::types::PubKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::blob::Sha256;

impl From<Sha256> for Param {
    fn from(sha256: Sha256) -> Self {
        Param::Blob(sha256.0.to_vec())
    }
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// An integer column in which 0 is nothing.
pub(super) fn nonzero_int(row: &[SqlValue<'_>], column: usize) -> Result<Option<u64>, StoreError> {
    Ok(Some(int(row, column)?).filter(|int| *int > 0))
}

pub(super) fn sha256(row: &[SqlValue<'_>], column: usize) -> Result<Sha256, StoreError> {
    bytes(row, column)?.try_into().map(Sha256).map_err(|_| corrupt("a hash"))
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
