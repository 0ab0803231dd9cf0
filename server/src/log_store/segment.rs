//! A segment: a file of the log, and where its events are.
//!
//! ```text
//! log-<number>[-<generation>]    head  batch*  zeros          head: 64 bytes; a batch begins at a multiple of 8
//! head     = "relaylog"  version:4  crc:4  database:16  number:8  first seq:8  serial:8  zeros:8
//!                                               crc: of the 48 bytes after it; serial: of the last batch before the segment
//! index    after the last batch, once the segment is sealed: where the line of each event begins             offsets
//! ```
//!
//! A segment that has been cleaned is written again as the next generation, with the events that are left under the same numbers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use relay_engine::store::{Seq, StoreError};

use super::batch::LINE_BYTES;
use super::disk::{DiskFile, store_error};
use super::offsets::{self, Entry, Offsets};

/// Bytes before the first batch.
pub(super) const HEAD_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"relaylog";
/// Another version is refused.
const VERSION: u32 = 1;

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

/// The name of a segment's file.
pub(super) fn name(number: u64, generation: u32) -> String {
    match generation {
        0 => format!("log-{number:08}"),
        _ => format!("log-{number:08}-{generation}"),
    }
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
        let offsets = Offsets::new(numbers);
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
        let offsets = Offsets::stored(&read, end, numbers);
        drop(read);
        let offsets = offsets.ok_or_else(|| StoreError::Corrupt(format!("{name}: its index is broken")))?;
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
        for (seq, at) in lines {
            let number = seq.0 - self.first_seq;
            self.offsets.set(number, (begin + at as u64) as u32);
            self.used.fetch_max(number as u32 + 1, Ordering::Relaxed);
        }
        self.end.store(begin + bytes as u64, Ordering::Relaxed);
    }

    /// How many numbers it may have.
    pub(super) fn numbers(&self) -> u32 {
        self.offsets.numbers()
    }

    /// The last number that it may have.
    pub(super) fn last(&self) -> Seq {
        Seq(self.first_seq + u64::from(self.numbers()).saturating_sub(1))
    }

    /// How many events are in its file, and how many of them are live.
    pub(super) fn count(&self, is_live: impl Fn(Seq) -> bool) -> Result<(u64, u64), StoreError> {
        let (mut events, mut live) = (0, 0);
        self.each(0, &mut |entry| {
            events += 1;
            live += u64::from(is_live(Seq(self.first_seq + u64::from(entry.number))));
            true
        })?;
        Ok((events, live))
    }

    /// Whether its index is in its file.
    pub(super) fn is_sealed(&self) -> bool {
        !matches!(self.offsets, Offsets::Memory(_))
    }

    /// Whether its file has space for a batch that adds events up to `last`, and for its index then.
    pub(super) fn has_room(&self, bytes: u64, last: Option<Seq>) -> bool {
        let used = last.map_or(0, |last| (last.0 - self.first_seq) as u32 + 1);
        self.end() + bytes + offsets::index_bytes(used.max(self.used.load(Ordering::Relaxed)))
            <= self.file.bytes()
    }

    /// The frame of its index, and how many numbers that is of: those up to its last event.
    pub(super) fn index(&self) -> Result<(Vec<u8>, u32), StoreError> {
        let numbers = self.used.load(Ordering::Relaxed);
        let mut entries = Vec::new();
        self.each(0, &mut |entry| {
            entries.push(entry);
            true
        })?;
        Ok((offsets::index(&entries, numbers), numbers))
    }

    /// Calls `each` with where its events are, from a number on, until it returns false.
    fn each(&self, from: u32, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), StoreError> {
        self.offsets.each(&self.file, from, each).map_err(|error| store_error(&self.name(), &error))
    }

    /// Where the line of an event begins; `None` if it has none.
    pub(super) fn offset(&self, seq: Seq) -> Result<Option<u64>, StoreError> {
        let number = seq.0.checked_sub(self.first_seq).and_then(|number| u32::try_from(number).ok());
        let Some(number) = number else { return Ok(None) };
        let offset = self.offsets.get(&self.file, number);
        let offset = offset.map_err(|error| store_error(&self.name(), &error))?;
        Ok((offset != 0).then_some(u64::from(offset)))
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Cow<'_, [u8]>, StoreError> {
        self.file.read(at, bytes).map_err(|error| store_error(&self.name(), &error))
    }

    /// The JSON of an event.
    pub(super) fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let Some(offset) = self.offset(seq)? else { return Ok(None) };
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
        let mut left = max;
        let Ok(from) = u32::try_from(from.0.saturating_sub(self.first_seq)) else { return Ok(()) };
        self.each(from, &mut |entry| {
            let seq = Seq(self.first_seq + u64::from(entry.number));
            if seq > last || left == 0 {
                return false;
            }
            if is_wanted(seq) {
                out.push(seq);
                left -= 1;
            }
            left > 0
        })
    }
}
