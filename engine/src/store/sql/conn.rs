//! The connection that runs SQL, which a host implements.

use crate::store::backend::StoreError;

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
