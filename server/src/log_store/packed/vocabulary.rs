//! What the events of a segment have in common: strings, and values of 32 bytes such as public keys and ids.
//!
//! Only what events of several authors mention gets into it: when events are removed, what is left of them is nothing that was theirs
//! alone. When the segment is written again, values that none of its events mentions any more are zeroed; the dictionary stays.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use relay_engine::store::StoreError;

use super::super::codec;
use super::super::disk::{DiskFile, store_error};
use super::dictionary::{self, DICTIONARY_BYTES_MAX, TEXT_BYTES_MAX};
use super::event::{self, Parts, Shared, VALUE_BYTES, Value};

const DICTIONARY_MAGIC: [u8; 4] = *b"\xffdic";
const VALUES_MAGIC: [u8; 4] = *b"\xffval";
/// Authors whose events must mention a value.
const AUTHORS_MIN: usize = 3;
/// Events that the dictionary is made from, about.
const SAMPLES: usize = 2_000;
/// Bytes of their texts. If they have more, every second one is let go.
const SAMPLES_BYTES_MAX: usize = 1 << 20;
/// Different values that are counted. Those that come later stay in their events.
const VALUES_MAX: usize = 1 << 18;

/// How much there is, as the head of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Sizes {
    pub(in super::super) dictionary_bytes: u32,
    pub(in super::super) values: u32,
}

/// A vocabulary in memory.
#[derive(Debug, Default)]
pub(in super::super) struct Vocabulary {
    dictionary: Vec<u8>,
    /// One after the other.
    values: Vec<u8>,
}

impl Vocabulary {
    pub(in super::super) fn sizes(&self) -> Sizes {
        let (dictionary, values) = (self.dictionary.len(), self.values.len() / VALUE_BYTES);
        Sizes { dictionary_bytes: dictionary as u32, values: values as u32 }
    }

    /// As it is in a file.
    pub(in super::super) fn frames(&self) -> Vec<u8> {
        let mut frames = codec::frame(DICTIONARY_MAGIC, &self.dictionary);
        frames.extend(codec::frame(VALUES_MAGIC, &self.values));
        frames
    }

    /// That of a file, of which `bytes` are what follows its head: broken or not, as far as it goes.
    pub(in super::super) fn salvaged(bytes: &[u8], sizes: Sizes) -> Self {
        let part = |at: usize, len: usize| {
            let rest = bytes.get(at..).unwrap_or_default();
            rest[..len.min(rest.len())].to_vec()
        };
        let dictionary_bytes = sizes.dictionary_bytes as usize;
        let values_at = codec::frame_bytes(dictionary_bytes) + codec::HEAD_BYTES;
        let values = part(values_at, sizes.values as usize * VALUE_BYTES);
        Vocabulary { dictionary: part(codec::HEAD_BYTES, dictionary_bytes), values }
    }

    /// Without the values that none of these packed events mentions.
    pub(in super::super) fn of_those<'a>(mut self, packed: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut mentioned = vec![false; self.values.len() / VALUE_BYTES];
        for number in packed.flat_map(event::numbers) {
            if let Some(mentioned) = mentioned.get_mut(number) {
                *mentioned = true;
            }
        }
        let values = self.values.chunks_mut(VALUE_BYTES).zip(mentioned);
        values.filter(|(_, is_mentioned)| !is_mentioned).for_each(|(value, _)| value.fill(0));
        self
    }
}

impl Shared for Vocabulary {
    fn dictionary(&self) -> Result<&[u8], StoreError> {
        Ok(&self.dictionary)
    }

    fn value(&self, number: usize) -> Result<Cow<'_, [u8]>, StoreError> {
        let at = number.saturating_mul(VALUE_BYTES);
        let value = self.values.get(at..).and_then(|rest| rest.get(..VALUE_BYTES));
        Ok(Cow::Borrowed(value.unwrap_or_default()))
    }
}

/// The sizes of a vocabulary whose frames `bytes` begin with, as far as their heads are whole.
pub(in super::super) fn sizes_of_frames(bytes: &[u8]) -> Option<Sizes> {
    let dictionary_bytes = codec::frame_length(DICTIONARY_MAGIC, bytes)?;
    let values = codec::frame_length(VALUES_MAGIC, bytes.get(codec::frame_bytes(dictionary_bytes)..)?)?;
    Some(Sizes { dictionary_bytes: dictionary_bytes as u32, values: (values / VALUE_BYTES) as u32 })
}

