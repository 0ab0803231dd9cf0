//! What is left of removed events: soon neither keys nor space.

use relay_engine::store::{Backend, Reader, Seq, Writer, terms_of};
use relay_server::log_store::{LogBackend, LogOptions};

use crate::backend_contract::{author, content, insert, note, of_author};
use crate::crash_disk::CrashDisk;
use crate::{remove, tiny};

/// What is removed gives the disk back while the database is open, and the events that are left stay.
#[test]
fn segments_of_removed_events_are_cleaned() {
    let disk = CrashDisk::new(1);
    let backend = LogBackend::open_on(disk.clone(), tiny()).expect("opens");
    for n in 1..=400 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    let log_bytes = || {
        let image = disk.image();
        image.iter().filter(|(name, _)| name.starts_with("log-")).map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    let before = log_bytes();
    for n in (1..=400).filter(|n| n % 10 != 0) {
        remove(&backend, n..=n);
    }
    let expected: Vec<u64> = (1..=40).rev().map(|n| n * 10).collect();
    assert_eq!(of_author(&backend, author(1)), expected);
    let after = log_bytes();
    assert!(after < before / 2, "{before} bytes before, {after} after");
    remove_all(&backend, &expected);
    assert!(log_bytes() < before / 4, "{before} bytes before, {} at the end", log_bytes());
    drop(backend);
    let backend = LogBackend::open_on(disk.clone(), tiny()).expect("opens");
    assert_eq!(of_author(&backend, author(1)), [0; 0]);
    assert_eq!(backend.reader().expect("reader").last_seq(), Ok(Seq(400)));
}

fn remove_all(backend: &LogBackend<CrashDisk>, numbers: &[u64]) {
    numbers.iter().for_each(|n| remove(backend, *n..=*n));
}

/// Regression: after a write that removed many events four pages were looked at, and the others only as further events were removed.
#[test]
fn pages_get_rid_of_keys_of_removed_events_without_further_writes() {
    let disk = CrashDisk::new(1);
    let backend = LogBackend::open_on(disk, tiny()).expect("opens");
    let classes = backend.classes();
    let of = |n: u64| (note(n, n), terms_of(note(n, n).view(), classes));
    let all = backend.write(|writer| {
        (1..=2_000).try_for_each(|n| {
            let (event, terms) = of(n);
            writer.insert(Seq(n), &event, &terms)
        })
    });
    all.expect("inserts");
    let pages = || {
        let checked = backend.check().expect("checked");
        assert!(checked.damage.is_empty(), "{:?}", checked.damage);
        checked.pages
    };
    let before = pages();
    let none = backend.write(|writer| {
        (1..=2_000).try_for_each(|n| {
            let (event, terms) = of(n);
            writer.remove(Seq(n), &event, &terms)
        })
    });
    none.expect("removes");
    let after = pages();
    assert!(before > 200 && before - after > 25, "{before} pages before, {after} after");
}

/// Regression: events of a segment that was written again got checksums anew, so that damage was none any more.
#[test]
fn damage_is_found_after_its_segment_was_cleaned() {
    let disk = CrashDisk::new(1);
    let backend = LogBackend::open_on(disk.clone(), tiny()).expect("opens");
    for n in 1..=60 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    let (name, at) = disk.find("log-", content(7).as_bytes()).expect("stored");
    disk.damage(&name, at);
    remove(&backend, 1..=6);
    remove(&backend, 8..=15);
    let cleaned =
        disk.image().into_keys().find(|name| name.starts_with("log-") && name.matches('-').count() == 2);
    assert!(cleaned.is_some_and(|cleaned| cleaned.starts_with(&name)));
    let damage = backend.check().expect("checked").damage;
    assert_eq!(damage.iter().map(|damage| damage.seq).collect::<Vec<_>>(), [Some(Seq(7))], "{damage:?}");
}

/// Regression: whoever read the log went through the numbers of all events that had ever been in a segment, in one step.
#[test]
fn the_log_of_few_events_among_many_numbers_is_read_in_few_reads() {
    let disk = CrashDisk::new(1);
    let options = LogOptions {
        memtable_keys: 2_000,
        slot_bytes: 8_192,
        segment_bytes: 1 << 20,
        segment_events: 1_000,
        ..tiny()
    };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    let classes = backend.classes();
    let of = |n: u64| (note(n, n), terms_of(note(n, n).view(), classes));
    for first in (1..=6_000).step_by(500) {
        let added = backend.write(|writer| {
            (first..first + 500).try_for_each(|n| {
                let (event, terms) = of(n);
                writer.insert(Seq(n), &event, &terms)
            })
        });
        added.expect("inserts");
    }
    let removed = backend.write(|writer| {
        (1..=5_000).filter(|n| n % 500 != 0).try_for_each(|n| {
            let (event, terms) = of(n);
            writer.remove(Seq(n), &event, &terms)
        })
    });
    removed.expect("removes");
    let before = disk.reads();
    let mut found = Vec::new();
    backend.reader().expect("reader").log(Seq(0), 9, &mut found).expect("log");
    assert_eq!(found, (1..=9).map(|n| Seq(n * 500)).collect::<Vec<_>>());
    let reads = disk.reads() - before;
    assert!(reads < 40, "{reads} reads");
}
