//! Uploads: who may begin one, and how it ends.

use relay_blossom::index::{Refusal, Wanted};
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, commit, key, sha, unknown, wanted};

#[test]
fn an_upload_makes_a_blob_live_when_its_bytes_are_there() {
    let mut world = World::new();
    world.check(Command::Check(wanted(1, 1, 10)), &Outcome::Accepted);
    let (upload, bytes) = world.begin(wanted(1, 1, 10));
    assert_eq!(bytes, sha(1).to_string());
    assert!(!world.is_live(1));
    let Outcome::Stored(blob) = world.run(Command::Finish(commit(upload, 1, 10))) else { panic!() };
    assert_eq!((blob.sha256, blob.size, blob.uploaded), (sha(1), 10, START));
    world.check(Command::Get(sha(1)), &Outcome::Blob(blob.clone()));
    world.check(Command::Check(wanted(2, 1, 10)), &Outcome::Exists(blob.clone()));
    assert_eq!(world.list(Some(2), None, 9), [], "to ask makes nobody an owner");
    world.check(Command::Begin(wanted(1, 1, 10)), &Outcome::Exists(blob));
    assert_eq!(world.remove_all(), [""; 0]);
    let totals = world.totals();
    assert_eq!((totals.blobs, totals.bytes, totals.owners, totals.uploads), (1, 10, 1, 0));
}

/// Regression: who knew a hash, from a list that anybody may read, announced an upload of it, sent nothing and owned the blob: its owner
/// could not delete it any more.
#[test]
fn who_knows_a_hash_owns_the_blob_only_when_its_bytes_have_come() {
    let mut world = World::new();
    let blob = world.upload(wanted(1, 1, 10));
    let upload = world.begin_here(wanted(2, 1, 10));
    assert_eq!(world.list(Some(2), None, 9), []);
    assert_eq!(world.totals().uploads, 1);
    world.check(Command::Abort { upload }, &Outcome::Done);
    assert_eq!(world.list(Some(2), None, 9), [], "other bytes, or none");
    let upload = world.begin_here(wanted(2, 1, 10));
    world.check(Command::Finish(commit(upload, 1, 10)), &Outcome::Exists(blob.clone()));
    assert_eq!(world.list(Some(2), None, 9), [sha(1)]);
    world.check(Command::Begin(wanted(2, 1, 10)), &Outcome::Exists(blob));

    // The only owners have deleted it meanwhile, and an administrator another one.
    let upload = world.begin_here(wanted(3, 1, 10));
    world.delete(1, 1);
    world.delete(2, 1);
    world.refused(Command::Finish(commit(upload, 1, 10)), Refusal::Gone);
    assert!(!world.is_live(1));
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    world.upload(wanted(1, 1, 10));
    let upload = world.begin_here(wanted(3, 1, 10));
    world.run(Command::Ban { sha256: sha(1), reason: String::new() });
    world.refused(Command::Finish(commit(upload, 1, 10)), Refusal::Banned);
    assert_eq!(world.totals().uploads, 0);
}

#[test]
fn a_blob_that_runs_out_while_somebody_sends_it_again_is_new() {
    let mut world = World::new();
    world.upload(Wanted { expires_at: Some(START + 10), ..wanted(1, 1, 10) });
    let begin =
        |world: &mut World| world.begin_here(Wanted { total_bytes_max: Some(25), ..wanted(2, 1, 10) });
    let (upload, other) = (begin(&mut world), begin(&mut world));
    world.now += 10;
    world.run(Command::Sweep);
    assert!(!world.is_live(1));
    assert_eq!(world.remove_all(), [""; 0], "the bytes stay while they may be wanted");
    world.reopen();
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 10))), Outcome::Stored(_)));
    world.run(Command::Delete { sha256: sha(1), owner: None });
    world.refused(Command::Finish(commit(other, 1, 10)), Refusal::Gone);

    // Its bytes count for all again.
    let blob = world.upload(Wanted { expires_at: Some(world.now + 10), ..wanted(1, 1, 10) });
    let upload = begin(&mut world);
    world.upload(Wanted { total_bytes_max: Some(25), ..wanted(1, 2, 15) });
    world.now += 10;
    world.run(Command::Sweep);
    world.upload(Wanted { total_bytes_max: Some(25), ..wanted(1, 3, blob.size) });
    world.refused(Command::Finish(commit(upload, 1, 10)), Refusal::TotalQuota);
    assert!(world.remove_all().contains(&sha(1).to_string()));
}

