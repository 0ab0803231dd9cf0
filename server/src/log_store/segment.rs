//! A segment: a file of the log, and where its events are.
//!
//! ```text
//! log-<number>[-<generation>]    head  batch*  zeros          head: 64 bytes; a batch begins at a multiple of 8
//! head     = "relaylog"  version:4  crc:4  database:16  number:8  first seq:8  serial:8  dictionary bytes:4  values:4
//!                                               crc: of the 48 bytes after it; serial: of the last batch before it; 0 if written again
//! version  1, or 2 if it is packed: then its vocabulary is between head and batches               packed
//! index    after the last batch, once the segment is sealed: where the line of each event begins             offsets
//! ```
//!
//! A segment that has been cleaned or packed is written again as the next generation, with the events that are left under the same
//! numbers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use relay_engine::store::{Seq, StoreError};
use relay_engine::types::EventId;

use super::batch::LINE_BYTES;
use super::disk::{DiskFile, store_error};
use super::manifest::SegmentEntry;
use super::offsets::{self, Entry, Offsets};
use super::packed::{self, InFile, Places, Sizes, Vocabulary};

/// Bytes of the head, which the first batch follows, or the vocabulary.
pub(super) const HEAD_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"relaylog";
/// Of segments with JSON, and of packed ones. Another version is refused.
const VERSION: u32 = 1;
const PACKED_VERSION: u32 = 2;

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) number: u64,
    pub(super) generation: u32,
    /// The number that it begins with.
    pub(super) first_seq: u64,
    pub(super) file: F,
    /// If it is packed.
    vocabulary: Option<Places>,
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

/// What a segment's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first_seq: u64,
    /// The serial of the last batch before it; 0 in a segment that was cleaned or packed.
    pub(super) serial: u64,
    /// Of its vocabulary, if it is packed.
    pub(super) packed: Option<Sizes>,
}

