//! Relays without NIP-77.

use super::world::World;
use crate::session::Support;
use crate::testing::{Events, FakeRelay, Without, both, events};

#[test]
fn whatever_a_relay_without_nip_77_answers_it_is_read_in_pages() {
    let (mine, others) = (events("here", 1_000..1_030), events("there", 1_010..1_700));
    for without in [
        Without::Notice("ERROR: bad msg: negentropy disabled"),
        Without::Notice("could not parse command"),
        Without::Notice("unknown message type NEG-OPEN"),
        Without::Notice("Command unrecognized"),
        Without::NegErr("unsupported: there is no reconciliation here"),
        Without::NegErr("no"),
        Without::Closed("error: unknown"),
        Without::Silence,
        Without::HangUp,
    ] {
        let mut relay = FakeRelay::with(&others);
        relay.without = Some(without);
        let mut world = World::new(&mine, relay);
        world.run().unwrap_or_else(|why| panic!("{without:?}: {why}"));
        let all = both(&mine, &others);
        assert!(world.here == all && world.relay.events == all, "{without:?}");
        assert_eq!(world.progress.negentropy, Support::No, "{without:?}");
        assert!(
            world.printed.iter().any(|words| words.contains("read in pages")),
            "{without:?}: {:?}",
            world.printed
        );
        assert!(world.relay.count("NEG-OPEN") <= 2, "{without:?}");
    }
}

/// NIP-11 may promise what the relay does not do.
#[test]
fn a_relay_that_promises_nip_77_and_does_not_answer_is_read_in_pages_in_the_end() {
    let others = events("there", 1_000..1_030);
    for without in [Without::Silence, Without::HangUp] {
        let mut relay = FakeRelay::with(&others);
        relay.without = Some(without);
        let mut world = World::new(&Events::new(), relay);
        world.information.negentropy = Some(true);
        world.run().unwrap();
        assert_eq!((&world.here, world.relay.count("NEG-OPEN")), (&others, 2));
    }
}

/// Pages end anywhere in a second.
#[test]
fn seconds_at_the_borders_of_pages_are_read_whole() {
    for limit_max in [5, 8, 13, 100] {
        for per_second in [1, 2, 3, 4] {
            let mine = events("here", (0..60).map(|n| 1_000 + n / per_second));
            let others = events("there", (0..200).map(|n| 990 + n / per_second));
            let mut relay = FakeRelay::with(&others);
            relay.limit_max = Some(limit_max);
            let mut world = World::new(&mine, relay);
            world.information.negentropy = Some(false);
            let case = format!("pages of {limit_max}, {per_second} a second");
            world.run().unwrap();
            let all = both(&mine, &others);
            assert!(world.here == all && world.relay.events == all, "{case}");
            let counts = world.progress.counts;
            assert_eq!((counts.outcomes.stored, counts.sent), (200, 60), "{case}");
            assert!(!counts.has_refused(), "{case}: {counts:?}");
        }
    }
}

/// Events beyond a page's limit within one second cannot be fetched: the user is told so.
#[test]
fn a_second_with_more_events_than_a_page_is_told() {
    for older in [true, false] {
        let many = events("many", [2_000; 30]);
        let newer = events("newer", 2_001..2_005);
        let rest = if older { events("older", 1_000..1_010) } else { Events::new() };
        let all = both(&both(&many, &newer), &rest);
        let mut relay = FakeRelay::with(&all);
        relay.limit_max = Some(20);
        let mut world = World::new(&Events::new(), relay);
        world.information.negentropy = Some(false);
        world.run().unwrap();
        let counts = world.progress.counts;
        assert_eq!(counts.incomplete_seconds, 1, "{counts:?}");
        assert_eq!(world.here.len(), 20 + newer.len() + rest.len());
        // The same where the largest page is known.
        let mut relay = FakeRelay::with(&all);
        relay.limit_max = Some(20);
        let mut world = World::new(&Events::new(), relay);
        (world.information.negentropy, world.information.limit_max) = (Some(false), Some(20));
        world.run().unwrap();
        assert_eq!(world.progress.counts.incomplete_seconds, 1);
        assert!(world.progress.counts.has_refused());
    }
    // One second is all that there is: nobody can tell, unless it is known that the relay would have given more.
    for (limit_max, is_told) in [(None, true), (Some(100), false)] {
        let mut world = World::new(&Events::new(), FakeRelay::with(&events("all", [2_000; 25])));
        (world.information.negentropy, world.information.limit_max) = (Some(false), limit_max);
        world.run().unwrap();
        assert_eq!((world.here.len(), world.progress.counts.incomplete_seconds), (25, u64::from(is_told)));
    }
}

#[test]
fn a_page_without_an_end_is_read_again_and_then_given_up() {
    let others = events("there", 1_000..1_100);
    let mut relay = FakeRelay::with(&others);
    relay.lie = super::super::testing::Lie::NoEose;
    let mut world = World::new(&Events::new(), relay);
    world.information.negentropy = Some(false);
    let steps = |world: &World| world.progress.steps;
    world.connection();
    let after_one = steps(&world);
    world.connection();
    assert_eq!(steps(&world), after_one, "the second connection gets no further, which is counted");
    assert_eq!(world.here, others, "what has come is kept");
}
