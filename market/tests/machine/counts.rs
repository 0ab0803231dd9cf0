//! What counts, in any order, and what ends with time.

use relay_market::Registry;
use serde_json::{Value, json};

use super::common::Draft;
use super::{DAY, HOUR, Host, NOW, announcement, key, reply, request, result};

#[test]
fn figures_follow_from_what_was_asked_and_delivered() {
    let mut host = Host::new();
    let asked = request(2, 1, NOW - 2 * HOUR);
    let unanswered = request(3, 1, NOW - 2 * HOUR);
    let unpaid = request(4, 1, NOW - 2 * HOUR);
    let pending = request(5, 1, NOW - 10);
    host.apply(&[
        announcement(1, "shout", &["5050"], "free"),
        asked.clone(),
        result(1, &asked, NOW - 2 * HOUR + 7),
        unanswered.clone(),
        reply(1, &unanswered, 7_000, NOW - 2 * HOUR).tag(&["status", "error"]),
        unpaid.clone(),
        reply(1, &unpaid, 7_000, NOW - 2 * HOUR).tag(&["status", "payment-required"]),
        pending,
    ]);
    assert_eq!(host.counts(), [1, 1, 1, 1, 1]);
    let figures = &host.only()["figures"];
    assert_eq!(figures["success_ratio_mean_of_customers"], 0.5);
    assert_eq!(figures["latency_seconds_median_of_customers"], 7);
    // A late result counts.
    host.apply(&[result(1, &unanswered, NOW)]);
    assert_eq!(host.counts(), [2, 0, 1, 1, 2]);
    // The hour of the pending one ends without any event.
    host.pass(HOUR);
    assert_eq!(host.counts(), [2, 1, 1, 0, 2]);
    // A month later nothing counts, and the provider is still listed.
    host.pass(31 * DAY);
    assert_eq!(host.counts(), [0; 5]);
    assert_eq!(host.only()["figures"]["success_ratio_mean_of_customers"], Value::Null);
}

#[test]
fn what_does_not_count() {
    let asked = request(2, 1, NOW - 2 * HOUR);
    let open = Draft::new(2, 5_050, NOW - 2 * HOUR);
    let of_others = request(2, 9, NOW - 2 * HOUR);
    let own = request(1, 1, NOW - 2 * HOUR);
    let old = request(2, 1, NOW - 30 * DAY);
    let cases: [(&str, Vec<Draft>, [u64; 5]); 9] = [
        ("its own requests", vec![own.clone(), result(1, &own, NOW)], [0; 5]),
        ("a result of another kind", vec![asked.clone(), reply(1, &asked, 6_001, NOW)], [0, 1, 0, 0, 0]),
        ("a result of somebody else", vec![asked.clone(), result(3, &asked, NOW)], [0, 1, 0, 0, 0]),
        ("a request to others that it answers", vec![of_others.clone(), result(1, &of_others, NOW)], [0; 5]),
        ("an open request that it does not answer", vec![open.clone()], [0; 5]),
        ("an open request that it answers", vec![open.clone(), result(1, &open, NOW)], [0; 5]),
        ("older than the window", vec![old.clone(), result(1, &old, NOW)], [0; 5]),
        ("a result without a request", vec![result(1, &asked, NOW)], [0; 5]),
        (
            "two results count once",
            vec![asked.clone(), result(1, &asked, NOW), result(1, &asked, NOW - 5)],
            [1, 0, 0, 0, 1],
        ),
    ];
    for (name, events, want) in cases {
        let mut host = Host::new();
        host.apply(&[announcement(1, "shout", &["5050"], "free")]);
        host.apply(&events);
        assert_eq!(host.counts(), want, "{name}");
        // In the opposite order it is the same.
        let mut host = Host::new();
        host.apply(&events.iter().rev().cloned().collect::<Vec<_>>());
        host.apply(&[announcement(1, "shout", &["5050"], "free")]);
        assert_eq!(host.counts(), want, "{name}, backwards");
    }
}

