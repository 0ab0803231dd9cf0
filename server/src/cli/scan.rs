//! `relay scan`: the events that a REQ would return, one a line, without the relay's own limits.

use std::cell::RefCell;
use std::sync::Arc;

use clap::Args;
use relay_engine::store::{Backend, SinkResult};
use relay_engine::types::Filter;

use super::database::{self, Lines, OfflineScan, with_store};
use super::exit::Failure;
use super::explain::{Trace, Traced};
use crate::config::Settings;

/// Bytes collected in one read transaction, and then written.
const CHUNK_BYTES: usize = 4 << 20;

/// Print the stored events that match, newest first, one a line
#[derive(Args, Debug)]
pub struct ScanArgs {
    /// Filters as NIP-01 JSON, such as `{"kinds":[1],"limit":10}`; events that match any are printed
    #[arg(value_name = "FILTER_JSON", required = true)]
    pub filters: Vec<String>,
    /// Instead of events, print what was read for them and what that costs: which terms, in the order in which they were first read, how
    /// many postings of them, and how many events
    #[arg(long)]
    pub explain: bool,
}

/// Runs the command.
pub fn run(args: &ScanArgs, settings: &Settings) -> Result<(), Failure> {
    let filters = database::filters(&args.filters)?;
    with_store!(database::open_to_read(settings)?, store => match args.explain {
        true => explain(&store, filters),
        false => print(&store, filters),
    })
}

fn explain<B: Backend>(store: &B, filters: Arc<[Filter]>) -> Result<(), Failure> {
    let mut scan = OfflineScan::new(store, filters)?;
    let trace = RefCell::<Trace>::default();
    let (mut events, mut bytes, mut steps) = (0, 0, 0);
    loop {
        steps += 1;
        let reader = Traced::new(store.reader()?, &trace);
        let has_more = scan.read(&reader, &mut |hit| {
            events += 1;
            bytes += hit.event.json().len();
            SinkResult::Continue
        })?;
        if !has_more {
            break;
        }
    }
    let mut lines = Lines::new(None)?;
    let cost = scan.cost();
    let answer =
        format!("answer:        {events} events ({bytes} bytes), cost {cost}, {steps} read transactions");
    let result = lines.write(format!("{}\n{answer}", trace.borrow()).as_bytes());
    lines.finish(result)
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
