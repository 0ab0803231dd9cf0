//! The store on files: the suites of all backends with everything so small that it crosses every border, crashes and failures of
//! the disk, `kill -9` on real files.

#[path = "../backend_contract/mod.rs"]
mod backend_contract;
mod crash_disk;
mod crashes;
mod files;
mod packing;
mod reconciliation;
mod removal;
mod salvage;

use std::path::Path;
use std::sync::Mutex;

use backend_contract::{author, check_random_writes, check_removal_across_restarts, insert, note, of_author};
use crash_disk::{CrashDisk, Kept};
use relay_engine::store::{
    Backend, Count, CountStep, Reader, Seq, StoreError, Tombstone, Unrestricted, Writer, terms_of,
};
use relay_engine::testing::{
    CountsCompared, Groups, SumsCompared, backend_tests, check_posting_counts, check_posting_sums,
    differential, differential_over, event_of_json, real_event_lines,
};
use relay_engine::types::{EventId, Filter};
use relay_server::log_store::{LogBackend, LogOptions};

/// Everything as small as it works; no thread, and a commit removes nothing at once.
fn tiny() -> LogOptions {
    LogOptions {
        memtable_keys: 24,
        memtable_bytes: 8_000,
        slot_bytes: 512,
        file_slots: 16,
        segment_bytes: 6_000,
        segment_events: 20,
        edits_bytes: 1_500,
        runs: 3,
        step_pages: 3,
        removed_keys_max: 0,
        packs: true,
        plain_segments: 1,
        pack_step_bytes: 1_500,
        has_thread: false,
    }
}

/// A database in memory.
fn in_memory(options: LogOptions) -> LogBackend<CrashDisk> {
    LogBackend::open_on(CrashDisk::new(1), options).expect("opens")
}

fn open(path: &Path, options: LogOptions) -> LogBackend {
    LogBackend::open(path, options, 0).expect("opens")
}

#[test]
fn conforms() {
    backend_tests(|| in_memory(tiny()));
}

#[test]
fn conforms_when_nothing_is_put_off_and_a_thread_merges() {
    let options = LogOptions { removed_keys_max: 4_096, has_thread: true, ..tiny() };
    backend_tests(|| in_memory(options));
}

#[test]
fn conforms_on_files_with_the_sizes_of_a_server() {
    let folders = Mutex::new(Vec::new());
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    backend_tests(|| {
        let folder = tempfile::tempdir().expect("folder");
        let backend = open(folder.path(), options);
        folders.lock().expect("no panic before").push(folder);
        backend
    });
}

#[test]
fn agrees_with_the_oracle() {
    let groups = Groups::wanted(400);
    differential(|| in_memory(tiny()), 30, groups.generated / 2);
    let options = LogOptions { removed_keys_max: 4_096, has_thread: true, ..tiny() };
    differential(|| in_memory(options), 31, groups.generated - groups.generated / 2);
    let lines = real_event_lines();
    let events: Vec<_> = lines.iter().map(|line| event_of_json(line).expect("an event a line")).collect();
    let options = LogOptions { memtable_keys: 500, segment_bytes: 200_000, slot_bytes: 4_096, ..tiny() };
    differential_over(in_memory(options), &events, 32, groups.real);
}

#[test]
fn postings_that_are_not_read_are_counted() {
    let mut all = CountsCompared::default();
    for seed in 0..12 {
        let disk = CrashDisk::new(seed);
        let options = LogOptions {
            removed_keys_max: [0, 4_096][seed as usize % 2],
            has_thread: seed % 3 == 0,
            ..tiny()
        };
        let open = || LogBackend::open_on(disk.clone(), options).expect("opens");
        let compared = check_posting_counts(seed, open(), |backend| {
            drop(backend);
            open()
        });
        all.counts += compared.counts;
        all.postings += compared.postings;
        all.unfinished += compared.unfinished;
    }
    assert!(all.counts > 4_000 && all.postings > 10 * all.counts as u64 && all.unfinished > 100, "{all:?}");
}

#[test]
fn sets_made_of_sums_are_what_a_scan_finds() {
    let mut all = SumsCompared::default();
    for seed in 0..24 {
        let disk = CrashDisk::new(seed);
        let options = LogOptions {
            removed_keys_max: [0, 4_096][seed as usize % 2],
            has_thread: seed % 3 == 0,
            ..tiny()
        };
        let options = match seed % 4 {
            3 => LogOptions { memtable_keys: 400, slot_bytes: 4_096, ..options },
            _ => options,
        };
        let open = || LogBackend::open_on(disk.clone(), options).expect("opens");
        all.add(check_posting_sums(seed, open(), |backend| {
            drop(backend);
            open()
        }));
    }
    assert!(all.sets > 4_000 && all.events > 10 * all.sets && all.blocks > 500, "{all:?}");
    assert!(all.subtracted > 500 && all.unfinished > 300, "{all:?}");
}

