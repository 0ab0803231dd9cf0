//! Opening: what the manifest says, and the batches of the log that are not in the pages yet.
//!
//! A batch that is broken at the end of the last segment was never acknowledged, and is cut off. Anything else that is broken is
//! named, and nothing is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use relay_engine::store::kv::{Key, PendingRemovals};
use relay_engine::store::lsm::{Memtable, PostingCounts, PostingSums, RemovedSeqs, push_keys_of, sort_keys};
use relay_engine::store::{Seq, StoreError, TermClasses};

use super::batch::{self, Batch};
use super::disk::{Disk, DiskFile, store_error};
use super::log::{self, Log};
use super::manifest::{self, Applied, Head, Manifest, Opened, Position, State};
use super::options::LogOptions;
use super::page_files::{PageFiles, PageWriter};
use super::segment::{self, Segment};
use super::version::Version;

/// A database that was opened.
pub(super) struct Recovered<F> {
    pub(super) manifest: Manifest<F>,
    pub(super) state: State,
    pub(super) pages: PageWriter<F>,
    pub(super) log: Log<F>,
    pub(super) version: Version<F>,
}

/// What a database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One that is not there is made, and what was not finished is cut off.
    Write,
    /// Nothing is written.
    Read,
    /// Nothing is written here, while another process writes.
    ReadBeside,
}

/// Opens the database of a disk. `None` if there is none and it is opened to read; otherwise one is made.
pub(super) fn open<D: Disk>(
    disk: &D,
    options: &LogOptions,
    classes: TermClasses,
    mode: Mode,
) -> Result<Option<Recovered<D::File>>, StoreError> {
    let names = disk.list().map_err(|error| store_error("the folder", &error))?;
    let Some(Opened { manifest, state }) = find_manifest(disk, options, &names, mode)? else {
        return Ok(None);
    };
    let Head { database, slots } = manifest.head();
    let used: BTreeSet<u32> = state
        .directory
        .runs()
        .flat_map(|run| &run.pages)
        .filter_map(|page| u32::try_from(page.id.0).ok())
        .collect();
    let files = PageFiles::open(disk, slots, used.last().map_or(0, |last| last + 1))?;
    let pages = PageWriter::new(files, &used);
    let mut version = Version {
        memtable: Memtable::default(),
        unflushed_bytes: 0,
        directory: Arc::new(state.directory.clone()),
        counts: Arc::default(),
        sums: PostingSums::new(&Arc::default(), &Arc::default(), slots.bytes as usize),
        pages: Arc::clone(&pages.files),
        segments: Arc::default(),
        applied: state.flushed.clone(),
        readers: Arc::default(),
        lease: None,
    };
    let mut segments = Vec::new();
    for (number, entry) in &state.segments {
        let name = segment::name(*number, entry.generation);
        let file = disk.open(&name).map_err(|error| store_error(&name, &error))?;
        let segment::Head { packed, .. } =
            check_head(&file, &name, &database, *number, Some(entry.first_seq))?;
        segments.push(Arc::new(Segment::sealed(file, *number, entry, packed)?));
    }
    let log =
        Replay { disk, options, classes, mode, database, names: &names }.run(&mut version, &mut segments)?;
    version.segments = Arc::new(segments);
    version.counts = Arc::new(PostingCounts::of(&version.directory, &version.applied.removed));
    version.sums = PostingSums::new(&version.directory, &version.applied.removed, slots.bytes as usize);
    if mode == Mode::Write {
        // The process that wrote it may have ended before it had made it durable.
        manifest.sync()?;
        log.sync()?;
        disk.sync().map_err(|error| store_error("the folder", &error))?;
        remove_leftovers(disk, &names, &manifest, &state);
    }
    Ok(Some(Recovered { manifest, state, pages, log, version }))
}

