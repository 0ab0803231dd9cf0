//! What storing and finding events costs: `cargo run --release --example store_cost lmdb|plain|log|packed [events] [folder]`.
//! The last three are the store on files: without packed segments, as it is by default, and with all packed that are complete.
//!
//! Generated events (about 690 bytes, 2.7 indexed tags, authors by a skewed choice) are stored through the trait
//! `Backend` in batches of 1, 16, 256 and 4,096, each batch one durable commit, ids looked up as a relay does.
//! CPU is that of this process, user and system, all its threads, as the kernel counts it in ticks of 10 ms; bytes written are
//! what the kernel has counted as sent to the disk.

#![allow(clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_engine::store::{
    Backend, Count, CountStep, Posting, Rank, Reader, Seq, StartAt, Term, Unrestricted, Writer, terms_of,
};
use relay_engine::types::{Event, EventId, Filter, PubKey};
use relay_server::lmdb::{LmdbBackend, LmdbOptions};
use relay_server::log_store::{LogBackend, LogOptions};
use support::{author, cpu_us, folder_bytes, generated, written_bytes};

fn main() {
    let mut args = std::env::args().skip(1);
    let engine = args.next().unwrap_or_default();
    let events: u64 = args.next().map_or(100_000, |n| n.parse().expect("a number of events"));
    let folder = args.next().map_or_else(|| std::env::temp_dir().join("store_cost"), PathBuf::from);
    println!("{events} events stored beforehand, in {}", folder.display());
    let json: usize = (1..1001).map(|n| generated(n).json().len()).sum();
    println!("{} bytes of JSON per event", json / 1000);
    let _ = std::fs::remove_dir_all(&folder);
    match engine.as_str() {
        "lmdb" => {
            let open = || LmdbBackend::open(&folder, &LmdbOptions::default()).expect("opens");
            measure(open, events, &folder, |_| {});
        }
        "plain" | "log" | "packed" => {
            let LogOptions { plain_segments, .. } = LogOptions::default();
            let options = LogOptions {
                packs: engine == "packed",
                plain_segments: if engine == "packed" { 0 } else { plain_segments },
                ..LogOptions::default()
            };
            let open = || LogBackend::open(&folder, options, 0).expect("opens");
            measure(open, events, &folder, LogBackend::maintain);
        }
        _ => panic!("the first argument is lmdb, plain, log or packed"),
    }
    remove_folder(&folder);
}

fn measure<B: Backend>(open: impl Fn() -> B, events: u64, folder: &Path, maintain: impl Fn(&B)) {
    let backend = open();
    println!("batch | us CPU per event | us per event | ms of a commit, p99 | bytes written per event");
    store(&backend, 1..events + 1, 4096);
    let before = cpu_us();
    maintain(&backend);
    println!(
        "{:.1} us of CPU an event for the maintenance that is left",
        (cpu_us() - before) as f64 / events as f64
    );
    let mut next = events + 1;
    for (batch, count) in [(4096, events / 5), (256, events / 10), (16, events / 50), (1, events / 100)] {
        let made: Vec<Event> = (next..next + count).map(generated).collect();
        let (cpu, written, start) = (cpu_us(), written_bytes(), Instant::now());
        let mut took: Vec<Duration> = Vec::new();
        for (at, chunk) in made.chunks(batch).enumerate() {
            let begun = Instant::now();
            write(&backend, next + (at * batch) as u64, chunk);
            took.push(begun.elapsed());
        }
        let (cpu, wall) = (cpu_us() - cpu, start.elapsed().as_micros() as u64);
        next += count;
        took.sort_unstable();
        let p99 = took[took.len() * 99 / 100].as_secs_f64() * 1_000.0;
        let per_event = |us: u64| us as f64 / count as f64;
        let written = (written_bytes() - written) / count;
        println!("{batch} | {:.1} | {:.1} | {p99:.1} | {written}", per_event(cpu), per_event(wall));
    }
    maintain(&backend);
    println!("query | rows | us with events | us postings alone");
    find(&backend, "", u64::MAX);
    find(&backend, ", from the middle", 1_700_000_000 + next / 4);
    read(&backend, next - 1);
    drop(backend);
    println!("{} bytes per event on the disk", folder_bytes(folder) / (next - 1));
    let begun = Instant::now();
    let backend = open();
    println!("opened in {:.1} ms", begun.elapsed().as_secs_f64() * 1_000.0);
    assert_eq!(backend.reader().and_then(|reader| reader.last_seq()), Ok(Seq(next - 1)));
    count(&backend);
}

fn remove_folder(folder: &Path) {
    std::fs::remove_dir_all(folder).expect("removes its own folder");
}

fn store<B: Backend>(backend: &B, seqs: std::ops::Range<u64>, batch: u64) {
    let mut first = seqs.start;
    while first < seqs.end {
        let made: Vec<Event> = (first..seqs.end.min(first + batch)).map(generated).collect();
        write(backend, first, &made);
        first += batch;
    }
}

