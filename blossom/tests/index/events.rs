//! Events of the relay: descriptions, deletions, requests to vanish.

use relay_blossom::index::RelayEvent;
use relay_blossom::{Command, Outcome};
use relay_engine::policy::names_relay;
use relay_engine::types::Event;

use crate::world::{START, World, event, sha, wanted};

fn apply(world: &mut World, event: RelayEvent) {
    world.check(Command::Apply(event, 1), &Outcome::Done);
}

/// A description of these blobs.
fn described(author: u8, at: u64, hashes: &[u32]) -> RelayEvent {
    let hashes: Vec<String> = hashes.iter().map(|n| sha(*n).to_string()).collect();
    let tags: Vec<[&str; 2]> = hashes.iter().map(|hash| ["x", hash.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
    event(author, 1063, at, &tags)
}

fn events_of(world: &mut World, n: u32) -> usize {
    match world.run(Command::Stat(sha(n))) {
        Outcome::Info(info) => info.events.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_deletion_of_a_description_lets_its_blobs_go() {
    let mut world = World::new();
    for n in 1..4 {
        world.upload(wanted(1, n, 10));
    }
    world.upload(wanted(2, 2, 10));
    let description = described(1, START, &[1, 2]);
    apply(&mut world, description.clone());
    apply(&mut world, description.clone());
    assert_eq!([1, 2, 3].map(|n| events_of(&mut world, n)), [1, 1, 0]);
    // By somebody else; of another event; by `x` and `a`; of malformed ids.
    apply(&mut world, event(2, 5, START, &[&["e", &description.id]]));
    apply(&mut world, event(1, 5, START, &[&["e", &described(1, START + 1, &[]).id]]));
    let hash = sha(1).to_string();
    apply(&mut world, event(1, 5, START, &[&["x", &hash], &["e", &hash], &["a", &description.id]]));
    apply(&mut world, event(1, 5, START, &[&["e"], &["e", "xyz"], &[], &["e", &description.id[1..]]]));
    assert_eq!(world.list(Some(1), None, 9).len(), 3);
    apply(&mut world, event(1, 5, START, &[&["e", &description.id]]));
    assert_eq!(world.list(Some(1), None, 9), [sha(3)]);
    assert_eq!(world.list(Some(2), None, 9), [sha(2)]);
    assert_eq!(world.remove_all(), [sha(1).to_string()]);
    assert_eq!(world.sqlite.count("blossom_events"), 0);
    // Again, after the blob came again.
    world.upload(wanted(1, 1, 10));
    apply(&mut world, event(1, 5, START, &[&["e", &description.id]]));
    assert!(world.is_live(1));
}

/// Clients edit a description by publishing another one and deleting the first.
#[test]
fn a_blob_stays_while_another_description_names_it() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    world.upload(wanted(2, 1, 10));
    let (old, new) = (described(1, START, &[1]), described(1, START + 1, &[1]));
    for event in [&old, &new, &described(2, START, &[1])] {
        apply(&mut world, event.clone());
    }
    apply(&mut world, event(1, 5, START, &[&["e", &old.id]]));
    assert_eq!(world.list(Some(1), None, 9), [sha(1)]);
    assert_eq!(events_of(&mut world, 1), 2);
    apply(&mut world, event(1, 5, START, &[&["e", &old.id]]));
    assert_eq!(world.list(Some(1), None, 9), [sha(1)]);
    apply(&mut world, event(1, 5, START, &[&["e", &new.id]]));
    assert_eq!(world.list(Some(1), None, 9), []);
    assert_eq!(world.list(Some(2), None, 9), [sha(1)]);
}

#[test]
fn an_author_describes_a_blob_a_hundred_times() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    world.upload(wanted(2, 1, 10));
    for n in 0..150 {
        apply(&mut world, described(1, START + n, &[1]));
    }
    assert_eq!(events_of(&mut world, 1), 100);
    apply(&mut world, described(2, START, &[1]));
    assert_eq!(events_of(&mut world, 1), 101);
}

#[test]
fn a_description_counts_for_blobs_that_its_author_owns() {
    let mut world = World::new();
    world.upload(wanted(1, 1, 10));
    apply(&mut world, described(2, START, &[1, 2]));
    assert_eq!(events_of(&mut world, 1), 0);
    world.upload(wanted(2, 1, 10));
    assert_eq!(events_of(&mut world, 1), 0, "nor later");
    apply(&mut world, described(2, START, &[1, 2]));
    assert_eq!(events_of(&mut world, 1), 1);
    apply(&mut world, event(2, 1063, START, &[&["x"], &["x", "xyz"], &["url", "https://example.com"]]));
    // It ends with the ownership.
    world.delete(2, 1);
    assert_eq!(events_of(&mut world, 1), 0);
    apply(&mut world, described(1, START, &[1]));
    world.run(Command::Delete { sha256: sha(1), owner: None });
    assert_eq!(world.sqlite.count("blossom_events"), 0);
    // No event describes more than 16.
    for n in 0..20 {
        world.upload(wanted(1, n, 10));
    }
    apply(&mut world, described(1, START, &(0..20).collect::<Vec<_>>()));
    assert_eq!(world.sqlite.count("blossom_events"), 16);
}

#[test]
fn who_vanishes_owns_nothing_that_was_theirs_before() {
    let mut world = World::new();
    for n in 0..3 {
        world.now = START + 10 * u64::from(n);
        world.upload(wanted(1, n, 10));
        world.upload(wanted(2, n, 10));
        world.upload(wanted(2, 10 + n, 10));
        world.upload(wanted(1, 10 + n, 10));
    }
    world.upload(wanted(1, 20, 10));
    apply(&mut world, event(1, 62, START + 10, &[&["relay", "ALL_RELAYS"]]));
    assert_eq!(world.list(Some(1), None, 9), [sha(20), sha(12), sha(2)]);
    assert_eq!(world.list(Some(2), None, 9).len(), 6);
    // An old request again ends nothing that is newer.
    world.upload(wanted(1, 0, 10));
    apply(&mut world, event(1, 62, START + 10, &[]));
    assert_eq!(world.list(Some(1), None, 9).len(), 4);
    world.now += 1;
    let now = world.now;
    apply(&mut world, event(1, 62, now, &[]));
    assert_eq!(world.list(Some(1), None, 9), []);
    assert_eq!(world.remove_all(), [sha(20).to_string()]);
    world.check(Command::Sweep, &Outcome::Swept(None));
}

#[test]
fn a_request_to_vanish_goes_on_in_sweeps() {
    let mut world = World::new();
    for n in 0..900 {
        world.upload(wanted(if n % 2 == 0 { 1 } else { 2 }, n, 10));
        world.upload(wanted(1, n, 10));
    }
    world.now += 1;
    apply(&mut world, event(1, 62, START, &[]));
    assert_eq!(world.list(Some(1), None, 1_000).len(), 700);
    // What they upload meanwhile is theirs, also if it was theirs before.
    let again: Vec<_> = world.list(Some(1), None, 1_000);
    let (first, last) = (again[0], again[699]);
    for sha256 in [first, last] {
        let again = relay_blossom::index::Wanted { sha256: Some(sha256), ..wanted(1, 0, 10) };
        world.upload(again);
    }
    world.upload(wanted(1, 1_000, 10));
    // Another one who vanishes.
    for n in 2_000..2_250 {
        world.upload(wanted(3, n, 10));
    }
    let now = world.now;
    apply(&mut world, event(3, 62, now, &[]));
    let mut sweeps = 0;
    while world.run(Command::Sweep) != Outcome::Swept(None) {
        world.reopen();
        sweeps += 1;
        assert!(sweeps < 10);
    }
    assert_eq!(sweeps, 3);
    let mut left = world.list(Some(1), None, 1_000);
    left.sort_unstable();
    let mut expected = vec![first, last, sha(1_000)];
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert_eq!(world.list(Some(3), None, 9), []);
    assert_eq!(world.list(Some(2), None, 1_000).len(), 450);
    // Theirs alone: 450, less those that they uploaded again; and of the other one 250.
    let removed = world.remove_all().len();
    let kept = [first, last].into_iter().filter(|sha256| !world.list(Some(2), None, 1_000).contains(sha256));
    assert_eq!(removed, 450 + 250 - kept.count());
}

#[test]
fn only_events_that_mean_something_to_blobs_are_applied() {
    let own = Some("wss://relay.example.com");
    let check = |kind: u16, relay: &str, expected: bool| {
        let tags = format!(r#"[["relay","{relay}"],["x","a\"b",""]]"#);
        let json = format!(
            r#"{{"id":"{0}","pubkey":"{0}","created_at":{START},"kind":{kind},"tags":{tags},"content":"c","sig":"{0}{0}"}}"#,
            "ab".repeat(32)
        );
        let event = Event::from_canonical(json.as_bytes().into());
        let found = RelayEvent::of_relay(&event, |event| names_relay(event, own));
        let tags =
            vec![vec!["relay".to_owned(), relay.to_owned()], vec!["x".into(), "a\"b".into(), String::new()]];
        let expected = expected.then(|| RelayEvent {
            id: "ab".repeat(32),
            pubkey: "ab".repeat(32),
            kind,
            created_at: START,
            tags,
            content: "c".to_owned(),
        });
        assert_eq!(found, expected, "{kind} {relay}");
    };
    for kind in [5, 1063] {
        check(kind, "wss://other.example.com", true);
    }
    check(62, "wss://relay.example.com", true);
    check(62, "ALL_RELAYS", true);
    check(62, "wss://other.example.com", false);
    for kind in [0, 1, 1984, 10063] {
        check(kind, "ALL_RELAYS", false);
    }
}

#[test]
fn the_position_moves_with_its_event() {
    let mut world = World::new();
    world.check(Command::Position, &Outcome::Position(None));
    world.check(Command::Apply(described(1, START, &[1]), 7), &Outcome::Done);
    world.check(Command::Position, &Outcome::Position(Some(7)));
    world.check(Command::SetPosition(9), &Outcome::Done);
    world.reopen();
    world.check(Command::Position, &Outcome::Position(Some(9)));
    // The event and its position are stored together or not at all.
    world.upload(wanted(1, 1, 10));
    for n in 1.. {
        world.sqlite.fail_at(n);
        if world.index.run(START, Command::Apply(described(1, START, &[1]), 10)).is_ok() {
            assert!(n > 4, "{n}");
            break;
        }
        world.sqlite.fail_with(None);
        world.check(Command::Position, &Outcome::Position(Some(9)));
        assert_eq!(world.sqlite.count("blossom_events"), 0);
    }
}