#[test]
fn an_upload_of_unknown_length_reserves_what_it_learns() {
    let mut world = World::new();
    let quotas =
        |owner, n| Wanted { key_bytes_max: Some(100), total_bytes_max: Some(150), ..wanted(owner, n, 0) };
    let (a, _) = world.begin(quotas(1, 1));
    let (b, _) = world.begin(quotas(1, 2));
    let (c, _) = world.begin(quotas(2, 3));
    let reserve = |upload, size| Command::Reserve { upload, size };
    world.check(reserve(a, 60), &Outcome::Accepted);
    world.check(reserve(a, 50), &Outcome::Accepted);
    world.refused(reserve(b, 41), Refusal::KeyQuota);
    world.check(reserve(b, 40), &Outcome::Accepted);
    world.refused(reserve(c, 51), Refusal::TotalQuota);
    world.check(reserve(c, 50), &Outcome::Accepted);
    world.reopen();
    world.refused(Command::Check(Wanted { size: 1, ..quotas(1, 4) }), Refusal::TotalQuota);
    world.check(Command::Abort { upload: b }, &Outcome::Done);
    world.check(reserve(a, 100), &Outcome::Accepted);
    world.refused(reserve(b, 1), Refusal::Gone);
    world.run(Command::Ban { sha256: sha(3), reason: String::new() });
    world.refused(reserve(c, 50), Refusal::Gone);
    assert!(matches!(world.run(Command::Finish(commit(a, 1, 100))), Outcome::Stored(_)));
}

#[test]
fn what_is_sent_again_counts_for_the_quota_of_a_key_and_not_of_all() {
    let mut world = World::new();
    let quotas = |owner, n, size| Wanted {
        key_bytes_max: Some(100),
        total_bytes_max: Some(150),
        ..wanted(owner, n, size)
    };
    world.upload(quotas(1, 1, 90));
    let upload = world.begin_here(quotas(2, 1, 90));
    world.refused(Command::Begin(quotas(2, 2, 11)), Refusal::KeyQuota);
    world.begin(quotas(3, 3, 60));
    world.refused(Command::Begin(quotas(2, 4, 5)), Refusal::TotalQuota);
    world.run(Command::Finish(commit(upload, 1, 90)));
    world.refused(Command::Check(quotas(4, 5, 1)), Refusal::TotalQuota);
    world.begin_here(quotas(4, 1, 90));
}

#[test]
fn of_two_uploads_of_a_blob_one_stores_it_and_both_own_it() {
    let mut world = World::new();
    let (a, _) = world.begin(wanted(1, 1, 10));
    let (b, _) = world.begin(wanted(2, 1, 10));
    let (c, _) = world.begin(wanted(3, 1, 10));
    let Outcome::Stored(blob) = world.run(Command::Finish(commit(b, 1, 10))) else { panic!() };
    world.check(Command::Finish(commit(a, 1, 10)), &Outcome::Exists(blob));
    world.check(Command::Abort { upload: c }, &Outcome::Done);
    assert_eq!(world.remove_all(), [""; 0], "the blob is live");
    assert_eq!([1, 2, 3].map(|owner| world.list(Some(owner), None, 9).len()), [1, 1, 0]);
}

#[test]
fn a_failed_upload_leaves_nothing_unless_another_one_is_under_way() {
    let mut world = World::new();
    let (a, _) = world.begin(wanted(1, 1, 10));
    let (b, _) = world.begin(wanted(1, 1, 10));
    world.check(Command::Abort { upload: a }, &Outcome::Done);
    assert_eq!(world.remove_all(), [""; 0]);
    world.check(Command::Abort { upload: b }, &Outcome::Done);
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    world.check(Command::Abort { upload: b }, &Outcome::Done);
    assert_eq!(world.remove_all(), [""; 0]);
}

