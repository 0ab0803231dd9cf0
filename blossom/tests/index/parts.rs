//! Uploads in parts.

use relay_blossom::index::{Part, PartHead, Refusal, Wanted};
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, commit, sha, wanted};

/// Parts `(offset, length)` of a blob of 100 bytes, of which the last one completes it; what is joined as `(skip, take)`.
#[track_caller]
fn check(parts: &[(u64, u64)], expected: &[(u64, u64)]) {
    let mut world = World::new();
    let (last, first) = parts.split_last().unwrap();
    let mut needed = 1;
    for (offset, length) in first {
        let (upload, joined) = world.part(wanted(1, 1, 100), *offset, *length);
        assert_eq!(joined, None, "{offset} {length}");
        needed += usize::from(upload > 0);
    }
    let (upload, joined) = world.part(wanted(1, 1, 100), last.0, last.1);
    let joined = joined.expect("all are there");
    let joined: Vec<(u64, u64)> = joined.iter().map(|part| (part.skip, part.take)).collect();
    assert_eq!(joined, expected);
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 100))), Outcome::Stored(_)));
    assert_eq!(world.remove_all().len(), needed, "parts are removed, the blob is not");
    assert_eq!(world.sqlite.count("blossom_parts"), 0);
    assert_eq!(world.totals().uploads, 0);
}

#[test]
fn parts_come_in_any_order_overlap_and_repeat() {
    check(&[(0, 100)], &[(0, 100)]);
    check(&[(0, 50), (50, 50)], &[(0, 50), (0, 50)]);
    check(&[(50, 50), (0, 50)], &[(0, 50), (0, 50)]);
    check(&[(90, 10), (0, 1), (1, 88), (89, 1)], &[(0, 1), (0, 88), (0, 1), (0, 10)]);
    check(&[(0, 60), (40, 60)], &[(0, 60), (20, 40)]);
    check(&[(40, 60), (0, 60)], &[(0, 60), (20, 40)]);
    check(&[(0, 50), (0, 50), (10, 20), (50, 50)], &[(0, 50), (0, 50)]);
    check(&[(0, 30), (10, 50), (20, 70), (90, 10)], &[(0, 30), (10, 60), (0, 10)]);
    check(&[(10, 20), (20, 80), (0, 0), (100, 0), (0, 30)], &[(0, 30), (10, 70)]);
    check(&[(1, 99), (0, 100)], &[(0, 100)]);
}

#[test]
fn a_blob_of_no_bytes_is_complete_with_its_first_part() {
    let mut world = World::new();
    let (upload, joined) = world.part(wanted(1, 1, 0), 0, 0);
    assert_eq!(joined, Some(Vec::new()));
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 0))), Outcome::Stored(_)));
}

#[test]
fn only_what_is_stored_counts() {
    let mut world = World::new();
    let (upload, a) = world.begin_part(wanted(1, 1, 100), 0, 50);
    let (_, b) = world.begin_part(wanted(1, 1, 100), 50, 50);
    world.check(Command::FinishPart { upload, key: b.clone() }, &Outcome::Accepted);
    world.check(Command::FinishPart { upload, key: b.clone() }, &Outcome::Accepted);
    let parts = vec![Part { key: a.clone(), skip: 0, take: 50 }, Part { key: b, skip: 0, take: 50 }];
    let complete =
        Outcome::Complete { upload, key: sha(1).to_string(), parts, blob_exists: false, payment: None };
    world.check(Command::FinishPart { upload, key: a }, &complete);
}

