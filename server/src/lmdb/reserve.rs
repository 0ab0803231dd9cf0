//! Disk space reserved for removals: a deletion needs pages before it frees any, and on a full disk there would be none.
//!
//! On the disk it is a file beside the database, which is truncated while such a write runs. If the database has grown
//! meanwhile, the file is filled only as far as the disk has space: other writes must then leave what it lacks free
//! among the database's own pages. In the map, the last part is left to such writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::statvfs;

use super::open::allocate_and_extend;

/// Below this a reserve is of no use.
const BYTES_MIN: u64 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Reserve {
    file: PathBuf,
    bytes: u64,
    /// Bytes that the file has.
    held: AtomicU64,
}

impl Reserve {
    /// A reserve of `bytes` bytes in `folder`, or of half of what the disk has free if that is less; 0 keeps none.
    pub(super) fn open(folder: &Path, bytes: u64) -> Self {
        Self::at(folder, "reserve", bytes)
    }

    /// The same in a file of this name.
    pub(crate) fn at(folder: &Path, name: &str, bytes: u64) -> Self {
        let file = folder.join(name);
        let kept = file.metadata().map_or(0, |found| found.len());
        let free = statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let bytes = bytes.min(kept.max(free.saturating_add(kept) / 2));
        let mut reserve = Reserve { file, bytes, held: AtomicU64::new(0) };
        reserve.shrink();
        reserve.fill();
        // If the file could not be allocated in full, the reserve is what was allocated.
        reserve.bytes = *reserve.held.get_mut();
        reserve
    }

    /// No reserve, for a database that is only read.
    pub(super) fn none(folder: &Path) -> Self {
        Reserve { file: folder.join("reserve"), bytes: 0, held: AtomicU64::new(0) }
    }

    /// Bytes of the map that only removals may use.
    pub(super) fn map_bytes(&self, map_bytes: usize) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).min(map_bytes / 8)
    }

    /// Tries to take back from the disk what the file has lost to the database; how many bytes are still missing.
    pub(crate) fn refill(&self) -> usize {
        if self.held.load(Ordering::Relaxed) < self.bytes {
            self.fill();
        }
        usize::try_from(self.bytes - self.held.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Runs `write` in the space of the file.
    pub(crate) fn with_reserve<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.bytes > 0 {
            // Without it, the write may still find space.
            let _ = OpenOptions::new().write(true).truncate(true).open(&self.file);
        }
        let done = write();
        self.fill();
        done
    }

    /// Makes the file as large as it is to be, as far as the disk has space.
    fn fill(&self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = 0;
        if let Ok(file) = self.create() {
            let mut more = self.bytes;
            while held < self.bytes && more >= BYTES_MIN {
                match allocate_and_extend(&file, (held + more).min(self.bytes)) {
                    Ok(()) => held = (held + more).min(self.bytes),
                    Err(_) => more /= 2,
                }
            }
        }
        self.held.store(held, Ordering::Relaxed);
    }

    /// Truncates a file that an earlier configuration made larger.
    fn shrink(&self) {
        if let Ok(file) = OpenOptions::new().write(true).open(&self.file)
            && file.metadata().is_ok_and(|found| found.len() > self.bytes)
        {
            let _ = file.set_len(self.bytes);
        }
    }

    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).open(&self.file)
    }
}
