//! The native store on files: a log of events, and pages of their keys. It is durable at each commit.
//!
//! ```text
//! LOCK, READERS*   locked while a process has the folder open                                     folder
//! log-<n>          batches, one for each commit: events, numbers of removed ones, tombstones      segment, batch
//! pages-<n>        slots with pages of sorted keys                                                page_files
//! manifest-<n>     which pages and segments there are, and up to where the log is in the pages    manifest
//! ```
//!
//! A commit is one write at the end of the log and one sync. Keys are kept in memory, sorted, and derived again from the end of
//! the log when the database is opened. In the background they are flushed to pages, runs of pages are merged, segments
//! of which most events were removed are written again, and old segments packed (`maintenance`), in steps that change the manifest once
//! each. How keys, runs and merges work is in [`relay_engine::store::lsm`].
//!
//! Bodies of removed events are overwritten where they are as soon as nobody can read them (`blanking`).
//!
//! Readers take the current version and keep it; they wait for nobody. A slot is used again when no version names it any
//! more. All bytes are covered by checksums (CRC-32C); integers are little-endian.
//!
//! | file | role |
//! |---|---|
//! | `disk`, `folder` | what is needed of a disk; the system's |
//! | `codec` | integers, frames with checksums |
//! | `batch`, `segment`, `offsets`, `log` | a commit in the log; a file of it, and where its events are; its end |
//! | `packed` | events that are packed, and what those of a segment have in common |
//! | `page_files` | pages in slots |
//! | `manifest` | what there is |
//! | `version` | one state, to be read |
//! | `recovery` | opening |
//! | `readers`, `beside` | processes that read while another one writes, as that one knows them; what it has committed since |
//! | `maintenance`, `maintainer` | what is done in the background: its thread and steps; what they work on |
//! | `flush`, `blanking`, `cleaning`, `packing` | steps: keys to pages; bodies of removed events; segments without removed events; packed ones |
//! | `check` | all checksums, for `relay verify-db` |
//! | `salvage` | what is whole in a broken database, for its `--salvage` |

mod batch;
mod beside;
mod blanking;
mod check;
mod cleaning;
mod codec;
mod disk;
mod flush;
mod folder;
mod log;
mod maintainer;
mod maintenance;
mod manifest;
mod offsets;
mod open_error;
mod options;
mod packed;
mod packing;
mod page_files;
mod readers;
mod recovery;
mod salvage;
mod segment;
mod version;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use relay_engine::store::kv::{Key, KvTransaction, Overlay};
use relay_engine::store::lsm::tombstone_keys;
use relay_engine::store::{Backend, Seq, StoreError, TermClasses};

pub use check::{Checked, Damage};
pub use disk::{Disk, DiskFile};
pub use folder::{Folder, MappedFile};
pub use open_error::LogOpenError;
pub use options::LogOptions;
pub use readers::Lease;
pub use salvage::{Salvaged, salvage};
pub use version::Snapshot;

use batch::NewBatch;
use beside::Beside;
use log::Log;
use maintainer::Maintainer;
use maintenance::Signal;
use manifest::Position;
use recovery::{Change, Mode, Recovered};
use version::Version;

use crate::lmdb::Reserve;

const CLASSES: TermClasses = TermClasses { all: true, author_kind: true };
/// Multiple of the size at which keys are flushed that they may reach before writes wait.
const OVERDUE_FACTOR: usize = 4;
/// How often a folder that another process writes is opened before something is wrong with it.
const READ_TRIES: u32 = 20;

/// Events on files. Clones share it; threads may read while one writes.
pub struct LogBackend<D: Disk = Folder>(Arc<Shared<D>>);

impl<D: Disk> Clone for LogBackend<D> {
    fn clone(&self) -> Self {
        LogBackend(Arc::clone(&self.0))
    }
}

impl<D: Disk> std::fmt::Debug for LogBackend<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogBackend").field("options", &self.0.store.options).finish_non_exhaustive()
    }
}

