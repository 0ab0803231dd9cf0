//! LMDB's errors, by what the caller can do about them.

use std::io;
use std::path::{Path, PathBuf};

use heed::MdbError;
use relay_engine::store::StoreError;

/// Why a folder was not opened as a database.
#[derive(Debug)]
pub enum OpenError {
    /// The folder or a file in it cannot be made, read or written.
    Io(PathBuf, io::Error),
    /// `data.mdb` in it is not LMDB's, or it is LMDB's but not a relay's.
    Foreign(PathBuf),
    /// Written by another version.
    Schema {
        /// The folder.
        path: PathBuf,
        /// Its layout.
        found: u64,
        /// The layout of this version.
        known: u64,
    },
    /// This process has the folder open already.
    Open(PathBuf),
    /// Any other error of LMDB.
    Failed(PathBuf, String),
}

impl OpenError {
    pub(super) fn lmdb(path: &Path, error: heed::Error) -> Self {
        let path = path.to_owned();
        match error {
            heed::Error::Io(error) => OpenError::Io(path, error),
            heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch | MdbError::Incompatible) => {
                OpenError::Foreign(path)
            }
            heed::Error::EnvAlreadyOpened => OpenError::Open(path),
            other => OpenError::Failed(path, other.to_string()),
        }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Io(path, error) => write!(f, "cannot use the folder {}: {error}", path.display()),
            OpenError::Foreign(path) => {
                write!(f, "the folder {} holds a data.mdb that is no relay database", path.display())
            }
            OpenError::Schema { path, found, known } => write!(
                f,
                "the database in {} has layout {found}, and this version reads layout {known}",
                path.display()
            ),
            OpenError::Open(path) => {
                write!(f, "the database in {} is open in this process already", path.display())
            }
            OpenError::Failed(path, what) => {
                write!(f, "cannot open the database in {}: {what}", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io(_, error) => Some(error),
            _ => None,
        }
    }
}

/// An error of a transaction, as the store's.
pub(super) fn store_error(error: heed::Error) -> StoreError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let what = error.to_string();
    match error {
        heed::Error::Mdb(MdbError::MapFull | MdbError::TxnFull) => StoreError::Full(what),
        heed::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) => {
            StoreError::Full(what)
        }
        heed::Error::Mdb(MdbError::PageNotFound | MdbError::Corrupted | MdbError::Invalid)
        | heed::Error::Decoding(_) => StoreError::Corrupt(what),
        _ => StoreError::Failed(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_comes_next() {
        let full = |error| matches!(store_error(error), StoreError::Full(_));
        let os = |code| heed::Error::Io(io::Error::from_raw_os_error(code));
        assert!(full(heed::Error::Mdb(MdbError::MapFull)));
        assert!(full(os(28)), "ENOSPC");
        assert!(full(os(122)), "EDQUOT");
        assert!(matches!(store_error(os(5)), StoreError::Failed(_)), "EIO");
        assert!(matches!(store_error(heed::Error::Mdb(MdbError::Panic)), StoreError::Failed(_)));
        assert!(matches!(store_error(heed::Error::Mdb(MdbError::Corrupted)), StoreError::Corrupt(_)));
    }
}
