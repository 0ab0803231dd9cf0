//! The SQL backend at the seam, over rusqlite: random writes against a model, rows written and read per
//! event, versions, durability, and a connection that counts as Durable Objects do.

mod seam;

use std::cell::{Cell, RefCell};
use std::path::Path;

use relay_engine::store::sql::{EVENT_BYTES_MAX, SqlBackend, SqlConn, SqlOpenError, SqlValue};
use relay_engine::store::{Backend, Bound, Rank, Reader, Seq, StoreError, Term, Writer, terms_of};
use relay_engine::testing::{
    Groups, conformance, differential, differential_over, event_of_json, real_event_lines,
};
use relay_engine::types::Event;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use seam::{Made, author, check_random_writes, insert, note, of_author};

/// A rusqlite connection that counts what Durable Objects bill, and can behave as JavaScript does.
#[derive(Debug)]
struct Sqlite {
    conn: rusqlite::Connection,
    /// Integers travel as doubles both ways.
    as_doubles: bool,
    rows_written: Cell<u64>,
    rows_read: Cell<u64>,
    statements: RefCell<Vec<String>>,
    /// Fails the statement that comes after this many.
    fail_after: Cell<Option<u64>>,
}

impl Sqlite {
    fn open(path: &Path, as_doubles: bool) -> Self {
        let conn = rusqlite::Connection::open(path).expect("opens");
        let mode: String =
            conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).expect("journal mode");
        assert_eq!(mode, "wal");
        conn.execute_batch("PRAGMA synchronous = FULL").expect("synchronous");
        Sqlite::new(conn, as_doubles)
    }

    fn new(conn: rusqlite::Connection, as_doubles: bool) -> Self {
        conn.set_prepared_statement_cache_capacity(256);
        Sqlite {
            conn,
            as_doubles,
            rows_written: Cell::new(0),
            rows_read: Cell::new(0),
            statements: RefCell::default(),
            fail_after: Cell::new(None),
        }
    }

    fn bind<'a>(&self, sql: &str, params: &[SqlValue<'a>]) -> Result<Vec<ToSqlOutput<'a>>, StoreError> {
        assert!(params.len() <= 100, "{} parameters", params.len());
        assert!(sql.len() <= 100_000, "a statement of {} bytes", sql.len());
        self.statements.borrow_mut().push(sql.to_owned());
        if let Some(left) = self.fail_after.get() {
            let left = left.checked_sub(1).ok_or_else(|| StoreError::Full("on purpose".into()))?;
            self.fail_after.set(Some(left));
        }
        let bind = |value: &SqlValue<'a>| match *value {
            SqlValue::Int(int) => {
                assert!(int.unsigned_abs() <= 1 << 53, "{int} loses bits in JavaScript");
                let value = if self.as_doubles { Value::Real(int as f64) } else { Value::Integer(int) };
                ToSqlOutput::Owned(value)
            }
            SqlValue::Blob(blob) => {
                assert!(blob.len() < 2_000_000, "a value of {} bytes", blob.len());
                ToSqlOutput::Borrowed(ValueRef::Blob(blob))
            }
        };
        Ok(params.iter().map(bind).collect())
    }

    fn take_rows(&self) -> (u64, u64) {
        (self.rows_written.take(), self.rows_read.take())
    }
}

fn failed(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full(error.to_string()),
        _ => StoreError::Failed(error.to_string()),
    }
}

impl SqlConn for Sqlite {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let params = self.bind(sql, params)?;
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let rows = statement.execute(rusqlite::params_from_iter(params)).map_err(failed)?;
        // None of the tables has an index besides its key, so a changed row is one row written.
        self.rows_written.set(self.rows_written.get() + rows as u64);
        Ok(())
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let params = self.bind(sql, params)?;
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query(rusqlite::params_from_iter(params)).map_err(failed)?;
        // A look-up that finds nothing reads a row too.
        self.rows_read.set(self.rows_read.get() + 1);
        let mut is_first = true;
        while let Some(found) = rows.next().map_err(failed)? {
            if !std::mem::take(&mut is_first) {
                self.rows_read.set(self.rows_read.get() + 1);
            }
            match found.get_ref(0).map_err(failed)? {
                ValueRef::Blob(blob) => row(&[SqlValue::Blob(blob)])?,
                ValueRef::Integer(int) if self.as_doubles => row(&[SqlValue::Int(int as f64 as i64)])?,
                ValueRef::Integer(int) => row(&[SqlValue::Int(int)])?,
                other => return Err(StoreError::Corrupt(format!("{other:?}"))),
            }
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        match work() {
            Ok(()) => self.conn.execute_batch("COMMIT").map_err(failed),
            Err(error) => {
                self.conn.execute_batch("ROLLBACK").map_err(failed)?;
                Err(error)
            }
        }
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        let pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes: i64 = self.conn.query_row(pages, [], |row| row.get(0)).map_err(failed)?;
        Ok(bytes.unsigned_abs())
    }
}

fn open(path: &Path, as_doubles: bool) -> SqlBackend<Sqlite> {
    SqlBackend::open(Sqlite::open(path, as_doubles)).expect("opens")
}

#[test]
fn conforms() {
    conformance(|| {
        let conn = rusqlite::Connection::open_in_memory().expect("opens");
        SqlBackend::open(Sqlite::new(conn, true)).expect("opens")
    });
}

