//! The native store: LMDB, one file, durable at each commit.
//!
//! ```text
//! database    key                         value
//! event       seq:8                       canonical JSON
//! key         posting | id | expiry       postings    keys: see relay_engine::store::kv; values: see `posting_blocks`
//! tombstone   tombstone key               until:8
//! hidden      number:8                    a row of bits, one for each event that is pending removal (the name is an old one)
//! meta        "schema"                    1:8, or 2:8 while any event is pending removal, or 3:8 if there are hashed tombstones
//!             "last_seq"                  seq:8       only if the event of the last seq was removed
//!             "unlogged_removals"         count:8     removals that are not in the log; missing counts as 0
//!
//! All integers are big-endian.
//! ```
//!
//! One database holds every kind of key, because the cost of a small commit is the number of pages it touches, not
//! their bytes. LMDB's own duplicates (`DUPSORT`) are not used, because a cursor of `heed` cannot be placed among
//! them. A write is collected in memory and applied in the order of keys at its end. The backend knows no rule of
//! the relay.

mod error;
mod open;
mod posting_blocks;
mod reserve;
mod snapshot;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heed::byteorder::BigEndian;
use heed::types::{Bytes, Str, U64};
use heed::{CommitOrAbort, CompactionOption, Database, Env, PutFlags, RoTxn, RwTxn, WithoutTls};
use relay_engine::store::kv::{Change, KeySource, KvTransaction, Overlay, PendingRemovalRow};
use relay_engine::store::{Backend, REMOVED_KEYS_MAX, Seq, StoreError, TermClasses};

pub use error::OpenError;
use error::store_error;
pub(crate) use open::is_in_use;
use posting_blocks::PostingBlocks;
pub(crate) use reserve::Reserve;
use snapshot::Snapshot;

/// The layout while no event is pending removal, and while any is: versions that would serve events pending removal know only the first.
/// Others are refused.
const SCHEMA: u64 = 1;
const SCHEMA_WITH_PENDING_REMOVALS: u64 = 2;
/// The layout once tombstones were copied of which only the hashes are known, whether or not events are pending removal: versions that
/// do not look for these would store again what they deleted.
const SCHEMA_WITH_HASHED_TOMBSTONES: u64 = 3;
const SCHEMAS: std::ops::RangeInclusive<u64> = SCHEMA..=SCHEMA_WITH_HASHED_TOMBSTONES;
const SCHEMA_KEY: &str = "schema";
const LAST_SEQ_KEY: &str = "last_seq";
/// [`Reader::unlogged_removals`](relay_engine::store::Reader::unlogged_removals), of all processes. Missing counts as 0.
const UNLOGGED_REMOVALS_KEY: &str = "unlogged_removals";
/// Number of writes between two checks, which free the reader slots of processes that have died.
const WRITES_PER_CHECK: usize = 256;

/// Size of the file that finds out whether the disk is full: more than fits into the metadata of a file system.
const PROBE_BYTES: usize = 1 << 16;

type Be64 = U64<BigEndian>;

/// How to open a [`LmdbBackend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LmdbOptions {
    /// Address space to reserve, in bytes: the upper bound of the database's size. It costs neither memory nor disk.
    /// If the operating system refuses it, half of it is tried, and so on.
    pub map_bytes_max: usize,
    /// Whether a commit waits for the disk (fsync). With `false` a power cut loses acknowledged events and may
    /// corrupt the database; for benches only.
    pub sync: bool,
    /// Bytes of the disk, in a file `reserve` beside the database, and of the map (at most an eighth of it) that are kept
    /// for removing events when nothing else fits any more. 0: none.
    pub reserve_bytes: u64,
    /// [`Backend::removed_keys_max`].
    pub removed_keys_max: usize,
}

impl Default for LmdbOptions {
    fn default() -> Self {
        LmdbOptions {
            map_bytes_max: 1 << 40,
            sync: true,
            reserve_bytes: 0,
            removed_keys_max: REMOVED_KEYS_MAX,
        }
    }
}

/// Events in an LMDB database. Clones share it; threads may read while one writes.
#[derive(Clone, Debug)]
pub struct LmdbBackend {
    env: Env<WithoutTls>,
    databases: Databases,
    removed_keys_max: usize,
    writes: Arc<AtomicUsize>,
    reserve: Arc<Reserve>,
}

#[derive(Clone, Copy, Debug)]
struct Databases {
    event: Database<'static, Be64, Bytes>,
    key: PostingBlocks,
    tombstone: Database<'static, Bytes, Be64>,
    /// `None` in a database of an earlier version that is opened read-only, or could not be extended because the disk is full.
    pending_removal: Option<Database<'static, Be64, Bytes>>,
    meta: Database<'static, Str, Be64>,
}

