//! The manifest: which pages and segments there are, and up to where the log is in the pages.
//!
//! ```text
//! manifest-<n>    frame("\xffman", head)  frame("\xffedt", edit)*  zeros       the first edit is all there is, the others change it
//! head            version:4  database:16  bytes of a slot:4  slots of a file:4
//! ```
//!
//! An edit is durable before anything that it makes free is used for something else. When the edits have become longer than
//! what they began with, or one could not be written, all there is is written as the next manifest, and then the old one is
//! removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use relay_engine::store::kv::{PendingRemovalRow, PendingRemovals};
use relay_engine::store::lsm::{ChangedBits, Directory, Merge, PageId, PageRef, RemovedSeqs, RunId};
use relay_engine::store::{Seq, StoreError};

use super::codec::{self, Decoder, Encoder};
use super::disk::{Disk, DiskFile, store_error};
use super::page_files::Slots;

const HEAD_MAGIC: [u8; 4] = *b"\xffman";
const EDIT_MAGIC: [u8; 4] = *b"\xffedt";
/// Another version is refused.
const VERSION: usize = 3;
/// The oldest version that is read, and written anew as this one: 1 knew nothing of bodies that are overwritten, nor of sparse indices, 2
/// nothing of packed segments.
const OLDEST_VERSION: usize = 1;

/// A segment that the manifest knows: its batches are in the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentEntry {
    pub(super) generation: u32,
    pub(super) first_seq: u64,
    /// How many numbers its index is of.
    pub(super) numbers: u32,
    /// Where its batches end.
    pub(super) end: u64,
}

/// Where the log goes on after what is in the pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment. The manifest lists those before it.
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// The serial of the last batch before it.
    pub(super) serial: u64,
}

/// What the batches before a [`Position`] have made, but for events and keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub(super) position: Position,
    pub(super) last_seq: Seq,
    /// Events stored, without those pending removal.
    pub(super) events: u64,
    pub(super) unlogged_removals: u64,
    pub(super) removed: Arc<RemovedSeqs>,
    pub(super) pending_removal: Arc<PendingRemovals>,
}

/// A change of the manifest.
#[derive(Default)]
pub(super) struct Edit<'a> {
    pub(super) removed_pages: &'a [PageId],
    pub(super) added_pages: &'a [(RunId, PageRef)],
    /// Merges that have come further, and whether they are done.
    pub(super) merges: Vec<(Merge, bool)>,
    /// What has been flushed, and which rows of removed events that changes.
    pub(super) flushed: Option<(&'a Applied, ChangedBits)>,
    /// Segments that are new, have been cleaned, or have been removed (`None`).
    pub(super) segments: Vec<(u64, Option<SegmentEntry>)>,
    /// Rows of removed events whose bodies have been overwritten.
    pub(super) blanked: ChangedBits,
}

/// All that the manifest says.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) directory: Directory,
    pub(super) flushed: Applied,
    pub(super) segments: BTreeMap<u64, SegmentEntry>,
    /// Removed events whose bodies have been overwritten.
    pub(super) blanked: RemovedSeqs,
}

/// What is fixed when a database is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) database: [u8; 16],
    pub(super) slots: Slots,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.u32(VERSION);
        encoder.0.extend(self.database);
        encoder.u32(self.slots.bytes as usize);
        encoder.u32(self.slots.of_file as usize);
        encoder.0
    }

    /// Also whether it is of this version.
    fn decode(bytes: &[u8]) -> Result<(Self, bool), StoreError> {
        let mut decoder = Decoder(bytes);
        let version = decoder.u32().unwrap_or(0);
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(StoreError::Failed(format!(
                "the database has format version {version}; this version of the relay reads versions \
                 {OLDEST_VERSION} to {VERSION}"
            )));
        }
        let mut read = || {
            let database = decoder.take(16)?.try_into().ok()?;
            let (bytes, of_file) = (decoder.u32()? as u32, decoder.u32()? as u32);
            (of_file > 0).then_some(Head { database, slots: Slots { bytes, of_file } })
        };
        let head = read();
        head.map(|head| (head, version == VERSION))
            .ok_or_else(|| StoreError::Corrupt("the head of the manifest is malformed".into()))
    }
}

