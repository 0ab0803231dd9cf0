//! Tombstones are flushed and compacted like other keys, never lost, and cost few rows.

use std::collections::BTreeMap;

use relay_engine::store::sql::{SqlBackend, SqlSizes};
use relay_engine::store::{Backend, Reader, Seq, StoreError, Tombstone, Writer, terms_of};
use relay_engine::types::{EventId, PubKey, Timestamp};

use crate::backend_contract::{Chance, insert};
use crate::sqlite::{Sqlite, in_memory, levels, open, open_with};
use crate::{note_with_tags, put_all};

/// The expected tombstones, by the number they are made from.
#[derive(Clone, Default)]
pub(crate) struct Tombstones(BTreeMap<u64, Timestamp>);

fn made(n: u64) -> Tombstone {
    let mut hash = [0x5a; 32];
    hash[24..].copy_from_slice(&(n / 3).to_be_bytes());
    match n % 3 {
        0 => Tombstone::Id(EventId(hash), PubKey([7; 32])),
        1 => Tombstone::Address { kind: 30_023, pubkey: PubKey(hash), d: b"d".as_slice().into() },
        _ => Tombstone::Vanished(PubKey(hash)),
    }
}

impl Tombstones {
    /// Puts a random number of tombstones: often none, rarely many.
    pub(crate) fn put_some(
        &mut self,
        writer: &mut impl Writer,
        chance: &mut Chance,
    ) -> Result<(), StoreError> {
        let count = [0, 0, 1, 3, 20][chance.below(5) as usize];
        for _ in 0..count {
            let (n, until) = (chance.below(60), chance.below(50));
            writer.put_tombstone(&made(n), until)?;
            let known = self.0.entry(n).or_insert(until);
            *known = until.max(*known);
            assert_eq!(writer.tombstone(&made(n))?, Some(*known));
        }
        Ok(())
    }

    pub(crate) fn check(&self, backend: &SqlBackend<Sqlite>, note: &str) {
        let reader = backend.reader().expect("reader");
        for n in 0..63 {
            assert_eq!(reader.tombstone(&made(n)), Ok(self.0.get(&n).copied()), "{note}: {:?}", made(n));
        }
    }
}

fn put(backend: &SqlBackend<Sqlite>, tombstones: std::ops::Range<u64>, until: Timestamp) {
    let all = |writer: &mut <SqlBackend<Sqlite> as Backend>::Writer<'_>| {
        tombstones.clone().try_for_each(|n| writer.put_tombstone(&made(n), until))
    };
    backend.write(all).expect("put a tombstone");
}

fn number(backend: &SqlBackend<Sqlite>, sql: &str) -> i64 {
    backend.conn().conn.query_row(sql, [], |row| row.get(0)).expect("a number")
}

fn look_up(backend: &SqlBackend<Sqlite>, tombstones: std::ops::Range<u64>) -> u64 {
    let reader = backend.reader().expect("reader");
    tombstones.filter(|n| reader.tombstone(&made(*n)).expect("look up").is_some()).count() as u64
}

#[test]
fn a_deletion_writes_a_row_however_much_it_deletes() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let backend = open(&path, true);
    backend.conn().take_rows();
    put(&backend, 0..500, 9);
    assert_eq!(backend.conn().take_rows(), (1, 0));
    // The same tombstones without a later time: nothing is written.
    put(&backend, 0..500, 9);
    assert_eq!(backend.conn().take_rows(), (0, 0));
    drop(backend);
    let backend = open(&path, true);
    assert_eq!(look_up(&backend, 0..600), 500);
}

