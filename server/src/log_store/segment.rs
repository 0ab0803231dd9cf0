//! A segment: a file of the log, and where its events are.
//!
//! ```text
//! log-<number>[-<generation>]    head  batch*  zeros          head: 64 bytes; a batch begins at a multiple of 8
//! head     = "relaylog"  version:4  crc:4  database:16  number:8  first seq:8  serial:8  zeros:8
//!                                               crc: of the 48 bytes after it; serial: of the last batch before the segment
//! index    = frame("\xffidx", offset:4*)       after the last batch, once the segment is sealed: where the line of each number
//!                                              begins, 0 if there is none
//! ```
//!
//! A segment that has been cleaned is written again as the next generation, with the events that are left under the same numbers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use relay_engine::store::{Seq, StoreError};

use super::batch::LINE_BYTES;
use super::codec;
use super::disk::{DiskFile, store_error};

/// Bytes before the first batch.
pub(super) const HEAD_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"relaylog";
/// Another version is refused.
const VERSION: u32 = 1;
const INDEX_MAGIC: [u8; 4] = *b"\xffidx";
/// Bytes of the index's frame before its offsets.
const INDEX_HEAD_BYTES: u64 = 16;

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) number: u64,
    pub(super) generation: u32,
    /// The number that it begins with.
    pub(super) first_seq: u64,
    pub(super) file: F,
    offsets: Offsets,
    /// Where its last batch ends.
    end: AtomicU64,
    /// How many numbers there are up to its last event, while its offsets are in memory.
    used: AtomicU32,
}

#[derive(Debug)]
enum Offsets {
    /// By number, as events come.
    Memory(Box<[AtomicU32]>),
    /// In the file.
    Stored { at: u64, numbers: u32 },
}

/// The name of a segment's file.
pub(super) fn name(number: u64, generation: u32) -> String {
    match generation {
        0 => format!("log-{number:08}"),
        _ => format!("log-{number:08}-{generation}"),
    }
}

/// Bytes of an index of so many numbers.
pub(super) fn index_bytes(numbers: u32) -> u64 {
    (INDEX_HEAD_BYTES + 4 * u64::from(numbers)).next_multiple_of(8)
}

/// The number and the generation in a file's name.
pub(super) fn parse_name(name: &str) -> Option<(u64, u32)> {
    let rest = name.strip_prefix("log-")?;
    let (number, generation) = match rest.split_once('-') {
        Some((number, generation)) => (number, generation.parse().ok()?),
        None => (rest, 0),
    };
    Some((number.parse().ok()?, generation))
}