#[test]
fn one_request_joins_and_the_next_one_if_it_fails() {
    let mut world = World::new();
    world.part(wanted(1, 1, 100), 50, 50);
    // A part that is here already, too, has its sender join them.
    for _ in 0..2 {
        let (upload, joined) = world.part(wanted(1, 1, 100), 0, 50);
        assert!(joined.is_some());
        for _ in 0..3 {
            assert_eq!(world.part(wanted(1, 1, 100), 0, 50).1, None, "somebody joins already");
        }
        world.check(Command::Abort { upload }, &Outcome::Done);
        assert_eq!(world.remove_all(), [""; 0]);
    }
    // Whoever joins may die.
    let (upload, joined) = world.part(wanted(1, 1, 100), 0, 50);
    assert!(joined.is_some());
    world.now += 899;
    assert!(world.part(wanted(1, 1, 100), 0, 50).1.is_none());
    world.now += 1;
    assert!(world.part(wanted(1, 1, 100), 0, 50).1.is_some());
    // The third failure is the last: the bytes have another hash.
    world.check(Command::Abort { upload }, &Outcome::Done);
    assert_eq!(world.totals().uploads, 0);
    assert_eq!(world.remove_all().len(), 3);
    assert_eq!(world.part(wanted(1, 1, 100), 0, 50).1, None);
}

#[test]
fn parts_agree_on_the_length_and_lie_within_it() {
    let mut world = World::new();
    let part =
        |owner, size, offset, length| Command::BeginPart(wanted(owner, 1, size), PartHead { offset, length });
    world.refused(part(1, 100, 0, 101), Refusal::OtherLength);
    world.refused(part(1, 100, 101, 0), Refusal::OtherLength);
    world.refused(part(1, 100, u64::MAX, 2), Refusal::OtherLength);
    assert_eq!(world.totals().uploads, 0);
    world.part(wanted(1, 1, 100), 0, 10);
    world.refused(part(1, 99, 0, 10), Refusal::OtherLength);
    world.refused(part(1, 101, 0, 10), Refusal::OtherLength);
    // Another owner's parts are an upload of their own.
    assert!(matches!(world.run(part(2, 99, 0, 10)), Outcome::Begun { .. }));
    assert_eq!(world.totals().uploads, 2);
}

#[test]
fn a_part_that_fails_is_removed_and_the_last_one_ends_the_upload() {
    let mut world = World::new();
    world.part(wanted(1, 1, 100), 0, 10);
    let (upload, key) = world.begin_part(wanted(1, 1, 100), 10, 10);
    world.check(Command::AbortPart { upload, key: key.clone() }, &Outcome::Done);
    assert_eq!(world.remove_all(), std::slice::from_ref(&key));
    assert_eq!(world.totals().uploads, 1);
    let (other, key_of_other) = world.begin_part(wanted(2, 2, 100), 10, 10);
    world.check(Command::AbortPart { upload: other, key: key_of_other.clone() }, &Outcome::Done);
    assert_eq!(world.remove_all(), [sha(2).to_string(), key_of_other]);
    assert_eq!(world.totals().uploads, 1);
    // Late, and of nothing.
    world.refused(Command::FinishPart { upload, key: key.clone() }, Refusal::Gone);
    assert_eq!(world.remove_all(), [key]);
    world.refused(Command::FinishPart { upload, key: sha(1).to_string() }, Refusal::Gone);
    world.refused(Command::FinishPart { upload: 77, key: String::new() }, Refusal::Gone);
    assert_eq!(world.remove_all(), [""; 0], "keys of blobs are not parts");
}

#[test]
fn a_restart_keeps_what_is_stored() {
    let mut world = World::new();
    let (upload, _) = world.part(wanted(1, 1, 100), 0, 50);
    let (_, key) = world.begin_part(wanted(1, 1, 100), 50, 50);
    let (_, alone) = world.begin_part(wanted(1, 2, 100), 50, 50);
    world.reopen();
    world.check(Command::Restart, &Outcome::Done);
    let mut gone = vec![sha(2).to_string(), key, alone];
    gone.sort();
    assert_eq!(world.remove_all(), gone);
    // Somebody joins, and the process ends.
    assert!(world.part(wanted(1, 1, 100), 50, 50).1.is_some());
    world.reopen();
    world.check(Command::Restart, &Outcome::Done);
    let (again, joined) = world.part(wanted(1, 1, 100), 0, 1);
    assert_eq!((again, joined.map(|parts| parts.len())), (upload, Some(2)));
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 100))), Outcome::Stored(_)));
    assert_eq!(world.remove_all().len(), 2);
}

