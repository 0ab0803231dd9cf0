//! The index, as tasks use it: one connection writes, one reads, so that a download never waits for the disk.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_blossom::index::Wanted;
use relay_blossom::{Command, Index, Outcome};
use relay_engine::sql::StoreError;

use crate::agents::sqlite::Sqlite;
use crate::host::now;
use crate::lmdb::Reserve;

/// Bytes of the disk that are kept for removals when nothing else fits.
const RESERVE_BYTES: u64 = 1 << 20;

/// A handle to the index.
#[derive(Clone)]
pub(super) struct Indexed(Arc<Connections>);

struct Connections {
    writer: Mutex<Writer>,
    reader: Mutex<Index<Sqlite>>,
}

struct Writer {
    index: Index<Sqlite>,
    /// Whether commits wait for the disk now.
    waits: bool,
    /// Whether some need not: bytes without a row are swept at the next start, so the row of an upload may be lost.
    is_lazy: bool,
    /// Space for removals, which need some before they free any.
    reserve: Reserve,
}

impl Writer {
    fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError> {
        let waits = !self.is_lazy || self.must_wait(now, &command)?;
        if waits != self.waits {
            self.index.conn().wait_for_disk(waits)?;
            self.waits = waits;
        }
        if command == Command::Sweep {
            // What it has lost it takes again, now that there may be room.
            self.reserve.missing();
        }
        if !frees(&command) {
            return self.index.run(now, command);
        }
        match self.index.run(now, command.clone()) {
            Err(StoreError::Full(_)) => self.reserve.with_reserve(|| self.index.run(now, command)),
            done => done,
        }
    }

    /// Whether what a command changes must survive power loss when it is done. Bytes are removed only after
    /// [`Command::TakeRemoval`], which makes all before it durable, so what leads to removals need not.
    fn must_wait(&mut self, now: u64, command: &Command) -> Result<bool, StoreError> {
        Ok(match command {
            Command::Touch(_)
            | Command::Abort { .. }
            | Command::AbortPart { .. }
            | Command::AbortParts { .. }
            | Command::SetPosition(_)
            | Command::Removed(_)
            | Command::Sweep => false,
            // Of a blob that is there its uploader becomes an owner, and is told so.
            Command::Begin(Wanted { sha256: Some(sha256), .. })
            | Command::BeginPart(Wanted { sha256: Some(sha256), .. }, _)
            | Command::Learn { sha256, .. } => {
                self.index.run(now, Command::Get(*sha256))? != Outcome::Missing
            }
            Command::Begin(_) | Command::BeginPart(..) => false,
            _ => true,
        })
    }
}

/// Whether a command leads to more room.
fn frees(command: &Command) -> bool {
    let stores = matches!(command, Command::Learn { .. } | Command::Finish(_));
    (command.may_remove() && !stores)
        || matches!(
            command,
            Command::AbortPart { .. }
                | Command::AbortParts { .. }
                | Command::SetPosition(_)
                | Command::TakeRemoval
                | Command::Removed(_)
        )
}

impl Indexed {
    /// Opens a file, or makes it. `is_swept`: bytes that it does not know are removed at every start.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of another version.
    pub(super) fn open(path: &Path, is_swept: bool) -> Result<Self, StoreError> {
        let index = Index::open(Sqlite::open_shared(path)?)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let reserve = Reserve::at(folder, "blossom.reserve", RESERVE_BYTES);
        let writer = Mutex::new(Writer { index, waits: true, is_lazy: is_swept, reserve });
        let reader = Mutex::new(Index::open(Sqlite::open_shared(path)?)?);
        Ok(Indexed(Arc::new(Connections { writer, reader })))
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// If the database fails. Then nothing has changed.
    pub(super) async fn run(&self, command: Command) -> Result<Outcome, StoreError> {
        let now = now().seconds();
        if let Command::Get(_) = command {
            // A look-up by key; handing it to another thread would take longer.
            return lock(&self.0.reader).run(now, command);
        }
        let connections = Arc::clone(&self.0);
        let ran = tokio::task::spawn_blocking(move || match command.is_read() {
            true => lock(&connections.reader).run(now, command),
            false => lock(&connections.writer).run(now, command),
        });
        ran.await.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
    }
}

fn lock<T>(index: &Mutex<T>) -> MutexGuard<'_, T> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use relay_blossom::Sha256;
    use relay_blossom::index::Commit;

    use super::*;

    fn wanted(sha256: Option<Sha256>) -> Wanted {
        Wanted {
            owner: "11".repeat(32),
            sha256,
            size: 3,
            mime: "text/plain".to_owned(),
            key_bytes_max: None,
            total_bytes_max: None,
            abandoned_at: 1_000,
            expires_at: None,
            unused_seconds: None,
            retention: Vec::new(),
        }
    }

    /// Carries out a command; whether it waited for the disk.
    fn waited(indexed: &Indexed, command: Command) -> (bool, Outcome) {
        let mut writer = lock(&indexed.0.writer);
        let outcome = writer.run(1, command).unwrap();
        (writer.waits, outcome)
    }

    #[test]
    fn what_somebody_is_told_waits_for_the_disk_and_rows_of_uploads_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let indexed = Indexed::open(&folder.path().join("swept"), true).unwrap();
        let (sha256, other) = (Sha256([1; 32]), Sha256([2; 32]));
        let begun = |indexed: &Indexed, sha256| match waited(indexed, Command::Begin(wanted(sha256))) {
            (waited, Outcome::Begun { upload, .. }) => (waited, upload),
            other => panic!("{other:?}"),
        };
        let (is_waiting, upload) = begun(&indexed, Some(sha256));
        assert!(!is_waiting);
        let commit = Commit {
            upload,
            sha256,
            size: 3,
            mime: "text/plain".to_owned(),
            expires_at: None,
            unused_seconds: None,
            media: None,
        };
        assert!(matches!(waited(&indexed, Command::Finish(commit)), (true, Outcome::Stored(_))));
        let (is_waiting, upload) = begun(&indexed, None);
        assert!(!is_waiting);
        let learn = |sha256| Command::Learn { upload, sha256, size: 3 };
        assert!(matches!(waited(&indexed, learn(other)), (false, Outcome::Begun { .. })));
        assert_eq!(waited(&indexed, Command::Abort { upload }), (false, Outcome::Done));
        // The uploader is told that the blob is theirs.
        assert!(matches!(waited(&indexed, Command::Begin(wanted(Some(sha256)))), (true, Outcome::Exists(_))));
        // Before bytes go, what let them go is on the disk.
        assert!(matches!(waited(&indexed, Command::TakeRemoval), (true, Outcome::Removal(Some(_)))));
        assert_eq!(waited(&indexed, Command::Touch(vec![sha256])), (false, Outcome::Done));
        assert_eq!(waited(&indexed, Command::Delete { sha256, owner: None }), (true, Outcome::Deleted));
        // Where unknown bytes are not removed at the start, no row may be lost.
        let kept = Indexed::open(&folder.path().join("kept"), false).unwrap();
        assert!(begun(&kept, Some(sha256)).0);
        assert!(begun(&kept, None).0);
    }
}
