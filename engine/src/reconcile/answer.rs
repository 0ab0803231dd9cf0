//! The answer to one message of the Negentropy protocol, which is the crate `negentropy`'s.
//!
//! The crate asks for the items of a range for two purposes: to write their ids into the answer, and to add up their ids
//! for a fingerprint. It does not say which, and its type of fingerprints has no name outside of it, so the sums of a set
//! are passed through the listing. Where the client sends ids, as many items come one by one as fit into an answer, and the
//! crate ends its list before the others, whose sum comes as one item. Where the client sends a fingerprint, the crate lists ranges of
//! less than 32 items only; a longer one comes as one item whose id is the sum, since for a fingerprint only the sum counts.
//! Tests compare every answer with that of the crate's own storage.
//!
//! A message is answered in one call, so its ranges are counted before ([`first_ranges`]), and look-ups meanwhile.

use std::cell::{Cell, RefCell};

use negentropy::{Bound, Error, Id, Negentropy, NegentropyStorageBase};

use super::ranges::{Answered, LOOKUPS_MAX, Mode, TooMany, first_ranges};
use super::{EventSet, Item, StoreError};
use crate::types::EventId;

/// Calls that the crate may make into the set for one message: each range of it takes one to three, each of the 16 parts that a
/// range may be split into two more. An answer of [`SPLIT_BYTES_MAX`] has some 400 ranges that are split, which take 13,000.
pub const CALLS_MAX: usize = 8 * LOOKUPS_MAX;
/// Bytes of the answer to more than some 400 ranges with a fingerprint. Each that is not the relay's is split into 16, which
/// takes 300 bytes and 33 calls, where the ids of an answer take next to nothing.
pub const SPLIT_BYTES_MAX: usize = 125_000;
const SPLITS_MAX: usize = SPLIT_BYTES_MAX / 300;
/// From so many items on, the crate gets only the sum of a range with a fingerprint: it lists ids only of shorter ones.
const FINGERPRINT_SUMMED: usize = 32;
/// Items that are listed or added up for a unit of cost.
const ITEMS_PER_COST: usize = 256;
/// Bytes of a message that are read for a unit of cost. Ranges that skip events take three bytes and no look-up.
const BYTES_PER_COST: usize = 32;

/// What the relay answers, and what that has cost.
#[derive(Debug)]
pub struct Answer {
    /// The message of the Negentropy protocol, or why there is none.
    pub message: Result<Vec<u8>, AnswerError>,
    /// In units of cost: a look-up is one, and so are 256 events that were listed or added up, and 32 bytes of the message.
    pub cost: usize,
}

/// Why a message is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// It is not a message of the protocol.
    Malformed,
    /// It has more than [`RANGES_MAX`](super::RANGES_MAX) ranges, or they take more look-ups than [`CALLS_MAX`].
    TooMuch,
    /// The set cannot be read.
    Store(StoreError),
}

/// Answers a client's `message` about `set`, in up to `bytes_max` bytes (4,096 at least), or in [`SPLIT_BYTES_MAX`] if very many
/// of its ranges may have to be split: what does not fit, the client asks for again. If the ranges take more than [`LOOKUPS_MAX`] look-ups, those beyond are answered as one range. A message of another
/// version of the protocol is answered with the version that is understood. Takes some milliseconds at most if the set is in
/// memory, whatever the message and however large the set.
pub fn answer(set: &dyn EventSet, message: &[u8], bytes_max: usize) -> Answer {
    answer_first(set, message, bytes_max, LOOKUPS_MAX)
}

