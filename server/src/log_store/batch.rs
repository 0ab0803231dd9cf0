//! A batch: what one commit adds to the log. It is there whole or not at all.
//!
//! ```text
//! batch    = magic:4  head crc:4  crc:4  length:4  serial:8  last seq:8
//!            lines:4  removed:4  pending:4  tombstones:4  flags:4  zeros:12
//!            line*  removed:8*  pending:8*  tombstone:41*  zeros up to a multiple of 8
//! line     = number:4  length:4  crc:4  body                    number: the sequence number less the segment's first
//! body     = canonical JSON, or in a packed segment (`packed`) what it is packed into; `crc` is of the JSON
//! removed  = seq                 an event that is removed
//! pending  = seq << 1 | bit      whether it is pending removal from now on, or no longer
//! flags    = 1                   events were removed that no commit names
//! ```
//!
//! The body of an event that was removed may have become zeros, or be about to: its `crc` stays what it was.
//!
//! `head crc` is of the 56 bytes after it; `crc` of all that follows the head but the bodies, which have their own in their lines. So
//! where the events are is known and checked without reading them. Serials count batches.

use relay_engine::store::kv::{Key, Overlay};
use relay_engine::store::{Seq, StoreError};

use super::codec::{Decoder, Encoder};

/// What a batch begins with.
const MAGIC: [u8; 4] = *b"\xffbat";
/// Bytes before the lines.
pub(super) const HEAD_BYTES: usize = 64;
/// Bytes of a line before its body.
pub(super) const LINE_BYTES: usize = 12;
/// `'d' hash:32 not until:8`
const TOMBSTONE_BYTES: usize = 41;

/// A batch to be written.
#[derive(Default)]
pub(super) struct NewBatch {
    pub(super) bytes: Vec<u8>,
    /// The events, and where their lines begin.
    pub(super) lines: Vec<(Seq, usize)>,
    pub(super) serial: u64,
}

impl NewBatch {
    /// What `overlay` changes; `tombstones` are its own, as keys.
    pub(super) fn of(overlay: &Overlay, tombstones: &[Key], serial: u64, last_seq: Seq) -> Self {
        let mut batch = NewBatch { bytes: vec![0; HEAD_BYTES], lines: Vec::new(), serial };
        let (mut removed, mut pending) = (Encoder::default(), Encoder::default());
        for (seq, body) in overlay.bodies() {
            match body {
                Some(json) => batch.push_line(seq, json, crc32c::crc32c(json)),
                None => removed.u64(seq.0),
            }
        }
        overlay
            .pending_removals()
            .for_each(|(seq, is_pending)| pending.u64(seq.0 << 1 | u64::from(is_pending)));
        let (removed, pending) = (removed.0, pending.0);
        batch.bytes.extend_from_slice(&removed);
        batch.bytes.extend_from_slice(&pending);
        tombstones.iter().for_each(|key| batch.bytes.extend_from_slice(key.as_bytes()));
        batch.bytes.resize(batch.bytes.len().next_multiple_of(8), 0);

        let mut head = Encoder::default();
        head.u32(batch.bytes.len());
        head.u64(serial);
        head.u64(last_seq.0);
        for count in [batch.lines.len(), removed.len() / 8, pending.len() / 8, tombstones.len()] {
            head.u32(count);
        }
        head.u32(usize::from(overlay.has_unlogged_removal()));
        batch.bytes[12..12 + head.0.len()].copy_from_slice(&head.0);
        batch
    }

