//! Salvages the events of a broken database: they are read from the segments alone, even if manifest, pages, indices and heads are lost. Nothing
//! is written.
//!
//! Each event has a checksum of its own, so it counts alone. Where the vocabulary of a packed segment is broken, so are the events that
//! need what is broken of it. Removed ones stay away: the newest manifest that can be read and the
//! batches that are whole name them, and their bodies are overwritten soon after. Where all of these are lost, an event
//! may come back that was removed a moment before.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use relay_engine::store::lsm::RemovedSeqs;
use relay_engine::store::{Seq, StoreError};

use super::batch::{self, Batch, Line};
use super::disk::{Disk, DiskFile, store_error};
use super::folder::Folder;
use super::manifest::{self, Manifest};
use super::open_error::LogOpenError;
use super::options::LogOptions;
use super::packed::{Places, Vocabulary};
use super::{offsets, packed, segment};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// How many events were salvaged: those that are whole and not removed.
    pub events: u64,
    /// What is broken: files, and where in them.
    pub damage: Vec<String>,
}

/// Gives the JSON of each event in folder `path` that is whole to `take`, in the order of the log.
///
/// # Errors
/// [`LogOpenError`] if the folder can't be read, and what `take` fails with.
pub fn salvage<E: From<LogOpenError>>(
    path: &Path,
    take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Salvaged, E> {
    if !path.is_dir() {
        return Err(LogOpenError::NoDatabase(path.to_owned()).into());
    }
    let folder = Folder::lock_to_read(path).map_err(|error| LogOpenError::lock(path, error))?;
    if folder.is_beside_writer() {
        return Err(LogOpenError::InUse(path.to_owned()).into());
    }
    let names = folder.list().map_err(|error| LogOpenError::io(path, error))?;
    let mut salvage = Salvage::begin(&folder, &names);
    if salvage.files.is_empty() {
        return Err(LogOpenError::NoDatabase(path.to_owned()).into());
    }
    for (number, generations) in std::mem::take(&mut salvage.files) {
        salvage.read_segment(number, &generations, take)?;
    }
    Ok(salvage.found)
}

struct Salvage<'a, D> {
    disk: &'a D,
    /// The generations of each segment, newest first.
    files: BTreeMap<u64, Vec<u32>>,
    /// Events that the manifest calls removed.
    removed: Arc<RemovedSeqs>,
    /// Events that batches remove.
    removed_later: HashSet<Seq>,
    found: Salvaged,
}

impl<'a, D: Disk> Salvage<'a, D> {
    /// Finds the segments, and what was removed.
    fn begin(disk: &'a D, names: &[String]) -> Self {
        let mut files = BTreeMap::<u64, Vec<u32>>::new();
        for (number, generation) in names.iter().filter_map(|name| segment::parse_name(name)) {
            files.entry(number).or_default().push(generation);
        }
        files
            .values_mut()
            .for_each(|generations| generations.sort_unstable_by_key(|one| std::cmp::Reverse(*one)));
        let found = Salvaged::default();
        let mut salvage =
            Salvage { disk, files, removed: Arc::default(), removed_later: HashSet::new(), found };
        salvage.read_manifest(names);
        for (number, generation) in salvage.all_files() {
            let Ok(file) = salvage.open(number, generation) else { continue };
            let Some(first_seq) = file.first_seq else { continue };
            let removed = &mut salvage.removed_later;
            // Errors are reported when the events of this file are read.
            let _ = file.parts(&mut |part| {
                if let Part::Batch(_, bytes) = part
                    && let Some(batch) = Batch::read(bytes, first_seq)
                {
                    removed.extend(batch.removed);
                }
            });
        }
        salvage
    }

    fn all_files(&self) -> Vec<(u64, u32)> {
        let of = |(number, generations): (&u64, &Vec<u32>)| {
            generations.iter().map(|generation| (*number, *generation)).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of).collect()
    }

