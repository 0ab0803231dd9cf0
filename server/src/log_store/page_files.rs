//! Pages of keys in slots of files.
//!
//! ```text
//! pages-<n>    slot*                                all of one size, which the manifest says
//! slot         crc:4  length:4  slot:8  page        crc: of what follows it, up to the end of the page
//! ```
//!
//! A slot is written only while no page is in it that anybody may read. A page's checksum is checked when it is first read.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_engine::store::StoreError;
use relay_engine::store::lsm::{Page, PageId, PageRef, RunId, Shelf};

use super::disk::{Disk, DiskFile, store_error};

/// Bytes of a slot before the page.
pub(super) const HEAD_BYTES: usize = 16;

/// How the files are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// Bytes of a slot.
    pub(super) bytes: u32,
    /// Slots of a file.
    pub(super) of_file: u32,
}

/// The files, as long as somebody may read them.
#[derive(Debug)]
pub(super) struct PageFiles<F> {
    files: Vec<Arc<PageFile<F>>>,
    slots: Slots,
}

#[derive(Debug)]
struct PageFile<F> {
    file: F,
    /// A bit for each slot whose page has been checked.
    checked: Box<[AtomicU64]>,
}

impl<F> Clone for PageFiles<F> {
    fn clone(&self) -> Self {
        PageFiles { files: self.files.clone(), slots: self.slots }
    }
}

fn name(number: usize) -> String {
    format!("pages-{number:08}")
}

/// The number in a file's name.
pub(super) fn parse_name(name: &str) -> Option<usize> {
    name.strip_prefix("pages-")?.parse().ok()
}

fn failed(number: usize, error: &std::io::Error) -> StoreError {
    store_error(&name(number), error)
}

impl<F: DiskFile> PageFiles<F> {
    /// Opens as many files as hold `slots_used` slots.
    pub(super) fn open<D: Disk<File = F>>(
        disk: &D,
        slots: Slots,
        slots_used: u32,
    ) -> Result<Self, StoreError> {
        let mut files = PageFiles { files: Vec::new(), slots };
        for number in 0..slots_used.div_ceil(slots.of_file) as usize {
            let file = disk.open(&name(number)).map_err(|error| failed(number, &error))?;
            files.push(file);
        }
        Ok(files)
    }

    fn push(&mut self, file: F) {
        let checked = (0..self.slots.of_file.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        self.files.push(Arc::new(PageFile { file, checked }));
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.files.len() as u64 * u64::from(self.slots.bytes) * u64::from(self.slots.of_file)
    }

    fn place(&self, slot: u32) -> (usize, u64) {
        let at = u64::from(slot % self.slots.of_file) * u64::from(self.slots.bytes);
        ((slot / self.slots.of_file) as usize, at)
    }

    /// The page of a slot, checked.
    fn read(&self, slot: u32, always_check: bool) -> Result<Cow<'_, [u8]>, StoreError> {
        let (number, at) = self.place(slot);
        let broken = || StoreError::Corrupt(format!("{}: the page in slot {slot} is broken", name(number)));
        let file = self.files.get(number).ok_or_else(broken)?;
        let read = |at, bytes| file.file.read(at, bytes).map_err(|error| failed(number, &error));
        let head = read(at, HEAD_BYTES)?;
        let length = head[4..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
        if length > self.slots.bytes as usize - HEAD_BYTES {
            return Err(broken());
        }
        let (word, bit) = (slot % self.slots.of_file / 64, 1 << (slot % 64));
        let checked = &file.checked[word as usize];
        if always_check || checked.load(Ordering::Relaxed) & bit == 0 {
            let rest = read(at + 4, HEAD_BYTES - 4 + length)?;
            let is_this = rest[4..12] == u64::from(slot).to_le_bytes();
            if crc32c::crc32c(&rest).to_le_bytes() != head[..4] || !is_this {
                return Err(broken());
            }
            checked.fetch_or(bit, Ordering::Relaxed);
        }
        read(at + HEAD_BYTES as u64, length)
    }

    /// Checks the page of a slot against its checksum.
    pub(super) fn check(&self, id: PageId) -> Result<(), StoreError> {
        self.read(slot_of(id)?, true).map(drop)
    }
}

fn slot_of(id: PageId) -> Result<u32, StoreError> {
    u32::try_from(id.0).map_err(|_| StoreError::Corrupt(format!("there is no slot {}", id.0)))
}

impl<'a, F: DiskFile> Shelf for &'a PageFiles<F> {
    type Bytes = Cow<'a, [u8]>;

