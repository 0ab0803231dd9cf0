//! `relay db convert`: the database of a folder becomes one of another engine.

use std::io::Write;

use clap::{Args, Subcommand};
use relay_engine::store::Backend;
use relay_engine::store::kv::{ConversionReader, ConversionWriter};

use super::exit::Failure;
use super::progress::Progress;
use crate::config::Settings;
use crate::convert::{self, Copied, Engine, FOLDER, Place, Step, Summary};
use crate::lmdb::{self, LmdbBackend, LmdbOptions};
use crate::log_store::{LogBackend, LogOptions};
use crate::serve_lock::ServeLock;
use crate::signals::Interrupt;

/// What is done with a database.
#[derive(Subcommand, Debug)]
pub(super) enum DbCommand {
    /// Copy the database into one of another engine, compare both, and let the new one take the old one's place
    Convert(super::With<ConvertArgs>),
}

/// Options of `relay db convert`.
#[derive(Args, Debug)]
pub(super) struct ConvertArgs {
    /// Engine of the new database
    #[arg(long, value_enum)]
    to: Engine,
    /// Give up a conversion that is not complete: the old database stays as it is
    #[arg(long)]
    abort: bool,
}

/// Runs the command.
pub(super) fn run(args: &ConvertArgs, settings: &Settings) -> Result<(), Failure> {
    let (data, place) = (&settings.data, Place::of(&settings.data));
    if !data.is_dir() {
        return Err(Failure::External(format!("there is no database in {}", data.display())));
    }
    // Held to the end: no relay serves the folder meanwhile.
    let _lock = ServeLock::take(data, "nothing: a conversion of the database")?;
    place.remove_leftover()?;
    let completed = place.completed()?;
    if args.abort {
        return match (place.is_begun(), completed) {
            (true, None) => Ok(place.abort()?),
            (true, Some(_)) => Err(Failure::External(
                "the conversion is complete: run the command without --abort to end it".to_owned(),
            )),
            (false, _) => Err(Failure::Usage("no conversion has begun".to_owned())),
        };
    }
    if let Some(engine) = completed {
        return swap(&place, engine);
    }
    let from = args.to.other();
    match Engine::of(data) {
        Some(engine) if engine == from => {}
        Some(_) => {
            return Err(Failure::Usage(format!(
                "the database in {} is one of {} already",
                data.display(),
                args.to.name()
            )));
        }
        None => return Err(Failure::External(format!("there is no database in {}", data.display()))),
    }
    if place.before().exists() {
        let before = place.before();
        return Err(Failure::Usage(format!(
            "{} has the database from before the last conversion: move or remove it first",
            before.display()
        )));
    }
    if lmdb::is_in_use(data)? {
        return Err(Failure::External(format!(
            "another process has the database in {} open: end it first",
            data.display()
        )));
    }
    let folder = place.folder();
    std::fs::create_dir_all(&folder)?;
    if args.to.other().is_in(&folder) {
        return Err(Failure::Usage(format!(
            "a conversion to {} has begun: go on with it, or give it up with --abort",
            from.name()
        )));
    }
    let map_bytes_max = usize::try_from(settings.store.map_bytes_max).unwrap_or(usize::MAX);
    let lmdb = LmdbOptions { map_bytes_max, ..LmdbOptions::default() };
    // Open until the end, so that nobody writes to it meanwhile.
    let mut files = None;
    let summary = match args.to {
        Engine::Log => copy_and_compare(
            &LmdbBackend::open_to_read(data, &lmdb)?,
            &LogBackend::open(
                &folder,
                LogOptions { packs: settings.store.pack, ..LogOptions::default() },
                0,
            )?,
        )?,
        Engine::Lmdb => {
            let files = files.insert(LogBackend::open_to_read(data, LogOptions::default())?);
            if files.is_beside_writer() {
                return Err(Failure::External(format!(
                    "another process has the database in {} open: end it first",
                    data.display()
                )));
            }
            copy_and_compare(files, &LmdbBackend::open(&folder, &lmdb)?)?
        }
    };
    // The new database is closed.
    place.complete(args.to)?;
    eprintln!(
        "{} events and {} tombstones are the same in both databases",
        summary.events, summary.tombstones
    );
    swap(&place, args.to)?;
    drop(files);
    Ok(())
}

fn swap(place: &Place, engine: Engine) -> Result<(), Failure> {
    place.swap(engine)?;
    eprintln!(
        "the folder has a database of {} now; remove {} when you do not want to go back",
        engine.name(),
        place.before().display()
    );
    Ok(())
}

fn copy_and_compare<F, T>(from: &F, to: &T) -> Result<Summary, Failure>
where
    F: Backend,
    for<'a> F::Reader<'a>: ConversionReader,
    T: Backend,
    for<'a> T::Reader<'a>: ConversionReader,
    for<'a> T::Writer<'a>: ConversionWriter,
{
    let interrupt = Interrupt::watch()?;
    let mut progress = Progress::new("copy", None);
    let copied = convert::copy(from, to, &mut |step| {
        if let Step::Events(events) = step {
            progress.add(events, String::new);
        }
        !interrupt.has_come()
    });
    progress.finish();
    if copied? == Copied::Stopped {
        return interrupted();
    }
    let mut progress = Progress::new("compare", None);
    let mut goes_on = |events| {
        progress.add(events, String::new);
        !interrupt.has_come()
    };
    let (before, after) = (convert::summary(from, &mut goes_on), convert::summary(to, &mut goes_on));
    progress.finish();
    match (before?, after?) {
        (Some(before), Some(after)) if before == after => Ok(after),
        (Some(before), Some(after)) => Err(Failure::External(format!(
            "the databases differ ({} events and {} tombstones, {} and {} in the new one): the old one is as it was; give the conversion up \
             with --abort and begin again",
            before.events, before.tombstones, after.events, after.tombstones
        ))),
        _ => interrupted(),
    }
}

fn interrupted<T>() -> Result<T, Failure> {
    let _ = writeln!(
        std::io::stderr(),
        "ended by a signal: run the command again to go on, or with --abort to give it up; until then nothing else opens the folder \
         ({FOLDER} is in it)"
    );
    Err(Failure::Interrupted)
}

/// Refuses a folder of which the database is being converted.
pub(super) fn refuse_if_begun(settings: &Settings) -> Result<(), Failure> {
    match Place::of(&settings.data).is_begun() {
        true => Err(Failure::External(format!(
            "the database in {} is being converted: `relay db convert` goes on with it, `--abort` gives it up",
            settings.data.display()
        ))),
        false => Ok(()),
    }
}
