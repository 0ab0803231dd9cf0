//! Packed segments: they answer as others do and take less of the disk, removed events leave nothing in them, and what is broken in them
//! is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use relay_engine::store::{
    Backend, Reader, Removed, Seq, StoreError, Writer, remove_pending, sweep_expired, sweep_first,
    sweep_older_than, terms_of,
};
use relay_engine::testing::{event_of_json, real_event_lines};
use relay_engine::types::{Event, Filter};
use relay_server::log_store::{Disk, LogBackend, LogOpenError, LogOptions, Salvaged, salvage};

use crate::backend_contract::{Made, check_random_writes, content, insert, note, trace};
use crate::crash_disk::{CrashDisk, Kept};
use crate::{cost_of_count, open, remove, tiny};

/// Segments that have something in common.
fn medium() -> LogOptions {
    let sizes = LogOptions { segment_bytes: 150_000, segment_events: 400, slot_bytes: 4_096, ..tiny() };
    LogOptions { memtable_keys: 1_500, memtable_bytes: 400_000, pack_step_bytes: 20_000, ..sizes }
}

fn real_events() -> Vec<Event> {
    let mut events: Vec<Event> =
        real_event_lines().iter().map(|line| event_of_json(line).expect("an event a line")).collect();
    let of_tests = (0..2_000).map(|tail| {
        let author = (tail % 20) as u8;
        Made {
            prefix: tail,
            tail,
            author,
            created_at: tail,
            kind: 1,
            tags: vec![("client", "amethyst".into())],
        }
    });
    events.extend(of_tests.map(|made| made.event()));
    events
}

fn store<D: Disk>(backend: &LogBackend<D>, events: &[Event]) {
    for (chunk, first) in events.chunks(20).zip((1..).step_by(20)) {
        let work = |writer: &mut <LogBackend<D> as Backend>::Writer<'_>| {
            (first..).zip(chunk).try_for_each(|(seq, event)| {
                writer.insert(Seq(seq), event, &terms_of(event.view(), backend.classes()))
            })
        };
        backend.write(work).expect("writes");
    }
    backend.maintain();
}

fn log_bytes(disk: &CrashDisk) -> usize {
    let image = disk.image();
    image.iter().filter(|(name, _)| name.starts_with("log-")).map(|(_, bytes)| bytes.len()).sum()
}

#[test]
fn packed_events_are_read_as_others_and_take_less() {
    let events = real_events();
    let bytes = [false, true].map(|packs| {
        let disk = CrashDisk::new(1);
        let options = LogOptions { packs, plain_segments: 0, ..medium() };
        let mut backend = LogBackend::open_on(disk.clone(), options).expect("opens");
        store(&backend, &events);
        assert_eq!(disk.packed().is_empty(), !packs);
        for _ in 0..2 {
            let reader = backend.reader().expect("reader");
            for (seq, event) in (1..).zip(&events) {
                assert_eq!(reader.event(Seq(seq)).expect("event").as_deref(), Some(event.json()));
            }
            assert_eq!(backend.check().expect("checked").damage, []);
            drop((reader, backend));
            backend = LogBackend::open_on(disk.clone(), options).expect("opens again");
        }
        assert_eq!(backend.maintenance_failures(), 0);
        log_bytes(&disk)
    });
    assert!(bytes[1] * 3 < bytes[0] * 2, "{bytes:?}");
}

#[test]
fn the_newest_segments_are_not_packed() {
    let disk = CrashDisk::new(1);
    let backend =
        LogBackend::open_on(disk.clone(), LogOptions { plain_segments: 2, ..tiny() }).expect("opens");
    (1..=200).for_each(|n| insert(&backend, n, &note(n, n)).expect("insert"));
    let logs: Vec<String> = disk.image().into_keys().filter(|name| name.starts_with("log-")).collect();
    let packed = disk.packed();
    assert!(packed.len() > 3 && logs.starts_with(&packed), "{packed:?} of {logs:?}");
    // Those that have no index yet are not counted.
    assert!(logs.len() - packed.len() >= 3, "{packed:?} of {logs:?}");
}