/// The store and its thread, which ends with the last clone.
struct Shared<D: Disk> {
    store: Arc<Store<D>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    reserve: Option<Reserve>,
}

impl<D: Disk> Drop for Shared<D> {
    fn drop(&mut self) {
        self.store.signal.lock().unwrap_or_else(PoisonError::into_inner).is_ending = true;
        self.store.signalled.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It has nothing to say: a step that failed is made again when the database is opened.
            let _ = thread.join();
        }
    }
}

/// What the threads share. Locks are taken in the order of the fields.
struct Store<D: Disk> {
    disk: D,
    options: LogOptions,
    is_read_only: bool,
    /// If another process writes what is read here.
    beside: Option<Beside>,
    maintainer: Mutex<Maintainer<D::File>>,
    /// Whoever has it may change the version.
    log: Mutex<Log<D::File>>,
    version: RwLock<Arc<Version<D::File>>>,
    signal: Mutex<Signal>,
    signalled: Condvar,
}

/// What a database was opened for.
enum Access {
    Write,
    /// Beside another process, which writes, or not.
    Read(Option<Beside>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a lock guards is changed at the end of each step, after all that may panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk> Store<D> {
    fn version(&self) -> Arc<Version<D::File>> {
        Arc::clone(&self.version.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The caller has the lock of the log.
    fn publish(&self, version: Version<D::File>) {
        *self.version.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(version);
    }
}

/// Whether a file of this name is part of a database.
pub(crate) fn is_file_name(name: &str) -> bool {
    is_manifest_name(name)
        || segment::parse_name(name).is_some()
        || page_files::parse_name(name).is_some()
        || folder::is_lock(name)
}

/// Whether a file of this name says that there is a database.
pub(crate) fn is_manifest_name(name: &str) -> bool {
    manifest::parse_name(name).is_some()
}

impl LogBackend<Folder> {
    /// Opens the database in folder `path`, creating both where missing. `reserve_bytes` of the disk are kept for removing events when
    /// nothing else fits any more; 0: none.
    ///
    /// # Errors
    /// [`LogOpenError`]. What was found is as it was then, but for what no commit has made: a batch at the end of the log, or files
    /// that were not finished.
    pub fn open(path: &Path, options: LogOptions, reserve_bytes: u64) -> Result<Self, LogOpenError> {
        std::fs::create_dir_all(path).map_err(|error| LogOpenError::io(path, error))?;
        let folder = Folder::lock(path).map_err(|error| LogOpenError::lock(path, error))?;
        let reserve = Reserve::at(path, "reserve", reserve_bytes);
        Self::start(folder, options, Some(reserve))
            .map_err(|error| LogOpenError::Store(path.to_owned(), error))
    }

    /// Opens the database in folder `path` for reading, beside other processes that do, and beside one that writes. What that one
    /// commits later is found soon, by readers that begin then ([`LogBackend::refresh`]: at once); how soon depends on how
    /// long opening takes, of which there are a million events in a tenth of a second. Nothing in the folder is changed, and every write
    /// fails.
    ///
    /// # Errors
    /// [`LogOpenError`].
    pub fn open_to_read(path: &Path, options: LogOptions) -> Result<Self, LogOpenError> {
        if !path.is_dir() {
            return Err(LogOpenError::NoDatabase(path.to_owned()));
        }
        let mut tries = 0;
        loop {
            let begun = Instant::now();
            let mut folder = Folder::lock_to_read(path).map_err(|error| LogOpenError::lock(path, error))?;
            let mode = if folder.is_beside_writer() { Mode::ReadBeside } else { Mode::Read };
            match recovery::open(&folder, &options.bounded(), CLASSES, mode) {
                Ok(Some(mut recovered)) => {
                    recovered.version.lease = folder.lease.take().map(Arc::new);
                    let beside = (mode == Mode::ReadBeside).then(|| Beside::new(begun.elapsed()));
                    return Ok(Self::with(folder, options, recovered, Access::Read(beside), None));
                }
                Ok(None) if mode == Mode::Read => return Err(LogOpenError::NoDatabase(path.to_owned())),
                // Files may have come and gone while they were being opened.
                Ok(None) | Err(_) if mode == Mode::ReadBeside && tries < READ_TRIES => tries += 1,
                Ok(None) => return Err(LogOpenError::NoDatabase(path.to_owned())),
                Err(error) => return Err(LogOpenError::Store(path.to_owned(), error)),
            }
        }
    }

    /// Whether there is such a database in a folder.
    pub fn is_in(path: &Path) -> bool {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_str().is_some_and(is_manifest_name))
    }
}

impl<D: Disk> LogBackend<D> {
    /// Opens the database of a disk, or makes one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_on(disk: D, options: LogOptions) -> Result<Self, StoreError> {
        Self::start(disk, options, None)
    }

    fn start(disk: D, options: LogOptions, reserve: Option<Reserve>) -> Result<Self, StoreError> {
        let found = recovery::open(&disk, &options.bounded(), CLASSES, Mode::Write)?;
        let recovered = found.ok_or_else(|| StoreError::Failed("no database was made".into()))?;
        Ok(Self::with(disk, options, recovered, Access::Write, reserve))
    }

    fn with(
        disk: D,
        options: LogOptions,
        recovered: Recovered<D::File>,
        access: Access,
        reserve: Option<Reserve>,
    ) -> Self {
        let (is_read_only, beside) = match access {
            Access::Write => (false, None),
            Access::Read(beside) => (true, beside),
        };
        let epoch = disk.epoch();
        let Recovered { manifest, state, pages, log, version } = recovered;
        let store = Arc::new(Store {
            disk,
            options: options.bounded(),
            is_read_only,
            beside,
            maintainer: Mutex::new(Maintainer::new(manifest, state, pages, epoch)),
            log: Mutex::new(log),
            version: RwLock::new(Arc::new(version)),
            signal: Mutex::default(),
            signalled: Condvar::new(),
        });
        let thread = (options.has_thread && !is_read_only).then(|| {
            let store = Arc::clone(&store);
            // What was due when the process last ended.
            lock(&store.signal).is_wanted = true;
            std::thread::Builder::new()
                .name("relay-store".to_owned())
                .spawn(move || store.maintain_in_background())
        });
        // Without a thread, writes do its work.
        let thread = thread.and_then(Result::ok);
        LogBackend(Arc::new(Shared { store, thread: Mutex::new(thread), reserve }))
    }

    /// Whether it is read beside a process that writes, or wrote when it was opened.
    pub(crate) fn is_beside_writer(&self) -> bool {
        self.0.store.beside.is_some()
    }

    /// What another process has committed until now is found by all readers that begin from now on. Without one that writes beside,
    /// nothing changes.
    ///
    /// # Errors
    /// [`StoreError`]. Readers find what they found before.
    pub fn refresh(&self) -> Result<(), StoreError> {
        self.0.store.refresh()
    }

    /// Does all maintenance that is due now, as its thread does by itself. What a snapshot may still read, or could not be done,
    /// is left.
    pub fn maintain(&self) {
        self.0.store.maintain_now();
    }

    /// How many runs of pages there are: a look-up may have to look into each.
    pub fn runs(&self) -> usize {
        self.0.store.version().directory.runs().count()
    }

    fn has_thread(&self) -> bool {
        lock(&self.0.thread).is_some()
    }

    fn write_within<T>(
        &self,
        work: impl FnOnce(&mut <Self as Backend>::Writer<'_>) -> Result<T, StoreError>,
        from_reserve: bool,
    ) -> Result<T, StoreError> {
        let store = &*self.0.store;
        let has_thread = self.has_thread();
        let overdue = store.wait_while_overdue(has_thread);
        let mut log = lock(&store.log);
        let version = store.version();
        let mut writer = KvTransaction::writer(Snapshot(Arc::clone(&version)));
        let done = work(&mut writer)?;
        let (_, overlay) = writer.into_parts();
        if overlay.is_empty() {
            return Ok(done);
        }
        if store.is_read_only {
            return Err(StoreError::Failed("the folder is open for reading only".into()));
        }
        store.check_thread()?;
        if overlay.last_seq() > Seq(0) {
            // A write that only removes may free the space that is missing.
            overdue?;
        }
        store.commit(&mut log, &version, &overlay, from_reserve)?;
        drop((log, version));
        if has_thread {
            store.signal_if_due();
        } else {
            store.maintain_now();
        }
        Ok(done)
    }
}

impl<D: Disk> Store<D> {
    /// Adds an overlay to the log and publishes the version with it.
    fn commit(
        &self,
        log: &mut Log<D::File>,
        before: &Version<D::File>,
        overlay: &Overlay,
        from_reserve: bool,
    ) -> Result<(), StoreError> {
        let tombstones = tombstone_keys(overlay);
        let applied = &before.applied;
        let last_seq = applied.last_seq.max(overlay.last_seq());
        let serial = applied.position.serial + 1;
        let mut batch = NewBatch::of(overlay, &tombstones, serial, last_seq);
        let next_seq = Seq(applied.last_seq.0 + 1);
        log.append(&self.disk, &self.options, &mut batch, next_seq, from_reserve)?;

        let mut version = before.clone();
        if version.segments.last().is_none_or(|last| !Arc::ptr_eq(last, &log.segment)) {
            let segments = Arc::make_mut(&mut version.segments);
            // One without a batch may have been made anew.
            segments.retain(|segment| segment.number != log.segment.number);
            segments.push(Arc::clone(&log.segment));
        }
        let mut keys: Vec<Key> = overlay.added_keys().copied().chain(tombstones).collect();
        keys.sort();
        version.memtable.add(keys);
        version.unflushed_bytes += batch.bytes.len() as u64;
        let removed: Vec<Seq> =
            overlay.bodies().filter(|(_, body)| body.is_none()).map(|(seq, _)| seq).collect();
        if !removed.is_empty() {
            Arc::make_mut(&mut version.counts).subtract(&version.directory, overlay.removed_keys());
        }
        let pending: Vec<(Seq, bool)> = overlay.pending_removals().collect();
        let position = Position { segment: log.segment.number, offset: log.segment.end(), serial };
        let change = Change {
            added: batch.lines.len() as u64,
            removed: &removed,
            pending: &pending,
            last_seq,
            has_unlogged_removal: overlay.has_unlogged_removal(),
        };
        change.apply_to(&mut version.applied, position);
        if !removed.is_empty() {
            version.sums.subtract(overlay.removed_keys(), &version.applied.removed);
        }
        let unreadable = overlay.unreadable();
        if !unreadable.is_empty() {
            Arc::make_mut(&mut version.counts).forget(&version.directory, unreadable);
            version.sums.forget(unreadable);
            let seqs: Vec<u64> = unreadable.iter().map(|seq| seq.0).collect();
            tracing::error!(?seqs, "events that can't be read were removed; run `relay verify-db`");
        }
        self.publish(version);
        Ok(())
    }
}

impl<D: Disk> Backend for LogBackend<D> {
    type Reader<'a> = KvTransaction<Snapshot<D::File>, ()>;
    type Writer<'a> = KvTransaction<Snapshot<D::File>, Overlay>;

    fn classes(&self) -> TermClasses {
        CLASSES
    }

    fn maintenance_failures(&self) -> u64 {
        lock(&self.0.store.signal).failures
    }

    fn removed_keys_max(&self) -> usize {
        self.0.store.options.removed_keys_max
    }

    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        self.0.store.keep_up()?;
        Ok(KvTransaction::reader(Snapshot(self.0.store.version())))
    }

    /// One thread writes at a time, others wait; calling it inside `work` is a deadlock.
    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_within(work, false)
    }

    fn write_from_reserve<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &self.0.reserve {
            Some(reserve) => reserve.with_reserve(|| self.write_within(work, true)),
            None => self.write_within(work, true),
        }
    }
}
