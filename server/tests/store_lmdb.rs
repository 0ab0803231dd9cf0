//! The LMDB backend: random writes compared with a model, full and foreign databases, threads, crashes.

mod backend_contract;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use backend_contract::{
    Made, author, check_random_writes, check_removal_across_restarts, insert, note, of_author,
};
use relay_engine::store::{
    Backend, Completeness, OpResult, Outcome, Reader, Scan, ScanLimits, ScanStep, Seq, SinkResult,
    StoreError, Unrestricted, Writer, commit, commit_removals, remove_pending, sweep_expired, terms_of,
};
use relay_engine::testing::signing::key;
use relay_engine::testing::{
    Draft, Groups, backend_tests, differential, differential_over, event_of_json, real_event_lines,
};
use relay_engine::types::{EventId, Filter};
use relay_engine::wire::parse_filter;
use relay_server::lmdb::{LmdbBackend, LmdbOptions, OpenError};

fn open(path: &Path) -> LmdbBackend {
    LmdbBackend::open(path, &LmdbOptions { sync: false, ..LmdbOptions::default() }).expect("opens")
}

#[test]
fn conforms() {
    let folders = Mutex::new(Vec::new());
    backend_tests(|| {
        let folder = tempfile::tempdir().expect("folder");
        let backend = open(folder.path());
        folders.lock().expect("no panic before").push(folder);
        backend
    });
}

/// All deleted events are marked as removed first.
fn open_with_pending_removal(path: &Path) -> LmdbBackend {
    let options = LmdbOptions { sync: false, removed_keys_max: 0, ..LmdbOptions::default() };
    LmdbBackend::open(path, &options).expect("opens")
}

#[test]
fn conforms_when_removal_is_put_off() {
    let folders = Mutex::new(Vec::new());
    backend_tests(|| {
        let folder = tempfile::tempdir().expect("folder");
        let backend = open_with_pending_removal(folder.path());
        folders.lock().expect("no panic before").push(folder);
        backend
    });
}

#[test]
fn agrees_with_the_oracle() {
    let folders = Mutex::new(Vec::new());
    let make_by = |open: fn(&Path) -> LmdbBackend| {
        let folder = tempfile::tempdir().expect("folder");
        let backend = open(folder.path());
        folders.lock().expect("no panic before").push(folder);
        backend
    };
    let make = || make_by(open);
    let groups = Groups::wanted(400);
    differential(make, 20, groups.generated / 2);
    differential(|| make_by(open_with_pending_removal), 22, groups.generated - groups.generated / 2);
    let lines = real_event_lines();
    let events: Vec<_> = lines.iter().map(|line| event_of_json(line).expect("an event a line")).collect();
    differential_over(make(), &events, 21, groups.real);
}

#[test]
fn random_writes_read_as_the_model_says() {
    for seed in 0..20 {
        let folder = tempfile::tempdir().expect("folder");
        check_random_writes(seed, open(folder.path()), |backend| {
            drop(backend);
            open(folder.path())
        });
    }
}

