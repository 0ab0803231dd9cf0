//! Packing: sealed segments are written again with their events packed (`packed`), but for the newest ones, which are read most.
//!
//! What is packed is kept in memory until all of a segment is, in steps that read some of it each. Then it is written, and replaces the
//! segment by one edit of the manifest, as a cleaned one does. Events that were removed meanwhile are overwritten before that, and so are
//! values that none of the others mentions. What they said together with seven other authors stays in the dictionary, as it does if they are
//! removed a moment later.

use std::sync::Arc;

use relay_engine::store::{Seq, StoreError};

use super::Store;
use super::batch::{Line, NewBatch};
use super::cleaning::{read_batch, size_of};
use super::disk::{Disk, DiskFile, store_error};
use super::maintainer::Maintainer;
use super::packed::{Gatherer, Packer, Vocabulary};
use super::segment::{self, Segment};
use super::version::Version;

/// A segment that is being packed.
pub(super) struct Packing<F> {
    segment: Arc<Segment<F>>,
    stage: Stage,
}

/// What is known of it so far.
enum Stage {
    /// What its events have in common is gathered, up to a byte.
    Gather(u64, Gatherer),
    /// Its events are packed, up to a byte.
    Pack(u64, Packer, Vec<NewBatch>),
    /// It is to be written.
    Write(Vocabulary, Vec<NewBatch>),
}

impl<F> std::fmt::Debug for Packing<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packing").field("segment", &self.segment.number).finish_non_exhaustive()
    }
}

impl<D: Disk> Store<D> {
    /// One step of packing a segment. True if there was one.
    pub(super) fn pack(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        let version = self.version();
        let Some(Packing { segment, stage }) = maintainer.packing.take() else {
            let next = self.next_to_pack(maintainer, &version);
            let begun = next.map(|segment| {
                let gatherer = Gatherer::new(u64::from(segment.numbers()));
                Packing { stage: Stage::Gather(segment.begin(), gatherer), segment }
            });
            maintainer.packing = begun;
            return Ok(maintainer.packing.is_some());
        };
        if !version.segments.iter().any(|known| Arc::ptr_eq(known, &segment)) {
            // It was cleaned or dropped meanwhile.
            return Ok(true);
        }
        let stage = match stage {
            Stage::Gather(from, gatherer) => self.gather(&version, &segment, from, gatherer),
            Stage::Pack(from, packer, batches) => self.pack_some(&version, &segment, from, packer, batches),
            Stage::Write(vocabulary, batches) => {
                return self.write_packed(maintainer, &version, segment, vocabulary, batches);
            }
        };
        match stage {
            Ok(stage) => maintainer.packing = Some(Packing { segment, stage }),
            Err(error) => {
                maintainer.unpacked.insert(segment.number);
                return Err(error);
            }
        }
        Ok(true)
    }

    /// The oldest segment that is to be packed.
    fn next_to_pack(
        &self,
        maintainer: &Maintainer<D::File>,
        version: &Version<D::File>,
    ) -> Option<Arc<Segment<D::File>>> {
        if !self.options.packs {
            return None;
        }
        let sealed = version.segments.iter().filter(|segment| segment.is_sealed()).count();
        let old = version.segments.iter().filter(|segment| segment.is_sealed());
        let old = old.take(sealed.saturating_sub(self.options.plain_segments));
        let mut plain = old.filter(|segment| !segment.is_packed());
        plain.find(|segment| !maintainer.unpacked.contains(&segment.number)).cloned()
    }

    fn gather(
        &self,
        version: &Version<D::File>,
        segment: &Segment<D::File>,
        from: u64,
        mut gatherer: Gatherer,
    ) -> Result<Stage, StoreError> {
        let next = self.read_some(version, segment, from, &mut |line| gatherer.add(line.body))?;
        Ok(match next {
            Some(next) => Stage::Gather(next, gatherer),
            None => Stage::Pack(segment.begin(), gatherer.finish(), Vec::new()),
        })
    }

