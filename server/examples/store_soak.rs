//! A store under load for long: `cargo run --release --example store_soak lmdb|log [events] [folder]`.
//!
//! Events are written in durable batches of 256, which also remove some that came before, while a reader lists pages with their
//! events, one counts, and one stops in the middle: it keeps its snapshot for ten seconds, and must find what it has found before, whatever was
//! written, merged and cleaned meanwhile. At the end the store is opened again, and has what was written and nothing else.

#![allow(clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use relay_engine::store::{Backend, Posting, Rank, Reader, Seq, StartAt, Term, Writer, terms_of};
use relay_server::lmdb::{LmdbBackend, LmdbOptions};
use relay_server::log_store::{LogBackend, LogOptions};
use support::{AUTHORS, author, cpu_us, folder_bytes, generated, written_bytes};

const BATCH: u64 = 256;
/// Of so many events one is removed, when so many later ones are stored.
const REMOVED_PART: u64 = 20;
const REMOVED_AFTER: u64 = 50_000;
/// Events between two lines of the table.
const LINE: u64 = 1_000_000;
/// Seconds for which a reader keeps its snapshot.
const STOPPED_SECONDS: u64 = 10;

fn main() {
    let mut args = std::env::args().skip(1);
    let engine = args.next().unwrap_or_default();
    let events: u64 = args.next().map_or(10_000_000, |n| n.parse().expect("a number of events"));
    let folder = args.next().map_or_else(|| std::env::temp_dir().join("store_soak"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&folder);
    match engine.as_str() {
        "lmdb" => {
            let open = || LmdbBackend::open(&folder, &LmdbOptions::default()).expect("opens");
            soak(open, events, &folder);
        }
        "log" => {
            soak(|| LogBackend::open(&folder, LogOptions::default(), 0).expect("opens"), events, &folder)
        }
        _ => panic!("the first argument is lmdb or log"),
    }
    std::fs::remove_dir_all(&folder).expect("removes its own folder");
}

fn is_removed(n: u64, last: u64) -> bool {
    n.is_multiple_of(REMOVED_PART) && n + REMOVED_AFTER <= last
}

fn soak<B: Backend + Sync>(open: impl Fn() -> B, events: u64, folder: &Path) {
    let backend = open();
    let (is_over, pages, counts, stops) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| list(&backend, &is_over, &pages));
        scope.spawn(|| count(&backend, &is_over, &counts));
        scope.spawn(|| stop(&backend, &is_over, &stops));
        write(&backend, events, folder);
        is_over.store(true, Ordering::Relaxed);
    });
    println!(
        "meanwhile {} pages were listed, {} counts made, and {} snapshots kept for {STOPPED_SECONDS} s",
        pages.into_inner(),
        counts.into_inner(),
        stops.into_inner()
    );
    drop(backend);
    let begun = Instant::now();
    let backend = open();
    println!("opened again in {:.0} ms", begun.elapsed().as_secs_f64() * 1_000.0);
    check(&backend, events);
}

fn write<B: Backend>(backend: &B, events: u64, folder: &Path) {
    println!(
        "events | us CPU per event, all threads | ms of a commit: p50, p99, longest | written, on disk: bytes per event | resident MB"
    );
    let classes = backend.classes();
    let (mut took, mut cpu, mut written) = (Vec::new(), cpu_us(), written_bytes());
    for first in (1..=events).step_by(BATCH as usize) {
        let last = events.min(first + BATCH - 1);
        let made: Vec<_> = (first..=last).map(generated).collect();
        let old = (first..=last).filter_map(|n| n.checked_sub(REMOVED_AFTER));
        let old: Vec<_> =
            old.filter(|n| *n > 0 && n.is_multiple_of(REMOVED_PART)).map(|n| (n, generated(n))).collect();
        let begun = Instant::now();
        let done = backend.write(|writer| {
            for (n, event) in (first..).zip(&made) {
                assert_eq!(writer.seq_of(&event.id)?, None);
                writer.insert(Seq(n), event, &terms_of(event.view(), classes))?;
            }
            for (n, event) in &old {
                writer.remove(Seq(*n), event, &terms_of(event.view(), classes))?;
            }
            Ok(())
        });
        done.expect("a batch");
        took.push(begun.elapsed());
        if last % LINE < BATCH || last == events {
            took.sort_unstable();
            let ms = |at: usize| took[at.min(took.len() - 1)].as_secs_f64() * 1_000.0;
            let count = took.len() as u64 * BATCH;
            println!(
                "{last} | {:.1} | {:.1}, {:.1}, {:.0} | {}, {} | {}",
                (cpu_us() - cpu) as f64 / count as f64,
                ms(took.len() / 2),
                ms(took.len() * 99 / 100),
                ms(took.len()),
                (written_bytes() - written) / count,
                folder_bytes(folder) / last,
                resident_mb(),
            );
            took.clear();
            (cpu, written) = (cpu_us(), written_bytes());
        }
    }
}