impl LmdbBackend {
    /// Opens the database in folder `path`, creating both where missing.
    ///
    /// # Errors
    /// [`OpenError`]; a folder or an empty database may have been created, nothing else is changed on disk. A
    /// process can open a folder only once at a time.
    pub fn open(path: &Path, options: &LmdbOptions) -> Result<Self, OpenError> {
        make_folder(path)?;
        let env = open::environment(path, options)?;
        let found = find(&env, path)?;
        match found {
            Found::Schema(found) if SCHEMAS.contains(&found) => {}
            Found::Nothing => {}
            Found::Schema(found) => {
                return Err(OpenError::Schema { path: path.to_owned(), found, known: *SCHEMAS.end() });
            }
            Found::Something => return Err(OpenError::NotARelayDatabase(path.to_owned())),
        }
        // These are the first pages of a new database, so a full disk is noticed here.
        let databases = match create_databases(&env) {
            Ok(databases) => databases,
            // The database of an earlier version lacks only what can be done without.
            Err(error) => match open_databases(&env) {
                Ok(Some(databases)) => databases,
                _ => {
                    return Err(OpenError::store(
                        path,
                        classify_write_error(&path.join("space.probe"), error),
                    ));
                }
            },
        };
        Ok(Self::new(env, databases, options, Reserve::open(path, options.reserve_bytes)))
    }

    /// Opens the database in folder `path` for reading, like [`LmdbBackend::open`]. A folder that can't be written is
    /// read without locks, which is refused while another process has it open. Every write fails then.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to_read(path: &Path, options: &LmdbOptions) -> Result<Self, OpenError> {
        match Self::open(path, options) {
            Err(OpenError::Io(_, error)) if open::is_read_only(&error) => {}
            opened => return opened,
        }
        let env = open::environment_to_read(path, options)?;
        match find(&env, path)? {
            Found::Schema(found) if SCHEMAS.contains(&found) => {}
            Found::Schema(found) => {
                return Err(OpenError::Schema { path: path.to_owned(), found, known: *SCHEMAS.end() });
            }
            Found::Nothing | Found::Something => return Err(OpenError::NotARelayDatabase(path.to_owned())),
        }
        let databases = open_databases(&env).map_err(|error| OpenError::lmdb(path, error))?;
        let databases = databases.ok_or_else(|| OpenError::NotARelayDatabase(path.to_owned()))?;
        Ok(Self::new(env, databases, options, Reserve::none(path)))
    }

    fn new(
        env: Env<WithoutTls>,
        databases: Databases,
        options: &LmdbOptions,
        reserve: Reserve,
    ) -> LmdbBackend {
        let (removed_keys_max, reserve) = (options.removed_keys_max, Arc::new(reserve));
        LmdbBackend { env, databases, removed_keys_max, writes: Arc::default(), reserve }
    }

    /// Writes a compacted copy of the last committed state to `file`, which must not exist.
    ///
    /// Readers and writers may continue; the database cannot reuse free pages meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; the file may be left incomplete.
    pub fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let mut target = fs::File::create_new(file).map_err(|error| store_error(error.into()))?;
        self.env.copy_to_file(&mut target, CompactionOption::Enabled).map_err(store_error)?;
        target.sync_all().map_err(|error| store_error(error.into()))
    }

    /// The folder of the database.
    pub fn path(&self) -> PathBuf {
        self.env.path().to_owned()
    }

    fn apply(
        &self,
        txn: &mut RwTxn<'_>,
        overlay: &Overlay,
        pending_removal_rows: &[(u64, PendingRemovalRow)],
        last_seq: Seq,
    ) -> heed::Result<()> {
        let Databases { event, key, tombstone, meta, .. } = &self.databases;
        let changed = |wanted| {
            overlay.keys().filter(move |(_, change)| *change == wanted).map(|(key, _)| key.as_bytes())
        };
        for stored in changed(Change::Remove) {
            key.remove(txn, stored)?;
        }
        key.add(txn, changed(Change::Add))?;
        for (seq, body) in overlay.bodies() {
            match body {
                Some(json) => event.put_with_flags(txn, PutFlags::APPEND, &seq.0, json)?,
                None => {
                    event.delete(txn, &seq.0)?;
                }
            }
        }
        for (stored, until) in overlay.tombstones() {
            tombstone.put(txn, stored, &until)?;
            if is_hashed_tombstone(stored) {
                meta.put(txn, SCHEMA_KEY, &SCHEMA_WITH_HASHED_TOMBSTONES)?;
            }
        }
        self.apply_pending_removals(txn, pending_removal_rows)?;
        // The newest stored event has the last sequence number, unless it was removed.
        let newest = event.last(txn)?.map_or(0, |(seq, _)| seq);
        if newest < last_seq.0 {
            meta.put(txn, LAST_SEQ_KEY, &last_seq.0)?;
        }
        if overlay.has_unlogged_removal() {
            let before = meta.get(txn, UNLOGGED_REMOVALS_KEY)?.unwrap_or(0);
            meta.put(txn, UNLOGGED_REMOVALS_KEY, &(before + 1))?;
        }
        Ok(())
    }

    /// Writes down which events are pending removal, and the layout that follows from whether any is.
    fn apply_pending_removals(
        &self,
        txn: &mut RwTxn<'_>,
        rows: &[(u64, PendingRemovalRow)],
    ) -> heed::Result<()> {
        let (Some(pending_removal), false) = (self.databases.pending_removal, rows.is_empty()) else {
            return Ok(());
        };
        for (number, row) in rows {
            if *row == PendingRemovalRow::EMPTY {
                pending_removal.delete(txn, number)?;
            } else {
                pending_removal.put(txn, number, row.as_bytes())?;
            }
        }
        if self.databases.meta.get(txn, SCHEMA_KEY)? == Some(SCHEMA_WITH_HASHED_TOMBSTONES) {
            return Ok(());
        }
        let layout = if pending_removal.is_empty(txn)? { SCHEMA } else { SCHEMA_WITH_PENDING_REMOVALS };
        self.databases.meta.put(txn, SCHEMA_KEY, &layout)
    }
}

