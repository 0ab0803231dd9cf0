//! The registry alone, with a clock of its own: who is listed, what counts, what ends with time, what repeats change.

#[path = "../common/mod.rs"]
mod common;
mod payments;
mod receipts;
mod weights;

use common::{Draft, pubkey};
use relay_agent::api::Relay;
use relay_agent::identity::npub;
use relay_engine::types::{Event, Timestamp};
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_market::proof::Proof;
use relay_market::registry::Bounds;
use relay_market::testing::Sqlite;
use relay_site::{HttpResponse, MarketRoute};
use serde_json::{Value, json};

const NOW: Timestamp = 2_000_000_000;
const HOUR: Timestamp = 3_600;
const DAY: Timestamp = 86_400;
const RELAY: Relay<'static> = Relay { name: "test", url: "", version: "0" };

/// A registry with a relay that numbers events.
struct Host {
    db: Sqlite,
    registry: Registry<Sqlite>,
    seq: u64,
    now: Timestamp,
}

impl Host {
    fn new() -> Self {
        let db = Sqlite::new();
        Host { registry: Registry::open(db.clone()).unwrap(), db, seq: 0, now: NOW }
    }

    fn apply(&mut self, events: &[Draft]) {
        let events: Vec<Event> = events.iter().map(Draft::event).collect();
        self.apply_events(&events);
    }

    fn apply_events(&mut self, events: &[Event]) {
        let items: Vec<_> = events
            .iter()
            .map(|event| {
                self.seq += 1;
                (self.seq, Some(event.clone()))
            })
            .collect();
        self.registry.apply(&items, self.now, &|_| true).unwrap();
        self.count();
    }

    fn count(&mut self) {
        while self.registry.refresh(self.now).unwrap() {}
    }

    fn pass(&mut self, seconds: Timestamp) {
        self.now += seconds;
        while self.registry.sweep(self.now).unwrap() {
            self.count();
        }
        self.count();
    }

    fn get(&self, route: MarketRoute, npub: Option<&str>, query: &str) -> HttpResponse {
        answer(&self.registry, &Request { route, npub, query, relay: RELAY }, self.now).unwrap()
    }

    fn list(&self, query: &str) -> Value {
        let response = self.get(MarketRoute::List, None, query);
        assert_eq!(response.status, 200, "{query}: {response:?}");
        serde_json::from_slice(&response.body).unwrap()
    }

    fn names(&self, query: &str) -> Vec<String> {
        let listed = self.list(query);
        let providers = listed["providers"].as_array().unwrap();
        providers.iter().map(|provider| provider["name"].as_str().unwrap().to_owned()).collect()
    }

    fn only(&self) -> Value {
        let listed = self.list("");
        assert_eq!(listed["providers"].as_array().unwrap().len(), 1, "{listed}");
        listed["providers"][0].clone()
    }

    /// `[delivered, failed, unpaid, pending, customers]` of the only provider.
    fn counts(&self) -> [u64; 5] {
        let figures = &self.only()["figures"];
        ["jobs_delivered", "jobs_failed", "jobs_unpaid", "jobs_pending", "distinct_customers_served"]
            .map(|name| figures[name].as_u64().unwrap())
    }

    fn proof(&self, author: u8) -> Value {
        let response = self.get(MarketRoute::Proof, Some(&npub(&pubkey(author))), "");
        assert_eq!(response.status, 200, "{response:?}");
        serde_json::from_slice(&response.body).unwrap()
    }
}

fn key(author: u8) -> String {
    pubkey(author).to_string()
}

fn announcement(author: u8, name: &str, kinds: &[&str], amount: &str) -> Draft {
    let content = json!({ "name": name, "about": format!("About {name}"), "amount": amount }).to_string();
    let draft = Draft::new(author, 31_990, NOW - DAY).tag(&["d", name]).content(&content);
    kinds.iter().fold(draft, |draft, kind| draft.tag(&["k", kind]))
}

fn request(customer: u8, provider: u8, at: Timestamp) -> Draft {
    Draft::new(customer, 5_050, at).tag(&["p", &key(provider)])
}

fn reply(provider: u8, to: &Draft, kind: u16, at: Timestamp) -> Draft {
    let to = to.event();
    Draft::new(provider, kind, at).tag(&["e", &to.id.to_string()]).tag(&["p", &to.pubkey.to_string()])
}

