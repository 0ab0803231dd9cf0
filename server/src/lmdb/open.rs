//! Opening LMDB's environment: every mapped page must have its block on disk before it is touched.
//!
//! LMDB maps two files. Touching a mapped page for which the disk has no space, or which lies after the end of the file,
//! raises SIGBUS, which kills the process without a message.
//!
//! - `lock.mdb` is written through its map, and LMDB creates it as a sparse file: its blocks are allocated here first.
//! - `data.mdb` is written by system calls, which can fail, and is read through its map: if the file is shorter than its
//!   pages, it is extended, and what was lost reads as zeros, which LMDB reports as corrupt.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::LmdbOptions;
use super::error::OpenError;

/// LMDB's reader slots: far more than there are threads. A reader lives for one scan step.
const READERS_MAX: u32 = 1024;
/// More than the size of `lock.mdb`: a cache line for each reader, and a header of a few.
const LOCK_BYTES: u64 = READERS_MAX as u64 * 64 + 4096;
/// The smallest map that is tried.
const MAP_BYTES_MIN: usize = 1 << 20;

/// How a folder is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read and write, while other processes may too.
    Write,
    /// Read, while other processes may read and write.
    Read,
    /// Read without locks, because `lock.mdb` can't be written; no process may write meanwhile.
    ReadUnlocked,
}

/// Opens the environment in folder `path`, which exists.
pub(super) fn environment(path: &Path, options: &LmdbOptions) -> Result<Env<WithoutTls>, OpenError> {
    refuse_second(path)?;
    allocate_lock(path).map_err(|error| OpenError::io(path, error))?;
    let env = map_halving(path, options, Access::Write)?;
    extend_to_last_page(&env, path)?;
    Ok(env)
}

/// Opens the environment in folder `path` read-only, because the folder or a file in it cannot be written.
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

/// Whether the error says that a file can be read but not written.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// Refuses to open a folder twice in one process: closing the second `lock.mdb` would release the process's POSIX locks on
/// the first.
fn refuse_second(path: &Path) -> Result<(), OpenError> {
    let path = fs::canonicalize(path).map_err(|error| OpenError::io(path, error))?;
    match heed::env_closing_event(&path) {
        Some(_) => Err(OpenError::Open(path)),
        None => Ok(()),
    }
}

/// Allocates the blocks that LMDB will write through its map of `lock.mdb`.
fn allocate_lock(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // The mode with which LMDB creates it.
        .mode(0o600)
        .open(path.join("lock.mdb"))?;
    let bytes = file.metadata()?.len().max(LOCK_BYTES);
    allocate(&file, bytes)
}

/// Allocates blocks for the first `bytes` bytes of a file. Its length stays, because other processes rely on it.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    allocate_blocks(file, bytes, true)
}

/// The same, and the file is at least that long afterwards.
pub(super) fn allocate_and_extend(file: &File, bytes: u64) -> io::Result<()> {
    allocate_blocks(file, bytes, false)
}

#[cfg(target_os = "linux")]
fn allocate_blocks(file: &File, bytes: u64, keeps_len: bool) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = if keeps_len { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
    loop {
        match fallocate(file, flags, 0, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            // The file system cannot allocate beforehand.
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
pub(crate) fn is_in_use(path: &Path) -> io::Result<bool> {
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
    // SAFETY: with NO_SYNC a power cut may corrupt the file; only benches set it, by the option `sync`. NO_LOCK is for
    // folders that this process can't write and that no process had open just now; that none writes to them meanwhile
    // is the operator's responsibility, as the README says.
    unsafe { options.flags(flags) };
    // SAFETY: the memory map is sound as long as nothing but LMDB changes the file under it. LMDB's own lock
    // file keeps processes apart, and heed opens a path once in a process.
    unsafe { options.open(path) }
}

/// How many bytes `data.mdb` is too short to hold its last page.
fn missing_bytes(env: &Env<WithoutTls>) -> heed::Result<u64> {
    let page_bytes = u64::from(env.unnamed_database_stat().page_size);
    let wanted = (env.info().last_page_number as u64 + 1) * page_bytes;
    Ok(wanted.saturating_sub(env.real_disk_size()?))
}

/// Extends `data.mdb` so that it holds its last page. It is too short if the last pages were allocated and freed in one
/// write, or if a copy of the file was truncated.
fn extend_to_last_page(env: &Env<WithoutTls>, path: &Path) -> Result<(), OpenError> {
    let lmdb = |error| OpenError::lmdb(path, error);
    if missing_bytes(env).map_err(lmdb)? == 0 {
        return Ok(());
    }
    // The write transaction keeps other writers out.
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