#[test]
fn an_unknown_hash_is_judged_when_it_is_known() {
    let mut world = World::new();
    let set_hash = |upload, n| Command::SetHash { upload, sha256: sha(n), size: 10 };
    let (upload, staged) = world.begin(unknown(1, 10));
    assert_eq!(staged, format!("staged/{upload}"));
    world.check(set_hash(upload, 1), &Outcome::Begun { upload, key: sha(1).to_string() });
    world.check(set_hash(upload, 1), &Outcome::Begun { upload, key: sha(1).to_string() });
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 10))), Outcome::Stored(_)));
    assert_eq!(world.remove_all(), [""; 0]);

    // It is here already.
    let (upload, staged) = world.begin(unknown(2, 10));
    assert!(matches!(world.run(set_hash(upload, 1)), Outcome::Exists(_)));
    assert_eq!(world.list(Some(2), None, 9), [sha(1)]);
    assert_eq!(world.remove_all(), [staged]);
    world.refused(Command::Finish(commit(upload, 1, 10)), Refusal::Gone);

    // It is banned.
    world.run(Command::Ban { sha256: sha(2), reason: String::new() });
    world.remove_all();
    let (upload, staged) = world.begin(unknown(2, 10));
    world.refused(set_hash(upload, 2), Refusal::Banned);
    assert_eq!(world.remove_all(), [staged]);

    // It fails before and after.
    let (upload, staged) = world.begin(unknown(2, 10));
    world.run(Command::Abort { upload });
    assert_eq!(world.remove_all(), std::slice::from_ref(&staged));
    world.refused(set_hash(upload, 3), Refusal::Gone);
    assert_eq!(world.remove_all(), [staged], "the bytes may have come after their removal");
    let (upload, staged) = world.begin(unknown(2, 10));
    world.run(set_hash(upload, 3));
    world.run(Command::Abort { upload });
    assert_eq!(world.remove_all(), [sha(3).to_string(), staged]);

    // It turns out longer than there is room.
    let (upload, staged) = world.begin(Wanted { key_bytes_max: Some(15), ..unknown(2, 1) });
    world.refused(set_hash(upload, 4), Refusal::KeyQuota);
    assert_eq!(world.remove_all(), [staged]);
    assert_eq!(world.totals().uploads, 0);
}

#[test]
fn what_comes_too_late_is_removed_and_meets_no_other_upload() {
    let mut world = World::new();
    let (late, _) = world.begin(wanted(1, 1, 10));
    world.run(Command::Abort { upload: late });
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    world.refused(Command::Finish(commit(late, 1, 10)), Refusal::Gone);
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    // Numbers are not given twice, also not by the next process.
    for _ in 0..3 {
        world.reopen();
        let (upload, _) = world.begin(wanted(2, 2, 10));
        assert!(upload > late);
        world.refused(Command::Finish(commit(late, 1, 10)), Refusal::Gone);
        world.run(Command::Abort { upload });
    }
    // Too late for the upload, and live by another one: nothing is removed.
    world.remove_all();
    world.upload(wanted(2, 1, 10));
    world.refused(Command::Finish(commit(late, 1, 10)), Refusal::Gone);
    assert_eq!(world.remove_all(), [""; 0]);
    // Bytes of another hash than the upload's.
    let (upload, _) = world.begin(wanted(1, 5, 10));
    world.refused(Command::Finish(commit(upload, 6, 10)), Refusal::Gone);
    assert_eq!(world.remove_all(), [sha(5).to_string(), sha(6).to_string()]);
}

#[test]
fn quotas_count_what_is_live_and_what_is_under_way() {
    let quota = |owner, n, size| Wanted { key_bytes_max: Some(100), ..wanted(owner, n, size) };
    let mut world = World::new();
    world.upload(quota(1, 1, 60));
    world.refused(Command::Begin(quota(1, 2, 41)), Refusal::KeyQuota);
    let (upload, _) = world.begin(quota(1, 2, 40));
    world.refused(Command::Check(quota(1, 3, 1)), Refusal::KeyQuota);
    world.begin(quota(2, 3, 100));
    world.run(Command::Abort { upload });
    world.upload(quota(1, 2, 40));
    assert_eq!(world.delete(1, 1), Outcome::Deleted);
    world.upload(quota(1, 3, 60));
    // A blob of somebody else counts too once one owns it.
    world.upload(quota(4, 10, 90));
    world.refused(Command::Begin(quota(1, 10, 90)), Refusal::KeyQuota);
    // More comes than was said.
    let (upload, _) = world.begin(quota(5, 11, 1));
    world.refused(Command::Finish(commit(upload, 11, 101)), Refusal::KeyQuota);
    assert!(world.remove_all().contains(&sha(11).to_string()));
    // Also in the next process.
    let (upload, _) = world.begin(quota(5, 11, 1));
    world.reopen();
    world.refused(Command::Finish(commit(upload, 11, 101)), Refusal::KeyQuota);
    world.refused(Command::Begin(quota(1, 12, 1)), Refusal::KeyQuota);
    world.upload(quota(5, 11, 100));
    // An owner who deletes has room again, and so have both when the blob is removed.
    world.upload(quota(6, 20, 70));
    world.upload(quota(7, 20, 70));
    world.refused(Command::Begin(quota(7, 21, 31)), Refusal::KeyQuota);
    world.delete(7, 20);
    world.upload(quota(7, 21, 100));
    world.run(Command::Delete { sha256: sha(20), owner: None });
    world.upload(quota(6, 22, 100));
}

