//! The state of the maintenance, and its changes of the manifest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::{Arc, Weak};

use relay_engine::store::StoreError;
use relay_engine::store::lsm::{Directory, Merge, PageId, PageRef, RemovedSeqs, RewriteQueue, RunId};

use super::blanking::Fence;
use super::disk::{Disk, DiskFile};
use super::manifest::{Applied, Edit, Manifest, SegmentEntry, State};
use super::packing::Packing;
use super::page_files::PageWriter;
use super::version::Version;
use super::{Store, lock};

/// The state that steps of the maintenance work on.
#[derive(Debug)]
pub(super) struct Maintainer<F> {
    pub(super) manifest: Manifest<F>,
    /// What the manifest says.
    pub(super) state: State,
    pub(super) pages: PageWriter<F>,
    pub(super) rewrites: RewriteQueue,
    /// Removed events that `rewrites` knows of.
    pub(super) removed: u64,
    /// Pages that merges have to write before the next flush, so that runs do not become more and more while much is written.
    pub(super) merge_debt: usize,
    /// Replaced pages, which may be freed when the last directory with them is dropped.
    /// And when other processes that read have begun no later than in this epoch.
    retired: VecDeque<Retired>,
    /// Pages of an edit that failed and may be on the disk nevertheless.
    uncertain: Vec<PageId>,
    /// Pages that this process does not read any more, and the last epoch in which another one may have begun to.
    replaced: (Vec<PageId>, u64),
    /// By segment with removed events: how many events are in its file, and how many removed ones are no longer in it.
    pub(super) contents: BTreeMap<u64, (u64, u64)>,
    /// How many removed events and sealed segments there were when the last search found no segment of which all events are removed (dead). While
    /// there are as many, there is no further search.
    pub(super) none_dead: Option<(u64, usize)>,
    /// The same for segments of which most events are removed (worn).
    pub(super) none_worn: Option<(u64, usize)>,
    /// Removed events whose bodies have been overwritten, or are in no segment.
    pub(super) blanked: RemovedSeqs,
    /// Those whose bodies are to be overwritten next.
    pub(super) fence: Option<Fence>,
    /// Files of segments that nothing names and could not be removed.
    leftovers: Vec<String>,
    /// Files of segments that an edit names which failed and may be on the disk nevertheless.
    uncertain_files: Vec<String>,
    /// Segments that can't be written again, because they are broken.
    pub(super) broken: BTreeSet<u64>,
    /// The segment that is being packed.
    pub(super) packing: Option<Packing<F>>,
    /// Segments that are not packed, because they are broken, or would not get smaller.
    pub(super) unpacked: BTreeSet<u64>,
}

/// Pages that a step has replaced.
#[derive(Debug)]
struct Retired {
    /// The last with them.
    directory: Weak<Directory>,
    /// In which other processes may have begun to read them.
    epoch: u64,
    pages: Vec<PageId>,
}

/// A change of the manifest, with its parts.
#[derive(Default)]
pub(super) struct Swap {
    pub(super) old: Vec<PageId>,
    pub(super) new: Vec<(RunId, PageRef)>,
    pub(super) merge: Option<(Merge, bool)>,
    pub(super) flushed: Option<Applied>,
    pub(super) segments: Vec<(u64, Option<SegmentEntry>)>,
}

impl<F: DiskFile> Maintainer<F> {
    pub(super) fn new(manifest: Manifest<F>, state: State, mut pages: PageWriter<F>, epoch: u64) -> Self {
        // Other processes may read pages that an earlier manifest named.
        let replaced = (pages.take_free(), epoch);
        let (removed, blanked) = (state.flushed.removed.len(), state.blanked.clone());
        Maintainer {
            manifest,
            state,
            pages,
            rewrites: RewriteQueue::default(),
            removed,
            merge_debt: 0,
            retired: VecDeque::new(),
            uncertain: Vec::new(),
            replaced,
            contents: BTreeMap::new(),
            none_dead: None,
            none_worn: None,
            blanked,
            fence: None,
            leftovers: Vec::new(),
            uncertain_files: Vec::new(),
            broken: BTreeSet::new(),
            packing: None,
            unpacked: BTreeSet::new(),
        }
    }

    /// Frees the slots of pages that no version names any more, unless other processes may read them.
    pub(super) fn reclaim<D: Disk<File = F>>(&mut self, disk: &D) {
        let (replaced, epoch) = &mut self.replaced;
        if !replaced.is_empty() && disk.have_readers_left(*epoch) {
            self.pages.free(std::mem::take(replaced));
        }
        let is_free = |it: &Retired| it.directory.strong_count() == 0 && disk.have_readers_left(it.epoch);
        while self.retired.front().is_some_and(is_free) {
            if let Some(Retired { pages, .. }) = self.retired.pop_front() {
                self.pages.free(pages);
            }
        }
    }