/// The newest manifest that was finished, or a first one.
fn find_manifest<D: Disk>(
    disk: &D,
    options: &LogOptions,
    names: &[String],
    mode: Mode,
) -> Result<Option<Opened<D::File>>, StoreError> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| manifest::parse_name(name)).collect();
    numbers.sort_unstable();
    while let Some(number) = numbers.pop() {
        if let Some(opened) = Manifest::open(disk, number, options.edits_bytes)? {
            return Ok(Some(opened));
        }
    }
    if names.iter().any(|name| name.starts_with("log-") || name.starts_with("pages-")) {
        return Err(StoreError::Corrupt("there is a log, and no manifest that is whole".into()));
    }
    if mode != Mode::Write {
        return Ok(None);
    }
    let mut database = [0; 16];
    getrandom::fill(&mut database)
        .map_err(|error| StoreError::Failed(format!("no random bytes: {error}")))?;
    let mut state = State::default();
    state.flushed.position = Position { segment: 1, offset: segment::HEAD_BYTES, serial: 0 };
    let head = Head { database, slots: options.slots() };
    let manifest = Manifest::create(disk, head, 1, &state, options.edits_bytes)?;
    Ok(Some(Opened { manifest, state }))
}

/// Checks the head of a segment, and returns what it says.
fn check_head<F: DiskFile>(
    file: &F,
    name: &str,
    database: &[u8; 16],
    number: u64,
    first_seq: Option<u64>,
) -> Result<segment::Head, StoreError> {
    let head = file.read(0, segment::HEAD_BYTES as usize);
    let found = head.ok().and_then(|head| segment::read_head(&head, database, number));
    found
        .filter(|found| first_seq.is_none_or(|first_seq| first_seq == found.first_seq))
        .ok_or_else(|| StoreError::Corrupt(format!("{name}: its head is broken, or of another database")))
}

/// A segment whose batches have not been read.
struct Unread<F> {
    segment: Segment<F>,
    /// The serial of the last batch before it.
    serial: u64,
}

/// Reading the log that is not in the pages.
struct Replay<'a, D> {
    disk: &'a D,
    options: &'a LogOptions,
    classes: TermClasses,
    mode: Mode,
    database: [u8; 16],
    names: &'a [String],
}