fn result(provider: u8, to: &Draft, at: Timestamp) -> Draft {
    reply(provider, to, 6_050, at)
}

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
fn a_provider_goes_offline_within_15_minutes_of_stopping() {
    let mut host = Host::new();
    host.apply(&[announcement(1, "shout", &["5050"], "free")]);
    assert_eq!(host.only()["online"], false, "it has never sent a heartbeat");
    let heartbeat = |at: Timestamp| {
        Draft::new(1, 11_998, at)
            .tag(&["d", "shout"])
            .tag(&["status", "online"])
            .tag(&["expiration", &(at + 600).to_string()])
    };
    for _ in 0..3 {
        host.apply(&[heartbeat(host.now)]);
        assert_eq!(host.only()["online"], true);
        host.pass(240);
        assert_eq!((host.names("online=true").len(), host.names("online=false").len()), (1, 0));
    }
    // It has stopped 240 seconds ago.
    host.pass(180);
    assert_eq!(host.only()["online"], true, "420 seconds after its last heartbeat");
    host.pass(1);
    assert_eq!(host.only()["online"], false);
    assert_eq!((host.names("online=true").len(), host.names("online=false").len()), (0, 1));
    // One that states a later time does not last longer: at most 420 seconds after it came.
    host.apply(&[heartbeat(host.now + 900)]);
    assert_eq!(host.only()["online"], true);
    host.pass(421);
    assert_eq!(host.only()["online"], false);
    assert_eq!(host.only()["last_seen"], host.now - 421);
    // It says so itself.
    host.apply(&[heartbeat(host.now + 901).content("")]);
    assert_eq!(host.only()["online"], true);
    host.apply(&[Draft::new(1, 11_998, host.now + 902).tag(&["status", "offline"])]);
    assert_eq!(host.only()["online"], false);
}