impl Edit<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u32(self.removed_pages.len());
        self.removed_pages.iter().for_each(|id| out.u64(id.0.cast_unsigned()));
        out.u32(self.added_pages.len());
        for (run, page) in self.added_pages {
            encode_run(&mut out, *run);
            out.u64(page.id.0.cast_unsigned());
            out.u64(page.newest);
            out.key(&page.first);
            out.key(&page.last);
            out.bytes(&page.filter);
        }
        out.u32(self.merges.len());
        for (merge, is_done) in &self.merges {
            out.u16(merge.level);
            out.u16(usize::from(*is_done));
            encode_run(&mut out, merge.into);
            out.key(&merge.from);
            out.u32(merge.runs.len());
            merge.runs.iter().for_each(|run| out.u64(run.cast_unsigned()));
        }
        out.u32(usize::from(self.flushed.is_some()));
        if let Some((flushed, removed)) = &self.flushed {
            let Applied { position, last_seq, events, unlogged_removals, pending_removal, .. } = flushed;
            let Position { segment, offset, serial } = *position;
            for value in [segment, offset, serial, last_seq.0, *events, *unlogged_removals] {
                out.u64(value);
            }
            out.u32(removed.rows().count());
            for (number, bits) in removed.rows() {
                out.u64(number);
                out.bytes(bits);
            }
            out.u32(pending_removal.rows().count());
            for (number, row) in pending_removal.rows() {
                out.u64(number);
                out.bytes(row.as_bytes());
            }
        }
        out.u32(self.segments.len());
        for (number, entry) in &self.segments {
            out.u64(*number);
            out.u16(usize::from(entry.is_some()));
            if let Some(SegmentEntry { generation, first_seq, numbers, end }) = entry {
                out.u32(*generation as usize);
                out.u64(*first_seq);
                out.u32(*numbers as usize);
                out.u64(*end);
            }
        }
        out.u32(self.blanked.rows().count());
        for (number, bits) in self.blanked.rows() {
            out.u64(number);
            out.bytes(bits);
        }
        out.0
    }
}

fn encode_run(out: &mut Encoder, run: RunId) {
    out.u16(run.level);
    out.u64(run.run.cast_unsigned());
}

fn decode_run(from: &mut Decoder<'_>) -> Option<RunId> {
    Some(RunId { level: from.u16()?, run: from.u64()?.cast_signed() })
}

impl State {
    /// Applies an edit as it is stored; `None` if it is malformed.
    fn apply(&mut self, edit: &[u8]) -> Option<()> {
        let mut from = Decoder(edit);
        let removed = from.list(|from| Some(PageId(from.u64()?.cast_signed())))?;
        self.directory.remove(&removed);
        let added = from.list(|from| {
            let run = decode_run(from)?;
            let (id, newest) = (PageId(from.u64()?.cast_signed()), from.u64()?);
            let (first, last, filter) = (from.key()?, from.key()?, from.bytes()?.into());
            // Which events they are of, the end of the manifest bounds.
            let (postings, seqs) = (None, Seq(0)..=Seq(u64::MAX));
            Some((run, PageRef { id, first, last, filter, newest, postings, seqs }))
        })?;
        self.directory.insert_all(added);
        let merges = from.list(|from| {
            let (level, is_done) = (from.u16()?, from.u16()? == 1);
            let (into, key) = (decode_run(from)?, from.key()?);
            let runs = from.list(|from| Some(from.u64()?.cast_signed()))?;
            Some((Merge { level, runs, into, from: key }, is_done))
        })?;
        merges.into_iter().for_each(|(merge, is_done)| self.directory.set_merge(merge, is_done));
        if from.u32()? == 1 {
            let (segment, offset, serial) = (from.u64()?, from.u64()?, from.u64()?);
            self.flushed.position = Position { segment, offset, serial };
            self.flushed.last_seq = Seq(from.u64()?);
            (self.flushed.events, self.flushed.unlogged_removals) = (from.u64()?, from.u64()?);
            for (number, bits) in from.list(|from| Some((from.u64()?, from.bytes()?)))? {
                Arc::make_mut(&mut self.flushed.removed).put_row(number, bits).ok()?;
            }
            let mut pending_removal = PendingRemovals::default();
            for (number, row) in from.list(|from| Some((from.u64()?, from.bytes()?)))? {
                pending_removal.put_row(number, PendingRemovalRow::read(row).ok()?);
            }
            self.flushed.pending_removal = Arc::new(pending_removal);
        }
        let segments = from.list(|from| {
            let (number, is_there) = (from.u64()?, from.u16()? == 1);
            let entry = match is_there {
                true => Some(SegmentEntry {
                    generation: from.u32()? as u32,
                    first_seq: from.u64()?,
                    numbers: from.u32()? as u32,
                    end: from.u64()?,
                }),
                false => None,
            };
            Some((number, entry))
        })?;
        for (number, entry) in segments {
            match entry {
                Some(entry) => drop(self.segments.insert(number, entry)),
                None => drop(self.segments.remove(&number)),
            }
        }
        // Edits of version 1 end here.
        if !from.0.is_empty() {
            for (number, bits) in from.list(|from| Some((from.u64()?, from.bytes()?)))? {
                self.blanked.put_row(number, bits).ok()?;
            }
        }
        from.0.is_empty().then_some(())
    }

