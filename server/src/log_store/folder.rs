//! A folder of the system's, with its lock. Files are written by system calls and read through a map.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

use super::disk::{Disk, DiskFile};

/// The file that is locked.
const LOCK: &str = "LOCK";

/// A folder that no other process has open.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_read_only: bool,
    _lock: Option<File>,
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
        let lock = held(file.try_lock(), file)?;
        Ok(Folder { path: path.to_owned(), is_read_only: false, _lock: lock })
    }

    /// Locks a folder that can't be written, beside others that read it.
    pub(super) fn lock_to_read(path: &Path) -> Result<Self, LockError> {
        let lock = match File::open(path.join(LOCK)) {
            Ok(file) => held(file.try_lock_shared(), file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(LockError::Io(error)),
        };
        Ok(Folder { path: path.to_owned(), is_read_only: true, _lock: lock })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn held(locked: Result<(), TryLockError>, file: File) -> Result<Option<File>, LockError> {
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(LockError::InUse),
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(
                "files can't be locked on this file system: make sure that no other process opens the folder"
            );
            Ok(None)
        }
        Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
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
        let file = OpenOptions::new().read(true).write(!self.is_read_only).open(self.file(name))?;
        let bytes = file.metadata()?.len();
        MappedFile::new(file, bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name))
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
    /// `None` for an empty file.
    map: Option<Mmap>,
}

impl MappedFile {
    fn new(file: File, bytes: u64) -> io::Result<Self> {
        let map = if bytes == 0 { None } else { Some(map(&file, bytes)?) };
        Ok(MappedFile { file, bytes, map })
    }
}

#[allow(unsafe_code)]
fn map(file: &File, bytes: u64) -> io::Result<Mmap> {
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    // SAFETY: a map is sound as long as what is read through it does not change meanwhile and the file is as long as the map. The
    // folder's lock keeps other processes away. In this one, bytes are written before anybody knows where they are, slots and
    // files are used again or removed when nobody can read them any more, and only the unused end of a file is cleared.
    unsafe { MmapOptions::new().len(bytes).map(file) }
}

impl DiskFile for MappedFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, bytes: usize) -> io::Result<Cow<'_, [u8]>> {
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
