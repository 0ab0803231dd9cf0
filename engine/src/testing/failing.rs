//! A backend that fails at a chosen operation, for tests that a failed batch leaves nothing behind.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::sums::{SumBudget, Summed, SummedPart};
use crate::store::{
    Backend, Posting, PostingCount, Reader, Seq, StartAt, Stats, StoreError, Term, TermClasses, Tombstone,
    Writer,
};
use crate::types::{Event, EventId, Kind, Timestamp};

/// Forwards to another backend, except that the operation chosen by [`FailingBackend::fail_at`] fails.
#[derive(Debug)]
pub struct FailingBackend<B> {
    inner: B,
    left: Countdown,
}

/// Operations until the failure; 0 is never.
#[derive(Debug, Default)]
struct Countdown(AtomicU64);

impl Countdown {
    fn tick(&self) -> Result<(), StoreError> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            left => {
                self.0.store(left - 1, Ordering::Relaxed);
                if left == 1 { Err(StoreError::Failed("told to fail".to_owned())) } else { Ok(()) }
            }
        }
    }
}

impl<B> FailingBackend<B> {
    /// Works like `inner` until [`FailingBackend::fail_at`] is called.
    pub fn new(inner: B) -> Self {
        FailingBackend { inner, left: Countdown::default() }
    }

    /// Fails the `n`th operation from here on, once; reads, changes and commits count alike. 0 fails none.
    pub fn fail_at(&self, n: u64) {
        self.left.0.store(n, Ordering::Relaxed);
    }

    /// Whether the chosen operation is still to come.
    pub fn is_armed(&self) -> bool {
        self.left.0.load(Ordering::Relaxed) > 0
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B: Backend + 'static> Backend for FailingBackend<B> {
    type Reader<'a>
        = FailingReader<'a, B>
    where
        Self: 'a;
    type Writer<'a>
        = FailingWriter<'a>
    where
        Self: 'a;

    fn classes(&self) -> TermClasses {
        self.inner.classes()
    }

    fn removed_keys_max(&self) -> usize {
        self.inner.removed_keys_max()
    }

    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        self.left.tick()?;
        Ok(FailingReader { inner: self.inner.reader()?, left: &self.left })
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.write(|inner| {
            let result = work(&mut FailingWriter { inner, left: &self.left })?;
            self.left.tick()?;
            Ok(result)
        })
    }
}

/// A reader of a [`FailingBackend`].
pub struct FailingReader<'a, B: Backend + 'a> {
    inner: B::Reader<'a>,
    left: &'a Countdown,
}

/// A writer of a [`FailingBackend`].
pub struct FailingWriter<'a> {
    inner: &'a mut (dyn Writer + 'a),
    left: &'a Countdown,
}

impl<B: Backend> fmt::Debug for FailingReader<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingReader").field("left", self.left).finish_non_exhaustive()
    }
}

impl fmt::Debug for FailingWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingWriter").field("left", self.left).finish_non_exhaustive()
    }
}

impl Writer for FailingWriter<'_> {
    fn insert(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError> {
        self.left.tick()?;
        self.inner.insert(seq, event, terms)
    }

    fn mark_removed(&mut self, seq: Seq) -> Result<(), StoreError> {
        self.left.tick()?;
        self.inner.mark_removed(seq)
    }

    fn remove(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError> {
        self.left.tick()?;
        self.inner.remove(seq, event, terms)
    }

    fn put_tombstone(&mut self, key: &Tombstone, until: Timestamp) -> Result<(), StoreError> {
        self.left.tick()?;
        self.inner.put_tombstone(key, until)
    }

    fn record_unlogged_removal(&mut self) -> Result<(), StoreError> {
        self.left.tick()?;
        self.inner.record_unlogged_removal()
    }
}

macro_rules! reads_inner {
    ([$($generic:ident)?] $type:ty) => {
        impl<$($generic: Backend)?> Reader for $type {
            fn last_seq(&self) -> Result<Seq, StoreError> {
                self.left.tick()?;
                self.inner.last_seq()
            }

            fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, StoreError> {
                self.left.tick()?;
                self.inner.seq_of(id)
            }

            fn event_or_pending_removal(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
                self.left.tick()?;
                self.inner.event_or_pending_removal(seq)
            }

            fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
                self.inner.is_pending_removal(seq)
            }

            fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
                self.left.tick()?;
                self.inner.pending_removal(max, out)
            }

            fn postings(
                &self,
                term: &Term,
                start: StartAt,
                oldest: Timestamp,
                max: usize,
                out: &mut Vec<Posting>,
            ) -> Result<(), StoreError> {
                self.left.tick()?;
                self.inner.postings(term, start, oldest, max, out)
            }

            fn count_postings(
                &self,
                term: &Term,
                oldest: Timestamp,
                newest: Timestamp,
                horizon: Seq,
                budget: &mut usize,
            ) -> Result<PostingCount, StoreError> {
                self.left.tick()?;
                self.inner.count_postings(term, oldest, newest, horizon, budget)
            }

            fn summed_postings(
                &self,
                term: &Term,
                oldest: Timestamp,
                newest: Timestamp,
                now: Timestamp,
                budget: &mut SumBudget,
            ) -> Result<Summed, StoreError> {
                self.left.tick()?;
                self.inner.summed_postings(term, oldest, newest, now, budget)
            }

            fn block_postings(
                &self,
                part: &SummedPart,
                block: usize,
                out: &mut Vec<Posting>,
            ) -> Result<(), StoreError> {
                self.left.tick()?;
                self.inner.block_postings(part, block, out)
            }

            fn log(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
                self.left.tick()?;
                self.inner.log(after, max, out)
            }

            fn tombstone(&self, key: &Tombstone) -> Result<Option<Timestamp>, StoreError> {
                self.left.tick()?;
                self.inner.tombstone(key)
            }

            fn expiring(&self, until: Timestamp, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
                self.left.tick()?;
                self.inner.expiring(until, max, out)
            }

            fn kinds(&self) -> Result<Vec<Kind>, StoreError> {
                self.left.tick()?;
                self.inner.kinds()
            }

            fn unlogged_removals(&self) -> Result<u64, StoreError> {
                self.left.tick()?;
                self.inner.unlogged_removals()
            }

            fn stats(&self) -> Result<Stats, StoreError> {
                self.left.tick()?;
                self.inner.stats()
            }
        }
    };
}

reads_inner!([B] FailingReader<'_, B>);
reads_inner!([] FailingWriter<'_>);
