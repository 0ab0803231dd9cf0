//! The error of all stores, and the connection to an SQLite database, which a host implements. The SQL store uses it, and so may
//! other pure crates.

pub mod column;
mod statement;

use std::fmt;

pub use statement::{Param, exec, has_row, query_all, query_one};

/// Why a store could not do its work. No relay rule is among these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The disk is full; nothing of the batch was kept. Passes when space returns.
    Full(String),
    /// The backend failed; nothing of the batch was kept.
    Failed(String),
    /// What is stored contradicts itself.
    Corrupt(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full(what) => write!(f, "no space left: {what}"),
            StoreError::Failed(what) => write!(f, "storage failed: {what}"),
            StoreError::Corrupt(what) => write!(f, "storage is corrupt: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// A parameter or a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlValue<'a> {
    /// Between -2^53 and 2^53, so it may travel as a double.
    Int(i64),
    /// Bytes.
    Blob(&'a [u8]),
}

/// A connection to an SQLite database.
///
/// Calls are synchronous and come from one thread. Statement texts repeat, so preparing them once pays.
pub trait SqlConn {
    /// Runs one statement that returns nothing.
    ///
    /// # Errors
    /// [`StoreError::Full`] where the disk is full, else [`StoreError::Failed`].
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError>;

    /// Runs one statement and calls `row` with the columns of each row. An error of `row` ends it.
    ///
    /// # Errors
    /// As [`Self::exec`], and [`StoreError::Corrupt`] for a column that is neither integer nor BLOB.
    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Runs `work` once, and keeps all of it, durably, if it returns `Ok`, else nothing of it.
    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// The size of the database in bytes.
    fn bytes(&self) -> Result<u64, StoreError>;
}