#[test]
fn agrees_with_the_oracle() {
    let make = || {
        let conn = rusqlite::Connection::open_in_memory().expect("opens");
        SqlBackend::open(Sqlite::new(conn, true)).expect("opens")
    };
    let groups = Groups::wanted(400);
    differential(make, 30, groups.generated);
    let lines = real_event_lines();
    let events: Vec<_> = lines.iter().map(|line| event_of_json(line).expect("an event a line")).collect();
    differential_over(make(), &events, 31, groups.real);
}

#[test]
fn random_writes_read_as_the_model_says() {
    for seed in 0..8 {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("relay.sqlite");
        check_random_writes(seed, open(&path, seed % 2 == 0), |backend| {
            drop(backend);
            open(&path, seed % 2 == 0)
        });
    }
}

fn note_with_tags(n: u64, tags: u64) -> Event {
    let tags = (0..tags).map(|tag| ("t", format!("topic {tag} of {}", n % 7))).collect();
    Made { prefix: n, tail: n, author: (n % 5) as u8, created_at: n, kind: 1, tags }.event()
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

#[test]
fn a_note_with_five_tags_writes_nine_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("relay.sqlite"), true);
    backend.conn().take_rows();
    insert(&backend, 1, &note_with_tags(1, 5)).expect("insert");
    assert_eq!(backend.conn().take_rows().0, 9, "body, id, author, kind, five tags");
    put_all(&backend, (2..302).map(|n| (n, note_with_tags(n, 5))));
    assert_eq!(backend.conn().take_rows().0, 300 * 9);

    // Taking out costs as much, and one row more where the newest number would be lost.
    let remove = |seq| {
        let event = note_with_tags(seq, 5);
        let terms = terms_of(event.view(), backend.classes());
        backend.write(|writer| writer.remove(Seq(seq), &event, &terms)).expect("remove");
        backend.conn().take_rows().0
    };
    assert_eq!(remove(10), 9);
    assert_eq!(remove(301), 10);
    assert_eq!(backend.reader().expect("reader").last_seq(), Ok(Seq(301)));
}

#[test]
fn a_returned_event_reads_two_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("relay.sqlite"), true);
    put_all(&backend, (1..1000).map(|n| (n, note_with_tags(n, 5))));
    backend.conn().take_rows();
    let topic: Box<[u8]> = (*b"topic 3 of 2").into();
    for term in [Term::Author(author(2)), Term::Kind(1), Term::Tag(b't', topic)] {
        let reader = backend.reader().expect("reader");
        let mut found = Vec::new();
        reader.postings(&term, Bound::From(Rank::newest(900)), 0, 100, &mut found).expect("postings");
        for posting in &found {
            assert!(reader.event(posting.seq).expect("read").is_some());
        }
        assert_eq!((found.len(), backend.conn().take_rows()), (100, (0, 200)), "{term:?}");
    }
    let reader = backend.reader().expect("reader");
    let seq = reader.seq_of(&note_with_tags(5, 5).id).expect("read").expect("stored");
    reader.event(seq).expect("read");
    assert_eq!(backend.conn().take_rows(), (0, 2), "by id");
    assert_eq!(reader.kinds(), Ok(vec![1]));
    assert_eq!(backend.conn().take_rows(), (0, 2), "a row for each kind and one for the end");
}

#[test]
fn statements_keep_to_what_durable_objects_take() {
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
            // The newest event is the first row of a scan backwards.
            let is_newest = statement.ends_with("ORDER BY seq DESC LIMIT 1");
            let is_values = detail.contains("CONSTANT ROW") || detail.contains("VALUES CLAUSE");
            assert!(detail.starts_with("SEARCH") || is_newest || is_values, "{statement}: {detail}");
        }
    }
}

#[test]
fn an_error_at_any_statement_keeps_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let backend = open(&folder.path().join("relay.sqlite"), false);
    put_all(&backend, (1..=20).map(|n| (n, note(n, n))));
    let classes = backend.classes();
    let kept: Vec<u64> = (1..=20).rev().collect();
    for fail_after in 0.. {
        backend.conn().fail_after.set(Some(fail_after));
        let result = backend.write(|writer| {
            writer.remove(Seq(20), &note(20, 20), &terms_of(note(20, 20).view(), classes))?;
            for n in 21..160 {
                writer.insert(Seq(n), &note(n, n), &terms_of(note(n, n).view(), classes))?;
            }
            Ok(())
        });
        backend.conn().fail_after.set(None);
        if result.is_ok() {
            assert!(fail_after > 5, "several statements were failed");
            break;
        }
        assert_eq!(result, Err(StoreError::Full("on purpose".into())));
        assert_eq!(of_author(&backend, author(1)), kept);
        assert_eq!(backend.reader().expect("reader").last_seq(), Ok(Seq(20)));
        assert_eq!(backend.reader().expect("reader").stats().expect("stats").events, 20);
    }
    assert_eq!(of_author(&backend, author(1)).len(), 19 + 139);
    assert_eq!(backend.reader().expect("reader").stats().expect("stats").events, 19 + 139);
}

#[test]
fn another_version_is_refused_and_other_tables_are_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let conn = Sqlite::open(&path, false);
    conn.exec("CREATE TABLE bread (price INTEGER)", &[]).expect("create");
    let backend = SqlBackend::open(conn).expect("beside other tables");
    backend.conn().exec("UPDATE relay_meta SET value = 2", &[]).expect("update");
    drop(backend);
    let error = SqlBackend::open(Sqlite::open(&path, false)).expect_err("newer");
    assert_eq!(error, SqlOpenError::Schema { found: 2, known: 1 });
    assert_eq!(error.to_string(), "the database has layout 2, and this version reads layout 1");
}

#[test]
fn an_event_that_fits_no_row_is_refused_alone() {
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
