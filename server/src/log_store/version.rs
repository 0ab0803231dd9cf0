//! A version: one consistent state of the store. It never changes; whoever reads keeps it.

use std::borrow::Cow;
use std::sync::Arc;

use relay_engine::store::kv::KeySource;
use relay_engine::store::lsm::{
    Directory, Filtered, Memtable, PostingCounts, PostingSums, SumSource, View, WornPages,
};
use relay_engine::store::sums::{SumBudget, Summed, SummedPart};
use relay_engine::store::{Posting, PostingCount, Seq, Stats, StoreError, id_of_posting};
use relay_engine::types::{CanonicalEvent, EventId, Timestamp, parse_expiration};

use super::disk::DiskFile;
use super::manifest::Applied;
use super::page_files::PageFiles;
use super::readers::Lease;
use super::segment::Segment;

/// What the filters of pages are made of.
pub(super) const FILTERED: Filtered = Filtered::HashesAndHeads;

/// One state.
#[derive(Debug)]
pub(super) struct Version<F> {
    /// Keys of what has not been flushed.
    pub(super) memtable: Memtable,
    /// Bytes of the log that these keys come from.
    pub(super) unflushed_bytes: u64,
    pub(super) directory: Arc<Directory>,
    /// How many postings its pages hold.
    pub(super) counts: Arc<PostingCounts>,
    /// Sums of the ids of their postings.
    pub(super) sums: PostingSums,
    pub(super) pages: Arc<PageFiles<F>>,
    /// By first sequence number.
    pub(super) segments: Arc<Vec<Arc<Segment<F>>>>,
    /// What all batches have made.
    pub(super) applied: Applied,
    /// Shared with the versions before it in which the same bodies may be read.
    pub(super) readers: Arc<()>,
    /// By which another process, which writes, knows that it is read.
    pub(super) lease: Option<Arc<Lease>>,
}

impl<F> Clone for Version<F> {
    fn clone(&self) -> Self {
        Version {
            memtable: self.memtable.clone(),
            unflushed_bytes: self.unflushed_bytes,
            directory: Arc::clone(&self.directory),
            counts: Arc::clone(&self.counts),
            sums: self.sums.clone(),
            pages: Arc::clone(&self.pages),
            segments: Arc::clone(&self.segments),
            applied: self.applied.clone(),
            readers: Arc::clone(&self.readers),
            lease: self.lease.clone(),
        }
    }
}

impl<F: DiskFile> Version<F> {
    fn with_view<T>(
        &self,
        read: impl FnOnce(View<'_, &PageFiles<F>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(View {
            shelf: &&*self.pages,
            memtable: &self.memtable,
            directory: &self.directory,
            filtered: FILTERED,
            is_removed: &|seq| self.applied.removed.contains(seq),
        })
    }

    /// The segment that may have an event.
    pub(super) fn segment_of(&self, seq: Seq) -> Option<usize> {
        self.segments.partition_point(|segment| segment.first_seq <= seq.0).checked_sub(1)
    }

    /// The segments that may have events from `seq` on.
    fn segments_from(&self, seq: Seq) -> &[Arc<Segment<F>>] {
        let after = self.segments.partition_point(|segment| segment.first_seq <= seq.0);
        &self.segments[after.saturating_sub(1)..]
    }

    /// Bytes on the disk, but for the manifest.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file.bytes()).sum::<u64>() + self.pages.bytes()
    }
}

/// A version, as a source of keys and events.
#[derive(Debug)]
pub struct Snapshot<F>(pub(super) Arc<Version<F>>);

impl<F: DiskFile> Snapshot<F> {
    /// The segment that may have an event, if it is stored and not removed.
    fn segment_with(&self, seq: Seq) -> Option<&Segment<F>> {
        let Applied { last_seq, removed, .. } = &self.0.applied;
        if seq > *last_seq || removed.contains(seq) {
            return None;
        }
        self.0.segments_from(seq).first().map(|segment| &**segment)
    }

    /// The id of an event, which is not unpacked for it.
    fn id(&self, seq: Seq) -> Result<Option<EventId>, StoreError> {
        self.segment_with(seq).map_or(Ok(None), |segment| segment.id(seq))
    }
}

impl<F: DiskFile> KeySource for Snapshot<F> {
    const WANTS_REMOVED_KEYS: bool = true;
    /// Whoever reads keys passes over those of removed numbers.
    const REMOVES_BY_NUMBER: bool = true;

    fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        // Worn pages are found as events are removed.
        let mut worn = WornPages { skipped_max: usize::MAX, pages: Vec::new() };
        self.0.with_view(|view| view.keys(from, to, max, &mut worn, each))
    }

    fn count_postings(
        &self,
        from: &[u8],
        to: &[u8],
        horizon: Seq,
        budget: &mut usize,
    ) -> Result<PostingCount, StoreError> {
        self.0.with_view(|view| view.count(&self.0.counts, from, to, horizon, budget))
    }

    fn summed_postings(
        &self,
        from: &[u8],
        to: &[u8],
        now: Timestamp,
        budget: &mut SumBudget,
    ) -> Result<Summed, StoreError> {
        let version = &*self.0;
        let id_of = |posting: &Posting| self.id_of(posting);
        let expires_at = |posting: &Posting| {
            let body = self.body(posting.seq)?;
            let tags = body.as_deref().map(|json| CanonicalEvent::trusted(json).tags());
            Ok(tags.and_then(parse_expiration).unwrap_or(Timestamp::MAX))
        };
        let (sums, removed) = (&version.sums, &*version.applied.removed);
        let source = SumSource { sums, removed, id_of: &id_of, expires_at: &expires_at, now };
        version.with_view(|view| view.summed(&source, from, to, budget))
    }

    fn block_postings(
        &self,
        part: &SummedPart,
        block: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        self.0.with_view(|view| view.block(part, block, out))
    }

    fn id_of(&self, posting: &Posting) -> Result<EventId, StoreError> {
        match self.id(posting.seq)? {
            Some(id) if id.prefix() == posting.rank.prefix => Ok(id),
            _ => id_of_posting(posting, None),
        }
    }

    fn body(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        self.segment_with(seq).map_or(Ok(None), |segment| segment.event(seq))
    }

    fn bodies_after(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let Applied { last_seq, removed, .. } = &self.0.applied;
        let (from, known) = (Seq(after.0.saturating_add(1)), out.len());
        let is_stored = |seq| !removed.contains(seq);
        for segment in self.0.segments_from(from) {
            let left = max - (out.len() - known);
            if left == 0 || segment.first_seq > last_seq.0 {
                break;
            }
            segment.seqs(from, *last_seq, left, &is_stored, out)?;
        }
        Ok(())
    }

    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
        Ok(self.0.applied.pending_removal.contains(seq))
    }

    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        out.extend(self.0.applied.pending_removal.seqs().take(max));
        Ok(())
    }

    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        self.0.with_view(|view| view.tombstone(key))
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        Ok(self.0.applied.last_seq)
    }

    fn unlogged_removals(&self) -> Result<u64, StoreError> {
        Ok(self.0.applied.unlogged_removals)
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        let Applied { events, pending_removal, .. } = &self.0.applied;
        Ok(Stats { events: *events, pending_removal: pending_removal.len(), bytes: self.0.bytes() })
    }
}
