//! The bodies of removed events are overwritten with zeros where they are, so that what was deleted is in no file any more. Cleaning
//! a segment may come much later.
//!
//! A removal is durable in the log first. Then a body is overwritten, once nobody can read it any more: no version without the
//! removal is left, and no other process reads. What has been overwritten and synced is recorded with the next edit of the
//! manifest; after a crash the rest is done again. A line keeps its head, so its batch stays whole, and a body that is not what its
//! checksum says is no damage if its event was removed.

use std::collections::BTreeMap;
use std::sync::atomic::{self, Ordering};
use std::sync::{Arc, Weak};

use relay_engine::store::lsm::RemovedSeqs;
use relay_engine::store::{Seq, StoreError};

use super::batch::LINE_BYTES;
use super::disk::{Disk, DiskFile, store_error};
use super::maintainer::Maintainer;
use super::version::Version;
use super::{Store, lock};

/// Bodies that are overwritten in a step.
const STEP_EVENTS: usize = 1_024;

/// Events whose bodies may be overwritten as soon as nobody has a version of before they were removed.
#[derive(Debug)]
pub(super) struct Fence {
    /// Of these versions.
    readers: Weak<()>,
    /// Of other processes that read, when they had been removed.
    epoch: u64,
    removed: Arc<RemovedSeqs>,
}

impl<D: Disk> Store<D> {
    /// Overwrites some bodies of removed events, or finds out who may still read them. False if there is none, or one must wait.
    pub(super) fn blank(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        let Some(fence) = &maintainer.fence else {
            let _log = lock(&self.log);
            let before = self.version();
            if before.applied.removed.len() == maintainer.blanked.len() {
                return Ok(false);
            }
            let mut version = Version::clone(&before);
            version.readers = Arc::default();
            let (readers, removed) = (Arc::downgrade(&before.readers), Arc::clone(&before.applied.removed));
            maintainer.fence = Some(Fence { readers, epoch: self.disk.epoch(), removed });
            self.publish(version);
            return Ok(true);
        };
        if fence.readers.strong_count() > 0 || !self.disk.have_readers_left(fence.epoch) {
            return Ok(false);
        }
        atomic::fence(Ordering::Acquire);
        let seqs = fence.removed.missing_in(&maintainer.blanked, STEP_EVENTS);
        if seqs.is_empty() {
            maintainer.fence = None;
        }
        self.overwrite(&seqs)?;
        let changed = maintainer.blanked.adding(&seqs);
        maintainer.blanked.commit(changed);
        Ok(true)
    }

    /// Overwrites the bodies of events, durably.
    fn overwrite(&self, seqs: &[Seq]) -> Result<(), StoreError> {
        let version = self.version();
        let mut by_segment: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for seq in seqs {
            let Some(index) = version.segment_of(*seq) else { continue };
            if let Some(offset) = version.segments[index].offset(*seq)? {
                by_segment.entry(index).or_default().push(offset);
            }
        }
        for (index, offsets) in by_segment {
            let segment = &version.segments[index];
            let name = segment.name();
            let failed = |error: std::io::Error| store_error(&name, &error);
            // A file of its own: what the system says of a failed write, whoever writes the log must hear too.
            let file = self.disk.open(&name).map_err(failed)?;
            let mut has_written = false;
            for offset in offsets {
                let head = segment.file.read(offset, LINE_BYTES).map_err(failed)?;
                let bytes = head[4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
                let body = offset + LINE_BYTES as u64;
                if body + bytes as u64 > segment.end() {
                    // Its head is damaged.
                    continue;
                }
                file.write(body, &vec![0; bytes]).map_err(failed)?;
                has_written = true;
            }
            if has_written {
                file.sync().map_err(failed)?;
            }
        }
        Ok(())
    }
}