/// Pages of what relays are asked for, with their events.
fn list<B: Backend>(backend: &B, is_over: &AtomicBool, pages: &AtomicU64) {
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let term = match n % 4 {
            0 => Term::All,
            1 => Term::Kind(1),
            2 => Term::Author(author(n % AUTHORS)),
            _ => Term::AuthorKind(author(n * 7 % AUTHORS), 1),
        };
        let reader = backend.reader().expect("reader");
        for posting in page(&reader, &term, Rank::newest(u64::MAX), 100) {
            assert!(reader.event(posting.seq).expect("reads").is_some(), "an event of the index is there");
        }
        pages.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn page(reader: &impl Reader, term: &Term, from: Rank, max: usize) -> Vec<Posting> {
    let mut found = Vec::new();
    reader.postings(term, StartAt::Rank(from), 0, max, &mut found).expect("postings");
    found
}

/// How many events of a kind there are, of one snapshot: by all its postings.
fn count<B: Backend>(backend: &B, is_over: &AtomicBool, counts: &AtomicU64) {
    while !is_over.load(Ordering::Relaxed) {
        let reader = backend.reader().expect("reader");
        let found = page(&reader, &Term::Kind(1984), Rank::newest(u64::MAX), usize::MAX);
        assert!(found.windows(2).all(|pair| pair[0].rank <= pair[1].rank), "newest first");
        counts.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A reader that stops in the middle.
fn stop<B: Backend>(backend: &B, is_over: &AtomicBool, stops: &AtomicU64) {
    let bodies = |reader: &B::Reader<'_>| -> Vec<Vec<u8>> {
        let found = page(reader, &Term::All, Rank::newest(u64::MAX), 2_000);
        found.iter().filter_map(|one| reader.event(one.seq).expect("reads")).map(Vec::from).collect()
    };
    while !is_over.load(Ordering::Relaxed) {
        let reader = backend.reader().expect("reader");
        let (last, before) = (reader.last_seq().expect("reads"), bodies(&reader));
        for _ in 0..STOPPED_SECONDS {
            if !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        assert_eq!(reader.last_seq(), Ok(last));
        assert!(bodies(&reader) == before, "a snapshot has changed");
        stops.fetch_add(1, Ordering::Relaxed);
    }
}

/// All events by their numbers: which there are, and of each thousandth what it says.
fn check<B: Backend>(backend: &B, events: u64) {
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.last_seq(), Ok(Seq(events)));
    let (mut next, mut seqs, mut found) = (1, Vec::new(), 0);
    let mut after = Seq(0);
    loop {
        seqs.clear();
        reader.log(after, 10_000, &mut seqs).expect("log");
        let Some(last) = seqs.last() else { break };
        after = *last;
        for seq in &seqs {
            while is_removed(next, events) {
                next += 1;
            }
            assert_eq!(seq.0, next, "the next event");
            if next % 1_000 == 1 {
                let json = reader.event(*seq).expect("reads").expect("stored");
                assert_eq!(&*json, generated(next).json(), "event {next}");
            }
            (next, found) = (next + 1, found + 1);
        }
    }
    assert!(next > events || is_removed(next, events), "{next} of {events}");
    let of_kinds: usize = [1, 6, 7, 1984, 9735]
        .map(|kind| page(&reader, &Term::Kind(kind), Rank::newest(u64::MAX), usize::MAX).len())
        .iter()
        .sum();
    assert_eq!(of_kinds, found, "by kind and by number");
    println!("{found} events are there, and nothing else");
}

/// Resident memory of this process that is its own (not of mapped files).
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1_024
}
