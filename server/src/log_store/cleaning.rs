//! Segments of which events were removed: they are written again without them, or dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use relay_engine::store::lsm::RemovedSeqs;
use relay_engine::store::{Seq, StoreError};

use super::Store;
use super::batch::{Batch, Line, NewBatch};
use super::disk::{Disk, DiskFile, store_error};
use super::maintainer::{Maintainer, Swap};
use super::offsets;
use super::packed::Vocabulary;
use super::segment::{self, Segment};
use super::version::Version;

/// Bytes of a batch of a segment that is written again.
const CLEANED_BATCH_BYTES: usize = 1 << 20;

/// What a segment's file has.
#[derive(Clone, Copy, Debug)]
struct Contents {
    /// Events in it.
    events: u64,
    /// Removed ones of these.
    removed: u64,
}

/// How many events are removed and how many segments are sealed. While both stay the same, no further segment has to be dropped or cleaned.
fn looked_at<F: DiskFile>(version: &Version<F>) -> (u64, usize) {
    let sealed = version.segments.iter().filter(|segment| segment.is_sealed()).count();
    (version.applied.removed.len(), sealed)
}

/// The first segment of which so much was removed as is wanted. `known`: of segments of which events were removed, events in
/// the file, and removed ones that are not in it.
fn find_segment<F: DiskFile>(
    known: &mut BTreeMap<u64, (u64, u64)>,
    version: &Version<F>,
    is_wanted: impl Fn(u64, Contents) -> bool,
) -> Result<Option<Arc<Segment<F>>>, StoreError> {
    let removed = &version.applied.removed;
    for segment in version.segments.iter().filter(|segment| segment.is_sealed()) {
        let count = removed.count_in(Seq(segment.first_seq), segment.last());
        if count == 0 && segment.numbers() > 0 {
            continue;
        }
        let (events, base) = match known.get(&segment.number) {
            Some(known) => *known,
            None => {
                let (events, live) = segment.count(|seq| !removed.contains(seq))?;
                let found = (events, count - (events - live));
                known.insert(segment.number, found);
                found
            }
        };
        if is_wanted(segment.number, Contents { events, removed: count - base }) {
            return Ok(Some(Arc::clone(segment)));
        }
    }
    Ok(None)
}

impl<D: Disk> Store<D> {
    /// Drops a segment of which all events were removed. That takes no space, so it comes first. True if there was one.
    pub(super) fn drop_dead(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        let version = self.version();
        let state = looked_at(&version);
        if maintainer.none_dead == Some(state) {
            return Ok(false);
        }
        let is_dead = |_, contents: Contents| contents.removed >= contents.events;
        let Some(segment) = find_segment(&mut maintainer.contents, &version, is_dead)? else {
            maintainer.none_dead = Some(state);
            return Ok(false);
        };
        self.replace_segment(maintainer, &segment, None)?;
        Ok(true)
    }

    /// Writes a segment again of which most events were removed. True if there was one.
    pub(super) fn clean_one(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        let version = self.version();
        let removed = &version.applied.removed;
        let state = looked_at(&version);
        if maintainer.none_worn == Some(state) {
            return Ok(false);
        }
        let broken = &maintainer.broken;
        let is_worn =
            |number, contents: Contents| contents.removed * 2 > contents.events && !broken.contains(&number);
        let Some(segment) = find_segment(&mut maintainer.contents, &version, is_worn)? else {
            maintainer.none_worn = Some(state);
            return Ok(false);
        };
        let cleaned = self.write_again(maintainer, &segment, &|seq| !removed.contains(seq));
        if let Err(StoreError::Corrupt(_)) = cleaned {
            maintainer.broken.insert(segment.number);
        }
        self.replace_segment(maintainer, &segment, Some(cleaned?))?;
        Ok(true)
    }

    /// Puts a segment's next generation in its place, or nothing.
    pub(super) fn replace_segment(
        &self,
        maintainer: &mut Maintainer<D::File>,
        segment: &Segment<D::File>,
        cleaned: Option<Arc<Segment<D::File>>>,
    ) -> Result<(), StoreError> {
        let entry = cleaned.as_ref().map(|segment| segment.entry());
        let swap = Swap { segments: vec![(segment.number, entry)], ..Swap::default() };
        if let Err(error) = maintainer.commit(&swap) {
            if let Some(cleaned) = &cleaned {
                maintainer.remove_file_once_unnamed(cleaned.name());
            }
            return Err(error);
        }
        maintainer.contents.remove(&segment.number);
        self.install(maintainer, Vec::new(), &[], &RemovedSeqs::default(), |after| {
            let segments = Arc::make_mut(&mut after.segments);
            segments.retain(|known| known.number != segment.number || cleaned.is_some());
            for known in segments.iter_mut().filter(|known| known.number == segment.number) {
                if let Some(cleaned) = &cleaned {
                    *known = Arc::clone(cleaned);
                }
            }
        });
        maintainer.remove_file(&self.disk, segment.name());
        Ok(())
    }

