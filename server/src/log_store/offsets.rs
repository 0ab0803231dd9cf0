//! Where the events of a segment are: by number in memory, or in the index behind its batches.
//!
//! ```text
//! index    = frame("\xffidx", offset:4*)                 by number; 0 if there is no event
//!          | frame("\xffspx", (number:4 offset:4)*)      ascending, for segments with few events among many numbers
//! ```
//!
//! So whoever lists the events of a segment reads no more than about two entries for each.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use super::codec;
use super::disk::DiskFile;

const DENSE_MAGIC: [u8; 4] = *b"\xffidx";
const SPARSE_MAGIC: [u8; 4] = *b"\xffspx";
/// Bytes of an index's frame before its entries.
const HEAD_BYTES: u64 = 16;
/// Entries that are read at once.
const CHUNK: u32 = 512;

/// Where events are. Numbers count from the segment's first sequence number.
#[derive(Debug)]
pub(super) enum Offsets {
    /// By number, as events come.
    Memory(Box<[AtomicU32]>),
    /// In the file, by number.
    Dense { at: u64, numbers: u32 },
    /// In the file, with numbers.
    Sparse { at: u64, events: u32, numbers: u32 },
}

/// An event, and where its line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) offset: u32,
}

/// Bytes that the index of so many numbers has at most.
pub(super) fn index_bytes(numbers: u32) -> u64 {
    (HEAD_BYTES + 4 * u64::from(numbers)).next_multiple_of(8)
}

/// The frame of an index of so many numbers, with these events.
pub(super) fn index(entries: &[Entry], numbers: u32) -> Vec<u8> {
    if entries.len() * 2 < numbers as usize {
        let pairs = entries.iter().flat_map(|entry| [entry.number, entry.offset]);
        return codec::frame(SPARSE_MAGIC, &pairs.flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    }
    let mut offsets = vec![0; numbers as usize * 4];
    for entry in entries {
        let at = entry.number as usize * 4;
        if let Some(offset) = offsets.get_mut(at..at + 4) {
            offset.copy_from_slice(&entry.offset.to_le_bytes());
        }
    }
    codec::frame(DENSE_MAGIC, &offsets)
}

/// The `index`th integer of four bytes.
fn integer(bytes: &[u8], index: u32) -> u32 {
    let found = bytes.get(index as usize * 4..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |value| u32::from_le_bytes(*value))
}

/// The bytes of the index that `bytes` begin with; `None` if there is none that is whole.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let frame = |magic| codec::read_frame(magic, bytes).map(|(_, length)| length);
    frame(DENSE_MAGIC).or_else(|| frame(SPARSE_MAGIC))
}

impl Offsets {
    pub(super) fn new(numbers: u32) -> Self {
        Offsets::Memory((0..numbers).map(|_| AtomicU32::new(0)).collect())
    }

    /// Those of an index of so many numbers, which `bytes` of the file from `at` on begin with; `None` if there is none that is whole.
    pub(super) fn stored(bytes: &[u8], at: u64, numbers: u32) -> Option<Self> {
        let at_entries = at + HEAD_BYTES;
        if let Some((index, _)) = codec::read_frame(DENSE_MAGIC, bytes) {
            return (index.len() == numbers as usize * 4)
                .then_some(Offsets::Dense { at: at_entries, numbers });
        }
        let (index, _) = codec::read_frame(SPARSE_MAGIC, bytes)?;
        let events = (index.len() / 8) as u32;
        index.len().is_multiple_of(8).then_some(Offsets::Sparse { at: at_entries, events, numbers })
    }

    /// How many numbers there may be.
    pub(super) fn numbers(&self) -> u32 {
        match self {
            Offsets::Memory(offsets) => offsets.len() as u32,
            Offsets::Dense { numbers, .. } | Offsets::Sparse { numbers, .. } => *numbers,
        }
    }

    /// Records an event, if they are in memory.
    pub(super) fn set(&self, number: u64, offset: u32) {
        if let Offsets::Memory(offsets) = self
            && let Some(found) = usize::try_from(number).ok().and_then(|number| offsets.get(number))
        {
            // Whoever may read it learns of the number by a lock.
            found.store(offset, Ordering::Relaxed);
        }
    }