/// Whether only the hash of a tombstone is known, by its key. These are before all others.
fn is_hashed_tombstone(key: &[u8]) -> bool {
    key.first() == Some(&b'd')
}

impl LmdbBackend {
    /// A write that leaves `reserved` bytes of the map free.
    fn write_within<T>(
        &self,
        work: impl FnOnce(&mut <Self as Backend>::Writer<'_>) -> Result<T, StoreError>,
        reserved: usize,
    ) -> Result<T, StoreError> {
        if self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(WRITES_PER_CHECK) {
            // A command that was killed while reading would pin pages until the next start.
            self.env.clear_stale_readers().map_err(store_error)?;
        }
        let txn = self.env.write_txn().map_err(store_error)?;
        if reserved > 0 {
            self.check_reserve(&txn, reserved)?;
        }
        let mut writer = KvTransaction::writer(Snapshot::new(self, txn));
        let done = work(&mut writer)?;
        let (snapshot, overlay) = writer.into_parts();
        if !overlay.is_empty() {
            let last_seq = snapshot.last_seq()?.max(overlay.last_seq());
            let pending_removal_rows =
                overlay.pending_removal_rows(|number| snapshot.pending_removal_row(number))?;
            let mut txn = snapshot.into_txn();
            self.apply(&mut txn, &overlay, &pending_removal_rows, last_seq).map_err(store_error)?;
            let probe = self.env.path().join("space.probe");
            txn.commit().map_err(|error| classify_write_error(&probe, error))?;
        }
        Ok(done)
    }

    /// Refuses a write if fewer than `reserved` bytes of the map are free, counting both what is beyond the last page
    /// and the pages that were freed; or if the file's free pages are all that is left of the reserve.
    fn check_reserve(&self, txn: &RwTxn<'_>, reserved: usize) -> Result<(), StoreError> {
        let missing = self.reserve.refill();
        let info = self.env.info();
        let page_bytes = self.env.unnamed_database_stat().page_size as usize;
        if missing == 0 && (info.last_page_number + 1) * page_bytes + reserved <= info.map_size {
            return Ok(());
        }
        let Databases { event, key, tombstone, pending_removal, meta } = &self.databases;
        let stats = [event.stat(txn), key.0.stat(txn), tombstone.stat(txn), meta.stat(txn)];
        let mut used = 0;
        for stat in stats.into_iter().chain(pending_removal.map(|pending_removal| pending_removal.stat(txn)))
        {
            used += stat.map_err(store_error)?.non_free_page_size();
        }
        let file_bytes =
            usize::try_from(self.env.real_disk_size().map_err(store_error)?).unwrap_or(usize::MAX);
        if used + reserved <= info.map_size && (missing == 0 || used + missing <= file_bytes) {
            return Ok(());
        }
        Err(StoreError::Full("no space left but what is kept for removing events".to_owned()))
    }
}

impl Backend for LmdbBackend {
    type Reader<'a> = KvTransaction<Snapshot<'a, RoTxn<'a, WithoutTls>>, ()>;
    type Writer<'a> = KvTransaction<Snapshot<'a, RwTxn<'a>>, Overlay>;

    fn classes(&self) -> TermClasses {
        TermClasses { all: true, author_kind: true }
    }