/// Regression: parts filled the disk beyond every quota: each could be as long as the blob, and ten thousand of them came.
#[test]
fn parts_have_at_most_twice_the_bytes_of_the_blob_and_no_byte_comes_in_vain() {
    let mut world = World::new();
    let part = |offset, length| Command::BeginPart(wanted(1, 1, 100), PartHead { offset, length });
    world.part(wanted(1, 1, 100), 0, 60);
    for (offset, length) in [(0, 60), (0, 1), (59, 1), (10, 20)] {
        world.check(part(offset, length), &Outcome::Accepted);
    }
    assert_eq!(world.sqlite.count("blossom_parts"), 1);
    world.part(wanted(1, 1, 100), 30, 60);
    // Stored parts have it together.
    world.check(part(0, 90), &Outcome::Accepted);
    // What is under way counts.
    let (upload, key) = world.begin_part(wanted(1, 1, 100), 20, 80);
    world.refused(part(99, 1), Refusal::TooMany);
    world.check(Command::AbortPart { upload, key }, &Outcome::Done);
    assert!(world.part(wanted(1, 1, 100), 90, 10).1.is_some());
}

#[test]
fn uploads_in_parts_of_an_owner_are_bounded() {
    let mut world = World::new();
    let part = |owner, n| Command::BeginPart(wanted(owner, n, 100), PartHead { offset: 0, length: 1 });
    for n in 1..=16 {
        assert!(matches!(world.run(part(1, n)), Outcome::Begun { .. }));
    }
    world.refused(part(1, 17), Refusal::TooMany);
    assert!(matches!(world.run(part(1, 16)), Outcome::Begun { .. }));
    assert!(matches!(world.run(part(2, 17)), Outcome::Begun { .. }));
}

/// Regression: one byte an hour kept an upload for ever.
#[test]
fn parts_extend_their_upload_for_a_day() {
    let mut world = World::new();
    let hourly = |at: u64| Wanted { abandoned_at: at + 3_600, ..wanted(1, 1, 100) };
    for hour in 0..24 {
        world.now = START + hour * 3_600;
        world.reopen();
        world.part(hourly(world.now), hour, 1);
    }
    world.check(Command::Sweep, &Outcome::Swept(Some(START + 86_400)));
    world.now = START + 86_399;
    world.part(hourly(world.now), 24, 1);
    world.check(Command::Sweep, &Outcome::Swept(Some(START + 86_400)));
    world.now += 1;
    world.check(Command::Sweep, &Outcome::Swept(None));
    assert_eq!(world.totals().uploads, 0);
}

#[test]
fn a_blob_that_is_ones_own_or_banned_meanwhile_ends_the_parts() {
    let mut world = World::new();
    let part = |n| Command::BeginPart(wanted(1, n, 100), PartHead { offset: 10, length: 10 });
    world.part(wanted(1, 1, 100), 0, 10);
    world.upload(wanted(1, 1, 100));
    assert!(matches!(world.run(part(1)), Outcome::Exists(_)));
    assert_eq!(world.list(Some(1), None, 9), [sha(1)]);
    assert_eq!(world.remove_all().len(), 1);
    world.part(wanted(1, 2, 100), 0, 10);
    world.run(Command::Ban { sha256: sha(2), reason: String::new() });
    world.refused(part(2), Refusal::Banned);
    assert_eq!(world.remove_all().len(), 2, "the part, and what a join may have stored");
    assert_eq!(world.totals().uploads, 0);
    // Between the last part and the join.
    let (upload, joined) = world.part(wanted(1, 3, 10), 0, 10);
    assert!(joined.is_some());
    world.run(Command::Ban { sha256: sha(3), reason: String::new() });
    world.refused(Command::Finish(commit(upload, 3, 10)), Refusal::Banned);
    assert_eq!(world.remove_all().len(), 2);
}

