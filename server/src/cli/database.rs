//! What the offline commands share: the database, filters from the command line, and output.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use relay_engine::store::{Backend, Everyone, Hit, Reader, Scan, ScanLimits, Step, Take};
use relay_engine::types::{Filter, Timestamp};
use relay_engine::wire;

use super::exit::Failure;
use crate::config::{Settings, StoreEngine};
use crate::lmdb::{LmdbBackend, LmdbOptions};

/// Rows a step of an offline scan looks at: it is in nobody's way but a writer's free pages.
const STEP_ROWS: usize = 100_000;

/// Opens the configured database, making it if it is not there.
pub fn open(settings: &Settings) -> Result<LmdbBackend, Failure> {
    let options = options(settings)?;
    Ok(LmdbBackend::open(&settings.data, &options)?)
}

/// Opens a database that must exist: whoever deletes from a folder that is not there has mistyped it.
pub fn open_existing(settings: &Settings) -> Result<LmdbBackend, Failure> {
    let options = options(settings)?;
    ensure_exists(settings)?;
    Ok(LmdbBackend::open(&settings.data, &options)?)
}

/// Opens a database that must exist to read it; the folder may be read-only.
pub fn open_to_read(settings: &Settings) -> Result<LmdbBackend, Failure> {
    let options = options(settings)?;
    ensure_exists(settings)?;
    Ok(LmdbBackend::open_to_read(&settings.data, &options)?)
}

fn options(settings: &Settings) -> Result<LmdbOptions, Failure> {
    if settings.store.engine == StoreEngine::Memory {
        return Err(Failure::Usage("store.engine is `memory`: there is no database to work on".into()));
    }
    let map_bytes_max = usize::try_from(settings.store.map_bytes_max).unwrap_or(usize::MAX);
    Ok(LmdbOptions { map_bytes_max, reserve_bytes: settings.store.reserve_bytes, ..LmdbOptions::default() })
}

fn ensure_exists(settings: &Settings) -> Result<(), Failure> {
    if settings.data.join("data.mdb").is_file() {
        return Ok(());
    }
    Err(Failure::Storage(format!("there is no database in {}", settings.data.display())))
}

/// Reads filters given as NIP-01 JSON, one object each.
pub fn filters(texts: &[String]) -> Result<Arc<[Filter]>, Failure> {
    texts
        .iter()
        .map(|text| {
            wire::parse_filter(text.as_bytes())
                .map_err(|error| Failure::Usage(format!("filter {text}: {}: {error}", error.prefix())))
        })
        .collect()
}

/// All stored events that match, in answer order, in steps. Filters have the limits they give.
pub struct Scanning {
    scan: Scan,
    /// Also what has expired and is still stored.
    expired_too: bool,
}

impl Scanning {
    /// A scan of what is served now.
    pub fn new<B: Backend>(store: &B, filters: Arc<[Filter]>) -> Result<Self, Failure> {
        Self::begin(store, filters, false)
    }

    /// A scan of all that is stored now.
    pub fn of_all<B: Backend>(store: &B, filters: Arc<[Filter]>) -> Result<Self, Failure> {
        Self::begin(store, filters, true)
    }

    fn begin<B: Backend>(store: &B, filters: Arc<[Filter]>, expired_too: bool) -> Result<Self, Failure> {
        let limits = ScanLimits { limit_default: u32::MAX, limit_max: u32::MAX };
        let horizon = store.reader()?.last_seq()?;
        Ok(Scanning { scan: Scan::new(filters, limits, store.classes(), horizon), expired_too })
    }

    /// Calls `take` with the next events; true if there may be more. Between steps nothing keeps a running relay
    /// from reusing pages.
    pub fn step<B: Backend>(
        &mut self,
        store: &B,
        take: &mut dyn FnMut(Hit<'_>) -> Take,
    ) -> Result<bool, Failure> {
        let reader = store.reader()?;
        let mut rows = STEP_ROWS;
        let now = if self.expired_too { 0 } else { unix_now() };
        let step = self.scan.step(&reader, now, &mut rows, &Everyone, take)?;
        Ok(matches!(step, Step::More))
    }
}

/// Seconds since the Unix epoch.
pub fn unix_now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A file to write, or standard output.
pub fn output(file: Option<&Path>) -> Result<Box<dyn Write>, Failure> {
    Ok(match file {
        Some(path) if path != Path::new("-") => {
            let file = File::create(path)
                .map_err(|error| Failure::Storage(format!("cannot write {}: {error}", path.display())))?;
            Box::new(BufWriter::with_capacity(1 << 16, file))
        }
        _ => Box::new(BufWriter::with_capacity(1 << 16, io::stdout().lock())),
    })
}

/// A reader that has gone away has seen enough: that is no failure.
pub fn until_reader_leaves(result: Result<(), Failure>, error: Option<io::ErrorKind>) -> Result<(), Failure> {
    match (result, error) {
        (Err(_), Some(io::ErrorKind::BrokenPipe)) => Ok(()),
        (result, _) => result,
    }
}

/// Writes lines and remembers what stopped them.
pub struct Lines {
    out: Box<dyn Write>,
    stopped: Option<io::ErrorKind>,
}

impl Lines {
    /// Lines to a file or to standard output.
    pub fn new(file: Option<&Path>) -> Result<Self, Failure> {
        Ok(Lines { out: output(file)?, stopped: None })
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

    /// Ends the output; `result` is what the command came to.
    pub fn finish(mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let flushed = self.out.flush();
        let flushed = self.note(flushed);
        until_reader_leaves(result.and(flushed), self.stopped)
    }

    fn note(&mut self, written: io::Result<()>) -> Result<(), Failure> {
        written.map_err(|error| {
            self.stopped = Some(error.kind());
            Failure::Storage(format!("cannot write the output: {error}"))
        })
    }
}
