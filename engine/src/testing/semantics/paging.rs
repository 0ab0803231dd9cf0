//! The relay's own limits on answers, and the hints of NIP-67: never wrong, exact at the boundary.

use serde_json::{Value, json};

use super::conn::Answer;
use super::oracle::{check, matches, sorted};
use super::stage::Stage;
use super::{Case, case, case_with};
use crate::relay::Config;
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("paging: the hint at exactly the limit and around it", exact_boundary),
        case_with(
            "paging: no hint unless it is switched on",
            |config| config.policy.eose_hints = false,
            no_hint,
        ),
        case("paging: limit 0 answers at once and stays live", limit_zero),
        case_with("paging: a limit over the relay's is clamped, and says so", caps, clamped),
        case_with("paging: without a limit the relay's default holds", caps, default_limit),
        case_with("paging: the relay's own cut never splits a second", caps, seconds_stay_whole),
        case_with("paging: pages by until find everything once", caps, pages),
        case("paging: the limit counts what is served, not what is withheld", limit_counts_served),
    ]
}

fn caps(config: &mut Config) {
    config.limits.limit_max = 10;
    config.limits.limit_default = 5;
}

fn notes(stage: &Stage<'_>, seconds_ago: &[u64]) -> Vec<Signed> {
    (0..)
        .zip(seconds_ago)
        .map(|(n, ago)| event(&key(1)).at(stage.t - ago).content(format!("note {n}")).sign())
        .collect()
}

fn exact_boundary(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events = notes(stage, &[0, 1, 1, 2, 3, 3]);
    let likes = [event(&key(2)).at(stage.t).kind(7).sign()];
    let all = [&events[..], &likes].concat();
    conn.accept_all(&all);
    // n events: a limit of n returns all, n - 1 leaves one, n + 1 exceeds them.
    for limit in 1..=8 {
        check(&mut conn, json!({"kinds": [1], "limit": limit}), &all);
        check(&mut conn, json!({"authors": [key(1).hex()], "limit": limit}), &all);
        check(&mut conn, json!({"limit": limit}), &all);
        check(&mut conn, json!([{"kinds": [1], "limit": limit}, {"kinds": [7], "limit": 1}]), &all);
    }
    // If another filter returns what one leaves out, nothing is missing.
    check(&mut conn, json!([{"kinds": [1], "limit": 1}, {"kinds": [1], "limit": 6}]), &all);
    check(&mut conn, json!([{"limit": 6}, {"until": stage.t - 3}]), &all);
    check(&mut conn, json!([{"limit": 1}, {"kinds": [7]}]), &all);
}

/// nostr-fetch, Nostrify and nostr-relaypool ignore an EOSE with three elements, and wait.
fn no_hint(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.accept_all(&notes(stage, &[0, 1, 2]));
    for (filter, found) in [(json!({"limit": 2}), 2), (json!({"kinds": [1]}), 3), (json!({"ids": []}), 0)] {
        let answer = conn.ask(filter.clone());
        assert_eq!((answer.ids().len(), answer.hint), (found, None), "{filter}");
    }
}

fn limit_zero(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events = notes(stage, &[5, 6]);
    conn.accept_all(&events);
    let mut reader = stage.open();
    check(&mut reader, json!({"limit": 0}), &events);
    check(&mut reader, json!({"kinds": [9], "limit": 0}), &events);
    stage.watch(&mut reader, "live", json!({"kinds": [1], "limit": 0}));
    let new = event(&key(2)).at(stage.t).sign();
    conn.accept(&new);
    // `limit` has no meaning after EOSE, whatever it is.
    stage.watch(&mut reader, "one", json!({"kinds": [1], "limit": 1}));
    let more = [3, 4, 5].map(|n| event(&key(n)).at(stage.t).sign());
    conn.accept_all(&more);
    let ids = |events: &[Signed]| -> Vec<String> { events.iter().map(|event| event.id.clone()).collect() };
    let seen = stage.settle(&mut conn, &mut reader, "live");
    assert_eq!(seen, [ids(&[new]), ids(&more)].concat());
    let seen = stage.settle(&mut conn, &mut reader, "one");
    assert_eq!(seen, ids(&more));
}