/// Steps of every size, in a thread and without, with all that else happens to segments between them.
#[test]
fn a_store_that_packs_answers_as_the_model_says() {
    for seed in 0..24 {
        let disk = CrashDisk::new(seed);
        let options = LogOptions {
            plain_segments: seed as usize % 3,
            pack_step_bytes: [1, 700, 100_000][seed as usize / 3 % 3],
            has_thread: seed % 2 == 0,
            removed_keys_max: [0, 4_096][seed as usize / 2 % 2],
            ..tiny()
        };
        // Some of the time it was not to be packed.
        let mut packs = seed % 4 != 0;
        let open = |packs| LogBackend::open_on(disk.clone(), LogOptions { packs, ..options }).expect("opens");
        let backend = check_random_writes(500 + seed, open(packs), |backend| {
            drop(backend);
            packs = !packs;
            open(packs)
        });
        assert_eq!(backend.maintenance_failures(), 0);
        backend.maintain();
        assert_eq!(backend.check().expect("checked").damage, []);
    }
}

/// Neither its JSON nor its packed form.
#[test]
fn nothing_is_left_of_a_removed_event_in_a_packed_segment() {
    let disk = CrashDisk::new(1);
    let backend =
        LogBackend::open_on(disk.clone(), LogOptions { plain_segments: 0, ..tiny() }).expect("opens");
    (1..=100).for_each(|n| insert(&backend, n, &note(n, n)).expect("insert"));
    let is_plain = |n: u64| disk.find("log-", content(n).as_bytes()).is_some();
    let is_packed = |n: u64| disk.find("log-", &trace(n)).is_some();
    let packed: Vec<u64> = (1..=100).filter(|n| is_packed(*n)).collect();
    assert!(packed.len() > 60 && !packed.iter().any(|n| is_plain(*n)), "{packed:?}");
    let names = disk.packed();
    let removed: Vec<u64> = packed.iter().copied().filter(|n| n % 5 == 0).collect();
    removed.iter().for_each(|n| remove(&backend, *n..=*n));
    for n in 1..=100 {
        assert_eq!(is_plain(n) || is_packed(n), !removed.contains(&n), "event {n}");
    }
    assert_eq!(disk.packed(), names, "no segment was written again");
    let after = disk.after_crash(Kept::Nothing, 0);
    assert!(removed.iter().all(|n| after.find("log-", &trace(*n)).is_none()));
    // Most of the others: their segments are written again, packed.
    packed.iter().filter(|n| *n % 5 != 0 && *n % 7 != 0).for_each(|n| remove(&backend, *n..=*n));
    assert_ne!(disk.packed(), names);
    for n in packed {
        assert_eq!(is_packed(n), n % 5 != 0 && n % 7 == 0, "event {n}");
    }
    assert_eq!(backend.check().expect("checked").damage, []);
}