/// The head of a segment.
pub(super) fn head(database: &[u8; 16], number: u64, says: Head) -> Vec<u8> {
    let Head { first_seq, serial, packed } = says;
    let version = if packed.is_some() { PACKED_VERSION } else { VERSION };
    let mut head = [&MAGIC[..], &version.to_le_bytes(), &[0; 4]].concat();
    head.extend_from_slice(database);
    head.extend(number.to_le_bytes());
    head.extend(first_seq.to_le_bytes());
    head.extend(serial.to_le_bytes());
    if let Some(Sizes { dictionary_bytes, values }) = packed {
        head.extend(dictionary_bytes.to_le_bytes());
        head.extend(values.to_le_bytes());
    }
    head.resize(HEAD_BYTES as usize, 0);
    let crc = crc32c::crc32c(&head[16..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    head
}

/// What a head says; `None` if it is broken or of another segment, version or database.
pub(super) fn read_head(head: &[u8], database: &[u8; 16], number: u64) -> Option<Head> {
    let read = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let read_u32 = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let sizes = Sizes { dictionary_bytes: read_u32(56)?, values: read_u32(60)? };
    let packed = (read_u32(8)? == PACKED_VERSION).then_some(sizes);
    let says = Head { first_seq: read(40)?, serial: read(48)?, packed };
    (head == self::head(database, number, says)).then_some(says)
}

/// Checks a vocabulary, in front of batches that end at byte `end`.
fn check_vocabulary(file: &impl DiskFile, name: &str, places: &Places, end: u64) -> Result<(), StoreError> {
    let is_whole = places.end <= end && places.is_whole(file).map_err(|error| store_error(name, &error))?;
    match is_whole {
        true => Ok(()),
        false => Err(StoreError::Corrupt(format!("{name}: its vocabulary is broken"))),
    }
}

impl<F: DiskFile> Segment<F> {
    /// One without events yet, for `numbers` sequence numbers.
    pub(super) fn new(file: F, number: u64, generation: u32, first_seq: u64, numbers: u32) -> Self {
        let offsets = Offsets::new(numbers);
        let (end, used) = (AtomicU64::new(HEAD_BYTES), AtomicU32::new(0));
        Segment { number, generation, first_seq, file, vocabulary: None, offsets, end, used }
    }

    /// The same with a vocabulary, after which its batches come.
    pub(super) fn packed(self, sizes: Option<Sizes>) -> Self {
        let vocabulary = sizes.map(|sizes| Places::new(HEAD_BYTES, sizes));
        let end = vocabulary.as_ref().map_or(HEAD_BYTES, |places| places.end);
        Segment { vocabulary, end: AtomicU64::new(end), ..self }
    }

    /// One whose index is in its file, behind its batches, as `entry` says; `packed` is what its head says.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the index or the vocabulary is broken.
    pub(super) fn sealed(
        file: F,
        number: u64,
        entry: &SegmentEntry,
        packed: Option<Sizes>,
    ) -> Result<Self, StoreError> {
        let SegmentEntry { generation, first_seq, numbers, end } = *entry;
        let name = name(number, generation);
        let vocabulary = packed.map(|sizes| Places::new(HEAD_BYTES, sizes));
        if let Some(places) = &vocabulary {
            check_vocabulary(&file, &name, places, end)?;
        }
        let bytes = usize::try_from(file.bytes().saturating_sub(end)).unwrap_or(0);
        let read = file.read(end, bytes).map_err(|error| store_error(&name, &error))?;
        let offsets = Offsets::stored(&read, end, numbers);
        drop(read);
        let offsets = offsets.ok_or_else(|| StoreError::Corrupt(format!("{name}: its index is broken")))?;
        let (end, used) = (AtomicU64::new(end), AtomicU32::new(numbers));
        Ok(Segment { number, generation, first_seq, file, vocabulary, offsets, end, used })
    }

    pub(super) fn name(&self) -> String {
        name(self.number, self.generation)
    }

    /// Where its last batch ends.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Where its first batch begins.
    pub(super) fn begin(&self) -> u64 {
        self.vocabulary.as_ref().map_or(HEAD_BYTES, |places| places.end)
    }

    pub(super) fn is_packed(&self) -> bool {
        self.vocabulary.is_some()
    }

    /// Its vocabulary in memory, if it is packed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is broken, though it was whole when the segment was opened.
    pub(super) fn vocabulary(&self) -> Result<Option<Vocabulary>, StoreError> {
        let Some(places) = &self.vocabulary else { return Ok(None) };
        check_vocabulary(&self.file, &self.name(), places, self.end())?;
        places.load(&self.file).map(Some).map_err(|error| store_error(&self.name(), &error))
    }

    /// What the manifest says of it.
    pub(super) fn entry(&self) -> SegmentEntry {
        let (generation, first_seq, numbers) = (self.generation, self.first_seq, self.numbers());
        SegmentEntry { generation, first_seq, numbers, end: self.end() }
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

    fn broken_event(&self, seq: Seq, offset: u64) -> StoreError {
        StoreError::Corrupt(format!("{}: event {} at byte {offset} is broken", self.name(), seq.0))
    }

    /// The JSON of an event. In a packed segment its checksum is checked: broken bytes may well be unpacked into something.
    pub(super) fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let Some(offset) = self.offset(seq)? else { return Ok(None) };
        let head = self.read(offset, LINE_BYTES)?;
        let in_head = |at: usize| head[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
        let body = self.read(offset + LINE_BYTES as u64, in_head(4) as usize)?;
        if self.vocabulary.is_none() {
            return Ok(Some(body));
        }
        let json = self.json(body)?.filter(|json| crc32c::crc32c(json) == in_head(8));
        json.ok_or_else(|| self.broken_event(seq, offset)).map(Some)
    }

    /// The id of an event, which is not unpacked for it. No checksum is checked.
    pub(super) fn id(&self, seq: Seq) -> Result<Option<EventId>, StoreError> {
        let Some(offset) = self.offset(seq)? else { return Ok(None) };
        let head = self.read(offset, LINE_BYTES)?;
        let bytes = head[4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
        let begin = self.read(offset + LINE_BYTES as u64, bytes.min(packed::ID_END_MAX))?;
        packed::id(&begin).ok_or_else(|| self.broken_event(seq, offset)).map(|id| Some(EventId(id)))
    }

    /// The JSON of a body that is in its file; `None` if it is broken.
    pub(super) fn json<'a>(&self, body: Cow<'a, [u8]>) -> Result<Option<Cow<'a, [u8]>>, StoreError> {
        match &self.vocabulary {
            Some(places) if !body.starts_with(b"{") => {
                packed::unpack(&body, &InFile { places, file: &self.file }).map(|json| json.map(Cow::Owned))
            }
            _ => Ok(Some(body)),
        }
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