    /// All there is, as one edit.
    fn encode(&self) -> Vec<u8> {
        let pages: Vec<(RunId, PageRef)> = self
            .directory
            .runs()
            .flat_map(|run| run.pages.iter().map(|page| (run.id, page.clone())))
            .collect();
        Edit {
            added_pages: &pages,
            merges: self.directory.merges().iter().map(|merge| (merge.clone(), false)).collect(),
            flushed: Some((&self.flushed, self.flushed.removed.changed_since(&RemovedSeqs::default()))),
            segments: self.segments.iter().map(|(number, entry)| (*number, Some(*entry))).collect(),
            blanked: self.blanked.changed_since(&RemovedSeqs::default()),
            ..Edit::default()
        }
        .encode()
    }
}

/// The name of a manifest.
fn name(number: u64) -> String {
    format!("manifest-{number:08}")
}

/// The number in a manifest's name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix("manifest-")?.parse().ok()
}

/// The manifest's file.
#[derive(Debug)]
pub(super) struct Manifest<F> {
    head: Head,
    number: u64,
    file: F,
    /// Bytes of the head and the first edit, and of all.
    first_bytes: u64,
    end: u64,
    /// Bytes that edits may always have.
    edits_bytes: u64,
    /// Whether the last edit could not be written: what is on the disk is unknown, and all must be written anew.
    is_broken: bool,
}

/// A manifest and what it says.
pub(super) struct Opened<F> {
    pub(super) manifest: Manifest<F>,
    pub(super) state: State,
}

impl<F: DiskFile> Manifest<F> {
    /// Writes the first manifest of a new database, or all there is as the next one, durably, with space for as many edits as it
    /// may have.
    pub(super) fn create<D: Disk<File = F>>(
        disk: &D,
        head: Head,
        number: u64,
        state: &State,
        edits_bytes: u64,
    ) -> Result<Self, StoreError> {
        let name = name(number);
        let failed = |error| store_error(&name, &error);
        let mut bytes = codec::frame(HEAD_MAGIC, &head.encode());
        bytes.extend(codec::frame(EDIT_MAGIC, &state.encode()));
        let first_bytes = bytes.len() as u64;
        let wanted = first_bytes + edits_bytes.max(first_bytes);
        // On a disk without so much space, edits must find it when they come.
        let file = disk.create(&name, wanted).or_else(|_| disk.create(&name, first_bytes)).map_err(failed)?;
        file.write(0, &bytes).and_then(|()| file.sync()).and_then(|()| disk.sync()).map_err(failed)?;
        Ok(Manifest { head, number, file, first_bytes, end: first_bytes, edits_bytes, is_broken: false })
    }

