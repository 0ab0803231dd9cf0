//! Floods: what is kept, what they push out, and that figures stay true.

use relay_market::Registry;
use relay_market::registry::Bounds;
use serde_json::json;

use super::common::Draft;
use super::{DAY, HOUR, Host, NOW, announcement, bounded, key, recomputed, request, result};

#[test]
fn one_author_cannot_fill_the_registry() {
    let mut host = Host::new();
    host.apply(&[announcement(1, "shout", &["5050"], "free")]);
    let honest = request(3, 1, NOW - DAY);
    host.apply(&[honest.clone(), result(1, &honest, NOW - DAY + 1)]);
    // A key that floods: its oldest are forgotten, and those of others stay.
    for part in 0..11u64 {
        let flood: Vec<Draft> = (0..400).map(|at| request(2, 1, NOW - 20_000 + part * 400 + at)).collect();
        host.apply(&flood);
    }
    host.pass(10);
    let rows = host.db.count("market_evidence");
    assert_eq!(rows, 4_002);
    // Its weight is that of one customer.
    let figures = &host.only()["figures"];
    assert_eq!(figures["newest_jobs_only"], true);
    assert_eq!((&figures["jobs_delivered"], &figures["jobs_failed"]), (&json!(1), &json!(100)));
    assert_eq!(figures["success_ratio_mean_of_customers"], 0.5);
}

/// Regression: a sweep removed fewer events than a flood could add in the meantime. And of what was forgotten for the number of
/// its author, requests without their results seemed to have failed.
#[test]
fn a_flood_keeps_the_bounds_and_figures_stay_true() {
    let bounds = Bounds { events: 300, author_events: 100, ..Bounds::default() };
    let mut host = bounded(bounds);
    // A busy provider: 80 jobs, with a result and another one each.
    let mut served = vec![announcement(1, "shout", &["5050"], "free")];
    for n in 0..80 {
        let asked = request(2 + (n % 20) as u8, 1, NOW - 9_000 + n * 10);
        let results = [2, 5].map(|after| result(1, &asked, NOW - 9_000 + n * 10 + after));
        served.push(asked);
        served.extend(results);
    }
    host.apply(&served);
    let figures = &host.only()["figures"];
    assert_eq!((&figures["jobs_failed"], &figures["newest_jobs_only"]), (&json!(0), &json!(true)));
    assert!(figures["jobs_delivered"].as_u64().unwrap() >= 49, "{figures}");
    let (recomputed_figures, claimed) = recomputed(&host, 1, &served);
    assert_eq!(recomputed_figures, claimed);
    // A customer that asks too often.
    let flood: Vec<Draft> = (0..150).map(|n| request(30, 1, NOW - 8_000 + n)).collect();
    host.apply(&flood);
    served.extend(flood);
    let (recomputed_figures, claimed) = recomputed(&host, 1, &served);
    assert_eq!(recomputed_figures, claimed);
    assert_eq!(claimed["jobs_failed"], 100, "the newest");
    // Strangers, each of whom names many.
    for part in 0..20u64 {
        let flood: Vec<Draft> = (0..50)
            .map(|n| {
                let names = |draft: Draft, of: u8| draft.tag(&["p", &key(100 + of)]);
                (0..16).fold(Draft::new(40 + n, 5_050, NOW - 7_000 + part * 10), names)
            })
            .collect();
        host.apply(&flood);
        assert!(host.db.count("market_evidence") <= 300 && host.db.count("market_named") <= 1_200);
        let (recomputed_figures, claimed) = recomputed(&host, 1, &served);
        assert_eq!(recomputed_figures, claimed, "{part}");
    }
    assert_eq!(host.only()["figures"]["newest_jobs_only"], true);
    // The count is the same after a restart.
    let reopened = Registry::open_bounded(host.db.clone(), bounds).unwrap();
    host.registry = reopened;
    host.apply(&[request(90, 1, NOW)]);
    assert_eq!(host.db.count("market_evidence"), 300);
}

#[test]
fn events_that_are_kept_whole_are_bounded_together() {
    let mut host = bounded(Bounds { kept_bytes: 20_000, ..Bounds::default() });
    let mut all = vec![announcement(1, "shout", &["5050"], "free")];
    for n in 0..40 {
        let expires = (NOW + 600).to_string();
        let asked = request(2 + n, 1, NOW - 100 + u64::from(n)).tag(&["expiration", &expires]);
        all.push(asked.content(&"x".repeat(1_000)));
    }
    host.apply(&all);
    assert_eq!(host.counts()[3], 40, "until they expire");
    let (recomputed_figures, claimed) = recomputed(&host, 1, &all);
    assert_eq!(recomputed_figures, claimed);
    let copies = host.db.count("market_copies");
    assert!((10..20).contains(&copies), "{copies}");
    host.pass(700);
    assert_eq!(host.counts()[3], copies);
    let (recomputed_figures, claimed) = recomputed(&host, 1, &[]);
    assert_eq!(recomputed_figures, claimed);
    host.pass(32 * DAY);
    assert_eq!((host.db.count("market_copies"), host.db.count("market_evidence")), (0, 0));
}

/// Regression: each answer to a request read all others, and each made its author wait for a count, whoever it was.
#[test]
fn a_flood_of_answers_to_one_request_is_cheap() {
    let mut host = Host::new();
    let asked = Draft::new(2, 5_050, NOW - HOUR);
    host.apply(&[announcement(1, "shout", &["5050"], "free"), asked.clone()]);
    let read = |host: &mut Host, from: u64| {
        let answers: Vec<Draft> =
            (from..from + 50).map(|n| result(3 + (n % 200) as u8, &asked, NOW - HOUR + n)).collect();
        let before = host.db.rows_returned();
        host.apply(&answers);
        host.db.rows_returned() - before
    };
    let first = read(&mut host, 0);
    for part in 1..20 {
        read(&mut host, part * 50);
    }
    let last = read(&mut host, 1_000);
    assert!(last <= first + 50 * 8, "{first} rows for the first 50, {last} for those after a thousand");
    // The list is of those who have announced something.
    host.apply(&[result(1, &asked, NOW)]);
    assert_eq!(host.only()["figures"]["open_requests_answered"], 1);
}