/// What several authors mention may be kept beside the events; what only those say who have vanished is nowhere.
#[test]
fn a_vocabulary_has_nothing_of_a_single_author() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { plain_segments: 0, ..medium() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    let of = |n: u64| {
        let author = (n % 16) as u8 + 1;
        let tags = match author {
            1 => vec![("p", "ab".repeat(32)), ("t", "only the first author says this".to_owned())],
            2 => vec![("p", "cd".repeat(32)), ("t", "only the first author says this".to_owned())],
            _ => vec![("p", "ef".repeat(32)), ("t", "all the others say something else".to_owned())],
        };
        Made { prefix: n, tail: n, author, created_at: n, kind: 1, tags }.event()
    };
    let events: Vec<Event> = (1..=2_000).map(of).collect();
    store(&backend, &events);
    assert!(disk.packed().len() > 2);
    let in_packed = |bytes: &[u8]| {
        let image = disk.image();
        disk.packed().iter().any(|name| memchr::memmem::find(&image[name], bytes).is_some())
    };
    assert!(in_packed(b"others say") && in_packed(&[0xef; 32]));
    let of_two = [&b"first author"[..], &[0xab; 16], &[0xcd; 16], &[1; 32], &[2; 32]];
    for bytes in of_two {
        assert!(in_packed(bytes), "{}", String::from_utf8_lossy(bytes));
    }
    for (seq, event) in (1..).zip(&events).filter(|(seq, _)| seq % 16 < 2) {
        let terms = terms_of(event.view(), backend.classes());
        backend.write(|writer| writer.remove(Seq(seq), event, &terms)).expect("removes");
    }
    backend.maintain();
    for gone in of_two {
        assert!(!in_packed(gone), "{}", String::from_utf8_lossy(gone));
    }
    assert!(in_packed(b"others say"));
}

/// A disk that is full while a segment is packed: everything is as it was, and it is packed when there is space.
#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let disk = CrashDisk::new(1);
    let events: Vec<Event> = (1..=200).map(|n| note(n, n)).collect();
    store(&LogBackend::open_on(disk.clone(), LogOptions { packs: false, ..tiny() }).expect("opens"), &events);
    let reference = disk.after_crash(Kept::Everything, 0);
    let calls = |failing: Option<u64>| {
        let disk = reference.after_crash(Kept::Everything, 0);
        let backend = LogBackend::open_on(disk.clone(), tiny()).expect("opens");
        let (before, first) = (disk.image(), disk.calls() + 1);
        if let Some(n) = failing {
            disk.fail_calls(first + n..u64::MAX, ErrorKind::StorageFull);
        }
        backend.maintain();
        let logs = |image: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
            image.into_iter().filter(|(name, _)| name.starts_with("log-")).collect()
        };
        if failing == Some(0) {
            assert!(backend.maintenance_failures() > 0);
            assert_eq!(logs(disk.image()), logs(before), "nothing was written");
        }
        let check = || {
            let reader = backend.reader().expect("reader");
            for (seq, event) in (1..).zip(&events) {
                assert_eq!(reader.event(Seq(seq)).expect("event").as_deref(), Some(event.json()));
            }
            assert_eq!(backend.check().expect("checked").damage, []);
        };
        check();
        if failing.is_some() {
            disk.fail_calls(0..0, ErrorKind::StorageFull);
            backend.maintain();
            check();
        }
        assert!(disk.packed().len() > 3);
        disk.calls() - first
    };
    let all = calls(None);
    assert!(all > 20, "{all}");
    for n in 0..all {
        calls(Some(n));
    }
}

/// A packed database on files, and its events by number.
fn stored(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let backend = open(path, LogOptions { plain_segments: 0, ..medium() });
    let events = real_events();
    store(&backend, &events);
    (1..).zip(&events).map(|(seq, event)| (seq, event.json().to_vec())).collect()
}

/// Where the parts of a packed segment begin, and how many events may be lost with a byte of each: one with a body, those of a batch with its
/// head or that of a line, all with the vocabulary, none with the segment's head and what follows the batches.
fn parts(bytes: &[u8], in_vocabulary: usize) -> BTreeMap<usize, usize> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
    let mut at = in_vocabulary + memchr::memmem::find(&bytes[in_vocabulary..], b"\xffbat").expect("a batch");
    let mut parts = BTreeMap::from([(0, 0), (64, 400)]);
    let mut bodies = 0;
    while bytes[at..].starts_with(b"\xffbat") {
        let (length, lines) = (u32_at(at + 12), u32_at(at + 32));
        parts.insert(at, lines);
        let mut line = at + 64;
        for _ in 0..lines {
            let body = line + 12;
            parts.extend([(line, lines), (body, 1)]);
            line = body + u32_at(line + 4);
        }
        bodies += lines;
        at += length;
        parts.extend([(line, 0), (at, 0)]);
    }
    assert!(bodies > 100, "{bodies}");
    parts
}

