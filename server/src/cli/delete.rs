//! `relay delete`: the operator's deletion. Leaves no tombstone: what is sent again is taken again.
//!
//! Deletion requests and requests to vanish match like other events, expired ones too. What they deleted stays refused here,
//! but an export that lacks them cannot have it refused elsewhere, so how many are among them is said.

use clap::Args;
use relay_engine::store::{self, Take};
use relay_engine::types::{EventId, is_removal_request};

use super::database::{self, Scanning};
use super::exit::Failure;
use super::progress::Progress;
use crate::config::Settings;

/// Events taken out in one commit.
const BATCH_EVENTS: usize = 1_000;

/// Delete the stored events that match; they may be sent again
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Filters as NIP-01 JSON; events that match any are deleted
    #[arg(value_name = "FILTER_JSON", required = true)]
    pub filters: Vec<String>,
    /// Say how many there are, delete none
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do delete them
    #[arg(long)]
    pub yes: bool,
}

/// Runs the command.
pub fn run(args: &DeleteArgs, settings: &Settings) -> Result<(), Failure> {
    let filters = database::filters(&args.filters)?;
    let db = match args.yes {
        true => database::open_existing(settings)?,
        false => database::open_to_read(settings)?,
    };
    let (mut ids, mut requests): (Vec<EventId>, u64) = (Vec::new(), 0);
    let mut scanning = Scanning::of_all(&db, filters)?;
    while scanning.step(&db, &mut |hit| {
        ids.push(hit.event.id());
        requests += u64::from(is_removal_request(hit.event.kind()));
        Take::Counted
    })? {}
    if requests > 0 {
        eprintln!(
            "{requests} of them are requests to delete or to vanish (kinds 5, 62): what they deleted stays refused \
             here, and is taken where an export without them is imported"
        );
    }
    if args.dry_run {
        eprintln!("{} events match", ids.len());
        return Ok(());
    }
    if !args.yes {
        let words = format!("{} events match; --yes deletes them, --dry-run only counts", ids.len());
        return Err(Failure::Usage(words));
    }
    let mut progress = Progress::new("delete", None);
    let mut deleted = 0;
    for batch in ids.chunks(BATCH_EVENTS) {
        deleted += store::remove(&db, batch)?;
        progress.add(batch.len() as u64, || format!(" of {}", ids.len()));
    }
    progress.finish();
    eprintln!("{deleted} events deleted");
    Ok(())
}
