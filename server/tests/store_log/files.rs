//! On real files: who may open a folder, and `kill -9`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use relay_engine::store::{Backend, Reader, Seq, StoreError};
use relay_server::log_store::{LogBackend, LogOpenError, LogOptions};

use super::{open, remove};
use crate::backend_contract::{author, insert, note, numbers_of_author, of_author};

/// Small enough that a few thousand events are flushed and merged many times.
fn small() -> LogOptions {
    LogOptions {
        memtable_keys: 300,
        memtable_bytes: 60_000,
        slot_bytes: 2_048,
        file_slots: 64,
        segment_bytes: 60_000,
        segment_events: 300,
        runs: 3,
        step_pages: 4,
        ..LogOptions::default()
    }
}

#[test]
fn a_folder_is_opened_once() {
    let folder = tempfile::tempdir().expect("folder");
    let first = open(folder.path(), LogOptions::default());
    let again = LogBackend::open(folder.path(), LogOptions::default(), 0);
    assert!(matches!(again, Err(LogOpenError::InUse(_))), "{again:?}");
    insert(&first, 1, &note(1, 1)).expect("insert");
    drop(first);
    assert_eq!(of_author(&open(folder.path(), LogOptions::default()), author(1)), [1]);
}

/// All that is in a folder: names, when they were changed, bytes.
fn image(path: &Path) -> BTreeMap<String, (SystemTime, Vec<u8>)> {
    let entries = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry"));
    let read = |entry: fs::DirEntry| {
        let changed = entry.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        (entry.file_name().into_string().expect("a name"), (changed, fs::read(entry.path()).expect("bytes")))
    };
    entries.map(read).collect()
}

/// Regression: commands that only read opened a folder as a relay does, and flushed and cut off what they found.
#[test]
fn nothing_changes_in_a_folder_that_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("data");
    let missing = LogBackend::open_to_read(&path, LogOptions::default());
    assert!(matches!(missing, Err(LogOpenError::NoDatabase(_))), "{missing:?}");
    assert!(!path.exists());
    let options = LogOptions { has_thread: false, ..small() };
    let backend = open(&path, options);
    for n in 1..=300 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    drop(backend);
    // A batch that was not finished, a segment that nothing names, and no locks, as in a copy of the folder.
    let log = image(&path).into_keys().rfind(|name| name.starts_with("log-")).expect("a log");
    let end = image(&path)[&log].1.iter().rposition(|byte| *byte != 0).expect("batches").next_multiple_of(8);
    let file = fs::OpenOptions::new().write(true).open(path.join(&log)).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, b"\xffbat and no more", end as u64).expect("writes");
    drop(file);
    fs::write(path.join("log-00000001-7"), "left over").expect("writes");
    ["LOCK", "READERS", "READERS-2"]
        .iter()
        .for_each(|name| fs::remove_file(path.join(name)).expect("removed"));
    let mut permissions = fs::metadata(&path).expect("a folder").permissions();
    permissions.set_mode(0o555);
    fs::set_permissions(&path, permissions.clone()).expect("set");
    let before = (fs::metadata(&path).and_then(|folder| folder.modified()).expect("a time"), image(&path));
    // Smaller sizes, so that something would be due.
    let backend =
        LogBackend::open_to_read(&path, LogOptions { memtable_keys: 24, ..small() }).expect("opens");
    assert_eq!(of_author(&backend, author(1)), (1..=300).rev().collect::<Vec<_>>());
    assert_eq!(backend.check().expect("checked").damage, []);
    assert!(insert(&backend, 301, &note(301, 301)).is_err());
    drop(backend);
    let after = (fs::metadata(&path).and_then(|folder| folder.modified()).expect("a time"), image(&path));
    assert_eq!(before, after);
    permissions.set_mode(0o755);
    fs::set_permissions(&path, permissions).expect("set");
}

