//! The traits of a storage backend: [`Backend`], [`Reader`] and [`Writer`].

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use super::sums::{SumBudget, Summed, SummedPart};
use super::terms::{Term, TermClasses};
pub use crate::sql::StoreError;
pub use crate::types::Seq;
use crate::types::{CanonicalEvent, Event, EventId, Kind, PubKey, Timestamp};

/// Where an event stands in the order of answers: newest first, and of one `created_at` the lowest id first.
///
/// The id is cut to eight bytes, so two events of one `created_at` may share a rank (if somebody searches
/// for such ids, which takes 2^32 hashes). Code that merges postings compares whole ids when ranks are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rank {
    /// The event's `created_at`.
    pub created_at: Timestamp,
    /// [`EventId::prefix`].
    pub prefix: u64,
}

impl Rank {
    /// The rank of an event.
    pub fn of(created_at: Timestamp, id: &EventId) -> Self {
        Rank { created_at, prefix: id.prefix() }
    }

    /// Before every event with a `created_at` of `until` or older.
    pub const fn newest(until: Timestamp) -> Self {
        Rank { created_at: until, prefix: 0 }
    }
}

impl Ord for Rank {
    /// Answers' order: what is sent first is less.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.created_at.cmp(&self.created_at).then(self.prefix.cmp(&other.prefix))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One event under one term. Ordered by rank, then by sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Posting {
    /// Position in the order of answers.
    pub rank: Rank,
    /// The event.
    pub seq: Seq,
    /// Its kind, so that many filters are decided without reading it.
    pub kind: Kind,
    /// Whether the event has an expiration (NIP-40). When it expires only the event itself says.
    pub expires: bool,
}

/// Where reading a term's postings begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the first posting of this rank or after it.
    Rank(Rank),
    /// Right after this posting, whether or not it is still there.
    After(Rank, Seq),
}

/// What is kept of a deletion, so that the deleted events cannot come back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tombstone {
    /// NIP-09 by `e`: the event of this id, if it is this author's to delete.
    Id(EventId, PubKey),
    /// NIP-09 by `a`: versions of this address up to a timestamp.
    Address {
        /// The kind before the first colon.
        kind: Kind,
        /// The author between the colons.
        pubkey: PubKey,
        /// What follows the second colon.
        d: Box<[u8]>,
    },
    /// NIP-62: everything of this key up to a timestamp.
    Vanished(PubKey),
}

/// Sizes that a backend can report cheaply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events stored, without ones pending removal.
    pub events: u64,
    /// Events that are pending removal and still to be removed ([`Writer::mark_removed`]).
    pub pending_removal: u64,
    /// Bytes the store takes on disk or in memory, as far as it knows.
    pub bytes: u64,
}

/// How many postings a term has in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostingCount {
    /// The store finds out only by reading them.
    Unsupported,
    /// It was too much for the budget. What was found out is kept: asked often enough, it is counted.
    OutOfBudget,
    /// So many.
    Counted {
        /// Of stored events, also of ones that are expired or pending removal.
        postings: u64,
        /// Of these events, removal requests that expire: no list of expiring events has them.
        expiring_requests: Vec<Seq>,
    },
}

/// One consistent state of a store, as a read transaction shows it.
///
/// Short-lived: opened for one scan step or one look-up, never held across a wait.
///
/// An event that is pending removal ([`Writer::mark_removed`]) is not found by look-ups by number or id. Postings, the log, the
/// expirations and the kinds list it until it is removed, so that a reader of these lists is charged what skipping it
/// costs.
pub trait Reader {
    /// The highest sequence number ever given to an event, whether or not it is still stored.
    fn last_seq(&self) -> Result<Seq, StoreError>;

    /// The sequence number of the event with this id, unless it is pending removal.
    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, StoreError>;

