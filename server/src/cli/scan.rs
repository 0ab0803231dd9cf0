//! `relay scan`: what a REQ would answer, one event a line, without the relay's own limits.

use clap::Args;

use super::database::{self, Lines};
use super::exit::Failure;
use crate::config::Settings;

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
    let store = database::open_existing(settings)?;
    let mut lines = Lines::new(None)?;
    let result = database::scan(&store, filters, &mut |hit| lines.write(hit.event.json()));
    lines.finish(result)
}