    fn pack_some(
        &self,
        version: &Version<D::File>,
        segment: &Segment<D::File>,
        from: u64,
        packer: Packer,
        mut batches: Vec<NewBatch>,
    ) -> Result<Stage, StoreError> {
        let mut lines = Vec::new();
        // A body that is broken stays so.
        let mut take =
            |line: Line<'_>| lines.push((line.with_body(&[]), line.is_whole(), line.body.to_vec()));
        let next = self.read_some(version, segment, from, &mut take)?;
        let bodies =
            packer.pack(lines.iter().map(|(_, is_whole, body)| if *is_whole { &body[..] } else { &[] }));
        let packed: Vec<Line<'_>> = lines
            .iter()
            .zip(&bodies)
            .map(|((line, _, plain), packed)| line.with_body(packed.as_ref().unwrap_or(plain)))
            .collect();
        if !packed.is_empty() {
            batches.push(NewBatch::of_lines(&packed));
        }
        Ok(match next {
            Some(next) => Stage::Pack(next, packer, batches),
            None => Stage::Write(packer.vocabulary, batches),
        })
    }

    /// Calls `take` with live events of the batches from byte `from` on, for about as many bytes as a step has. Returns where the next
    /// one begins, if there is one.
    fn read_some(
        &self,
        version: &Version<D::File>,
        segment: &Segment<D::File>,
        from: u64,
        take: &mut dyn FnMut(Line<'_>),
    ) -> Result<Option<u64>, StoreError> {
        let end = segment.end();
        let read =
            segment.file.read(0, end as usize).map_err(|error| store_error(&segment.name(), &error))?;
        let mut at = from;
        while at < end && at - from < self.options.pack_step_bytes {
            let batch = read_batch(segment, &read, at as usize)?;
            let is_live = |line: &&Line<'_>| !version.applied.removed.contains(line.seq);
            batch.lines.iter().filter(is_live).for_each(|line| take(*line));
            at += batch.bytes as u64;
        }
        Ok((at < end).then_some(at))
    }

    /// Writes what was packed and puts it in the segment's place, if it takes less of the disk.
    fn write_packed(
        &self,
        maintainer: &mut Maintainer<D::File>,
        version: &Version<D::File>,
        segment: Arc<Segment<D::File>>,
        vocabulary: Vocabulary,
        mut batches: Vec<NewBatch>,
    ) -> Result<bool, StoreError> {
        let before = segment::HEAD_BYTES as usize + vocabulary.frames().len();
        let (_, bytes) = size_of(segment.first_seq, &batches, before);
        if bytes >= segment.file.bytes() {
            maintainer.unpacked.insert(segment.number);
            return Ok(true);
        }
        let removed = &version.applied.removed;
        batches.iter_mut().for_each(|batch| batch.blank(|seq: Seq| removed.contains(seq)));
        let vocabulary = vocabulary.of_those(batches.iter().flat_map(NewBatch::bodies));
        match self.write_next(maintainer, &segment, &mut batches, Some(&vocabulary)) {
            Ok(packed) => self.replace_segment(maintainer, &segment, Some(packed)).map(|()| true),
            Err(error) => {
                // The disk may be full: it is written again later.
                maintainer.packing = Some(Packing { segment, stage: Stage::Write(vocabulary, batches) });
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use relay_engine::store::{Backend, Reader, Writer, terms_of};
    use relay_engine::types::{Event, EventId};

    use super::super::batch::LINE_BYTES;
    use super::super::maintainer::Swap;
    use super::super::{LogBackend, LogOptions, lock};
    use super::*;

    /// The parts of its id and of its signature.
    fn parts(n: u64) -> [u64; 2] {
        [n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n.wrapping_mul(0xd6e8_feb8_6659_fd93)]
    }

    fn hex(n: u64) -> String {
        format!("{n:016x}").repeat(4)
    }

    fn note(n: u64) -> Event {
        note_of(n, 7, "")
    }

    fn note_of(n: u64, author: u64, tags: &str) -> Event {
        let [id, sig] = parts(n);
        let json = format!(
            r#"{{"id":"{}","pubkey":"{}","created_at":{n},"kind":1,"tags":[{tags}],"content":"note {n}","sig":"{}{}"}}"#,
            hex(id),
            hex(author),
            hex(sig),
            hex(5),
        );
        Event::from_canonical(json.into_bytes().into())
    }

    /// Stores them under the numbers from 1 on, plain, and opens the database so that it packs.
    fn stored(path: &Path, events: &[Event]) -> LogBackend {
        let backend = open(path, false);
        for (n, event) in (1..).zip(events) {
            let terms = terms_of(event.view(), backend.classes());
            backend.write(|writer| writer.insert(Seq(n), event, &terms)).expect("writes");
        }
        drop(backend);
        open(path, true)
    }

    /// What is in the files of the log.
    fn log_bytes(path: &Path) -> Vec<u8> {
        let files = std::fs::read_dir(path).expect("folder").map(|entry| entry.expect("entry").path());
        let logs = files.filter(|path| path.to_string_lossy().contains("log-"));
        logs.flat_map(|path| std::fs::read(path).expect("reads")).collect()
    }

    /// Regression: as long as there was something to pack, edits were added to the manifest, and it was not written anew.
    #[test]
    fn a_long_manifest_does_not_wait_until_everything_is_packed() {
        let folder = tempfile::tempdir().expect("folder");
        let backend = stored(folder.path(), &(1..=120).map(note).collect::<Vec<_>>());
        let store = &backend.0.store;
        let mut maintainer = lock(&store.maintainer);
        while maintainer.packing.is_none() {
            assert!(store.step(&mut maintainer).has_more);
        }
        while !maintainer.manifest.is_long() {
            maintainer.commit(&Swap::default()).expect("commits");
        }
        assert!(store.step(&mut maintainer).has_more && maintainer.packing.is_some());
        assert!(!maintainer.manifest.is_long());
    }

    /// Regression: a value that only removed events mentioned stayed in the vocabulary, if they were removed after it had been gathered.
    #[test]
    fn a_value_that_is_removed_while_its_segment_is_packed_is_gone() {
        let value = 0x1234_5678_9abc_def1_u64;
        let tags = [format!(r#"["p","{}"]"#, hex(value)), format!(r#"["p","{}"]"#, hex(99))];
        let is_removed = |n: u64| n % 10 == 3;
        let events: Vec<Event> =
            (1..=60).map(|n| note_of(n, 100 + n % 12, &tags[usize::from(!is_removed(n))])).collect();
        for removes in [false, true] {
            let folder = tempfile::tempdir().expect("folder");
            let backend = stored(folder.path(), &events);
            let store = &backend.0.store;
            loop {
                let mut maintainer = lock(&store.maintainer);
                assert!(store.pack(&mut maintainer).expect("packs"), "nothing is to be written");
                if matches!(&maintainer.packing, Some(Packing { stage: Stage::Write(..), .. })) {
                    break;
                }
            }
            let gone: Vec<EventId> =
                events.iter().filter(|event| is_removed(event.created_at)).map(|event| event.id).collect();
            if removes {
                relay_engine::store::remove(&backend, &gone).expect("removes");
            }
            backend.maintain();
            assert!(store.version().segments[0].is_packed());
            let bytes = log_bytes(folder.path());
            let has = |value: u64| memchr::memmem::find(&bytes, &value.to_be_bytes().repeat(4)).is_some();
            assert_eq!((has(value), has(99)), (!removes, true));
            let reader = backend.reader().expect("reader");
            for (n, event) in (1..).zip(&events).filter(|(n, _)| !removes || !is_removed(*n)) {
                assert_eq!(reader.event(Seq(n)).expect("event").as_deref(), Some(event.json()));
            }
        }
    }

    /// The id is there as it is; the rest of a packed event is not looked at for it. What is broken is an error, and no other text.
    #[test]
    fn an_id_is_read_alone_and_a_broken_event_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let events: Vec<Event> = (1..=60).map(note).collect();
        let backend = stored(folder.path(), &events);
        for packs in [false, true] {
            if packs {
                backend.maintain();
            }
            let version = backend.0.store.version();
            assert_eq!(version.segments[0].is_packed(), packs);
            for (n, event) in (1..).zip(&events) {
                let segment = &version.segments[version.segment_of(Seq(n)).expect("one")];
                assert_eq!(segment.id(Seq(n)), Ok(Some(event.id)));
            }
            assert_eq!(version.segments[0].id(Seq(10_000)), Ok(None));
        }
        let version = backend.0.store.version();
        let segment = &version.segments[0];
        let offset = segment.offset(Seq(5)).expect("offset").expect("stored");
        let body = offset + LINE_BYTES as u64;
        let whole = segment.file.read(body, 140).expect("reads").into_owned();
        for at in 0..whole.len() {
            segment.file.write(body + at as u64, &[whole[at] ^ 0x20]).expect("writes");
            let read = segment.event(Seq(5));
            let is_named = matches!(&read, Err(StoreError::Corrupt(what)) if what.contains("event 5"));
            assert!(is_named, "byte {at}: {read:?}");
            if at > 32 {
                assert_eq!(segment.id(Seq(5)), Ok(Some(note(5).id)));
            }
            segment.file.write(body + at as u64, &whole[at..=at]).expect("writes");
        }
        assert_eq!(segment.event(Seq(5)).expect("whole").as_deref(), Some(note(5).json()));
    }

    fn open(path: &Path, packs: bool) -> LogBackend {
        let options = LogOptions {
            memtable_keys: 24,
            segment_bytes: 12_000,
            segment_events: 40,
            slot_bytes: 4_096,
            file_slots: 16,
            packs,
            plain_segments: 0,
            pack_step_bytes: 2_000,
            has_thread: false,
            ..LogOptions::default()
        };
        LogBackend::open(path, options, 0).expect("opens")
    }

    /// Events are removed, and their bodies overwritten, after any step of packing their segment.
    #[test]
    fn an_event_that_is_removed_while_its_segment_is_packed_is_gone() {
        let mut was_under_way = 0;
        for steps in 0..30 {
            let folder = tempfile::tempdir().expect("folder");
            let backend = stored(folder.path(), &(1..=60).map(note).collect::<Vec<_>>());
            let store = &backend.0.store;
            let is_packing = || lock(&store.maintainer).packing.is_some();
            for _ in 0..steps {
                store.pack(&mut lock(&store.maintainer)).expect("packs");
            }
            was_under_way += u32::from(is_packing());
            // All of a segment's, at last.
            let removed: Vec<u64> =
                (1..=60).filter(|n| n % 10 == steps % 10 || steps == 7 && *n < 45).collect();
            let ids: Vec<EventId> = removed.iter().map(|n| note(*n).id).collect();
            relay_engine::store::remove(&backend, &ids).expect("removes");
            backend.maintain();
            assert!(!is_packing());
            let reader = backend.reader().expect("reader");
            for n in 1..=60 {
                let found = reader.event(Seq(n)).expect("event");
                assert_eq!(found.is_some(), !removed.contains(&n), "event {n} after {steps} steps");
                assert!(found.is_none_or(|found| *found == *note(n).json()));
            }
            drop(reader);
            assert_eq!(backend.check().expect("checked").damage, []);
            let bytes = log_bytes(folder.path());
            for n in 1..=60u64 {
                let text = format!("note {n}\"");
                // The last bytes of the id and the first ones of the signature.
                let packed = parts(n).map(u64::to_be_bytes).concat();
                let is_there = [text.as_bytes(), &packed]
                    .into_iter()
                    .any(|trace| memchr::memmem::find(&bytes, trace).is_some());
                assert_eq!(is_there, !removed.contains(&n), "event {n} after {steps} steps");
            }
        }
        assert!(was_under_way > 10, "{was_under_way}");
    }
}
