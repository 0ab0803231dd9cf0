//! Removals of bytes, and that none meets an upload.

use relay_blossom::index::{Commit, Refusal, Wanted};
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, commit, key, sha, unknown, wanted};

fn take(world: &mut World) -> Option<String> {
    match world.run(Command::TakeRemoval) {
        Outcome::Removal(key) => key,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_upload_calls_off_a_removal_and_waits_for_one_that_is_under_way() {
    let mut world = World::new();
    let bytes = sha(1).to_string();
    world.upload(wanted(1, 1, 10));
    world.delete(1, 1);
    // Called off; queued again when the upload fails.
    let (upload, _) = world.begin(wanted(2, 1, 10));
    assert_eq!(take(&mut world), None);
    world.run(Command::Abort { upload });
    assert_eq!(take(&mut world), Some(bytes.clone()));
    assert_eq!(take(&mut world), None, "it is handed out once");
    world.check(Command::Begin(wanted(2, 1, 10)), &Outcome::Busy);
    world.check(Command::Check(wanted(2, 1, 10)), &Outcome::Busy);
    let (unknown, _) = world.begin(unknown(2, 10));
    let set_hash = Command::SetHash { upload: unknown, sha256: sha(1), size: 10 };
    world.check(set_hash.clone(), &Outcome::Busy);
    world.reopen();
    world.check(Command::Begin(wanted(2, 1, 10)), &Outcome::Busy);
    world.check(Command::Removed(bytes.clone()), &Outcome::Done);
    assert!(matches!(world.run(set_hash), Outcome::Begun { .. }));
    assert_eq!(take(&mut world), None);
    // Who says so again is not believed.
    world.run(Command::Abort { upload: unknown });
    world.check(Command::Removed(bytes.clone()), &Outcome::Done);
    assert_eq!(take(&mut world), Some(bytes));
}

#[test]
fn bytes_of_a_blob_that_is_uploaded_again_are_not_removed_with_it() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    // Nobody owns it any more while it is uploaded; this upload began when it was not live.
    world.delete(1, 1);
    let (upload, _) = world.begin(wanted(2, 1, 10));
    let (other, _) = world.begin(wanted(3, 1, 10));
    // Retention does not end what others upload.
    let finish = Commit { expires_at: Some(world.now), ..commit(other, 1, 10) };
    assert!(matches!(world.run(Command::Finish(finish)), Outcome::Stored(_)));
    world.run(Command::Sweep);
    assert!(!world.is_live(1));
    assert_eq!(take(&mut world), None);
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 10))), Outcome::Stored(_)));
    assert_eq!(take(&mut world), None);
    assert!(world.is_live(1));
}

#[test]
fn bytes_that_come_while_they_are_removed_are_removed_again() {
    let mut world = World::new();
    let (late, _) = world.begin(wanted(1, 1, 10));
    world.run(Command::Abort { upload: late });
    let bytes = take(&mut world).unwrap();
    world.refused(Command::Finish(commit(late, 1, 10)), Refusal::Gone);
    world.refused(Command::Finish(commit(late, 1, 10)), Refusal::Gone);
    assert_eq!(take(&mut world), None);
    world.reopen();
    world.check(Command::Begin(wanted(1, 1, 10)), &Outcome::Busy);
    world.run(Command::Removed(bytes.clone()));
    assert_eq!(world.remove_all(), [bytes]);
}

#[test]
fn a_removal_that_nobody_reports_is_handed_out_again() {
    let mut world = World::new();
    for n in 1..4 {
        world.upload(wanted(1, n, 10));
        world.delete(1, n);
    }
    let bytes = take(&mut world).unwrap();
    world.check(Command::Sweep, &Outcome::Swept(Some(world.now + 900)));
    world.now += 899;
    world.reopen();
    assert_ne!(take(&mut world), Some(bytes.clone()));
    world.now += 1;
    assert_eq!(take(&mut world), Some(bytes.clone()));
    world.check(Command::Begin(wanted(1, 1, 10)), &Outcome::Busy);
    world.check(Command::Removed(bytes), &Outcome::Done);
    world.begin(wanted(1, 1, 10));
    // A restart queues all of them again at once.
    world.check(Command::Restart, &Outcome::Done);
    assert_eq!(world.remove_all().len(), 3);
    world.check(Command::Sweep, &Outcome::Swept(None));
}

