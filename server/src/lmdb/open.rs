//! Opening LMDB's environment: what it maps must be there before it is touched.
//!
//! LMDB maps two files. Touching a mapped page that the disk can't give, or that lies behind the end of its file, is
//! a SIGBUS, which ends the process without a word.
//!
//! - `lock.mdb` is written through its map, and LMDB makes it as a hole: its blocks are allocated here first.
//! - `data.mdb` is written by calls, which can fail, and is read through its map: if it ends before its last page, it is
//!   made as long as it claims to be, and what was lost reads as zeros, which LMDB finds corrupt.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::LmdbOptions;
use super::error::OpenError;

/// Two machines' worth of threads; a reader lives for one scan step.
const READERS_MAX: u32 = 1024;
/// More than what `lock.mdb` takes: a cache line for each reader, and a head of a few.
const LOCK_BYTES: u64 = READERS_MAX as u64 * 64 + 4096;
/// Where the search for a map that the machine grants begins to be hopeless.
const MAP_BYTES_MIN: usize = 1 << 20;

/// How a folder is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To read and write, beside other processes.
    Write,
    /// To read, beside other processes.
    Read,
    /// To read what cannot be locked; nobody may write meanwhile.
    ReadUnlocked,
}

/// The environment in folder `path`, which exists.
pub(super) fn environment(path: &Path, options: &LmdbOptions) -> Result<Env<WithoutTls>, OpenError> {
    refuse_second(path)?;
    allocate_lock(path).map_err(|error| OpenError::io(path, error))?;
    let env = map_halving(path, options, Access::Write)?;
    lengthen(&env, path)?;
    Ok(env)
}

/// The same, to read only, of a folder or file that cannot be written.
pub(super) fn environment_to_read(path: &Path, options: &LmdbOptions) -> Result<Env<WithoutTls>, OpenError> {
    refuse_second(path)?;
    let access = match allocate_lock(path) {
        Ok(()) => Access::Read,
        Err(error) if is_read_only(&error) => {
            if is_in_use(path).map_err(|error| OpenError::io(path, error))? {
                return Err(OpenError::CannotLock(path.to_owned()));
            }
            Access::ReadUnlocked
        }
        Err(error) => return Err(OpenError::io(path, error)),
    };
    let env = map_halving(path, options, access)?;
    match missing_bytes(&env) {
        Ok(0) => Ok(env),
        Ok(missing) => Err(OpenError::Short(path.to_owned(), missing)),
        Err(error) => Err(OpenError::lmdb(path, error)),
    }
}

/// Whether something can be read but not written.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// A second look at `lock.mdb` by this process would end the locks of the first when it closes the file.
fn refuse_second(path: &Path) -> Result<(), OpenError> {
    let path = fs::canonicalize(path).map_err(|error| OpenError::io(path, error))?;
    match heed::env_closing_event(&path) {
        Some(_) => Err(OpenError::Open(path)),
        None => Ok(()),
    }
}

/// Makes sure that the disk has what LMDB will write through its map of `lock.mdb`.
fn allocate_lock(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // As LMDB makes it.
        .mode(0o600)
        .open(path.join("lock.mdb"))?;
    let bytes = file.metadata()?.len().max(LOCK_BYTES);
    allocate(&file, bytes)
}

/// Blocks for the first `bytes` bytes of a file; its length stays, because other processes go by it.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    allocate_blocks(file, bytes, true)
}

/// The same, and the file is at least that long afterwards.
pub(super) fn allocate_grown(file: &File, bytes: u64) -> io::Result<()> {
    allocate_blocks(file, bytes, false)
}

#[cfg(target_os = "linux")]
fn allocate_blocks(file: &File, bytes: u64, keeps_len: bool) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = if keeps_len { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
    loop {
        match fallocate(file, flags, 0, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            // A file system that allocates nothing beforehand.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
            done => return done.map_err(io::Error::from),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate_blocks(_: &File, _: u64, _: bool) -> io::Result<()> {
    Ok(())
}

/// Whether some process has the database open: LMDB holds a lock on `lock.mdb` then.
fn is_in_use(path: &Path) -> io::Result<bool> {
    use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
    let file = match File::open(path.join("lock.mdb")) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let all = Flock {
        start: 0,
        length: 0,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    Ok(fcntl_getlk(&file, &all)?.is_some_and(|found| found.typ != FlockType::Unlocked))
}

fn map_halving(path: &Path, options: &LmdbOptions, access: Access) -> Result<Env<WithoutTls>, OpenError> {
    let mut map_bytes = options.map_bytes_max.max(MAP_BYTES_MIN);
    loop {
        // A multiple of every usual page size.
        map_bytes &= !0xffff;
        let mut env_options = EnvOpenOptions::new().read_txn_without_tls();
        env_options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(8);
        match map(&mut env_options, path, options.sync, access) {
            Err(heed::Error::Io(error))
                if error.kind() == ErrorKind::OutOfMemory && map_bytes > MAP_BYTES_MIN =>
            {
                map_bytes = (map_bytes / 2).max(MAP_BYTES_MIN);
            }
            opened => return opened.map_err(|error| OpenError::lmdb(path, error)),
        }
    }
}

#[allow(unsafe_code)]
fn map(
    options: &mut EnvOpenOptions<WithoutTls>,
    path: &Path,
    sync: bool,
    access: Access,
) -> heed::Result<Env<WithoutTls>> {
    let mut flags = EnvFlags::empty();
    flags.set(EnvFlags::NO_SYNC, !sync);
    flags.set(EnvFlags::READ_ONLY, access != Access::Write);
    flags.set(EnvFlags::NO_LOCK, access == Access::ReadUnlocked);
    // SAFETY: without NO_SYNC's guarantee a power cut may corrupt the file; it is asked for by name, for
    // benches. NO_LOCK is for folders that this process can't write and that no process had open just now; that none
    // writes to them meanwhile is left to the operator, in the manual.
    unsafe { options.flags(flags) };
    // SAFETY: the memory map is sound as long as nobody but LMDB changes the file under it. LMDB's own lock
    // file keeps processes apart, and heed opens a path once in a process.
    unsafe { options.open(path) }
}

/// Bytes that `data.mdb` is shorter than its last page wants.
fn missing_bytes(env: &Env<WithoutTls>) -> heed::Result<u64> {
    let page_bytes = u64::from(env.unnamed_database_stat().page_size);
    let wanted = (env.info().last_page_number as u64 + 1) * page_bytes;
    Ok(wanted.saturating_sub(env.real_disk_size()?))
}

/// Makes `data.mdb` as long as its last page wants. It may be shorter by pages that were taken and given back in one
/// write; or it was cut short while it was copied.
fn lengthen(env: &Env<WithoutTls>, path: &Path) -> Result<(), OpenError> {
    let lmdb = |error| OpenError::lmdb(path, error);
    if missing_bytes(env).map_err(lmdb)? == 0 {
        return Ok(());
    }
    // Nobody else writes meanwhile.
    let txn = env.write_txn().map_err(lmdb)?;
    let missing = missing_bytes(env).map_err(lmdb)?;
    if missing > 0 {
        let bytes = env.real_disk_size().map_err(lmdb)? + missing;
        let file = OpenOptions::new().write(true).open(path.join("data.mdb"));
        file.and_then(|file| file.set_len(bytes)).map_err(|error| OpenError::io(path, error))?;
    }
    txn.abort();
    Ok(())
}
