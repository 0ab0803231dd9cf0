//! The index, as tasks use it: one connection writes, one reads, so that a download never waits for the disk.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_blossom::{Command, Index, Outcome};
use relay_engine::sql::StoreError;

use crate::agents::sqlite::Sqlite;
use crate::host::now;

/// A handle to the index.
#[derive(Clone)]
pub(super) struct Indexed(Arc<Connections>);

struct Connections {
    writer: Mutex<Index<Sqlite>>,
    reader: Mutex<Index<Sqlite>>,
}

impl Indexed {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of another version.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = Mutex::new(Index::open(Sqlite::open_shared(path)?)?);
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

fn lock(index: &Mutex<Index<Sqlite>>) -> MutexGuard<'_, Index<Sqlite>> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}