    fn page(&self, id: PageId) -> Result<Cow<'a, [u8]>, StoreError> {
        PageFiles::read(self, slot_of(id)?, false)
    }
}

/// The files, as whoever writes pages has them, and which slots are free.
#[derive(Debug)]
pub(super) struct PageWriter<F> {
    pub(super) files: Arc<PageFiles<F>>,
    free: BTreeSet<u32>,
    /// The first slot that no page has had.
    next: u32,
}

impl<F: DiskFile> PageWriter<F> {
    /// With pages in the slots `used`.
    pub(super) fn new(files: PageFiles<F>, used: &BTreeSet<u32>) -> Self {
        let next = used.last().map_or(0, |last| last + 1);
        let free = (0..next).filter(|slot| !used.contains(slot)).collect();
        PageWriter { files: Arc::new(files), free, next }
    }

    /// Writes pages into free slots, durably. If that fails, the slots stay free.
    pub(super) fn write<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        pages: &[Page],
    ) -> Result<Vec<(RunId, PageRef)>, StoreError> {
        let mut taken = Vec::with_capacity(pages.len());
        let written = self.write_into(disk, pages, &mut taken);
        if written.is_err() {
            self.free(taken.iter().map(|(_, page)| page.id));
            return written.map(|()| Vec::new());
        }
        Ok(taken)
    }

    fn write_into<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        pages: &[Page],
        taken: &mut Vec<(RunId, PageRef)>,
    ) -> Result<(), StoreError> {
        let mut changed = BTreeSet::new();
        for page in pages {
            let slot = match self.free.pop_first() {
                Some(slot) => slot,
                None => {
                    self.next += 1;
                    self.next - 1
                }
            };
            taken.push((page.run, page.page_ref(PageId(i64::from(slot)))));
            let (number, at) = self.files.place(slot);
            while self.files.files.len() <= number {
                self.add_file(disk)?;
            }
            let bytes = encode(slot, &page.bytes);
            if bytes.len() > self.files.slots.bytes as usize {
                return Err(StoreError::Failed("a page is larger than its slot".into()));
            }
            let file = &self.files.files[number];
            // Until it is written, a reader that finds it must check it.
            file.checked[(slot % self.files.slots.of_file / 64) as usize]
                .fetch_and(!(1 << (slot % 64)), Ordering::Relaxed);
            file.file.write(at, &bytes).map_err(|error| failed(number, &error))?;
            changed.insert(number);
        }
        for number in changed {
            self.files.files[number].file.sync().map_err(|error| failed(number, &error))?;
        }
        Ok(())
    }

    fn add_file<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), StoreError> {
        let (number, slots) = (self.files.files.len(), self.files.slots);
        let bytes = u64::from(slots.bytes) * u64::from(slots.of_file);
        let file = disk.create(&name(number), bytes).map_err(|error| failed(number, &error))?;
        file.sync().and_then(|()| disk.sync()).map_err(|error| failed(number, &error))?;
        let mut files = PageFiles::clone(&self.files);
        files.push(file);
        self.files = Arc::new(files);
        Ok(())
    }

    /// All free slots, which are not free until they are given back.
    pub(super) fn take_free(&mut self) -> Vec<PageId> {
        std::mem::take(&mut self.free).into_iter().map(|slot| PageId(i64::from(slot))).collect()
    }

    /// Nobody can read these pages any more.
    pub(super) fn free(&mut self, ids: impl IntoIterator<Item = PageId>) {
        self.free.extend(ids.into_iter().filter_map(|id| slot_of(id).ok()));
    }
}

fn encode(slot: u32, page: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend((page.len() as u32).to_le_bytes());
    bytes.extend(u64::from(slot).to_le_bytes());
    bytes.extend_from_slice(page);
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}
