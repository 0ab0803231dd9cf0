//! Tests of what variables are taken, and what is said of others.

#![allow(clippy::unwrap_used)]

use super::*;

fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::load(&|name| {
        variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn pictures_have_no_more_bytes_than_fit_an_isolate() {
    for (config, want) in [("{}", 8 << 20), (r#"{"blossom":{"media_bytes_max":1000}}"#, 1_000)] {
        assert_eq!(load(&[("RELAY_CONFIG", config)]).unwrap().blossom.media_bytes_max, want, "{config}");
    }
}

#[test]
fn variables_override_the_configuration() {
    let config = r#"{"info":{"name":"from config","contact":"mailto:a@b"},"limits":{"limit_max":7,
        "limit_default":3},"policy":{"auth_required":true},"store":{"sweep_seconds":0}}"#;
    let settings = load(&[("RELAY_CONFIG", config), ("RELAY_NAME", "own"), ("RELAY_PUBKEY", "")]).unwrap();
    assert_eq!(settings.info.name, "own");
    assert_eq!(settings.info.contact.as_deref(), Some("mailto:a@b"));
    assert_eq!(settings.info.pubkey, None);
    assert_eq!((settings.limits.limit_max, settings.limits.limit_default), (7, 3));
    assert!(settings.policy.auth_required);
    assert_eq!(settings.store.sweep_seconds, 1);
}

#[test]
fn limits_never_exceed_those_of_the_platform() {
    let config = r#"{"limits":{"event_bytes_max":9000000,"message_bytes_max":90000000,
        "connections_max":1000000}}"#;
    let limits = load(&[("RELAY_CONFIG", config)]).unwrap().limits;
    assert_eq!(limits.event_bytes_max, EVENT_BYTES_MAX);
    assert_eq!(limits.message_bytes_max, 32 << 20);
    assert_eq!(limits.connections_max, 32_000);
    assert_eq!((limits.connection_values_max, limits.shard_values_max), (20_000, 120_000));
    assert_eq!((limits.shard_outbox_bytes_max, limits.shard_filter_bytes_max), (32 << 20, 36 << 20));
    assert_eq!(limits.filter_values_max, 19_900);
    assert_eq!(limits.in_flight_bytes_max, 16 << 20);
    assert_eq!(limits.step_cost_max, 250);
    assert_eq!(limits.deferred_bytes_max, 8 << 20);
    assert_eq!(limits.query_bytes_max, 16 << 20);
    assert_eq!(limits.neg_sets_bytes_max, 8 << 20);
    assert_eq!(limits.neg_prepared_events_max, 0);
    let limits = load(&[("RELAY_CONFIG", r#"{"limits":{"connection_values_max":10}}"#)]).unwrap().limits;
    assert_eq!(limits.connection_values_max, 10);
}

#[test]
fn uploads_are_sold_by_an_agent_that_is_named() {
    let config = |payment: &str| format!(r#"{{"blossom":{{"payment":{payment}}}}}"#);
    let key = "ab".repeat(32);
    let whole = config(&format!(r#"{{"pubkey":"{key}","upload_msat_per_mib":21000,"free_bytes":9}}"#));
    let settings = load(&[("RELAY_CONFIG", &whole)]).unwrap();
    assert_eq!(settings.blossom.payment.upload_msat(10), Some(1_000));
    let shown = settings.without_secrets();
    assert_eq!(shown["blossom"]["payment"]["pubkey"], key.as_str());
    let off = format!(r#"{{"agents":{{"enabled":false}},{}"#, whole.get(1..).unwrap());
    for (config, error) in [
        (config(r#"{"upload_msat_per_mib":1}"#), "blossom.payment.upload_msat_per_mib: needs"),
        (config(&format!(r#"{{"pubkey":"{key}"}}"#)), "blossom.payment.pubkey: is of no use"),
        (config(r#"{"pubkey":"x"}"#), "public key `x`"),
        (config(r#"{"msat":1}"#), "unknown field `msat`"),
        (off, "agents.enabled is off"),
    ] {
        let told = load(&[("RELAY_CONFIG", &config)]).unwrap_err();
        assert!(told.contains(error), "{told}");
    }
}

#[test]
fn other_relays_are_copied_from() {
    let config = r#"{"sync":{"peers":[{"url":"wss://a.example"},
        {"url":"ws://b.example/x","filter":{"kinds":[1]},"every_seconds":60}]}}"#;
    let peers = load(&[("RELAY_CONFIG", config)]).unwrap().sync.peers;
    let read: Vec<_> = peers.iter().map(|peer| (peer.name(), peer.every_seconds)).collect();
    let names = ["wss://a.example {}", r#"ws://b.example/x {"kinds":[1]}"#];
    assert_eq!(read, [(names[0].to_owned(), 3_600), (names[1].to_owned(), 60)]);
    let own = load(&[("RELAY_CONFIG", config), ("RELAY_URL", "wss://A.example")]).unwrap_err();
    assert_eq!(own, "sync.peers[0].url: `wss://a.example` is this relay");
    let many: Vec<_> = (0..17).map(|n| json!({"url": format!("wss://{n}.example")})).collect();
    let many = load(&[("RELAY_CONFIG", &json!({"sync": {"peers": many}}).to_string())]).unwrap_err();
    assert_eq!(many, "sync.peers: 17 relays; 16 are allowed");
}

#[test]
#[cfg(feature = "libsecp256k1")]
fn secrets_are_never_shown() {
    // The first test vector of BIP340.
    let secret = format!("{}3", "0".repeat(63));
    let public = "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9";
    let (one, two) = ("11".repeat(32), "22".repeat(32));
    let admins = format!("{one}, {two}");
    let variables =
        [("RELAY_PRIVATE_KEY", &*secret), ("ADMIN_PUBKEYS", &admins), ("METRICS_TOKEN", "s3cret")];
    let settings = load(&variables).unwrap();
    assert_eq!(settings.info.own_pubkey.as_deref(), Some(public));
    assert_eq!(
        settings.policy.admin_pubkeys.iter().map(PubKey::to_string).collect::<Vec<_>>(),
        [one.clone(), two]
    );
    assert!(settings.description().information().contains(&format!(r#""self":"{public}""#)));
    let debug = format!("{settings:?}");
    let config = settings.without_secrets().to_string();
    assert!(config.contains(&one) && config.contains("\"shards\":1"), "{config}");
    for shown in [debug, config] {
        assert!(!shown.contains(&secret) && !shown.contains("s3cret"), "{shown}");
    }
    assert_eq!(settings.metrics_token.unwrap().reveal(), "s3cret");
}

#[test]
fn errors_name_the_invalid_variable() {
    let zeros = "0".repeat(64);
    let cases = [
        ("RELAY_CONFIG", "{", "RELAY_CONFIG: "),
        ("RELAY_CONFIG", r#"{"limit":{}}"#, "RELAY_CONFIG: unknown field `limit`"),
        ("RELAY_CONFIG", r#"{"limits":{"filters_max":0}}"#, "limits.filters_max"),
        (
            "RELAY_CONFIG",
            r#"{"network":{"exempt_addresses":["10.0.0.0/33"]}}"#,
            "network.exempt_addresses: `10.0.0.0/33` is neither",
        ),
        (
            "RELAY_CONFIG",
            r#"{"network":{"connections_per_address_max":0}}"#,
            "network.connections_per_address_max",
        ),
        (
            "RELAY_CONFIG",
            r#"{"consumers":[{"binding":"AGENTS","object":"a","filters":[{"kinds":"x"}]}]}"#,
            "consumers: AGENTS/a: ",
        ),
        (
            "RELAY_CONFIG",
            r#"{"consumers":[{"binding":"A","object":"a","filters":[]},{"binding":"A","object":"a","filters":[]}]}"#,
            "consumers: A/a: is configured twice",
        ),
        (
            "RELAY_CONFIG",
            r#"{"limits":{"message_bytes_max":65536}}"#,
            "limits.content_chars_max: is too large: a character may take 12 bytes, so that no more than 5418 fit",
        ),
        (
            "RELAY_CONFIG",
            r#"{"sync":{"peers":[{"url":"wss://a.example"},{"url":"https://b.example"}]}}"#,
            "sync.peers[1].url: `https://b.example` is not a ws:// or wss:// URL",
        ),
        (
            "RELAY_CONFIG",
            r#"{"sync":{"peers":[{"url":"wss://x:y@b.example"}]}}"#,
            "sync.peers[0].url: `wss://x:y@b",
        ),
        ("RELAY_CONFIG", r#"{"sync":{"peers":[{}]}}"#, "RELAY_CONFIG: sync.peers[0]: missing field `url`"),
        (
            "RELAY_CONFIG",
            r#"{"sync":{"peers":[{"url":"wss://a.example","every_seconds":"1h"}]}}"#,
            "RELAY_CONFIG: sync.peers[0].every_seconds: invalid type: string \"1h\"",
        ),
        (
            "RELAY_CONFIG",
            r#"{"sync":{"peers":[{"url":"wss://a.example","every_seconds":59}]}}"#,
            "sync.peers[0].every_seconds: 59 is not from 60 to ",
        ),
        (
            "RELAY_CONFIG",
            r#"{"sync":{"peers":[{"url":"wss://a.example","filter":{"limit":1}}]}}"#,
            "sync.peers[0].filter: {\"limit\":1}: `limit` has no meaning",
        ),
        (
            "RELAY_CONFIG",
            r#"{"sync":{"peers":[{"url":"wss://a.example"},{"url":"wss://a.example"}]}}"#,
            "sync.peers[1]: is configured twice",
        ),
        ("RELAY_PUBKEY", "npub1", "RELAY_PUBKEY: "),
        ("RELAY_URL", "https://relay.example", "RELAY_URL: "),
        ("RELAY_URL", "wss://", "RELAY_URL: `wss://` is not a ws:// or wss:// URL"),
        ("RELAY_URL", "ws://a b", "RELAY_URL: "),
        ("RELAY_PRIVATE_KEY", "nsec1", "RELAY_PRIVATE_KEY: is not a private key"),
        ("RELAY_PRIVATE_KEY", zeros.as_str(), "RELAY_PRIVATE_KEY: is not a private key"),
        ("ADMIN_PUBKEYS", "npub1", "ADMIN_PUBKEYS: `npub1`"),
        ("METRICS_TOKEN", "two words", "METRICS_TOKEN: must be of visible ASCII characters"),
        ("RELAY_LOCATION_HINT", "europe", "RELAY_LOCATION_HINT: `europe` is none of wnam, "),
        ("RELAY_SHARDS", "0", "RELAY_SHARDS: 0 is not a power of two from 1 to 4096"),
        ("RELAY_SHARDS", "3", "RELAY_SHARDS: 3 is not a power of two"),
        ("RELAY_SHARDS", "many", "RELAY_SHARDS: many is not a power of two"),
        ("RELAY_SHARDS", "2", "RELAY_SHARDS: this version serves one shard"),
    ];
    for (name, value, message) in cases {
        let error = load(&[(name, value)]).err();
        assert!(error.as_ref().is_some_and(|error| error.starts_with(message)), "{name}={value}: {error:?}");
    }
}
