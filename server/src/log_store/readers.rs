//! Processes that read beside the one that writes, told apart by when they began, so that one that reads for ever, and goes on
//! from state to state, keeps no slot and no body of long ago.
//!
//! Time is cut into epochs. Readers of even epochs share the lock of one file, those of odd ones that of another; the first byte of
//! the first file says which it is now. The writer begins the next epoch when nobody reads any more in the one before the
//! current one. So two epochs later all have left that were there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::folder::{LockError, share};
use crate::file_lock::FileLock;

/// Shared by the processes that read while one writes.
pub(super) const NAMES: [&str; 2] = ["READERS", "READERS-2"];

/// How often and after how long a reader tries again to be known to the process that writes.
const TRIES: u32 = 100;
const RETRY: Duration = Duration::from_millis(2);

/// What the process that writes knows of those that read.
#[derive(Debug)]
pub(super) struct Readers {
    files: [File; 2],
    epoch: Mutex<u64>,
}

impl Readers {
    /// Of a folder that this process writes.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let open = |name: &str| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(name))
        };
        let files = [open(NAMES[0])?, open(NAMES[1])?];
        let slot = slot_of(&files[0]);
        // So that there is a block for it when the disk is full.
        let _ = write_slot(&files[0], slot);
        Ok(Readers { files, epoch: Mutex::new(slot as u64) })
    }

    pub(super) fn epoch(&self) -> u64 {
        *self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all have left that began in this epoch or before.
    pub(super) fn have_left(&self, epoch: u64) -> bool {
        let mut now = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has gone from one to the other meanwhile has begun anew.
        if self.files.iter().all(is_free) {
            return true;
        }
        while *now < epoch + 2 {
            let next = (*now + 1) as usize % 2;
            if !is_free(&self.files[next]) || write_slot(&self.files[0], next).is_err() {
                return false;
            }
            *now += 1;
        }
        true
    }
}

fn is_free(file: &File) -> bool {
    match file.try_lock() {
        Ok(()) => file.unlock().is_ok(),
        Err(TryLockError::WouldBlock) => false,
        // If files can't be locked, nobody has got in.
        Err(TryLockError::Error(error)) => error.kind() == io::ErrorKind::Unsupported,
    }
}

fn slot_of(file: &File) -> usize {
    let mut slot = [0];
    // An earlier version writes none.
    usize::from(file.read_at(&mut slot, 0).is_ok_and(|read| read == 1) && slot == *b"1")
}

fn write_slot(file: &File, slot: usize) -> io::Result<()> {
    file.write_all_at(if slot == 0 { b"0" } else { b"1" }, 0)
}

/// The part in an epoch of a process that reads. It ends when dropped.
#[derive(Debug)]
pub struct Lease {
    slot: usize,
    _lock: FileLock,
}

impl Lease {
    /// Takes part in the current epoch.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        for _ in 0..TRIES {
            let slot = current_slot(path);
            // The process that writes may ask at this moment whether anybody reads.
            if let Ok(Some(lock)) = share(&path.join(NAMES[slot]))
                && current_slot(path) == slot
            {
                return Ok(Lease { slot, _lock: lock });
            }
            std::thread::sleep(RETRY);
        }
        Err(LockError::InUse)
    }

    /// Whether it is one of the current epoch.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        current_slot(path) == self.slot
    }
}

fn current_slot(path: &Path) -> usize {
    File::open(path.join(NAMES[0])).map_or(0, |file| slot_of(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_there_is_waited_for_and_who_comes_later_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path();
        let readers = Readers::of(path).expect("opens");
        assert!(readers.have_left(readers.epoch()), "nobody is there");
        let first = Lease::take(path).expect("lease");
        let epoch = readers.epoch();
        assert!(!readers.have_left(epoch));
        assert!(!first.is_current(path), "the writer waits for it");
        let mut lease = Lease::take(path).expect("lease");
        assert!(!readers.have_left(epoch), "the first is still there");
        drop(first);
        assert!(readers.have_left(epoch), "only later ones are there");
        // One that goes on from lease to lease, without a gap, as soon as its own is not current, has left after two of them.
        for _ in 0..6 {
            let (epoch, mut moves) = (readers.epoch(), 0);
            while !readers.have_left(epoch) {
                assert!(!lease.is_current(path), "the writer waits for it");
                let next = Lease::take(path).expect("lease");
                assert!(next.is_current(path) && !readers.have_left(epoch), "it holds both");
                (lease, moves) = (next, moves + 1);
            }
            assert_eq!(moves, 2);
        }
        // Another process writes now, and does not know since when the reader is there.
        drop(readers);
        let readers = Readers::of(path).expect("opens");
        let epoch = readers.epoch();
        assert!(!readers.have_left(epoch) && !readers.have_left(epoch));
        drop(lease);
        assert!(readers.have_left(epoch));
    }
}