/// `old_folder` was written by a version without the implicit empty `d`, and which swept expired removal requests. It has a
/// profile and an article without `d`, a deletion request and a note that expire in 2100.
#[test]
fn a_folder_of_an_earlier_version_answers_as_a_new_one() {
    const EXPIRY: u64 = 4_102_444_800;
    let folder = tempfile::tempdir().expect("folder");
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old_folder/data.mdb");
    fs::copy(old, folder.path().join("data.mdb")).expect("copies");
    let backend = open(folder.path());
    let ask = |backend: &LmdbBackend, filter: &str, now: u64| {
        let filters: Vec<Filter> = vec![parse_filter(filter.as_bytes()).expect("a filter")];
        let limits = ScanLimits { limit_default: 100, limit_max: 100 };
        let reader = backend.reader().expect("reader");
        let horizon = reader.last_seq().expect("last");
        let mut scan = Scan::new(filters.into(), limits, backend.classes(), horizon);
        let mut kinds = Vec::new();
        let step = scan.step(&reader, now, &mut 1_000, &Unrestricted, &mut |hit| {
            kinds.push(hit.event.kind());
            SinkResult::Continue
        });
        assert_eq!(step, Ok(ScanStep::Done(Completeness::Finish)), "{filter}");
        kinds
    };
    let author = key(1).hex().to_owned();
    assert_eq!(ask(&backend, r##"{"#d":[""]}"##, 2_000), [30_023, 0]);
    assert_eq!(
        ask(&backend, &format!(r##"{{"kinds":[0,3],"authors":["{author}"],"#d":[""]}}"##), 2_000),
        [0]
    );
    assert_eq!(ask(&backend, "{}", 2_000), [1, 5, 30_023, 0]);

    let sweep = |max| sweep_expired(&backend, EXPIRY, max).map(|swept| (swept.events, swept.more));
    assert_eq!(sweep(1), Ok((1, true)));
    assert_eq!(sweep(9), Ok((1, false)));
    assert_eq!(sweep(9), Ok((0, false)), "each is looked at once");
    let check = |backend: &LmdbBackend| {
        assert_eq!(ask(backend, "{}", EXPIRY), [30_023, 0], "what has expired is not served");
        assert_eq!(ask(backend, "{}", 2_000), [5, 30_023, 0], "and the request is kept");
        assert_eq!(backend.reader().and_then(|reader| reader.last_seq()), Ok(Seq(5)), "under another number");
    };
    check(&backend);
    drop(backend);
    check(&open(folder.path()));
}

#[test]
fn a_reader_keeps_its_snapshot() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(folder.path());
    insert(&backend, 1, &note(1, 10)).expect("insert");
    let before = backend.reader().expect("reader");
    insert(&backend, 2, &note(2, 20)).expect("insert");
    assert_eq!(before.last_seq(), Ok(Seq(1)));
    assert_eq!(backend.reader().expect("second reader of the thread").last_seq(), Ok(Seq(2)));
    assert_eq!(before.seq_of(&note(2, 20).id), Ok(None));
}

#[test]
fn a_full_map_refuses_the_batch_and_works_again() {
    let folder = tempfile::tempdir().expect("folder");
    let options =
        LmdbOptions { map_bytes_max: 2 << 20, sync: false, reserve_bytes: 0, ..LmdbOptions::default() };
    let backend = LmdbBackend::open(folder.path(), &options).expect("opens");
    let batch = |first: u64| {
        backend.write(|writer| {
            for n in first..first + 500 {
                let event = note(n, n);
                writer.insert(Seq(n), &event, &terms_of(event.view(), backend.classes()))?;
            }
            Ok(())
        })
    };
    let mut stored = 0;
    let error = loop {
        match batch(stored + 1) {
            Ok(()) => stored += 500,
            Err(error) => break error,
        }
        assert!(stored < 100_000, "2 MiB never fill");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(stored >= 500, "the map is too small for the test");
    let check = |stored: u64| {
        let newest_first: Vec<u64> = (1..=stored).rev().collect();
        assert_eq!(of_author(&backend, author(1)), newest_first);
        assert_eq!(backend.reader().expect("reader").last_seq(), Ok(Seq(stored)));
    };
    check(stored);
    assert!(matches!(batch(stored + 1), Err(StoreError::Full(_))), "still full");
    check(stored);

    // Removing an event makes room.
    backend
        .write(|writer| {
            for n in 1..=stored / 2 {
                let event = note(n, n);
                writer.remove(Seq(n), &event, &terms_of(event.view(), backend.classes()))?;
            }
            Ok(())
        })
        .expect("removing works in a full map");
    for n in stored + 1..stored + 100 {
        insert(&backend, n, &note(n, n)).expect("room again");
    }
    assert_eq!(of_author(&backend, author(1)).len() as u64, stored - stored / 2 + 99);

    // The database can be opened with a larger map.
    drop(backend);
    let backend = open(folder.path());
    for n in stored + 100..stored + 5_000 {
        insert(&backend, n, &note(n, n)).expect("the map has grown");
    }
}

/// Regression: removing is a write too: in a map without a free page it failed, so nothing could be deleted.
#[test]
fn a_full_map_has_room_in_reserve_for_removals() {
    let folder = tempfile::tempdir().expect("folder");
    let options =
        LmdbOptions { map_bytes_max: 4 << 20, sync: false, reserve_bytes: 1 << 20, ..LmdbOptions::default() };
    let backend = LmdbBackend::open(folder.path(), &options).expect("opens");
    let mut next = 1;
    let mut oldest = 1;
    for round in 0..20 {
        let before = next;
        let error = loop {
            match insert(&backend, next, &note(next, next)) {
                Ok(()) => next += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(next > before + 100, "round {round}: {} fitted", next - before);
        // Each removal is a write of its own, and the first ones free hardly a page.
        let removed = 300;
        for n in oldest..oldest + removed {
            let event = note(n, n);
            backend
                .write_from_reserve(|writer| {
                    writer.remove(Seq(n), &event, &terms_of(event.view(), backend.classes()))
                })
                .unwrap_or_else(|error| panic!("round {round}, event {n}: {error}"));
        }
        oldest += removed;
        assert_eq!(of_author(&backend, author(1)), (oldest..next).rev().collect::<Vec<_>>());
    }
}

#[test]
fn other_files_are_refused() {
    let options = LmdbOptions::default();
    let folder = tempfile::tempdir().expect("folder");

    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).expect("folder");
    fs::write(foreign.join("data.mdb"), "something else entirely ".repeat(1000)).expect("file");
    assert!(matches!(LmdbBackend::open(&foreign, &options), Err(OpenError::NotARelayDatabase(_))));

    let file = folder.path().join("file");
    fs::write(&file, "not a folder").expect("file");
    assert!(matches!(LmdbBackend::open(&file, &options), Err(OpenError::Io(..))));

    let twice = folder.path().join("twice");
    let _first = open(&twice);
    assert!(matches!(LmdbBackend::open(&twice, &options), Err(OpenError::Open(_))));
}

/// Entries of a database in the folder `path`, and the layout that the folder says it has.
#[allow(unsafe_code)]
fn entries_and_layout(path: &Path, database: &str) -> (u64, u64) {
    use heed::types::{Bytes, Str, U64};
    let mut options = heed::EnvOpenOptions::new();
    options.max_dbs(8).map_size(1 << 30);
    // SAFETY: a test's own folder.
    let env = unsafe { options.open(path) }.expect("opens");
    let txn = env.read_txn().expect("read");
    let opened = env.open_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let database = opener.open_database::<Bytes, Bytes>(txn, Some(database))?.expect("is there");
        let meta = opener.open_database::<Str, U64<heed::byteorder::BigEndian>>(txn, Some("meta"))?;
        Ok(heed::CommitOrAbort::<_, ()>::Commit((database, meta.expect("is there"))))
    });
    let (database, meta) = opened.expect("opens").unwrap_commit();
    let txn = env.read_txn().expect("read");
    let layout = meta.get(&txn, "schema").expect("reads").expect("a layout");
    (database.len(&txn).expect("reads"), layout)
}

#[test]
fn removal_goes_on_after_a_crash_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let mut restarts = 0;
    let backend = check_removal_across_restarts(open_with_pending_removal(folder.path()), |backend| {
        drop(backend);
        let (rows, layout) = entries_and_layout(folder.path(), "hidden");
        assert_eq!((rows, layout), if restarts < 20 { (1, 2) } else { (0, 1) });
        restarts += 1;
        open_with_pending_removal(folder.path())
    });
    drop(backend);
    // As many keys as a store has that never held them.
    let other = tempfile::tempdir().expect("folder");
    let backend = open(other.path());
    let tags = |n: u64| (0..4).map(|tag| ("t", format!("{tag} of {n}"))).collect();
    for n in 21..=25 {
        let kept = Made { prefix: n, tail: n, author: 2, created_at: n, kind: 1, tags: tags(n) };
        insert(&backend, n, &kept.event()).expect("insert");
    }
    let ids = (1..=20).map(|n| ("e", note(n, n).id.to_string())).collect();
    let request = Made { prefix: 99, tail: 99, author: 1, created_at: 99, kind: 5, tags: ids };
    insert(&backend, 26, &request.event()).expect("insert");
    drop(backend);
    for database in ["key", "event", "hidden"] {
        assert_eq!(
            entries_and_layout(folder.path(), database),
            entries_and_layout(other.path(), database),
            "{database}"
        );
    }
}

/// Opens `path` with LMDB itself and puts one number into one database.
#[allow(unsafe_code)]
fn put_number(path: &Path, database: &str, key: &str, number: u64) {
    use heed::types::{Str, U64};
    let mut options = heed::EnvOpenOptions::new();
    options.max_dbs(8).map_size(1 << 20);
    // SAFETY: a test's own folder.
    let env = unsafe { options.open(path) }.expect("opens");
    let txn = env.write_txn().expect("write");
    env.create_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let database = opener.create_database::<Str, U64<heed::byteorder::BigEndian>>(txn, Some(database))?;
        database.put(txn, key, &number)?;
        Ok(heed::CommitOrAbort::<_, ()>::Commit(()))
    })
    .expect("put");
}