    /// Reads one; `None` if it was not finished. An edit at the end that is not whole was never made; before another, all is written anew.
    pub(super) fn open<D: Disk<File = F>>(
        disk: &D,
        number: u64,
        edits_bytes: u64,
    ) -> Result<Option<Opened<F>>, StoreError> {
        let name = name(number);
        let failed = |error| store_error(&name, &error);
        let file = disk.open(&name).map_err(failed)?;
        let bytes = file.read(0, usize::try_from(file.bytes()).unwrap_or(usize::MAX)).map_err(failed)?;
        let Some((head, mut end)) = codec::read_frame(HEAD_MAGIC, &bytes) else {
            return Ok(None);
        };
        let (head, is_current) = Head::decode(head)?;
        let (mut state, mut first_bytes) = (State::default(), 0);
        while let Some((edit, frame)) = bytes.get(end..).and_then(|rest| codec::read_frame(EDIT_MAGIC, rest))
        {
            state
                .apply(edit)
                .ok_or_else(|| StoreError::Corrupt(format!("{name}: the edit at byte {end} is malformed")))?;
            end = (end + frame).min(bytes.len());
            if first_bytes == 0 {
                first_bytes = end as u64;
            }
        }
        if first_bytes == 0 {
            return Ok(None);
        }
        let rest = bytes.get(end..).unwrap_or_default();
        if rest.get(8..).is_some_and(|rest| codec::has_frame(EDIT_MAGIC, rest)) {
            return Err(StoreError::Corrupt(format!("{name}: the edit at byte {end} is broken")));
        }
        let is_torn = rest.iter().any(|byte| *byte != 0);
        drop(bytes);
        state.directory.bound_seqs(state.flushed.last_seq);
        let (end, is_broken) = (end as u64, is_torn || !is_current);
        let manifest = Manifest { head, number, file, first_bytes, end, edits_bytes, is_broken };
        Ok(Some(Opened { manifest, state }))
    }

    /// Makes durable what was read: the process that wrote it may have ended before it did.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync().map_err(|error| store_error(&name(self.number), &error))
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether all should be written anew.
    pub(super) fn is_long(&self) -> bool {
        self.is_broken || self.end - self.first_bytes > self.first_bytes.max(self.edits_bytes)
    }

