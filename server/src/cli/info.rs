//! `relay info`: statistics of a database.

use std::io::Write;

use clap::Args;
use relay_engine::store::{Backend, Reader, SinkResult};
use relay_engine::types::Filter;
use serde_json::json;

use super::database::{self, Lines, OfflineScan, with_store};
use super::exit::Failure;
use crate::config::Settings;

/// Print statistics of the database
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &InfoArgs, settings: &Settings) -> Result<(), Failure> {
    with_store!(database::open_to_read(settings)?, store => print(args, settings, &store))
}

fn print<B: Backend>(args: &InfoArgs, settings: &Settings, store: &B) -> Result<(), Failure> {
    let (stats, last_seq) = {
        let reader = store.reader()?;
        (reader.stats()?, reader.last_seq()?)
    };
    let mut newest = None;
    let one = [Filter { limit: Some(1), ..Filter::default() }];
    let mut scan = OfflineScan::new(store, one.into())?;
    while scan.step(store, &mut |hit| {
        newest = Some(hit.event.created_at());
        SinkResult::Continue
    })? {}
    let bytes_per_event = stats.bytes.checked_div(stats.events).unwrap_or(0);
    let mut lines = Lines::new(None)?;
    let text = if args.json {
        json!({
            "data": settings.data.display().to_string(),
            "events": stats.events,
            "pending_removal": stats.pending_removal,
            "events_ever": last_seq.0,
            "newest_created_at": newest,
            "bytes": stats.bytes,
            "bytes_per_event": bytes_per_event,
        })
        .to_string()
        .into_bytes()
    } else {
        let mut text = Vec::new();
        writeln!(text, "folder              {}", settings.data.display())?;
        writeln!(text, "events              {}", stats.events)?;
        if stats.pending_removal > 0 {
            writeln!(text, "pending removal     {}", stats.pending_removal)?;
        }
        writeln!(text, "events ever stored  {}", last_seq.0)?;
        if let Some(newest) = newest {
            writeln!(text, "newest created_at   {newest}")?;
        }
        writeln!(text, "bytes on disk       {}", stats.bytes)?;
        write!(text, "bytes per event     {bytes_per_event}")?;
        text
    };
    let result = lines.write(&text);
    lines.finish(result)
}
