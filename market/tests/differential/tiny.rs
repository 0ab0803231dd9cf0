//! Tiny bounds and floods: a naive recomputation does not know what is forgotten, but the proof says it.

use std::collections::BTreeSet;

use relay_agent::api::Relay;
use relay_agent::identity::npub;
use relay_engine::sql::column::int;
use relay_engine::sql::query_one;
use relay_engine::testing::Rng;
use relay_engine::types::{Event, EventId, PubKey};
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_market::proof::Proof;
use relay_market::registry::Bounds;
use relay_market::testing::Sqlite;
use relay_site::MarketRoute;
use serde_json::Value;

use super::common::Draft;
use super::naive::tags;
use super::random::random_event;
use super::{PROVIDERS, START};

/// With tiny bounds and floods: what is kept is bounded, the registry knows what its tables have, figures are those of its proof, and anybody recomputes
/// them from it.
#[test]
fn with_tiny_bounds_figures_are_those_of_the_proof() {
    let bounds =
        Bounds { events: 60, author_events: 20, kept_bytes: 6_000, receipts: 12, ..Bounds::default() };
    let (mut compared, mut delivered, mut paid, mut capped) = (0, 0, 0, 0);
    for seed in 100..160 {
        let mut rng = Rng::new(seed);
        let db = Sqlite::new();
        let mut registry = Registry::open_bounded(db.clone(), bounds).unwrap();
        let (mut made, mut now, mut seq): (Vec<Event>, _, _) = (Vec::new(), START, 0);
        let (mut removed, mut vanished) = (BTreeSet::new(), Vec::new());
        for provider in 1..=PROVIDERS as u8 {
            let offer =
                Draft::new(provider, 31_990, START - 1).tag(&["d", "x"]).tag(&["k", "5050"]).content("{}");
            seq += 1;
            registry.apply(&[(seq, Some(offer.event()))], now, &|_| true).unwrap();
        }
        for _ in 0..60 {
            let flood = if rng.one_in(8) { 25 } else { 4 };
            let mut items = Vec::new();
            for _ in 0..flood {
                let (event, _) = random_event(&mut rng, &made, now);
                let is_vanished = vanished
                    .iter()
                    .any(|(author, until)| *author == event.pubkey && event.created_at <= *until);
                if event.expires_at <= now
                    || event.kind == 62 && !rng.one_in(4)
                    || is_vanished
                    || removed.contains(&event.id)
                {
                    continue;
                }
                if event.kind == 5 {
                    let own =
                        |id: &EventId| made.iter().any(|one| one.id == *id && one.pubkey == event.pubkey);
                    removed.extend(tags(&event, "e").filter_map(|id| id.parse().ok()).filter(own));
                } else if event.kind == 62 {
                    vanished.push((event.pubkey, event.created_at));
                }
                made.push(event.clone());
                seq += 1;
                items.push((seq, Some(event)));
            }
            registry.apply(&items, now, &|_| true).unwrap();
            let most = if rng.one_in(8) { 5 * 86_400 } else { 1_000 };
            now += rng.below(most);
            if rng.one_in(10) {
                registry = Registry::open_bounded(db.clone(), bounds).unwrap();
            }
            while registry.sweep(now).unwrap() {
                while registry.refresh(now).unwrap() {}
            }
            while registry.refresh(now).unwrap() {}
            let [events, receipts] = ["market_evidence", "market_receipts"].map(|table| db.count(table));
            assert!(events <= 60 && receipts <= 12, "seed {seed}: {events} {receipts}");
            let sum = |sql: &str| query_one(&db, sql, &[], |row| int(row, 0)).unwrap().unwrap();
            for (what, column) in [
                ("SELECT ifnull(sum(length(json)), 0) FROM market_copies", "kept_bytes"),
                ("SELECT ifnull(sum(copy), 0) FROM market_evidence", "kept_bytes"),
                ("SELECT count(*) FROM market_evidence", "events"),
                ("SELECT count(*) FROM market_receipts", "receipts"),
            ] {
                assert_eq!(
                    sum(what),
                    sum(&format!("SELECT {column} FROM market_state")),
                    "seed {seed}: {what}"
                );
            }
            assert!(sum("SELECT kept_bytes FROM market_state") <= 6_000, "seed {seed}");
            const MATCHED: &str = "SELECT count(*) FROM market_receipts t WHERE matched <> EXISTS (SELECT 1 FROM market_evidence z \
                JOIN market_evidence r ON r.id = z.request AND r.role = 0 WHERE z.id = t.zapped AND r.author = t.payer AND \
                (z.role > 0 AND z.author = t.payee OR EXISTS (SELECT 1 FROM market_named n WHERE n.provider = t.payee AND n.request = z.id)))";
            assert_eq!(sum(MATCHED), 0, "seed {seed}: what matches");
            let relay = Relay { name: "", url: "", version: "" };
            let ask = |route, npub: Option<&str>| {
                let request = Request { route, npub, query: "", relay };
                serde_json::from_slice::<Value>(&answer(&registry, &request, now).unwrap().body).unwrap()
            };
            let is_gone = |event: &Event| {
                let is_vanished = vanished
                    .iter()
                    .any(|(author, until)| *author == event.pubkey && event.created_at <= *until);
                removed.contains(&event.id) || is_vanished || event.expires_at <= now
            };
            for entry in ask(MarketRoute::List, None)["providers"].as_array().unwrap() {
                let provider: PubKey = entry["pubkey"].as_str().unwrap().parse().unwrap();
                let proof = ask(MarketRoute::Proof, Some(&npub(&provider)));
                for name in
                    ["jobs_delivered", "jobs_failed", "jobs_unpaid", "jobs_pending", "jobs_paid", "paid_msat"]
                {
                    assert_eq!(entry["figures"][name], proof["figures"][name], "seed {seed}: {name}");
                }
                let read = Proof::read(&proof).unwrap();
                let mut ids = BTreeSet::new();
                let served = made.iter().filter(|event| !is_gone(event));
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
                let count = |name: &str| proof["figures"][name].as_u64().unwrap();
                compared += 1;
                delivered += count("jobs_delivered");
                paid += count("jobs_paid");
                capped += u64::from(proof["figures"]["newest_payments_only"] == true);
            }
        }
    }
    assert!(compared > 3_000 && delivered > 2_000 && paid > 100, "{compared} {delivered} {paid}");
    assert!(capped > 100, "{capped}");
}
