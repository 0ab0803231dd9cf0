//! What keeps reads cheap and gives disk back: keys are flushed to pages, runs of pages are merged, worn pages and segments are
//! written again. Nothing of what is stored changes by it.
//!
//! Each step writes pages or a segment where nobody reads, then one edit of the manifest, and then publishes a version with
//! them. A step that fails leaves everything as it was, and is made again later. Steps run in a thread, or after each write.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use relay_engine::store::lsm::{
    Directory, Merge, PageId, PageRef, Replacement, RewriteQueue, RunId, paginate, rewrite, sort_keys,
};
use relay_engine::store::{Seq, StoreError};

use super::batch::NewBatch;
use super::disk::{Disk, DiskFile, store_error};
use super::manifest::{Applied, Edit, Manifest, SegmentEntry, State};
use super::page_files::PageWriter;
use super::segment::{self, Segment};
use super::version::{FILTERED, Version};
use super::{OVERDUE_FACTOR, Store, lock};

/// Worn pages that are looked for after a step.
const REWRITES: usize = 4;
/// Removed events after which the thread looks whether something is worn.
const REMOVED_PER_LOOK: u64 = 64;
/// Bytes of a batch of a segment that is written again.
const CLEANED_BATCH_BYTES: usize = 1 << 20;
/// How long the thread waits before it makes a step again that has failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread and the writer tell each other.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// Something is due.
    pub(super) is_wanted: bool,
    pub(super) is_ending: bool,
    /// The thread has ended, though it should not have.
    has_ended: bool,
    /// How many events were removed when it last looked.
    removed: u64,
    /// Steps so far.
    steps: u64,
    pub(super) failures: u64,
    /// Why the last step failed, if it did.
    failure: Option<StoreError>,
}

/// What steps work on.
#[derive(Debug)]
pub(super) struct Maintainer<F> {
    pub(super) manifest: Manifest<F>,
    /// What the manifest says.
    pub(super) state: State,
    pages: PageWriter<F>,
    rewrites: RewriteQueue,
    /// Removed events that `rewrites` knows of.
    removed: u64,
    /// Pages that have been replaced, and the last directory that has them.
    retired: VecDeque<(Weak<Directory>, Vec<PageId>)>,
    /// Pages of an edit that failed and may be on the disk nevertheless.
    uncertain: Vec<PageId>,
    /// Of segments of which events were removed: events in the file, and removed ones that are not in it.
    contents: BTreeMap<u64, (u64, u64)>,
}

/// A change of the manifest, with its parts.
#[derive(Default)]
struct Swap {
    old: Vec<PageId>,
    new: Vec<(RunId, PageRef)>,
    merge: Option<(Merge, bool)>,
    flushed: Option<Applied>,
    segments: Vec<(u64, Option<SegmentEntry>)>,
}

impl<F: DiskFile> Maintainer<F> {
    pub(super) fn new(manifest: Manifest<F>, state: State, pages: PageWriter<F>) -> Self {
        let removed = state.flushed.removed.len();
        Maintainer {
            manifest,
            state,
            pages,
            rewrites: RewriteQueue::default(),
            removed,
            retired: VecDeque::new(),
            uncertain: Vec::new(),
            contents: BTreeMap::new(),
        }
    }

    /// Frees the slots of pages that no version names any more.
    fn reclaim(&mut self) {
        while self.retired.front().is_some_and(|(directory, _)| directory.strong_count() == 0) {
            if let Some((_, ids)) = self.retired.pop_front() {
                self.pages.free(ids);
            }
        }
    }

    /// Writes all there is as a new manifest.
    fn replace_manifest<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), StoreError> {
        self.manifest.replace(disk, &self.state)?;
        self.pages.free(std::mem::take(&mut self.uncertain));
        Ok(())
    }

    /// Makes a swap durable.
    fn commit<D: Disk<File = F>>(&mut self, disk: &D, swap: &Swap) -> Result<(), StoreError> {
        let flushed = swap.flushed.as_ref();
        let edit = Edit {
            removed_pages: &swap.old,
            added_pages: &swap.new,
            merges: swap.merge.iter().cloned().collect(),
            flushed: flushed.map(|after| (after, after.removed.changed_since(&self.state.flushed.removed))),
            segments: swap.segments.clone(),
        };
        if let Err(error) = self.manifest.append(&edit) {
            self.uncertain.extend(swap.new.iter().map(|(_, page)| page.id));
            return Err(error);
        }
        self.state.directory.remove(&swap.old);
        self.state.directory.insert_all(swap.new.iter().cloned());
        if let Some((merge, is_done)) = swap.merge.clone() {
            self.state.directory.set_merge(merge, is_done);
        }
        if let Some(flushed) = flushed {
            self.state.flushed = flushed.clone();
        }
        for (number, entry) in &swap.segments {
            match entry {
                Some(entry) => drop(self.state.segments.insert(*number, *entry)),
                None => drop(self.state.segments.remove(number)),
            }
        }
        Ok(())
    }
}