    /// The canonical JSON of an event, unless it is pending removal.
    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        if self.is_pending_removal(seq)? { Ok(None) } else { self.event_or_pending_removal(seq) }
    }

    /// The canonical JSON of an event, also of one pending removal.
    fn event_or_pending_removal(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError>;

    /// Whether an event is pending removal. Costs a comparison while none is.
    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError>;

    /// Appends the sequence numbers of up to `max` events pending removal to `out`, ascending.
    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError>;

    /// Appends up to `max` postings of `term` to `out`, in order, from `start` on, none with a `created_at` below
    /// `oldest`. Fewer than `max` means that there are no more.
    fn postings(
        &self,
        term: &Term,
        start: StartAt,
        oldest: Timestamp,
        max: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError>;

    /// Counts the postings of `term` with a `created_at` from `oldest` to `newest` of events up to `horizon`, without reading each:
    /// that is far cheaper where there are many. Subtracts from `budget` what it costs; it always spends some, and may overdraw it.
    fn count_postings(
        &self,
        term: &Term,
        oldest: Timestamp,
        newest: Timestamp,
        horizon: Seq,
        budget: &mut usize,
    ) -> Result<PostingCount, StoreError> {
        let _ = (term, oldest, newest, horizon, budget);
        Ok(PostingCount::Unsupported)
    }

    /// The postings of `term` with a `created_at` from `oldest` to `newest`, in blocks of which the number and the sum of ids is
    /// known, so that few have to be read ([`SummedSet`](super::SummedSet)), at the time `now`. It always spends some of `budget`, and may
    /// overdraw it.
    fn summed_postings(
        &self,
        term: &Term,
        oldest: Timestamp,
        newest: Timestamp,
        now: Timestamp,
        budget: &mut SumBudget,
    ) -> Result<Summed, StoreError> {
        let _ = (term, oldest, newest, now, budget);
        Ok(Summed::Unsupported)
    }

    /// Appends the postings of a block that [`Reader::summed_postings`] has named in this state, in order.
    fn block_postings(
        &self,
        part: &SummedPart,
        block: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        let _ = (part, block, out);
        Ok(())
    }

    /// The id of a posting's event, also of one pending removal.
    fn id_of(&self, posting: &Posting) -> Result<EventId, StoreError> {
        let found = self.event_or_pending_removal(posting.seq)?;
        id_of_posting(posting, found.as_deref())
    }

    /// Appends the sequence numbers of up to `max` stored events above `after` to `out`, ascending.
    fn log(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError>;

    /// The timestamp up to which `key` is deleted.
    fn tombstone(&self, key: &Tombstone) -> Result<Option<Timestamp>, StoreError>;

    /// Appends up to `max` events that are to be swept ([`Event::sweep_at`]) at timestamp `until` or before, soonest first.
    fn expiring(&self, until: Timestamp, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError>;

    /// The kinds of which events are stored, ascending, where the backend has no term over all events
    /// ([`TermClasses::all`] is false); otherwise it may answer with nothing.
    fn kinds(&self) -> Result<Vec<Kind>, StoreError>;

    /// How many changes have removed events by [`super::remove`] or [`super::sweep_older_than`], which no commit names and the log
    /// does not show: whoever keeps what he has read has to read again after such a change. A backend that one process has alone
    /// may count from when it was opened.
    fn unlogged_removals(&self) -> Result<u64, StoreError>;

    /// Sizes.
    fn stats(&self) -> Result<Stats, StoreError>;
}

/// The id of a posting's event, of which this is the canonical JSON.
///
/// # Errors
/// [`StoreError::Corrupt`] if there is none, or it is another event's.
pub fn id_of_posting(posting: &Posting, json: Option<&[u8]>) -> Result<EventId, StoreError> {
    let id = json.map(|json| CanonicalEvent::trusted(json).id());
    id.filter(|id| id.prefix() == posting.rank.prefix).ok_or_else(|| {
        StoreError::Corrupt(format!("the posting of {} has no event of its id", posting.seq.0))
    })
}

/// A store while it is being changed; reads see the changes made so far.
pub trait Writer: Reader {
    /// Stores an event under its terms. `seq` is above every earlier one and the id is not stored yet.
    fn insert(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError>;

    /// Marks a stored event as removed (a logical delete) until its keys are removed. Costs a bit, whatever the event is found by.
    fn mark_removed(&mut self, seq: Seq) -> Result<(), StoreError>;

    /// Removes an event, whether or not it is marked; `terms` are those it was stored under.
    fn remove(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError>;

    /// Removes an event of which nothing but its number is known, because its body can't be read any more. False: this store would
    /// still find it by its terms, so it stays.
    fn remove_unreadable(&mut self, seq: Seq) -> Result<bool, StoreError> {
        let _ = seq;
        Ok(false)
    }

    /// Remembers that `key` is deleted up to timestamp `until`, or later if that is known already.
    fn put_tombstone(&mut self, key: &Tombstone, until: Timestamp) -> Result<(), StoreError>;

    /// This change counts as one of [`Reader::unlogged_removals`], once.
    fn record_unlogged_removal(&mut self) -> Result<(), StoreError>;
}

/// [`Backend::removed_keys_max`] of the backends here, unless they are configured otherwise: some 16 ms of LMDB's work.
pub const REMOVED_KEYS_MAX: usize = 4_096;

/// A database of events.
pub trait Backend {
    /// A read transaction.
    type Reader<'a>: Reader
    where
        Self: 'a;
    /// A write transaction.
    type Writer<'a>: Writer
    where
        Self: 'a;

    /// Which terms it keeps postings for.
    fn classes(&self) -> TermClasses;

    /// How many keys one change removes at once, about. A transaction spends at most a few milliseconds on removal;
    /// the remaining events are marked as removed and removed later. With 0, a commit removes nothing at once.
    fn removed_keys_max(&self) -> usize;

    /// The last committed state.
    fn reader(&self) -> Result<Self::Reader<'_>, StoreError>;

    /// Runs `work` as one change: all of it is durable when this returns `Ok`, and none of it is there when
    /// it returns `Err`, whether the error is the backend's or `work`'s own.
    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError>;

    /// As [`Backend::write`], for a change that removes events and found the disk full: it may use disk space that the
    /// backend keeps allocated for removals (its reserve). Without a reserve it is the same as `write`.
    fn write_from_reserve<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write(work)
    }

    /// How often a step of its maintenance, such as a flush or a merge, has failed. Nothing stored is lost by it, but reads become
    /// slower, and in the end writes are refused. 0 if it has none.
    fn maintenance_failures(&self) -> u64 {
        0
    }
}

/// Shards share one store by a counted reference: `Arc` where they run on several threads, `Rc` where not.
macro_rules! shared_backend {
    ($pointer:ident) => {
        impl<B: Backend + 'static> Backend for $pointer<B> {
            type Reader<'a>
                = B::Reader<'a>
            where
                Self: 'a;
            type Writer<'a>
                = B::Writer<'a>
            where
                Self: 'a;

            fn classes(&self) -> TermClasses {
                B::classes(self)
            }

            fn removed_keys_max(&self) -> usize {
                B::removed_keys_max(self)
            }

            fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
                B::reader(self)
            }

            fn write<T>(
                &self,
                work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
            ) -> Result<T, StoreError> {
                B::write(self, work)
            }

            fn write_from_reserve<T>(
                &self,
                work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
            ) -> Result<T, StoreError> {
                B::write_from_reserve(self, work)
            }

            fn maintenance_failures(&self) -> u64 {
                B::maintenance_failures(self)
            }
        }
    };
}

shared_backend!(Arc);
shared_backend!(Rc);
