//! The SQL backend: failures at any statement, and upper bounds of the cost of writes and reads and of the store's size
//! in the worst cases.

use std::collections::BTreeMap;

use crate::backend_contract::{Chance, Made, author};
use crate::sqlite::{Sqlite, in_memory, levels};
use crate::tombstones::Tombstones;
use relay_engine::store::sql::{SqlBackend, SqlSizes};
use relay_engine::store::{Backend, Posting, Rank, Reader, Seq, StartAt, StoreError, Term, Writer, terms_of};
use relay_engine::types::{Event, NO_EXPIRY, Timestamp};

/// A pseudorandom id prefix.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn made(n: u64, created_at: Timestamp, kind: u16, tags: Vec<(&'static str, String)>) -> Event {
    Made { prefix: scattered(n), tail: n, author: (n % 9) as u8, created_at, kind, tags }.event()
}

fn put(backend: &SqlBackend<Sqlite>, events: &[(u64, Event)]) -> Result<(), StoreError> {
    let classes = backend.classes();
    backend.write(|writer| {
        events
            .iter()
            .try_for_each(|(seq, event)| writer.insert(Seq(*seq), event, &terms_of(event.view(), classes)))
    })
}

fn take(backend: &SqlBackend<Sqlite>, events: &[(u64, Event)]) -> Result<(), StoreError> {
    let classes = backend.classes();
    backend.write(|writer| {
        events
            .iter()
            .try_for_each(|(seq, event)| writer.remove(Seq(*seq), event, &terms_of(event.view(), classes)))
    })
}

/// Stores or removes events `first..=last`, `at_once` in a write.
fn in_writes(
    first: u64,
    last: u64,
    at_once: u64,
    event: impl Fn(u64) -> Event,
    mut each: impl FnMut(&[(u64, Event)]),
) {
    let mut begin = first;
    while begin <= last {
        let end = (begin + at_once - 1).min(last);
        each(&(begin..=end).map(|n| (n, event(n))).collect::<Vec<_>>());
        begin = end + 1;
    }
}

fn pages(backend: &SqlBackend<Sqlite>) -> i64 {
    levels(backend).iter().map(|(_, pages)| pages).sum()
}

fn runs_of_level_0(backend: &SqlBackend<Sqlite>) -> i64 {
    let sql = "SELECT count(DISTINCT run) FROM relay_page WHERE level = 0";
    backend.conn().conn.query_row(sql, [], |row| row.get(0)).expect("a count")
}

/// The expected events by sequence number.
type Model = BTreeMap<u64, Event>;