/// Where a vocabulary is in a file.
#[derive(Debug)]
pub(in super::super) struct Places {
    dictionary_at: u64,
    values_at: u64,
    sizes: Sizes,
    /// Where the batches begin.
    pub(in super::super) end: u64,
    /// The dictionary, where files are not mapped.
    kept: OnceLock<Vec<u8>>,
}

impl Places {
    /// With frames from `at` on.
    pub(in super::super) fn new(at: u64, sizes: Sizes) -> Self {
        let head = codec::HEAD_BYTES as u64;
        let values_frame = at + codec::frame_bytes(sizes.dictionary_bytes as usize) as u64;
        let end = values_frame + codec::frame_bytes(sizes.values as usize * VALUE_BYTES) as u64;
        let kept = OnceLock::new();
        Places { dictionary_at: at + head, values_at: values_frame + head, sizes, end, kept }
    }

    /// Checks the frames. False: they are broken.
    pub(in super::super) fn is_whole(&self, file: &impl DiskFile) -> std::io::Result<bool> {
        let at = self.dictionary_at - codec::HEAD_BYTES as u64;
        if self.end > file.bytes() {
            return Ok(false);
        }
        let bytes = file.read(at, (self.end - at) as usize)?;
        let Some((dictionary, next)) = codec::read_frame(DICTIONARY_MAGIC, &bytes) else { return Ok(false) };
        let values = bytes.get(next..).and_then(|rest| codec::read_frame(VALUES_MAGIC, rest));
        let Sizes { dictionary_bytes, values: count } = self.sizes;
        Ok(dictionary.len() == dictionary_bytes as usize
            && values.is_some_and(|(values, _)| values.len() == count as usize * VALUE_BYTES))
    }

    /// All of it that is in the file, in memory.
    pub(in super::super) fn load(&self, file: &impl DiskFile) -> std::io::Result<Vocabulary> {
        let at = self.dictionary_at - codec::HEAD_BYTES as u64;
        let end = self.end.min(file.bytes()).max(at);
        Ok(Vocabulary::salvaged(&file.read(at, (end - at) as usize)?, self.sizes))
    }
}

/// A vocabulary in a file.
pub(in super::super) struct InFile<'a, F> {
    pub(in super::super) places: &'a Places,
    pub(in super::super) file: &'a F,
}

impl<F: DiskFile> Shared for InFile<'_, F> {
    fn dictionary(&self) -> Result<&[u8], StoreError> {
        if let Some(kept) = self.places.kept.get() {
            return Ok(kept);
        }
        let read = self.file.read(self.places.dictionary_at, self.places.sizes.dictionary_bytes as usize);
        match read.map_err(|error| store_error("a dictionary of the log", &error))? {
            Cow::Borrowed(bytes) => Ok(bytes),
            Cow::Owned(bytes) => Ok(self.places.kept.get_or_init(|| bytes)),
        }
    }

    fn value(&self, number: usize) -> Result<Cow<'_, [u8]>, StoreError> {
        if number >= self.places.sizes.values as usize {
            return Ok(Cow::Borrowed(&[]));
        }
        let at = self.places.values_at + (number * VALUE_BYTES) as u64;
        self.file.read(at, VALUE_BYTES).map_err(|error| store_error("a value of the log", &error))
    }
}

/// Who mentions a value, and how often.
#[derive(Default)]
struct Mentions {
    times: u32,
    authors: Vec<u32>,
}

/// Finds out what events have in common.
#[derive(Default)]
pub(in super::super) struct Gatherer {
    values: HashMap<Value, Mentions>,
    /// Authors, numbered.
    authors: HashMap<Value, u32>,
    samples: Vec<(Value, Vec<u8>)>,
    /// Bytes of their texts.
    sampled_bytes: usize,
    /// Of so many events one is a sample.
    every: usize,
    events: usize,
}

impl Gatherer {
    /// For so many events.
    pub(in super::super) fn new(events: u64) -> Self {
        let every = (events as usize).div_ceil(SAMPLES).max(1);
        Gatherer { every, ..Gatherer::default() }
    }