/// Regression: whoever answered the requests of strangers, with anything, had as many customers.
#[test]
fn answers_to_open_requests_are_counted_apart() {
    let mut host = Host::new();
    let asked = request(2, 1, NOW - 3 * HOUR);
    let open = |n: u64| Draft::new(3, 5_050, NOW - 2 * HOUR + n);
    host.apply(&[announcement(1, "shout", &["5050"], "free"), asked.clone()]);
    for part in 0..3 {
        let events: Vec<Draft> = (0..40)
            .flat_map(|n| [open(part * 40 + n), result(1, &open(part * 40 + n), NOW - HOUR)])
            .collect();
        host.apply(&events);
    }
    // They do not push out the job that has failed.
    assert_eq!(host.counts(), [0, 1, 0, 0, 0]);
    let figures = &host.only()["figures"];
    assert_eq!(figures["open_requests_answered"], 100, "of one customer");
    assert_eq!(figures["success_ratio_mean_of_customers"], 0.0);
    assert_eq!(figures["latency_seconds_median_of_customers"], Value::Null);
    assert_eq!(host.proof(1)["figures"]["open_requests_answered"], 100);
}

#[test]
fn tables_of_an_older_version_are_made_again() {
    let mut host = Host::new();
    host.apply(&[announcement(1, "shout", &["5050"], "free")]);
    let older = "UPDATE market_meta SET value = 1";
    relay_engine::sql::exec(&host.db, older, &[]).unwrap();
    let again = Registry::open(host.db.clone()).unwrap();
    assert_eq!(again.position().unwrap(), None, "it is read from the beginning");
    assert_eq!(host.db.count("market_providers"), 0);
    let newer = "UPDATE market_meta SET value = 99";
    relay_engine::sql::exec(&host.db, newer, &[]).unwrap();
    assert!(Registry::open(host.db.clone()).is_err());
}

#[test]
fn deletions_and_requests_to_vanish_remove_what_is_their_authors() {
    let asked = request(2, 1, NOW - 2 * HOUR);
    let done = result(1, &asked, NOW - 2 * HOUR + 5);
    let offer = announcement(1, "shout", &["5050"], "free");
    let heartbeat = Draft::new(1, 11_998, NOW);
    let by = |author: u8, tags: &[[&str; 2]]| {
        tags.iter().fold(Draft::new(author, 5, NOW), |draft, tag| draft.tag(tag))
    };
    let id = |draft: &Draft| draft.event().id.to_string();
    let listed = |deletion: Draft| {
        let mut host = Host::new();
        host.apply(&[offer.clone(), asked.clone(), done.clone(), heartbeat.clone(), deletion]);
        let listed = host.list("");
        listed["providers"].as_array().unwrap().first().map(|entry| {
            let figures = &entry["figures"];
            (
                figures["jobs_delivered"].as_u64().unwrap(),
                figures["jobs_failed"].as_u64().unwrap(),
                entry["online"] == true,
            )
        })
    };
    let address = format!("31990:{}:shout", key(1));
    let heartbeats = format!("11998:{}:", key(1));
    for (name, deletion, want) in [
        ("nothing", by(1, &[["e", "zz"]]), Some((1, 0, true))),
        ("the result", by(1, &[["e", &id(&done)]]), Some((0, 1, true))),
        ("the result, by the customer", by(2, &[["e", &id(&done)]]), Some((1, 0, true))),
        ("the request", by(2, &[["e", &id(&asked)]]), Some((0, 0, true))),
        ("the heartbeat", by(1, &[["a", &heartbeats]]), Some((1, 0, false))),
        ("the announcement", by(1, &[["e", &id(&offer)]]), None),
        ("the announcement, by address", by(1, &[["a", &address]]), None),
        ("the announcement, by somebody else", by(2, &[["a", &address]]), Some((1, 0, true))),
        ("the customer vanishes", Draft::new(2, 62, NOW), Some((0, 0, true))),
        ("the provider vanishes", Draft::new(1, 62, NOW), None),
        ("it vanished earlier", Draft::new(1, 62, NOW - 2 * DAY), Some((1, 0, true))),
    ] {
        assert_eq!(listed(deletion), want, "{name}");
    }
}

