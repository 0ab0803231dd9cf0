//! Where a conversion makes the new database, and how that takes the old one's place.
//!
//! ```text
//! converting/            the new database while it is made
//! converting/complete    it is complete: the databases change places as soon as possible
//! before-conversion/     the old database afterwards
//! ```
//!
//! Each file is moved by one rename, and moving again what was not moved yet gives the same end, so it may be ended anywhere.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::log_store;

/// The folder in which the new database is made.
pub(crate) const FOLDER: &str = "converting";
/// The folder of the old database afterwards.
const BEFORE: &str = "before-conversion";
const COMPLETE: &str = "complete";

/// A storage engine with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// LMDB.
    Lmdb,
    /// A log of events and pages of keys.
    Log,
}

impl Engine {
    /// As `store.engine` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Lmdb => "lmdb",
            Engine::Log => "log",
        }
    }

    pub(crate) fn other(self) -> Engine {
        match self {
            Engine::Lmdb => Engine::Log,
            Engine::Log => Engine::Lmdb,
        }
    }

    /// Whether a database of it is in a folder.
    pub(crate) fn is_in(self, folder: &Path) -> bool {
        match self {
            Engine::Lmdb => folder.join("data.mdb").is_file(),
            Engine::Log => log_store::LogBackend::is_in(folder),
        }
    }

    /// The engine whose database is in a folder, if only one has one there.
    pub(crate) fn of(folder: &Path) -> Option<Engine> {
        match (Engine::Lmdb.is_in(folder), Engine::Log.is_in(folder)) {
            (true, false) => Some(Engine::Lmdb),
            (false, true) => Some(Engine::Log),
            _ => None,
        }
    }

    fn has_file(self, name: &str) -> bool {
        match self {
            Engine::Lmdb => matches!(name, "data.mdb" | "lock.mdb"),
            Engine::Log => log_store::is_file_name(name),
        }
    }

    /// Whether a database is found by this file.
    fn is_found_by(self, name: &str) -> bool {
        match self {
            Engine::Lmdb => name == "data.mdb",
            Engine::Log => log_store::is_manifest_name(name),
        }
    }
}

/// The places of a conversion in a data folder.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    data: PathBuf,
}

impl Place {
    pub(crate) fn of(data: &Path) -> Self {
        Place { data: data.to_owned() }
    }

    /// The folder of the new database.
    pub(crate) fn folder(&self) -> PathBuf {
        self.data.join(FOLDER)
    }

    /// The folder of the old database afterwards.
    pub(crate) fn before(&self) -> PathBuf {
        self.data.join(BEFORE)
    }

    /// Whether a conversion has begun that is neither at its end nor given up.
    pub(crate) fn is_begun(&self) -> bool {
        self.folder().is_dir()
    }

    /// The engine of the new database, once it is complete.
    pub(crate) fn completed(&self) -> io::Result<Option<Engine>> {
        match fs::read_to_string(self.folder().join(COMPLETE)) {
            Ok(name) if name == Engine::Lmdb.name() => Ok(Some(Engine::Lmdb)),
            Ok(name) if name == Engine::Log.name() => Ok(Some(Engine::Log)),
            // Cut off while it was written: it is not complete yet.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The new database, which no process has open, is complete.
    pub(crate) fn complete(&self, engine: Engine) -> io::Result<()> {
        let path = self.folder().join(COMPLETE);
        fs::write(&path, engine.name())?;
        File::open(&path)?.sync_all()?;
        sync(&self.folder())
    }

    /// Moves the old database, which no process has open, away, and the new one, which is complete, to its place.
    pub(crate) fn swap(&self, new: Engine) -> io::Result<()> {
        match fs::create_dir(self.before()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        sync(&self.data)?;
        move_files(new.other(), &self.data, &self.before())?;
        move_files(new, &self.folder(), &self.data)?;
        // Nothing is left in it but the mark. It loses its name before that, so that it never seems to be another conversion.
        fs::rename(self.folder(), self.leftover())?;
        sync(&self.data)?;
        fs::remove_dir_all(self.leftover())
    }

    /// The folder under the name that it is removed by.
    fn leftover(&self) -> PathBuf {
        self.data.join("converting.removed")
    }

    /// Removes what was left if the process ended while it removed the folder.
    pub(crate) fn remove_leftover(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.leftover()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the new database before it is complete.
    pub(crate) fn abort(&self) -> io::Result<()> {
        self.remove_leftover()?;
        fs::rename(self.folder(), self.leftover())?;
        sync(&self.data)?;
        fs::remove_dir_all(self.leftover())
    }
}

/// Moves the files of a database. That by which it is found comes last, so that it is found only whole.
fn move_files(engine: Engine, from: &Path, to: &Path) -> io::Result<()> {
    let names = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let mut names: Vec<String> = names.filter_map(Result::transpose).collect::<io::Result<_>>()?;
    names.retain(|name| engine.has_file(name));
    let (last, first): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| engine.is_found_by(name));
    for names in [first, last] {
        for name in names {
            fs::rename(from.join(name), to.join(name))?;
        }
        sync(to)?;
        sync(from)?;
    }
    Ok(())
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
