//! A folder of the system's, with its locks. Files are written by system calls and read through a map, or by system calls too
//! while another process writes them.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

use super::disk::{Disk, DiskFile};
use super::readers::{self, Lease, Readers};
use crate::file_lock::{FileLock, FileLockError};

/// Locked by the process that writes, or shared by those that read while none writes.
const LOCK: &str = "LOCK";

/// Whether a file of this name is a lock of a folder.
pub(super) fn is_lock(name: &str) -> bool {
    name == LOCK || readers::NAMES.contains(&name)
}

/// A folder that no other process writes, or one that is read.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    access: Access,
    _lock: Option<FileLock>,
    /// With which it was opened beside a process that writes.
    pub(super) lease: Option<Lease>,
}

/// What may be done with the files.
#[derive(Debug)]
enum Access {
    /// They are written.
    Write(Readers),
    /// Nobody writes them.
    Read,
    /// Another process writes them.
    ReadBeside,
}

/// Why a folder can't be used.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process has it open, or this one has already.
    InUse,
    /// The system's error.
    Io(io::Error),
}

impl Folder {
    /// Locks a folder, which exists.
    pub(super) fn lock(path: &Path) -> Result<Self, LockError> {
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(LOCK));
        let file = open.map_err(LockError::Io)?;
        let lock = held(FileLock::exclusive(file))?;
        let readers = Readers::of(path).map_err(LockError::Io)?;
        Ok(Folder { path: path.to_owned(), access: Access::Write(readers), _lock: lock, lease: None })
    }

    /// Locks a folder to read it, beside others that do, and beside one that writes. Nothing in it is changed.
    pub(super) fn lock_to_read(path: &Path) -> Result<Self, LockError> {
        let path = path.to_owned();
        match share(&path.join(LOCK)) {
            Ok(lock) => Ok(Folder { path, access: Access::Read, _lock: lock, lease: None }),
            Err(LockError::InUse) => {
                let lease = Some(Lease::take(&path)?);
                Ok(Folder { path, access: Access::ReadBeside, _lock: None, lease })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether another process writes what is read here.
    pub(super) fn is_beside_writer(&self) -> bool {
        matches!(self.access, Access::ReadBeside)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Shares the lock of a file; `None` if there is none, or if files can't be locked.
pub(super) fn share(path: &Path) -> Result<Option<FileLock>, LockError> {
    match File::open(path) {
        Ok(file) => held(FileLock::shared(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LockError::Io(error)),
    }
}

fn held(locked: Result<FileLock, FileLockError>) -> Result<Option<FileLock>, LockError> {
    match locked {
        Ok(lock) => Ok(Some(lock)),
        Err(FileLockError::InUse(_)) => Err(LockError::InUse),
        Err(FileLockError::Unsupported) => {
            tracing::warn!(
                "files can't be locked on this file system: make sure that no other process opens the folder"
            );
            Ok(None)
        }
        Err(FileLockError::Io(error)) => Err(LockError::Io(error)),
    }
}

impl Disk for Folder {
    type File = MappedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<MappedFile> {
        let path = self.file(name);
        // What has one of this name open keeps it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let open = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        allocate(&open, bytes)?;
        open.set_len(bytes)?;
        MappedFile::new(open, bytes)
    }

    fn open(&self, name: &str) -> io::Result<MappedFile> {
        let can_write = matches!(self.access, Access::Write(_));
        let file = OpenOptions::new().read(true).write(can_write).open(self.file(name))?;
        let bytes = file.metadata()?.len();
        match self.access {
            Access::ReadBeside => Ok(MappedFile { file, bytes, map: None, is_mapped: false }),
            _ => MappedFile::new(file, bytes),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    /// Readers that come later read a later manifest than there is now.
    fn epoch(&self) -> u64 {
        match &self.access {
            Access::Write(readers) => readers.epoch(),
            Access::Read | Access::ReadBeside => 0,
        }
    }

    fn have_readers_left(&self, epoch: u64) -> bool {
        match &self.access {
            Access::Write(readers) => readers.have_left(epoch),
            Access::Read | Access::ReadBeside => true,
        }
    }

    fn lease(&self) -> io::Result<Option<Lease>> {
        match &self.access {
            Access::ReadBeside => Lease::take(&self.path).map(Some).map_err(|error| match error {
                LockError::InUse => io::Error::from(ErrorKind::WouldBlock),
                LockError::Io(error) => error,
            }),
            Access::Write(_) | Access::Read => Ok(None),
        }
    }

    fn is_current(&self, lease: &Lease) -> bool {
        lease.is_current(&self.path)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Allocates blocks for a file, so that writing them can't find the disk full.
#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    if bytes == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            // The file system cannot allocate beforehand.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
            done => return done.map_err(io::Error::from),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

/// A file and a map of it.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    bytes: u64,
    /// `None` for an empty file, and for one that is not mapped.
    map: Option<Mmap>,
    /// Otherwise it is read by system calls, because another process writes it.
    is_mapped: bool,
}

impl MappedFile {
    fn new(file: File, bytes: u64) -> io::Result<Self> {
        let map = if bytes == 0 { None } else { Some(map(&file, bytes)?) };
        Ok(MappedFile { file, bytes, map, is_mapped: true })
    }
}

#[allow(unsafe_code)]
fn map(file: &File, bytes: u64) -> io::Result<Mmap> {
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    // SAFETY: a map is sound as long as what is read through it does not change meanwhile and the file is as long as the map. The
    // folder's lock keeps other processes from writing it, where files can be locked; where they can't, the operator is told to
    // (`held`). In this one, bytes of the log, of pages and of the manifest are written before anybody reads them there: of the
    // log up to the end of its last batch, of a slot once a version names it. Slots are written again when no version names them any
    // more, and a name that is used again is that of another file (`create`). What is cleared and cut off is behind the last
    // batch of a segment, where only recovery has read, before there was a version.
    unsafe { MmapOptions::new().len(bytes).map(file) }
}

impl DiskFile for MappedFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, bytes: usize) -> io::Result<Cow<'_, [u8]>> {
        if !self.is_mapped {
            let is_within = at.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes);
            let mut found = vec![0; if is_within { bytes } else { 0 }];
            self.file.read_exact_at(&mut found, at)?;
            return if is_within { Ok(Cow::Owned(found)) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let map = self.map.as_deref().unwrap_or_default();
        let begin = usize::try_from(at).ok();
        let found = begin.and_then(|begin| map.get(begin..begin.checked_add(bytes)?));
        found.map(Cow::Borrowed).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn clear_from(&self, at: u64) -> io::Result<()> {
        self.file.set_len(at)?;
        allocate(&self.file, self.bytes)?;
        self.file.set_len(self.bytes)
    }
}
