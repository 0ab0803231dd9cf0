//! `relay verify-db`: reads all that is stored. The ids of events are computed again, and each event is looked up by its id and under
//! each of its terms; a store on files also checks its checksums. With `--salvage`, what is whole in a broken database is written to a file.

use std::path::{Path, PathBuf};

use clap::Args;
use relay_engine::store::{Backend, Posting, Rank, Reader, Seq, StartAt, StoreError, Term, terms_of};
use relay_engine::types::Event;
use relay_engine::wire;
use serde_json::json;

use super::database::{self, Database, Lines};
use super::exit::Failure;
use super::progress::Progress;
use crate::config::Settings;
use crate::log_store::{self, Salvaged};

/// Events read in one read transaction.
const CHUNK_EVENTS: usize = 4_096;
/// What is broken is printed, up to that many times.
const SHOWN_MAX: usize = 100;

/// Read the whole database and name what is broken; nothing is changed
#[derive(Args, Debug)]
pub struct VerifyDbArgs {
    /// Print the counts as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// Of a database on files that is broken, also one that can't be opened: write each event that is whole to this file (`-`: standard
    /// output), which `relay import` reads. Nothing else is done
    #[arg(long, value_name = "FILE")]
    pub salvage: Option<PathBuf>,
}

/// What was found.
#[derive(Default)]
struct Found {
    events: u64,
    broken: u64,
}

impl Found {
    fn add(&mut self, progress: &mut Progress, what: &str) {
        self.broken += 1;
        if self.broken <= SHOWN_MAX as u64 {
            progress.print(what);
        }
    }
}

/// Runs the command.
pub fn run(args: &VerifyDbArgs, settings: &Settings) -> Result<(), Failure> {
    if let Some(file) = &args.salvage {
        return salvage(args, file, settings);
    }
    let mut progress = Progress::new("verify-db", None);
    let mut found = Found::default();
    match database::open_to_read(settings)? {
        Database::Lmdb(store) => verify(&store, &mut found, &mut progress)?,
        Database::Log(store) => {
            for damage in store.check()?.damage {
                found.add(&mut progress, &damage.what);
            }
            verify(&store, &mut found, &mut progress)?;
        }
    }
    progress.finish();
    let Found { events, broken } = found;
    eprintln!("{events} events read, {broken} defects found");
    if args.json {
        let mut lines = Lines::new(None)?;
        let result = lines.write(json!({ "events": events, "defects": broken }).to_string().as_bytes());
        lines.finish(result)?;
    }
    match broken {
        0 => Ok(()),
        _ => Err(Failure::External(format!("{broken} defects found in {}", settings.data.display()))),
    }
}

/// Writes what is whole to a file.
fn salvage(args: &VerifyDbArgs, file: &Path, settings: &Settings) -> Result<(), Failure> {
    let data = &settings.data;
    if data.join("data.mdb").is_file() {
        return Err(Failure::Usage(format!(
            "the database in {} is an LMDB database, and --salvage reads only those of store.engine = \"log\"",
            data.display()
        )));
    }
    let mut progress = Progress::new("salvage", None);
    // Not before there is something to write: what an earlier run has saved is not lost to a wrong folder.
    let mut lines = None;
    let result = log_store::salvage(data, &mut |json| {
        progress.add(1, String::new);
        match &mut lines {
            Some(lines) => lines,
            None => lines.insert(Lines::new(Some(file))?),
        }
        .write(json)
    });
    let (salvaged, result) = match result {
        Ok(salvaged) => (salvaged, Ok(())),
        Err(error) => (Default::default(), Err(error)),
    };
    match lines {
        Some(lines) => lines.finish(result)?,
        None => result?,
    }
    let Salvaged { events, damage } = salvaged;
    damage.iter().take(SHOWN_MAX).for_each(|what| progress.print(what));
    progress.finish();
    eprintln!(
        "{events} events written, {} defects found; `relay import` reads them into a new folder",
        damage.len()
    );
    if args.json && file != Path::new("-") {
        let mut lines = Lines::new(None)?;
        let result = lines.write(json!({ "events": events, "defects": damage.len() }).to_string().as_bytes());
        lines.finish(result)?;
    }
    if damage.is_empty() { Ok(()) } else { Err(Failure::Refused) }
}

fn verify<B: Backend>(store: &B, found: &mut Found, progress: &mut Progress) -> Result<(), Failure> {
    let (mut after, mut seqs) = (Seq(0), Vec::new());
    loop {
        let reader = store.reader()?;
        seqs.clear();
        reader.log(after, CHUNK_EVENTS, &mut seqs)?;
        let Some(last) = seqs.last() else { return Ok(()) };
        after = *last;
        for seq in &seqs {
            match verify_event(store, &reader, *seq) {
                Ok(()) => {}
                Err(StoreError::Corrupt(what)) => found.add(progress, &format!("event {}: {what}", seq.0)),
                Err(error) => return Err(error.into()),
            }
        }
        found.events += seqs.len() as u64;
        progress.add(seqs.len() as u64, String::new);
    }
}

/// [`StoreError::Corrupt`]: what is wrong with an event.
fn verify_event<B: Backend>(store: &B, reader: &B::Reader<'_>, seq: Seq) -> Result<(), StoreError> {
    let broken = |what: &str| Err(StoreError::Corrupt(what.to_owned()));
    let Some(json) = reader.event(seq)? else { return Ok(()) };
    match wire::parse_event(&json) {
        Ok(raw) if raw.compute_id() == raw.id => {}
        Ok(_) => return broken("its id is not its hash"),
        Err(_) => return broken("it is no event"),
    }
    let event = Event::from_canonical((&*json).into());
    if reader.seq_of(&event.id)? != Some(seq) {
        return broken("it is not found by its id");
    }
    let rank = Rank::of(event.created_at, &event.id);
    // Folders of earlier versions have no postings of an empty `d` that is implied.
    let is_listed = |term: &Term| match term {
        Term::Address(_, _, d) | Term::Tag(b'd', d) => !d.is_empty(),
        _ => true,
    };
    for term in terms_of(event.view(), store.classes()).into_iter().filter(is_listed) {
        let mut postings: Vec<Posting> = Vec::new();
        let before = StartAt::After(rank, Seq(seq.0.saturating_sub(1)));
        reader.postings(&term, before, event.created_at, 1, &mut postings)?;
        if postings.first().is_none_or(|posting| posting.seq != seq) {
            return broken(&format!("it is not found by {term:?}"));
        }
    }
    Ok(())
}