impl<D: Disk> Store<D> {
    /// The thread.
    pub(super) fn maintain_in_background(&self) {
        /// Whoever waits for the thread learns of its end, should it panic.
        struct End<'a, D: Disk>(&'a Store<D>);
        impl<D: Disk> Drop for End<'_, D> {
            fn drop(&mut self) {
                lock(&self.0.signal).has_ended = true;
                self.0.signalled.notify_all();
            }
        }
        let _end = End(self);
        loop {
            {
                let mut signal = lock(&self.signal);
                while !signal.is_wanted && !signal.is_ending {
                    if signal.failure.is_some() {
                        let waited = self.signalled.wait_timeout(signal, RETRY);
                        signal = waited.unwrap_or_else(PoisonError::into_inner).0;
                        break;
                    }
                    signal = self.signalled.wait(signal).unwrap_or_else(PoisonError::into_inner);
                }
                if signal.is_ending {
                    return;
                }
                signal.is_wanted = false;
            }
            while self.step_and_tell() {}
        }
    }

    /// Does all that is due.
    pub(super) fn maintain_now(&self) {
        while self.step_and_tell() {}
    }

    /// One step. True if there may be more, and nobody wants an end.
    fn step_and_tell(&self) -> bool {
        let done = self.step(&mut lock(&self.maintainer));
        let mut signal = lock(&self.signal);
        signal.steps += 1;
        let has_more = match done {
            Ok(has_more) => {
                signal.failure = None;
                has_more
            }
            Err(error) => {
                if signal.failure.as_ref() != Some(&error) {
                    tracing::error!(%error, "flushing or merging the database's pages failed; trying again");
                }
                signal.failures += 1;
                signal.failure = Some(error);
                false
            }
        };
        self.signalled.notify_all();
        has_more && !signal.is_ending
    }

    /// Wakes the thread if something is due.
    pub(super) fn signal_if_due(&self) {
        let version = self.version();
        let mut signal = lock(&self.signal);
        if self.is_full(&version, 1) || version.applied.removed.len() >= signal.removed + REMOVED_PER_LOOK {
            signal.removed = version.applied.removed.len();
            signal.is_wanted = true;
            self.signalled.notify_all();
        }
    }

    /// Whether there are `times` as many keys in memory as are flushed.
    fn is_full(&self, version: &Version<D::File>, times: usize) -> bool {
        version.memtable.len() >= self.options.memtable_keys.saturating_mul(times)
            || version.unflushed_bytes >= self.options.memtable_bytes.saturating_mul(times as u64)
    }

    /// Before a write: waits while flushing is far behind.
    ///
    /// # Errors
    /// If it fails. Then the write must not add events.
    pub(super) fn wait_while_overdue(&self, has_thread: bool) -> Result<(), StoreError> {
        while self.is_full(&self.version(), OVERDUE_FACTOR) {
            if !has_thread {
                // The write before has tried it.
                self.maintain_now();
                let failure = lock(&self.signal).failure.clone();
                return failure.filter(|_| self.is_full(&self.version(), OVERDUE_FACTOR)).map_or(Ok(()), Err);
            }
            let mut signal = lock(&self.signal);
            let (steps, failures) = (signal.steps, signal.failures);
            signal.is_wanted = true;
            self.signalled.notify_all();
            while signal.steps == steps && !signal.has_ended {
                signal = self.signalled.wait(signal).unwrap_or_else(PoisonError::into_inner);
            }
            if signal.has_ended {
                return Err(StoreError::Failed("the thread that flushes the database has ended".into()));
            }
            if signal.failures != failures
                && let Some(error) = signal.failure.clone()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does one thing that is due. True if there may be more.
    fn step(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        if self.is_read_only {
            return Ok(false);
        }
        maintainer.reclaim();
        if maintainer.manifest.is_broken() {
            // What its last edit names may be what there is, so nothing is written there.
            maintainer.replace_manifest(&self.disk)?;
        }
        let version = self.version();
        if self.is_full(&version, 1) {
            drop(version);
            return self.flush(maintainer).map(|()| true);
        }
        let tiers = self.options.tiers(maintainer.manifest.head().slots);
        let is_removed = |seq: Seq| version.applied.removed.contains(seq);
        if let Some(merge) = tiers.due(&maintainer.state.directory) {
            let step = tiers.step(&&*version.pages, &maintainer.state.directory, &is_removed, merge)?;
            let merge = Some((step.merge, step.is_last));
            return self.replace(maintainer, step.replacement, merge).map(|()| true);
        }
        let removed = version.applied.removed.len();
        maintainer.rewrites.count_removed(removed.saturating_sub(maintainer.removed));
        maintainer.removed = removed;
        maintainer.rewrites.push_due(&maintainer.state.directory, REWRITES);
        while let Some(page) = maintainer.rewrites.pop() {
            let directory = &maintainer.state.directory;
            let found = rewrite(&&*version.pages, directory, &is_removed, page, tiers.page_bytes, FILTERED)?;
            if let Some(replacement) = found {
                return self.replace(maintainer, replacement, None).map(|()| true);
            }
        }
        if self.clean_one(maintainer, &version)? {
            return Ok(true);
        }
        if maintainer.manifest.is_long() {
            maintainer.replace_manifest(&self.disk)?;
        }
        Ok(false)
    }

    /// Moves all keys in memory to a new run of level 0.
    fn flush(&self, maintainer: &mut Maintainer<D::File>) -> Result<(), StoreError> {
        let (frozen, version) = {
            let _log = lock(&self.log);
            let mut version = Version::clone(&self.version());
            let frozen = version.memtable.freeze();
            let before = version.clone();
            self.publish(version);
            (frozen, before)
        };
        let Applied { position, ref removed, .. } = version.applied;
        let mut keys = frozen.keys_where(|key| key.seq().is_none_or(|seq| !removed.contains(seq)));
        sort_keys(&mut keys);
        let mut pages = Vec::new();
        let tiers = self.options.tiers(maintainer.manifest.head().slots);
        paginate(&keys, maintainer.state.directory.fresh_run(), tiers.page_bytes, FILTERED, &mut pages);
        let (sealed, entries) = self.seal(&version, position.segment)?;
        let new = maintainer.pages.write(&self.disk, &pages)?;
        let swap = Swap { new, flushed: Some(version.applied.clone()), segments: entries, ..Swap::default() };
        maintainer.commit(&self.disk, &swap)?;
        self.install(maintainer, Vec::new(), |after| {
            after.memtable.remove_frozen(&frozen);
            after.unflushed_bytes -= version.unflushed_bytes;
            let segments = Arc::make_mut(&mut after.segments);
            for segment in segments.iter_mut() {
                if let Some(sealed) = sealed.iter().find(|sealed| sealed.number == segment.number) {
                    *segment = Arc::clone(sealed);
                }
            }
        });
        Ok(())
    }

    /// Writes the indices of all segments before `number` that have none.
    #[allow(clippy::type_complexity, reason = "two lists of the same segments")]
    fn seal(
        &self,
        version: &Version<D::File>,
        number: u64,
    ) -> Result<(Vec<Arc<Segment<D::File>>>, Vec<(u64, Option<SegmentEntry>)>), StoreError> {
        let (mut sealed, mut entries) = (Vec::new(), Vec::new());
        for pair in version.segments.windows(2) {
            let [segment, next] = pair else { continue };
            if segment.number >= number || segment.is_sealed() {
                continue;
            }
            let name = segment.name();
            let failed = |error: std::io::Error| store_error(&name, &error);
            let (index, numbers) = segment.index(Seq(next.first_seq - 1));
            segment.file.write(segment.end(), &index).and_then(|()| segment.file.sync()).map_err(failed)?;
            let (generation, first_seq, end) = (segment.generation, segment.first_seq, segment.end());
            let file = self.disk.open(&name).map_err(failed)?;
            sealed.push(Arc::new(Segment::sealed(
                file,
                segment.number,
                generation,
                first_seq,
                numbers,
                end,
            )?));
            entries.push((segment.number, Some(SegmentEntry { generation, first_seq, numbers, end })));
        }
        Ok((sealed, entries))
    }

    /// Writes the pages of a replacement and swaps them for the old ones.
    fn replace(
        &self,
        maintainer: &mut Maintainer<D::File>,
        replacement: Replacement,
        merge: Option<(Merge, bool)>,
    ) -> Result<(), StoreError> {
        let new = maintainer.pages.write(&self.disk, &replacement.new)?;
        let swap = Swap { old: replacement.old, new, merge, ..Swap::default() };
        maintainer.commit(&self.disk, &swap)?;
        self.install(maintainer, swap.old, |_| {});
        Ok(())
    }

    /// Publishes a version with what the manifest says, changed by `change`.
    fn install(
        &self,
        maintainer: &mut Maintainer<D::File>,
        old: Vec<PageId>,
        change: impl FnOnce(&mut Version<D::File>),
    ) {
        let _log = lock(&self.log);
        let before = self.version();
        let mut version = Version::clone(&before);
        version.directory = Arc::new(maintainer.state.directory.clone());
        version.pages = Arc::clone(&maintainer.pages.files);
        change(&mut version);
        self.publish(version);
        // In the order of directories: a slot is free when all before are gone too.
        maintainer.retired.push_back((Arc::downgrade(&before.directory), old));
    }

    /// Writes a segment again of which most events were removed, or removes one of which all were. True if there was one.
    fn clean_one(
        &self,
        maintainer: &mut Maintainer<D::File>,
        version: &Version<D::File>,
    ) -> Result<bool, StoreError> {
        let removed = &version.applied.removed;
        let is_live = |seq: Seq| !removed.contains(seq);
        let mut found = None;
        for segment in version.segments.iter().filter(|segment| segment.is_sealed()) {
            let last = Seq(segment.first_seq + u64::from(segment.numbers()).saturating_sub(1));
            let count = removed.count_in(Seq(segment.first_seq), last);
            if count == 0 && segment.numbers() > 0 {
                continue;
            }
            let (events, base) = match maintainer.contents.get(&segment.number) {
                Some(known) => *known,
                None => {
                    let (mut all, mut live) = (Vec::new(), Vec::new());
                    segment.seqs(Seq(0), last, usize::MAX, &|_| true, &mut all)?;
                    segment.seqs(Seq(0), last, usize::MAX, &is_live, &mut live)?;
                    let known = (all.len() as u64, count - (all.len() - live.len()) as u64);
                    maintainer.contents.insert(segment.number, known);
                    known
                }
            };
            if (count - base) * 2 > events || events == 0 {
                found = Some((Arc::clone(segment), last));
                break;
            }
        }
        let Some((segment, last)) = found else { return Ok(false) };
        let mut live = Vec::new();
        segment.seqs(Seq(0), last, usize::MAX, &is_live, &mut live)?;
        let cleaned = match live.is_empty() {
            true => None,
            false => Some(self.write_again(maintainer, &segment, last, &live)?),
        };
        let entry = cleaned.as_ref().map(|segment| SegmentEntry {
            generation: segment.generation,
            first_seq: segment.first_seq,
            numbers: segment.numbers(),
            end: segment.end(),
        });
        let swap = Swap { segments: vec![(segment.number, entry)], ..Swap::default() };
        maintainer.commit(&self.disk, &swap)?;
        maintainer.contents.remove(&segment.number);
        self.install(maintainer, Vec::new(), |after| {
            let segments = Arc::make_mut(&mut after.segments);
            segments.retain(|known| known.number != segment.number || cleaned.is_some());
            for known in segments.iter_mut().filter(|known| known.number == segment.number) {
                if let Some(cleaned) = &cleaned {
                    *known = Arc::clone(cleaned);
                }
            }
        });
        // Who reads it still has it open. If this fails, it is removed when the database is next opened.
        let _ = self.disk.remove(&segment.name());
        Ok(true)
    }

    /// Writes the events `live` of a segment as its next generation.
    fn write_again(
        &self,
        maintainer: &Maintainer<D::File>,
        segment: &Segment<D::File>,
        last: Seq,
        live: &[Seq],
    ) -> Result<Arc<Segment<D::File>>, StoreError> {
        let (number, generation, first_seq) = (segment.number, segment.generation + 1, segment.first_seq);
        let mut batches = Vec::new();
        let mut lines = Vec::new();
        let mut bytes = 0;
        let mut left = live;
        while let Some((seq, others)) = left.split_first() {
            left = others;
            let json = segment.event(*seq)?.ok_or_else(|| {
                StoreError::Corrupt(format!("{}: event {} is missing", segment.name(), seq.0))
            })?;
            bytes += json.len();
            lines.push((*seq, json));
            if bytes >= CLEANED_BATCH_BYTES || left.is_empty() {
                let of_batch = lines.iter().map(|(seq, json)| (*seq, &**json));
                let mut batch = NewBatch::of_lines(of_batch, 0, Seq(0));
                batch.finish(first_seq)?;
                batches.push(batch);
                (bytes, lines) = (0, Vec::new());
            }
        }
        let name = segment::name(number, generation);
        let failed = |error: std::io::Error| store_error(&name, &error);
        let total = batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>() + segment::HEAD_BYTES;
        let file = self.disk.create(&name, total).map_err(failed)?;
        let numbers = (last.0 + 1 - first_seq) as u32;
        let new = Segment::new(file, number, generation, first_seq, numbers);
        let write = || {
            new.file.write(0, &segment::head(&maintainer.manifest.head().database, number, first_seq, 0))?;
            for batch in &batches {
                new.file.write(new.end(), &batch.bytes)?;
                new.add(batch.lines.iter().copied(), batch.bytes.len());
            }
            new.file.write(new.end(), &new.index(last).0)?;
            new.file.sync()?;
            self.disk.sync()?;
            self.disk.open(&name)
        };
        let file = write().map_err(failed)?;
        Segment::sealed(file, number, generation, first_seq, numbers, new.end()).map(Arc::new)
    }
}
