//! What keeps reads cheap and gives disk back: keys are flushed to pages, runs of pages are merged, worn pages and segments are
//! written again, old segments packed. Nothing of what is stored changes by it.
//!
//! Each step writes pages or a segment where nobody reads, then one edit of the manifest, and then publishes a version with
//! them. A step that fails leaves everything as it was, is made again later, and keeps no step of another kind from being
//! made. Steps run in a thread, or after each write.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use relay_engine::store::lsm::{Merge, RemovedSeqs, Replacement, rewrite};
use relay_engine::store::{Seq, StoreError};

use super::disk::Disk;
use super::maintainer::{Maintainer, Swap};
use super::version::{FILTERED, Version};
use super::{OVERDUE_FACTOR, Store, lock};

/// Pages that are checked in a step.
const REWRITES: usize = 4;
/// Removed events after which the thread looks whether something is worn.
const REMOVED_PER_LOOK: u64 = 64;
/// How long the thread waits before it makes a step again that has failed, or overwrites bodies of removed events.
const RETRY: Duration = Duration::from_secs(1);
/// Steps that overwrite bodies of removed events before the process ends. The next process makes the others.
const LAST_BLANKS: usize = 64;

/// What the thread and the writer tell each other.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// Something is due.
    pub(super) is_wanted: bool,
    pub(super) is_ending: bool,
    /// The thread has ended, though it should not have.
    has_ended: bool,
    /// How many events were removed when it last looked.
    removed: u64,
    /// Steps so far.
    steps: u64,
    pub(super) failures: u64,
    /// What failed in the last step, if something did.
    failure: Option<StoreError>,
    /// Why it did not flush, if it failed to.
    flush_failure: Option<StoreError>,
    /// Whether something is due soon, such as overwriting the bodies of a few removed events.
    is_waiting: bool,
}

/// What a step has done.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Something, so there may be more.
    pub(super) has_more: bool,
    /// The first thing that failed.
    failure: Option<StoreError>,
    flush_failure: Option<StoreError>,
    /// Somebody still reads what is to be overwritten.
    is_waiting: bool,
}

