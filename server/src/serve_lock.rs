//! One serving process for a folder: a second one would store beside it, and each would know nothing of the other's clients,
//! limits and ephemeral events.
//!
//! The lock is that of the file `serve.lock`, which says who has it. Commands that only read or import take no part.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use crate::cli::exit::Failure;
use crate::file_lock::{FileLock, FileLockError};

/// Longest text of a holder that is shown.
const HOLDER_BYTES_MAX: u64 = 300;

/// The right to serve from a folder, given back when dropped.
#[derive(Debug)]
pub(crate) struct ServeLock {
    _file: Option<FileLock>,
}

impl ServeLock {
    /// Takes the lock of folder `data`, which exists, for a relay that listens on `listen`.
    ///
    /// # Errors
    /// If another process has it, with a message that says which, or if the file can't be made.
    pub(crate) fn take(data: &Path, listen: &str) -> Result<Self, Failure> {
        let path = data.join("serve.lock");
        let cannot =
            |error: std::io::Error| Failure::External(format!("cannot lock {}: {error}", path.display()));
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match FileLock::exclusive(open.map_err(cannot)?) {
            Ok(file) => file,
            Err(FileLockError::InUse(file)) => {
                let mut holder = String::new();
                let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process",
                    holder => holder,
                };
                return Err(Failure::External(format!(
                    "the folder {} is served already, by {holder}; one relay serves a folder at a time",
                    data.display()
                )));
            }
            Err(FileLockError::Unsupported) => {
                tracing::warn!(
                    "{} can't be locked on this file system: make sure that no other process serves it",
                    path.display()
                );
                return Ok(ServeLock { _file: None });
            }
            Err(FileLockError::Io(error)) => return Err(cannot(error)),
        };
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let holder = format!("process {} on host {host}, listening on {listen}\n", std::process::id());
        // A full disk does not keep a relay from serving what it has: then the lock names no process.
        let _ = file.set_len(0).and_then(|()| (&*file).write_all(holder.as_bytes()));
        Ok(ServeLock { _file: Some(file) })
    }
}
