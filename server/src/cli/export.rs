//! `relay export`: all stored events in commit order, as canonical JSON, one a line.
//!
//! Deletion requests and requests to vanish are included even if they have expired, so that a relay which imports the export
//! refuses what was deleted here.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use relay_engine::store::{Backend, Reader, Seq};
use relay_engine::types::{CanonicalEvent, Filter};

use super::database::{self, Lines, with_store};
use super::exit::Failure;
use super::progress::Progress;
use crate::config::Settings;

/// Events and bytes read in one read transaction. They are written after it has ended, because the reader of the output may
/// be slow, and while a read transaction is open a serving relay cannot reuse free pages.
const CHUNK_EVENTS: usize = 4_096;
const CHUNK_BYTES: usize = 4 << 20;

/// Print all stored events in commit order, one a line
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// File to write; standard output if not given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Only events that match any of these NIP-01 filters; `limit` is ignored
    #[arg(value_name = "FILTER_JSON")]
    pub filters: Vec<String>,
}

/// Runs the command.
pub fn run(args: &ExportArgs, settings: &Settings) -> Result<(), Failure> {
    let filters = database::filters(&args.filters)?;
    with_store!(database::open_to_read(settings)?, store => export(args, &filters, &store))
}

fn export<B: Backend>(args: &ExportArgs, filters: &[Filter], store: &B) -> Result<(), Failure> {
    let mut lines = Lines::new(args.out.as_deref())?;
    // No progress bar if the lines themselves go to the terminal.
    let show_progress = args.out.is_some() || !io::stdout().is_terminal();
    let mut progress = Progress::for_terminals("export", show_progress);
    let result = (|| {
        let mut after = Seq(0);
        let mut chunk = Vec::with_capacity(CHUNK_EVENTS);
        let mut text = Vec::new();
        loop {
            let reader = store.reader()?;
            chunk.clear();
            reader.log(after, CHUNK_EVENTS, &mut chunk)?;
            if chunk.is_empty() {
                return Ok(());
            }
            for seq in chunk.drain(..) {
                after = seq;
                progress.add(1, String::new);
                let Some(json) = reader.event(seq)? else { continue };
                let event = CanonicalEvent::trusted(&json);
                if filters.is_empty() || filters.iter().any(|filter| filter.matches_stored(event)) {
                    text.extend_from_slice(&json);
                    text.push(b'\n');
                }
                if text.len() >= CHUNK_BYTES {
                    break;
                }
            }
            drop(reader);
            lines.write_all(&text)?;
            text.clear();
        }
    })();
    progress.finish();
    lines.finish(result)
}