/// Most deletions delete one event: they should cost at most one row besides that of the request, pages included.
#[test]
fn rows_of_tombstones_are_reused_after_a_flush() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let mut backend = open(&path, true);
    let mut rows = 0;
    for n in 1..=6_000 {
        if n % 700 == 0 {
            drop(backend);
            backend = open(&path, true);
        }
        let (event, classes) = (note_with_tags(n, 1), backend.classes());
        let both = |writer: &mut <SqlBackend<Sqlite> as Backend>::Writer<'_>| {
            writer.insert(Seq(n), &event, &terms_of(event.view(), classes))?;
            writer.put_tombstone(&made(n), n)
        };
        backend.conn().take_rows();
        backend.write(both).expect("write");
        rows += backend.conn().take_rows().0;
    }
    assert!((12_000..12_800).contains(&rows), "{rows} rows for 6,000 events and a tombstone each");
    let kept = number(&backend, "SELECT count(*) FROM relay_tombstone");
    assert!(kept < 1_600, "{kept} rows of tombstones");
    let reader = backend.reader().expect("reader");
    assert!((1..=6_000).all(|n| reader.tombstone(&made(n)) == Ok(Some(n))));
}

/// The same event may be deleted again and again.
#[test]
fn a_later_tombstone_replaces_an_earlier_one() {
    let backend = in_memory(SqlSizes::default());
    (1..=200).for_each(|second| put(&backend, 0..1_000, second));
    let bytes = number(&backend, "SELECT sum(length(keys) + length(filter)) FROM relay_page");
    assert!(bytes < 1_000_000, "{bytes} bytes of pages for 1,000 tombstones that were set 200 times");
    let reader = backend.reader().expect("reader");
    assert!((0..1_000).all(|n| reader.tombstone(&made(n)) == Ok(Some(200))));
}

#[test]
fn compaction_keeps_up_with_tombstones() {
    let backend = in_memory(SqlSizes::default());
    for part in 0..80 {
        put(&backend, part * 8_200..(part + 1) * 8_200, 1);
        let levels = levels(&backend);
        let first = levels.iter().find(|(level, _)| *level == 1).map_or(0, |(_, pages)| *pages);
        assert!(first < 200, "{levels:?}");
    }
    let runs = number(&backend, "SELECT count(DISTINCT run) FROM relay_page WHERE level = 0");
    assert!(runs <= 9, "{runs} runs of level 0");
    assert_eq!(look_up(&backend, 0..1_000), 1_000);
}

/// A write puts as many tombstones as its events have tags; a row has at most 2 MB.
#[test]
fn many_tombstones_of_one_write_fit_their_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    // Nothing is flushed.
    let sizes = SqlSizes { memtable_keys: 1 << 20, ..SqlSizes::default() };
    let backend = open_with(&path, true, sizes);
    put(&backend, 0..60_000, 9);
    let longest = number(&backend, "SELECT max(length(keys)) FROM relay_tombstone");
    assert!((500_000..1_000_000).contains(&longest), "{longest}");
    drop(backend);
    assert_eq!(look_up(&open_with(&path, true, sizes), 0..60_100), 60_000);
}

/// Each put looks up two or three tombstones; nearly always there is none.
#[test]
fn looking_up_a_tombstone_reads_nearly_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("relay.sqlite");
    let backend = open(&path, true);
    (0..10).for_each(|part| {
        put_all(&backend, (1 + 2_000 * part..=2_000 * (part + 1)).map(|n| (n, note_with_tags(n, 5))));
        put(&backend, 300 * part..300 * (part + 1), part);
    });
    drop(backend);
    let backend = open(&path, true);
    backend.conn().take_rows();
    assert_eq!(look_up(&backend, 3_000..6_000), 0);
    let (_, of_none) = backend.conn().take_rows();
    assert!(of_none < 40, "{of_none} rows for 3,000 that are not there: some filter is wrong now and then");
    assert_eq!(look_up(&backend, 0..3_000), 3_000);
    let (_, of_all) = backend.conn().take_rows();
    assert!(of_all < 60, "{of_all} rows for 3,000 that lie in a few pages");
}

/// A write may put tombstones without storing an event, and so may all writes between two flushes.
#[test]
fn runs_with_only_tombstones_do_not_overlap() {
    let backend = in_memory(SqlSizes::tiny());
    insert(&backend, 1, &note_with_tags(1, 2)).expect("insert");
    for round in 1..8 {
        (0..90).step_by(10).for_each(|n| put(&backend, n..n + 10, round));
        assert_eq!(look_up(&backend, 0..100), 90);
        let reader = backend.reader().expect("reader");
        assert!((0..90).all(|n| reader.tombstone(&made(n)) == Ok(Some(round))));
    }
}