    /// From the options; unlimited if the disk was too full to create the database of events pending removal.
    fn removed_keys_max(&self) -> usize {
        self.databases.pending_removal.map_or(usize::MAX, |_| self.removed_keys_max)
    }

    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        let txn = self.env.read_txn().map_err(store_error)?;
        Ok(KvTransaction::reader(Snapshot::new(self, txn)))
    }

    /// One thread writes at a time, others wait; calling it inside `work` is a deadlock.
    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_within(work, self.reserve.map_bytes(self.env.info().map_size))
    }

    fn write_from_reserve<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.reserve.with_reserve(|| self.write_within(work, 0))
    }
}

/// Creates a folder for a database, if it does not exist.
///
/// # Errors
/// [`OpenError::Full`] or [`OpenError::Io`].
pub fn make_folder(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).map_err(|error| OpenError::io(path, error))
}

/// Finds out whether a failed write means that the disk is full. A disk that becomes full accepts only a part of a
/// write, and LMDB reports a short write as an input/output error. `probe` is the path of a file that may be created
/// for the test.
fn classify_write_error(probe: &Path, error: heed::Error) -> StoreError {
    let sorted = store_error(error);
    if !matches!(sorted, StoreError::Failed(_)) {
        return sorted;
    }
    let written = fs::write(probe, [0; PROBE_BYTES]);
    let _ = fs::remove_file(probe);
    match written.map_err(|error| store_error(error.into())) {
        Err(full @ StoreError::Full(_)) => full,
        _ => sorted,
    }
}

/// Contents of an LMDB environment.
enum Found {
    /// No databases.
    Nothing,
    /// A relay's databases, with this schema version.
    Schema(u64),
    /// Other databases.
    Something,
}

fn find(env: &Env<WithoutTls>, path: &Path) -> Result<Found, OpenError> {
    env.read_txn().and_then(|txn| read_schema(env, txn)).map_err(|error| OpenError::lmdb(path, error))
}

fn read_schema(env: &Env<WithoutTls>, txn: RoTxn<'_, WithoutTls>) -> heed::Result<Found> {
    let found = env.open_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let found = match opener.open_database::<Str, Be64>(txn, Some("meta"))? {
            Some(meta) => meta.get(txn, SCHEMA_KEY)?.map_or(Found::Something, Found::Schema),
            None => Found::Something,
        };
        Ok(CommitOrAbort::<(), _>::Abort(found))
    })?;
    let names = env.unnamed_database_stat().entries;
    Ok(if names == 0 { Found::Nothing } else { found.unwrap_abort() })
}

fn create_databases(env: &Env<WithoutTls>) -> heed::Result<Databases> {
    let txn = env.write_txn()?;
    let committed = env.create_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let event = opener.create_database::<Be64, Bytes>(txn, Some("event"))?;
        let key = opener.create_database::<Bytes, Bytes>(txn, Some("key"))?;
        let tombstone = opener.create_database::<Bytes, Be64>(txn, Some("tombstone"))?;
        let pending_removal = opener.create_database::<Be64, Bytes>(txn, Some("hidden"))?;
        let meta = opener.create_database::<Str, Be64>(txn, Some("meta"))?;
        if meta.get(txn, SCHEMA_KEY)?.is_none() {
            meta.put(txn, SCHEMA_KEY, &SCHEMA)?;
        }
        Ok(CommitOrAbort::<_, ()>::Commit((event, key, tombstone, pending_removal, meta)))
    })?;
    let (event, key, tombstone, pending_removal, meta) = committed.unwrap_commit();
    Ok(Databases { event, key: PostingBlocks(key), tombstone, pending_removal: Some(pending_removal), meta })
}

/// The databases, if all of them exist.
fn open_databases(env: &Env<WithoutTls>) -> heed::Result<Option<Databases>> {
    let txn = env.read_txn()?;
    let opened = env.open_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let event = opener.open_database::<Be64, Bytes>(txn, Some("event"))?;
        let key = opener.open_database::<Bytes, Bytes>(txn, Some("key"))?;
        let tombstone = opener.open_database::<Bytes, Be64>(txn, Some("tombstone"))?;
        let pending_removal = opener.open_database::<Be64, Bytes>(txn, Some("hidden"))?;
        let meta = opener.open_database::<Str, Be64>(txn, Some("meta"))?;
        Ok(CommitOrAbort::<_, ()>::Commit((event, key, tombstone, pending_removal, meta)))
    })?;
    let (Some(event), Some(key), Some(tombstone), pending_removal, Some(meta)) = opened.unwrap_commit()
    else {
        return Ok(None);
    };
    Ok(Some(Databases { event, key: PostingBlocks(key), tombstone, pending_removal, meta }))
}