fn salvaged(path: &Path) -> (BTreeSet<Vec<u8>>, Salvaged) {
    let mut found = BTreeSet::new();
    let salvaged = salvage(path, &mut |json| {
        found.insert(json.to_vec());
        Ok::<(), LogOpenError>(())
    });
    (found, salvaged.expect("salvage"))
}

#[test]
fn what_is_broken_in_a_packed_segment_is_named_and_the_rest_salvaged() {
    let folder = tempfile::tempdir().expect("folder");
    let all = stored(folder.path());
    let names = fs::read_dir(folder.path()).expect("folder").map(|entry| entry.expect("entry").path());
    let mut packed: Vec<_> =
        names.filter(|path| fs::read(path).is_ok_and(|bytes| bytes.get(8) == Some(&2))).collect();
    packed.retain(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"log-")));
    packed.sort();
    // One of those whose authors are many.
    let path = packed.last().expect("one is packed");
    let whole = fs::read(path).expect("reads");
    let dictionary_bytes = u32::from_le_bytes(whole[56..60].try_into().expect("four")) as usize;
    assert!(dictionary_bytes > 20, "{dictionary_bytes}");
    let (found, Salvaged { damage, .. }) = salvaged(folder.path());
    assert!(found.len() == all.values().collect::<BTreeSet<_>>().len() && damage.is_empty(), "{damage:?}");
    let events_begin = memchr::memmem::find(&whole, b"\xffbat").expect("a batch") + 64;
    let check = |at: usize| {
        let mut broken = whole.clone();
        broken[at] ^= 0x20;
        fs::write(path, &broken).expect("writes");
        let opened = LogBackend::open_to_read(folder.path(), medium());
        let named = match &opened {
            Err(LogOpenError::Store(_, StoreError::Corrupt(what))) => vec![what.clone()],
            Err(error) => panic!("byte {at}: {error}"),
            Ok(backend) => {
                let damage = backend.check().expect("checked").damage;
                damage.into_iter().map(|damage| damage.what).collect()
            }
        };
        drop(opened);
        (named, salvaged(folder.path()))
    };
    // Of the vocabulary.
    let (named, (found, Salvaged { damage, .. })) = check(64 + 16 + dictionary_bytes / 2);
    assert!(matches!(&named[..], [what] if what.contains("vocabulary")), "{named:?}");
    assert!(damage.iter().any(|what| what.contains("vocabulary")), "{damage:?}");
    // All events of the segment, if what is broken is in all of them.
    assert!(found.len() + 400 >= all.len() && found.is_subset(&all.values().cloned().collect()));
    let parts = parts(&whole, 64 + 16 + dictionary_bytes);
    // Of an event: its id, which is packed as it is.
    let (named, (found, Salvaged { damage, .. })) = check(events_begin + 12 + 5);
    assert!(matches!(&named[..], [what] if what.contains("event")), "{named:?}");
    assert!(damage.len() == 1 && found.len() + 1 == all.len(), "{damage:?}");
    // Anywhere: something is named, and few events are lost.
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let (named, (found, Salvaged { damage, .. })) = check(at);
        let is_padding = named.is_empty() && damage.is_empty();
        assert!(found.is_subset(&all.values().cloned().collect()), "byte {at}");
        assert!(found.len() == all.len() || !is_padding, "byte {at}");
        let lost = all.len() - found.len();
        let lost_max = parts.range(..=at).next_back().map_or(0, |(_, lost_max)| *lost_max);
        assert!(lost <= lost_max, "byte {at}: {lost} lost, and not {lost_max}: {damage:?}");
    }
}

