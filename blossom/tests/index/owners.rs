//! Owners: who may delete a blob, and lists.

use relay_blossom::index::Refusal;
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, key, sha, wanted};

#[test]
fn a_blob_ends_when_its_last_owner_lets_it_go() {
    // In every order.
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut world = World::new();
        for owner in [1, 2, 3, 2] {
            world.upload(wanted(owner, 1, 10));
        }
        for (n, owner) in order.into_iter().enumerate() {
            assert!(world.is_live(1));
            assert_eq!(world.delete(owner, 1), Outcome::Deleted);
            assert_eq!(world.list(Some(owner), None, 9), []);
            match n {
                2 => assert_eq!(world.delete(owner, 1), Outcome::Missing),
                _ => assert_eq!(world.delete(owner, 1), Outcome::Refused(Refusal::NotOwner)),
            }
            assert_eq!(world.remove_all().len(), usize::from(n == 2), "{order:?}");
        }
        let totals = world.totals();
        assert_eq!((totals.blobs, totals.bytes, totals.owners), (0, 0, 0));
    }
}

#[test]
fn only_owners_let_go_and_administrators_remove() {
    let mut world = World::new();
    assert_eq!(world.delete(1, 1), Outcome::Missing);
    world.check(Command::Delete { sha256: sha(1), owner: None }, &Outcome::Missing);
    world.upload(wanted(1, 1, 10));
    world.upload(wanted(2, 1, 10));
    assert_eq!(world.delete(3, 1), Outcome::Refused(Refusal::NotOwner));
    world.check(Command::Delete { sha256: sha(1), owner: None }, &Outcome::Deleted);
    assert!(!world.is_live(1));
    assert_eq!(world.list(Some(1), None, 9), []);
    assert_eq!(world.list(Some(2), None, 9), []);
    assert_eq!(world.sqlite.count("blossom_owners"), 0);
    world.upload(wanted(2, 1, 10));
    assert_eq!(world.list(Some(1), None, 9), [], "who owned it once does not own it again");
}

#[test]
fn pages_are_exact_newest_first() {
    let mut world = World::new();
    // Three of each second, uploaded in no order of hashes; some of them the second owner's first.
    for n in 0..60_u32 {
        world.now = START + u64::from(n / 3);
        let n = n * 7 % 60;
        world.upload(wanted(if n % 4 == 0 { 2 } else { 1 }, n, 10));
        world.upload(wanted(1, n, 10));
    }
    for owner in [Some(1), None] {
        let all = world.list(owner, None, 1_000);
        assert_eq!(all.len(), 60);
        let uploaded: Vec<u64> = all
            .iter()
            .map(|sha256| match world.run(Command::Get(*sha256)) {
                Outcome::Blob(blob) => blob.uploaded,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(uploaded.is_sorted_by(|a, b| a >= b));
        for limit in [1, 2, 7, 59, 60] {
            let mut paged = Vec::new();
            loop {
                let cursor = paged.last().copied();
                let page = Command::List { owner: owner.map(key), cursor, limit, since: None, until: None };
                let Outcome::Blobs(page) = world.run(page) else { panic!() };
                if page.is_empty() {
                    break;
                }
                paged.extend(page.into_iter().map(|blob| blob.sha256));
            }
            assert_eq!(paged, all, "{limit}");
        }
        let mut between = |since, until, cursor| {
            let page = Command::List { owner: owner.map(key), cursor, limit: 1_000, since, until };
            let Outcome::Blobs(page) = world.run(page) else { panic!() };
            page.into_iter().map(|blob| blob.sha256).collect::<Vec<_>>()
        };
        assert_eq!(between(Some(START + 5), Some(START + 6), None).len(), 6);
        assert_eq!(between(Some(START + 19), None, None), all[..3]);
        assert_eq!(between(None, Some(START), None), all[57..]);
        assert_eq!(between(None, Some(START), Some(all[0])), all[57..]);
        assert_eq!(between(None, Some(START + 9), Some(all[50])), all[51..]);
        assert_eq!(between(Some(0), Some(u64::MAX), None), all);
        assert_eq!(between(Some(u64::MAX), None, None), []);
        assert_eq!(between(Some(START + 1), Some(START), None), []);
    }
    assert_eq!(world.list(Some(2), None, 100).len(), 15);
    assert_eq!(world.list(Some(3), None, 100), []);
    assert_eq!(world.list(Some(1), None, 0), []);
}

#[test]
fn a_cursor_is_a_blob_of_the_list() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    world.upload(wanted(2, 2, 10));
    let list = |owner, n| Command::List { owner, cursor: Some(sha(n)), limit: 9, since: None, until: None };
    world.check(list(Some(key(1)), 2), &Outcome::Missing);
    world.check(list(Some(key(1)), 3), &Outcome::Missing);
    world.check(list(None, 3), &Outcome::Missing);
    world.check(list(Some(key(1)), 1), &Outcome::Blobs(Vec::new()));
}

#[test]
fn a_client_may_delete_each_page_before_it_asks_for_the_next() {
    for owner in [Some(1), None] {
        let mut world = World::new();
        for n in 1..=5 {
            world.upload(wanted(1, n, 10));
        }
        let (mut deleted, mut cursor) = (0, None);
        while deleted < 5 {
            let page = world.list(owner, cursor, 2);
            cursor = page.last().map(|last| (1..=5).find(|n| sha(*n) == *last).unwrap());
            for sha256 in &page {
                world.run(Command::Delete { sha256: *sha256, owner: owner.map(key) });
            }
            deleted += page.len();
        }
        let next =
            |owner| Command::List { owner, cursor: cursor.map(sha), limit: 9, since: None, until: None };
        world.check(next(owner.map(key)), &Outcome::Blobs(Vec::new()));
        world.check(next(Some(key(2))), &Outcome::Missing);
    }
}

/// Regression: the administrators' list of all blobs sorted all of them for each page.
#[test]
fn a_list_of_all_reads_a_page_also_in_databases_of_the_first_days() {
    use relay_engine::sql::SqlConn as _;
    let mut world = World::new();
    world.sqlite.exec("DROP INDEX blossom_blobs_uploaded", &[]).unwrap();
    world.upload(wanted(1, 1, 10));
    world.reopen();
    world.upload(wanted(2, 2, 10));
    assert_eq!(world.list(None, None, 9), [sha(2), sha(1)]);
    let plan = world.sqlite.plan(
        "SELECT b.mime FROM blossom_blobs AS b WHERE b.uploaded >= ? AND (b.uploaded, b.sha256) < (?, ?) \
         ORDER BY b.uploaded DESC, b.sha256 DESC LIMIT ?",
    );
    assert!(plan.contains("USING INDEX blossom_blobs_uploaded") && !plan.contains("B-TREE"), "{plan}");
}
