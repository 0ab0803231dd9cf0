//! Relays that do not keep to the protocol, and slow ones.

use super::world::World;
use crate::session::End;
use crate::testing::{Events, FakeRelay, Lie, both, events};

/// How it ends with a relay that has 500 events and lies.
fn lied_to(lie: Lie, has_nip: bool) -> (Result<(), String>, World) {
    let mut relay = FakeRelay::with(&events("there", (0..500).map(|n| 1_000 + n)));
    relay.lie = lie;
    let mut world = World::with_filter(&events("here", 900..905), relay, r#"{"since":1000}"#);
    world.plan.up = false;
    world.information.negentropy = Some(has_nip);
    (world.run(), world)
}

#[test]
fn a_liar_ends_the_session_with_a_reason_and_nothing_wrong_is_stored() {
    let wrong = "too many events that are invalid, not asked for";
    for (lie, has_nip, why) in [
        (Lie::OtherEvents, true, wrong),
        (Lie::Forged, true, wrong),
        (Lie::Forged, false, wrong),
        (Lie::Malformed, true, "malformed"),
        (Lie::Endless, true, "no end"),
    ] {
        let (ended, world) = lied_to(lie, has_nip);
        let error = ended.expect_err(&format!("{lie:?}"));
        assert!(error.contains(why), "{lie:?}: {error}");
        assert!(world.here.values().all(|event| event.sig().0 != [0; 64]), "{lie:?}");
    }
}

#[test]
fn forged_events_are_counted_and_the_others_stored() {
    let good = events("good", 1_000..1_050);
    let mut relay = FakeRelay::with(&good);
    relay.lie = Lie::Forged;
    let mut world = World::new(&Events::new(), relay);
    world.plan.up = false;
    // Less than what ends a session.
    world.run().unwrap();
    let counts = world.progress.counts;
    assert_eq!((counts.invalid, counts.outcomes.stored, world.here.len()), (50, 0, 0));
    assert!(counts.has_refused());
}

#[test]
fn events_that_nobody_asked_for_are_not_stored() {
    let (ended, world) = lied_to(Lie::Flood, false);
    // With the pages came a few of them.
    assert_eq!(ended, Ok(()));
    assert!(world.progress.counts.unasked > 0 && world.progress.counts.has_refused());
    let (_, other) = lied_to(Lie::None, false);
    assert_eq!(world.here, other.here);
    // Each answer has one event too many: with small pages there are enough of them to end the session.
    let mut relay = FakeRelay::with(&events("there", (0..500).map(|n| 1_000 + n)));
    (relay.lie, relay.limit_max) = (Lie::Flood, Some(10));
    let mut world = World::new(&Events::new(), relay);
    assert!(world.run().unwrap_err().contains("not asked for"));
}

#[test]
fn events_that_do_not_match_are_not_stored() {
    let (inside, outside) = (events("inside", 1_000..1_020), events("outside", 500..520));
    let mut relay = FakeRelay::with(&both(&inside, &outside));
    relay.lie = Lie::Mismatched;
    let mut world = World::with_filter(&Events::new(), relay, r#"{"since":1000}"#);
    world.plan.up = false;
    world.run().unwrap();
    assert_eq!((&world.here, world.progress.counts.mismatched), (&inside, 20));
}

#[test]
fn what_is_announced_and_not_sent_is_counted_and_not_asked_for_twice() {
    let (ended, world) = lied_to(Lie::Empty, true);
    assert_eq!((ended, world.progress.counts.missing, world.relay.asked_ids), (Ok(()), 500, 500));
    let mut relay = FakeRelay::with(&events("there", (0..3_000).map(|n| 1_000 + n)));
    relay.lie = Lie::Empty;
    let mut world = World::new(&Events::new(), relay);
    assert!(world.run().unwrap_err().contains("does not send the events"), "more than a few are too many");
}

#[test]
fn a_relay_that_stalls_is_connected_to_again() {
    let (ended, world) = lied_to(Lie::Mute, true);
    assert_eq!((ended, world.connections, world.here.len()), (Ok(()), 2, 505));
    let (ended, world) = lied_to(Lie::NoEose, true);
    // Each connection brings what two REQs ask for.
    assert_eq!((ended, world.here.len()), (Ok(()), 505));
    assert!((2..=5).contains(&world.connections), "{}", world.connections);
}

/// Notices are no progress.
#[test]
fn a_relay_that_only_chats_stalls() {
    let mut relay = FakeRelay::with(&events("there", 1_000..1_100));
    (relay.lie, relay.without) = (Lie::Chatter, Some(crate::testing::Without::Silence));
    let mut world = World::new(&Events::new(), relay);
    world.information.negentropy = Some(true);
    assert!(matches!(world.connection(), End::Retry(why) if why.contains("no answer")));
    assert!(world.printed.len() <= 10, "{} lines", world.printed.len());
}

#[test]
fn a_relay_that_refuses_events_is_asked_once_for_each() {
    let mine = events("here", 1_000..1_250);
    for (words, times, sent, refused) in [
        ("blocked: not here", u32::MAX, 0, 250),
        ("invalid: no", 10, 240, 10),
        ("duplicate: have it", 10, 250, 0),
        ("rate-limited: slowly", 120, 250, 0),
    ] {
        let mut relay = FakeRelay::default();
        relay.refuses = Some((words, times));
        let mut world = World::new(&mine, relay);
        world.run().unwrap_or_else(|why| panic!("{words}: {why}"));
        let counts = world.progress.counts;
        assert_eq!((counts.sent, counts.refused), (sent, refused), "{words}");
        // What was refused is not sent again on another connection of the command.
        let came = world.relay.count("EVENT");
        world.connection();
        assert_eq!(world.relay.count("EVENT"), came, "{words}");
    }
}

#[test]
fn a_relay_that_takes_nothing_for_too_long_is_given_up_for_now() {
    let mut relay = FakeRelay::default();
    relay.refuses = Some(("rate-limited: never", u32::MAX));
    let mut world = World::new(&events("here", 1_000..1_010), relay);
    assert!(matches!(world.connection(), End::Retry(why) if why.contains("takes no more")));
}

/// What a relay says is shown on a terminal.
#[test]
fn control_characters_of_a_relay_are_not_shown() {
    let mut relay = FakeRelay::default();
    relay.refuses = Some(("blocked: \u{1b}[2J\u{7}\nno", 1));
    let mut world = World::new(&events("here", 1_000..1_001), relay);
    world.run().unwrap();
    assert!(world.printed[0].ends_with("«blocked: [2Jno»"), "{:?}", world.printed);
}

/// A relay may forget its reconciliations at any time, as one that hibernates does.
#[test]
fn a_reconciliation_that_is_closed_is_begun_again_and_nothing_is_fetched_twice() {
    let there = events("there", (0..2_000).map(|n| 1_000 + n));
    let mut relay = FakeRelay::with(&there);
    relay.forgets_one_in = 3;
    let mut world = World::new(&Events::new(), relay);
    world.run().unwrap();
    assert_eq!((&world.here, world.progress.counts.outcomes.duplicate), (&there, 0));
    assert!(world.connections > 1 && world.relay.count("NEG-OPEN") > 1);
}
