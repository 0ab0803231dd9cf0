//! Shared by the offline commands: opening the database, parsing filters, scanning, and output.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay_engine::store::{Backend, Hit, Reader, Scan, ScanLimits, ScanStep, SinkResult, Unrestricted};
use relay_engine::types::{Filter, Timestamp};
use relay_engine::wire;

use super::command_store::CommandStore;
use super::db;
use super::exit::Failure;
use crate::config::{Settings, StoreEngine};
use crate::convert;
use crate::lmdb::{LmdbBackend, LmdbOptions};
use crate::log_store::{LogBackend, LogOpenError, LogOptions};
use crate::served::Client;

/// Most cost of a step of an offline scan. A step is one read transaction, during which a serving relay cannot reuse free pages.
const STEP_COST_MAX: usize = 100_000;

/// One of two things, by the engine.
pub enum Opened<M, L> {
    /// LMDB.
    Lmdb(M),
    /// A log and pages.
    Log(L),
}

/// How often and after how long a folder that is in use is tried again.
const SERVED_TRIES: u32 = 20;
const SERVED_RETRY: Duration = Duration::from_millis(100);

/// A database that a command has opened.
pub type Database = Opened<LmdbBackend, LogBackend>;
/// One that it changes, by itself or through the relay that serves the folder.
pub(crate) type CommandDatabase = Opened<CommandStore<LmdbBackend>, CommandStore<LogBackend>>;

impl Database {
    /// For a command that might change it, and only reads.
    pub(crate) fn for_command(self) -> CommandDatabase {
        match self {
            Opened::Lmdb(store) => Opened::Lmdb(CommandStore::own(store)),
            Opened::Log(store) => Opened::Log(CommandStore::own(store)),
        }
    }
}

/// Evaluates an expression with the store of a [`Database`] or [`CommandDatabase`], whichever it is.
macro_rules! with_store {
    ($database:expr, $store:ident => $body:expr) => {
        match $database {
            $crate::cli::database::Opened::Lmdb($store) => $body,
            $crate::cli::database::Opened::Log($store) => $body,
        }
    };
}
pub(crate) use with_store;

/// Opens the configured database, creating it if it does not exist.
pub fn open(settings: &Settings) -> Result<Database, Failure> {
    match engine(settings)? {
        Engine::Lmdb(options) => Ok(Database::Lmdb(LmdbBackend::open(&settings.data, &options)?)),
        Engine::Log(options) => {
            Ok(Database::Log(LogBackend::open(&settings.data, options, settings.store.reserve_bytes)?))
        }
    }
}

