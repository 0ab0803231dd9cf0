//! `relay scan`: the events that a REQ would return, one a line, without the relay's own limits.

use std::sync::Arc;

use clap::Args;
use relay_engine::store::{Backend, SinkResult};
use relay_engine::types::Filter;

use super::database::{self, Lines, OfflineScan, with_store};
use super::exit::Failure;
use crate::config::Settings;

/// Bytes collected in one read transaction, and then written.
const CHUNK_BYTES: usize = 4 << 20;

/// Print the stored events that match, newest first, one a line
#[derive(Args, Debug)]
pub struct ScanArgs {
    /// Filters as NIP-01 JSON, such as `{"kinds":[1],"limit":10}`; events that match any are printed
    #[arg(value_name = "FILTER_JSON", required = true)]
    pub filters: Vec<String>,
}

/// Runs the command.
pub fn run(args: &ScanArgs, settings: &Settings) -> Result<(), Failure> {
    let filters = database::filters(&args.filters)?;
    with_store!(database::open_to_read(settings)?, store => print(&store, filters))
}

fn print<B: Backend>(store: &B, filters: Arc<[Filter]>) -> Result<(), Failure> {
    let mut lines = Lines::new(None)?;
    let result = (|| {
        let mut scan = OfflineScan::new(store, filters)?;
        let mut text = Vec::new();
        loop {
            let has_more = scan.step(store, &mut |hit| {
                text.extend_from_slice(hit.event.json());
                text.push(b'\n');
                if text.len() < CHUNK_BYTES { SinkResult::Continue } else { SinkResult::Pause }
            })?;
            lines.write_all(&text)?;
            text.clear();
            if !has_more {
                return Ok(());
            }
        }
    })();
    lines.finish(result)
}
