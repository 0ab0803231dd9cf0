//! Room kept for removals: a deletion needs pages before it frees any, and on a full disk there would be none.
//!
//! Of the disk, a file beside the database has it, which is cut to nothing for the time of such a write. Of the map,
//! the last part is left to such writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::open::allocate_grown;

/// Below this a reserve is of no use.
const BYTES_MIN: u64 = 1 << 16;

#[derive(Debug)]
pub(super) struct Reserve {
    file: PathBuf,
    bytes: u64,
    /// The disk had no room for all of it.
    is_short: AtomicBool,
}

impl Reserve {
    /// A reserve of `bytes` bytes in `folder`, as far as the disk has them; 0 keeps none.
    pub(super) fn open(folder: &Path, bytes: u64) -> Self {
        let reserve = Reserve { file: folder.join("reserve"), bytes, is_short: AtomicBool::new(false) };
        reserve.fill();
        reserve
    }

    /// Bytes of the map that only removals may use.
    pub(super) fn map_bytes(&self, map_bytes: usize) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).min(map_bytes / 8)
    }

    /// Takes from the disk what is missing, if that has been tried without success before.
    pub(super) fn refill(&self) {
        if self.is_short.load(Ordering::Relaxed) {
            self.fill();
        }
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

    /// As much as the disk has.
    fn fill(&self) {
        if self.bytes == 0 {
            return;
        }
        let mut bytes = self.bytes;
        let filled = self.create().and_then(|file| {
            loop {
                match allocate_grown(&file, bytes) {
                    Err(_) if bytes / 2 >= BYTES_MIN => bytes /= 2,
                    done => return done,
                }
            }
        });
        self.is_short.store(filled.is_err() || bytes < self.bytes, Ordering::Relaxed);
    }

    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).open(&self.file)
    }
}