/// Regression: on the edge, where GET asks only the bucket, what somebody had begun to upload stayed public however often it was deleted
/// or banned.
#[test]
fn a_deletion_gives_up_uploads_of_the_blob_and_removes_it_twice() {
    let ban = Command::Ban { sha256: sha(1), reason: String::new() };
    let remove = Command::Delete { sha256: sha(1), owner: None };
    let remove_owner = Command::Delete { sha256: sha(1), owner: Some(key(2)) };
    let bytes = sha(1).to_string();
    for (end, refusal) in [(ban, Refusal::Banned), (remove, Refusal::Gone), (remove_owner, Refusal::Gone)] {
        let mut world = World::new();
        let (known, _) = world.begin(wanted(1, 1, 10));
        let (failing, _) = world.begin(wanted(1, 1, 10));
        let (dead, _) = world.begin(wanted(1, 1, 10));
        let (staged, _) = world.begin(unknown(1, 10));
        world.run(Command::SetHash { upload: staged, sha256: sha(1), size: 10 });
        world.part(wanted(3, 1, 10), 0, 5);
        let (joining, joined) = world.part(wanted(4, 1, 10), 0, 10);
        assert!(joined.is_some());
        world.upload(wanted(2, 1, 10));
        world.run(end);
        assert_eq!(world.totals().uploads, 0);
        world.reopen();
        assert_eq!(world.totals().uploads, 0);
        // The blob and the two parts.
        let removed = world.remove_all();
        assert!(removed.len() == 3 && removed.contains(&bytes), "{removed:?}");
        for late in [known, staged, joining] {
            world.refused(Command::Finish(commit(late, 1, 10)), refusal);
            assert!(world.remove_all().contains(&bytes), "it may have put the bytes meanwhile");
        }
        world.run(Command::Abort { upload: failing });
        assert_eq!(world.remove_all(), std::slice::from_ref(&bytes));
        world.check(Command::IsKnown(bytes.clone()), &Outcome::Accepted);
        world.now = START + 100_000;
        world.run(Command::Sweep);
        assert!(world.remove_all().contains(&bytes), "of {dead} nothing is heard");
        assert_eq!(world.sqlite.count("blossom_uploads"), 0);
        world.check(Command::IsKnown(bytes.clone()), &Outcome::Missing);
    }
}

#[test]
fn an_upload_that_is_given_up_ends_without_harm_to_a_later_one() {
    let mut world = World::new();
    let (late, _) = world.begin(wanted(1, 1, 10));
    world.upload(wanted(2, 1, 10));
    world.delete(2, 1);
    let (upload, _) = world.begin(wanted(2, 1, 10));
    world.refused(Command::Finish(commit(late, 1, 10)), Refusal::Gone);
    assert_eq!(take(&mut world), None);
    assert!(matches!(world.run(Command::Finish(commit(upload, 1, 10))), Outcome::Stored(_)));
    assert_eq!(take(&mut world), None);
    assert!(world.is_live(1));
}

#[test]
fn what_administrators_remove_goes_from_the_store_though_the_index_does_not_know_it() {
    let mut world = World::new();
    world.check(Command::Delete { sha256: sha(1), owner: Some(key(1)) }, &Outcome::Missing);
    assert_eq!(world.remove_all(), [""; 0]);
    world.check(Command::Delete { sha256: sha(1), owner: None }, &Outcome::Missing);
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    world.check(Command::Ban { sha256: sha(1), reason: String::new() }, &Outcome::Done);
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
}