impl<D: Disk> Replay<'_, D> {
    /// Applies all batches to `version` and adds their segments to `segments`. Returns the end of the log.
    fn run(
        &self,
        version: &mut Version<D::File>,
        segments: &mut Vec<Arc<Segment<D::File>>>,
    ) -> Result<Log<D::File>, StoreError> {
        let Position { segment: first, offset: begin, .. } = version.applied.position;
        let is_there = |number: u64| self.names.contains(&segment::name(number, 0));
        let mut last = first;
        while is_there(last + 1) {
            last += 1;
        }
        let beyond = |name: &String| segment::parse_name(name).is_some_and(|(number, _)| number > last + 1);
        if let Some(name) = self.names.iter().find(|name| beyond(name)) {
            return Err(StoreError::Corrupt(format!(
                "{name} is there, and {} is missing",
                segment::name(last + 1, 0)
            )));
        }
        let (mut keys, mut unsure, mut tail) = (Vec::new(), Vec::new(), None);
        for number in first..=last {
            let name = segment::name(number, 0);
            let is_last = number == last;
            let segment = match self.open(&name, number, is_last && number > first) {
                Ok(Some(Unread { segment, serial })) => {
                    let known = version.applied.position.serial;
                    if number > first && is_last && serial < known && !self.has_batches(&name) {
                        // It was made, and then what came next went into the one before it: its name could not be made durable.
                        break;
                    }
                    if number > first && serial != known {
                        return Err(broken(
                            &segment::name(number - 1, 0),
                            segments.last().map_or(0, |last| last.end()),
                        ));
                    }
                    Arc::new(segment)
                }
                // It was being made.
                Ok(None) => break,
                // The first segment of a new database was not made, or not finished.
                Err(_)
                    if version.applied.position.serial == 0
                        && number == 1
                        && is_last
                        && !self.has_batches(&name) =>
                {
                    if self.mode != Mode::Write {
                        return Err(StoreError::Corrupt(format!("{name} is missing")));
                    }
                    let options = self.options;
                    let (events, bytes) = (options.segment_events, options.segment_bytes);
                    let head = segment::Head { first_seq: 1, serial: 0, packed: None };
                    let created = log::create(self.disk, self.database, 1, head, events, bytes);
                    Arc::new(created.map_err(with_advice)?)
                }
                Err(error) => return Err(error),
            };
            let begin = if number == first { begin } else { segment::HEAD_BYTES };
            let is_followed = |serial: u64| {
                let next = segment::name(number + 1, 0);
                let opened =
                    if is_last { Ok(None) } else { self.open(&next, number + 1, number + 1 == last) };
                matches!(opened, Ok(Some(next)) if next.serial >= serial)
            };
            self.replay(&segment, begin, &is_followed, version, &mut keys, &mut unsure)?;
            segments.push(Arc::clone(&segment));
            tail = Some(segment);
        }
        if let Some((_, error)) = unsure.into_iter().find(|(seq, _)| !version.applied.removed.contains(*seq))
        {
            return Err(error);
        }
        sort_keys(&mut keys);
        version.memtable.add(keys);
        let tail =
            tail.ok_or_else(|| StoreError::Corrupt(format!("{} is missing", segment::name(first, 0))))?;
        self.check_rest(&tail)?;
        Ok(Log::new(self.database, tail))
    }

    fn has_batches(&self, name: &str) -> bool {
        self.disk
            .open(name)
            .is_ok_and(|file| file.read(0, file.bytes() as usize).is_ok_and(|bytes| batch::has_batch(&bytes)))
    }

    /// Opens a segment; `None` if it `may_be_unfinished` and is.
    fn open(
        &self,
        name: &str,
        number: u64,
        may_be_unfinished: bool,
    ) -> Result<Option<Unread<D::File>>, StoreError> {
        let file = self.disk.open(name).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StoreError::Corrupt(format!("{name} is missing")),
            _ => store_error(name, &error),
        })?;
        match check_head(&file, name, &self.database, number, None) {
            Ok(segment::Head { first_seq, serial, .. }) => {
                let bytes = file.bytes().saturating_sub(segment::HEAD_BYTES);
                // As many as it may have, and no more than fit: a line of an event is longer than this.
                let numbers = u64::from(self.options.segment_events).max(1 << 18).min(bytes / 8 + 1);
                let segment = Segment::new(file, number, 0, first_seq, numbers as u32);
                Ok(Some(Unread { segment, serial }))
            }
            Err(_) if may_be_unfinished && !self.has_batches(name) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the batches of a segment. What is before `begin` is in the pages. `is_followed`: whether the next segment comes after a
    /// batch of this serial. `unsure`: events that are not what was written, and the errors that they are unless they were
    /// removed later and are being overwritten.
    fn replay(
        &self,
        segment: &Segment<D::File>,
        begin: u64,
        is_followed: &dyn Fn(u64) -> bool,
        version: &mut Version<D::File>,
        keys: &mut Vec<Key>,
        unsure: &mut Vec<(Seq, StoreError)>,
    ) -> Result<(), StoreError> {
        let name = segment.name();
        let bytes = segment
            .file
            .read(0, segment.file.bytes() as usize)
            .map_err(|error| store_error(&name, &error))?;
        while let Some(batch) =
            bytes.get(segment.end() as usize..).and_then(|rest| Batch::read(rest, segment.first_seq))
        {
            let (is_flushed, known_keys) = (segment.end() < begin, keys.len());
            if !is_flushed {
                let known = unsure.len();
                for line in batch.lines.iter() {
                    match line.is_whole() {
                        true => push_keys_of(line.seq, line.body, self.classes, keys),
                        false => unsure.push((line.seq, broken(&name, segment.end()))),
                    }
                }
                if unsure.len() > known {
                    let rest = bytes.get(segment.end() as usize + batch.bytes..);
                    let next = rest.and_then(|rest| Batch::read(rest, segment.first_seq));
                    if next.is_none_or(|next| next.serial <= batch.serial) && !is_followed(batch.serial) {
                        // It was not finished.
                        unsure.truncate(known);
                        keys.truncate(known_keys);
                        break;
                    }
                }
                if batch.serial != version.applied.position.serial + 1 {
                    return Err(broken(&name, segment.end()));
                }
                keys.extend(&batch.tombstones);
                version.unflushed_bytes += batch.bytes as u64;
                let end = segment.end() + batch.bytes as u64;
                let position = Position { segment: segment.number, offset: end, serial: batch.serial };
                let change = Change {
                    added: batch.lines.len() as u64,
                    removed: &batch.removed,
                    pending: &batch.pending,
                    last_seq: batch.last_seq,
                    has_unlogged_removal: batch.has_unlogged_removal,
                };
                change.apply_to(&mut version.applied, position);
            }
            segment.add(batch.lines.iter().map(|line| (line.seq, line.at)), batch.bytes);
        }
        if segment.end() < begin {
            return Err(broken(&name, segment.end()));
        }
        Ok(())
    }

    /// Looks at what is behind the last batch that is whole in the last segment. Behind those of others there may be an index, and
    /// whether they are complete the head of the next one says.
    fn check_rest(&self, segment: &Segment<D::File>) -> Result<(), StoreError> {
        if self.mode == Mode::ReadBeside {
            // Batches come meanwhile.
            return Ok(());
        }
        let (name, end) = (segment.name(), segment.end());
        let failed = |error: std::io::Error| store_error(&name, &error);
        let bytes = segment.file.bytes().saturating_sub(end) as usize;
        let rest = segment.file.read(end, bytes).map_err(failed)?;
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        // At most one batch is written without having been synced.
        if rest.get(8..).is_some_and(batch::has_batch) {
            return Err(broken(&name, end));
        }
        drop(rest);
        if self.mode == Mode::Write {
            tracing::warn!("{name}: a batch at its end was not finished, and is cut off");
            segment.file.clear_from(end).and_then(|()| segment.file.sync()).map_err(failed)?;
        }
        Ok(())
    }
}