/// Opens the configured database for a command that changes it, creating it if it does not exist. If a relay serves it, and one process
/// writes it at a time, the relay makes the changes.
pub(crate) fn open_to_change(settings: &Settings) -> Result<CommandDatabase, Failure> {
    let options = match engine(settings)? {
        Engine::Lmdb(_) => return Ok(open(settings)?.for_command()),
        Engine::Log(options) => options,
    };
    let mut tries = 0;
    loop {
        match LogBackend::open(&settings.data, options, settings.store.reserve_bytes) {
            Ok(store) => return Ok(Opened::Log(CommandStore::own(store))),
            Err(in_use @ LogOpenError::InUse(_)) => match Client::connect(&settings.data) {
                Ok(client) => {
                    let store = LogBackend::open_to_read(&settings.data, options)?;
                    // Or the relay has ended, and could not begin again as long as this is open.
                    if store.is_beside_writer() {
                        return Ok(Opened::Log(CommandStore::served(store, client)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Failure::External(format!(
                        "the relay that serves {} takes changes from its own user and from root only: {error}",
                        settings.data.display()
                    )));
                }
                // A relay that has just begun to serve, or to stop, or a command that ends.
                Err(_) if tries < SERVED_TRIES => tries += 1,
                Err(_) => return Err(in_use.into()),
            },
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(SERVED_RETRY);
    }
}

/// As [`open_to_change`], of a database that must exist. For `delete`: a folder that does not exist has been mistyped.
pub(crate) fn open_existing(settings: &Settings) -> Result<CommandDatabase, Failure> {
    ensure_exists(settings)?;
    open_to_change(settings)
}

/// Opens an existing database for reading; the folder may be read-only.
pub fn open_to_read(settings: &Settings) -> Result<Database, Failure> {
    ensure_exists(settings)?;
    match engine(settings)? {
        Engine::Lmdb(options) => Ok(Database::Lmdb(LmdbBackend::open_to_read(&settings.data, &options)?)),
        Engine::Log(options) => Ok(Database::Log(LogBackend::open_to_read(&settings.data, options)?)),
    }
}

enum Engine {
    Lmdb(LmdbOptions),
    Log(LogOptions),
}

/// The configured engine, unless the folder has a database of another one.
fn engine(settings: &Settings) -> Result<Engine, Failure> {
    db::refuse_if_begun(settings)?;
    let is_other = |file: &str, is_there: bool, engine: &str| match is_there {
        true => Err(Failure::Usage(format!(
            "the folder {} has a database of another engine ({file}): set store.engine = \"{engine}\", or another folder",
            settings.data.display()
        ))),
        false => Ok(()),
    };
    let configured = match settings.store.engine {
        StoreEngine::Auto if convert::Engine::of(&settings.data) == Some(convert::Engine::Lmdb) => {
            StoreEngine::Lmdb
        }
        StoreEngine::Auto => StoreEngine::Log,
        configured => configured,
    };
    match configured {
        StoreEngine::Memory => Err(Failure::Usage("store.engine is `memory`: there is no database".into())),
        StoreEngine::Lmdb => {
            is_other("a log", LogBackend::is_in(&settings.data), "log")?;
            let map_bytes_max = usize::try_from(settings.store.map_bytes_max).unwrap_or(usize::MAX);
            let reserve_bytes = settings.store.reserve_bytes;
            Ok(Engine::Lmdb(LmdbOptions { map_bytes_max, reserve_bytes, ..LmdbOptions::default() }))
        }
        StoreEngine::Auto | StoreEngine::Log => {
            is_other("data.mdb", settings.data.join("data.mdb").is_file(), "lmdb")?;
            Ok(Engine::Log(LogOptions { packs: settings.store.pack, ..LogOptions::default() }))
        }
    }
}

fn ensure_exists(settings: &Settings) -> Result<(), Failure> {
    if settings.data.join("data.mdb").is_file() || LogBackend::is_in(&settings.data) {
        return Ok(());
    }
    Err(Failure::External(format!("there is no database in {}", settings.data.display())))
}

/// Parses filters given as NIP-01 JSON, one object each.
pub fn filters(texts: &[String]) -> Result<Arc<[Filter]>, Failure> {
    texts
        .iter()
        .map(|text| {
            wire::parse_filter(text.as_bytes())
                .map_err(|error| Failure::Usage(format!("filter {text}: {}: {error}", error.prefix())))
        })
        .collect()
}

/// A scan in steps: all stored events that match, in the order of NIP-01. The only limits are the filters' own.
pub struct OfflineScan {
    scan: Scan,
    /// Include events that have expired and are still stored.
    include_expired: bool,
    /// Units of cost so far.
    cost: u64,
}

impl OfflineScan {
    /// A scan of the events that a relay would serve now.
    pub fn new<B: Backend>(store: &B, filters: Arc<[Filter]>) -> Result<Self, Failure> {
        Self::begin(store, filters, false)
    }

    /// A scan of all stored events, expired ones included.
    pub fn with_expired<B: Backend>(store: &B, filters: Arc<[Filter]>) -> Result<Self, Failure> {
        Self::begin(store, filters, true)
    }

    fn begin<B: Backend>(store: &B, filters: Arc<[Filter]>, include_expired: bool) -> Result<Self, Failure> {
        let limits = ScanLimits { limit_default: u32::MAX, limit_max: u32::MAX };
        let horizon = store.reader()?.last_seq()?;
        Ok(OfflineScan {
            scan: Scan::new(filters, limits, store.classes(), horizon),
            include_expired,
            cost: 0,
        })
    }

    /// Calls `take` with the next events; true if there may be more. No read transaction is open between steps, so a
    /// serving relay can reuse free pages.
    pub fn step<B: Backend>(
        &mut self,
        store: &B,
        take: &mut dyn FnMut(Hit<'_>) -> SinkResult,
    ) -> Result<bool, Failure> {
        self.read(&store.reader()?, take)
    }

    /// The same with a read transaction of the caller.
    pub(super) fn read<R: Reader>(
        &mut self,
        reader: &R,
        take: &mut dyn FnMut(Hit<'_>) -> SinkResult,
    ) -> Result<bool, Failure> {
        let mut budget = STEP_COST_MAX;
        let now = if self.include_expired { 0 } else { unix_now() };
        let step = self.scan.step(reader, now, &mut budget, &Unrestricted, take)?;
        self.cost += (STEP_COST_MAX - budget) as u64;
        Ok(matches!(step, ScanStep::More))
    }

    /// What it has cost so far, in units of about a microsecond of work.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }
}

/// Seconds since the Unix epoch.
pub fn unix_now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Opens a file to write, or standard output if there is none or it is `-`.
pub fn output(file: Option<&Path>) -> Result<Box<dyn Write>, Failure> {
    Ok(match file {
        Some(path) if path != Path::new("-") => {
            let file = File::create(path)
                .map_err(|error| Failure::External(format!("cannot write {}: {error}", path.display())))?;
            Box::new(BufWriter::with_capacity(1 << 16, file))
        }
        _ => Box::new(BufWriter::with_capacity(1 << 16, io::stdout().lock())),
    })
}

/// A broken pipe is not a failure: the reader of the output, such as `head`, has closed it.
pub fn ignore_broken_pipe(result: Result<(), Failure>, error: Option<io::ErrorKind>) -> Result<(), Failure> {
    match (result, error) {
        (Err(_), Some(io::ErrorKind::BrokenPipe)) => Ok(()),
        (result, _) => result,
    }
}

/// Writes lines and remembers the error that ended the output.
pub struct Lines {
    out: Box<dyn Write>,
    error: Option<io::ErrorKind>,
}

impl Lines {
    /// Lines to a file or to standard output.
    pub fn new(file: Option<&Path>) -> Result<Self, Failure> {
        Ok(Lines { out: output(file)?, error: None })
    }

    /// Writes one line.
    pub fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.write_all(line)?;
        self.write_all(b"\n")
    }

    /// Writes whole lines.
    pub fn write_all(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(lines);
        self.note(written)
    }

    /// Flushes the output; `result` is the result of the command.
    pub fn finish(mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let flushed = self.out.flush();
        let flushed = self.note(flushed);
        ignore_broken_pipe(result.and(flushed), self.error)
    }

    fn note(&mut self, written: io::Result<()>) -> Result<(), Failure> {
        written.map_err(|error| {
            self.error = Some(error.kind());
            Failure::External(format!("cannot write the output: {error}"))
        })
    }
}
