//! The reference backend: everything in ordered maps, in memory, lost with the process.
//!
//! It is what the other backends are compared with, and what simulations and tests run on. It never decides
//! anything a planner decides. Readers share it, a writer has it alone.

mod state;

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::{
    Backend, Posting, REMOVED_KEYS_MAX, Reader, Seq, StartAt, Stats, StoreError, Term, TermClasses,
    Tombstone, Writer,
};
use crate::types::{Event, EventId, Kind, Timestamp};
use state::{State, Undo};

/// A store in memory.
#[derive(Debug)]
pub struct MemoryBackend {
    classes: TermClasses,
    removed_keys_max: usize,
    state: RwLock<State>,
}

impl Default for MemoryBackend {
    /// Keeps every class of terms.
    fn default() -> Self {
        MemoryBackend::new(TermClasses { all: true, author_kind: true })
    }
}

impl MemoryBackend {
    /// An empty store that keeps postings for `classes`.
    pub fn new(classes: TermClasses) -> Self {
        MemoryBackend { classes, removed_keys_max: REMOVED_KEYS_MAX, state: RwLock::default() }
    }

    /// The same, with another [`Backend::removed_keys_max`].
    pub fn with_removed_keys_max(self, keys: usize) -> Self {
        MemoryBackend { removed_keys_max: keys, ..self }
    }
}

impl Backend for MemoryBackend {
    type Reader<'a> = MemoryReader<'a>;
    type Writer<'a> = MemoryWriter<'a>;

    fn classes(&self) -> TermClasses {
        self.classes
    }

    fn removed_keys_max(&self) -> usize {
        self.removed_keys_max
    }

    fn reader(&self) -> Result<MemoryReader<'_>, StoreError> {
        // A writer that panicked has undone its changes on the way out, so a poisoned lock guards good data.
        Ok(MemoryReader(self.state.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut MemoryWriter<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut writer = MemoryWriter { state: &mut state, undo: Vec::new() };
        let result = work(&mut writer);
        if result.is_ok() {
            writer.undo.clear();
        }
        result
    }
}

/// A read transaction of a [`MemoryBackend`]; writers wait while it lives.
#[derive(Debug)]
pub struct MemoryReader<'a>(RwLockReadGuard<'a, State>);

/// A write transaction of a [`MemoryBackend`]; undone when dropped before it is committed.
#[derive(Debug)]
pub struct MemoryWriter<'a> {
    state: &'a mut State,
    undo: Vec<Undo>,
}

impl Drop for MemoryWriter<'_> {
    fn drop(&mut self) {
        while let Some(step) = self.undo.pop() {
            self.state.undo(step);
        }
    }
}

impl Writer for MemoryWriter<'_> {
    fn insert(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError> {
        self.undo.push(self.state.insert(seq, event, terms)?);
        Ok(())
    }

    fn mark_removed(&mut self, seq: Seq) -> Result<(), StoreError> {
        self.undo.extend(self.state.mark_removed(seq)?);
        Ok(())
    }

    fn remove(&mut self, seq: Seq, event: &Event, terms: &[Term]) -> Result<(), StoreError> {
        self.undo.push(self.state.remove(seq, event, terms)?);
        Ok(())
    }

    fn put_tombstone(&mut self, key: &Tombstone, until: Timestamp) -> Result<(), StoreError> {
        self.undo.push(self.state.put_tombstone(key, until));
        Ok(())
    }

    fn record_unlogged_removal(&mut self) -> Result<(), StoreError> {
        self.undo.push(self.state.record_unlogged_removal());
        Ok(())
    }
}

macro_rules! reads_state {
    ($type:ty, $state:tt) => {
        impl Reader for $type {
            fn last_seq(&self) -> Result<Seq, StoreError> {
                Ok(self.$state.last_seq())
            }

            fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, StoreError> {
                Ok(self.$state.seq_of(id))
            }

            fn event_or_pending_removal(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
                Ok(self.$state.event(seq).map(Cow::Borrowed))
            }

            fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
                Ok(self.$state.is_pending_removal(seq))
            }

            fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
                self.$state.pending_removal(max, out);
                Ok(())
            }

            fn postings(
                &self,
                term: &Term,
                start: StartAt,
                oldest: Timestamp,
                max: usize,
                out: &mut Vec<Posting>,
            ) -> Result<(), StoreError> {
                self.$state.postings(term, start, oldest, max, out);
                Ok(())
            }

            fn log(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
                self.$state.log(after, max, out);
                Ok(())
            }

            fn tombstone(&self, key: &Tombstone) -> Result<Option<Timestamp>, StoreError> {
                Ok(self.$state.tombstone(key))
            }

            fn expiring(&self, until: Timestamp, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
                self.$state.expiring(until, max, out);
                Ok(())
            }

            fn kinds(&self) -> Result<Vec<Kind>, StoreError> {
                Ok(self.$state.kinds())
            }

            fn unlogged_removals(&self) -> Result<u64, StoreError> {
                Ok(self.$state.unlogged_removals())
            }

            fn stats(&self) -> Result<Stats, StoreError> {
                Ok(self.$state.stats())
            }
        }
    };
}

reads_state!(MemoryReader<'_>, 0);
reads_state!(MemoryWriter<'_>, state);