    /// Where the line of a number begins; 0 if there is none.
    pub(super) fn get<F: DiskFile>(&self, file: &F, number: u32) -> io::Result<u32> {
        match self {
            Offsets::Memory(offsets) => {
                Ok(offsets.get(number as usize).map_or(0, |offset| offset.load(Ordering::Relaxed)))
            }
            Offsets::Dense { numbers, .. } if number >= *numbers => Ok(0),
            Offsets::Dense { at, .. } => Ok(integer(&file.read(at + u64::from(number) * 4, 4)?, 0)),
            Offsets::Sparse { at, events, .. } => {
                let below = self.events_below(file, number)?;
                if below == *events {
                    return Ok(0);
                }
                let entry = file.read(at + u64::from(below) * 8, 8)?;
                Ok(if integer(&entry, 0) == number { integer(&entry, 1) } else { 0 })
            }
        }
    }

    /// How many events of a sparse index have lower numbers.
    fn events_below<F: DiskFile>(&self, file: &F, number: u32) -> io::Result<u32> {
        let Offsets::Sparse { at, events, .. } = self else { return Ok(0) };
        let (mut low, mut high) = (0, *events);
        while low < high {
            let middle = low + (high - low) / 2;
            match integer(&file.read(at + u64::from(middle) * 8, 4)?, 0) < number {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    }

    /// Calls `each` with the events from number `from` on, ascending, until it returns false.
    pub(super) fn each<F: DiskFile>(
        &self,
        file: &F,
        from: u32,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> io::Result<()> {
        match self {
            Offsets::Memory(offsets) => {
                let rest = offsets.iter().enumerate().skip(from as usize);
                for (number, offset) in rest {
                    let offset = offset.load(Ordering::Relaxed);
                    if offset != 0 && !each(Entry { number: number as u32, offset }) {
                        break;
                    }
                }
            }
            Offsets::Dense { at, numbers } => {
                let mut next = from;
                while next < *numbers {
                    let count = CHUNK.min(numbers - next);
                    let offsets = file.read(at + u64::from(next) * 4, count as usize * 4)?;
                    for index in 0..count {
                        let entry = Entry { number: next + index, offset: integer(&offsets, index) };
                        if entry.offset != 0 && !each(entry) {
                            return Ok(());
                        }
                    }
                    next += count;
                }
            }
            Offsets::Sparse { at, events, .. } => {
                let mut next = self.events_below(file, from)?;
                while next < *events {
                    let count = CHUNK.min(events - next);
                    let entries = file.read(at + u64::from(next) * 8, count as usize * 8)?;
                    for index in 0..count {
                        let (number, offset) =
                            (integer(&entries, 2 * index), integer(&entries, 2 * index + 1));
                        if !each(Entry { number, offset }) {
                            return Ok(());
                        }
                    }
                    next += count;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    /// Bytes as a file.
    struct Bytes(Vec<u8>);

    impl DiskFile for Bytes {
        fn bytes(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&self, at: u64, bytes: usize) -> io::Result<Cow<'_, [u8]>> {
            let found = self.0.get(at as usize..at as usize + bytes);
            found.map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn clear_from(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_kind_of_index_has_the_same_events() {
        for step in [1, 2, 3, 700, 5_000] {
            let numbers = 4_001;
            let entries: Vec<Entry> =
                (0..numbers).step_by(step).map(|number| Entry { number, offset: 64 + number * 3 }).collect();
            let memory = Offsets::new(numbers);
            entries.iter().for_each(|entry| memory.set(entry.number.into(), entry.offset));
            let frame = index(&entries, numbers);
            assert!(frame.len() as u64 <= index_bytes(numbers));
            let stored = Offsets::stored(&frame, 8, numbers).expect("whole");
            assert_eq!(matches!(stored, Offsets::Sparse { .. }), step > 2);
            let file = Bytes([vec![0; 8], frame].concat());
            for offsets in [&memory, &stored] {
                assert_eq!(offsets.numbers(), numbers);
                for number in [0, 1, 2, 3, 699, 700, 1_400, 3_999, 4_000, 4_001, u32::MAX] {
                    let expected = entries.iter().find(|entry| entry.number == number);
                    let expected = expected.map_or(0, |entry| entry.offset);
                    assert_eq!(offsets.get(&file, number).expect("reads"), expected, "{number} of {step}");
                    let mut found = Vec::new();
                    let mut take = |entry: Entry| {
                        found.push(entry);
                        found.len() < 600
                    };
                    offsets.each(&file, number, &mut take).expect("reads");
                    let rest = entries.iter().filter(|entry| entry.number >= number).take(600);
                    assert!(rest.eq(&found), "from {number} of {step}");
                }
            }
        }
    }
}
