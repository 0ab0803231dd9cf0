//! LMDB's errors, classified by what the caller can do about them.

use std::io;
use std::path::{Path, PathBuf};

use heed::MdbError;
use relay_engine::store::StoreError;

/// Why a folder was not opened as a database.
#[derive(Debug)]
pub enum OpenError {
    /// The folder or a file in it cannot be created, read or written.
    Io(PathBuf, io::Error),
    /// `data.mdb` in it is not LMDB's, or it is LMDB's but not a relay's.
    NotARelayDatabase(PathBuf),
    /// The database has another schema version.
    Schema {
        /// The folder.
        path: PathBuf,
        /// The schema version of the database.
        found: u64,
        /// The newest schema version that this version of the relay reads.
        known: u64,
    },
    /// The disk lacks space for the least that an open database needs.
    Full(PathBuf, String),
    /// A process with the same id in another PID namespace has the database open.
    OtherNamespace(PathBuf),
    /// Another process has the database open, and `lock.mdb` can't be written, so this process could not register as a
    /// reader.
    CannotLock(PathBuf),
    /// `data.mdb` is this many bytes shorter than the pages it should hold.
    Short(PathBuf, u64),
    /// This process has already opened the folder.
    Open(PathBuf),
    /// Any other error of LMDB.
    Failed(PathBuf, String),
}

impl OpenError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            _ if is_full(&error) => OpenError::Full(path.to_owned(), error.to_string()),
            io::ErrorKind::WouldBlock => OpenError::OtherNamespace(path.to_owned()),
            _ => OpenError::Io(path.to_owned(), error),
        }
    }

    pub(super) fn store(path: &Path, error: StoreError) -> Self {
        match error {
            StoreError::Full(what) => OpenError::Full(path.to_owned(), what),
            StoreError::Corrupt(what) | StoreError::Failed(what) => OpenError::Failed(path.to_owned(), what),
        }
    }

    pub(super) fn lmdb(path: &Path, error: heed::Error) -> Self {
        if let heed::Error::Io(error) = error {
            return OpenError::io(path, error);
        }
        let path = path.to_owned();
        match error {
            heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch | MdbError::Incompatible) => {
                OpenError::NotARelayDatabase(path)
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
            OpenError::NotARelayDatabase(path) => {
                write!(f, "the folder {} holds a data.mdb that is not a relay database", path.display())
            }
            OpenError::Schema { path, found, known } => write!(
                f,
                "the database in {} has schema version {found}; this version of the relay reads versions up to {known}",
                path.display()
            ),
            OpenError::Full(path, what) => {
                write!(f, "the disk is full: no room to open the database in {}: {what}", path.display())
            }
            OpenError::OtherNamespace(path) => write!(
                f,
                "the database in {} is open in a process of another PID namespace, such as another container, and LMDB \
                 tells processes apart by their ids: both have {}. Run this command where that process runs (docker \
                 exec, kubectl exec)",
                path.display(),
                std::process::id()
            ),
            OpenError::CannotLock(path) => write!(
                f,
                "the database in {} is open in another process, and lock.mdb, which keeps readers apart from it, can't be \
                 written here: make it writable, or run this command where that process runs",
                path.display()
            ),
            OpenError::Short(path, bytes) => {
                write!(
                    f,
                    "data.mdb in {} is {bytes} bytes too short, and it can't be extended, because it can't be written",
                    path.display()
                )
            }
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

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Converts an error of a transaction.
pub(super) fn store_error(error: heed::Error) -> StoreError {
    let what = error.to_string();
    match error {
        heed::Error::Mdb(MdbError::MapFull | MdbError::TxnFull) => StoreError::Full(what),
        heed::Error::Io(error) if is_full(&error) => StoreError::Full(what),
        heed::Error::Mdb(MdbError::PageNotFound | MdbError::Corrupted | MdbError::Invalid)
        | heed::Error::Decoding(_) => StoreError::Corrupt(what),
        _ => StoreError::Failed(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified() {
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
