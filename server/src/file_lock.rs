//! Locks of files, by `flock`: they hold across containers, and end with the process however that ends.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Deref;

/// A locked file, unlocked when dropped.
///
/// Closing the file would not do: a child of this process has a copy of each descriptor from its `fork` until its `exec`, and
/// the lock is kept while there is one.
#[derive(Debug)]
pub(crate) struct FileLock(File);

/// Why a file is not locked.
#[derive(Debug)]
pub(crate) enum FileLockError {
    /// Somebody else has a lock of it; here is the file.
    InUse(File),
    /// Files can't be locked on this file system.
    Unsupported,
    /// The system's error.
    Io(io::Error),
}

impl FileLock {
    /// Locks a file exclusively.
    pub(crate) fn exclusive(file: File) -> Result<Self, FileLockError> {
        FileLock::held(file.try_lock(), file)
    }

    /// Locks a file, shared with other shared locks.
    pub(crate) fn shared(file: File) -> Result<Self, FileLockError> {
        FileLock::held(file.try_lock_shared(), file)
    }

    fn held(locked: Result<(), TryLockError>, file: File) -> Result<Self, FileLockError> {
        match locked {
            Ok(()) => Ok(FileLock(file)),
            Err(TryLockError::WouldBlock) => Err(FileLockError::InUse(file)),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                Err(FileLockError::Unsupported)
            }
            Err(TryLockError::Error(error)) => Err(FileLockError::Io(error)),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Without this the lock would end only when the last descriptor is closed.
        let _ = self.0.unlock();
    }
}

impl Deref for FileLock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test that opened a database again failed now and then, while another one started a process.
    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let path = tempfile::NamedTempFile::new().expect("file").into_temp_path();
        for lock in [FileLock::exclusive, FileLock::shared] {
            let held = lock(File::open(&path).expect("opens")).expect("nobody has it");
            let copy = held.try_clone().expect("copy");
            let second = FileLock::exclusive(File::open(&path).expect("opens"));
            assert!(matches!(second, Err(FileLockError::InUse(_))), "{second:?}");
            drop(held);
            FileLock::exclusive(File::open(&path).expect("opens")).expect("it was given back");
            drop(copy);
        }
    }
}
