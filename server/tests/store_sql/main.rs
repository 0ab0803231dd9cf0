//! The SQL backend on rusqlite: random writes compared with a model, rows written and read per event, versions, durability, and a
//! connection that counts rows as Durable Objects do.

#[path = "../backend_contract/mod.rs"]
mod backend_contract;
mod bounds;
mod removal;
mod sqlite;
mod tombstones;

use backend_contract::{Made, author, check_random_writes, insert, note, of_author};
use relay_engine::store::sql::{EVENT_BYTES_MAX, SqlBackend, SqlConn, SqlOpenError, SqlSizes};
use relay_engine::store::{Backend, Rank, Reader, Seq, StartAt, StoreError, Term, Writer, terms_of};
use relay_engine::testing::{
    CountsCompared, Groups, backend_tests, check_posting_counts, differential, differential_over,
    event_of_json, real_event_lines,
};
use relay_engine::types::Event;
use rusqlite::types::Value;
use sqlite::{Sqlite, in_memory, levels, open, open_with};

#[test]
fn conforms() {
    backend_tests(|| in_memory(SqlSizes::default()));
}

/// With sizes so small that a few events are flushed and compacted into several levels.
#[test]
fn conforms_with_tiny_sizes() {
    backend_tests(|| in_memory(SqlSizes::tiny()));
}

#[test]
fn agrees_with_the_oracle() {
    let groups = Groups::wanted(400);
    differential(|| in_memory(SqlSizes::default()), 30, groups.generated / 2);
    differential(|| in_memory(SqlSizes::tiny()), 32, groups.generated - groups.generated / 2);
    let lines = real_event_lines();
    let events: Vec<_> = lines.iter().map(|line| event_of_json(line).expect("an event a line")).collect();
    differential_over(in_memory(SqlSizes::default()), &events, 31, groups.real / 2);
    differential_over(in_memory(SqlSizes::tiny()), &events, 33, groups.real - groups.real / 2);
}

#[test]
fn postings_that_are_not_read_are_counted() {
    let mut all = CountsCompared::default();
    for seed in 0..12 {
        let folder = tempfile::tempdir().expect("folder");
        let open = || open_with(&folder.path().join("relay.sqlite"), seed % 2 == 0, SqlSizes::tiny());
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
fn random_writes_read_as_the_model_says() {
    for seed in 0..24 {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("relay.sqlite");
        let sizes = if seed % 3 == 0 { SqlSizes::default() } else { SqlSizes::tiny() };
        check_random_writes(seed, open_with(&path, seed % 2 == 0, sizes), |backend| {
            drop(backend);
            open_with(&path, seed % 2 == 0, sizes)
        });
    }
}

fn note_with_tags(n: u64, tags: u64) -> Event {
    let tags = (0..tags).map(|tag| ("t", format!("topic {tag} of {}", n % 7))).collect();
    // Ids are hashes, so a compaction rewrites all pages of ids.
    let prefix = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Made { prefix, tail: n, author: (n % 5) as u8, created_at: n, kind: 1, tags }.event()
}

fn put_all(backend: &SqlBackend<Sqlite>, events: impl Iterator<Item = (u64, Event)>) {
    let classes = backend.classes();
    backend
        .write(|writer| {
            for (seq, event) in events {
                writer.insert(Seq(seq), &event, &terms_of(event.view(), classes))?;
            }
            Ok(())
        })
        .expect("write");
}

/// Rows written for events `first` to `last`, one event per write.
fn rows_of_single_writes(backend: &SqlBackend<Sqlite>, first: u64, last: u64) -> u64 {
    backend.conn().take_rows();
    (first..=last).for_each(|n| insert(backend, n, &note_with_tags(n, 5)).expect("insert"));
    backend.conn().take_rows().0
}

fn remove(backend: &SqlBackend<Sqlite>, seq: u64) -> u64 {
    let event = note_with_tags(seq, 5);
    let terms = terms_of(event.view(), backend.classes());
    backend.conn().take_rows();
    backend.write(|writer| writer.remove(Seq(seq), &event, &terms)).expect("remove");
    backend.conn().take_rows().0
}

#[test]
fn a_note_with_five_tags_writes_one_row() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("relay.sqlite"), true);
    assert_eq!(rows_of_single_writes(&backend, 1, 1), 1, "its line; its keys are in memory");
    assert_eq!(remove(&backend, 1), 1);
    // Events of one write share rows.
    put_all(&backend, (2..302).map(|n| (n, note_with_tags(n, 5))));
    assert!((5..20).contains(&backend.conn().take_rows().0), "16 KB a row");
    assert_eq!(remove(&backend, 10), 1);
    assert_eq!(remove(&backend, 301), 1);
    assert_eq!(backend.reader().expect("reader").last_seq(), Ok(Seq(301)));
}