/// What to do if a new database does not fit.
fn with_advice(error: StoreError) -> StoreError {
    match error {
        StoreError::Full(what) => StoreError::Full(format!(
            "{what}; a new database on files needs some 250 MB, one of store.engine = \"lmdb\" less, in a folder without the manifest that was begun"
        )),
        error => error,
    }
}

fn broken(name: &str, at: u64) -> StoreError {
    StoreError::Corrupt(format!("{name}: the batch at byte {at} is broken"))
}

/// What a batch changes, but for events and keys.
pub(super) struct Change<'a> {
    pub(super) added: u64,
    pub(super) removed: &'a [Seq],
    pub(super) pending: &'a [(Seq, bool)],
    pub(super) last_seq: Seq,
    pub(super) has_unlogged_removal: bool,
}

impl Change<'_> {
    pub(super) fn apply_to(&self, applied: &mut Applied, position: Position) {
        applied.position = position;
        applied.last_seq = applied.last_seq.max(self.last_seq);
        applied.unlogged_removals += u64::from(self.has_unlogged_removal);
        // Those that were pending removal had been taken off before. What is added comes first: a batch may remove more events than
        // are not pending removal.
        let pending = self.pending.iter().filter(|(_, is_pending)| *is_pending).count() as u64;
        let not_any_more = self.pending.len() as u64 - pending;
        applied.events =
            (applied.events + self.added + not_any_more).saturating_sub(self.removed.len() as u64 + pending);
        if !self.removed.is_empty() {
            let removed: &mut RemovedSeqs = Arc::make_mut(&mut applied.removed);
            let changed = removed.adding(self.removed);
            removed.commit(changed);
        }
        if !self.pending.is_empty() {
            let pending: &mut PendingRemovals = Arc::make_mut(&mut applied.pending_removal);
            for (seq, is_pending) in self.pending {
                pending.set(*seq, *is_pending);
            }
        }
    }
}

/// Removes files that nothing names. It does not matter if that fails.
fn remove_leftovers<D: Disk>(disk: &D, names: &[String], manifest: &Manifest<D::File>, state: &State) {
    let is_leftover = |name: &&String| {
        if let Some(number) = manifest::parse_name(name) {
            return number != manifest.number() && !manifest.is_broken();
        }
        let Some((number, generation)) = segment::parse_name(name) else { return false };
        match state.segments.get(&number) {
            Some(entry) => entry.generation != generation,
            None => number < state.flushed.position.segment || generation > 0,
        }
    };
    for name in names.iter().filter(is_leftover) {
        let _ = disk.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: with fewer events than were removed, those that had been pending removal were counted again.
    #[test]
    fn events_that_were_pending_removal_are_taken_off_once() {
        let mut applied = Applied { events: 1, ..Applied::default() };
        let removed: Vec<Seq> = (1..=18).map(Seq).collect();
        let pending: Vec<(Seq, bool)> = removed.iter().map(|seq| (*seq, false)).collect();
        let change = Change {
            added: 0,
            removed: &removed,
            pending: &pending,
            last_seq: Seq(19),
            has_unlogged_removal: false,
        };
        change.apply_to(&mut applied, Position::default());
        assert_eq!(applied.events, 1);
    }
}
