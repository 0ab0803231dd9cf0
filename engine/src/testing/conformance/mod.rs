//! Tests that every backend must pass: the contract of the traits one by one, the rules of writing and of querying as tables of
//! cases, a failure at every operation, and random runs compared with the oracle.

mod failures;
mod queries;
mod rules;
mod seam;
mod wide;

use crate::store::{Backend, Completeness, Hit, Reader, Scan, ScanLimits, Seq, Step, Take, Viewer};
use crate::types::{Event, Filter, Timestamp};

/// Runs the whole suite on stores made by `make`, which are empty.
///
/// # Panics
/// If the backend is wrong; the message says where.
pub fn conformance<B: Backend + 'static>(make: impl Fn() -> B + Sync) {
    seam::run(&make);
    rules::run(&make);
    queries::run(&make);
    wide::run(&make);
    failures::run(&make);
    super::differential(&make, 1, 600);
}

/// The whole answer to a REQ of `filters`, in steps of `rows` rows.
fn ask<B: Backend>(
    backend: &B,
    filters: &[Filter],
    limits: ScanLimits,
    now: Timestamp,
    rows: usize,
    viewer: &dyn Viewer,
) -> (Vec<Event>, Completeness) {
    let horizon = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq");
    let mut scan = Scan::new(normalised(filters).into(), limits, backend.classes(), horizon);
    let mut events = Vec::new();
    loop {
        let mut left = rows;
        let reader = backend.reader().expect("reader");
        let mut sink = |hit: Hit<'_>| {
            events.push(Event::from_canonical(hit.event.json().into()));
            Take::Counted
        };
        let step = scan.step(&reader, now, &mut left, viewer, &mut sink).expect("step");
        if let Step::Done(completeness) = step {
            return (events, completeness);
        }
        assert!(left < rows, "a step makes progress: {filters:?}");
    }
}

fn normalised(filters: &[Filter]) -> Vec<Filter> {
    let mut filters = filters.to_vec();
    filters.iter_mut().for_each(Filter::normalise);
    filters
}

/// Sequence numbers of all stored events.
fn stored<B: Backend>(backend: &B) -> Vec<Seq> {
    let mut seqs = Vec::new();
    backend.reader().and_then(|reader| reader.log(Seq(0), usize::MAX, &mut seqs)).expect("log");
    seqs
}