/// Notes of twelve authors who all say the same, so that there is something in dictionaries.
fn of_many(n: u64) -> Event {
    let tags = vec![("client", "a client that everybody has".to_owned())];
    Made { prefix: n, tail: n, author: (n % 12) as u8 + 1, created_at: n, kind: 1, tags }.event()
}

/// Bytes of the dictionaries of packed segments.
fn dictionary_bytes(disk: &CrashDisk) -> u32 {
    let image = disk.image();
    let of = |name: &String| u32::from_le_bytes(image[name][56..60].try_into().expect("four"));
    disk.packed().iter().map(of).sum()
}

#[test]
fn segments_with_dictionaries_survive_a_crash_at_any_call() {
    const EVENTS: u64 = 96;
    let options = LogOptions { plain_segments: 0, ..tiny() };
    // Twelve in each write, of which one is removed with the next.
    let run = |disk: &CrashDisk| -> u64 {
        let Ok(backend) = LogBackend::open_on(disk.clone(), options) else { return 0 };
        for first in (1..=EVENTS).step_by(12) {
            let written = backend.write(|writer| {
                for n in first..first + 12 {
                    let event = of_many(n);
                    writer.insert(Seq(n), &event, &terms_of(event.view(), backend.classes()))?;
                }
                let Some(n) = first.checked_sub(12) else { return Ok(()) };
                let event = of_many(n);
                writer.remove(Seq(n), &event, &terms_of(event.view(), backend.classes()))
            });
            if written.is_err() {
                return first - 1;
            }
        }
        EVENTS
    };
    let disk = CrashDisk::new(1);
    assert_eq!(run(&disk), EVENTS);
    assert!(dictionary_bytes(&disk) > 100, "{}", dictionary_bytes(&disk));
    let (calls, mut with_dictionary) = (disk.calls(), 0);
    for call in 1..=calls {
        let disk = CrashDisk::new(call);
        disk.crash_at(call);
        let acknowledged = run(&disk);
        for kept in [Kept::Nothing, Kept::Everything, Kept::Some] {
            let note = format!("crash at call {call} of {calls}, {kept:?} kept");
            let found = disk.after_crash(kept, call);
            with_dictionary += u64::from(dictionary_bytes(&found) > 0);
            let backend =
                LogBackend::open_on(found, options).unwrap_or_else(|error| panic!("{note}: {error}"));
            for _ in 0..2 {
                let reader = backend.reader().expect("reader");
                let last = reader.last_seq().expect("last").0;
                // A write that was under way may be there.
                assert!(last >= acknowledged && last <= acknowledged + 12, "{note}: {last}");
                for n in 1..=last {
                    let is_removed = n % 12 == 1 && n + 12 < last;
                    let expected = of_many(n);
                    let found = reader.event(Seq(n)).expect("event");
                    assert_eq!(
                        found.as_deref(),
                        Some(expected.json()).filter(|_| !is_removed),
                        "{note}: event {n}"
                    );
                }
                drop(reader);
                assert_eq!(backend.check().expect("checked").damage, [], "{note}");
                backend.maintain();
            }
        }
    }
    assert!(with_dictionary > calls / 4, "{with_dictionary} of {calls}");
}

