//! Parsing an EVENT message and hashing its id: the engine's parser compared with `serde_json` and `simd-json`.

#![allow(missing_docs, reason = "criterion's macros make public items")]

mod common;

use std::borrow::Cow;
use std::hint::black_box;

use common::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use relay_engine::types::Limits;
use relay_engine::wire::{ClientMessage, parse_client_message, parse_event};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The fields of an event that a relay needs, borrowed where serde can.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    pubkey: Text<'a>,
    created_at: u64,
    kind: u16,
    #[serde(borrow)]
    tags: Vec<Vec<Text<'a>>>,
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    sig: Text<'a>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A checksum of the fields, so that no parser can skip one; all three have validated the content by then.
fn checksum(event: &Typed<'_>) -> u64 {
    let lens = event.id.0.len() + event.pubkey.0.len() + event.sig.0.len();
    black_box(&event.content.0);
    lens as u64 + event.created_at + u64::from(event.kind) + event.tags.len() as u64
}

fn sets() -> Vec<(&'static str, Vec<String>)> {
    let mut sets = vec![("generated", common::generated(common::size(5_000, 300)))];
    let real = common::real();
    if !real.is_empty() {
        sets.push(("real", real));
    }
    sets
}

fn parse(criterion: &mut Criterion<CpuTime>) {
    let limits = Limits::default();
    for (name, events) in sets() {
        let messages: Vec<String> = events.iter().map(|event| format!(r#"["EVENT",{event}]"#)).collect();
        let mut group = criterion.benchmark_group(format!("parse {name}"));
        group.throughput(Throughput::Elements(messages.len() as u64));
        let serde_weight =
            |message: &str| checksum(&serde_json::from_str::<(&str, Typed<'_>)>(message).expect("valid").1);
        let weight: u64 = messages.iter().map(|message| serde_weight(message)).sum();

        group.bench_function("ours", |bencher| {
            bencher.iter(|| {
                let mut sum = 0;
                for message in &messages {
                    let Ok(ClientMessage::Event(event)) = parse_client_message(message.as_bytes(), &limits)
                    else {
                        panic!("an event is not taken: {message}");
                    };
                    // Ids, keys and signatures are decoded already, so their lengths are known.
                    sum += 256 + event.created_at + u64::from(event.kind) + event.tag_count() as u64;
                    black_box(&event);
                }
                assert_eq!(sum, weight);
            });
        });
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| {
                let sum: u64 = messages.iter().map(|message| serde_weight(message)).sum();
                assert_eq!(sum, weight);
            });
        });
        group.bench_function("simd-json", |bencher| {
            let mut buffers = simd_json::Buffers::default();
            let mut copy = Vec::new();
            bencher.iter(|| {
                let mut sum = 0;
                for message in &messages {
                    // It works in place, so what a socket delivered must be copied or given up.
                    copy.clear();
                    copy.extend_from_slice(message.as_bytes());
                    let (_, event): (&str, Typed<'_>) =
                        simd_json::serde::from_slice_with_buffers(&mut copy, &mut buffers).expect("valid");
                    sum += checksum(&event);
                }
                assert_eq!(sum, weight);
            });
        });
        group.finish();
    }
}

fn id(criterion: &mut Criterion<CpuTime>) {
    for (name, events) in sets() {
        let mut group = criterion.benchmark_group(format!("id {name}"));
        group.throughput(Throughput::Elements(events.len() as u64));
        let raw: Vec<_> = events.iter().map(|event| parse_event(event.as_bytes()).expect("valid")).collect();
        group.bench_function("ours, from borrowed slices", |bencher| {
            bencher.iter(|| {
                for event in &raw {
                    assert_eq!(event.compute_id(), event.id);
                }
            });
        });
        let typed: Vec<Typed<'_>> =
            events.iter().map(|event| serde_json::from_str(event).expect("valid")).collect();
        group.bench_function("serialised again, then hashed", |bencher| {
            let mut bytes = Vec::new();
            bencher.iter(|| {
                for (event, raw) in typed.iter().zip(&raw) {
                    let tags: Vec<Vec<&str>> =
                        event.tags.iter().map(|tag| tag.iter().map(|field| &*field.0).collect()).collect();
                    let form = (0, &*event.pubkey.0, event.created_at, event.kind, tags, &*event.content.0);
                    bytes.clear();
                    serde_json::to_writer(&mut bytes, &form).expect("a vector takes all");
                    let digest: [u8; 32] = Sha256::digest(&bytes).into();
                    assert_eq!(digest, raw.id.0);
                }
            });
        });
        group.finish();
    }
}

fn keep(criterion: &mut Criterion<CpuTime>) {
    let events = common::generated(common::size(5_000, 300));
    let raw: Vec<_> = events.iter().map(|event| parse_event(event.as_bytes()).expect("valid")).collect();
    let mut group = criterion.benchmark_group("canonical form");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("to_event", |bencher| {
        bencher.iter(|| {
            for (raw, line) in raw.iter().zip(&events) {
                assert_eq!(raw.to_event().json().len(), line.len());
            }
        });
    });
    group.finish();
    for (raw, line) in raw.iter().zip(&events) {
        assert_eq!(raw.to_event().json(), line.as_bytes());
    }
}

criterion_group! {
    name = benches;
    config = common::cpu_time();
    targets = parse, id, keep
}
criterion_main!(benches);