/// Others read while one writes, flushes, merges, cleans: each reader finds what there was when it came, as long as it stays, and a new
/// one what there is.
#[test]
fn a_folder_is_read_beside_the_process_that_writes() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = open(folder.path(), LogOptions { memtable_keys: 60, segment_events: 40, ..small() });
    let (mut readers, mut beside) = (Vec::new(), Vec::new());
    for n in 1..=1_500u64 {
        insert(&writer, n, &note(n, n)).expect("insert");
        if n > 60 && n % 5 != 0 {
            remove(&writer, n - 60..=n - 60);
        }
        if n % 50 == 0 {
            let backend = LogBackend::open_to_read(folder.path(), LogOptions::default()).expect("opens");
            readers.push((backend.reader().expect("reader"), of_author(&writer, author(1))));
            beside.push(backend);
        }
        if n % 250 == 0 {
            for (reader, expected) in &readers {
                assert_eq!(&numbers_of_author(reader, author(1)), expected);
                for seq in expected {
                    let found = reader.event(Seq(*seq)).expect("event");
                    assert_eq!(found.as_deref(), Some(note(*seq, *seq).json()));
                }
            }
            let now = of_author(&writer, author(1));
            for backend in &beside {
                backend.refresh().expect("refreshed");
                assert_eq!(of_author(backend, author(1)), now);
                let checked = backend.check().expect("checked");
                assert!(checked.damage.is_empty() && checked.events == now.len() as u64, "{checked:?}");
            }
            // Some go, some stay.
            readers.retain(|(_, expected)| expected.len() % 2 == 0);
            beside.truncate(2);
        }
    }
    // Another process writes, and knows of them.
    drop(writer);
    let writer = open(folder.path(), LogOptions { memtable_keys: 60, segment_events: 40, ..small() });
    for n in 1_501..=1_800 {
        insert(&writer, n, &note(n, n)).expect("insert");
        remove(&writer, n - 60..=n - 60);
    }
    for (reader, expected) in &readers {
        assert_eq!(&numbers_of_author(reader, author(1)), expected);
    }
    for backend in &beside {
        backend.refresh().expect("refreshed");
        assert_eq!(of_author(backend, author(1)), of_author(&writer, author(1)));
        assert_eq!(backend.check().expect("checked").damage, []);
    }
    assert_eq!(writer.maintenance_failures(), 0);
}

/// Whoever reads on and on finds what is committed by himself, and keeps nothing of long ago: bodies of removed events are overwritten,
/// and slots used again, as if nobody read.
#[test]
fn a_reader_that_goes_on_keeps_up_and_keeps_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = open(folder.path(), LogOptions { memtable_keys: 60, segment_events: 40, ..small() });
    insert(&writer, 1, &note(1, 1)).expect("insert");
    let beside = LogBackend::open_to_read(folder.path(), LogOptions::default()).expect("opens");
    let pages = || -> u64 {
        let is_pages = |name: &&String| name.starts_with("pages-");
        let files = image(folder.path());
        files.keys().filter(is_pages).map(|name| files[name].1.len() as u64).sum()
    };
    let mut most = Vec::new();
    for round in 0..6 {
        for n in round * 500 + 2..=round * 500 + 501 {
            insert(&writer, n, &note(n, n)).expect("insert");
            if n > 101 {
                remove(&writer, n - 100..=n - 100);
            }
        }
        let last = round * 500 + 501;
        let until = |what: &str, holds: &dyn Fn() -> bool| {
            let begun = std::time::Instant::now();
            while !holds() {
                assert!(begun.elapsed().as_secs() < 30, "{what} does not come about");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        };
        // Without being told.
        until("the last event is found", &|| of_author(&beside, author(1)).first() == Some(&last));
        // A body that is removed; the thread of the writer overwrites it while somebody reads.
        let gone = note(last - 100, last - 100).json().to_vec();
        until("the body is overwritten", &|| {
            let _ = of_author(&beside, author(1));
            let is_in = |bytes: &[u8]| bytes.windows(gone.len()).any(|part| part == gone);
            !image(folder.path()).iter().any(|(name, (_, bytes))| name.starts_with("log-") && is_in(bytes))
        });
        most.push(pages());
    }
    // Of 100 events at a time. If no slot were used again, there would be six times as many in the end.
    assert!(most[5] <= most[1] * 2, "{most:?}");
    // The writer ends, and another one comes while the reader is there.
    drop(writer);
    let writer = open(folder.path(), LogOptions::default());
    insert(&writer, 5_000, &note(5_000, 5_000)).expect("insert");
    beside.refresh().expect("refreshed");
    assert_eq!(of_author(&beside, author(1)).first(), Some(&5_000));
    assert_eq!(writer.maintenance_failures(), 0);
}