impl<D: Disk> Store<D> {
    /// The thread.
    pub(super) fn maintain_in_background(&self) {
        /// Whoever waits for the thread, or writes, learns of its end, should it panic.
        struct End<'a, D: Disk>(&'a Store<D>);
        impl<D: Disk> Drop for End<'_, D> {
            fn drop(&mut self) {
                lock(&self.0.signal).has_ended = true;
                self.0.signalled.notify_all();
                if std::thread::panicking() {
                    tracing::error!(
                        "the thread that maintains the database has panicked: nothing is written any more"
                    );
                }
            }
        }
        let _end = End(self);
        loop {
            {
                let mut signal = lock(&self.signal);
                let mut until = None;
                while !signal.is_wanted && !signal.is_ending {
                    if signal.failure.is_none() && !signal.is_waiting {
                        signal = self.signalled.wait(signal).unwrap_or_else(PoisonError::into_inner);
                        continue;
                    }
                    let until = *until.get_or_insert_with(|| Instant::now() + RETRY);
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let waited = self.signalled.wait_timeout(signal, left);
                    signal = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if signal.is_ending {
                    drop(signal);
                    self.blank_last();
                    return;
                }
                (signal.is_wanted, signal.is_waiting) = (false, false);
                signal.removed = self.version().applied.removed.len();
            }
            while self.step_and_tell() {}
        }
    }

    /// Before the process ends: nobody reads any more.
    fn blank_last(&self) {
        let mut maintainer = lock(&self.maintainer);
        for _ in 0..LAST_BLANKS {
            if !matches!(self.blank(&mut maintainer), Ok(true)) {
                break;
            }
        }
    }

    /// Does all that is due.
    pub(super) fn maintain_now(&self) {
        while self.step_and_tell() {}
    }

    /// One step. True if there may be more, and nobody wants an end.
    fn step_and_tell(&self) -> bool {
        let Step { has_more, failure, flush_failure, is_waiting } = self.step(&mut lock(&self.maintainer));
        let mut signal = lock(&self.signal);
        signal.steps += 1;
        if let Some(error) = &failure {
            if signal.failure != failure {
                tracing::error!(%error, "a step of the database's maintenance failed; trying again");
            }
            signal.failures += 1;
        }
        (signal.failure, signal.flush_failure) = (failure, flush_failure);
        signal.is_waiting |= is_waiting;
        self.signalled.notify_all();
        has_more && !signal.is_ending
    }

    /// Wakes the thread if something is due.
    pub(super) fn signal_if_due(&self) {
        let version = self.version();
        let mut signal = lock(&self.signal);
        let removed = version.applied.removed.len();
        if self.is_full(&version, 1) || removed >= signal.removed + REMOVED_PER_LOOK {
            signal.is_wanted = true;
            self.signalled.notify_all();
        } else if removed > signal.removed && !signal.is_waiting {
            signal.is_waiting = true;
            self.signalled.notify_all();
        }
    }

    /// Whether there are `times` as many keys in memory as are flushed.
    pub(super) fn is_full(&self, version: &Version<D::File>, times: usize) -> bool {
        version.memtable.len() >= self.options.memtable_keys.saturating_mul(times)
            || version.unflushed_bytes >= self.options.memtable_bytes.saturating_mul(times as u64)
    }

    /// Before a write: whether the thread has panicked. What it was changing may be half changed in memory, so nothing may be written
    /// until the database is opened again.
    pub(super) fn check_thread(&self) -> Result<(), StoreError> {
        match lock(&self.signal).has_ended {
            true => Err(StoreError::Failed("the thread that maintains the database has panicked".into())),
            false => Ok(()),
        }
    }

    /// Before a write: waits while flushing is far behind.
    ///
    /// # Errors
    /// If it fails. Then the write must not add events.
    pub(super) fn wait_while_overdue(&self, has_thread: bool) -> Result<(), StoreError> {
        while self.is_full(&self.version(), OVERDUE_FACTOR) {
            if !has_thread {
                // The write before has tried it.
                self.maintain_now();
                let failure = lock(&self.signal).flush_failure.clone();
                return failure.filter(|_| self.is_full(&self.version(), OVERDUE_FACTOR)).map_or(Ok(()), Err);
            }
            let mut signal = lock(&self.signal);
            let steps = signal.steps;
            signal.is_wanted = true;
            self.signalled.notify_all();
            while signal.steps == steps && !signal.has_ended {
                signal = self.signalled.wait(signal).unwrap_or_else(PoisonError::into_inner);
            }
            drop(signal);
            self.check_thread()?;
            let signal = lock(&self.signal);
            if let Some(error) = signal.flush_failure.clone() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does one thing that is due. What fails is left for later, and the next kind of thing is tried.
    pub(super) fn step(&self, maintainer: &mut Maintainer<D::File>) -> Step {
        let mut done = Step::default();
        if self.is_read_only {
            return done;
        }
        maintainer.reclaim(&self.disk);
        maintainer.remove_leftovers(&self.disk);
        type Kind<D> = fn(&Store<D>, &mut Maintainer<<D as Disk>::File>) -> Result<bool, StoreError>;
        let (flush, merge): ((Kind<D>, bool), (Kind<D>, bool)) = ((Self::flush, true), (Self::merge, false));
        let [first, second, third] = match maintainer.merge_debt {
            0 => [flush, (Self::blank, false), merge],
            _ => [merge, flush, (Self::blank, false)],
        };
        // What gives disk back without taking any is first: on a full disk it makes space for the others.
        let kinds: [(Kind<D>, bool); 8] = [
            (Self::drop_dead, false),
            first,
            second,
            third,
            (Self::rewrite_worn, false),
            (Self::clean_one, false),
            (Self::shorten_manifest, false),
            // Last: there may be more of it for hours.
            (Self::pack, false),
        ];
        for (kind, is_flush) in kinds {
            if let Err(error) = maintainer.mend_manifest(&self.disk) {
                done.flush_failure.get_or_insert(error.clone());
                done.failure.get_or_insert(error);
                break;
            }
            match kind(self, maintainer) {
                Ok(false) => {}
                Ok(true) => {
                    done.has_more = true;
                    break;
                }
                Err(error) => {
                    if is_flush {
                        done.flush_failure = Some(error.clone());
                    }
                    done.failure.get_or_insert(error);
                }
            }
        }
        done.is_waiting = maintainer.fence.is_some();
        done
    }

    /// One step of a merge of runs.
    fn merge(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        let tiers = self.options.tiers(maintainer.manifest.head().slots);
        let Some(merge) = tiers.due(&maintainer.state.directory) else {
            maintainer.merge_debt = 0;
            return Ok(false);
        };
        let version = self.version();
        let is_removed = |seq: Seq| version.applied.removed.contains(seq);
        let step = tiers.step(&&*version.pages, &maintainer.state.directory, &is_removed, merge)?;
        let (removed, pages) = (&version.applied.removed, step.replacement.new.len());
        self.replace(maintainer, step.replacement, removed, Some((step.merge, step.is_last)))?;
        maintainer.merge_debt = maintainer.merge_debt.saturating_sub(pages.max(1));
        Ok(true)
    }

    /// Writes a page again of which many keys are of removed events.
    fn rewrite_worn(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        let version = self.version();
        let removed = version.applied.removed.len();
        maintainer.rewrites.count_removed(removed.saturating_sub(maintainer.removed));
        maintainer.removed = removed;
        maintainer.rewrites.push_due(&maintainer.state.directory, REWRITES);
        let page_bytes = self.options.tiers(maintainer.manifest.head().slots).page_bytes;
        let is_removed = |seq: Seq| version.applied.removed.contains(seq);
        while let Some(page) = maintainer.rewrites.pop() {
            let directory = &maintainer.state.directory;
            let found = rewrite(&&*version.pages, directory, &is_removed, page, page_bytes, FILTERED)?;
            if let Some(replacement) = found {
                let removed = &version.applied.removed;
                return self.replace(maintainer, replacement, removed, None).map(|()| true);
            }
        }
        Ok(maintainer.rewrites.is_due(&maintainer.state.directory))
    }

    /// Writes the manifest anew if its edits are long. There is never more of that.
    fn shorten_manifest(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        if maintainer.manifest.is_long() {
            maintainer.replace_manifest(&self.disk)?;
        }
        Ok(false)
    }

    /// Writes the pages of a replacement, made without the events in `removed`, and swaps them for the old ones.
    fn replace(
        &self,
        maintainer: &mut Maintainer<D::File>,
        replacement: Replacement,
        removed: &RemovedSeqs,
        merge: Option<(Merge, bool)>,
    ) -> Result<(), StoreError> {
        let new = maintainer.pages.write(&self.disk, &replacement.new)?;
        let swap = Swap { old: replacement.old, new, merge, ..Swap::default() };
        maintainer.commit(&swap)?;
        self.install(maintainer, swap.old, &swap.new, removed, |_| {});
        Ok(())
    }
}