#[test]
fn another_version_and_another_programs_database_are_refused_unchanged() {
    let options = LmdbOptions::default();
    let folder = tempfile::tempdir().expect("folder");
    let newer = folder.path().join("newer");
    drop(open(&newer));
    put_number(&newer, "meta", "schema", 4);
    let error = LmdbBackend::open(&newer, &options).expect_err("newer");
    assert!(matches!(error, OpenError::Schema { found: 4, known: 3, .. }), "{error}");

    let other = folder.path().join("other");
    fs::create_dir(&other).expect("folder");
    put_number(&other, "prices", "bread", 3);
    let before = fs::read(other.join("data.mdb")).expect("data");
    let error = LmdbBackend::open(&other, &options).expect_err("no relay's");
    assert!(matches!(error, OpenError::NotARelayDatabase(_)), "{error}");
    assert!(fs::read(other.join("data.mdb")).expect("data") == before);
}

#[test]
fn a_map_larger_than_the_machine_grants_is_halved() {
    let folder = tempfile::tempdir().expect("folder");
    let options =
        LmdbOptions { map_bytes_max: usize::MAX, sync: false, reserve_bytes: 0, ..LmdbOptions::default() };
    let backend = LmdbBackend::open(folder.path(), &options).expect("opens");
    insert(&backend, 1, &note(1, 1)).expect("insert");
}

