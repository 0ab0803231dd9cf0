//! Stored events: the trait that backends implement, and the planners that work on any of them.
//!
//! A [`Backend`] knows events by sequence number ([`Seq`]) and terms ([`Term`]) by their postings, newest first; it
//! decides nothing. What a write replaces, deletes or refuses ([`commit`]), and which terms answer a filter
//! in which order ([`Scan`], [`Count`], [`replay()`]), is planned here once, for all backends.

mod backend;
mod cost;
mod count;
pub mod kv;
pub mod lsm;
mod memory;
mod merge;
mod put;
mod replay;
mod scan;
pub mod sql;
pub mod sums;
mod terms;
mod viewer;

pub use backend::{
    Backend, Posting, PostingCount, REMOVED_KEYS_MAX, Rank, Reader, Seq, StartAt, Stats, StoreError,
    Tombstone, Writer, id_of_posting,
};
pub(crate) use cost::in_comparisons;
pub use count::{Count, CountResult, CountStep, HLL_REGISTERS};
pub use memory::{MemoryBackend, MemoryReader, MemoryWriter};
pub use merge::cursor_bytes_max;
pub use put::{
    Op, OpResult, Outcome, Refusal, Removed, RemovedEvents, commit, commit_removals, commit_with_removals,
    remove, remove_pending, sweep_expired, sweep_first, sweep_older_than,
};
pub use replay::{Replayed, read_log, replay};
pub use scan::{Completeness, Hit, Scan, ScanLimits, ScanStep, SinkResult};
pub use sums::{OpenedSet, SumBudget, SummedSet};
pub use terms::{Term, TermClasses, terms_of};
pub use viewer::{Unrestricted, Viewer};
