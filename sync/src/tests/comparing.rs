//! What NIP-77 finds is copied, and nothing else.

use super::world::World;
use crate::information::Information;
use crate::session::Support;
use crate::testing::{Events, FakeRelay, Random, both, events};

/// Of events, those whose number `wants`.
fn some(events: &Events, mut wants: impl FnMut(usize) -> bool) -> Events {
    let chosen = events.iter().enumerate().filter(|(number, _)| wants(*number));
    chosen.map(|(_, (id, event))| (*id, event.clone())).collect()
}

#[test]
fn what_one_side_lacks_is_copied_and_nothing_else() {
    let all = events("x", (0..700).map(|n| 1_000 + n / 3));
    let none = Events::new();
    let cases: [(&str, Events, Events); 7] = [
        ("nothing differs", all.clone(), all.clone()),
        ("one is only here", all.clone(), some(&all, |n| n != 350)),
        ("one is only there", some(&all, |n| n != 350), all.clone()),
        ("half", some(&all, |n| n % 2 == 0), all.clone()),
        ("each has a third alone", some(&all, |n| n % 3 != 0), some(&all, |n| n % 3 != 1)),
        ("all are there", none.clone(), all.clone()),
        ("all are here", all.clone(), none),
    ];
    for (name, here, there) in cases {
        for (down, up) in [(true, true), (true, false), (false, true)] {
            for dry_run in [false, true] {
                for has_nip in [true, false] {
                    let case = format!("{name}, down {down}, up {up}, dry run {dry_run}, NIP-77 {has_nip}");
                    let mut world = World::new(&here, FakeRelay::with(&there));
                    (world.plan.down, world.plan.up, world.plan.dry_run) = (down, up, dry_run);
                    world.information.negentropy = Some(has_nip);
                    world.run().expect(&case);
                    let need = there.keys().filter(|id| !here.contains_key(id)).count() as u64;
                    let have = here.keys().filter(|id| !there.contains_key(id)).count() as u64;
                    let (need, have) = (if down { need } else { 0 }, if up { have } else { 0 });
                    let counts = world.progress.counts;
                    let union = both(&here, &there);
                    if dry_run {
                        assert_eq!((counts.need, counts.have), (need, have), "{case}");
                        assert_eq!((counts.outcomes.stored, counts.sent), (0, 0), "{case}");
                        assert_eq!((&world.here, &world.relay.events), (&here, &there), "{case}");
                    } else {
                        assert_eq!((counts.outcomes.stored, counts.sent), (need, have), "{case}");
                        assert_eq!(&world.here, if down { &union } else { &here }, "{case}");
                        assert_eq!(&world.relay.events, if up { &union } else { &there }, "{case}");
                    }
                    assert!(!counts.has_refused() && counts.outcomes.duplicate == 0, "{case}: {counts:?}");
                    assert_eq!(world.relay.count("NEG-OPEN"), usize::from(has_nip), "{case}");
                    if has_nip {
                        let fetched = if dry_run { 0 } else { need };
                        assert_eq!(world.relay.sent as u64, fetched, "{case}: what is here is not fetched");
                    }
                }
            }
        }
    }
}

#[test]
fn one_event_of_thousands_costs_a_few_messages() {
    let all = events("x", (0..3_000).map(|n| 1_000 + n));
    let mut world = World::new(&some(&all, |n| n != 1_234), FakeRelay::with(&all));
    world.run().unwrap();
    assert_eq!(world.here, all);
    assert!(world.progress.counts.rounds <= 4, "{:?}", world.progress.counts);
    assert_eq!((world.relay.count("REQ"), world.relay.sent), (1, 1));
    assert!(world.bytes < 12_000, "{} bytes", world.bytes);
}

#[test]
fn a_connection_may_be_cut_anywhere() {
    let all = events("x", (0..600).map(|n| 1_000 + n / 4));
    for seed in 1..=60 {
        for has_nip in [true, false] {
            let mut choices = Random(seed);
            let here = some(&all, |_| choices.below(10) > 2);
            let mut relay = FakeRelay::with(&some(&all, |_| choices.below(10) > 2));
            relay.limit_max = Some(7 + choices.below(60) as usize);
            relay.set_max = (choices.below(2) == 0).then_some(100);
            let union = both(&here, &relay.events);
            let mut world = World::new(&here, relay);
            world.information.negentropy = Some(has_nip);
            (world.random, world.cut_one_in) = (Random(seed * 7_919), 20 + choices.below(300));
            let ended = world.run();
            let case = format!("seed {seed}, NIP-77 {has_nip}, {} connections", world.connections);
            if let Err(why) = &ended {
                // Cut so often that no page comes whole: what has come is kept all the same.
                assert!(why.contains("again"), "{case}: {why}");
                world.cut_one_in = 0;
                assert_eq!(world.run(), Ok(()), "{case}");
            }
            assert!(world.here == union && world.relay.events == union, "{case}");
            let counts = world.progress.counts;
            assert_eq!(
                counts.outcomes.stored as usize,
                union.len() - here.len(),
                "{case}: each is stored once"
            );
            assert!(!counts.has_refused(), "{case}: {counts:?}");
        }
    }
}