/// Regression: one error of the store kept uploads of a blob waiting for 15 minutes.
#[test]
fn a_removal_that_failed_waits_again() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    world.delete(1, 1);
    let bytes = take(&mut world).unwrap();
    world.check(Command::Begin(wanted(1, 1, 10)), &Outcome::Busy);
    world.check(Command::RemovalFailed(bytes.clone()), &Outcome::Done);
    assert_eq!(world.index.next_due(), Some(0));
    world.reopen();
    assert_eq!(take(&mut world), Some(bytes.clone()));
    world.check(Command::RemovalFailed(bytes.clone()), &Outcome::Done);
    world.check(Command::RemovalFailed(bytes.clone()), &Outcome::Done);
    world.begin(wanted(1, 1, 10));
    assert_eq!(take(&mut world), None);
    world.check(Command::RemovalFailed(bytes), &Outcome::Done);
    assert_eq!(take(&mut world), None, "nobody had taken it");
}

#[test]
fn the_next_due_time_is_never_too_late() {
    let mut world = World::new();
    let due = |world: &World| world.index.next_due();
    assert_eq!(due(&world), None);
    world.upload(Wanted { expires_at: Some(START + 5_000), ..wanted(1, 1, 10) });
    assert_eq!(due(&world), Some(START + 5_000));
    world.upload(Wanted { expires_at: Some(START + 9_000), ..wanted(1, 2, 10) });
    assert_eq!(due(&world), Some(START + 5_000));
    world.upload(Wanted { unused_seconds: Some(1_000), ..wanted(1, 3, 10) });
    assert_eq!(due(&world), Some(START + 2_000));
    let (upload, _) = world.begin(Wanted { abandoned_at: START + 60, ..wanted(1, 4, 10) });
    world.reopen();
    assert_eq!(due(&world), Some(START + 60));
    world.run(Command::Abort { upload });
    assert_eq!(due(&world), Some(0), "a removal waits");
    world.reopen();
    assert_eq!(due(&world), Some(0));
    let bytes = take(&mut world).unwrap();
    assert_eq!(take(&mut world), None);
    assert_eq!(due(&world), Some(START + 900));
    world.run(Command::Removed(bytes));
    world.run(Command::Sweep);
    assert_eq!(due(&world), Some(START + 2_000));
    world.now = START + 2_000;
    world.run(Command::Sweep);
    assert_eq!(world.remove_all().len(), 1);
    assert_eq!(due(&world), Some(START + 5_000));
    world.sqlite.fail_at(1);
    assert!(world.index.run(world.now, Command::Sweep).is_err());
    world.sqlite.fail_with(None);
    assert_eq!(due(&world), Some(0), "nobody knows");
}

#[test]
fn what_is_known_is_not_swept_away() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    world.upload(wanted(1, 0xab, 10));
    let (_, pending) = world.begin(wanted(1, 2, 10));
    let (upload, staged) = world.begin(unknown(1, 10));
    let (_, part) = world.begin_part(wanted(1, 3, 10), 0, 1);
    world.upload(wanted(1, 4, 10));
    world.delete(1, 4);
    for known in
        [sha(1).to_string(), pending, staged.clone(), part.clone(), sha(3).to_string(), sha(4).to_string()]
    {
        world.check(Command::IsKnown(known), &Outcome::Accepted);
    }
    let other = part.replace("parts/", "parts/0");
    for unknown in
        [sha(5).to_string(), "staged/77".to_owned(), format!("{staged}7"), format!("{part}7"), other]
    {
        world.check(Command::IsKnown(unknown), &Outcome::Missing);
    }
    for unknown in ["", "x", "parts/", "staged/", "staged/+1", &sha(0xab).to_string().to_uppercase()] {
        world.check(Command::IsKnown(unknown.to_owned()), &Outcome::Missing);
    }
    world.run(Command::SetHash { upload, sha256: sha(6), size: 10 });
    world.check(Command::IsKnown(staged), &Outcome::Accepted);
    world.check(Command::IsKnown(sha(6).to_string()), &Outcome::Accepted);
}