#[test]
fn threads_read_while_one_writes() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let backend = backend.clone();
            scope.spawn(move || {
                let mut seen = 0;
                while seen < 300 {
                    let reader = backend.reader().expect("reader");
                    let last = reader.last_seq().expect("last").0;
                    assert!(last >= seen);
                    seen = last;
                    for seq in 1..=last {
                        assert!(reader.event(Seq(seq)).expect("event").is_some());
                    }
                }
            });
        }
        for n in 1..=300 {
            insert(&backend, n, &note(n, n)).expect("insert");
        }
    });
}

#[test]
fn a_copy_opens_and_holds_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("from"));
    for n in 1..=100 {
        insert(&backend, n, &note(n, n)).expect("insert");
    }
    let copy = folder.path().join("to");
    fs::create_dir(&copy).expect("folder");
    backend.copy_to(&copy.join("data.mdb")).expect("copies");
    assert!(backend.copy_to(&copy.join("data.mdb")).is_err(), "never over a file");
    assert_eq!(of_author(&open(&copy), author(1)), of_author(&backend, author(1)));
}

/// Needs a small file system of its own: `mount -t tmpfs -o size=4m tmpfs DIR`, then
/// `STORE_LMDB_SMALL_DISK=DIR cargo test -p relay-server --test store_lmdb full_disk -- --ignored`.
#[test]
#[ignore = "needs a small file system"]
fn a_full_disk_refuses_the_batch_and_works_again() {
    let disk = std::env::var_os("STORE_LMDB_SMALL_DISK").expect("STORE_LMDB_SMALL_DISK is set");
    let disk = Path::new(&disk);
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).expect("ballast");
    let backend = LmdbBackend::open(&disk.join("db"), &LmdbOptions::default()).expect("opens");
    let mut next = 1;
    let fill = |next: &mut u64| loop {
        match insert(&backend, *next, &note(*next, *next)) {
            Ok(()) => *next += 1,
            Err(error) => break error,
        }
    };
    let error = fill(&mut next);
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert_eq!(of_author(&backend, author(1)).len() as u64, next - 1);
    fs::remove_file(&ballast).expect("space returns");
    let before = next;
    assert!(matches!(fill(&mut next), StoreError::Full(_)));
    assert!(next > before + 100, "{before} to {next}");
    assert_eq!(of_author(&backend, author(1)), (1..next).rev().collect::<Vec<_>>());
    drop(backend);
    fs::remove_dir_all(disk.join("db")).expect("cleans up");
}

