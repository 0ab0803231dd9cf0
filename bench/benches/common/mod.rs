//! Events for the benches: generated ones, and real ones if the machine has them; and CPU time as the measure.

#![allow(dead_code, reason = "each bench uses its part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use relay_bench::generate::Options;
use relay_engine::types::Event;
use relay_engine::wire;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of the measuring thread, which other processes affect less than wall time.
pub(crate) struct CpuTime;

/// Criterion that counts CPU time.
pub(crate) fn cpu_time() -> Criterion<CpuTime> {
    Criterion::default().with_measurement(CpuTime)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Whether this run measures; otherwise, as under `cargo test`, it only checks the answers.
pub(crate) fn measures() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// `many` when measuring, else `few`.
pub(crate) fn size(many: usize, few: usize) -> usize {
    if measures() { many } else { few }
}

/// Generated events as canonical JSON.
pub(crate) fn generated(count: usize) -> Vec<String> {
    Options { count, ..Options::default() }.events(2)
}

/// The real events of the folder `RELAY_SHARED`, or of `../shared` beside the repository; none elsewhere.
pub(crate) fn real() -> Vec<String> {
    let shared = std::env::var_os("RELAY_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")), PathBuf::from);
    let text = std::fs::read_to_string(shared.join("data/real-events.jsonl")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Events parsed by the engine.
pub(crate) fn parsed(lines: &[String]) -> Vec<Event> {
    lines.iter().map(|line| wire::parse_event(line.as_bytes()).expect("valid").to_event()).collect()
}

/// A filter of the load generator, parsed by the engine.
pub(crate) fn filter(
    filter: &relay_bench::filter::Filter,
    corpus: &relay_bench::corpus::Corpus,
) -> relay_engine::types::Filter {
    let json = filter.to_json(corpus).to_string();
    let mut filter = wire::parse_filter(json.as_bytes()).expect("valid");
    filter.normalise();
    filter
}

/// The same filters, shared as a REQ holds them.
pub(crate) fn filters(
    list: &[relay_bench::filter::Filter],
    corpus: &relay_bench::corpus::Corpus,
) -> Arc<[relay_engine::types::Filter]> {
    list.iter().map(|one| filter(one, corpus)).collect()
}