#[test]
fn removals_are_handed_out_many_at_a_time_or_by_their_key() {
    let mut world = World::new();
    for n in 1..=5 {
        world.upload(wanted(1, n, 10));
        world.delete(1, n);
    }
    let own = sha(4).to_string();
    let of = |key: &str| Command::TakeRemovalOf(key.to_owned());
    world.check(of(&own), &Outcome::Removal(Some(own.clone())));
    world.check(of(&own), &Outcome::Removal(None));
    world.check(of(&sha(9).to_string()), &Outcome::Removal(None));
    assert_eq!(world.index.next_due(), Some(0), "others wait");
    let removals = |of: &[u32]| Outcome::Removals(of.iter().map(|n| sha(*n).to_string()).collect());
    world.check(Command::TakeRemovals(3), &removals(&[1, 2, 3]));
    assert_eq!(world.index.next_due(), Some(0), "one waits");
    world.check(Command::TakeRemovals(3), &removals(&[5]));
    world.check(Command::TakeRemovals(3), &removals(&[]));
    assert_eq!(world.index.next_due(), Some(START + 900));
    world.check(Command::RemovalFailed(sha(2).to_string()), &Outcome::Done);
    world.check(of(&sha(2).to_string()), &Outcome::Removal(Some(sha(2).to_string())));
    assert_eq!(world.index.next_due(), Some(START + 900), "nobody else waits");
    for n in 1..=5 {
        world.check(Command::Removed(sha(n).to_string()), &Outcome::Done);
    }
    world.reopen();
    assert_eq!(world.index.next_due(), None);
}

#[test]
fn of_what_a_store_has_only_unknown_keys_of_the_index_go() {
    let mut world = World::new();
    for n in 1..=2 {
        world.upload(wanted(1, n, 10));
    }
    let (_, pending) = world.begin(wanted(1, 3, 10));
    let (_, staged) = world.begin(unknown(1, 10));
    let known = [sha(1).to_string(), sha(2).to_string(), pending, staged];
    let lost = [sha(7).to_string(), "staged/77".to_owned(), format!("parts/{}/78", sha(7))];
    let foreign = [
        "",
        "a.txt",
        "staged/",
        "staged/x",
        "staged/077",
        "parts/9",
        "other/7",
        &sha(0xab).to_string().to_uppercase(),
    ];
    let listed = |is_asked| Command::RemoveUnknown {
        keys: known.iter().chain(&lost).cloned().chain(foreign.map(str::to_owned)).collect(),
        is_asked,
    };
    world.check(listed(false), &Outcome::Unknown { removed: 3, left: 0 });
    world.check(listed(false), &Outcome::Unknown { removed: 0, left: 0 });
    let mut removed = world.remove_all();
    removed.sort_unstable();
    let mut wanted = lost.to_vec();
    wanted.sort_unstable();
    assert_eq!(removed, wanted);
    assert!(world.is_live(1));
}

/// An index that is new, or was restored, must not have the blobs removed that it has never heard of.
#[test]
fn if_most_blobs_of_a_store_are_unknown_they_stay_unless_an_administrator_asks() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    let keys: Vec<String> = (1..=3).map(|n| sha(n).to_string()).chain(["staged/9".to_owned()]).collect();
    let listed = |is_asked| Command::RemoveUnknown { keys: keys.clone(), is_asked };
    world.check(listed(false), &Outcome::Unknown { removed: 1, left: 2 });
    assert_eq!(world.remove_all(), ["staged/9"]);
    world.check(listed(true), &Outcome::Unknown { removed: 3, left: 0 });
    assert_eq!(world.remove_all().len(), 3);
    assert!(world.is_live(1));
}