/// The head of a segment.
pub(super) fn head(database: &[u8; 16], number: u64, first_seq: u64, serial: u64) -> Vec<u8> {
    let mut head = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4]].concat();
    head.extend_from_slice(database);
    head.extend(number.to_le_bytes());
    head.extend(first_seq.to_le_bytes());
    head.extend(serial.to_le_bytes());
    head.resize(HEAD_BYTES as usize, 0);
    let crc = crc32c::crc32c(&head[16..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The first sequence number in a head, and the serial; `None` if it is broken or of another segment, version or database.
pub(super) fn read_head(head: &[u8], database: &[u8; 16], number: u64) -> Option<(u64, u64)> {
    let read = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let (first_seq, serial) = (read(40)?, read(48)?);
    (head == self::head(database, number, first_seq, serial)).then_some((first_seq, serial))
}

impl<F: DiskFile> Segment<F> {
    /// One without events yet, for `numbers` sequence numbers.
    pub(super) fn new(file: F, number: u64, generation: u32, first_seq: u64, numbers: u32) -> Self {
        let offsets = Offsets::Memory((0..numbers).map(|_| AtomicU32::new(0)).collect());
        let (end, used) = (AtomicU64::new(HEAD_BYTES), AtomicU32::new(0));
        Segment { number, generation, first_seq, file, offsets, end, used }
    }

    /// One whose index is in its file, behind its batches, which end at `end`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the index is broken.
    pub(super) fn sealed(
        file: F,
        number: u64,
        generation: u32,
        first_seq: u64,
        numbers: u32,
        end: u64,
    ) -> Result<Self, StoreError> {
        let name = name(number, generation);
        let bytes = usize::try_from(file.bytes().saturating_sub(end)).unwrap_or(0);
        let read = file.read(end, bytes).map_err(|error| store_error(&name, &error))?;
        let is_index = codec::read_frame(INDEX_MAGIC, &read)
            .is_some_and(|(index, _)| index.len() == numbers as usize * 4);
        drop(read);
        if !is_index {
            return Err(StoreError::Corrupt(format!("{name}: its index is broken")));
        }
        let offsets = Offsets::Stored { at: end + INDEX_HEAD_BYTES, numbers };
        let (end, used) = (AtomicU64::new(end), AtomicU32::new(numbers));
        Ok(Segment { number, generation, first_seq, file, offsets, end, used })
    }

    pub(super) fn name(&self) -> String {
        name(self.number, self.generation)
    }

    /// Where its last batch ends.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Records a batch that begins where the last one ended and is durable.
    pub(super) fn add(&self, lines: impl Iterator<Item = (Seq, usize)>, bytes: usize) {
        let begin = self.end();
        if let Offsets::Memory(offsets) = &self.offsets {
            for (seq, at) in lines {
                if let Some(offset) = offsets.get((seq.0 - self.first_seq) as usize) {
                    // Whoever may read it learns of the number by a lock.
                    offset.store((begin + at as u64) as u32, Ordering::Relaxed);
                    self.used.fetch_max((seq.0 - self.first_seq) as u32 + 1, Ordering::Relaxed);
                }
            }
        }
        self.end.store(begin + bytes as u64, Ordering::Relaxed);
    }

    /// How many numbers it may have.
    pub(super) fn numbers(&self) -> u32 {
        match &self.offsets {
            Offsets::Memory(offsets) => offsets.len() as u32,
            Offsets::Stored { numbers, .. } => *numbers,
        }
    }

    /// The last number that it may have.
    pub(super) fn last(&self) -> Seq {
        Seq(self.first_seq + u64::from(self.numbers()).saturating_sub(1))
    }

    /// How many events are in its file, and how many of them are live.
    pub(super) fn count(&self, is_live: impl Fn(Seq) -> bool) -> Result<(u64, u64), StoreError> {
        let (mut events, mut live) = (0, 0);
        for number in 0..self.numbers() {
            if self.offset(number)? != 0 {
                events += 1;
                live += u64::from(is_live(Seq(self.first_seq + u64::from(number))));
            }
        }
        Ok((events, live))
    }

    /// Whether its index is in its file.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.offsets, Offsets::Stored { .. })
    }

    /// Whether its file has space for a batch that adds events up to `last`, and for its index then.
    pub(super) fn has_room(&self, bytes: u64, last: Option<Seq>) -> bool {
        let used = last.map_or(0, |last| (last.0 - self.first_seq) as u32 + 1);
        self.end() + bytes + index_bytes(used.max(self.used.load(Ordering::Relaxed))) <= self.file.bytes()
    }

    /// The frame of its index, and how many numbers that is of: those up to its last event.
    pub(super) fn index(&self) -> (Vec<u8>, u32) {
        let numbers = self.used.load(Ordering::Relaxed);
        let offsets = (0..numbers).flat_map(|number| self.offset(number).unwrap_or(0).to_le_bytes());
        (codec::frame(INDEX_MAGIC, &offsets.collect::<Vec<u8>>()), numbers)
    }

    fn offset(&self, number: u32) -> Result<u32, StoreError> {
        match &self.offsets {
            Offsets::Memory(offsets) => {
                Ok(offsets.get(number as usize).map_or(0, |offset| offset.load(Ordering::Relaxed)))
            }
            Offsets::Stored { numbers, .. } if number >= *numbers => Ok(0),
            Offsets::Stored { at, .. } => {
                let bytes = self.read(at + u64::from(number) * 4, 4)?;
                Ok(bytes.first_chunk().map_or(0, |offset| u32::from_le_bytes(*offset)))
            }
        }
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Cow<'_, [u8]>, StoreError> {
        self.file.read(at, bytes).map_err(|error| store_error(&self.name(), &error))
    }

    /// The JSON of an event.
    pub(super) fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let Some(number) = seq.0.checked_sub(self.first_seq).and_then(|number| u32::try_from(number).ok())
        else {
            return Ok(None);
        };
        let offset = u64::from(self.offset(number)?);
        if offset == 0 {
            return Ok(None);
        }
        let head = self.read(offset, LINE_BYTES)?;
        let bytes = head[4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        self.read(offset + LINE_BYTES as u64, bytes as usize).map(Some)
    }

    /// Appends the numbers of up to `max` events from `from` to `last`.
    pub(super) fn seqs(
        &self,
        from: Seq,
        last: Seq,
        max: usize,
        is_wanted: &dyn Fn(Seq) -> bool,
        out: &mut Vec<Seq>,
    ) -> Result<(), StoreError> {
        let end = last.0.saturating_add(1).min(self.first_seq + u64::from(self.numbers()));
        let mut left = max;
        for seq in from.0.max(self.first_seq)..end {
            if left == 0 {
                break;
            }
            if self.offset((seq - self.first_seq) as u32)? != 0 && is_wanted(Seq(seq)) {
                out.push(Seq(seq));
                left -= 1;
            }
        }
        Ok(())
    }
}