/// A relay that reconciles a hundred events at most is asked for parts of the time, not for all of its events.
#[test]
fn a_set_that_is_too_large_is_halved() {
    let all = events("x", (0..1_000).map(|n| 1_700_000_000 + n * 86_400));
    let here = some(&all, |n| n % 100 != 0);
    let mut relay = FakeRelay::with(&all);
    relay.set_max = Some(100);
    let mut world = World::new(&here, relay);
    world.run().unwrap();
    assert_eq!((&world.here, world.relay.sent), (&all, 10));
    assert!(world.relay.count("NEG-OPEN") < 50, "{} NEG-OPEN", world.relay.count("NEG-OPEN"));
    // Without events here that tell where those of the other relay are.
    let mut relay = FakeRelay::with(&all);
    relay.set_max = Some(100);
    let mut world = World::new(&Events::new(), relay);
    world.run().unwrap();
    assert_eq!((&world.here, world.relay.sent), (&all, 1_000));
    assert!(world.relay.count("NEG-OPEN") < 100, "{} NEG-OPEN", world.relay.count("NEG-OPEN"));
}

#[test]
fn a_second_that_is_too_large_is_read_in_pages() {
    let all = both(&events("many", [5_000; 300]), &events("few", 4_000..4_050));
    let mut relay = FakeRelay::with(&all);
    (relay.set_max, relay.limit_max) = (Some(100), Some(400));
    let mut world = World::new(&Events::new(), relay);
    world.run().unwrap();
    assert_eq!(world.here, all);
    assert!(world.progress.counts.rounds > 0 && world.progress.counts.pages > 0);
    assert_eq!(world.progress.negentropy, Support::Yes);
}

/// A relay may refuse whoever asks, with the word for too large a set.
#[test]
fn a_relay_that_blocks_every_reconciliation_is_read_in_pages() {
    let all = events("x", 1_000..1_020);
    let mut relay = FakeRelay::with(&all);
    relay.set_max = Some(0);
    relay.events.extend(events("all of the time", (0..4_000).map(|n| n * 450_000)));
    let want = relay.events.clone();
    let mut world = World::new(&Events::new(), relay);
    world.run().unwrap();
    assert_eq!(world.here, want);
}

#[test]
fn an_answer_that_is_cut_is_asked_for_again() {
    let all = events("x", 1_000..1_600);
    let mut relay = FakeRelay::with(&all);
    relay.limit_max = Some(40);
    let mut world = World::new(&Events::new(), relay);
    world.run().unwrap();
    assert_eq!((&world.here, world.relay.sent), (&all, 600));
    // Known from NIP-11, it is not asked for more.
    let mut relay = FakeRelay::with(&all);
    relay.limit_max = Some(40);
    let mut world = World::new(&Events::new(), relay);
    world.information = Information { limit_max: Some(40), ..Information::default() };
    world.run().unwrap();
    assert_eq!((&world.here, world.relay.sent, world.relay.asked_ids), (&all, 600, 600));
}

#[test]
fn only_events_of_the_filter_are_compared() {
    let old = events("old", 1_000..1_050);
    let new = events("new", 2_000..2_050);
    let all = both(&old, &new);
    for has_nip in [true, false] {
        let mut world =
            World::with_filter(&old, FakeRelay::with(&all), r#"{"kinds":[1],"since":2020,"until":2029}"#);
        world.information.negentropy = Some(has_nip);
        world.run().unwrap();
        assert_eq!((world.progress.counts.outcomes.stored, world.progress.counts.sent), (10, 0));
        let mut world = World::with_filter(&all, FakeRelay::default(), r#"{"until":1009}"#);
        world.information.negentropy = Some(has_nip);
        world.run().unwrap();
        assert_eq!((world.progress.counts.sent, world.relay.events.len()), (10, 10));
    }
}

#[test]
fn a_relay_that_asks_for_authentication_gets_it_if_there_is_a_key() {
    let (mine, others) = (events("here", 1_000..1_020), events("there", 1_000..1_020));
    for has_nip in [true, false] {
        let mut relay = FakeRelay::with(&others);
        relay.wants_auth = true;
        let mut world = World::new(&mine, relay);
        world.information.negentropy = Some(has_nip);
        let error = world.run().unwrap_err();
        assert!(error.contains("--key"), "{error}");
        world.plan.has_key = true;
        world.run().unwrap();
        assert!(world.here == both(&mine, &others) && world.relay.events == world.here);
    }
}