    pub(in super::super) fn add(&mut self, json: &[u8]) {
        let Some(Parts { values, mut text, .. }) = Parts::of(json) else { return };
        let known = self.authors.len() as u32;
        let author = *self.authors.entry(values[0]).or_insert(known);
        for value in &values {
            let is_full = self.values.len() >= VALUES_MAX;
            let Mentions { times, authors } = match self.values.get_mut(value) {
                Some(mentions) => mentions,
                None if is_full => continue,
                None => self.values.entry(*value).or_default(),
            };
            *times += 1;
            if authors.len() < AUTHORS_MIN && !authors.contains(&author) {
                authors.push(author);
            }
        }
        if self.events.is_multiple_of(self.every) {
            text.truncate(TEXT_BYTES_MAX);
            text.shrink_to_fit();
            self.sampled_bytes += text.len();
            self.samples.push((values[0], text));
            if self.sampled_bytes > SAMPLES_BYTES_MAX {
                let mut is_kept = false;
                self.samples.retain(|_| {
                    is_kept = !is_kept;
                    is_kept
                });
                self.every *= 2;
                self.sampled_bytes = self.samples.iter().map(|(_, text)| text.len()).sum();
            }
        }
        self.events += 1;
    }

    /// What packs these events.
    pub(in super::super) fn finish(self) -> Packer {
        let samples = self.samples.iter().map(|(author, text)| (&author[..], &text[..])).collect();
        let dictionary = dictionary::train(samples);
        debug_assert!(dictionary.len() <= DICTIONARY_BYTES_MAX);
        let shared = self.values.into_iter().filter(|(_, mentions)| mentions.authors.len() >= AUTHORS_MIN);
        let mut values: Vec<(u32, Value)> = shared.map(|(value, mentions)| (mentions.times, value)).collect();
        // Small numbers are short.
        values.sort_unstable_by(|a, b| b.cmp(a));
        let numbers = values.iter().zip(0..).map(|((_, value), number)| (*value, number)).collect();
        let values = values.into_iter().flat_map(|(_, value)| value).collect();
        Packer { vocabulary: Vocabulary { dictionary, values }, numbers }
    }
}

/// Packs the events that a [`Gatherer`] has seen.
pub(in super::super) struct Packer {
    pub(in super::super) vocabulary: Vocabulary,
    numbers: HashMap<Value, u32>,
}

impl Packer {
    /// The packed event of each JSON; `None` where it stays as it is.
    pub(in super::super) fn pack<'a>(&self, jsons: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Vec<u8>>> {
        let number_of = |value: &Value| self.numbers.get(value).copied();
        let pack = |json: &[u8]| {
            let packed = Parts::of(json)?.pack(number_of, &self.vocabulary.dictionary);
            let is_same =
                event::unpack(&packed, &self.vocabulary).is_ok_and(|read| read.as_deref() == Some(json));
            (is_same && packed.len() < json.len()).then_some(packed)
        };
        jsons.map(pack).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: events with many different values and long texts took memory for all of them.
    #[test]
    fn what_is_gathered_takes_no_more_than_may_be() {
        let events = SAMPLES as u64;
        let mut gatherer = Gatherer::new(events);
        for n in 0..events {
            let tags: Vec<String> =
                (0..150).map(|tag| format!(r#"["e","{:064x}"]"#, (n * 150 + tag) << 40)).collect();
            let author = format!("{:064x}", n % 20);
            let (tags, content, sig) = (tags.join(","), "text ".repeat(900), "5".repeat(128));
            let json = format!(
                r#"{{"id":"{n:064x}","pubkey":"{author}","created_at":{n},"kind":1,"tags":[{tags}],"content":"{content}","sig":"{sig}"}}"#
            );
            gatherer.add(json.as_bytes());
        }
        assert_eq!(gatherer.values.len(), VALUES_MAX);
        let bytes: Vec<usize> = gatherer.samples.iter().map(|(_, text)| text.capacity()).collect();
        assert!(bytes.iter().all(|bytes| *bytes <= TEXT_BYTES_MAX));
        assert!((SAMPLES_BYTES_MAX / 2..=SAMPLES_BYTES_MAX).contains(&bytes.iter().sum()), "{bytes:?}");
        // From the first to the last.
        assert_eq!(gatherer.samples.len(), 500);
        let packer = gatherer.finish();
        assert_eq!(packer.vocabulary.values.len(), 0);
    }
}