    /// What the newest manifest that can be read calls removed.
    fn read_manifest(&mut self, names: &[String]) {
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| manifest::parse_name(name)).collect();
        numbers.sort_unstable();
        let edits_bytes = LogOptions::default().bounded().edits_bytes;
        for number in numbers.into_iter().rev() {
            match Manifest::open(self.disk, number, edits_bytes) {
                Ok(Some(opened)) => {
                    self.removed = opened.state.flushed.removed;
                    return;
                }
                Ok(None) => self.found.damage.push(format!("manifest {number} is not whole")),
                Err(error) => self.found.damage.push(error.to_string()),
            }
        }
        self.found.damage.push("no manifest can be read".to_owned());
    }

    fn open(&self, number: u64, generation: u32) -> Result<File<D::File>, StoreError> {
        let name = segment::name(number, generation);
        let file = self.disk.open(&name).map_err(|error| store_error(&name, &error))?;
        let head = file.read(0, segment::HEAD_BYTES as usize);
        let head = head.ok().and_then(|head| {
            let database = head.get(16..32)?.first_chunk()?;
            segment::read_head(&head, database, number)
        });
        let rest = file.bytes().saturating_sub(segment::HEAD_BYTES) as usize;
        let vocabulary = match head {
            Some(head) => head.packed,
            None => file.read(segment::HEAD_BYTES, rest).ok().and_then(|rest| packed::sizes_of_frames(&rest)),
        };
        let places = vocabulary.map(|sizes| Places::new(segment::HEAD_BYTES, sizes));
        let begin = places.as_ref().map_or(segment::HEAD_BYTES, |places| places.end);
        let salvage = |places: Places| match places.is_whole(&file) {
            Ok(is_whole) => (places.load(&file).unwrap_or_default(), is_whole),
            Err(_) => (Vocabulary::default(), false),
        };
        let (vocabulary, is_whole) = places.map(salvage).unzip();
        let has_broken_vocabulary = is_whole == Some(false);
        Ok(File {
            name,
            first_seq: head.map(|head| head.first_seq),
            begin,
            vocabulary,
            has_broken_vocabulary,
            file,
        })
    }

    /// The events of a segment: of its newest generation, and of others what that lacks.
    fn read_segment<E>(
        &mut self,
        number: u64,
        generations: &[u32],
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut taken, mut result) = (HashSet::new(), Ok(()));
        for generation in generations {
            let file = match self.open(number, *generation) {
                Ok(file) => file,
                Err(error) => {
                    self.found.damage.push(error.to_string());
                    continue;
                }
            };
            let Salvage { removed, removed_later, found, .. } = self;
            if file.first_seq.is_none() {
                found.damage.push(format!(
                    "{}: its head is broken: events that were removed from it may be among the salvaged ones",
                    file.name
                ));
            }
            if file.has_broken_vocabulary {
                found.damage.push(format!("{}: its vocabulary is broken", file.name));
            }
            let mut read = |at: usize, bytes: &[u8]| {
                let is_whole = |line: &Line<'_>| file.json(line).is_some();
                for line in batch::lines(bytes, file.first_seq.unwrap_or(0), &is_whole) {
                    let is_removed = file.first_seq.is_some()
                        && (removed.contains(line.seq) || removed_later.contains(&line.seq));
                    if is_removed || result.is_err() || is_blank(&line) {
                        continue;
                    }
                    match file.json(&line) {
                        None => found.damage.push(format!(
                            "{}: the event at byte {} is broken",
                            file.name,
                            at + line.at
                        )),
                        Some(json) if taken.insert(id_of(&json)) => {
                            found.events += 1;
                            result = take(&json);
                        }
                        Some(_) => {}
                    }
                }
            };
            let mut broken = Vec::new();
            let is_read = file.parts(&mut |part| match part {
                Part::Batch(at, bytes) => {
                    if file.first_seq.is_some_and(|first_seq| Batch::read(bytes, first_seq).is_none()) {
                        broken.push(format!("{}: the batch at byte {at} is broken", file.name));
                    }
                    read(at, bytes);
                }
                Part::Broken(at, bytes) => {
                    broken.push(format!("{}: there is no batch at byte {at}", file.name));
                    read(at, bytes);
                }
            });
            found.damage.append(&mut broken);
            if let Err(error) = is_read {
                found.damage.push(error.to_string());
            }
        }
        result
    }
}

/// The id of an event that is whole: its canonical JSON begins with `{"id":"`. Events are told apart by it, because where the head of a segment is broken
/// their sequence numbers are not known.
fn id_of(json: &[u8]) -> [u8; 32] {
    let mut id = [0; 32];
    if let Some(hex) = json.get(7..71) {
        // If it is not hexadecimal, this is not the JSON of an event. The id stays zero then, so only the first of such bodies is taken.
        let _ = faster_hex::hex_decode(hex, &mut id);
    }
    id
}

/// Whether the body of an event was overwritten.
fn is_blank(line: &Line<'_>) -> bool {
    line.body.iter().all(|byte| *byte == 0)
}

/// A segment's file.
struct File<F> {
    name: String,
    file: F,
    /// `None` if its head is broken.
    first_seq: Option<u64>,
    /// Where the first batch begins.
    begin: u64,
    /// If it is packed; what is there of it.
    vocabulary: Option<Vocabulary>,
    has_broken_vocabulary: bool,
}

/// A part of a segment.
enum Part<'a> {
    /// A batch whose head is whole, and what follows it up to its end.
    Batch(usize, &'a [u8]),
    /// Something else, up to the next batch.
    Broken(usize, &'a [u8]),
}

impl<F: DiskFile> File<F> {
    /// The JSON of a line, if it is whole.
    fn json<'a>(&self, line: &Line<'a>) -> Option<Cow<'a, [u8]>> {
        let json = match &self.vocabulary {
            Some(vocabulary) if !line.body.starts_with(b"{") => {
                Cow::Owned(packed::unpack(line.body, vocabulary).ok().flatten()?)
            }
            _ => Cow::Borrowed(line.body),
        };
        line.is_of(&json).then_some(json)
    }

    /// Calls `take` with each batch and each broken part.
    fn parts(&self, take: &mut dyn FnMut(Part<'_>)) -> Result<(), StoreError> {
        let failed = |error| store_error(&self.name, &error);
        let bytes = usize::try_from(self.file.bytes()).unwrap_or(usize::MAX);
        let bytes = self.file.read(0, bytes).map_err(failed)?;
        let mut at = usize::try_from(self.begin).unwrap_or(usize::MAX);
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.iter().any(|byte| *byte != 0)) {
            at += match (batch::length(rest), offsets::length(rest)) {
                (Some(length), _) => {
                    let length = length.min(rest.len());
                    take(Part::Batch(at, &rest[..length]));
                    length
                }
                (None, Some(length)) => length,
                (None, None) => {
                    let length = rest.get(8..).and_then(batch::find).map_or(rest.len(), |next| next + 8);
                    take(Part::Broken(at, &rest[..length]));
                    length
                }
            };
        }
        Ok(())
    }
}