/// With 30,000 events, or `RELAY_STORE_EVENTS`.
#[test]
fn flushing_and_compaction_write_a_fifth_of_a_row_an_event() {
    let events =
        std::env::var("RELAY_STORE_EVENTS").map_or(30_000, |events| events.parse().expect("a number"));
    let backend = in_memory(SqlSizes::default());
    let rows = rows_of_single_writes(&backend, 1, events);
    let pages = rows - events;
    let levels = levels(&backend);
    eprintln!(
        "{events} events: {:.3} rows of pages each; levels and pages {levels:?}",
        pages as f64 / events as f64
    );
    assert!(levels.len() >= 2, "{levels:?}");
    assert!(pages * 5 < events, "{pages} rows for {events} events, {levels:?}");
    // Removing an event whose keys were flushed: its line, and a bit.
    assert_eq!(remove(&backend, 10), 2);
}

#[test]
fn a_query_of_many_events_reads_one_or_two_pages() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let backend = open(&path, true);
    (0..10).for_each(|part| {
        put_all(&backend, (1 + 1_000 * part..=1_000 * (part + 1)).map(|n| (n, note_with_tags(n, 5))));
    });
    drop(backend);
    let backend = open(&path, true);
    let topic: Box<[u8]> = (*b"topic 3 of 2").into();
    for term in [Term::All, Term::Author(author(2)), Term::Kind(1), Term::Tag(b't', topic)] {
        backend.conn().take_rows();
        let reader = backend.reader().expect("reader");
        let mut found = Vec::new();
        reader.postings(&term, StartAt::Rank(Rank::newest(5_000)), 0, 100, &mut found).expect("postings");
        let keys = backend.conn().take_rows().1;
        for posting in &found {
            assert!(reader.event(posting.seq).expect("read").is_some());
        }
        let events = backend.conn().take_rows().1;
        assert_eq!(found.len(), 100);
        assert!(keys <= 12 && events <= 100, "{term:?}: {keys} rows for keys, {events} for events");
    }
    // The Bloom filters of ids select one page; then it is cached.
    let reader = backend.reader().expect("reader");
    let seq = reader.seq_of(&note_with_tags(5_000, 5).id).expect("read").expect("stored");
    assert!(backend.conn().take_rows().1 <= 3);
    reader.event(seq).expect("read");
    assert!(backend.conn().take_rows().1 <= 1);
    let missing = (20_001..20_101).filter(|n| reader.seq_of(&note_with_tags(*n, 5).id) == Ok(None)).count();
    assert_eq!(missing, 100);
    assert!(backend.conn().take_rows().1 <= 40, "new ids are looked for in filters");
}

#[test]
fn removed_events_are_nowhere_in_the_tables() {
    let backend = in_memory(SqlSizes::tiny());
    put_all(&backend, (1..=200).map(|n| (n, note_with_tags(n, 5))));
    (1..=200).filter(|n| n % 3 != 0).for_each(|n| {
        remove(&backend, n);
    });
    // Compaction drops the keys.
    (201..=600).for_each(|n| insert(&backend, n, &note_with_tags(n, 0)).expect("insert"));
    let lines: i64 = backend
        .conn()
        .conn
        .query_row("SELECT sum(length(json)) FROM relay_event WHERE seq <= 200", [], |row| row.get(0))
        .expect("a sum");
    let kept: usize = (1..=200).filter(|n| n % 3 == 0).map(|n| note_with_tags(n, 5).json().len() + 1).sum();
    assert!((lines as usize).abs_diff(kept) <= 200, "{lines} bytes for {kept}");
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.stats().expect("stats").events, 66 + 400);
    assert_eq!(reader.event(Seq(100)), Ok(None));
    assert_eq!(reader.event(Seq(99)).expect("read").as_deref(), Some(note_with_tags(99, 5).json()));
}

