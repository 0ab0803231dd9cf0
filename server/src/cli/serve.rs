//! `relay serve`: starts logging, opens the store, and runs [`crate::serve`].

use std::sync::Arc;

use relay_engine::store::MemoryBackend;
use tracing_subscriber::EnvFilter;

use super::database::{self, Database};
use super::exit::Failure;
use crate::config::{Log, LogFormat, Settings, StoreEngine};
use crate::lmdb::make_folder;
use crate::serve::{Embedded, Ended, serve};
use crate::serve_lock::ServeLock;

/// Runs the command.
pub(super) fn run(settings: Settings) -> Result<(), Failure> {
    start_log(&settings.log)?;
    serve_here(settings, None)
}

/// Opens the store and serves.
pub(crate) fn serve_here(settings: Settings, embedded: Option<Embedded>) -> Result<(), Failure> {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "file descriptors"),
        Err(error) => tracing::warn!(%error, "the limit on open files stays as it is"),
    }
    let ended = match settings.store.engine {
        StoreEngine::Auto | StoreEngine::Lmdb | StoreEngine::Log => {
            make_folder(&settings.data)?;
            // Held while the relay serves.
            let _lock = ServeLock::take(&settings.data, &settings.listen)?;
            let database = database::open(&settings)?;
            let folder = std::fs::canonicalize(&settings.data).unwrap_or_else(|_| settings.data.clone());
            let storage = format!("database in {}", folder.display());
            match database {
                Database::Lmdb(store) => serve(settings, store, &storage, false, embedded)?,
                // Other processes can't write it.
                Database::Log(store) => serve(settings, store, &storage, true, embedded)?,
            }
        }
        StoreEngine::Memory => {
            let store = Arc::new(MemoryBackend::default());
            let storage = "events are kept in memory and lost when the relay stops";
            serve(settings, store, storage, false, embedded)?
        }
    };
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Failed(why) => Err(Failure::External(why)),
    }
}

fn start_log(log: &Log) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| Failure::Usage(format!("log.filter `{}`: {error}", log.filter)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // tracing would report a failed write with `eprintln!`, which panics if standard error is closed. A relay must
        // outlive the reader of its log.
        .log_internal_errors(false);
    match log.format {
        LogFormat::Text => {
            builder.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init()
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
