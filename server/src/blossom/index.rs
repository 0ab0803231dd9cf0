//! The index, as tasks use it: a thread with a connection that writes, one with a connection for lists, and a connection for look-ups,
//! so that a download waits neither for the disk nor for a list.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use relay_blossom::index::Wanted;
use relay_blossom::{Command, Index, Outcome};
use relay_engine::sql::StoreError;
use tokio::sync::oneshot;

use crate::agents::sqlite::Sqlite;
use crate::host::now;
use crate::lmdb::Reserve;

/// Bytes of the disk that are kept for removals when nothing else fits.
const RESERVE_BYTES: u64 = 1 << 20;

/// A handle to the index.
#[derive(Clone)]
pub(super) struct IndexHandle(Arc<Connections>);

struct Connections {
    writer: Sender<Job>,
    lists: Sender<Job>,
    reader: Mutex<Index<Sqlite>>,
}

/// A command on its way to a thread.
struct Job {
    now: u64,
    command: Command,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// Starts a thread that carries out commands one after the other, until nobody can send any.
fn start(
    name: &str,
    mut run: impl FnMut(u64, Command) -> Result<Outcome, StoreError> + Send + 'static,
) -> Result<Sender<Job>, StoreError> {
    let (sender, jobs) = channel::<Job>();
    let work = move || {
        for Job { now, command, answer } in jobs {
            // The index reads its tables again after a failure.
            let ran = catch_unwind(AssertUnwindSafe(|| run(now, command)));
            // Whoever has left needs no answer.
            let _ =
                answer.send(ran.unwrap_or_else(|_| Err(StoreError::Failed("a command panicked".to_owned()))));
        }
    };
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(|_| sender).map_err(|error| StoreError::Failed(error.to_string()))
}

/// The index that writes, on its thread.
pub(super) struct Writer {
    index: Index<Sqlite>,
    /// Whether commits wait for the disk now.
    waits: bool,
    /// Whether some need not: bytes without a row are swept at the next start, so the row of an upload may be lost.
    is_lazy: bool,
    /// Space for removals, which need some before they free any.
    reserve: Reserve,
}

impl Writer {
    /// Opens a file, or makes it, as [`IndexHandle::open`].
    pub(super) fn open(path: &Path, is_swept: bool) -> Result<Self, StoreError> {
        let index = Index::open(Sqlite::open_shared(path)?)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let reserve = Reserve::at(folder, "blossom.reserve", RESERVE_BYTES);
        Ok(Writer { index, waits: true, is_lazy: is_swept, reserve })
    }

    pub(super) fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError> {
        let waits = !self.is_lazy || self.must_wait(now, &command)?;
        if waits != self.waits {
            self.index.conn().wait_for_disk(waits)?;
            self.waits = waits;
        }
        if command == Command::Sweep {
            // The reserve takes back what it gave up: there may be room now.
            self.reserve.refill();
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
            Command::RecordDownloads(_)
            | Command::Reserve { .. }
            | Command::AbortPull { .. }
            | Command::Abort { .. }
            | Command::AbortPart { .. }
            | Command::AbortParts { .. }
            | Command::LeaveParts { .. }
            | Command::SetPosition(_)
            | Command::Removed(_)
            | Command::Sweep => false,
            // Of a blob that is there its uploader becomes an owner, and is told so.
            Command::Begin(Wanted { sha256: Some(sha256), .. })
            | Command::BeginPull(Wanted { sha256: Some(sha256), .. }, _)
            | Command::BeginPart(Wanted { sha256: Some(sha256), .. }, _)
            | Command::SetHash { sha256, .. } => {
                self.index.run(now, Command::Get(*sha256))? != Outcome::Missing
            }
            Command::Begin(_) | Command::BeginPull(..) | Command::BeginPart(..) => false,
            _ => true,
        })
    }
}