#[test]
fn lists_are_filtered_and_sorted() {
    let mut host = Host::new();
    host.apply(&[
        announcement(1, "Cheap", &["5050", "5001"], "10").tag(&["t", "AI"]),
        announcement(2, "Dear", &["5050"], "500").tag(&["t", "art"]),
        announcement(3, "Gratis", &["5002"], "free").tag(&["t", "ai-art"]),
        announcement(4, "Haggler", &["5050"], "flexible"),
    ]);
    // Two announcements: no single one is both of kind 5100 and below a satoshi.
    host.apply(&[announcement(3, "Painter", &["5100"], "70")]);
    let (asked, other) = (request(9, 2, NOW - 2 * HOUR), request(8, 1, NOW - 2 * HOUR));
    host.apply(&[
        asked.clone(),
        result(2, &asked, NOW - 2 * HOUR + 30),
        other.clone(),
        result(1, &other, NOW - 2 * HOUR + 3),
    ]);
    let second = request(8, 2, NOW - 2 * HOUR);
    host.apply(&[second.clone(), result(2, &second, NOW - 2 * HOUR + 30)]);
    let sorted = |query: &str| {
        // An entry is named by its newest announcement, and of the same second by the one with the lowest id.
        let mut names: Vec<String> =
            host.names(query).into_iter().map(|name| name.replace("Painter", "Gratis")).collect();
        names.sort();
        names
    };
    for (query, want) in [
        ("", &["Cheap", "Dear", "Gratis", "Haggler"][..]),
        ("kind=5050", &["Cheap", "Dear", "Haggler"]),
        ("kind=5001", &["Cheap"]),
        ("kind=5999", &[]),
        ("max_msat=10000", &["Cheap", "Gratis"]),
        ("max_msat=9999", &["Gratis"]),
        ("kind=5100&max_msat=9999", &[]),
        ("kind=5100&max_msat=70000", &["Gratis"]),
        ("tag=ai", &["Cheap"]),
        ("tag=AI-ART", &["Gratis"]),
        ("q=hagg", &["Haggler"]),
        ("q=TRANSLATION", &["Gratis"]),
        ("q=%25", &[]),
        ("online=true", &[]),
    ] {
        assert_eq!(sorted(query), want, "{query}");
    }
    let first = |sort: &str| {
        host.names(&format!("sort={sort}&limit=2"))
            .into_iter()
            .map(|name| name.replace("Painter", "Gratis"))
            .collect::<Vec<_>>()
    };
    assert_eq!(first("success"), ["Dear", "Cheap"], "two customers are more than one");
    assert_eq!(first("customers"), ["Dear", "Cheap"]);
    assert_eq!(first("latency"), ["Cheap", "Dear"]);
    assert_eq!(first("price"), ["Gratis", "Cheap"]);
    // Pages together are the whole.
    for sort in ["success", "customers", "latency", "price", "seen"] {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let part = host.list(&format!("sort={sort}&limit=1&cursor={cursor}"));
            all.extend(
                part["providers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|each| each["pubkey"].as_str().unwrap().to_owned()),
            );
            match part["next"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        let whole = host.list(&format!("sort={sort}"));
        let whole: Vec<&str> = whole["providers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|each| each["pubkey"].as_str().unwrap())
            .collect();
        assert_eq!(all, whole, "{sort}");
        assert_eq!(all.len(), 4);
    }
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
fn the_newest_announcement_of_an_address_counts() {
    let mut host = Host::new();
    let offer = |name: &str, at: Timestamp, kinds: &[&str]| {
        Draft {
            created_at: at,
            tags: vec![vec!["d".into(), "x".into()]],
            ..announcement(1, name, &[], "free")
        }
        .tag(&["k", kinds[0]])
    };
    let (old, new) = (offer("old", NOW - 9, &["5050"]), offer("new", NOW - 5, &["5050"]));
    host.apply(&[old.clone(), new.clone(), old]);
    assert_eq!(host.names(""), ["new"]);
    // It announces no jobs any more; the older version does not come back.
    host.apply(&[offer("none", NOW - 4, &["1"])]);
    assert_eq!(host.names(""), [""; 0]);
    let expired = offer("short", NOW, &["5050"]).tag(&["expiration", &(NOW + 100).to_string()]);
    host.apply(&[expired]);
    assert_eq!(host.names(""), ["short"]);
    host.pass(100);
    assert_eq!(host.names(""), [""; 0]);
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
fn bad_requests_name_their_field() {
    let host = Host::new();
    let bad = host.get(MarketRoute::List, None, "kind=1");
    let document: Value = serde_json::from_slice(&bad.body).unwrap();
    assert_eq!((bad.status, &document["field"]), (400, &json!("kind")));
    let page = host.get(MarketRoute::ListPage, None, "kind=%3Cb%3E");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert_eq!(page.status, 400);
    assert!(text.contains("<b>kind</b> must be") && text.contains("value=\"&lt;b&gt;\""), "{text}");
    for npub in ["npub1", "", "zz"] {
        assert_eq!(host.get(MarketRoute::Proof, Some(npub), "").status, 400, "{npub}");
    }
    let unknown = npub(&pubkey(7));
    assert_eq!(host.get(MarketRoute::Proof, Some(&unknown), "").status, 404);
}

/// A registry with bounds that a test can reach.
fn bounded(bounds: Bounds) -> Host {
    let db = Sqlite::new();
    Host { registry: Registry::open_bounded(db.clone(), bounds).unwrap(), db, seq: 0, now: NOW }
}

/// What the proof of a provider and all that a relay has say together.
fn recomputed(host: &Host, author: u8, served: &[Draft]) -> (Value, Value) {
    let document = host.proof(author);
    let proof = Proof::read(&document).unwrap();
    let served: Vec<Event> = served.iter().map(Draft::event).collect();
    let all = proof.events.iter().chain(&served);
    (proof.recompute(all), document["figures"].clone())
}

/// Regression: a sweep removed fewer events than a flood could add in the meantime. And of what was forgotten for the number of
/// its author, requests without their results seemed to have failed.
#[test]
fn a_flood_keeps_the_bounds_and_figures_stay_true() {
    let bounds = Bounds { events: 300, author_events: 100, named: 400, ..Bounds::default() };
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
        assert!(host.db.count("market_evidence") <= 300 && host.db.count("market_named") <= 400);
        let (recomputed_figures, claimed) = recomputed(&host, 1, &served);
        assert_eq!(recomputed_figures, claimed, "{part}");
    }
    assert_eq!(host.only()["figures"]["newest_jobs_only"], true);
    // The count is the same after a restart.
    let reopened = Registry::open_bounded(host.db.clone(), bounds).unwrap();
    host.registry = reopened;
    host.apply(&[request(90, 1, NOW)]);
    assert!(host.db.count("market_named") <= 400);
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
    assert!((10..20).contains(&host.counts()[3]), "{:?}", host.counts());
    let (recomputed_figures, claimed) = recomputed(&host, 1, &all);
    assert_eq!(recomputed_figures, claimed);
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

/// Regression: ten thousand keys with a customer each, which cost nothing, kept every new provider out for a month.
#[test]
fn a_new_provider_takes_the_place_of_a_silent_one() {
    let mut host = bounded(Bounds { providers: 3, offers: 4, ..Bounds::default() });
    let served = |provider: u8| {
        let asked = request(100 + provider, provider, NOW - HOUR);
        [
            announcement(provider, &provider.to_string(), &["5050"], "free"),
            asked.clone(),
            result(provider, &asked, NOW),
        ]
    };
    for provider in 1..=3 {
        host.apply(&served(provider));
    }
    host.apply(&[announcement(4, "new", &["5050"], "free")]);
    assert_eq!(host.names("").len(), 3);
    assert!(!host.names("").contains(&"new".to_owned()), "all have been seen today");
    host.pass(DAY + 1);
    let heartbeat = Draft::new(2, 11_998, host.now);
    host.apply(&[heartbeat, announcement(4, "new", &["5050"], "free")]);
    let names = host.names("");
    assert_eq!(names.len(), 3);
    assert!(names.contains(&"new".to_owned()) && names.contains(&"2".to_owned()), "{names:?}");
    // Announcements of all are bounded too: one more, and no further one.
    host.apply(&[announcement(2, "second", &["5050"], "free"), announcement(2, "third", &["5050"], "free")]);
    assert_eq!(host.db.count("market_offers"), 4);
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

#[test]
fn a_heartbeat_writes_three_rows() {
    let mut host = Host::new();
    host.apply(&[announcement(1, "shout", &["5050"], "free"), Draft::new(1, 11_998, NOW)]);
    for _ in 0..10 {
        host.pass(240);
        let before = host.db.rows_written();
        host.apply(&[Draft::new(1, 11_998, host.now)]);
        assert_eq!(host.db.rows_written() - before, 3);
        assert_eq!(host.only()["last_seen"], host.now);
    }
}
