//! Commits and scans of the memory backend, LMDB and the store on files; each answer is checked.

#![allow(missing_docs, reason = "criterion's macros make public items")]

mod common;

use std::sync::Arc;

use common::CpuTime;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relay_bench::corpus::Corpus;
use relay_bench::generate::Rng;
use relay_bench::shapes::Shape;
use relay_engine::store::{
    self, Backend, MemoryBackend, Op, Reader, Scan, ScanLimits, ScanStep, SinkResult, TermClasses,
    Unrestricted,
};
use relay_engine::types::{Event, EventId, Filter, Timestamp};
use relay_engine::verify::Verified;
use relay_server::lmdb::{LmdbBackend, LmdbOptions};
use relay_server::log_store::{LogBackend, LogOptions};

const NOW: Timestamp = 1_767_225_600;
const LIMITS: ScanLimits = ScanLimits { limit_default: 500, limit_max: 5_000 };

fn memory() -> MemoryBackend {
    MemoryBackend::new(TermClasses { all: true, author_kind: true })
}

fn ops(events: &[Event]) -> Vec<Op> {
    events.iter().map(|event| Op::Put(Verified::assume_verified(event.clone()))).collect()
}

/// Commits all in batches and returns how many events are stored in the end.
fn fill<B: Backend>(backend: &B, ops: &[Op], batch: usize) -> u64 {
    for ops in ops.chunks(batch) {
        let outcomes = store::commit(backend, NOW, ops).expect("commits");
        assert_eq!(outcomes.len(), ops.len());
    }
    backend.reader().and_then(|reader| reader.stats()).expect("stats").events
}

fn commit(criterion: &mut Criterion<CpuTime>) {
    let lines = common::generated(common::size(4_096, 300));
    let ops = ops(&common::parsed(&lines));
    let kept = Corpus::new(lines).expect("a corpus").current.len() as u64;
    let mut group = criterion.benchmark_group("commit into an empty store");
    group.throughput(Throughput::Elements(ops.len() as u64)).sample_size(10);
    for batch in [16, 256, 4_096] {
        group.bench_function(BenchmarkId::new("memory", batch), |bencher| {
            bencher.iter_batched(
                memory,
                |backend| {
                    assert_eq!(fill(&backend, &ops, batch), kept);
                    backend
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("LMDB, durable", batch), |bencher| {
            let open = || {
                let folder = tempfile::tempdir().expect("a folder");
                let backend = LmdbBackend::open(folder.path(), &LmdbOptions::default()).expect("opens");
                (folder, backend)
            };
            bencher.iter_batched(
                open,
                |(folder, backend)| {
                    assert_eq!(fill(&backend, &ops, batch), kept);
                    (folder, backend)
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("log, durable", batch), |bencher| {
            let open = || {
                let folder = tempfile::tempdir().expect("a folder");
                let backend = LogBackend::open(folder.path(), LogOptions::default(), 0).expect("opens");
                (folder, backend)
            };
            bencher.iter_batched(
                open,
                |(folder, backend)| {
                    assert_eq!(fill(&backend, &ops, batch), kept);
                    (folder, backend)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// All events of one REQ, in order.
fn ask<B: Backend>(backend: &B, filters: &Arc<[Filter]>, found: &mut Vec<EventId>) {
    found.clear();
    let horizon = backend.reader().and_then(|reader| reader.last_seq()).expect("the last sequence number");
    let mut scan = Scan::new(Arc::clone(filters), LIMITS, backend.classes(), horizon);
    loop {
        let reader = backend.reader().expect("a read transaction");
        let mut budget = 2_000;
        let step = scan.step(&reader, NOW, &mut budget, &Unrestricted, &mut |hit| {
            found.push(hit.event.id());
            SinkResult::Continue
        });
        if let ScanStep::Done(_) = step.expect("a step") {
            return;
        }
    }
}

fn scan(criterion: &mut Criterion<CpuTime>) {
    let lines = common::generated(common::size(100_000, 1_500));
    let ops = ops(&common::parsed(&lines));
    let corpus = Corpus::new(lines).expect("a corpus");
    let memory = memory();
    assert_eq!(fill(&memory, &ops, 4_096), corpus.current.len() as u64);
    let folder = tempfile::tempdir().expect("a folder");
    let lmdb = LmdbBackend::open(folder.path(), &LmdbOptions::default()).expect("opens");
    assert_eq!(fill(&lmdb, &ops, 4_096), corpus.current.len() as u64);
    let log_folder = tempfile::tempdir().expect("a folder");
    let log = LogBackend::open(log_folder.path(), LogOptions::default(), 0).expect("opens");
    assert_eq!(fill(&log, &ops, 4_096), corpus.current.len() as u64);

    for shape in Shape::ALL {
        let mut rng = Rng::new(shape.name(), 1);
        let asked: Vec<_> = (0..common::size(100, 10)).map(|_| shape.draw(&corpus, &mut rng)).collect();
        let expected: Vec<Vec<EventId>> = asked
            .iter()
            .map(|filter| {
                let answer = corpus.answer(filter);
                answer.iter().map(|at| EventId(corpus.events[*at as usize].id)).collect()
            })
            .collect();
        let asked: Vec<Arc<[Filter]>> =
            asked.iter().map(|filter| common::filters(std::slice::from_ref(filter), &corpus)).collect();
        let mut group = criterion.benchmark_group(format!("scan, {}", shape.name()));
        group.throughput(Throughput::Elements(asked.len() as u64)).sample_size(20);
        let mut found = Vec::new();
        group.bench_function("memory", |bencher| {
            bencher.iter(|| {
                for (filters, expected) in asked.iter().zip(&expected) {
                    ask(&memory, filters, &mut found);
                    assert_eq!(&found, expected, "{filters:?}");
                }
            });
        });
        group.bench_function("LMDB", |bencher| {
            bencher.iter(|| {
                for (filters, expected) in asked.iter().zip(&expected) {
                    ask(&lmdb, filters, &mut found);
                    assert_eq!(&found, expected, "{filters:?}");
                }
            });
        });
        group.bench_function("log", |bencher| {
            bencher.iter(|| {
                for (filters, expected) in asked.iter().zip(&expected) {
                    ask(&log, filters, &mut found);
                    assert_eq!(&found, expected, "{filters:?}");
                }
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = common::cpu_time();
    targets = commit, scan
}
criterion_main!(benches);
