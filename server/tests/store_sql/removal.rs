//! Large deletions: what they write at once, what each later step writes, and what is left when the process ends between
//! them.

use relay_engine::store::sql::{SqlBackend, SqlConn, SqlSizes, SqlValue};
use relay_engine::store::{
    Backend, Op, OpResult, Outcome, Reader, StoreError, commit, commit_removals, remove_pending,
};
use relay_engine::verify::Verified;

use super::backend_contract::{Made, author, check_removal_across_restarts, of_author};
use super::sqlite::{Sqlite, in_memory, open_with};

fn number(backend: &SqlBackend<Sqlite>, sql: &str) -> i64 {
    let mut found = None;
    backend
        .conn()
        .query(sql, &[], &mut |row| {
            if let [SqlValue::Int(number)] = row {
                found = Some(*number);
            }
            Ok(())
        })
        .expect("query");
    found.expect("a number")
}

#[test]
fn removal_goes_on_after_a_crash_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let sizes = SqlSizes { removed_keys_max: 0, ..SqlSizes::default() };
    for sizes in [sizes, SqlSizes::tiny()] {
        let _ = std::fs::remove_file(&path);
        let mut restarts = 0;
        let backend = check_removal_across_restarts(open_with(&path, false, sizes), |backend| {
            let rows = number(&backend, "SELECT count(*) FROM relay_hidden");
            let schema = number(&backend, "SELECT value FROM relay_meta WHERE name = 'schema'");
            assert_eq!((rows, schema), if restarts < 20 { (1, 4) } else { (0, 3) });
            restarts += 1;
            drop(backend);
            open_with(&path, false, sizes)
        });
        // Their lines are empty or gone.
        let bytes =
            number(&backend, "SELECT coalesce(sum(length(json)), 0) FROM relay_event WHERE seq <= 20");
        let kept = 5 * 600;
        assert!(bytes < kept, "{bytes}");
        assert_eq!(of_author(&backend, author(1)), [26]);
    }
}

/// Regression: a database of an earlier version, at its limit when it is opened: the table of events pending removal could not be
/// created, and nothing was served.
#[test]
fn a_full_database_of_an_earlier_version_opens_and_makes_room() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let sizes = SqlSizes { removed_keys_max: 0, ..SqlSizes::default() };
    let note = |n: u64| Made { prefix: n, tail: n, author: 1, created_at: n, kind: 1, tags: vec![] }.event();
    let put = |event| Op::Put(Verified::assume_verified(event));
    let fill = |backend: &SqlBackend<Sqlite>, from| {
        (from..).find(|n| commit(backend, 10_000, &[put(note(*n))]).is_err()).expect("it is full in the end")
    };
    let limit = |conn: &Sqlite| {
        let pages: i64 = conn.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("pages");
        conn.conn.execute_batch(&format!("PRAGMA max_page_count = {pages}")).expect("a limit");
    };
    {
        let backend = open_with(&path, false, sizes);
        commit(&backend, 10_000, &(1..=500).map(|n| put(note(n))).collect::<Vec<_>>()).expect("commit");
        backend.conn().exec("DROP TABLE relay_hidden", &[]).expect("drop");
        limit(backend.conn());
        fill(&backend, 501);
    }
    let conn = Sqlite::open(&path, false);
    limit(&conn);
    let backend = SqlBackend::open_with(conn, sizes).expect("opens");
    let stored = || of_author(&backend, author(1)).len();
    let before = stored();
    assert!(before >= 500, "{before}");
    // A little room, and what is deleted is removed at once.
    let pages: i64 = backend.conn().conn.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("pages");
    backend.conn().conn.execute_batch(&format!("PRAGMA max_page_count = {}", pages + 32)).expect("a limit");
    let tags: Vec<_> = (1..=400).map(|n| ("e", note(n).id.to_string())).collect();
    let request = Made { prefix: 9, tail: 9_999, author: 1, created_at: 9_000, kind: 5, tags }.event();
    let full = StoreError::Full("no room".into());
    let outcomes = commit_removals(&backend, 10_000, &[put(request)], &full);
    assert!(matches!(outcomes[..], [Ok(OpResult { outcome: Outcome::Stored(_), .. })]), "{outcomes:?}");
    assert_eq!(stored(), before - 400 + 1);
    limit(backend.conn());
    assert!(fill(&backend, 20_000) > 20_000, "there is room for notes again");
    drop(backend);

    // Once there is room, the next start creates the table.
    assert_eq!(open_with(&path, false, sizes).removed_keys_max(), 0);
}

/// A request to vanish writes rows for what it removes at once and a row of bits; each step writes as many rows as a small
/// deletion; and together they are no more than if all had been removed at once.
#[test]
fn a_request_to_vanish_writes_few_rows_at_a_time() {
    let vanish = |removed_keys_max: usize| {
        let backend = in_memory(SqlSizes { removed_keys_max, ..SqlSizes::default() });
        let put = |n: u64| {
            let tags = (0..5).map(|tag| ("t", format!("topic {tag} of {}", n % 7))).collect();
            let made = Made { prefix: n, tail: n, author: (n % 2) as u8, created_at: n, kind: 1, tags };
            Op::Put(Verified::assume_verified(made.event()))
        };
        for part in 0..40 {
            let ops: Vec<Op> = (1 + 200 * part..=200 * (part + 1)).map(put).collect();
            commit(&backend, 10_000, &ops).expect("commit");
        }
        let request = Made { prefix: 9, tail: 9_999, author: 1, created_at: 9_000, kind: 62, tags: vec![] };
        backend.conn().take_rows();
        commit(&backend, 10_000, &[Op::Vanish(Verified::assume_verified(request.event()))]).expect("commit");
        let at_once = backend.conn().take_rows();
        assert_eq!(backend.reader().and_then(|reader| reader.stats()).expect("stats").events, 4_001);
        let mut steps = Vec::new();
        loop {
            let step = remove_pending(&backend).expect("remove");
            steps.push(backend.conn().take_rows().0);
            assert!(step.keys <= removed_keys_max, "{step:?}");
            if !step.more {
                return (at_once, steps);
            }
        }
    };
    let ((whole, _), _) = vanish(usize::MAX);
    let ((written, read), steps) = vanish(4_096);
    eprintln!("at once {whole} rows; in steps {written} ({read} read), then {steps:?}");
    assert!(written <= 10 && whole > 200, "{written} rows, {whole} otherwise");
    assert!(steps.len() >= 8 && steps.iter().all(|rows| *rows < 80), "{steps:?}");
    assert!(written + steps.iter().sum::<u64>() < whole * 5 / 4, "{written} and {steps:?} for {whole}");
}
