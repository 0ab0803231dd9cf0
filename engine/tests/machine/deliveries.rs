//! A live event that very many subscriptions want is delivered in steps, between which others are served.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Progress, Relay};
use relay_engine::store::{MemoryBackend, Seq};
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{Filter, Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
/// What may wait; see `relay/deliveries.rs`.
const EVENTS_MAX: u64 = 1_024;
const BYTES_MAX: u64 = 4 << 20;

type Machine = Relay<Rc<MemoryBackend>>;

fn relay_with(config: Config) -> Machine {
    Relay::new(Arc::new(config), Rc::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn relay_with_step_cost(step_cost_max: usize) -> Machine {
    let (outbox_pause_bytes, outbox_bytes_max) = (64 << 20, 64 << 20);
    let limits = Limits { step_cost_max, outbox_pause_bytes, outbox_bytes_max, ..Limits::default() };
    relay_with(Config { limits, ..Config::default() })
}

fn connect(relay: &mut Machine) -> ConnId {
    relay.connect(NOW, ClientInfo::default()).expect("a connection is free")
}

fn send(relay: &mut Machine, conn: ConnId, text: &str) {
    relay.handle_text(NOW, conn, text.as_bytes());
}

/// Connections with `subs` live subscriptions each to notes and to ephemeral events.
fn readers(relay: &mut Machine, conns: usize, subs: usize) -> Vec<ConnId> {
    let subscribe = |conn: ConnId, relay: &mut Machine| {
        for sub in 0..subs {
            send(relay, conn, &format!(r#"["REQ","{sub}",{{"kinds":[1,20001]}}]"#));
            while relay.work(NOW) {}
        }
        assert_eq!(drained(relay, conn).len(), subs, "an EOSE each");
    };
    let conns: Vec<_> = (0..conns).map(|_| connect(relay)).collect();
    conns.iter().for_each(|conn| subscribe(*conn, relay));
    conns
}

fn note(content: &str) -> Signed {
    event(&key(1)).at(NOW.seconds()).content(content).sign()
}

fn ephemeral(content: &str) -> Signed {
    event(&key(1)).kind(20_001).at(NOW.seconds()).content(content).sign()
}

/// Publishes events, each in a commit of its own; they are delivered as far as that is done at once.
fn publish(relay: &mut Machine, from: ConnId, events: &[Signed]) {
    for event in events {
        send(relay, from, &format!(r#"["EVENT",{}]"#, event.json()));
        settle(relay, NOW);
    }
}

fn take_steps(relay: &mut Machine, steps: usize) {
    for _ in 0..steps {
        relay.work(NOW);
    }
}

fn is_waiting(relay: &Machine) -> bool {
    relay.metrics().deliveries_waiting > 0
}

/// The contents of the events that each subscription of a connection was sent, in order.
fn received(relay: &mut Machine, conn: ConnId) -> BTreeMap<String, Vec<String>> {
    let mut by_sub = BTreeMap::<String, Vec<String>>::new();
    for frame in drained(relay, conn) {
        let frame: serde_json::Value = serde_json::from_str(&frame).expect("JSON");
        if frame[0] == "EVENT" {
            let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
            by_sub.entry(text(&frame[1])).or_default().push(text(&frame[2]["content"]));
        }
    }
    by_sub
}

/// Checks that each of `subs` subscriptions of each connection was sent these contents, once and in this order.
fn check_received(relay: &mut Machine, conns: &[ConnId], subs: usize, contents: &[&str]) {
    for conn in conns {
        let received = received(relay, *conn);
        assert_eq!(received.len(), subs);
        received.into_iter().for_each(|(sub, got)| assert_eq!(got, contents, "subscription {sub}"));
    }
}

/// Regression: this was one turn with a cost of 20,000, during which nobody else was served.
#[test]
fn an_event_to_ten_thousand_subscriptions_takes_many_steps() {
    // On the edge a frame costs five more.
    for (frame_cost, cost_max) in [(0, 2_000), (5, 250)] {
        let limits = Limits { step_cost_max: cost_max, ..Limits::default() };
        let mut relay = relay_with(Config { limits, frame_cost, ..Config::default() });
        let readers = readers(&mut relay, 40, 250);
        let publisher = connect(&mut relay);
        let (mut sent, mut steps) = (relay.metrics().sent_event, 0);
        let sent_max = (cost_max / (1 + frame_cost) + 1) as u64;
        publish(&mut relay, publisher, &[note("a"), note("b")]);
        while is_waiting(&relay) {
            let now_sent = relay.metrics().sent_event;
            assert!(now_sent - sent <= sent_max, "{} events in a step", now_sent - sent);
            (sent, steps) = (now_sent, steps + 1);
            assert!(relay.has_work(), "a host must not rest meanwhile");
            relay.work(NOW);
        }
        assert!(steps >= 20_000 / sent_max && steps <= 2 + 40_000 / sent_max, "{steps} steps");
        assert!(!relay.has_work());
        assert_eq!(relay.metrics().deliveries_deferred, 2);
        check_received(&mut relay, &readers, 250, &["a", "b"]);
    }
}

#[test]
fn what_fits_into_a_step_is_delivered_at_once() {
    let mut relay = relay_with_step_cost(2_000);
    let readers = readers(&mut relay, 9, 100);
    let publisher = connect(&mut relay);
    publish(&mut relay, publisher, &[note("a"), ephemeral("b")]);
    assert!(!relay.has_work());
    assert_eq!(relay.metrics().deliveries_deferred, 0);
    check_received(&mut relay, &readers, 100, &["a", "b"]);
}

/// Many events of which each fits into a step: those of a batch share one.
#[test]
fn the_events_of_a_batch_share_a_step() {
    for kind in [1, 20_001] {
        let mut relay = relay_with_step_cost(2_000);
        let readers = readers(&mut relay, 4, 200);
        let publisher = connect(&mut relay);
        let before = relay.metrics().sent_event;
        let contents: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        for content in &contents {
            let event = event(&key(1)).kind(kind).at(NOW.seconds()).content(content).sign();
            send(&mut relay, publisher, &format!(r#"["EVENT",{}]"#, event.json()));
        }
        settle(&mut relay, NOW);
        assert!(relay.metrics().sent_event - before <= 2_000);
        assert_eq!(relay.metrics().deliveries_waiting, 19, "one has been delivered");
        while relay.work(NOW) {}
        let contents: Vec<_> = contents.iter().map(String::as_str).collect();
        check_received(&mut relay, &readers, 200, &contents);
    }
}

#[test]
fn others_are_answered_between_the_steps() {
    let mut relay = relay_with_step_cost(100);
    let readers = readers(&mut relay, 20, 100);
    let (publisher, other) = (connect(&mut relay), connect(&mut relay));
    let first = note("a");
    publish(&mut relay, publisher, std::slice::from_ref(&first));
    assert!(is_waiting(&relay));
    // A REQ takes every other step.
    send(&mut relay, other, &format!(r#"["REQ","x",{{"ids":["{}"]}}]"#, first.id));
    relay.work(NOW);
    relay.work(NOW);
    let frames = drained(&mut relay, other);
    assert!(frames.len() == 2 && frames[1].starts_with(r#"["EOSE","x""#), "{frames:?}");
    assert!(is_waiting(&relay));
    // An EVENT takes none.
    let second = note("b");
    publish(&mut relay, other, std::slice::from_ref(&second));
    assert_eq!(drained(&mut relay, other), [format!(r#"["OK","{}",true,""]"#, second.id)]);
    assert!(is_waiting(&relay));
    while relay.work(NOW) {}
    check_received(&mut relay, &readers, 100, &["a", "b"]);
}

/// Requests without end do not stop a delivery.
#[test]
fn deliveries_take_every_other_step() {
    let mut relay = relay_with_step_cost(100);
    let readers = readers(&mut relay, 10, 100);
    let (publisher, other) = (connect(&mut relay), connect(&mut relay));
    publish(&mut relay, publisher, &[note("a")]);
    let mut steps = 0;
    while is_waiting(&relay) {
        send(&mut relay, other, &format!(r#"["REQ","{}",{{"limit":1}}]"#, steps % 10));
        relay.work(NOW);
        steps += 1;
    }
    assert!((18..30).contains(&steps), "{steps} steps of 100 for a cost of 1,000 and as many requests");
    check_received(&mut relay, &readers, 100, &["a"]);
}

#[test]
fn stored_and_ephemeral_events_keep_their_order() {
    let mut relay = relay_with_step_cost(7);
    let readers = readers(&mut relay, 3, 10);
    let publisher = connect(&mut relay);
    publish(&mut relay, publisher, &[note("a"), ephemeral("b"), note("c"), ephemeral("d"), note("e")]);
    assert!(is_waiting(&relay));
    while relay.work(NOW) {}
    check_received(&mut relay, &readers, 10, &["a", "b", "c", "d", "e"]);
}

/// An index slot may have another owner before the event's turn comes.
#[test]
fn subscriptions_that_end_in_between_get_nothing_and_their_successors_neither() {
    for event in [note("a"), ephemeral("a")] {
        let mut relay = relay_with_step_cost(5);
        let readers = readers(&mut relay, 10, 10);
        let publisher = connect(&mut relay);
        publish(&mut relay, publisher, std::slice::from_ref(&event));
        relay.work(NOW);
        relay.work(NOW);
        let before = relay.metrics().sent_event;
        assert!((1..100).contains(&before), "some have been served");
        let served: Vec<_> = readers.iter().map(|conn| received(&mut relay, *conn)).collect();
        for (n, conn) in readers.iter().enumerate() {
            if n % 2 == 0 {
                relay.disconnect(*conn);
            } else {
                (0..10).for_each(|sub| send(&mut relay, *conn, &format!(r#"["CLOSE","{sub}"]"#)));
            }
        }
        // The index frees the slots.
        take_steps(&mut relay, 6);
        assert!(is_waiting(&relay));
        // Each on a connection of its own: the second REQ of one would wait for the first.
        let next: Vec<_> = (0..100).map(|_| connect(&mut relay)).collect();
        next.iter().for_each(|conn| send(&mut relay, *conn, r#"["REQ","x",{"kinds":[7]}]"#));
        while relay.work(NOW) {}
        assert!(!is_waiting(&relay));
        assert_eq!(relay.metrics().sent_event, before);
        assert!(next.iter().all(|conn| drained(&mut relay, *conn) == [r#"["EOSE","x"]"#]));
        assert!(readers.iter().all(|conn| received(&mut relay, *conn).is_empty()));
        assert!(served.iter().flat_map(BTreeMap::values).all(|got| got == &["a"]));
    }
}

/// One that subscribes before the event's turn has come finds it in the store.
#[test]
fn a_subscription_that_begins_in_between_gets_the_event_once() {
    let mut relay = relay_with_step_cost(10);
    let old = readers(&mut relay, 5, 10);
    let publisher = connect(&mut relay);
    // The first is being delivered, the second waits behind it and has not been matched.
    publish(&mut relay, publisher, &[note("a"), note("b")]);
    let new = connect(&mut relay);
    send(&mut relay, new, r#"["REQ","x",{"kinds":[1]}]"#);
    while relay.work(NOW) {}
    let mut got = received(&mut relay, new).remove("x").expect("it has a stored answer");
    got.sort();
    assert_eq!(got, ["a", "b"]);
    publish(&mut relay, publisher, &[note("c")]);
    while relay.work(NOW) {}
    assert_eq!(received(&mut relay, new)["x"], ["c"]);
    check_received(&mut relay, &old, 10, &["a", "b", "c"]);
}

/// A reader that is slow when its turn comes reads the event back from the store, and what waits behind it too.
#[test]
fn a_subscription_that_falls_behind_in_between_gets_the_event_once() {
    let mut relay = relay_with_step_cost(10);
    let readers = readers(&mut relay, 5, 10);
    let publisher = connect(&mut relay);
    publish(&mut relay, publisher, &[note("a"), note("b")]);
    for steps in [0, 3, 5, 8, 13] {
        readers.iter().for_each(|conn| relay.handle_backlog(*conn, 1 << 30));
        take_steps(&mut relay, steps);
        readers.iter().for_each(|conn| relay.handle_backlog(*conn, 0));
        take_steps(&mut relay, steps);
    }
    assert!(relay.metrics().subscriptions_lagged > 0);
    publish(&mut relay, publisher, &[note("c")]);
    while relay.work(NOW) {}
    check_received(&mut relay, &readers, 10, &["a", "b", "c"]);
}

/// A consumer may confirm a position only when it has been given everything up to there.
#[test]
fn the_position_of_a_stream_is_not_ahead_of_what_it_was_given() {
    let mut relay = relay_with_step_cost(3);
    readers(&mut relay, 5, 4);
    let streams: Vec<_> = (0..10)
        .map(|_| relay.open_stream(&[Filter::default()], None).expect("memory does not fail"))
        .collect();
    let publisher = connect(&mut relay);
    publish(&mut relay, publisher, &[note("a"), note("b"), note("c")]);
    let mut given = vec![Vec::new(); streams.len()];
    loop {
        for (stream, given) in streams.iter().zip(&mut given) {
            given.extend(std::iter::from_fn(|| relay.poll_stream(*stream)).map(|(seq, _)| seq));
            let last = given.last().copied().flatten().unwrap_or(Seq(0));
            assert_eq!(relay.stream_position(*stream), Some(last));
        }
        if !relay.work(NOW) && !relay.has_work() {
            break;
        }
    }
    let all: Vec<_> = (1..=3).map(|seq| Some(Seq(seq))).collect();
    assert!(given.iter().all(|given| *given == all), "{given:?}");
}

/// A delivery that has waited until the event is expired is not made.
#[test]
fn an_event_that_expires_in_between_is_not_sent_any_more() {
    let mut relay = relay_with_step_cost(10);
    let readers = readers(&mut relay, 3, 10);
    let publisher = connect(&mut relay);
    let expires = (NOW.seconds() + 5).to_string();
    let expiring = event(&key(1)).at(NOW.seconds()).content("a").tag(["expiration", &expires]).sign();
    publish(&mut relay, publisher, &[expiring, note("b")]);
    assert!(is_waiting(&relay));
    while relay.work(NOW.plus_millis(6_000)) {}
    let received = readers.iter().flat_map(|conn| received(&mut relay, *conn).into_values());
    assert!(received.map(|got| got.concat()).all(|got| got == "b" || got == "ab"));
    assert_eq!(relay.metrics().sent_event, 30);
}

/// Beyond 1,024 events or 4 MiB that wait, those in front are delivered at once.
#[test]
fn what_waits_is_bounded_and_nothing_is_lost() {
    for (count, bytes) in [(1_200, 0), (60, 100_000)] {
        let mut relay = relay_with_step_cost(1);
        let readers = readers(&mut relay, 1, 5);
        let publisher = connect(&mut relay);
        let contents: Vec<_> = (0..count).map(|n| format!("{n}{}", "x".repeat(bytes))).collect();
        let mut most = 0;
        for (n, content) in contents.iter().enumerate() {
            let event = if n % 2 == 0 { note(content) } else { ephemeral(content) };
            publish(&mut relay, publisher, &[event]);
            drained(&mut relay, publisher);
            let waiting = relay.metrics().deliveries_waiting;
            assert!(waiting <= EVENTS_MAX && waiting * bytes as u64 <= BYTES_MAX);
            most = most.max(waiting);
        }
        assert!(most == EVENTS_MAX || bytes > 0 && most == BYTES_MAX / (bytes as u64 + 300), "{most}");
        while relay.work(NOW) {}
        let received = received(&mut relay, readers[0]);
        assert_eq!(received.len(), 5);
        assert!(received.into_values().all(|got| got == contents));
    }
}

/// The machine is lost while an event is being delivered: whoever has not been sent it reads it from the store.
#[test]
fn a_host_that_loses_its_memory_meanwhile_loses_no_stored_event() {
    let mut relay = relay_with_step_cost(10);
    let readers = readers(&mut relay, 5, 10);
    let publisher = connect(&mut relay);
    publish(&mut relay, publisher, &[note("a")]);
    while relay.work(NOW) {}
    check_received(&mut relay, &readers, 10, &["a"]);
    assert_eq!(relay.delivered_up_to(), None);
    publish(&mut relay, publisher, &[ephemeral("x"), note("b"), note("c")]);
    take_steps(&mut relay, 5);
    let before: Vec<_> = readers.iter().map(|conn| received(&mut relay, *conn)).collect();
    let after = relay.delivered_up_to();
    assert_eq!(after, Some(Seq(1)), "the second note is under way");
    let mut snapshots: Vec<_> = readers.iter().filter_map(|conn| relay.snapshot(*conn)).collect();
    assert!(
        snapshots.iter().flat_map(|snapshot| &snapshot.subs).all(|(_, sub)| sub.progress == Progress::Live)
    );

    let (config, store) = (Arc::clone(relay.config()), Rc::clone(relay.store()));
    let mut relay = Relay::new(config, store, Arc::new(Libsecp256k1), [2; 32]);
    after
        .into_iter()
        .for_each(|after| snapshots.iter_mut().for_each(|snapshot| snapshot.mark_undelivered_after(after)));
    let readers: Vec<_> = snapshots.into_iter().map(|snapshot| relay.restore(NOW, snapshot)).collect();
    while relay.work(NOW) {}
    check_received(&mut relay, &readers, 10, &["b", "c"]);
    assert!(before.iter().flat_map(BTreeMap::values).all(|got| got == &["x"] || got == &["x", "b"]));
    assert_eq!(relay.delivered_up_to(), None);
}
