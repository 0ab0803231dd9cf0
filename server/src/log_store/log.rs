//! The end of the log, where batches are added: one write and one sync for each.

use std::sync::Arc;

use relay_engine::store::{Seq, StoreError};

use super::batch::NewBatch;
use super::disk::{Disk, DiskFile, store_error};
use super::offsets;
use super::options::LogOptions;
use super::segment::{self, Head, Segment};

/// Bytes of a segment that is made on a disk without space for more, beside the batch that needs it.
const SMALL_SEGMENT_BYTES: u64 = 64 << 10;

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Log<F> {
    database: [u8; 16],
    pub(super) segment: Arc<Segment<F>>,
    /// Whether a write failed, so that something may be behind the last batch.
    is_dirty: bool,
    /// Whether the segment's file may have no name any more: it has no batch, and making it anew has failed.
    is_lost: bool,
}

impl<F: DiskFile> Log<F> {
    pub(super) fn new(database: [u8; 16], segment: Arc<Segment<F>>) -> Self {
        Log { database, segment, is_dirty: false, is_lost: false }
    }

    /// Adds a batch, durably. `next_seq`: the least number that an event may still be given. `may_be_small`: in a small segment if
    /// there is no space for a large one. After an error nothing is there of it, or, if the process ends before the next one is
    /// added, it may be there whole.
    pub(super) fn append<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        options: &LogOptions,
        batch: &mut NewBatch,
        next_seq: Seq,
        may_be_small: bool,
    ) -> Result<(), StoreError> {
        let bytes = batch.bytes.len() as u64;
        let first = batch.lines.first().map(|(seq, _)| *seq);
        let last = batch.lines.last().map(|(seq, _)| *seq);
        let fits = |segment: &Segment<F>| {
            first.is_none_or(|first| first.0 >= segment.first_seq)
                && last.is_none_or(|last| last.0 - segment.first_seq < u64::from(segment.numbers()))
                && segment.has_room(bytes, last)
        };
        if self.is_lost || !fits(&self.segment) {
            // Should this batch fail, the next one may begin with a lower number than it does.
            let first_seq = first.filter(|first| first.0 - next_seq.0 >= u64::from(options.segment_events));
            let first_seq = first_seq.unwrap_or(next_seq);
            let numbers = last.map_or(1, |last| last.0 - first_seq.0 + 1);
            let serial = batch.serial - 1;
            if numbers > u64::from(options.segment_events.max(1 << 18)) {
                return Err(StoreError::Failed("the sequence numbers of a write are too far apart".into()));
            }
            let head = Head { first_seq: first_seq.0, serial, packed: None };
            self.rotate(disk, options, head, numbers as u32, bytes, may_be_small)?;
        }
        batch.finish(self.segment.first_seq)?;
        if self.is_dirty {
            let end = self.segment.end();
            self.segment.file.clear_from(end).map_err(|error| self.failed(&error))?;
            self.is_dirty = false;
        }
        self.is_dirty = true;
        let Segment { file, .. } = &*self.segment;
        file.write(self.segment.end(), &batch.bytes)
            .and_then(|()| file.sync())
            .map_err(|error| self.failed(&error))?;
        self.is_dirty = false;
        self.segment.add(batch.lines.iter().copied(), batch.bytes.len());
        Ok(())
    }

    /// Makes durable what was read of it.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.segment.file.sync().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> StoreError {
        store_error(&self.segment.name(), error)
    }

    /// Makes the next segment. The numbers of a segment are below those of the next one.
    fn rotate<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        options: &LogOptions,
        head: Head,
        numbers: u32,
        bytes: u64,
        may_be_small: bool,
    ) -> Result<(), StoreError> {
        // One without a batch is made anew.
        let is_empty = self.segment.end() == segment::HEAD_BYTES;
        if self.is_dirty && !is_empty {
            // Of a segment that is not the last one, recovery takes all that is behind its last batch for damage.
            let (file, end) = (&self.segment.file, self.segment.end());
            file.clear_from(end).and_then(|()| file.sync()).map_err(|error| self.failed(&error))?;
            self.is_dirty = false;
        }
        let number = self.segment.number + u64::from(!is_empty);
        // It gets an index when the disk may be full.
        let bytes_min = segment::HEAD_BYTES + bytes + offsets::index_bytes(numbers);
        let numbers = numbers.max(options.segment_events);
        let wanted = options.segment_bytes.max(bytes_min);
        self.is_lost = is_empty;
        self.segment = Arc::new(match create(disk, self.database, number, head, numbers, wanted) {
            Err(StoreError::Full(_)) if may_be_small && wanted > bytes_min + SMALL_SEGMENT_BYTES => {
                let small = bytes_min + SMALL_SEGMENT_BYTES;
                create(disk, self.database, number, head, numbers, small)?
            }
            created => created?,
        });
        (self.is_lost, self.is_dirty) = (false, false);
        Ok(())
    }
}

/// Makes a segment without batches, durably. If that fails, its file is removed, or made anew by the next attempt.
pub(super) fn create<D: Disk>(
    disk: &D,
    database: [u8; 16],
    number: u64,
    head: Head,
    numbers: u32,
    bytes: u64,
) -> Result<Segment<D::File>, StoreError> {
    let name = segment::name(number, 0);
    let made = disk.create(&name, bytes).and_then(|file| {
        file.write(0, &segment::head(&database, number, head))?;
        file.sync()?;
        disk.sync()?;
        Ok(file)
    });
    match made {
        Ok(file) => Ok(Segment::new(file, number, 0, head.first_seq, numbers)),
        Err(error) => {
            let _ = disk.remove(&name);
            Err(store_error(&name, &error))
        }
    }
}