/// Regression: if the edit of the manifest that names a packed segment failed, its file stayed until the database was opened again, with
/// all events, though they were removed by then.
#[test]
fn a_failure_while_a_segment_is_packed_leaves_nothing_of_what_is_removed() {
    let disk = CrashDisk::new(1);
    let events: Vec<Event> = (1..=120).map(of_many).collect();
    store(&LogBackend::open_on(disk.clone(), LogOptions { packs: false, ..tiny() }).expect("opens"), &events);
    let reference = disk.after_crash(Kept::Everything, 0);
    let run = |failing: Option<u64>| {
        let disk = reference.after_crash(Kept::Everything, 0);
        let options = LogOptions { plain_segments: 0, ..tiny() };
        let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
        let first = disk.calls() + 1;
        if let Some(n) = failing {
            disk.fail_at(first + n, ErrorKind::Other);
        }
        backend.maintain();
        let calls = disk.calls() + 1 - first;
        assert!(failing.is_some() || !disk.packed().is_empty());
        let removed = backend.write(|writer| {
            (1..).zip(&events).try_for_each(|(seq, event)| {
                writer.remove(Seq(seq), event, &terms_of(event.view(), backend.classes()))
            })
        });
        removed.unwrap_or_else(|error| panic!("call {failing:?}: {error}"));
        backend.maintain();
        let image = disk.image();
        for n in 1..=120 {
            for bytes in [trace(n), content(n).into_bytes()] {
                let found = image.iter().find(|(_, file)| memchr::memmem::find(file, &bytes).is_some());
                assert_eq!(found.map(|(name, _)| name), None, "event {n}, call {failing:?}");
            }
        }
        calls
    };
    let calls = run(None);
    assert!(calls > 20, "{calls}");
    for n in 0..calls {
        run(Some(n));
    }
}

/// Regression: a vocabulary that had been damaged since the segment was opened was written again with a checksum of its own.
#[test]
fn a_damaged_vocabulary_is_not_written_again() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { plain_segments: 0, ..medium() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    let events: Vec<Event> = (1..=1_000).map(of_many).collect();
    store(&backend, &events);
    let names = disk.packed();
    assert!(names.len() > 1 && dictionary_bytes(&disk) > 20);
    disk.damage(&names[0], 64 + 16 + 3);
    let removed = backend.write(|writer| {
        (1..=250).zip(&events).try_for_each(|(seq, event)| {
            writer.remove(Seq(seq), event, &terms_of(event.view(), backend.classes()))
        })
    });
    removed.expect("removes");
    backend.maintain();
    assert!(disk.packed().contains(&names[0]), "{:?}", disk.packed());
    assert!(backend.maintenance_failures() > 0);
    drop(backend);
    let opened = LogBackend::open_on(disk, options).map(|_| ());
    assert!(matches!(&opened, Err(StoreError::Corrupt(what)) if what.contains("vocabulary")), "{opened:?}");
}

/// Regression: if the index of a packed segment was damaged while it was open, the check ended with an error.
#[test]
fn a_check_goes_on_where_something_is_broken() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { plain_segments: 0, ..tiny() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    (1..=60).for_each(|n| insert(&backend, n, &of_many(n)).expect("insert"));
    let name = disk.packed().remove(0);
    let whole = backend.check().expect("checked");
    assert!(whole.damage.is_empty());
    let bytes = disk.image()[&name].len();
    let mut named = 0;
    for at in bytes - 120..bytes {
        disk.damage(&name, at);
        let checked = backend.check().expect("checked");
        assert_eq!((checked.pages, checked.events > 50), (whole.pages, true), "byte {at}");
        named += checked.damage.len();
        // Again, so that it is as before.
        disk.damage(&name, at);
    }
    assert!(named > 10, "{named}");
    assert_eq!(backend.check().expect("checked"), whole);
}

/// Calls a step until there is no more to do. Returns how many events it has removed.
fn all_steps(step: &mut dyn FnMut() -> Result<Removed, StoreError>) -> usize {
    let mut events = 0;
    loop {
        let removed = step().expect("removes");
        events += removed.events;
        if !removed.more {
            return events;
        }
    }
}

