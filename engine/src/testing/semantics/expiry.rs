//! Expiration (NIP-40): an expired event is refused, and not served from that second on, stored or live.

use serde_json::json;

use super::oracle::check;
use super::stage::Stage;
use super::{Case, case};
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("expiry: what has expired is refused", on_arrival),
        case("expiry: what expires later is served until then", later),
        case("expiry: to the second", to_the_second),
        case("expiry: what has expired takes no place in a page", in_pages),
        case("expiry: a newer version takes the place of an expired one", successor),
    ]
}

fn expiring(stage: &Stage<'_>, author: u64, at: i64) -> Signed {
    let at = (stage.t as i64 + at).to_string();
    event(&key(author)).at(stage.t).tag(["expiration", &at]).tag(["t", "x"]).content(at).sign()
}

fn on_arrival(stage: &mut Stage<'_>) {
    let (mut conn, mut reader) = (stage.open(), stage.open());
    stage.watch(&mut reader, "sub", json!({"kinds": [1]}));
    for at in [-1, -100, -(stage.t as i64)] {
        let event = expiring(stage, 1, at);
        conn.refuse(&event, "invalid");
        assert_eq!(conn.count(json!({"ids": [event.id]})), 0);
    }
    if stage.relay.holds_its_clock() {
        conn.refuse(&expiring(stage, 1, 0), "invalid");
        conn.accept(&expiring(stage, 1, 1));
    }
    let fresh = expiring(stage, 2, 10_000);
    conn.accept(&fresh);
    let seen = stage.settle(&mut conn, &mut reader, "sub");
    assert_eq!(seen.last(), Some(&fresh.id), "what has not expired is delivered live");
    assert!(seen.len() <= 2, "{seen:?}");
}

fn later(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let short = expiring(stage, 1, 3);
    let long = expiring(stage, 1, 100_000);
    let plain = event(&key(1)).at(stage.t - 1).sign();
    conn.accept_all(&[short.clone(), long.clone(), plain.clone()]);
    if stage.relay.holds_its_clock() {
        check(&mut conn, json!({"kinds": [1]}), &[short.clone(), long.clone(), plain.clone()]);
    }
    if !stage.advance(5) {
        return;
    }
    let left = [long, plain];
    for filters in [
        json!({}),
        json!({"kinds": [1]}),
        json!({"authors": [key(1).hex()], "limit": 10}),
        json!({"authors": [key(1).hex()], "kinds": [1], "limit": 1}),
        json!({"ids": [short.id, left[0].id]}),
        json!({"ids": [short.id]}),
        json!({"#t": ["x"]}),
        json!([{"ids": [short.id]}, {"since": stage.t}]),
    ] {
        check(&mut conn, filters, &left);
    }
    assert_eq!(conn.count(json!({})), 2);
    assert_eq!(conn.count(json!({"ids": [short.id]})), 0);
    assert_eq!(conn.count(json!({"#t": ["x"]})), 1);
    conn.refuse(&short, "invalid");
    check(&mut conn, json!({}), &left);
}

fn to_the_second(stage: &mut Stage<'_>) {
    if !stage.relay.holds_its_clock() {
        return;
    }
    let mut conn = stage.open();
    let event = expiring(stage, 1, 10);
    conn.accept(&event);
    stage.advance(9);
    assert_eq!(conn.ask(json!({"ids": [event.id]})).ids(), [&*event.id], "a second before");
    let answer = conn.publish(&event);
    assert!(answer.0 && answer.1.starts_with("duplicate: "), "{answer:?}");
    stage.advance(1);
    assert_eq!(conn.ask(json!({"ids": [event.id]})).ids().len(), 0, "from that second on");
}

fn in_pages(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let short: Vec<Signed> = (1..=5).map(|n| expiring(stage, n, 3)).collect();
    let plain: Vec<Signed> = (1..=3).map(|n| event(&key(n)).at(stage.t - n).sign()).collect();
    conn.accept_all(&short);
    conn.accept_all(&plain);
    if !stage.advance(5) {
        return;
    }
    for limit in 1..=4 {
        check(&mut conn, json!({"limit": limit}), &plain);
        check(&mut conn, json!({"kinds": [1], "limit": limit}), &plain);
    }
}

fn successor(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let at = (stage.t + 3).to_string();
    let first = event(&key(1)).kind(30_023).at(stage.t).tag(["d", "x"]).tag(["expiration", &at]).sign();
    conn.accept(&first);
    if !stage.advance(5) {
        return;
    }
    let second = event(&key(1)).kind(30_023).at(stage.t + 1).tag(["d", "x"]).sign();
    conn.accept(&second);
    check(&mut conn, json!({"kinds": [30_023]}), &[second]);
}