#[test]
fn who_begins_an_upload_again_needs_room_for_one() {
    let quota =
        |owner, n| Wanted { key_bytes_max: Some(100), total_bytes_max: Some(100), ..wanted(owner, n, 60) };
    let mut world = World::new();
    let (lost, _) = world.begin(quota(1, 1));
    let (upload, _) = world.begin(quota(1, 1));
    let (other, _) = world.begin(quota(2, 1));
    world.refused(Command::Begin(quota(1, 2)), Refusal::TotalQuota);
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 60))), Outcome::Stored(_)));
    assert!(matches!(world.run(Command::Finish(commit(other, 1, 60))), Outcome::Exists(_)));
    assert!(matches!(world.run(Command::Finish(commit(lost, 1, 60))), Outcome::Exists(_)));
    assert_eq!(world.totals().bytes, 60);
}

#[test]
fn the_quota_of_all_counts_each_blob_once() {
    let quota = |owner, n, size| Wanted { total_bytes_max: Some(100), ..wanted(owner, n, size) };
    let mut world = World::new();
    world.upload(quota(1, 1, 90));
    for owner in 2..9 {
        world.upload(quota(owner, 1, 90));
    }
    let (upload, _) = world.begin(quota(1, 2, 10));
    world.refused(Command::Begin(quota(2, 3, 1)), Refusal::TotalQuota);
    world.reopen();
    world.refused(Command::Begin(quota(2, 3, 1)), Refusal::TotalQuota);
    world.refused(Command::Finish(commit(upload, 2, 11)), Refusal::TotalQuota);
    world.upload(quota(2, 3, 10));
    world.refused(Command::Begin(quota(2, 4, u64::MAX)), Refusal::TotalQuota);
}

#[test]
fn uploads_of_an_owner_under_way_are_bounded() {
    let mut world = World::new();
    let uploads: Vec<u64> = (0..1_024).map(|n| world.begin(wanted(1, n, 10)).0).collect();
    world.refused(Command::Begin(wanted(1, 2_000, 10)), Refusal::TooMany);
    world.refused(Command::Begin(unknown(1, 10)), Refusal::TooMany);
    world.begin(wanted(2, 2_000, 10));
    world.run(Command::Finish(commit(uploads[7], 7, 10)));
    world.begin(wanted(1, 2_000, 10));
}

#[test]
fn a_restart_ends_what_an_earlier_process_has_begun() {
    let mut world = World::new();
    world.begin(wanted(1, 1, 10));
    let (_, staged) = world.begin(unknown(1, 10));
    world.upload(wanted(1, 2, 10));
    let (late, _) = world.begin(wanted(1, 3, 10));
    world.reopen();
    world.check(Command::Restart, &Outcome::Done);
    assert_eq!(world.totals().uploads, 0);
    assert_eq!(world.remove_all(), [sha(1).to_string(), sha(3).to_string(), staged]);
    assert!(world.is_live(2));
    world.refused(Command::Finish(commit(late, 3, 10)), Refusal::Gone);
}

#[test]
fn a_key_that_is_none_is_an_error_and_changes_nothing() {
    let mut world = World::new();
    for owner in ["", "xyz", &key(1)[1..]] {
        let wanted = Wanted { owner: owner.to_owned(), ..wanted(1, 1, 10) };
        assert!(world.index.run(START, Command::Begin(wanted)).is_err());
    }
    world.upload(wanted(1, 1, 10));
    assert_eq!(world.totals().blobs, 1);
}
