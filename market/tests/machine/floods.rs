//! Floods by few keys, which cost nothing: they push out nothing that others have signed.

use relay_market::registry::Bounds;
use serde_json::{Value, json};

use super::common::Draft;
use super::payments::{demand, paid, zap_of};
use super::{DAY, HOUR, Host, NOW, announcement, bounded, key, recomputed, request, result};

/// A provider with a paid job and a free one for each of these customers, and all events of it.
fn served(host: &mut Host, provider: u8, customers: std::ops::Range<u8>) -> Vec<Draft> {
    let mut events = vec![announcement(provider, &format!("worker {provider}"), &["5050"], "5")];
    for customer in customers {
        let at = NOW - DAY + 10 * u64::from(customer);
        let [free, dear] = [at, at + 1].map(|at| request(customer, provider, at));
        events.extend([
            result(provider, &free, at + 5),
            result(provider, &dear, at + 5).tag(&["amount", "5000"]),
        ]);
        events.extend([zap_of(customer, provider, &dear, 5_000, at + 6).receipt(), free, dear]);
    }
    host.apply(&events);
    events
}

fn figures_of(host: &Host, provider: u8) -> Value {
    host.proof(provider)["figures"].clone()
}

/// Regression: 2,000 requests of 20 keys that nobody can serve took all figures of every provider that they named.
#[test]
fn requests_that_are_not_served_push_out_nothing_that_is() {
    let mut host = Host::new();
    let mut events = served(&mut host, 1, 2..5);
    events.extend(served(&mut host, 6, 2..5));
    for customer in 0..20 {
        let flood: Vec<Draft> =
            (0..100).map(|n| request(100 + customer, 1, NOW - 2 * HOUR + n).tag(&["p", &key(6)])).collect();
        host.apply(&flood);
        events.extend(flood);
    }
    for provider in [1, 6] {
        let figures = figures_of(&host, provider);
        assert_eq!((&figures["jobs_delivered"], &figures["jobs_failed"]), (&json!(6), &json!(2_000)));
        assert_eq!(paid(&figures), [3, 3, 15_000]);
        assert_eq!(
            (&figures["distinct_customers_served"], &figures["newest_jobs_only"]),
            (&json!(3), &json!(false))
        );
        let (found, claimed) = recomputed(&host, provider, &events);
        assert_eq!(found, claimed);
    }
    // One more: of those that have failed the newest count.
    host.apply(&[request(90, 1, NOW - 2 * HOUR)]);
    let figures = figures_of(&host, 1);
    assert_eq!((&figures["jobs_failed"], &figures["newest_jobs_only"]), (&json!(2_000), &json!(true)));
    assert_eq!(paid(&figures), [3, 3, 15_000]);
}

/// Regression: copies of what expires had a bound beyond which the oldest evidence of everybody was forgotten.
#[test]
fn what_expires_pushes_out_no_evidence() {
    let mut host = bounded(Bounds { kept_bytes: 30_000, ..Bounds::default() });
    let mut events = served(&mut host, 1, 2..5);
    let before = figures_of(&host, 1);
    let expiring = request(5, 1, NOW - DAY);
    let done = result(1, &expiring, NOW - DAY + 1).tag(&["expiration", &(NOW + HOUR).to_string()]);
    host.apply(&[expiring.clone(), done.clone()]);
    events.extend([expiring, done]);
    for n in 0..40 {
        let large = Draft::new(99, 5_050, NOW - 100 + n).content(&"x".repeat(3_500));
        host.apply(&[large.tag(&["expiration", &(NOW + 60).to_string()])]);
    }
    let figures = figures_of(&host, 1);
    assert_eq!((&figures["jobs_delivered"], &figures["newest_jobs_only"]), (&json!(7), &json!(false)));
    let (found, claimed) = recomputed(&host, 1, &events);
    assert_eq!(found, claimed);
    assert_eq!(host.proof(1)["since"], 0);
    // Its copy was among the oldest, so the job ends with its result, and is said to have expired.
    host.pass(2 * HOUR);
    let proof = host.proof(1);
    assert_eq!(
        (&proof["figures"]["jobs_delivered"], proof["expired"].as_array().unwrap().len()),
        (&json!(6), 1)
    );
    assert_eq!(host.only()["figures"]["jobs_delivered"], 6);
    assert_eq!(paid(&proof["figures"]), paid(&before));
    let lasting: Vec<Draft> =
        events.into_iter().filter(|event| event.tags.iter().all(|tag| tag[0] != "expiration")).collect();
    let (found, claimed) = recomputed(&host, 1, &lasting);
    assert_eq!(found, claimed);
}