fn small(n: u64, chance: &mut Chance) -> Event {
    let mut tags: Vec<(&'static str, String)> = Vec::new();
    for _ in 0..chance.below(6) {
        tags.push((["e", "p", "t", "d"][chance.below(4) as usize], chance.below(5).to_string()));
    }
    if chance.below(40) == 0 {
        tags.extend((0..chance.below(60)).map(|tag| ("r", tag.to_string())));
    }
    if chance.below(4) == 0 {
        tags.push(("expiration", (chance.below(20) + 100).to_string()));
    }
    made(n, chance.below(12), [1, 1, 0, 30_023, 5][chance.below(5) as usize], tags)
}

/// Compares everything, or a part of it.
fn check(backend: &SqlBackend<Sqlite>, model: &Model, last: u64, chance: &mut Chance, all: bool, note: &str) {
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.last_seq(), Ok(Seq(last)), "{note}");
    assert_eq!(reader.stats().expect("stats").events, model.len() as u64, "{note}");
    let mut terms: BTreeMap<Term, Vec<Posting>> = BTreeMap::new();
    for (seq, event) in model {
        let posting = Posting {
            rank: Rank::of(event.created_at, &event.id),
            seq: Seq(*seq),
            kind: event.kind,
            expires: event.expires_at != NO_EXPIRY,
        };
        for term in terms_of(event.view(), backend.classes()) {
            terms.entry(term).or_default().push(posting);
        }
    }
    for (term, mut expected) in terms {
        if !all && chance.below(6) != 0 {
            continue;
        }
        expected.sort();
        let mut found = Vec::new();
        let newest = StartAt::Rank(Rank::newest(Timestamp::MAX));
        reader.postings(&term, newest, 0, usize::MAX, &mut found).expect("postings");
        assert_eq!(found, expected, "{note} {term:?}");
        let index = chance.below(expected.len() as u64) as usize;
        let (after, max) = (expected[index], 1 + chance.below(5) as usize);
        found.clear();
        reader.postings(&term, StartAt::After(after.rank, after.seq), 3, max, &mut found).expect("postings");
        let behind = expected[index + 1..].iter().filter(|posting| posting.rank.created_at >= 3);
        assert_eq!(found, behind.take(max).copied().collect::<Vec<_>>(), "{note} {term:?}");
    }
    for (seq, event) in model {
        if all || chance.below(6) == 0 {
            assert_eq!(reader.seq_of(&event.id), Ok(Some(Seq(*seq))), "{note}");
            assert_eq!(reader.event(Seq(*seq)).expect("read").as_deref(), Some(event.json()), "{note}");
        }
    }
    for _ in 0..5 {
        let (seq, max, until) =
            (chance.below(last + 5), 1 + chance.below(20) as usize, 95 + chance.below(30));
        assert_eq!(reader.event(Seq(seq)).expect("read").is_some(), model.contains_key(&seq), "{note} {seq}");
        let mut found = Vec::new();
        reader.log(Seq(seq), max, &mut found).expect("log");
        let later = model.range(seq + 1..).take(max).map(|(seq, _)| Seq(*seq));
        assert_eq!(found, later.collect::<Vec<_>>(), "{note}");
        found.clear();
        reader.expiring(until, max, &mut found).expect("expiring");
        let mut expected: Vec<_> = model
            .iter()
            .filter(|(_, event)| event.sweep_at() <= until)
            .map(|(seq, event)| (event.sweep_at(), Seq(*seq)))
            .collect();
        expected.sort();
        assert_eq!(found, expected.into_iter().take(max).map(|(_, seq)| seq).collect::<Vec<_>>(), "{note}");
    }
}

fn check_that_pages_of_a_run_do_not_overlap(backend: &SqlBackend<Sqlite>, note: &str) {
    type Row = (i64, i64, Vec<u8>, Vec<u8>);
    let sql = "SELECT level, run, first, last FROM relay_page ORDER BY level, run, first";
    let mut statement = backend.conn().conn.prepare(sql).expect("prepares");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    let rows: Vec<Row> = rows.expect("queries").collect::<Result<_, _>>().expect("rows");
    for pair in rows.windows(2) {
        let is_one_run = (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1);
        assert!(!is_one_run || pair[0].3 < pair[1].2, "{note}: {pair:?}");
    }
}

fn any_sizes(chance: &mut Chance) -> SqlSizes {
    let mut some = |from: u64, below: u64| (from + chance.below(below)) as usize;
    SqlSizes {
        memtable_keys: some(10, 60),
        page_bytes: some(100, 600),
        runs: some(1, 5),
        compaction_pages: some(1, 8),
        skipped_keys: some(1, 4),
        level_pages: some(1, 6),
        page_cache_bytes: some(0, 4_000),
        row_cache_bytes: some(0, 4_000),
        row_bytes: some(1, 2_000),
        ..SqlSizes::tiny()
    }
}

