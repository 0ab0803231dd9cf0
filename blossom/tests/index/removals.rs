//! Removals of bytes, and that none meets an upload.

use relay_blossom::index::Refusal;
use relay_blossom::{Command, Outcome};

use crate::world::{World, commit, sha, unknown, wanted};

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
    let learn = Command::Learn { upload: unknown, sha256: sha(1), size: 10 };
    world.check(learn.clone(), &Outcome::Busy);
    world.reopen();
    world.check(Command::Begin(wanted(2, 1, 10)), &Outcome::Busy);
    world.check(Command::Removed(bytes.clone()), &Outcome::Done);
    assert!(matches!(world.run(learn), Outcome::Begun { .. }));
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
    world.run(Command::Finish(commit(other, 1, 10)));
    world.delete(3, 1);
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
    world.run(Command::Learn { upload, sha256: sha(6), size: 10 });
    world.check(Command::IsKnown(staged), &Outcome::Accepted);
    world.check(Command::IsKnown(sha(6).to_string()), &Outcome::Accepted);
}