fn write<B: Backend>(backend: &B, first: u64, events: &[Event]) {
    let classes = backend.classes();
    backend
        .write(|writer| {
            for (seq, event) in (first..).zip(events) {
                assert_eq!(writer.seq_of(&event.id)?, None);
                writer.insert(Seq(seq), event, &terms_of(event.view(), classes))?;
            }
            Ok(())
        })
        .expect("write");
}

/// Microseconds of CPU for a page of postings with their events, and for a page of postings alone, from a time backwards.
fn find<B: Backend>(backend: &B, from: &str, until: u64) {
    let queries = [
        ("kind 1, limit 500", Term::Kind(1), 500),
        ("one author, limit 50", Term::Author(author(3)), 50),
        ("author and kind, limit 50", Term::AuthorKind(author(3), 1), 50),
        ("newest, limit 100", Term::All, 100),
    ];
    for (name, term, limit) in queries {
        let mut rows = 0;
        let rounds = 20_000;
        let us = [true, false].map(|with_events| {
            let start = cpu_us();
            for _ in 0..rounds {
                let reader = backend.reader().expect("reader");
                let mut found: Vec<Posting> = Vec::new();
                let newest = StartAt::Rank(Rank::newest(until));
                reader.postings(&term, newest, 0, limit, &mut found).expect("postings");
                rows = found.len();
                for posting in found.iter().filter(|_| with_events) {
                    let json = reader.event(posting.seq).expect("event").expect("stored");
                    std::hint::black_box(json.into_owned());
                }
            }
            (cpu_us() - start) as f64 / f64::from(rounds)
        });
        println!("{name}{from} | {rows} | {:.1} | {:.1}", us[0], us[1]);
    }
}

/// Microseconds of CPU for reading an event, of many in no order.
fn read<B: Backend>(backend: &B, last: u64) {
    let (reader, before) = (backend.reader().expect("reader"), cpu_us());
    let (rounds, mut bytes) = (200_000u64, 0);
    for round in 0..rounds {
        let seq = Seq(1 + round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % last);
        bytes += reader.event(seq).expect("event").expect("stored").into_owned().len();
    }
    println!(
        "an event of {} bytes in no order: {:.2} us of CPU",
        bytes as u64 / rounds,
        (cpu_us() - before) as f64 / rounds as f64
    );
}

/// Microseconds of a COUNT and its cost, with every match read, for the first time after opening, and after that.
fn count<B: Backend>(backend: &B) {
    println!("COUNT | matches | us and cost with matches read | the first time | then");
    let last = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq").0;
    // Its newest half.
    let since = Some(1_700_000_000 + last / 4);
    let filters = [
        ("everything", Filter::default()),
        ("the newest half", Filter { since, ..Filter::default() }),
        ("kind 1", Filter { kinds: Some([1].into()), ..Filter::default() }),
        ("an author", Filter { authors: Some([author(0)].into()), ..Filter::default() }),
        (
            "authors and kinds",
            Filter {
                authors: Some(sorted((0..50).map(author).collect())),
                kinds: Some([1, 7].into()),
                ..Filter::default()
            },
        ),
    ];
    for (name, filter) in filters {
        // A filter by id is always read, and so are those beside it.
        let by_id = Filter { ids: Some([EventId([1; 32])].into()), ..Filter::default() };
        let (counted, first_us, first_cost) = time_count(backend, std::slice::from_ref(&filter));
        let (again, then_us, then_cost) = time_count(backend, std::slice::from_ref(&filter));
        let (read, read_us, read_cost) = time_count(backend, &[filter, by_id]);
        assert_eq!((counted, counted), (again, read), "{name}");
        println!(
            "{name} | {counted} | {read_us}, {read_cost} | {first_us}, {first_cost} | {then_us}, {then_cost}"
        );
    }
}

fn sorted(mut authors: Vec<PubKey>) -> Box<[PubKey]> {
    authors.sort_unstable();
    authors.into()
}

/// The count, and the microseconds and units of cost that it took.
fn time_count<B: Backend>(backend: &B, filters: &[Filter]) -> (u64, u128, usize) {
    let horizon = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq");
    let filters: Arc<[Filter]> = filters.into();
    let (begun, mut cost) = (Instant::now(), 0);
    let mut count = Count::new(filters, backend.classes(), horizon, u64::MAX);
    loop {
        let (reader, mut left) = (backend.reader().expect("reader"), 2_000);
        let step = count.step(&reader, 1_800_000_000, &mut left, &Unrestricted).expect("step");
        cost += 2_000 - left;
        if let CountStep::Done(counted) = step {
            return (counted.count, begun.elapsed().as_micros(), cost);
        }
    }
}
