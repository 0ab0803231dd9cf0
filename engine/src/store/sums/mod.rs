//! Sums of ids: what a store knows of many postings at once, and sets of events made of that.
//!
//! A store that keeps sums ([`Reader::summed_postings`](super::Reader::summed_postings)) says of a term's postings in a range which
//! blocks of them there are, with the number and the sum of the ids of each; only blocks at the ends of a range are read. [`SummedSet`]
//! is the set of the events that match a filter, made of blocks of one state of the store: positions and sums of ranges (NIP-77)
//! without reading or keeping the set.
//!
//! | file | role |
//! |---|---|
//! | `runs` | the blocks of one run of postings: numbers and sums up to a rank |
//! | `set` | the set of a filter: terms, and what is among their postings and does not count |

mod runs;
mod set;

use std::ops::Range;
use std::sync::Arc;

use super::backend::Posting;
use super::kv::Key;
use crate::types::IdSum;

pub use set::{OpenedSet, SummedSet};

/// Postings that follow each other in a page: all from its first key up to that of the next block, but those of removed events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummedBlock {
    /// Its first key, also if that is of a removed event.
    pub first: Key,
    /// How many postings of stored events it has.
    pub postings: u32,
    /// The sum of their ids.
    pub sum: IdSum,
}

/// What is known of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummedBlocks {
    /// Ascending.
    pub blocks: Vec<SummedBlock>,
    /// Removal requests that expire, each with its block: no list of expiring events has them.
    pub expiring_requests: Vec<(usize, Posting)>,
}

/// Blocks of one page that hold postings of one term in a range, and nothing else.
#[derive(Clone, Debug)]
pub struct SummedPart {
    /// By what the store knows the page.
    pub page: i64,
    /// All of the page's.
    pub of_page: Arc<SummedBlocks>,
    /// Which of them; not empty.
    pub blocks: Range<usize>,
}

/// The postings of one term in a range.
#[derive(Clone, Debug, Default)]
pub struct SummedPostings {
    /// Parts by run; those of a run are in the order of answers.
    pub runs: Vec<Vec<SummedPart>>,
    /// Postings that are in no part, in no order.
    pub loose: Vec<Posting>,
    /// Removal requests that expire, of all postings.
    pub expiring_requests: Vec<Posting>,
}

/// What a store says of a term's postings in a range.
#[derive(Clone, Debug)]
pub enum Summed {
    /// It keeps no sums of them.
    Unsupported,
    /// It was too much for the budget. What was found out is kept: asked often enough, it is known.
    OutOfBudget,
    /// These there are, also of expired events and of ones pending removal.
    Postings(SummedPostings),
}