/// A random run: writes with changing sizes, failures of any statement or COMMIT (in writes, flushes, compactions and rewrites of
/// pages), and reopening of the backend between any two transactions, also in the middle of a pass over level 0.
fn check_world(seed: u64) -> (usize, usize) {
    let mut chance = Chance::new(seed + 1);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let open = |sizes| {
        let conn = rusqlite::Connection::open(&path).expect("opens");
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").expect("pragmas");
        SqlBackend::open_with(Sqlite::new(conn, true), sizes).expect("opens")
    };
    let mut backend = open(any_sizes(&mut chance));
    let (mut model, mut last, mut made, removing) = (Model::new(), 0, 0, chance.below(5));
    let mut tombstones = Tombstones::default();
    let (mut refused, mut depth) = (0, 0);
    for step in 0..120 {
        let note = format!("seed {seed} step {step}");
        let (mut next, mut given, mut tombstones_next) = (model.clone(), last, tombstones.clone());
        if chance.below(4) == 0 {
            backend.conn().fail_after.set(Some(chance.below(25)));
        }
        if chance.below(6) == 0 {
            backend.conn().fail_commit_after.set(Some(chance.below(4)));
        }
        let classes = backend.classes();
        let gone = match chance.below(25) {
            0 => model.len() as u64 * 3 / 4,
            _ => chance.below(1 + removing * 2),
        };
        let result = backend.write(|writer| {
            for _ in 0..gone.min(next.len() as u64) {
                let nth = if chance.below(4) == 0 {
                    next.len() - 1
                } else {
                    chance.below(next.len() as u64) as usize
                };
                let seq = *next.keys().nth(nth).expect("there are that many");
                let event = next.remove(&seq).expect("just found");
                assert_eq!(writer.event(Seq(seq))?.as_deref(), Some(event.json()), "{note}");
                writer.remove(Seq(seq), &event, &terms_of(event.view(), classes))?;
            }
            for _ in 0..chance.below(12) {
                (made, given) = (made + 1, given + 1);
                let event = small(made, &mut chance);
                assert_eq!(writer.seq_of(&event.id)?, None, "{note}");
                writer.insert(Seq(given), &event, &terms_of(event.view(), classes))?;
                if chance.below(15) == 0 {
                    writer.remove(Seq(given), &event, &terms_of(event.view(), classes))?;
                } else {
                    next.insert(given, event);
                }
            }
            tombstones_next.put_some(writer, &mut chance)
        });
        backend.conn().fail_after.set(None);
        backend.conn().fail_commit_after.set(None);
        match result {
            Ok(()) => (model, last, tombstones) = (next, given, tombstones_next),
            Err(_) => refused += 1,
        }
        check(&backend, &model, last, &mut chance, false, &note);
        tombstones.check(&backend, &note);
        if chance.below(6) == 0 {
            drop(backend);
            backend = open(any_sizes(&mut chance));
            check(&backend, &model, last, &mut chance, true, &format!("{note}, opened again"));
            tombstones.check(&backend, &format!("{note}, opened again"));
            check_that_pages_of_a_run_do_not_overlap(&backend, &note);
        }
        depth = depth.max(levels(&backend).len());
    }
    check(&backend, &model, last, &mut chance, true, &format!("seed {seed}"));
    (refused, depth)
}

/// Ten random runs, or `RELAY_STORE_WORLDS`.
#[test]
fn nothing_is_lost_or_restored_whatever_fails() {
    let worlds = std::env::var("RELAY_STORE_WORLDS").map_or(10, |worlds| worlds.parse().expect("a number"));
    let worlds: Vec<_> = (0..worlds).map(check_world).collect();
    assert!(worlds.iter().map(|(refused, _)| refused).sum::<usize>() > 60, "{worlds:?}");
    assert!(worlds.iter().any(|(_, depth)| *depth >= 3), "{worlds:?}");
}

#[test]
fn invalid_sizes_are_corrected() {
    let none = SqlSizes {
        page_bytes: 0,
        runs: 0,
        compaction_pages: 0,
        skipped_keys: 0,
        fan_out: 0,
        ..SqlSizes::tiny()
    };
    let huge = SqlSizes { page_bytes: 1 << 20, memtable_keys: 40_000, ..SqlSizes::default() };
    for sizes in [none, huge] {
        let backend = in_memory(sizes);
        let event = |n| made(n, n, 1, vec![]);
        in_writes(1, 4_000, 64, event, |events| put(&backend, events).expect("put"));
        let reader = backend.reader().expect("reader");
        for n in (1..=4_000).step_by(7) {
            assert_eq!(reader.seq_of(&event(n).id), Ok(Some(Seq(n))));
        }
    }
}

/// Regression: a reader that is far behind reads some sequence numbers at a time, and each time the whole rest of the table was
/// read.
#[test]
fn reading_a_part_of_the_log_reads_only_that_part() {
    let backend = in_memory(SqlSizes::default());
    in_writes(1, 20_000, 1, |n| made(n, n, 1, vec![]), |event| put(&backend, event).expect("put"));
    backend.conn().take_rows();
    let mut seqs = Vec::new();
    backend.reader().expect("reader").log(Seq(100), 10, &mut seqs).expect("log");
    let rows = backend.conn().take_rows().1;
    assert_eq!(seqs, (101..=110).map(Seq).collect::<Vec<_>>());
    assert!(rows <= 40, "{rows} rows for ten numbers");
}