    /// Whether an edit could not be written, or not be read.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Adds an edit, durably. After an error it may be there or not, and [`Manifest::replace`] must come first.
    pub(super) fn append(&mut self, edit: &Edit<'_>) -> Result<(), StoreError> {
        debug_assert!(!self.is_broken);
        let bytes = codec::frame(EDIT_MAGIC, &edit.encode());
        self.is_broken = true;
        let written = self.file.write(self.end, &bytes).and_then(|()| self.file.sync());
        written.map_err(|error| store_error(&name(self.number), &error))?;
        self.is_broken = false;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Writes all there is as the next manifest and removes this one.
    pub(super) fn replace<D: Disk<File = F>>(&mut self, disk: &D, state: &State) -> Result<(), StoreError> {
        // If this fails midway, the next one may be there, and edits of this one would be lost.
        self.is_broken = true;
        let next = Manifest::create(disk, self.head, self.number + 1, state, self.edits_bytes)?;
        let old = std::mem::replace(self, next);
        // If the new one were damaged later, the old one must not be taken for what there is.
        self.is_broken = true;
        let old_ones = |found: &String| parse_name(found).is_some_and(|number| number <= old.number);
        let names = disk.list().map_err(|error| store_error("the folder", &error))?;
        let removed = names.iter().filter(|name| old_ones(name)).try_for_each(|name| disk.remove(name));
        removed.and_then(|()| disk.sync()).map_err(|error| store_error(&name(old.number), &error))?;
        self.is_broken = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::Folder;
    use super::*;
    use relay_engine::store::kv::Key;
    use relay_engine::store::lsm::{Filtered, paginate};

    fn key(n: u64) -> Key {
        Key::read(&[b"i", &n.to_be_bytes().repeat(4)[..], &n.to_be_bytes()].concat()).expect("short")
    }

    fn some_state() -> State {
        let mut state = State::default();
        let keys: Vec<Key> = (1..=40).map(key).collect();
        let mut pages = Vec::new();
        paginate(&keys, RunId { level: 1, run: 3 }, 500, Filtered::HashesAndHeads, &mut pages);
        assert!(pages.len() > 2);
        let pages = pages.iter().zip(0..).map(|(page, id)| (page.run, page.page_ref(PageId(id))));
        state.directory.insert_all(pages);
        let merge = Merge { level: 1, runs: vec![3], into: RunId { level: 2, run: 1 }, from: key(7) };
        state.directory.set_merge(merge, false);
        state.flushed.position = Position { segment: 2, offset: 640, serial: 12 };
        (state.flushed.last_seq, state.flushed.events) = (Seq(40), 38);
        let removed = Arc::make_mut(&mut state.flushed.removed);
        let changed = removed.adding(&[Seq(3), Seq(9)]);
        removed.commit(changed);
        let entry = SegmentEntry { generation: 1, first_seq: 1, numbers: 30, end: 9_000 };
        state.segments.insert(1, entry);
        state
    }

    fn assert_same(found: &State, expected: &State) {
        let pages = |state: &State| -> Vec<_> {
            let of_run = |run: &relay_engine::store::lsm::Run| {
                let pages = run.pages.iter();
                let page =
                    |page: &PageRef| (page.id, page.first, page.last, page.filter.clone(), page.newest);
                (run.id, run.from, run.newest, pages.map(page).collect::<Vec<_>>())
            };
            state.directory.runs().map(of_run).collect()
        };
        assert_eq!(pages(found), pages(expected));
        assert_eq!(found.directory.merges(), expected.directory.merges());
        assert_eq!(found.segments, expected.segments);
        let flushed = |state: &State| {
            let Applied { position, last_seq, events, unlogged_removals, removed, .. } = &state.flushed;
            let removed = removed.missing_in(&RemovedSeqs::default(), 9);
            (*position, *last_seq, *events, *unlogged_removals, removed)
        };
        assert_eq!(flushed(found), flushed(expected));
    }

    const HEAD: Head = Head { database: [7; 16], slots: Slots { bytes: 512, of_file: 16 } };

    /// Writes a manifest of an earlier or later version with what [`some_state`] has.
    fn write(disk: &Folder, version: u32) {
        let mut bytes = HEAD.encode();
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        let mut bytes = codec::frame(HEAD_MAGIC, &bytes);
        let edit = some_state().encode();
        // An edit of version 1 ended before the rows of bodies that are overwritten; there are none.
        let end = edit.len() - if version == 1 { 4 } else { 0 };
        bytes.extend(codec::frame(EDIT_MAGIC, &edit[..end]));
        let file = disk.create(&name(1), bytes.len() as u64 + 64).expect("creates");
        file.write(0, &bytes).and_then(|()| file.sync()).expect("writes");
    }

    #[test]
    fn a_manifest_of_a_later_version_is_refused() {
        let path = tempfile::tempdir().expect("a folder");
        let disk = Folder::lock(path.path()).expect("locks");
        write(&disk, 4);
        let Err(error) = Manifest::open(&disk, 1, 1_000) else { panic!("it was read") };
        assert!(
            error.to_string().contains("format version 4; this version of the relay reads versions 1 to 3"),
            "{error}"
        );
    }

    #[test]
    fn manifests_of_versions_1_and_2_are_read_and_written_anew() {
        (1..=2).for_each(check_earlier_version);
    }

    fn check_earlier_version(version: u32) {
        let path = tempfile::tempdir().expect("a folder");
        let disk = Folder::lock(path.path()).expect("locks");
        write(&disk, version);
        let (expected, head) = (some_state(), HEAD);
        let Opened { mut manifest, state } = Manifest::open(&disk, 1, 1_000).expect("opens").expect("whole");
        assert_eq!(manifest.head(), head);
        assert_same(&state, &expected);
        assert!(manifest.is_broken(), "an edit of this version must not follow those of another");

        manifest.replace(&disk, &state).expect("writes");
        let Opened { manifest, state } = Manifest::open(&disk, 2, 1_000).expect("opens").expect("whole");
        assert_same(&state, &expected);
        assert!(!manifest.is_broken());
        assert_eq!(disk.list().expect("lists").iter().filter(|name| parse_name(name).is_some()).count(), 1);
    }
}
