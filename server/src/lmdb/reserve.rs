//! Room kept for removals: a deletion needs pages before it frees any, and on a full disk there would be none.
//!
//! Of the disk, a file beside the database has it, which is cut to nothing for the time of such a write. What the database
//! has grown by then is missing from the file: other writes must leave as much free among the database's own pages. Of the
//! map, the last part is left to such writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::open::allocate_and_extend;

/// Below this a reserve is of no use.
const BYTES_MIN: u64 = 1 << 16;

#[derive(Debug)]
pub(super) struct Reserve {
    file: PathBuf,
    bytes: u64,
    /// Bytes that the file has.
    held: AtomicU64,
    /// Bytes that it had at most since it was opened.
    held_max: AtomicU64,
}

impl Reserve {
    /// A reserve of `bytes` bytes in `folder`, as far as the disk has them; 0 keeps none.
    pub(super) fn open(folder: &Path, bytes: u64) -> Self {
        let reserve = Reserve {
            file: folder.join("reserve"),
            bytes,
            held: AtomicU64::new(0),
            held_max: AtomicU64::new(0),
        };
        reserve.shrink();
        reserve.fill();
        reserve
    }

    /// No reserve, for a database that is only read.
    pub(super) fn none(folder: &Path) -> Self {
        Reserve {
            file: folder.join("reserve"),
            bytes: 0,
            held: AtomicU64::new(0),
            held_max: AtomicU64::new(0),
        }
    }

    /// Bytes of the map that only removals may use.
    pub(super) fn map_bytes(&self, map_bytes: usize) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).min(map_bytes / 8)
    }

    /// Bytes that the file had and has lost to the database, after an attempt to take them from the disk again.
    pub(super) fn missing(&self) -> usize {
        if self.held.load(Ordering::Relaxed) < self.bytes {
            self.fill();
        }
        let missing = self.held_max.load(Ordering::Relaxed) - self.held.load(Ordering::Relaxed);
        usize::try_from(missing).unwrap_or(usize::MAX)
    }

    /// Runs `write` with the room of the file.
    pub(super) fn with_room<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.bytes > 0 {
            // Without it, the write may still find room.
            let _ = OpenOptions::new().write(true).truncate(true).open(&self.file);
        }
        let done = write();
        self.fill();
        done
    }

    /// Makes the file as large as it is to be, as far as the disk has room.
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
        self.held_max.fetch_max(held, Ordering::Relaxed);
    }

    /// Gives back what an earlier configuration wanted more.
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
