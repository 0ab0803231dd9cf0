//! Why a folder was not opened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use relay_engine::store::StoreError;

use super::folder::LockError;

/// Why a folder was not opened as a database.
#[derive(Debug)]
pub enum LogOpenError {
    /// The folder or a file in it cannot be created, read or written.
    Io(PathBuf, io::Error),
    /// Another process has it open, or this one has already.
    InUse(PathBuf),
    /// There is no such database in it, and none can be made.
    NoDatabase(PathBuf),
    /// What is in it can't be read.
    Store(PathBuf, StoreError),
}

impl LogOpenError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        LogOpenError::Io(path.to_owned(), error)
    }

    pub(super) fn lock(path: &Path, error: LockError) -> Self {
        match error {
            LockError::InUse => LogOpenError::InUse(path.to_owned()),
            LockError::Io(error) => LogOpenError::io(path, error),
        }
    }
}

impl fmt::Display for LogOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogOpenError::Io(path, error) => write!(f, "cannot use the folder {}: {error}", path.display()),
            LogOpenError::InUse(path) => write!(
                f,
                "the database in {} is open in another process, such as another command, and one process writes such a \
                 database at a time: end that process first. Beside a relay that serves the folder, commands ask that relay",
                path.display()
            ),
            LogOpenError::NoDatabase(path) => write!(f, "there is no database in {}", path.display()),
            LogOpenError::Store(path, error) => {
                write!(f, "the database in {} cannot be opened: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for LogOpenError {}
