//! `relay delete`: removes events without leaving tombstones, so that a client that sends one again is not refused.
//!
//! Deletion requests and requests to vanish match like other events, expired ones included. What they deleted stays refused
//! here, by its tombstones; an export without the requests cannot make another relay refuse it. So the command prints how
//! many of them it removes.

use std::sync::Arc;

use clap::Args;
use relay_engine::store::{Backend, SinkResult};
use relay_engine::types::{EventId, Filter, is_removal_request};

use super::command_store::CommandStore;
use super::database::{self, OfflineScan, with_store};
use super::exit::Failure;
use super::progress::Progress;
use crate::config::Settings;

/// Events removed in one commit.
const BATCH_EVENTS: usize = 1_000;

/// Delete the stored events that match. No tombstones are left: clients may publish the events again
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Filters as NIP-01 JSON; events that match any are deleted
    #[arg(value_name = "FILTER_JSON", required = true)]
    pub filters: Vec<String>,
    /// Print how many events match, delete none
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Really delete them
    #[arg(long)]
    pub yes: bool,
}

/// Runs the command.
pub fn run(args: &DeleteArgs, settings: &Settings) -> Result<(), Failure> {
    let filters = database::filters(&args.filters)?;
    let database = match args.yes {
        true => database::open_existing(settings)?,
        false => database::open_to_read(settings)?.for_command(),
    };
    with_store!(database, store => delete(args, filters, &store))
}

fn delete<B: Backend>(
    args: &DeleteArgs,
    filters: Arc<[Filter]>,
    db: &CommandStore<B>,
) -> Result<(), Failure> {
    let (mut ids, mut requests): (Vec<EventId>, u64) = (Vec::new(), 0);
    let mut scan = OfflineScan::with_expired(db.read(), filters)?;
    while scan.step(db.read(), &mut |hit| {
        ids.push(hit.event.id());
        requests += u64::from(is_removal_request(hit.event.kind()));
        SinkResult::Continue
    })? {}
    if requests > 0 {
        eprintln!(
            "{requests} of them are deletion requests or requests to vanish (kinds 5 and 62): the events they deleted stay \
             refused here, but an import of an export without them accepts those events"
        );
    }
    if args.dry_run {
        eprintln!("{} events match", ids.len());
        return Ok(());
    }
    if !args.yes {
        let message = format!("{} events match; --yes deletes them, --dry-run only counts", ids.len());
        return Err(Failure::Usage(message));
    }
    let mut progress = Progress::new("delete", None);
    let mut deleted = 0;
    for batch in ids.chunks(BATCH_EVENTS) {
        if let Err(failure) = db.remove(batch, &mut deleted) {
            progress.finish();
            eprintln!("{deleted} events were deleted, then the store failed");
            return Err(failure);
        }
        progress.add(batch.len() as u64, || format!(" of {}", ids.len()));
    }
    progress.finish();
    eprintln!("{deleted} events deleted");
    Ok(())
}