    /// Writes the live events of a segment as its next generation. Their checksums stay: what was damaged before still is.
    fn write_again(
        &self,
        maintainer: &mut Maintainer<D::File>,
        segment: &Segment<D::File>,
        is_live: &dyn Fn(Seq) -> bool,
    ) -> Result<Arc<Segment<D::File>>, StoreError> {
        let old = segment.name();
        let read = segment.file.read(0, segment.end() as usize).map_err(|error| store_error(&old, &error))?;
        let (mut batches, mut lines, mut live): (Vec<NewBatch>, Vec<Line<'_>>, Vec<&[u8]>) =
            Default::default();
        let (mut bytes, mut at) = (0, segment.begin() as usize);
        while at < read.len() {
            let batch = read_batch(segment, &read, at)?;
            at += batch.bytes;
            for line in batch.lines.iter().filter(|line| is_live(line.seq)) {
                bytes += line.body.len();
                lines.push(*line);
                live.push(line.body);
            }
            if bytes >= CLEANED_BATCH_BYTES {
                batches.push(NewBatch::of_lines(&lines));
                (bytes, lines) = (0, Vec::new());
            }
        }
        if !lines.is_empty() {
            batches.push(NewBatch::of_lines(&lines));
        }
        let vocabulary = segment.vocabulary()?.map(|vocabulary| vocabulary.of_those(live.into_iter()));
        self.write_next(maintainer, segment, &mut batches, vocabulary.as_ref())
    }

    /// Writes the next generation of a segment, durably: packed events need a vocabulary. If that fails, nothing is left of it.
    pub(super) fn write_next(
        &self,
        maintainer: &mut Maintainer<D::File>,
        segment: &Segment<D::File>,
        batches: &mut [NewBatch],
        vocabulary: Option<&Vocabulary>,
    ) -> Result<Arc<Segment<D::File>>, StoreError> {
        let (number, generation, first_seq) = (segment.number, segment.generation + 1, segment.first_seq);
        let name = segment::name(number, generation);
        let says = segment::Head { first_seq, serial: 0, packed: vocabulary.map(Vocabulary::sizes) };
        let mut head = segment::head(&maintainer.manifest.head().database, number, says);
        head.extend(vocabulary.map(Vocabulary::frames).unwrap_or_default());
        let (numbers, total) = size_of(first_seq, batches, head.len());
        maintainer.reuse_name(&name);
        let write = |batches: &mut [NewBatch]| {
            let failed = |error: std::io::Error| store_error(&name, &error);
            let file = self.disk.create(&name, total).map_err(failed)?;
            let new = Segment::new(file, number, generation, first_seq, numbers).packed(says.packed);
            new.file.write(0, &head).map_err(failed)?;
            for batch in batches {
                batch.finish(first_seq)?;
                new.file.write(new.end(), &batch.bytes).map_err(failed)?;
                new.add(batch.lines.iter().copied(), batch.bytes.len());
            }
            new.file.write(new.end(), &new.index()?.0).map_err(failed)?;
            let synced = new.file.sync().and_then(|()| self.disk.sync()).and_then(|()| self.disk.open(&name));
            Segment::sealed(synced.map_err(failed)?, number, &new.entry(), says.packed).map(Arc::new)
        };
        let written = write(batches);
        if written.is_err() {
            maintainer.remove_file(&self.disk, name);
        }
        written
    }
}

/// How many numbers a segment with these batches is of, and its bytes with so many before them.
pub(super) fn size_of(first_seq: u64, batches: &[NewBatch], before: usize) -> (u32, u64) {
    let last = batches.iter().flat_map(|batch| &batch.lines).map(|(seq, _)| seq.0).max();
    let numbers = last.map_or(0, |last| last + 1 - first_seq) as u32;
    let bytes = before + batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
    (numbers, bytes as u64 + offsets::index_bytes(numbers))
}

/// The batch at a byte of a segment, of which `bytes` are what it has up to the end of its last one.
pub(super) fn read_batch<'a, F: DiskFile>(
    segment: &Segment<F>,
    bytes: &'a [u8],
    at: usize,
) -> Result<Batch<'a>, StoreError> {
    let broken = || StoreError::Corrupt(format!("{}: the batch at byte {at} is broken", segment.name()));
    bytes.get(at..).and_then(|rest| Batch::read(rest, segment.first_seq)).ok_or_else(broken)
}
