//! Announcements, heartbeats and retractions: exact tags and contents.

mod nip90_kit;

use nip90_kit::{agent, check_event, check_valid, content_of, keys, tags_of};
use relay_agent::manifest::Manifest;
use relay_agent::nip90::{
    COMMON_EVENT_BYTES_MAX, HEARTBEAT_EVERY_SECONDS, HEARTBEAT_EXPIRES_SECONDS, announcement_d,
    announcements, heartbeat, retraction,
};
use relay_engine::types::{Class, Event};
use serde_json::{Value, json};

const AT: u64 = 1_790_000_000;
const RELAY: &str = "wss://relay.example";

fn manifest(value: Value) -> Manifest {
    serde_json::from_value(value).unwrap()
}

fn echo() -> Manifest {
    manifest(json!({
        "name": "Echo Agent",
        "about": "Says it \"again\".",
        "picture": "https://a.example/echo.png",
        "homepage": "https://a.example",
        "handlers": [
            { "kind": 5050, "executor": "echo", "config": {},
              "params": { "style": { "required": true, "values": ["plain", "loud"] }, "lang": {} } },
            { "kind": 5001, "executor": "echo", "config": {},
              "params": { "style": { "values": ["loud", "low"] }, "lang": { "values": ["en"] } } },
            { "kind": 5050, "executor": "echo", "config": {} },
        ],
        "relays": ["wss://relay.example/", "wss://nos.lol"],
        "tags": ["Echo", "test", "echo"],
    }))
}

fn of_kind(events: &[Event], kind: u16) -> &Event {
    events.iter().find(|event| event.kind == kind).unwrap()
}

#[test]
fn an_agent_is_announced_by_four_events() {
    let events = announcements(&agent(), &echo(), Some(RELAY), AT);
    let kinds: Vec<u16> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [0, 10_002, 10_050, 31_990]);
    for event in &events {
        assert_eq!(event.created_at, AT);
        assert!(matches!(event.class(), Class::Replaceable | Class::Addressable));
    }
    let none = &events[0];
    let profile = concat!(
        r#"{"name":"Echo Agent","about":"Says it \"again\".","picture":"https://a.example/echo.png","#,
        r#""nip05":"echo-agent@relay.example","website":"https://a.example","bot":true}"#
    );
    check_event(of_kind(&events, 0), 0, &[], profile, none);
    let r: [&[&str]; 2] = [&["r", RELAY], &["r", "wss://nos.lol"]];
    check_event(of_kind(&events, 10_002), 10_002, &r, "", none);
    let relay: [&[&str]; 4] = [&["relay", RELAY], &["relay", "wss://nos.lol"], r[0], r[1]];
    check_event(of_kind(&events, 10_050), 10_050, &relay, "", none);
    let tags: &[&[&str]] = &[&["d", "{d}"], &["k", "5001"], &["k", "5050"], &["t", "echo"], &["t", "test"]];
    let content = concat!(
        r#"{"name":"Echo Agent","about":"Says it \"again\".","picture":"https://a.example/echo.png","#,
        r#""image":"https://a.example/echo.png","amount":"free","supportsEncryption":true,"#,
        r#""encryptionSupported":true,"acceptsNutZaps":false,"nip90Params":{"lang":{"required":false,"values":[]},"#,
        r#""style":{"required":true,"values":["plain","loud","low"]}}}"#
    );
    check_event(of_kind(&events, 31_990), 31_990, tags, content, none);
}

#[test]
fn what_a_manifest_has_not_is_not_announced() {
    let bare = manifest(json!({
        "name": "x", "handlers": [{ "kind": 5050, "executor": "echo", "config": {} }], "encryption": false,
    }));
    let events = announcements(&agent(), &bare, None, AT);
    let kinds: Vec<u16> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [0, 31_990], "without relays there is no list of them");
    check_event(&events[0], 0, &[], r#"{"name":"x","about":"","bot":true}"#, &events[0]);
    let content = concat!(
        r#"{"name":"x","about":"","amount":"free","supportsEncryption":false,"encryptionSupported":false,"#,
        r#""acceptsNutZaps":false,"nip90Params":{}}"#
    );
    check_event(&events[1], 31_990, &[&["d", "{d}"], &["k", "5050"]], content, &events[1]);
}

#[test]
fn no_announcement_has_fields_that_clients_misread() {
    let events = announcements(&agent(), &echo(), Some(RELAY), AT);
    let announcement = of_kind(&events, 31_990);
    assert!(content_of(announcement).starts_with('{'));
    let content: Value = serde_json::from_str(&content_of(announcement)).unwrap();
    assert!(content["amount"].is_string() && content.get("subscription").is_none());
    assert!(tags_of(announcement).iter().all(|tag| tag[0] != "web"));
}

