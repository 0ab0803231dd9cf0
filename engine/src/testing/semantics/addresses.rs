//! Rates by client address: what all connections of one address may send together, however many they are.

use serde_json::json;

use super::conn::count_text;
use super::stage::Stage;
use super::{Case, case_with};
use crate::testing::signing::{event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_with(
            "addresses: events per minute",
            |config| config.limits.address_events_per_minute_max = 6,
            event_rate,
        ),
        case_with(
            "addresses: wrong signatures",
            |config| config.limits.address_events_per_minute_max = 41,
            wrong_signatures,
        ),
        case_with(
            "addresses: requests per minute",
            |config| config.limits.address_requests_per_minute_max = 6,
            request_rate,
        ),
        case_with(
            "addresses: fan-out a minute",
            |config| config.limits.address_fanout_cost_per_minute_max = 1,
            fanout_rate,
        ),
    ]
}

/// The same from five connections as from one, at all shards together.
fn event_rate(stage: &mut Stage<'_>) {
    let t = stage.t;
    let note = |n: u64| event(&key(1)).at(t).content(n.to_string()).sign();
    for n in 0..6 {
        let Some(mut conn) = stage.open_from("192.0.2.1") else { return };
        conn.accept(&note(n));
    }
    let mut conns = [(); 3].map(|()| stage.open_from("192.0.2.1").expect("another client"));
    for (n, conn) in (10..).zip(&mut conns) {
        let (accepted, message) = conn.publish(&note(n));
        assert_eq!(
            (accepted, &*message),
            (false, "rate-limited: too many events per minute from your address")
        );
    }
    // Requests do not count as events.
    assert_eq!(conns[0].count(json!({})), 6);
    stage.open_from("192.0.2.2").expect("another client").accept(&note(20));
    // A subscriber has a /64 of IPv6.
    for n in 0..6 {
        stage.open_from(&format!("2001:db8::{n}")).expect("another client").accept(&note(30 + n));
    }
    stage.open_from("2001:db8::ffff").expect("another client").refuse(&note(40), "rate-limited");
    stage.open_from("2001:db8:0:1::1").expect("another client").accept(&note(41));
    if stage.relay.holds_its_clock() {
        stage.advance(10);
        conns[1].accept(&note(50));
        conns[2].refuse(&note(51), "rate-limited");
        stage.advance(3_600);
        (60..66).for_each(|n| conns[2].accept(&note(n)));
        conns[1].refuse(&note(66), "rate-limited");
    }
    // A client without an address, or an exempt one, has no such limit.
    let mut exempt = stage.open();
    (100..120).for_each(|n| exempt.accept(&note(n)));
}

/// An event with a wrong signature counts as twenty.
fn wrong_signatures(stage: &mut Stage<'_>) {
    let t = stage.t;
    let note = |n: u64| event(&key(1)).at(t).content(n.to_string()).sign();
    let Some(mut conn) = stage.open_from("192.0.2.1") else { return };
    conn.refuse(&note(1).forged(), "invalid");
    stage.open_from("192.0.2.1").expect("another client").refuse(&note(2).forged(), "invalid");
    conn.accept(&note(3));
    conn.refuse(&note(4), "rate-limited");
    stage.open_from("192.0.2.2").expect("another client").accept(&note(4));
    // A client without an address, or an exempt one, has no such limit.
    let mut exempt = stage.open();
    (0..5).for_each(|n| exempt.refuse(&note(10 + n).forged(), "invalid"));
    exempt.accept(&note(20));
}

/// An event costs its publisher what its delivery costs the relay.
fn fanout_rate(stage: &mut Stage<'_>) {
    let t = stage.t;
    let note = |kind, n: u64| event(&key(1)).kind(kind).at(t).content(n.to_string()).sign();
    // Each is a candidate and a delivery.
    let mut watcher = stage.open();
    (0..40).for_each(|n| drop(watcher.req(&format!("sub {n}"), json!({ "kinds": [1, 20_001] }))));
    for (address, other, kind) in [("192.0.2.1", "192.0.2.2", 1), ("192.0.2.3", "192.0.2.4", 20_001)] {
        let Some(mut publisher) = stage.open_from(address) else { return };
        // Nobody asks for these.
        let unasked = |n: u64| note(7, 100 * u64::from(kind) + n);
        (0..5).for_each(|n| publisher.accept(&unasked(n)));
        publisher.accept(&note(kind, 0));
        watcher.next_event("sub 39");
        let mut again = stage.open_from(address).expect("another client");
        let (accepted, message) = again.publish(&unasked(9));
        assert!(
            !accepted && message.starts_with("rate-limited: the events from your address reach"),
            "{message}"
        );
        // Requests do not count as events, and others publish as they like.
        again.count(json!({}));
        stage.open_from(other).expect("another client").accept(&note(kind, 1));
        watcher.next_event("sub 39");
        if stage.relay.holds_its_clock() {
            // The deficit is made up first.
            stage.advance(61);
            publisher.refuse(&unasked(10), "rate-limited");
            stage.advance(20_000);
            publisher.accept(&unasked(10));
        }
    }
    // A client without an address, or an exempt one, has no such limit.
    let mut exempt = stage.open();
    (10..20).for_each(|n| exempt.accept(&note(1, n)));
}

fn request_rate(stage: &mut Stage<'_>) {
    let t = stage.t;
    let note = |n: u64| event(&key(1)).at(t).content(n.to_string()).sign();
    for n in 0..3 {
        let Some(mut conn) = stage.open_from("192.0.2.1") else { return };
        conn.req("sub", json!({}));
        assert_eq!(conn.count(json!({})), n);
        // Events do not count as requests.
        conn.accept(&note(n));
    }
    let mut conn = stage.open_from("192.0.2.1").expect("another client");
    conn.req_closed("sub", json!({}), "rate-limited");
    conn.count_closed("sub", json!({}), "rate-limited");
    let mut other = stage.open_from("192.0.2.2").expect("another client");
    assert_eq!(other.count(json!({})), 3);
    if stage.relay.holds_its_clock() {
        stage.advance(10);
        conn.req("sub", json!({}));
        conn.send(&count_text("again", json!({})));
        conn.expect_closed("again", "rate-limited");
    }
}