/// What a COUNT costs.
fn cost_of_count(backend: &impl Backend, filters: &[Filter]) -> (u64, usize) {
    let horizon = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq");
    let mut count = Count::new(filters.into(), backend.classes(), horizon, u64::MAX);
    let (reader, mut left) = (backend.reader().expect("reader"), usize::MAX);
    let step = count.step(&reader, 5_000, &mut left, &Unrestricted).expect("step");
    let CountStep::Done(counted) = step else { panic!("a budget for everything") };
    (counted.count, usize::MAX - left)
}

/// Pages in the middle of what is counted are not read, but for those that a removal was in, and all of them once after opening.
#[test]
fn a_count_costs_little_where_much_matches() {
    let options =
        LogOptions { memtable_keys: 2_000, slot_bytes: 4_096, file_slots: 64, ..LogOptions::default() };
    let options =
        LogOptions { memtable_bytes: 1 << 30, has_thread: false, removed_keys_max: 4_096, ..options };
    let disk = CrashDisk::new(1);
    let open = || LogBackend::open_on(disk.clone(), options).expect("opens");
    let backend = open();
    let classes = backend.classes();
    for first in (1..8_000u64).step_by(200) {
        let work = |writer: &mut <LogBackend<CrashDisk> as Backend>::Writer<'_>| {
            (first..first + 200).try_for_each(|n| {
                let event = note(n, n);
                writer.insert(Seq(n), &event, &terms_of(event.view(), classes))
            })
        };
        backend.write(work).expect("writes");
    }
    backend.maintain();
    let everything = [Filter::default()];
    // A filter by id is always read, and so are those beside it.
    let read = [Filter::default(), Filter { ids: Some([EventId([9; 32])].into()), ..Filter::default() }];
    let (stored, cost_read) = cost_of_count(&backend, &read);
    let (counted, cost) = cost_of_count(&backend, &everything);
    assert_eq!((stored, counted), (8_000, 8_000));
    assert!(cost_read > 8_000 && cost * 20 < cost_read, "{cost} instead of {cost_read}");

    // One event of a page in the middle: its number is still known.
    let id = note(4_000, 4_000).id;
    relay_engine::store::remove(&backend, &[id]).expect("removes");
    let (counted, after_removal) = cost_of_count(&backend, &everything);
    assert_eq!(counted, 7_999);
    assert!(after_removal <= cost + 20, "{after_removal}, before {cost}");

    drop(backend);
    let backend = open();
    let (counted, first) = cost_of_count(&backend, &everything);
    let (again, then) = cost_of_count(&backend, &everything);
    assert_eq!((counted, again), (7_999, 7_999));
    assert!(
        first * 8 < cost_read && then < first && then * 20 < cost_read,
        "{first}, then {then}, instead of {cost_read}"
    );
}

#[test]
fn random_writes_read_as_the_model_says() {
    for seed in 0..30 {
        let disk = CrashDisk::new(seed);
        let open = || LogBackend::open_on(disk.clone(), tiny()).expect("opens");
        check_random_writes(seed, open(), |backend| {
            drop(backend);
            open()
        });
    }
    for seed in 100..110 {
        let folder = tempfile::tempdir().expect("folder");
        let options = LogOptions { has_thread: true, ..tiny() };
        check_random_writes(seed, open(folder.path(), options), |backend| {
            drop(backend);
            open(folder.path(), options)
        });
    }
}

/// Regression: while much was written without a pause the thread flushed and never merged, and each look-up looked into more runs.
#[test]
fn runs_stay_few_while_much_is_written() {
    let store = in_memory(LogOptions { has_thread: true, ..tiny() });
    let mut most = 0;
    for commit in 0..400 {
        // More than is flushed at a time.
        let written = store.write(|writer| {
            for n in 10 * commit + 1..=10 * commit + 10 {
                let event = note(n, n);
                writer.insert(Seq(n), &event, &terms_of(event.view(), store.classes()))?;
            }
            Ok(())
        });
        written.expect("writes");
        most = most.max(store.runs());
    }
    // Six levels of about three runs. There were fifty.
    assert!(most <= 25, "{most}");
}

#[test]
fn removal_goes_on_after_a_restart() {
    let disk = CrashDisk::new(1);
    let open = || LogBackend::open_on(disk.clone(), tiny()).expect("opens");
    check_removal_across_restarts(open(), |backend| {
        drop(backend);
        open()
    });
}

