//! Who is listed and online, lists, and requests that are wrong.

use relay_agent::identity::npub;
use relay_engine::types::Timestamp;
use relay_market::registry::Bounds;
use relay_site::MarketRoute;
use serde_json::{Value, json};

use super::common::{Draft, pubkey};
use super::{DAY, HOUR, Host, NOW, announcement, bounded, request, result};

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