/// A client saves a draft every second: all versions but the last are removed, and a query of the last must not read all of
/// them.
#[test]
fn removed_versions_do_not_slow_down_reads() {
    let backend = in_memory(SqlSizes::default());
    let version =
        |n: u64| Made { prefix: n, tail: n, author: 1, created_at: n, kind: 30_023, tags: vec![] }.event();
    let classes = backend.classes();
    for n in 1..=20_000 {
        backend
            .write(|writer| {
                if n > 1 {
                    let before = version(n - 1);
                    writer.remove(Seq(n - 1), &before, &terms_of(before.view(), classes))?;
                }
                writer.insert(Seq(n), &version(n), &terms_of(version(n).view(), classes))
            })
            .expect("write");
    }
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.stats().expect("stats").events, 1);
    let mut found = Vec::new();
    reader
        .postings(&Term::Author(author(1)), StartAt::Rank(Rank::newest(u64::MAX)), 0, 10, &mut found)
        .expect("postings");
    assert_eq!(found.iter().map(|posting| posting.seq.0).collect::<Vec<_>>(), [20_000]);
    let keys: i64 = levels(&backend).iter().map(|(_, pages)| pages).sum();
    assert!(keys <= 12, "{:?}", levels(&backend));
}

#[test]
fn a_failing_flush_is_retried_and_finally_stops_writes() {
    let backend = in_memory(SqlSizes::tiny());
    backend.conn().fail_on.set(Some("relay_page"));
    let mut stored = 0;
    let refused = loop {
        match insert(&backend, stored + 1, &note_with_tags(stored + 1, 5)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, StoreError::Full("on purpose".into()));
    assert!((10..100).contains(&stored), "{stored} were taken although nothing could be flushed");
    assert!(backend.maintenance_failures() > 5);
    let all = |backend: &SqlBackend<Sqlite>| {
        let mut seqs = Vec::new();
        backend.reader().expect("reader").log(Seq(0), 1_000, &mut seqs).expect("log");
        seqs.len() as u64
    };
    assert_eq!(all(&backend), stored);
    assert!(levels(&backend).is_empty());

    backend.conn().fail_on.set(None);
    let failures = backend.maintenance_failures();
    insert(&backend, stored + 1, &note_with_tags(stored + 1, 5)).expect("there is room again");
    assert_eq!((all(&backend), backend.maintenance_failures()), (stored + 1, failures));
    assert!(!levels(&backend).is_empty());
}

#[test]
fn statements_keep_to_the_limits_of_durable_objects() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("relay.sqlite"), true);
    check_random_writes(7, backend, |backend| {
        for statement in backend.conn().statements.take() {
            let first = statement.split(' ').next().unwrap_or_default();
            assert!(["SELECT", "INSERT", "DELETE", "CREATE"].contains(&first), "{statement}");
            assert!(!statement.contains("||"), "{statement}");
        }
        backend
    });
}

#[test]
fn every_read_uses_a_key() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = check_random_writes(3, open(&folder.path().join("relay.sqlite"), false), |backend| backend);
    let mut statements = backend.conn().statements.take();
    statements.sort();
    statements.dedup();
    for statement in statements.iter().filter(|statement| !statement.starts_with("CREATE")) {
        let sql = format!("EXPLAIN QUERY PLAN {statement}");
        let mut explain = backend.conn().conn.prepare(&sql).expect("prepares");
        let params = vec![Value::Null; explain.parameter_count()];
        let mut steps = explain.query(rusqlite::params_from_iter(params)).expect("explains");
        while let Some(step) = steps.next().expect("a step") {
            let detail: String = step.get(3).expect("detail");
            // The newest event is the first row of a descending scan.
            let is_newest = statement.ends_with("ORDER BY seq DESC LIMIT 1");
            let is_values = detail.contains("CONSTANT ROW") || detail.contains("VALUES CLAUSE");
            assert!(detail.starts_with("SEARCH") || is_newest || is_values, "{statement}: {detail}");
        }
    }
}