/// The child process of the next test: stores notes and prints the sequence number of each once it is durable.
#[test]
#[ignore = "run by the test below"]
#[allow(clippy::print_stdout)]
fn child_that_writes() {
    let Some(path) = std::env::var_os("STORE_LMDB_CHILD") else { return };
    let backend = LmdbBackend::open(Path::new(&path), &LmdbOptions::default()).expect("opens");
    let first = backend.reader().expect("reader").last_seq().expect("last").0 + 1;
    for n in first.. {
        insert(&backend, n, &note(n, n)).expect("insert");
        println!("\nstored {n}");
    }
}

#[test]
fn no_acknowledged_event_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().expect("folder");
    let mut stored = 0;
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_that_writes", "--ignored", "--nocapture"])
            .env("STORE_LMDB_CHILD", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let until = stored + 40;
        for line in lines {
            let line = line.expect("a line");
            stored = line.strip_prefix("stored ").map_or(stored, |n| n.parse().expect("a number"));
            if stored >= until {
                // SIGKILL, in the middle of a later write.
                child.kill().expect("kill");
                break;
            }
        }
        child.wait().expect("ends");
        assert!(stored >= until, "the child ended early");
        let backend = open(folder.path());
        let last = backend.reader().expect("reader").last_seq().expect("last").0;
        assert!(last >= stored);
        assert_eq!(of_author(&backend, author(1)), (1..=last).rev().collect::<Vec<_>>());
        stored = last;
    }
}

/// Regression: deletion requests that remove nothing used the reserve up for good, and one that removed much failed and took the
/// reserve with it. Now the former make no use of the reserve, and the latter marks as removed what it cannot remove at once.
#[test]
fn the_reserve_is_for_what_makes_room() {
    let folder = tempfile::tempdir().expect("folder");
    let options =
        LmdbOptions { map_bytes_max: 8 << 20, sync: false, reserve_bytes: 1 << 20, ..LmdbOptions::default() };
    let backend = LmdbBackend::open(folder.path(), &options).expect("opens");
    let delete = |ids: &[String], at: u64| {
        ids.iter().fold(Draft::new(1, 5, at), |made, id| made.tag(&["e", id])).put()
    };
    let mut serial = 0;
    let mut ids = Vec::new();
    let full = loop {
        serial += 1;
        let note = Draft::new(1, 1, 1_000 + serial).tag(&["t", &format!("{serial} {:200}", "")]).put();
        match commit(&backend, 0, std::slice::from_ref(&note)) {
            Ok(_) => ids.push(note.event().id.to_string()),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full(_)), "{full}");
    assert!(ids.len() > 500, "{} fitted", ids.len());
    for n in 0..50 {
        let unknown: Vec<String> = (0..500).map(|id| format!("{:064x}", id + n * 1_000)).collect();
        let refused = commit_removals(&backend, 0, &[delete(&unknown, 2_000)], &full);
        assert_eq!(refused, [Err(full.clone())]);
    }
    // Beside one that removes nothing; and between them a step of removal, as the writer takes one.
    for ids in ids.chunks(50) {
        let ops = [delete(ids, 1_000 + serial), delete(&["00".repeat(32)], 2_000)];
        let done = commit_removals(&backend, 0, &ops, &full);
        assert!(matches!(done[0], Ok(OpResult { outcome: Outcome::Stored(_), .. })), "{:?}", done[0]);
        assert_eq!(done[1], Err(full.clone()));
        let first = EventId::from_hex(ids[0].as_bytes()).expect("an id");
        assert_eq!(backend.reader().expect("reader").seq_of(&first), Ok(None));
        remove_pending(&backend).expect("a step");
    }
    while remove_pending(&backend).expect("a step").more {}
}