#[test]
fn a_proof_shows_what_expires() {
    let mut host = Host::new();
    let expires = |draft: Draft| draft.tag(&["expiration", &(NOW + 600).to_string()]);
    let [small, large, lasting] =
        [(2, 1), (3, 2), (4, 3)].map(|(customer, before)| request(customer, 1, NOW - before));
    let large_result = expires(result(1, &large, NOW)).content(&"x".repeat(5_000));
    host.apply(&[
        announcement(1, "shout", &["5050"], "free"),
        small.clone(),
        expires(result(1, &small, NOW)),
        large.clone(),
        large_result,
        lasting.clone(),
        result(1, &lasting, NOW),
    ]);
    assert_eq!(host.counts(), [3, 0, 0, 0, 3]);
    let proof = host.proof(1);
    assert_eq!(proof["expired"], json!([]));
    host.pass(2 * HOUR);
    // What was too large to be kept does not count any more, neither as delivered nor as failed.
    assert_eq!(host.counts(), [2, 0, 0, 0, 2]);
    let proof = host.proof(1);
    let id = |draft: &Draft| draft.event().id.to_string();
    assert_eq!(proof["expired"], json!([id(&large)]));
    assert_eq!(proof["figures"]["jobs_delivered"], 2);
    assert_eq!(proof["jobs"][0]["request"], json!(id(&small)));
    assert_eq!(proof["jobs"][0]["result"]["kind"], 6_050, "the event itself");
    assert_eq!(proof["jobs"][1]["result"], json!(id(&result(1, &lasting, NOW))));
    assert_eq!(proof["announcements"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_applied_again_changes_nothing() {
    let mut host = Host::new();
    let asked = request(2, 1, NOW - 2 * HOUR);
    let events = [
        announcement(1, "shout", &["5050"], "free"),
        asked.clone(),
        result(1, &asked, NOW - HOUR),
        Draft::new(1, 11_998, NOW),
    ];
    host.apply(&events);
    let before = host.only();
    assert_eq!(host.registry.position().unwrap(), Some(4));
    host.seq = 0;
    host.apply(&events);
    assert_eq!(host.only(), before);
    // Another process reads the same.
    let again = Registry::open(host.db.clone()).unwrap();
    assert_eq!(again.position().unwrap(), Some(4));
    let reopened = Host { registry: again, ..host };
    assert_eq!(reopened.only(), before);
}

#[test]
fn a_host_that_sleeps_knows_when_time_changes_something() {
    let mut host = Host::new();
    assert_eq!(host.registry.next_due().unwrap(), None);
    let asked = request(2, 1, NOW);
    host.apply(&[announcement(1, "shout", &["5050"], "free"), asked.clone()]);
    assert_eq!(host.registry.next_due().unwrap(), Some(NOW + HOUR), "it would have failed");
    host.apply(&[result(1, &asked, NOW)]);
    assert!(!host.registry.has_changes());
    let midnight = NOW / DAY * DAY;
    for day in 1..=29 {
        assert_eq!(host.registry.next_due().unwrap(), Some(midnight + day * DAY), "it is a day older");
        host.pass(midnight + day * DAY - host.now);
    }
    let by_day = &host.only()["figures"]["latency_seconds_by_day"];
    assert_eq!((by_day.as_array().unwrap().len(), &by_day[0], &by_day[1]), (30, &json!(0), &Value::Null));
    assert_eq!(host.registry.next_due().unwrap(), Some(midnight + 30 * DAY), "its day is no longer shown");
    host.pass(midnight + 30 * DAY - host.now);
    assert_eq!(host.only()["figures"]["latency_seconds_by_day"][0], Value::Null);
    assert_eq!(host.registry.next_due().unwrap(), Some(NOW + 30 * DAY), "it leaves the window");
    host.pass(NOW + 30 * DAY - host.now);
    assert_eq!(host.registry.next_due().unwrap(), Some(NOW + 31 * DAY), "it is forgotten");
    host.pass(DAY);
    assert_eq!((host.registry.next_due().unwrap(), host.db.count("market_evidence")), (None, 0));
    let expires = (host.now + 9).to_string();
    let again = Draft::new(1, 31_990, host.now).tag(&["d", "shout"]).tag(&["k", "5050"]);
    host.apply(&[again.tag(&["expiration", &expires])]);
    assert_eq!(host.registry.next_due().unwrap(), Some(host.now + 9), "the announcement expires");
}
