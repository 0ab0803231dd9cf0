//! What the store needs of a disk: files in one folder. Tests have a disk that crashes and fails.

use std::borrow::Cow;
use std::io;

use relay_engine::store::StoreError;

use super::readers::Lease;

/// A folder.
pub trait Disk: Send + Sync + 'static {
    /// A file in it.
    type File: DiskFile;

    /// The names of its files.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A file of `bytes` zeros, for which the disk has allocated space, in place of any of this name, which whoever has it open
    /// keeps. Its name is durable after [`Disk::sync`].
    ///
    /// # Errors
    /// The system's. The file may be there then, the one before it, or none.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// A file that is there, as long as it is.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Removes a file. What has it open keeps it.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The epoch of processes that begin to read now, for [`Disk::have_readers_left`].
    fn epoch(&self) -> u64 {
        0
    }

    /// Whether no other process reads that began in this epoch or before. Such a process reads what there was when it began.
    fn have_readers_left(&self, _epoch: u64) -> bool {
        true
    }

    /// Begins to read beside the process that writes, which is told by this. `None` where nobody has to be told.
    ///
    /// # Errors
    /// The system's.
    fn lease(&self) -> io::Result<Option<Lease>> {
        Ok(None)
    }

    /// Whether the process that writes does not wait for the end of a lease.
    fn is_current(&self, _lease: &Lease) -> bool {
        true
    }

    /// Makes names durable: of files that were created or removed.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;
}

/// A file.
pub trait DiskFile: Send + Sync + 'static {
    /// How long it was when it was created or opened.
    fn bytes(&self) -> u64;

    /// Bytes of the file as it was created or opened. Bytes that are read must not be written meanwhile.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if they are beyond its end.
    fn read(&self, at: u64, bytes: usize) -> io::Result<Cow<'_, [u8]>>;

    /// Writes bytes, beyond the end too. They are durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// The system's. Any part of them may be written then.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The system's. Any part of it may be durable then.
    fn sync(&self) -> io::Result<()>;

    /// Makes all from `at` on zeros. Nobody reads there meanwhile.
    ///
    /// # Errors
    /// The system's.
    fn clear_from(&self, at: u64) -> io::Result<()>;
}

/// An error of the system, sorted by what can be done about it.
pub(super) fn store_error(what: &str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full(format!("{what}: {error}"))
        }
        io::ErrorKind::UnexpectedEof => StoreError::Corrupt(format!("{what}: it ends too early")),
        _ => StoreError::Failed(format!("{what}: {error}")),
    }
}