/// As [`answer`], with `lookups_max` in the place of [`LOOKUPS_MAX`].
pub fn answer_first(set: &dyn EventSet, message: &[u8], bytes_max: usize, lookups_max: usize) -> Answer {
    let bytes_max = bytes_max.max(4_096);
    let read_cost = message.len() / BYTES_PER_COST;
    let Answered { message, modes } = match first_ranges(message, lookups_max) {
        Ok(answered) => answered,
        Err(TooMany) => return Answer { message: Err(AnswerError::TooMuch), cost: read_cost },
    };
    let fingerprints = modes.iter().filter(|mode| **mode == Mode::Fingerprint).count();
    let bytes_max = if fingerprints > SPLITS_MAX { bytes_max.min(SPLIT_BYTES_MAX) } else { bytes_max };
    let source = Source {
        set,
        modes,
        ranges: Cell::new(0),
        ids_max: bytes_max / 32,
        calls: Cell::new(0),
        items: Cell::new(0),
        failed: RefCell::default(),
    };
    let answered =
        Negentropy::borrowed(&source, bytes_max as u64).and_then(|mut protocol| protocol.reconcile(&message));
    let cost = source.calls.get() + source.items.get() / ITEMS_PER_COST + read_cost;
    let message = match source.failed.into_inner() {
        Some(failed) => Err(failed),
        None => answered.map_err(|_| AnswerError::Malformed),
    };
    Answer { message, cost }
}

/// A set as the crate reads it.
struct Source<'a> {
    set: &'a dyn EventSet,
    /// Of the ranges of the message.
    modes: Vec<Mode>,
    /// Ranges that the crate has come to: it looks up the bound of each, once.
    ranges: Cell<usize>,
    /// Ids that fit into an answer.
    ids_max: usize,
    calls: Cell<usize>,
    items: Cell<usize>,
    failed: RefCell<Option<AnswerError>>,
}

impl Source<'_> {
    /// Counts a look-up.
    fn call(&self) -> Result<(), Error> {
        self.calls.set(self.calls.get() + 1);
        if self.calls.get() > CALLS_MAX {
            return Err(self.fail(AnswerError::TooMuch));
        }
        Ok(())
    }

    /// Where the items end that are listed one by one of a range in which the crate is.
    fn listed_end(&self, begin: usize, end: usize) -> usize {
        let at = self.ranges.get().checked_sub(1);
        match at.and_then(|at| self.modes.get(at)) {
            Some(Mode::Fingerprint) if end - begin >= FINGERPRINT_SUMMED => begin,
            _ => end.min(begin + self.ids_max),
        }
    }

    /// Keeps the first reason. Which error of its own the crate ends with does not matter.
    fn fail(&self, error: AnswerError) -> Error {
        self.failed.borrow_mut().get_or_insert(error);
        Error::BadRange
    }

    fn read<T>(&self, read: Result<T, StoreError>) -> Result<T, Error> {
        read.map_err(|error| self.fail(AnswerError::Store(error)))
    }
}

fn item(item: Item) -> negentropy::Item {
    negentropy::Item::with_timestamp_and_id(item.created_at, Id::from_byte_array(item.id.0))
}

impl NegentropyStorageBase for Source<'_> {
    fn size(&self) -> Result<usize, Error> {
        Ok(self.set.len())
    }

    fn get_item(&self, at: usize) -> Result<Option<negentropy::Item>, Error> {
        let mut found = None;
        if at < self.set.len() {
            self.read(self.set.list(at..at + 1, &mut |listed| {
                found = Some(item(listed));
                false
            }))?;
        }
        Ok(found)
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        each: &mut dyn FnMut(negentropy::Item, usize) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        self.call()?;
        if begin > end || end > self.set.len() {
            return Err(Error::BadRange);
        }
        let listed_end = self.listed_end(begin, end);
        let (mut at, mut result) = (begin, Ok(true));
        self.read(self.set.list(begin..listed_end, &mut |listed| {
            result = each(item(listed), at);
            at += 1;
            matches!(result, Ok(true))
        }))?;
        self.items.set(self.items.get() + at - begin);
        if result? && listed_end < end {
            let sum = self.read(self.set.sum(listed_end..end))?;
            let rest = Item { created_at: 0, id: EventId(sum.to_bytes()) };
            self.items.set(self.items.get() + ITEMS_PER_COST);
            each(item(rest), listed_end)?;
        }
        Ok(())
    }

    fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
        let bound = Item { created_at: bound.item.timestamp, id: EventId(*bound.item.id.as_bytes()) };
        self.ranges.set(self.ranges.get() + 1);
        // An error ends the answer with the next look-up, and the answer is not used.
        if self.call().is_err() {
            return last;
        }
        self.read(self.set.position(first..last, &bound)).unwrap_or(last)
    }
}