    /// Of events alone, which are moved with their checksums.
    pub(super) fn of_lines(lines: &[Line<'_>]) -> Self {
        let mut batch = NewBatch { bytes: vec![0; HEAD_BYTES], lines: Vec::new(), serial: 0 };
        lines.iter().for_each(|line| batch.push_line(line.seq, line.body, line.crc));
        batch.bytes.resize(batch.bytes.len().next_multiple_of(8), 0);
        let mut head = Encoder::default();
        head.u32(batch.bytes.len());
        head.u64(0);
        head.u64(0);
        head.u32(batch.lines.len());
        batch.bytes[12..12 + head.0.len()].copy_from_slice(&head.0);
        batch
    }

    /// Makes the bodies of some events zeros, before they are written.
    pub(super) fn blank(&mut self, is_removed: impl Fn(Seq) -> bool) {
        for (_, at) in self.lines.iter().filter(|(seq, _)| is_removed(*seq)) {
            let bytes = self.bytes[*at + 4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let body = *at + LINE_BYTES;
            self.bytes[body..body + bytes as usize].fill(0);
        }
    }

    /// The bodies of its lines.
    pub(super) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|(_, at)| {
            let bytes = self.bytes[*at + 4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let body = *at + LINE_BYTES;
            &self.bytes[body..body + bytes as usize]
        })
    }

    fn push_line(&mut self, seq: Seq, body: &[u8], crc: u32) {
        self.lines.push((seq, self.bytes.len()));
        let mut line = Encoder(std::mem::take(&mut self.bytes));
        // Which number it is, the segment says, once it is known.
        line.u32(0);
        line.u32(body.len());
        line.u32(crc as usize);
        line.0.extend_from_slice(body);
        self.bytes = line.0;
    }

    /// Numbers the lines for the segment whose first sequence number this is, and sums up.
    ///
    /// # Errors
    /// If it is longer than a batch can be.
    pub(super) fn finish(&mut self, first_seq: u64) -> Result<(), StoreError> {
        if u32::try_from(self.bytes.len()).is_err() {
            return Err(StoreError::Failed("a write has more than 4 GB".into()));
        }
        let mut crc = 0;
        let mut end = HEAD_BYTES;
        for (seq, at) in &self.lines {
            self.bytes[*at..*at + 4].copy_from_slice(&((seq.0 - first_seq) as u32).to_le_bytes());
            crc = crc32c::crc32c_append(crc, &self.bytes[*at..*at + LINE_BYTES]);
            let body = self.bytes[*at + 4..].first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
            end = *at + LINE_BYTES + body as usize;
        }
        crc = crc32c::crc32c_append(crc, &self.bytes[end..]);
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        let head_crc = crc32c::crc32c(&self.bytes[8..HEAD_BYTES]);
        self.bytes[4..8].copy_from_slice(&head_crc.to_le_bytes());
        Ok(())
    }
}

/// A line of a batch that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) seq: Seq,
    /// Where it begins in the batch.
    pub(super) at: usize,
    crc: u32,
    pub(super) body: &'a [u8],
}

impl Line<'_> {
    /// Whether the body is the JSON that was written.
    pub(super) fn is_whole(&self) -> bool {
        self.is_of(self.body)
    }

    /// Whether this JSON is what was written.
    pub(super) fn is_of(&self, json: &[u8]) -> bool {
        crc32c::crc32c(json) == self.crc
    }

    /// The line of the same event with another body.
    pub(super) fn with_body<'b>(&self, body: &'b [u8]) -> Line<'b> {
        Line { seq: self.seq, at: self.at, crc: self.crc, body }
    }
}

/// A batch that was read.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    /// Its length.
    pub(super) bytes: usize,
    pub(super) serial: u64,
    pub(super) last_seq: Seq,
    pub(super) lines: Vec<Line<'a>>,
    pub(super) removed: Vec<Seq>,
    pub(super) pending: Vec<(Seq, bool)>,
    pub(super) tombstones: Vec<Key>,
    pub(super) has_unlogged_removal: bool,
}

impl<'a> Batch<'a> {
    /// The batch that `bytes` begin with, in the segment whose first sequence number is `first_seq`; `None` if there is none, or if
    /// it is broken. The bodies of its lines are not checked.
    pub(super) fn read(bytes: &'a [u8], first_seq: u64) -> Option<Self> {
        let length = length(bytes)?;
        let bytes = bytes.get(..length)?;
        let crc = u32::from_le_bytes(*bytes[8..].first_chunk()?);
        let mut head = Decoder(&bytes[16..HEAD_BYTES]);
        let (serial, last_seq) = (head.u64()?, Seq(head.u64()?));
        let (lines, removed, pending, tombstones) = (head.u32()?, head.u32()?, head.u32()?, head.u32()?);
        let flags = head.u32()?;
        let mut rest = Decoder(bytes.get(HEAD_BYTES..)?);
        let mut found = 0;
        let mut batch = Batch {
            bytes: length,
            serial,
            last_seq,
            lines: Vec::with_capacity(lines.min(length / LINE_BYTES)),
            removed: Vec::new(),
            pending: Vec::new(),
            tombstones: Vec::new(),
            has_unlogged_removal: flags & 1 == 1,
        };
        for _ in 0..lines {
            let at = length - rest.0.len();
            let head = rest.take(LINE_BYTES)?;
            found = crc32c::crc32c_append(found, head);
            let mut head = Decoder(head);
            let (number, len, crc) = (head.u32()?, head.u32()?, head.u32()?);
            let body = rest.take(len)?;
            batch.lines.push(Line { seq: Seq(first_seq + number as u64), at, crc: crc as u32, body });
        }
        if crc32c::crc32c_append(found, rest.0) != crc {
            return None;
        }
        for _ in 0..removed {
            batch.removed.push(Seq(rest.u64()?));
        }
        for _ in 0..pending {
            let value = rest.u64()?;
            batch.pending.push((Seq(value >> 1), value & 1 == 1));
        }
        for _ in 0..tombstones {
            batch.tombstones.push(Key::read(rest.take(TOMBSTONE_BYTES)?)?);
        }
        Some(batch)
    }
}

