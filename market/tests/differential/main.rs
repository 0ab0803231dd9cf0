//! The registry against a naive recomputation over random histories: events in any order, with repeats, deletions, requests to
//! vanish, expirations, restarts, and receipts, right ones and others. And with tiny bounds against its own proofs.

#[path = "../common/mod.rs"]
mod common;
mod naive;
mod random;
mod tiny;

use std::collections::BTreeSet;

use common::Draft;
use naive::{Found, Naive, tags};
use random::random_event;
use relay_agent::api::Relay;
use relay_agent::identity::npub;
use relay_engine::testing::Rng;
use relay_engine::types::{Event, NO_EXPIRY, PubKey, Timestamp};
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_market::proof::Proof;
use relay_market::testing::Sqlite;
use relay_site::MarketRoute;
use serde_json::Value;

const START: Timestamp = 2_000_000_000;
const WINDOW: Timestamp = 30 * 86_400;
const PROVIDERS: u64 = 3;
const AUTHORS: u64 = 7;

#[test]
fn the_registry_and_a_naive_recomputation_agree() {
    let (mut compared, mut delivered, mut expired, mut paid) = (0, 0, 0, 0);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let db = Sqlite::new();
        let mut registry = Registry::open(db.clone()).unwrap();
        let (mut naive, mut made, mut now, mut seq) = (Naive::default(), Vec::new(), START, 0);
        for provider in 1..=PROVIDERS as u8 {
            let offer = Draft::new(provider, 31_990, START - 1)
                .tag(&["d", "x"])
                .tag(&["k", "5050"])
                .content("{\"name\":\"x\"}");
            seq += 1;
            registry.apply(&[(seq, Some(offer.event()))], now, &|_| true).unwrap();
        }
        for _ in 0..50 {
            let mut items = Vec::new();
            for _ in 0..=rng.below(5) {
                let (event, zap) = random_event(&mut rng, &made, now);
                naive.zaps.extend(zap.map(|zap| (event.id, zap)));
                // The relay takes no event that has been deleted or has expired.
                let is_deleted = |by: &Event| {
                    by.kind == 5
                        && by.pubkey == event.pubkey
                        && tags(by, "e").any(|id| id == event.id.to_string())
                };
                let is_vanished = |by: &Event| {
                    by.kind == 62 && by.pubkey == event.pubkey && by.created_at >= event.created_at
                };
                if event.expires_at <= now || made.iter().any(|by| is_deleted(by) || is_vanished(by)) {
                    continue;
                }
                // What the window has left before it came is nowhere kept.
                if event.created_at + WINDOW + 86_400 > now || event.kind <= 62 {
                    naive.put(&event);
                }
                made.push(event.clone());
                seq += 1;
                items.push((seq, Some(event)));
            }
            registry.apply(&items, now, &|_| true).unwrap();
            if rng.one_in(3) {
                let most = if rng.one_in(5) { 10 * 86_400 } else { 3_000 };
                now += rng.below(most);
            }
            if rng.one_in(10) {
                registry = Registry::open(db.clone()).unwrap();
            }
            while registry.sweep(now).unwrap() {
                registry.refresh(now).unwrap();
            }
            while registry.refresh(now).unwrap() {}
            // Announcements go with a request to vanish; figures of whoever is listed are compared.
            let relay = Relay { name: "", url: "", version: "" };
            let ask = |route, npub: Option<&str>| {
                answer(&registry, &Request { route, npub, query: "", relay }, now).unwrap()
            };
            let listed: Value = serde_json::from_slice(&ask(MarketRoute::List, None).body).unwrap();
            for entry in listed["providers"].as_array().unwrap() {
                let provider: PubKey = entry["pubkey"].as_str().unwrap().parse().unwrap();
                let Found { counts, success, bound, latency, gone } = naive.figures(&provider, now);
                let proof: Value =
                    serde_json::from_slice(&ask(MarketRoute::Proof, Some(&npub(&provider))).body).unwrap();
                for (figures, what) in [(&entry["figures"], "list"), (&proof["figures"], "proof")] {
                    let found: Vec<u64> = [
                        "jobs_delivered",
                        "jobs_failed",
                        "jobs_unpaid",
                        "jobs_pending",
                        "open_requests_answered",
                        "distinct_customers_served",
                        "jobs_paid",
                        "distinct_paying_customers",
                        "paid_msat",
                    ]
                    .map(|name| figures[name].as_u64().unwrap())
                    .into();
                    assert_eq!(found, counts, "seed {seed}, {what}");
                    let thousandths = figures["success_ratio_mean_of_customers"]
                        .as_f64()
                        .map(|ratio| (ratio * 1_000.0).round() as u64);
                    assert!(
                        thousandths.is_some() == success.is_some()
                            && thousandths.unwrap_or(0).abs_diff(success.unwrap_or(0)) <= 1,
                        "seed {seed}, {what}: {thousandths:?} {success:?}"
                    );
                    let found = figures["success_ratio_lower_bound_95"].as_f64().unwrap() * 1_000.0;
                    assert!((found - bound).abs() < 1.5, "seed {seed}, {what}: {found} {bound}");
                    assert_eq!(
                        figures["latency_seconds_median_of_customers"].as_u64(),
                        latency,
                        "seed {seed}, {what}"
                    );
                }
                let days = "latency_seconds_by_day";
                assert_eq!(entry["figures"][days], proof["figures"][days], "seed {seed}");
                let found: Vec<&str> =
                    proof["expired"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
                assert_eq!(found, gone, "seed {seed}");
                // From what the proof shows and the relay still serves anybody recomputes it.
                let read = Proof::read(&proof).unwrap();
                let served = naive
                    .events
                    .iter()
                    .filter(|event| event.expires_at == NO_EXPIRY || event.expires_at > now);
                let mut ids = BTreeSet::new();
                let all: Vec<&Event> = read
                    .events
                    .iter()
                    .chain(served)
                    .filter(|event| event.created_at <= now && ids.insert(event.id))
                    .collect();
                assert_eq!(read.recompute(all.iter().copied()), proof["figures"], "seed {seed}");
                assert!(
                    read.ids.iter().all(|id| ids.contains(id)),
                    "seed {seed}: an id that the relay does not serve"
                );
                compared += 1;
                delivered += counts[0];
                paid += counts[6];
                expired += gone.len();
            }
        }
    }
    assert!(compared > 3_000 && delivered > 3_000, "{compared} {delivered}");
    assert!(expired > 100 && paid > 200, "{expired} {paid}");
}
