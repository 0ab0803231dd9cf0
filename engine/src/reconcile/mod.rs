//! Set reconciliation (NIP-77): sets of events, and the relay's answers of the Negentropy protocol about them.
//!
//! The protocol itself is the crate `negentropy`. An answer needs little of a set: its size, a position, the ids of a
//! range, the sum of a range. [`EventSet`] is these; nothing else in the engine assumes how a set is kept or that it is in
//! memory. [`SortedSet`] is in memory. Sets are snapshots: an event that comes or goes later changes nothing in them.

mod answer;
mod bytes;
mod item;
mod ranges;
mod sorted_set;

use std::ops::Range;

pub use crate::sql::StoreError;
pub use crate::types::IdSum;
pub use answer::{Answer, AnswerError, CALLS_MAX, SPLIT_BYTES_MAX, answer, answer_first};
pub use bytes::{CountedBytes, TotalBytes};
pub use item::Item;
pub use ranges::{LOOKUPS_MAX, RANGES_MAX};
pub use sorted_set::{MutableSet, SortedSet};

/// A set of events, each by its `created_at` and id, in ascending order of `created_at`, then id.
///
/// Positions are from 0 to [`EventSet::len`]; ranges lie within.
pub trait EventSet {
    /// How many events.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first position in `range` whose event is not below `bound`, or the end of `range`.
    ///
    /// # Errors
    /// If the set cannot be read.
    fn position(&self, range: Range<usize>, bound: &Item) -> Result<usize, StoreError>;

    /// Shows the events of `range` in order until `each` says false.
    ///
    /// # Errors
    /// If the set cannot be read.
    fn list(&self, range: Range<usize>, each: &mut dyn FnMut(Item) -> bool) -> Result<(), StoreError>;

    /// The sum of the ids of `range`. Costs about as much as listing a few hundred events, however long the range is.
    ///
    /// # Errors
    /// If the set cannot be read.
    fn sum(&self, range: Range<usize>) -> Result<IdSum, StoreError>;
}
