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
use crate::types::{EventId, IdSum, Timestamp};

pub use set::{OpenedSet, SummedSet};

/// Most postings at the ends of ranges, of all runs and terms, that are in no block; each takes a look-up of its id.
pub const AT_ENDS_MAX: usize = 16_384;
/// Most postings that wait to be flushed to pages. They are a fraction of that, unless maintenance can't keep up.
pub const UNFLUSHED_MAX: usize = 32_768;

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

/// A posting of a removal request that expires: no list of expiring events has it, and it stays when it has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiringRequest {
    /// The block that it is in.
    pub block: usize,
    /// The posting.
    pub posting: Posting,
    /// Its event's id.
    pub id: EventId,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Whether the block's number and sum have it: not if it had expired when they were made.
    pub is_summed: bool,
}

/// What is known of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummedBlocks {
    /// Ascending.
    pub blocks: Vec<SummedBlock>,
    /// Those in the page, by key.
    pub expiring_requests: Vec<ExpiringRequest>,
}

impl SummedBlocks {
    /// Requests that are in the sums and have expired; and, if time went back, those that are not and have not.
    pub fn outdated(&self, now: Timestamp) -> impl Iterator<Item = &ExpiringRequest> {
        self.expiring_requests.iter().filter(move |request| request.is_summed != (request.expires_at > now))
    }
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
    /// Postings that are in no part, in no order; none of an expired removal request.
    pub loose: Vec<Posting>,
    /// Removal requests of which the sums of the parts are [outdated](SummedBlocks::outdated).
    pub outdated: Vec<ExpiringRequest>,
}

/// What a read of sums may cost, and what it has cost: several reads have one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumBudget {
    /// In units of cost. Once as much is spent, no more pages are learned; but one is, whatever it is.
    pub max: usize,
    /// In units of cost.
    pub spent: usize,
    /// Pages that have been read to learn their sums.
    pub learned: usize,
    /// Pages whose sums were known.
    pub known: usize,
    /// Pages that there are, of all terms.
    pub pages: usize,
    /// Postings at the ends of ranges, in pages.
    pub at_ends: usize,
    /// Postings that are in no page yet.
    pub unflushed: usize,
}

impl SumBudget {
    /// So many units.
    pub fn new(max: usize) -> Self {
        SumBudget { max, ..SumBudget::default() }
    }

    /// Whether another page may be learned.
    pub fn may_learn(&self) -> bool {
        self.learned == 0 || self.spent < self.max
    }
}

/// What a store says of a term's postings in a range.
#[derive(Clone, Debug)]
pub enum Summed {
    /// It keeps no sums of them, or of fewer postings at a time.
    Unsupported,
    /// Too many of them are in no page yet.
    NotNow,
    /// It was too much for the budget. What was found out is kept: asked often enough, it is known.
    OutOfBudget,
    /// These there are, also of expired events and of ones pending removal.
    Postings(SummedPostings),
}