#[test]
fn a_file_is_no_folder_and_another_version_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").expect("file");
    assert!(matches!(LogBackend::open(&file, LogOptions::default(), 0), Err(LogOpenError::Io(..))));
    let data = folder.path().join("data");
    drop(open(&data, LogOptions::default()));
    fs::remove_file(data.join("manifest-00000001")).expect("removed");
    let error = LogBackend::open(&data, LogOptions::default(), 0).expect_err("no manifest");
    assert!(matches!(error, LogOpenError::Store(_, StoreError::Corrupt(_))), "{error}");
    assert!(error.to_string().contains("no manifest that is whole"), "{error}");
}

/// The child process of the next test: stores notes and removes some, and prints the number of each write once it is durable.
#[test]
#[ignore = "run by the test below"]
#[allow(clippy::print_stdout)]
fn child_that_writes() {
    let Some(path) = std::env::var_os("STORE_LOG_CHILD") else { return };
    let backend = open(Path::new(&path), small());
    let first = backend.reader().expect("reader").last_seq().expect("last").0 + 1;
    for n in first.. {
        insert(&backend, n, &note(n, n)).expect("insert");
        // Two of three are removed, a while later.
        if n > 100 && !(n - 100).is_multiple_of(3) {
            let is_stored = backend.reader().expect("reader").event(Seq(n - 100)).expect("event").is_some();
            if is_stored {
                remove(&backend, n - 100..=n - 100);
            }
        }
        println!("\nstored {n}");
    }
}

/// 20 times, or `RELAY_STORE_KILLS`.
#[test]
fn no_acknowledged_write_is_lost_when_the_process_is_killed() {
    let kills = std::env::var("RELAY_STORE_KILLS").map_or(20, |kills| kills.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("folder");
    let mut stored = 0u64;
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "files::child_that_writes", "--ignored", "--nocapture"])
            .env("STORE_LOG_CHILD", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let until = stored + 150 + round * 7 % 100;
        for line in lines {
            let line = line.expect("a line");
            stored = line.strip_prefix("stored ").map_or(stored, |n| n.parse().expect("a number"));
            if stored >= until {
                // SIGKILL, in the middle of a later write, flush or merge.
                child.kill().expect("kill");
                break;
            }
        }
        child.wait().expect("ends");
        assert!(stored >= until, "the child ended early");
        let backend = open(folder.path(), small());
        let reader = backend.reader().expect("reader");
        let last = reader.last_seq().expect("last").0;
        assert!(last >= stored, "round {round}: {last} of {stored}");
        // The last removals may not have been made.
        let found = of_author(&backend, author(1));
        let is_kept = |n: u64| n.is_multiple_of(3);
        let must: Vec<u64> = (1..=last).rev().filter(|n| is_kept(*n) || *n + 100 > last).collect();
        assert!(must.iter().all(|n| found.contains(n)), "round {round}");
        let extra: Vec<&u64> = found.iter().filter(|n| !must.contains(n)).collect();
        assert!(extra.len() as u64 <= 1 + round, "round {round}: {extra:?}");
        for n in &found {
            assert_eq!(reader.event(Seq(*n)).expect("event").as_deref(), Some(note(*n, *n).json()));
        }
        let checked = backend.check().expect("checked");
        assert!(checked.damage.is_empty() && checked.events == found.len() as u64, "{checked:?}");
        stored = last;
    }
}