/// Regression: requests that name many keys each filled a bound of their own, and pushed out everything.
#[test]
fn a_request_names_four_providers_at_most() {
    let mut host = bounded(Bounds { events: 100, ..Bounds::default() });
    let events = served(&mut host, 1, 2..5);
    for n in 0..60 {
        let names = |draft: Draft, of: u8| draft.tag(&["p", &key(100 + of)]);
        host.apply(&[(0..16).fold(Draft::new(99, 5_050, NOW - HOUR + n), names)]);
    }
    assert_eq!(host.db.count("market_named"), 6 + 4 * 60);
    assert_eq!(figures_of(&host, 1)["jobs_delivered"], 6);
    let (found, claimed) = recomputed(&host, 1, &events);
    assert_eq!(found, claimed);
    let fourth = (0..3).fold(Draft::new(98, 5_050, NOW - 10), |draft, of| draft.tag(&["p", &key(100 + of)]));
    host.apply(&[fourth.tag(&["p", &key(1)])]);
    assert_eq!(figures_of(&host, 1)["jobs_pending"], 1);
    let fifth = (0..4).fold(Draft::new(98, 5_050, NOW - 9), |draft, of| draft.tag(&["p", &key(100 + of)]));
    host.apply(&[fifth.tag(&["p", &key(1)])]);
    assert_eq!(figures_of(&host, 1)["jobs_pending"], 1);
}

/// Regression: whoever let a provider ask for payment again and again pushed out its results.
#[test]
fn demands_push_out_no_results() {
    let mut host = bounded(Bounds { author_events: 100, ..Bounds::default() });
    let mut events = served(&mut host, 1, 2..22);
    // Two that have failed, of which one was asked for before the flood, and one after it began.
    let [early, late] = [NOW - 20 * HOUR, NOW - 2 * HOUR].map(|at| request(40, 1, at));
    host.apply(&[early.clone(), late.clone()]);
    events.extend([early, late]);
    assert_eq!(figures_of(&host, 1)["jobs_failed"], 2);
    let mut last = 0;
    for n in 0..200 {
        let at = NOW - 10 * HOUR + n;
        let asked = request(50 + (n / 50) as u8, 1, at);
        let quoted = [demand(1, &asked, "5000", at), asked];
        host.apply(&quoted);
        events.extend(quoted);
        if n < 100 {
            last = at;
        }
    }
    let proof = host.proof(1);
    let figures = &proof["figures"];
    assert_eq!((&proof["since"], &proof["demands_since"]), (&json!(0), &json!(last)));
    assert_eq!((&figures["jobs_delivered"], &figures["jobs_unpaid"]), (&json!(40), &json!(100)));
    assert_eq!(figures["jobs_failed"], 1, "of the earlier one it is not known whether payment was asked for");
    assert_eq!(paid(figures), [20, 20, 100_000], "their results ask for payment");
    assert_eq!(
        (&figures["newest_jobs_only"], &figures["newest_payments_only"]),
        (&json!(true), &json!(true))
    );
    let (found, claimed) = recomputed(&host, 1, &events);
    assert_eq!(found, claimed);
    // Results have a bound of their own.
    for n in 0..100 {
        let asked = request(70, 1, NOW - HOUR + n);
        host.apply(&[result(1, &asked, NOW - HOUR + n)]);
    }
    let proof = host.proof(1);
    assert!(
        proof["since"].as_u64().unwrap() > 0 && proof["demands_since"] == json!(last),
        "{}",
        proof["since"]
    );
    let (found, claimed) = recomputed(&host, 1, &events);
    assert_eq!(found, claimed);
}
