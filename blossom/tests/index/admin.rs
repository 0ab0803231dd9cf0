//! Bans, reports, what is known of a blob, counts.

use relay_blossom::blob::Media;
use relay_blossom::index::{Commit, Refusal, RelayEvent, Totals};
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, commit, event, key, sha, unknown, wanted};

fn ban(n: u32) -> Command {
    Command::Ban { sha256: sha(n), reason: format!("reason {n}") }
}

#[test]
fn a_ban_removes_a_blob_and_holds() {
    let mut world = World::new();
    for owner in 1..4 {
        world.upload(wanted(owner, 1, 10));
    }
    world.check(ban(1), &Outcome::Done);
    assert!(!world.is_live(1));
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    for wanted in [wanted(1, 1, 10), wanted(4, 1, 10)] {
        world.refused(Command::Begin(wanted.clone()), Refusal::Banned);
        world.refused(Command::Check(wanted), Refusal::Banned);
    }
    world.check(Command::Unban(sha(1)), &Outcome::Done);
    world.check(Command::Unban(sha(1)), &Outcome::Missing);
    world.upload(wanted(1, 1, 10));
    assert_eq!(world.list(Some(2), None, 9), []);
}

#[test]
fn a_ban_refuses_uploads_that_are_under_way() {
    let mut world = World::new();
    let (a, _) = world.begin(wanted(1, 1, 10));
    let (b, _) = world.begin(wanted(1, 1, 10));
    world.check(ban(1), &Outcome::Done);
    assert_eq!(world.remove_all(), [sha(1).to_string()], "what they have written until now");
    for upload in [a, b] {
        world.refused(Command::Finish(commit(upload, 1, 10)), Refusal::Banned);
        assert_eq!(world.remove_all(), [sha(1).to_string()], "and since then");
    }
    let (upload, staged) = world.begin(unknown(1, 10));
    world.refused(Command::SetHash { upload, sha256: sha(1), size: 10 }, Refusal::Banned);
    assert_eq!(world.remove_all(), [staged]);
}

#[test]
fn bans_are_listed_newest_first() {
    let mut world = World::new();
    for n in 1..5 {
        world.now += 1;
        world.run(ban(n));
    }
    world.now += 1;
    world.run(Command::Ban { sha256: sha(2), reason: "é".repeat(600) });
    let Outcome::Bans(bans) = world.run(Command::Bans { limit: 3 }) else { panic!() };
    assert_eq!(bans.iter().map(|ban| ban.0).collect::<Vec<_>>(), [sha(2), sha(4), sha(3)]);
    assert_eq!(bans[0].1, "é".repeat(500));
    assert_eq!(bans[1], (sha(4), "reason 4".to_owned(), START + 4));
}