/// Regression: the compaction debt was counted in events instead of keys, of which each tag has one, so with many tags level 0
/// grew without bound, and every look-up had to search all of it.
#[test]
fn many_tags_do_not_accumulate_in_level_0() {
    for (tags, at_once, events) in [(2_000, 16, 200), (200, 64, 2_500)] {
        let backend = in_memory(SqlSizes::default());
        let event = |n: u64| {
            let tag = |tag| ("p", format!("{:x}", scattered(n * tags + tag) % 1_000_000));
            made(n, n, 3, (0..tags).map(tag).collect())
        };
        in_writes(1, events, at_once, event, |events| put(&backend, events).expect("put"));
        assert!(runs_of_level_0(&backend) <= 9, "{} runs with {tags} tags", runs_of_level_0(&backend));
        assert!(levels(&backend).len() >= 2, "{:?}", levels(&backend));
    }
}

/// An author with a hundred thousand events requests to vanish. Their keys are not visited one by one, and even pages that are
/// never read are rewritten later.
#[test]
fn a_hundred_thousand_events_are_removed_at_once_and_their_pages_later() {
    let backend = in_memory(SqlSizes::default());
    let event = |n: u64| {
        Made {
            prefix: scattered(n),
            tail: n,
            author: 7,
            created_at: n,
            kind: 1,
            tags: vec![("p", "all".into())],
        }
        .event()
    };
    in_writes(1, 100_000, 1_000, event, |events| put(&backend, events).expect("put"));
    let before = pages(&backend);
    take(&backend, &(1..=100_000).map(|n| (n, event(n))).collect::<Vec<_>>()).expect("take");
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.stats().expect("stats").events, 0);
    let mut found = Vec::new();
    let newest = StartAt::Rank(Rank::newest(Timestamp::MAX));
    reader.postings(&Term::Author(author(7)), newest, 0, 1, &mut found).expect("postings");
    assert!(found.is_empty());
    in_writes(100_001, 100_400, 1, |n| made(n, n, 1, vec![]), |event| put(&backend, event).expect("put"));
    assert!(before > 300 && pages(&backend) < 30, "{before} pages, then {}", pages(&backend));
}

/// Old events are removed as new ones are stored; the pages of the old ones are never read and get no new keys.
#[test]
fn a_store_that_keeps_ten_thousand_events_stays_that_large() {
    let backend = in_memory(SqlSizes::default());
    let event =
        |n: u64| made(n, n, 1, vec![("e", scattered(n / 3).to_string()), ("t", (n % 50).to_string())]);
    let mut sizes = Vec::new();
    for round in 0..12 {
        let first = 10_000 * round + 1;
        in_writes(first, first + 9_999, 64, event, |events| put(&backend, events).expect("put"));
        if round > 0 {
            in_writes(first - 10_000, first - 1, 256, event, |events| take(&backend, events).expect("take"));
        }
        sizes.push(pages(&backend));
    }
    assert!(sizes[11] < sizes[2] * 2, "pages: {sizes:?}");
}

/// The storage is full, so keys cannot be flushed and new events are refused; removing events makes room.
#[test]
fn events_can_be_removed_from_a_full_store() {
    let backend = in_memory(SqlSizes::tiny());
    backend.conn().fail_on.set(Some("INSERT INTO relay_page"));
    let event = |n| made(n, n, 1, vec![]);
    let stored = (1..).take_while(|n| put(&backend, &[(*n, event(*n))]).is_ok()).last().expect("some");
    assert!(stored > 10);
    take(&backend, &(1..=stored).map(|n| (n, event(n))).collect::<Vec<_>>()).expect("take");
    assert_eq!(backend.reader().expect("reader").stats().expect("stats").events, 0);
    backend.conn().fail_on.set(None);
    put(&backend, &[(stored + 1, event(stored + 1))]).expect("there is room again");
}

/// The row of the last sequence number stays when its event is removed, but only until there are newer ones.
#[test]
fn rows_without_events_are_removed() {
    let backend = in_memory(SqlSizes::default());
    for n in 1..=300 {
        let one = [(n, made(n, n, 1, vec![]))];
        put(&backend, &one).expect("put");
        take(&backend, &one).expect("take");
    }
    let rows: i64 = backend
        .conn()
        .conn
        .query_row("SELECT count(*) FROM relay_event", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(rows, 1);
    assert_eq!(backend.reader().expect("reader").last_seq(), Ok(Seq(300)));
}