/// Whether a command leads to more room.
fn frees(command: &Command) -> bool {
    let stores = matches!(command, Command::SetHash { .. } | Command::Finish(_));
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

impl IndexHandle {
    /// Opens a file, or makes it. `is_swept`: bytes that it does not know are removed at every start.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of another version.
    pub(super) fn open(path: &Path, is_swept: bool) -> Result<Self, StoreError> {
        // Makes the tables, so it is the first.
        let mut writer = Writer::open(path, is_swept)?;
        Self::over(path, move |now, command| writer.run(now, command))
    }

    /// Over a file whose tables are made: `write` carries out the commands that write.
    pub(super) fn over(
        path: &Path,
        write: impl FnMut(u64, Command) -> Result<Outcome, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let mut lists = Index::open(Sqlite::open_shared(path)?)?;
        let reader = Mutex::new(Index::open(Sqlite::open_shared(path)?)?);
        let writer = start("relay-blobs", write)?;
        let lists = start("relay-blob-lists", move |now, command| lists.run(now, command))?;
        Ok(IndexHandle(Arc::new(Connections { writer, lists, reader })))
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// If the database fails. Then nothing has changed.
    pub(super) async fn run(&self, command: Command) -> Result<Outcome, StoreError> {
        let now = now().seconds();
        if let Command::Get(_) = command {
            // A look-up by key; handing it to another thread would take longer.
            return self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).run(now, command);
        }
        let thread = if command.is_read() { &self.0.lists } else { &self.0.writer };
        let (answer, answered) = oneshot::channel();
        let ended = || StoreError::Failed("the thread of the index has ended".to_owned());
        thread.send(Job { now, command, answer }).map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
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
            must_be_paid: false,
            owner_pays: false,
            proof: None,
        }
    }

    /// Carries out a command; whether it waited for the disk.
    fn waited(writer: &mut Writer, command: Command) -> (bool, Outcome) {
        let outcome = writer.run(1, command).unwrap();
        (writer.waits, outcome)
    }

    #[test]
    fn what_somebody_is_told_waits_for_the_disk_and_rows_of_uploads_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&folder.path().join("swept"), true).unwrap();
        let (sha256, other) = (Sha256([1; 32]), Sha256([2; 32]));
        let begun = |writer: &mut Writer, sha256| match waited(writer, Command::Begin(wanted(sha256))) {
            (waited, Outcome::Begun { upload, .. }) => (waited, upload),
            other => panic!("{other:?}"),
        };
        let (is_waiting, upload) = begun(&mut writer, Some(sha256));
        assert!(!is_waiting);
        let commit = Commit {
            upload,
            sha256,
            size: 3,
            mime: "text/plain".to_owned(),
            uploaded: None,
            expires_at: None,
            unused_seconds: None,
            retention: Vec::new(),
            media: None,
            is_unpaid: false,
        };
        assert!(matches!(waited(&mut writer, Command::Finish(commit)), (true, Outcome::Stored(_))));
        let (is_waiting, upload) = begun(&mut writer, None);
        assert!(!is_waiting);
        let set_hash = |sha256| Command::SetHash { upload, sha256, size: 3 };
        assert!(matches!(waited(&mut writer, set_hash(other)), (false, Outcome::Begun { .. })));
        assert_eq!(waited(&mut writer, Command::Abort { upload }), (false, Outcome::Done));
        // The uploader is told that the blob is theirs.
        assert!(matches!(
            waited(&mut writer, Command::Begin(wanted(Some(sha256)))),
            (true, Outcome::Exists(_))
        ));
        // Before bytes go, what let them go is on the disk.
        assert!(matches!(waited(&mut writer, Command::TakeRemoval), (true, Outcome::Removal(Some(_)))));
        assert_eq!(waited(&mut writer, Command::RecordDownloads(vec![sha256])), (false, Outcome::Done));
        assert_eq!(waited(&mut writer, Command::Delete { sha256, owner: None }), (true, Outcome::Deleted));
        // Where unknown bytes are not removed at the start, no row may be lost.
        let mut kept = Writer::open(&folder.path().join("kept"), false).unwrap();
        assert!(begun(&mut kept, Some(sha256)).0);
        assert!(begun(&mut kept, None).0);
    }

    #[test]
    fn commands_go_one_after_the_other_and_a_panic_ends_only_its_own() {
        let mut ran = Vec::new();
        let thread = start("test", move |now, command| {
            ran.push(now);
            assert_ne!(now, 3, "a test of panics");
            Ok(if command == Command::Totals {
                Outcome::Position(Some(ran.len() as u64))
            } else {
                Outcome::Done
            })
        });
        let thread = thread.unwrap();
        let send = |now, command| {
            let (answer, answered) = oneshot::channel();
            thread.send(Job { now, command, answer }).unwrap();
            answered
        };
        let answers: Vec<_> = (0..5).map(|now| send(now, Command::Sweep)).collect();
        drop(send(9, Command::Sweep));
        let last = send(5, Command::Totals).blocking_recv().unwrap();
        assert_eq!(last, Ok(Outcome::Position(Some(7))));
        let failed: Vec<bool> = answers.into_iter().map(|a| a.blocking_recv().unwrap().is_err()).collect();
        assert_eq!(failed, [false, false, false, true, false]);
    }
}