fn report(reporter: u8, at: u64, hashes: &[u32]) -> Command {
    let hashes: Vec<String> = hashes.iter().map(|n| sha(*n).to_string()).collect();
    let tags: Vec<[&str; 3]> = hashes.iter().map(|hash| ["x", hash.as_str(), "malware"]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
    let event = event(reporter, 1984, at, &tags);
    Command::Report(RelayEvent { content: "it bites".to_owned(), ..event })
}

#[test]
fn reports_are_kept_of_blobs_that_are_here() {
    let mut world = World::new();
    world.check(report(1, START, &[1]), &Outcome::Missing);
    world.upload(wanted(1, 1, 10));
    world.upload(wanted(1, 2, 10));
    world.check(report(1, START, &[]), &Outcome::Missing);
    world.check(report(1, START, &[3, 1]), &Outcome::Done);
    world.check(report(2, START, &[1, 2]), &Outcome::Done);
    world.now += 5;
    world.check(report(1, START + 1, &[1]), &Outcome::Done);
    let Outcome::Reports(reports) = world.run(Command::Reports { limit: 9 }) else { panic!() };
    let whose: Vec<_> = reports.iter().map(|report| (report.sha256, report.reporter.clone())).collect();
    assert_eq!(whose, [(sha(1), key(1)), (sha(2), key(2)), (sha(1), key(2))]);
    assert_eq!((reports[0].at, &*reports[0].category), (START + 5, "malware"));
    assert_eq!(reports[0].content, "it bites");
    let Outcome::Reports(reports) = world.run(Command::Reports { limit: 1 }) else { panic!() };
    assert_eq!(reports.len(), 1);
    // A report outlives its blob, for the ban, but not its author's wish to vanish.
    world.run(Command::Delete { sha256: sha(2), owner: None });
    let Outcome::Info(info) = world.run(Command::Stat(sha(2))) else { panic!() };
    assert_eq!((info.blob, info.reports.len()), (None, 1));
    let now = world.now;
    world.run(Command::Apply(event(2, 62, now, &[]), 1));
    world.check(Command::Stat(sha(2)), &Outcome::Missing);
    assert_eq!(world.totals().reports, 1);
}

#[test]
fn reports_of_a_reporter_and_of_a_blob_are_bounded() {
    let mut world = World::new();
    for n in 0..150 {
        world.upload(wanted(1, n, 10));
    }
    let some: Vec<u32> = (0..110).collect();
    world.check(report(1, START, &some), &Outcome::Done);
    assert_eq!(world.totals().reports, 100, "a report names a hundred blobs");
    for n in 140..150 {
        world.check(report(1, START, &[n]), &Outcome::Done);
    }
    assert_eq!(world.totals().reports, 100, "the oldest have gone");
    for reporter in 2..150 {
        world.check(report(reporter, START, &[149]), &Outcome::Done);
    }
    assert_eq!(world.totals().reports, 199);
    let Outcome::Info(info) = world.run(Command::Stat(sha(149))) else { panic!() };
    assert_eq!((info.reports.len(), &info.reports[99].reporter), (100, &key(50)));
}

/// Regression: a hundred requests removed every report of others.
#[test]
fn whoever_reports_most_makes_room_for_others() {
    let mut world = World::new();
    for n in 0..1_000 {
        world.upload(wanted(1, n, 10));
    }
    world.check(report(250, START, &[0]), &Outcome::Done);
    // Each blob has room for the reports of 100 of them.
    for reporter in 0..120 {
        let from = u32::from(reporter) * 7 % 10 * 100;
        world.check(report(reporter, START, &(from..from + 100).collect::<Vec<_>>()), &Outcome::Done);
        assert!(world.totals().reports <= 10_000);
    }
    assert!(world.totals().reports > 9_000);
    let Outcome::Info(info) = world.run(Command::Stat(sha(0))) else { panic!() };
    assert!(info.reports.iter().any(|report| report.reporter == key(250)));
}

#[test]
fn all_that_is_known_of_a_blob_is_told() {
    let mut world = World::new();
    world.check(Command::Stat(sha(1)), &Outcome::Missing);
    world.upload(wanted(3, 8, 5));
    let (upload, _) = world.begin(wanted(1, 1, 10));
    let media = Media {
        original: sha(9),
        dim: Some((640, 480)),
        blurhash: Some("LEHV6nWB2yk8".to_owned()),
        thumbnail: Some(sha(8)),
    };
    let commit =
        Commit { media: Some(media.clone()), mime: "image/jpeg".to_owned(), ..commit(upload, 1, 10) };
    world.run(Command::Finish(commit));
    world.upload(wanted(2, 1, 10));
    let description = event(2, 1063, START, &[&["x", &sha(1).to_string()]]);
    world.run(Command::Apply(description.clone(), 1));
    world.run(report(3, START, &[1]));
    let Outcome::Info(info) = world.run(Command::Stat(sha(1))) else { panic!() };
    let blob = info.blob.unwrap();
    assert_eq!((blob.media, &*blob.mime, blob.size), (Some(media), "image/jpeg", 10));
    assert_eq!((info.owners, info.events), (vec![key(1), key(2)], vec![description.id]));
    assert_eq!((info.reports.len(), info.banned, info.last_access), (1, None, None));
    world.run(ban(1));
    let Outcome::Info(info) = world.run(Command::Stat(sha(1))) else { panic!() };
    assert_eq!((info.blob, info.owners, info.events), (None, vec![], vec![]));
    assert_eq!((info.reports.len(), info.banned.as_deref()), (1, Some("reason 1")));
    let thumbnail = Totals { blobs: 1, bytes: 5, owners: 1, ..Totals::default() };
    let expected = Totals { removals: 1, bans: 1, reports: 1, ..thumbnail };
    assert_eq!(world.totals(), expected);
}