/// The lines of the batch that `bytes` begin with, as far as they can be told apart, whether its sums are right or not. If its head is
/// broken these are the ones at its beginning that `is_whole` says are.
pub(super) fn lines<'a>(
    bytes: &'a [u8],
    first_seq: u64,
    is_whole: &dyn Fn(&Line<'a>) -> bool,
) -> Vec<Line<'a>> {
    let length = length(bytes);
    let bytes = &bytes[..length.unwrap_or(bytes.len()).min(bytes.len())];
    let count = length.and_then(|_| Decoder(bytes.get(32..)?).u32()).unwrap_or(usize::MAX);
    let mut rest = Decoder(bytes.get(HEAD_BYTES..).unwrap_or_default());
    let mut lines = Vec::new();
    while lines.len() < count {
        let at = bytes.len() - rest.0.len();
        let mut read = || {
            let (number, len, crc) = (rest.u32()?, rest.u32()?, rest.u32()?);
            let seq = Seq(first_seq.checked_add(number as u64)?);
            Some(Line { seq, at, crc: crc as u32, body: rest.take(len)? })
        };
        match read() {
            Some(line) if length.is_some() || !line.body.is_empty() && is_whole(&line) => lines.push(line),
            _ => break,
        }
    }
    lines
}

/// The length of the batch that `bytes` begin with, if its head is whole.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<HEAD_BYTES>()?;
    let crc = u32::from_le_bytes(*head[4..].first_chunk()?);
    let length = u32::from_le_bytes(*head[12..].first_chunk()?) as usize;
    let is_whole = head[..4] == MAGIC && crc32c::crc32c(&head[8..]) == crc;
    (is_whole && length >= HEAD_BYTES && length.is_multiple_of(8)).then_some(length)
}

/// Whether the whole head of a batch is somewhere in `bytes`, at a multiple of 8.
pub(super) fn has_batch(bytes: &[u8]) -> bool {
    find(bytes).is_some()
}

/// Where the first whole head of a batch is in `bytes`, at a multiple of 8.
pub(super) fn find(bytes: &[u8]) -> Option<usize> {
    let mut chunks = bytes.chunks(8).enumerate();
    let found = chunks.find(|(at, chunk)| chunk.starts_with(&MAGIC) && length(&bytes[at * 8..]).is_some());
    found.map(|(at, _)| at * 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let lines = [(Seq(70), &b"{\"one\":1}"[..]), (Seq(71), b"{}"), (Seq(75), b"{\"three\":[3]}")];
        let lines = lines.map(|(seq, json)| Line { seq, at: 0, crc: crc32c::crc32c(json), body: json });
        let mut batch = NewBatch::of_lines(&lines);
        batch.finish(64).expect("short");
        batch.bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = sample();
        let batch = Batch::read(&bytes, 64).expect("whole");
        assert_eq!((batch.bytes, batch.serial, batch.last_seq), (bytes.len(), 0, Seq(0)));
        let lines: Vec<_> = batch.lines.iter().map(|line| (line.seq.0, line.body)).collect();
        assert_eq!(lines, [(70, &b"{\"one\":1}"[..]), (71, b"{}"), (75, b"{\"three\":[3]}")]);
        assert!(batch.lines.iter().all(Line::is_whole));
        assert!(batch.removed.is_empty() && batch.pending.is_empty() && batch.tombstones.is_empty());
        assert!(has_batch(&[&[0; 64][..], &bytes].concat()) && !has_batch(&bytes[8..]));
    }

    #[test]
    fn lines_are_read_without_sums_and_without_a_head() {
        let whole = sample();
        let all = Batch::read(&whole, 64).expect("whole").lines;
        assert_eq!(lines(&whole, 64, &Line::is_whole), all);
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x10;
            let lines: Vec<_> =
                lines(&broken, 64, &Line::is_whole).into_iter().filter(Line::is_whole).collect();
            assert!(lines.iter().all(|line| all.iter().any(|one| one.body == line.body)), "byte {at}");
            // What is broken is one line, or where the others are.
            let is_length = all.iter().any(|line| (line.at + 4..line.at + 8).contains(&at));
            assert!(lines.len() + 1 >= all.len() || is_length, "byte {at}: {lines:?}");
        }
    }

    #[test]
    fn any_change_is_found() {
        let bytes = sample();
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            let found = Batch::read(&broken, 64);
            assert!(found.is_none_or(|batch| batch.lines.iter().any(|line| !line.is_whole())), "byte {at}");
            assert!(Batch::read(&bytes[..at], 64).is_none(), "{at} bytes");
        }
    }
}