/// Regression: an event that could not be read could not be removed, which ended the relay, and again after each restart.
#[test]
fn a_damaged_event_is_an_error_and_can_be_removed() {
    const DAMAGED: u64 = 31;
    let everything = [Filter::default()];
    let of = |n: u64| match n % 10 {
        1 | 2 => {
            let tags = vec![("expiration", (1_000 + n).to_string()), ("t", "soon".to_owned())];
            Made { prefix: n, tail: n, author: (n % 12) as u8, created_at: n, kind: 1, tags }.event()
        }
        _ => of_many(n),
    };
    for case in 0..6 {
        let disk = CrashDisk::new(1);
        let removed_keys_max = [0, 4_096][case / 3];
        let options = LogOptions { plain_segments: 0, removed_keys_max, ..tiny() };
        let mut backend = LogBackend::open_on(disk.clone(), options).expect("opens");
        (1..=120).for_each(|n| insert(&backend, n, &of(n)).expect("insert"));
        let (name, at) = disk.find("log-", &trace(DAMAGED)).expect("it is packed");
        assert!(disk.packed().contains(&name));
        // So that the numbers of all pages are known.
        assert_eq!(cost_of_count(&backend, &everything).0, 96, "24 have expired");
        disk.damage(&name, at + 20);
        let reader = backend.reader().expect("reader");
        let read = reader.event(Seq(DAMAGED)).map(|json| json.is_some());
        assert!(matches!(&read, Err(StoreError::Corrupt(what)) if what.contains("event 31")), "{read:?}");
        drop(reader);
        let is_gone: &dyn Fn(u64) -> bool = match case % 3 {
            0 => {
                let marked = backend.write(|writer| (20..=50).try_for_each(|n| writer.mark_removed(Seq(n))));
                marked.expect("marks");
                assert_eq!(all_steps(&mut || remove_pending(&backend)), 31);
                &|n| (20..=50).contains(&n)
            }
            1 => {
                assert_eq!(all_steps(&mut || sweep_expired(&backend, 1_042, 100)), 10);
                &|n| n <= 42 && matches!(n % 10, 1 | 2)
            }
            _ => {
                assert_eq!(all_steps(&mut || sweep_older_than(&backend, 41, &|_| true, 100)), 40);
                &|n| n <= 40
            }
        };
        let expected: Vec<Seq> = (1..=120).filter(|n| !is_gone(*n)).map(Seq).collect();
        for _ in 0..2 {
            let reader = backend.reader().expect("reader");
            let mut stored = Vec::new();
            reader.log(Seq(0), 1_000, &mut stored).expect("log");
            assert_eq!(stored, expected);
            for n in 1..=120 {
                let (event, is_there) = (of(n), !is_gone(n));
                let found = reader.event(Seq(n)).expect("event");
                assert_eq!(found.as_deref(), Some(event.json()).filter(|_| is_there));
                assert_eq!(reader.seq_of(&event.id), Ok(Some(Seq(n)).filter(|_| is_there)));
            }
            assert_eq!(reader.stats().expect("stats").events, expected.len() as u64);
            drop(reader);
            let counted = expected.iter().filter(|seq| !matches!(seq.0 % 10, 1 | 2)).count();
            assert_eq!(cost_of_count(&backend, &everything).0, counted as u64);
            backend.maintain();
            assert_eq!(backend.check().expect("checked").damage, []);
            drop(backend);
            backend = LogBackend::open_on(disk.clone(), options).expect("opens again");
        }
    }
}

/// Of an event that can't be read the kind is not known: retention by number leaves it, and removes the others.
#[test]
fn retention_by_number_passes_over_a_damaged_event() {
    let disk = CrashDisk::new(1);
    let options = LogOptions { plain_segments: 0, removed_keys_max: 4_096, ..tiny() };
    let backend = LogBackend::open_on(disk.clone(), options).expect("opens");
    (1..=60).for_each(|n| insert(&backend, n, &of_many(n)).expect("insert"));
    let (name, at) = disk.find("log-", &trace(7)).expect("it is packed");
    disk.damage(&name, at + 20);
    let mut after = Seq(0);
    let removed = all_steps(&mut || {
        let (step, last) = sweep_first(&backend, after, &|_| true, 20)?;
        after = last;
        Ok(step)
    });
    let mut stored = Vec::new();
    backend.reader().expect("reader").log(Seq(0), 100, &mut stored).expect("log");
    assert_eq!((removed, stored), (59, vec![Seq(7)]));
}