#[test]
fn a_reader_keeps_its_snapshot() {
    let backend = in_memory(tiny());
    for n in 1..=40 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    let before = backend.reader().expect("reader");
    // Flushes, merges, cleaned segments: slots and files that the reader has would be used again.
    for n in 41..=400 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    remove(&backend, 1..=399);
    assert_eq!(of_author(&backend, author(1)), [400]);
    let mut found = Vec::new();
    before.log(Seq(0), 1_000, &mut found).expect("log");
    assert_eq!(found, (1..=40).map(Seq).collect::<Vec<_>>());
    for n in 1..=40 {
        assert_eq!(before.event(Seq(n)).expect("event").as_deref(), Some(note(n, n).json()));
        assert_eq!(before.seq_of(&note(n, n).id), Ok(Some(Seq(n))));
    }
    assert_eq!(before.seq_of(&note(41, 41).id), Ok(None));
    assert_eq!(before.stats().expect("stats").events, 40);
}

fn remove<D: relay_server::log_store::Disk>(backend: &LogBackend<D>, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let event = note(n, n);
        let terms = terms_of(event.view(), backend.classes());
        backend.write(|writer| writer.remove(Seq(n), &event, &terms)).expect("remove");
    }
}

/// Regression: while a flush failed on a full disk, segments without events were not dropped, which would have made space for it.
#[test]
fn a_full_disk_gets_space_from_segments_of_removed_events() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { segment_bytes: 60_000, ..tiny() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    for n in 1..=202 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    let segments = || disk.image().keys().filter(|name| name.starts_with("log-")).count();
    disk.set_full(false, true);
    let next = (203..).find(|n| insert(&backend, *n, &note(*n, *n)).is_err()).expect("it gets full");
    assert!(backend.maintenance_failures() > 0);
    let before = segments();
    let mut removed = 0;
    for n in 1..=150 {
        let event = note(n, n);
        let terms = terms_of(event.view(), backend.classes());
        removed += usize::from(backend.write(|writer| writer.remove(Seq(n), &event, &terms)).is_ok());
    }
    assert_eq!(removed, 150);
    assert!(segments() < before, "{before} segments before, {} after {removed} removals", segments());
    disk.set_full(false, false);
    insert(&backend, next, &note(next, next)).expect("there is space again");
}

/// Regression: the index of a segment came behind what was allocated for it, so a full disk refused it, and with it every flush.
#[test]
fn files_have_space_for_all_that_they_get() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { file_slots: 1_000, edits_bytes: 1 << 18, ..tiny() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    disk.set_full(true, false);
    for n in 1..=300 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    assert_eq!(backend.maintenance_failures(), 0);
}

/// Regression: with its thread gone, the store refused events for ever while other writes went on, so the relay did not end. Now all
/// writes fail, and the relay ends as it does when the disk fails.
#[test]
fn nothing_is_written_once_the_thread_has_panicked() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { has_thread: true, file_slots: 1, ..tiny() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    insert(&backend, 1, &note(1, 1)).expect("insert");
    disk.set_panics();
    let failed = (2..10_000).find_map(|n| insert(&backend, n, &note(n, n)).err().map(|error| (n, error)));
    let (n, error) = failed.expect("the thread panics");
    assert!(matches!(&error, StoreError::Failed(what) if what.contains("panicked")), "{error}");
    let tombstone = Tombstone::Vanished(author(9));
    assert_eq!(backend.write(|writer| writer.put_tombstone(&tombstone, 1)), Err(error));
    let expected: Vec<u64> = (1..n).rev().collect();
    assert_eq!(of_author(&backend, author(1)), expected);
    drop(backend);
    let backend = LogBackend::open_on(disk.after_crash(Kept::Nothing, 0), tiny()).expect("opens again");
    assert_eq!(of_author(&backend, author(1)), expected);
}

#[test]
fn threads_read_while_one_writes_and_another_merges() {
    let options = LogOptions { has_thread: true, ..tiny() };
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(folder.path(), options);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let backend = backend.clone();
            scope.spawn(move || {
                let mut seen = 0;
                while seen < 1_000 {
                    let reader = backend.reader().expect("reader");
                    let last = reader.last_seq().expect("last").0;
                    assert!(last >= seen);
                    seen = last;
                    for seq in (1..=last).rev().take(50) {
                        let event = note(seq, seq);
                        assert_eq!(reader.event(Seq(seq)).expect("event").as_deref(), Some(event.json()));
                        assert_eq!(reader.seq_of(&event.id), Ok(Some(Seq(seq))));
                    }
                }
            });
        }
        for n in 1..=1_000 {
            insert(&backend, n, &note(n, n)).expect("insert");
        }
    });
    assert_eq!(of_author(&backend, author(1)), (1..=1_000).rev().collect::<Vec<_>>());
    assert_eq!(backend.maintenance_failures(), 0);
}