#[test]
fn a_lightning_address_is_in_profile_and_announcement() {
    let zapped = manifest(json!({
        "name": "x", "handlers": [{ "kind": 5050, "executor": "echo", "config": {} }],
        "payment": { "policy": "prepay", "wallet_ref": "AGENT_WALLET", "zap": "x@pay.example" },
    }));
    let events = announcements(&agent(), &zapped, None, AT);
    for kind in [0, 31_990] {
        let content: Value = serde_json::from_str(&content_of(of_kind(&events, kind))).unwrap();
        assert_eq!(content["lud16"], "x@pay.example", "{kind}");
    }
}

/// Satoshis here, as a string.
#[test]
fn prices_are_announced() {
    for (prices, want) in [
        (&[0, 0][..], "free"),
        (&[21_000], "21"),
        (&[21_000, 20_500], "21"),
        (&[500], "1"),
        (&[0, 21_000], "flexible"),
        (&[21_000, 22_000], "flexible"),
    ] {
        let handler = |(at, msat): (usize, &u64)| {
            let price = match msat {
                0 => json!({ "model": "free" }),
                msat => json!({ "model": "per_job", "msat": msat }),
            };
            json!({ "kind": 5_000 + at, "executor": "echo", "config": {}, "price": price })
        };
        let handlers: Vec<Value> = prices.iter().enumerate().map(handler).collect();
        let events =
            announcements(&agent(), &manifest(json!({ "name": "x", "handlers": handlers })), None, AT);
        let content: Value = serde_json::from_str(&content_of(of_kind(&events, 31_990))).unwrap();
        assert_eq!(content["amount"], want, "{prices:?}");
    }
}

#[test]
fn a_name_at_the_hosts_domain_needs_a_public_host() {
    let nip05 = |relay: Option<&str>| {
        let events = announcements(&agent(), &echo(), relay, AT);
        let profile: Value = serde_json::from_str(&content_of(&events[0])).unwrap();
        profile.get("nip05").and_then(Value::as_str).map(str::to_owned)
    };
    let rows = [
        (Some("wss://relay.example"), Some("echo-agent@relay.example")),
        (Some("wss://relay.example/nostr"), Some("echo-agent@relay.example")),
        (Some("wss://Relay.Example:443/"), Some("echo-agent@relay.example")),
        (Some("wss://relay.example:8443"), Some("echo-agent@relay.example:8443")),
        (Some("ws://relay.example"), None),
        (Some("ws://127.0.0.1:7777"), None),
        (Some("nonsense"), None),
        (None, None),
    ];
    for (relay, expected) in rows {
        assert_eq!(nip05(relay).as_deref(), expected, "{relay:?}");
    }
}

#[test]
fn a_long_list_of_values_does_not_make_an_announcement_that_relays_refuse() {
    let mut large = echo();
    let values = (0..10_000).map(|number| format!("value {number}")).collect();
    large.handlers[0].params.get_mut("style").unwrap().values = values;
    large.tags.push("x".repeat(1_025));
    let events = announcements(&agent(), &large, Some(RELAY), AT);
    let announcement = of_kind(&events, 31_990);
    check_valid(announcement);
    assert!(announcement.json().len() <= COMMON_EVENT_BYTES_MAX);
    let content: Value = serde_json::from_str(&content_of(announcement)).unwrap();
    assert_eq!((&content["nip90Params"], &content["name"]), (&json!({}), &json!("Echo Agent")));
    assert!(tags_of(announcement).iter().all(|tag| tag[1].len() <= 1_024));
}

#[test]
fn a_heartbeat_has_the_d_of_the_announcement_and_outlives_two_of_its_kind() {
    let made = heartbeat(&agent(), AT);
    let tags: &[&[&str]] = &[&["d", "{d}"], &["status", "online"], &["expiration", "1790000600"]];
    check_event(&made, 11_998, tags, "Ready for jobs", &made);
    assert_eq!(made.class(), Class::Replaceable);
    assert!(
        !made.is_expired(AT + 2 * HEARTBEAT_EVERY_SECONDS) && made.is_expired(AT + HEARTBEAT_EXPIRES_SECONDS)
    );
    assert_ne!(announcement_d(&agent().pubkey()), announcement_d(&keys(3).pubkey()));
}

#[test]
fn a_retraction_deletes_the_announcement_by_its_address() {
    let made = retraction(&agent(), AT);
    let tags: &[&[&str]] = &[&["a", "31990:{agent}:{d}"], &["k", "31990"]];
    check_event(&made, 5, tags, "", &made);
}
