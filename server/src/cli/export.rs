//! `relay export`: every stored event in the order of commits, as canonical JSON, one a line.

use std::path::PathBuf;

use clap::Args;
use relay_engine::store::{Backend, Reader, Seq};
use relay_engine::types::CanonicalEvent;

use super::database::{self, Lines};
use super::exit::Failure;
use crate::config::Settings;

/// Events read at one moment; a longer one would keep a running relay from reusing pages.
const CHUNK_EVENTS: usize = 4_096;

/// Print all stored events in the order they were stored, one a line
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// File to write; standard output if not given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Only events that match any of these NIP-01 filters; `limit` plays no part
    #[arg(value_name = "FILTER_JSON")]
    pub filters: Vec<String>,
}

/// Runs the command.
pub fn run(args: &ExportArgs, settings: &Settings) -> Result<(), Failure> {
    let filters = database::filters(&args.filters)?;
    let store = database::open_existing(settings)?;
    let mut lines = Lines::new(args.out.as_deref())?;
    let bar = match args.out {
        Some(_) => database::progress("export", None),
        None => indicatif::ProgressBar::hidden(),
    };
    let result = (|| {
        let mut after = Seq(0);
        let mut chunk = Vec::with_capacity(CHUNK_EVENTS);
        loop {
            let reader = store.reader()?;
            chunk.clear();
            reader.log(after, CHUNK_EVENTS, &mut chunk)?;
            let Some(last) = chunk.last() else { return Ok(()) };
            after = *last;
            for seq in &chunk {
                let Some(json) = reader.event(*seq)? else { continue };
                let event = CanonicalEvent::trusted(&json);
                if filters.is_empty() || filters.iter().any(|filter| filter.matches_stored(event)) {
                    lines.write(&json)?;
                }
            }
            bar.inc(chunk.len() as u64);
        }
    })();
    bar.finish_and_clear();
    lines.finish(result)
}
