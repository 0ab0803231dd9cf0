//! What is left of removed events: nothing of their bodies, and soon neither keys nor space.

use std::time::{Duration, Instant};

use relay_engine::store::{Backend, Op, Reader, Removed, Seq, Writer, commit, remove_pending, terms_of};
use relay_engine::types::Event;
use relay_engine::verify::Verified;
use relay_server::log_store::{LogBackend, LogOptions};

use crate::backend_contract::{Made, author, content, insert, note, of_author};
use crate::crash_disk::{CrashDisk, Kept};
use crate::{open, remove, tiny};

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

/// A body that was removed by a request to vanish (NIP-62), a deletion (NIP-09), a newer version or an expiration is overwritten where
/// it is, though its segment is not cleaned.
#[test]
fn nothing_is_left_of_the_body_of_a_removed_event() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { segment_events: 1_000, segment_bytes: 1 << 20, ..tiny() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    let of = |author: u8, tail: u64, kind: u16, tags: Vec<(&'static str, String)>| {
        Made { prefix: tail, tail, author, created_at: tail, kind, tags }.event()
    };
    let verified = |event: &Event| Verified::assume_verified(event.clone());
    let put = |event: Event| commit(&backend, 50, &[Op::Put(verified(&event))]).expect("commits");
    let is_there = |tail: u64| disk.find("", content(tail).as_bytes()).is_some();
    for tail in 1..=60 {
        put(of(1 + (tail % 3) as u8, tail, 1, vec![]));
    }
    put(of(3, 61, 0, vec![]));
    put(of(3, 62, 1, vec![("expiration", "70".into())]));
    assert!((1..=62).all(is_there));

    let target = of(3, 2, 1, vec![]);
    put(of(3, 63, 5, vec![("e", target.id.to_string())]));
    put(of(3, 64, 0, vec![]));
    relay_engine::store::sweep_expired(&backend, 71, 10).expect("sweeps");
    let request = of(2, 65, 62, vec![("relay", "ALL_RELAYS".into())]);
    commit(&backend, 80, &[Op::Vanish(verified(&request))]).expect("commits");
    while remove_pending(&backend).expect("removes") != Removed::default() {}
    let is_gone = |tail: u64| tail % 3 == 1 && tail <= 60 || [2, 61, 62].contains(&tail);
    for tail in 1..=65 {
        assert_eq!(is_there(tail), !is_gone(tail), "event {tail}");
    }
    assert!(disk.image().keys().all(|name| !name.starts_with("log-") || name.matches('-').count() == 1));
    assert_eq!(backend.check().expect("checked").damage, []);
    drop(backend);
    let found = disk.after_crash(Kept::Nothing, 0);
    let backend = LogBackend::open_on(found, options).expect("opens");
    let expected: Vec<u64> = (1..=60).filter(|tail| tail % 3 == 0).rev().collect();
    assert_eq!(of_author(&backend, author(1)), expected);
}

/// What somebody still reads stays until nobody does.
#[test]
fn a_body_is_overwritten_when_nobody_reads_it_any_more() {
    let disk = CrashDisk::new(1);
    let backend = LogBackend::open_on(disk.clone(), tiny()).expect("opens");
    (1..=9).for_each(|n| insert(&backend, n, &note(n, n)).expect("insert"));
    let reader = backend.reader().expect("reader");
    remove(&backend, 4..=5);
    backend.maintain();
    assert_eq!(reader.event(Seq(4)).expect("event").as_deref(), Some(note(4, 4).json()));
    drop(reader);
    remove(&backend, 6..=6);
    backend.maintain();
    for n in 1..=9 {
        assert_eq!(disk.find("", content(n).as_bytes()).is_some(), !(4..=6).contains(&n), "event {n}");
    }
}

/// The thread does it soon, though nothing else is written, and before the process ends.
#[test]
fn the_thread_overwrites_bodies_by_itself() {
    let folder = tempfile::tempdir().expect("folder");
    let is_there = |n: u64| {
        let mut entries = std::fs::read_dir(folder.path()).expect("a folder");
        entries.any(|entry| {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
            memchr::memmem::find(&bytes, content(n).as_bytes()).is_some()
        })
    };
    let backend = open(folder.path(), LogOptions::default());
    (1..=9).for_each(|n| insert(&backend, n, &note(n, n)).expect("insert"));
    remove(&backend, 4..=4);
    let begun = Instant::now();
    while is_there(4) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(is_there(5));
    remove(&backend, 5..=5);
    drop(backend);
    assert!(!is_there(5) && is_there(6));
}

/// Regression: events of a segment that was written again got checksums anew, so that damage was none any more.
#[test]
fn damage_is_found_after_its_segment_was_cleaned() {
    let disk = CrashDisk::new(1);
    let backend = LogBackend::open_on(disk.clone(), LogOptions { packs: false, ..tiny() }).expect("opens");
    for n in 1..=60 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    let (name, at) = disk.find("log-", content(7).as_bytes()).expect("stored");
    disk.damage(&name, at);
    remove(&backend, 1..=6);
    remove(&backend, 8..=15);
    assert!(disk.find("log-", content(14).as_bytes()).is_none());
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
    backend.maintain();
    let before = disk.reads();
    let mut found = Vec::new();
    backend.reader().expect("reader").log(Seq(0), 9, &mut found).expect("log");
    assert_eq!(found, (1..=9).map(|n| Seq(n * 500)).collect::<Vec<_>>());
    let reads = disk.reads() - before;
    assert!(reads < 40, "{reads} reads");
}