    /// Removes a file that nothing names; whoever reads it still has it open. If that fails, it is tried again.
    pub(super) fn remove_file<D: Disk<File = F>>(&mut self, disk: &D, name: String) {
        self.leftovers.push(name);
        self.remove_leftovers(disk);
    }

    /// A file of this name is about to be made: what could not be removed of an earlier one is not to be removed any more.
    pub(super) fn reuse_name(&mut self, name: &str) {
        self.leftovers.retain(|leftover| leftover != name);
    }

    /// The edit that names this file failed. When the manifest has been replaced nothing names it, and it is removed.
    pub(super) fn remove_file_once_unnamed(&mut self, name: String) {
        self.uncertain_files.push(name);
    }

    /// Tries to remove what could not be removed.
    pub(super) fn remove_leftovers<D: Disk<File = F>>(&mut self, disk: &D) {
        self.leftovers.retain(|name| match disk.remove(name) {
            Ok(()) => false,
            Err(error) => error.kind() != ErrorKind::NotFound,
        });
    }

    /// Writes the whole state as a new manifest.
    pub(super) fn replace_manifest<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), StoreError> {
        self.state.blanked = self.blanked.clone();
        self.manifest.replace(disk, &self.state)?;
        if !self.uncertain.is_empty() {
            self.replaced.0.append(&mut self.uncertain);
            self.replaced.1 = disk.epoch();
        }
        self.leftovers.append(&mut self.uncertain_files);
        self.remove_leftovers(disk);
        Ok(())
    }

    /// To be called before anything is written. If writing the last edit failed, it may be on the disk nevertheless, so the manifest is replaced.
    pub(super) fn mend_manifest<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), StoreError> {
        if self.manifest.is_broken() { self.replace_manifest(disk) } else { Ok(()) }
    }

    /// Makes a swap durable.
    pub(super) fn commit(&mut self, swap: &Swap) -> Result<(), StoreError> {
        let flushed = swap.flushed.as_ref();
        let edit = Edit {
            removed_pages: &swap.old,
            added_pages: &swap.new,
            merges: swap.merge.iter().cloned().collect(),
            flushed: flushed.map(|after| (after, after.removed.changed_since(&self.state.flushed.removed))),
            segments: swap.segments.clone(),
            blanked: self.blanked.changed_since(&self.state.blanked),
        };
        if let Err(error) = self.manifest.append(&edit) {
            self.uncertain.extend(swap.new.iter().map(|(_, page)| page.id));
            return Err(error);
        }
        self.state.directory.remove(&swap.old);
        self.state.directory.insert_all(swap.new.iter().cloned());
        if let Some((merge, is_done)) = swap.merge.clone() {
            self.state.directory.set_merge(merge, is_done);
        }
        if let Some(flushed) = flushed {
            self.state.flushed = flushed.clone();
        }
        if self.state.blanked.len() != self.blanked.len() {
            self.state.blanked = self.blanked.clone();
        }
        for (number, entry) in &swap.segments {
            match entry {
                Some(entry) => drop(self.state.segments.insert(*number, *entry)),
                None => drop(self.state.segments.remove(number)),
            }
        }
        Ok(())
    }
}

impl<D: Disk> Store<D> {
    /// Publishes a version with what the manifest says, changed by `change`: pages were replaced, and those that are new were made
    /// without postings of the events in `removed`.
    pub(super) fn install(
        &self,
        maintainer: &mut Maintainer<D::File>,
        old: Vec<PageId>,
        new: &[(RunId, PageRef)],
        removed: &RemovedSeqs,
        change: impl FnOnce(&mut Version<D::File>),
    ) {
        let _log = lock(&self.log);
        let before = self.version();
        let mut version = Version::clone(&before);
        version.directory = Arc::new(maintainer.state.directory.clone());
        version.pages = Arc::clone(&maintainer.pages.files);
        let new = new.iter().map(|(_, page)| page);
        Arc::make_mut(&mut version.counts).replace(&old, new, removed, &version.applied.removed);
        version.sums.replace(&old, &version.directory);
        change(&mut version);
        self.publish(version);
        // In the order of directories: a slot is free when all before are gone too.
        let directory = Arc::downgrade(&before.directory);
        maintainer.retired.push_back(Retired { directory, epoch: self.disk.epoch(), pages: old });
    }
}