#[test]
fn an_error_at_any_statement_keeps_all_or_nothing() {
    let mut outcomes = [0, 0, 0];
    for fail_after in 0.. {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("relay.sqlite");
        let backend = open_with(&path, false, SqlSizes::tiny());
        (1..=40).for_each(|n| insert(&backend, n, &note(n, n)).expect("insert"));
        let (classes, kept): (_, Vec<u64>) = (backend.classes(), (1..=40).rev().collect());
        assert!(levels(&backend).len() >= 2);
        backend.conn().fail_after.set(Some(fail_after));
        let result = backend.write(|writer| {
            for seq in [20, 35, 40] {
                writer.remove(Seq(seq), &note(seq, seq), &terms_of(note(seq, seq).view(), classes))?;
            }
            for n in 41..60 {
                writer.insert(Seq(n), &note(n, n), &terms_of(note(n, n).view(), classes))?;
            }
            Ok(())
        });
        let is_failing = backend.conn().fail_after.replace(None) == Some(0);
        let check = |backend: &SqlBackend<Sqlite>| {
            let (expected, last) = match &result {
                Ok(()) => ((1..60).rev().filter(|n| ![20, 35, 40].contains(n)).collect(), 59),
                Err(error) => {
                    assert_eq!(*error, StoreError::Full("on purpose".into()));
                    (kept.clone(), 40)
                }
            };
            assert_eq!(of_author(backend, author(1)), expected);
            let reader = backend.reader().expect("reader");
            assert_eq!(reader.last_seq(), Ok(Seq(last)));
            assert_eq!(reader.stats().expect("stats").events, expected.len() as u64);
        };
        check(&backend);
        outcomes[usize::from(result.is_ok())
            + usize::from(backend.maintenance_failures() == 0 && result.is_ok())] += 1;
        let is_done = result.is_ok() && backend.maintenance_failures() == 0 && !is_failing;
        drop(backend);
        check(&open_with(&path, false, SqlSizes::tiny()));
        if is_done {
            break;
        }
    }
    let [refused, stored_only, _] = outcomes;
    assert!(refused > 3 && stored_only > 3, "{outcomes:?}");
}

#[test]
fn another_version_is_refused_and_other_tables_are_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let conn = Sqlite::open(&path, false);
    conn.exec("CREATE TABLE bread (price INTEGER)", &[]).expect("create");
    let backend = SqlBackend::open(conn).expect("beside other tables");
    backend.conn().exec("UPDATE relay_meta SET value = 5", &[]).expect("update");
    drop(backend);
    let error = SqlBackend::open(Sqlite::open(&path, false)).expect_err("newer");
    assert_eq!(error, SqlOpenError::Schema { found: 5, known: 4 });
    assert_eq!(
        error.to_string(),
        "the database has schema version 5; this version of the relay reads versions 3 to 4"
    );
}

#[test]
fn only_an_event_that_fits_no_row_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("relay.sqlite"), true);
    let tags = vec![("t", "x".repeat(EVENT_BYTES_MAX))];
    let event = Made { prefix: 1, tail: 1, author: 1, created_at: 1, kind: 1, tags }.event();
    assert!(matches!(insert(&backend, 1, &event), Err(StoreError::Failed(_))));
    insert(&backend, 1, &note(1, 1)).expect("goes on");
    let tags = vec![("t", "x".repeat(EVENT_BYTES_MAX - 1000))];
    let event = Made { prefix: 2, tail: 2, author: 1, created_at: 2, kind: 1, tags }.event();
    insert(&backend, 2, &event).expect("fits");
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.event(Seq(2)).expect("read").as_deref(), Some(event.json()));
}