fn clamped(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let seconds: Vec<u64> = (0..12).collect();
    let events = notes(stage, &seconds);
    let clamped = |limit: u64, events: &[Signed], conn: &mut super::conn::Conn| {
        let answer = conn.ask(json!({"kinds": [1], "limit": limit}));
        let expected = events.len().min(10);
        assert_eq!(answer.ids().len(), expected, "limit {limit} over {} events", events.len());
        let hint = if events.len() > expected { "more" } else { "finish" };
        assert_eq!(answer.hint.as_deref(), Some(hint), "limit {limit} over {} events", events.len());
    };
    conn.accept_all(&events[..10]);
    for limit in [10, 11, 500, u64::from(u32::MAX) + 1, i64::MAX as u64] {
        clamped(limit, &events[..10], &mut conn);
    }
    conn.accept_all(&events[10..]);
    for limit in [10, 11, 500, u64::from(u32::MAX) + 1, i64::MAX as u64] {
        clamped(limit, &events, &mut conn);
    }
}

fn default_limit(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events = notes(stage, &[0, 1, 2, 3, 4, 5, 6]);
    for (stored, expected, hint) in [(4, 4, "finish"), (5, 5, "finish"), (6, 5, "more"), (7, 5, "more")] {
        conn.accept(&events[stored - 1]);
        if stored == 4 {
            conn.accept_all(&events[..3]);
        }
        let answer = conn.ask(json!({"kinds": [1]}));
        assert_eq!((answer.ids().len(), answer.hint.as_deref()), (expected, Some(hint)), "{stored} stored");
    }
    // A limit above the default and below the maximum is respected.
    check(&mut conn, json!({"kinds": [1], "limit": 6}), &events);
    check(&mut conn, json!({"kinds": [1], "limit": 7}), &events);
}

/// A page that the relay has limited must be a prefix of the whole answer, end between two seconds, and have the right hint.
fn assert_page(answer: &Answer, filter: &Value, events: &[Signed]) {
    let all = sorted(events.iter().filter(|event| matches(filter, event)).collect());
    let ids = answer.ids();
    let expected: Vec<&str> = all.iter().take(ids.len()).map(|event| event.id.as_str()).collect();
    assert_eq!(ids, expected, "a page begins at the newest and leaves nothing out");
    let whole = ids.len() == all.len();
    assert!(!ids.is_empty() || whole, "a page has something in it");
    let hint = if whole { "finish" } else { "more" };
    assert_eq!(answer.hint.as_deref(), Some(hint), "the hint after {} of {}", ids.len(), all.len());
    if !whole {
        let (last, next) = (all[ids.len() - 1], all[ids.len()]);
        assert_ne!(last.created_at, next.created_at, "a second was split after {} events", ids.len());
    }
}

fn seconds_stay_whole(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    // The default of 5 falls into the second of three, the maximum of 10 into that of four.
    let events = notes(stage, &[0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4, 5]);
    conn.accept_all(&events);
    for filter in [
        json!({"kinds": [1]}),
        json!({"kinds": [1], "limit": 100}),
        json!({"authors": [key(1).hex()]}),
        json!({"until": stage.t - 1}),
        json!({"until": stage.t - 2}),
    ] {
        let answer = conn.ask(filter.clone());
        assert_page(&answer, &filter, &events);
        assert!(answer.ids().len() >= 4, "a page of about the default at least");
    }
    // The client's own limit is exact.
    for limit in 1..10 {
        check(&mut conn, json!({"kinds": [1], "limit": limit}), &events);
    }
}

fn pages(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let seconds: Vec<u64> = (0..40).map(|n| n * n % 17).collect();
    let events = notes(stage, &seconds);
    conn.accept_all(&events);
    for limit in [json!(null), json!(100)] {
        let (mut found, mut until) = (Vec::new(), stage.t);
        for page in 0.. {
            assert!(page < 40, "paging must end");
            let mut filter = json!({"kinds": [1], "until": until});
            if !limit.is_null() {
                filter["limit"] = limit.clone();
            }
            let answer = conn.ask(filter.clone());
            assert_page(&answer, &filter, &events);
            found.extend(answer.ids());
            match answer.hint.as_deref() {
                Some("finish") => break,
                _ => until = answer.events.last().expect("more to come")["created_at"].as_u64().unwrap() - 1,
            }
        }
        let all: Vec<&str> = sorted(events.iter().collect()).iter().map(|event| event.id.as_str()).collect();
        assert_eq!(found, all, "all pages together, limit {limit}");
    }
}

fn limit_counts_served(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let open = notes(stage, &[5, 6, 7]);
    conn.accept_all(&open);
    // Gift wraps for another key, newer and older than the visible events.
    for ago in [0, 1, 2, 3, 9] {
        let wrap = event(&key(50 + ago)).kind(1059).at(stage.t - ago).tag(["p", key(9).hex()]).sign();
        conn.accept(&wrap);
    }
    for limit in 1..=4 {
        check(&mut conn, json!({"limit": limit}), &open);
        check(&mut conn, json!({"since": 0, "limit": limit}), &open);
    }
}