/// Regression: whoever announced a long blob and sent a byte of it reserved all of it.
#[test]
fn an_upload_in_parts_reserves_what_has_come_and_at_most_the_whole() {
    let quota = |n, size| Wanted { key_bytes_max: Some(100), ..wanted(1, n, size) };
    let part = |n, size, offset, length| Command::BeginPart(quota(n, size), PartHead { offset, length });
    let mut world = World::new();
    world.part(quota(1, 90), 0, 10);
    world.refused(Command::Check(quota(2, 91)), Refusal::KeyQuota);
    world.check(Command::Check(quota(2, 90)), &Outcome::Accepted);
    // A part counts when it comes.
    world.begin_part(quota(1, 90), 10, 79);
    world.refused(part(2, 20, 0, 12), Refusal::KeyQuota);
    world.part(quota(2, 20), 0, 10);
    // All of it is to have room in the end.
    world.refused(part(2, 20, 10, 10), Refusal::KeyQuota);
    // What is here need not come and needs no room; what overlaps counts once the whole is reached.
    world.check(part(2, 20, 0, 10), &Outcome::Accepted);
    world.begin_part(quota(1, 90), 5, 80);
    world.refused(part(2, 20, 10, 1), Refusal::KeyQuota);
}

#[test]
fn parts_of_an_owner_are_bounded() {
    let mut world = World::new();
    for n in 0..10_000 {
        world.begin_part(wanted(1, n % 2, 100_000), u64::from(n), 1);
    }
    let part = |owner| Command::BeginPart(wanted(owner, 1, 100_000), PartHead { offset: 0, length: 1 });
    world.refused(part(1), Refusal::TooMany);
    assert!(matches!(world.run(part(2)), Outcome::Begun { .. }));
}

#[test]
fn parts_are_abandoned_some_time_after_the_last_one() {
    let part = |at: u64| Wanted { abandoned_at: at + 100, ..wanted(1, 1, 100) };
    let mut world = World::new();
    for n in 0..10 {
        world.now = START + 90 * n;
        world.check(Command::Sweep, &Outcome::Swept((n > 0).then_some(world.now + 10)));
        world.part(part(world.now), n, 1);
        world.reopen();
    }
    world.now += 100;
    world.check(Command::Sweep, &Outcome::Swept(None));
    assert_eq!(world.totals().uploads, 0);
    assert_eq!(world.remove_all().len(), 11);
    // Not while somebody joins.
    world.part(part(world.now), 0, 50);
    assert!(world.part(part(world.now), 50, 50).1.is_some());
    world.now += 100;
    world.check(Command::Sweep, &Outcome::Swept(Some(world.now + 800)));
    world.now += 800;
    world.check(Command::Sweep, &Outcome::Swept(None));
    assert_eq!(world.totals().uploads, 0);
}

#[test]
fn parts_of_a_blob_of_others_are_hashed_when_all_are_there() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 20));
    let (upload, joined) = world.part(wanted(2, 1, 20), 0, 10);
    assert_eq!((joined, world.list(Some(2), None, 9).len()), (None, 0));
    let (_, key) = world.begin_part(wanted(2, 1, 20), 10, 10);
    let Outcome::Complete { blob_exists: true, parts, .. } = world.run(Command::FinishPart { upload, key })
    else {
        panic!("the blob is here")
    };
    assert_eq!(parts.len(), 2);
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 20))), Outcome::Exists(_)));
    assert_eq!(world.list(Some(2), None, 9), [sha(1)]);
    assert_eq!(world.remove_all().len(), 2, "its parts");
    assert!(world.is_live(1));
    // Parts count for all: they are stored beside the blob.
    let full = Wanted { total_bytes_max: Some(25), ..wanted(3, 1, 20) };
    world.refused(Command::BeginPart(full, PartHead { offset: 0, length: 6 }), Refusal::TotalQuota);
}
