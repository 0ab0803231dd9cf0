//! Finding the live subscriptions that match an event: by the index, and by loops over all filters, whose result must be
//! the same.

#![allow(missing_docs, reason = "criterion's macros make public items")]

mod common;

use common::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relay_bench::corpus::Corpus;
use relay_bench::generate::{Options, Rng};
use relay_bench::subscriptions;
use relay_engine::index::Index;
use relay_engine::types::Filter;

/// The events and all authors.
fn world(lines: Vec<String>) -> (Corpus, Vec<u32>) {
    let mut corpus = Corpus::new(lines).expect("a corpus");
    let authors = Options::default().authors();
    let authors = authors.iter().map(|author| corpus.intern(&author.pubkey)).collect();
    (corpus, authors)
}

fn matching(criterion: &mut Criterion<CpuTime>) {
    let lines = common::generated(common::size(2_000, 150));
    let events = common::parsed(&lines);
    let (corpus, authors) = world(lines);
    let mut group = criterion.benchmark_group("match an event");
    group.throughput(Throughput::Elements(events.len() as u64)).sample_size(20);
    for count in [common::size(1_000, 200), common::size(5_000, 400), common::size(20_000, 600)] {
        let mut rng = Rng::new("bench", 1);
        let subs: Vec<Vec<Filter>> = subscriptions::draw(&corpus, &authors, count, 0, &mut rng)
            .iter()
            .map(|filters| filters.iter().map(|filter| common::filter(filter, &corpus)).collect())
            .collect();
        let mut index = Index::new();
        subs.iter().for_each(|filters| {
            index.subscribe(filters);
        });
        let naive = |filters: &[Vec<Filter>]| -> usize {
            let wants = |event| {
                filters
                    .iter()
                    .filter(|subscription| subscription.iter().any(|filter| filter.matches(event)))
                    .count()
            };
            events.iter().map(wants).sum()
        };
        let expected = naive(&subs);
        assert!(expected > 0);
        group.bench_function(BenchmarkId::new("index", count), |bencher| {
            let mut slots = Vec::new();
            bencher.iter(|| {
                let mut sum = 0;
                for event in &events {
                    slots.clear();
                    index.matches(event, &mut slots);
                    sum += slots.len();
                }
                assert_eq!(sum, expected);
            });
        });
        if count <= 1_000 {
            group.bench_function(BenchmarkId::new("plain loops", count), |bencher| {
                bencher.iter(|| assert_eq!(naive(&subs), expected));
            });
        }
    }
    group.finish();
}

fn subscribe(criterion: &mut Criterion<CpuTime>) {
    let (corpus, authors) = world(common::generated(common::size(2_000, 150)));
    let mut rng = Rng::new("bench", 2);
    let subs: Vec<Vec<Filter>> =
        subscriptions::draw(&corpus, &authors, common::size(5_000, 100), 0, &mut rng)
            .iter()
            .map(|filters| filters.iter().map(|filter| common::filter(filter, &corpus)).collect())
            .collect();
    let mut group = criterion.benchmark_group("subscribe and unsubscribe");
    group.throughput(Throughput::Elements(subs.len() as u64)).sample_size(20);
    group.bench_function(BenchmarkId::from_parameter(subs.len()), |bencher| {
        let mut index = Index::new();
        bencher.iter(|| {
            let slots: Vec<_> = subs.iter().map(|filters| index.subscribe(filters)).collect();
            assert_eq!(index.len(), subs.len());
            slots.into_iter().for_each(|slot| index.unsubscribe(slot));
            while index.sweep(10_000) {}
            assert!(index.is_empty());
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::cpu_time();
    targets = matching, subscribe
}
criterion_main!(benches);
