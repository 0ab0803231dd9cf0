//! Tests that every backend must pass: the contract of the traits one by one, the rules of writing and of querying as tables of
//! cases, a failure at every operation, and random runs compared with the oracle.

mod contract;
mod failures;
mod queries;
mod removal;
mod retention;
mod rules;
mod wide;

use crate::store::{
    Backend, Completeness, Hit, Reader, Scan, ScanLimits, ScanStep, Seq, SinkResult, Viewer, remove_pending,
    sweep_expired,
};
use crate::types::{Event, Filter, Timestamp};

/// Runs the whole suite on stores made by `make`, which are empty.
///
/// # Panics
/// If the backend is wrong; the message says where.
pub fn backend_tests<B: Backend + 'static>(make: impl Fn() -> B + Sync) {
    contract::run(&make);
    rules::run(&make);
    queries::run(&make);
    wide::run(&make);
    removal::run(&make);
    retention::run(&make);
    failures::run(&make);
    super::differential(&make, 1, 600);
}

/// The whole answer to a REQ of `filters`, in steps of a cost of `budget`.
fn ask<B: Backend>(
    backend: &B,
    filters: &[Filter],
    limits: ScanLimits,
    now: Timestamp,
    budget: usize,
    viewer: &dyn Viewer,
) -> (Vec<Event>, Completeness) {
    let horizon = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq");
    let mut scan = Scan::new(normalised(filters).into(), limits, backend.classes(), horizon);
    let mut events = Vec::new();
    loop {
        let mut left = budget;
        let reader = backend.reader().expect("reader");
        let mut sink = |hit: Hit<'_>| {
            events.push(Event::from_canonical(hit.event.json().into()));
            SinkResult::Continue
        };
        let step = scan.step(&reader, now, &mut left, viewer, &mut sink).expect("step");
        if let ScanStep::Done(completeness) = step {
            return (events, completeness);
        }
        assert!(left < budget, "a step makes progress: {filters:?}");
    }
}

fn normalised(filters: &[Filter]) -> Vec<Filter> {
    let mut filters = filters.to_vec();
    filters.iter_mut().for_each(Filter::normalise);
    filters
}

/// Sequence numbers of all stored events.
fn stored<B: Backend>(backend: &B) -> Vec<Seq> {
    let (mut seqs, reader) = (Vec::new(), backend.reader().expect("reader"));
    reader.log(Seq(0), usize::MAX, &mut seqs).expect("log");
    seqs.retain(|seq| !reader.is_pending_removal(*seq).expect("is_pending_removal"));
    seqs
}

/// Sweeps until nothing more has expired at time `now`. Returns how many events had.
fn sweep<B: Backend>(backend: &B, now: Timestamp) -> usize {
    let mut events = 0;
    loop {
        let swept = sweep_expired(backend, now, 2).expect("sweep");
        assert!(swept.events <= 2 && (swept.keys > 0 || !swept.more));
        events += swept.events;
        if !swept.more {
            return events;
        }
    }
}

/// Removes all that is pending removal, step by step.
fn remove_all_pending<B: Backend>(backend: &B) {
    while remove_pending(backend).expect("remove").more {}
}
