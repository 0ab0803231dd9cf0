//! Retention by age and by the last download, and uploads that nobody goes on with.

use relay_blossom::index::{BlobInfo, Refusal, Wanted};
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, commit, sha, unknown, wanted};

fn keep(owner: u8, n: u32, expires_at: Option<u64>, unused_seconds: Option<u64>) -> Wanted {
    Wanted { expires_at, unused_seconds, ..wanted(owner, n, 10) }
}

#[track_caller]
fn sweep(world: &mut World, next: Option<u64>) {
    world.check(Command::Sweep, &Outcome::Swept(next));
}

fn info(world: &mut World, n: u32) -> BlobInfo {
    match world.run(Command::Stat(sha(n))) {
        Outcome::Info(info) => *info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blob_is_removed_at_its_time_with_all_owners() {
    let mut world = World::new();
    sweep(&mut world, None);
    let blob = world.upload(keep(1, 1, Some(START + 100), None));
    assert_eq!(blob.expires_at, Some(START + 100));
    world.upload(keep(2, 1, Some(START + 100), None));
    world.upload(keep(1, 2, Some(START + 200), None));
    world.upload(wanted(1, 3, 10));
    sweep(&mut world, Some(START + 100));
    world.now = START + 99;
    sweep(&mut world, Some(START + 100));
    assert!(world.is_live(1));
    world.now = START + 100;
    sweep(&mut world, Some(START + 200));
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    assert_eq!(world.list(Some(2), None, 9), []);
    world.now = START + 1_000_000;
    sweep(&mut world, None);
    assert_eq!(world.list(None, None, 9), [sha(3)]);
}

#[test]
fn whoever_wants_a_blob_longer_keeps_it() {
    // Expiry and rule of the first and of the second upload, and of the blob then.
    type Kept = (Option<u64>, Option<u64>);
    let check = |first: Kept, second: Kept, kept: Kept| {
        let mut world = World::new();
        world.upload(keep(1, 1, first.0, first.1));
        assert_eq!(world.upload(keep(2, 1, second.0, second.1)).expires_at, kept.0);
        let ends = [kept.0, kept.1.map(|unused| START + 2 * unused)].into_iter().flatten().min();
        sweep(&mut world, ends);
        // Also if both uploads are under way at once.
        let mut world = World::new();
        let (a, _) = world.begin(keep(1, 1, None, None));
        let (b, _) = world.begin(keep(2, 1, None, None));
        for (upload, keep) in [(a, first), (b, second)] {
            let commit = commit(upload, 1, 10);
            let commit =
                relay_blossom::index::Commit { expires_at: keep.0, unused_seconds: keep.1, ..commit };
            world.run(Command::Finish(commit));
        }
        sweep(&mut world, ends);
        // And if the second one learns its hash late.
        let mut world = World::new();
        world.upload(keep(1, 1, first.0, first.1));
        let wanted = Wanted { sha256: None, ..keep(2, 1, second.0, second.1) };
        let (upload, _) = world.begin(wanted);
        world.reopen();
        world.run(Command::SetHash { upload, sha256: sha(1), size: 10 });
        sweep(&mut world, ends);
    };
    let (soon, late) = (Some(START + 500), Some(START + 900));
    check((soon, None), (soon, None), (soon, None));
    check((soon, None), (late, None), (late, None));
    check((late, None), (soon, None), (late, None));
    check((soon, None), (None, None), (None, None));
    check((None, None), (soon, None), (None, None));
    check((None, Some(60)), (None, Some(90)), (None, Some(90)));
    check((None, Some(60)), (None, None), (None, None));
    check((soon, Some(60)), (late, Some(30)), (late, Some(60)));
    check((soon, Some(60)), (None, Some(30)), (None, Some(60)));
    check((soon, Some(60)), (late, None), (late, None));
}

#[test]
fn a_blob_that_nobody_downloads_is_removed() {
    let mut world = World::new();
    let day = 86_400;
    world.upload(keep(1, 1, None, Some(day)));
    assert_eq!(info(&mut world, 1).last_access, Some(START));
    // Not before a day has passed without a download, though accesses are kept to the hour.
    for (at, access) in [(3_599, 0), (3_600, 3_600), (7_000, 3_600), (7_200, 7_200), (10_000, 7_200)] {
        world.now = START + at;
        world.check(Command::RecordDownloads(vec![sha(1), sha(2)]), &Outcome::Done);
        assert_eq!(info(&mut world, 1).last_access, Some(START + access), "{at}");
        sweep(&mut world, Some(START + access + day + 3_600));
    }
    world.now = START + 10_000 + day;
    sweep(&mut world, Some(START + 7_200 + day + 3_600));
    world.now = START + 7_200 + day + 3_600;
    sweep(&mut world, None);
    assert!(!world.is_live(1));
    // A short time is exact to itself.
    let now = world.now;
    world.upload(keep(1, 2, None, Some(60)));
    sweep(&mut world, Some(now + 120));
    // Whoever uploads it again wants it, too.
    world.now += 60;
    world.upload(keep(1, 2, None, Some(60)));
    sweep(&mut world, Some(now + 180));
    // Whichever comes first.
    world.upload(keep(1, 3, Some(now + 100), Some(60)));
    sweep(&mut world, Some(now + 100));
    // No rule, no access.
    world.upload(wanted(1, 4, 10));
    assert_eq!(info(&mut world, 4).last_access, None);
}

#[test]
fn an_upload_that_nobody_goes_on_with_ends() {
    let at = |n: u64| START + n;
    let mut world = World::new();
    let (a, _) = world.begin(Wanted { abandoned_at: at(10), ..wanted(1, 1, 10) });
    let (b, _) = world.begin(Wanted { abandoned_at: at(20), ..wanted(1, 1, 10) });
    let (c, staged) = world.begin(Wanted { abandoned_at: at(30), ..unknown(1, 10) });
    sweep(&mut world, Some(at(10)));
    world.reopen();
    world.now = at(10);
    sweep(&mut world, Some(at(20)));
    world.refused(Command::Finish(commit(a, 1, 10)), Refusal::Gone);
    assert_eq!(world.remove_all(), [""; 0], "another upload of it is under way");
    world.now = at(30);
    sweep(&mut world, None);
    assert_eq!(world.remove_all(), [sha(1).to_string(), staged]);
    for upload in [b, c] {
        world.refused(Command::Finish(commit(upload, 1, 10)), Refusal::Gone);
    }
}

#[test]
fn a_sweep_is_bounded_and_says_that_there_is_more() {
    let mut world = World::new();
    for n in 0..450 {
        world.upload(keep(1, n, Some(START + 1), None));
    }
    for n in 1_000..1_450 {
        world.begin(Wanted { abandoned_at: START + 1, ..wanted(2, n, 10) });
    }
    world.now = START + 1;
    for left in [250, 50] {
        sweep(&mut world, Some(START + 1));
        assert_eq!((world.totals().blobs, world.totals().uploads), (left, left));
        world.reopen();
    }
    sweep(&mut world, None);
    assert_eq!((world.totals().blobs, world.totals().uploads), (0, 0));
    assert_eq!(world.remove_all().len(), 900);
}
