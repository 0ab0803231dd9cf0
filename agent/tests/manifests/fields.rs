//! One row for each way in which a field can be wrong.

use proptest::prelude::*;
use relay_agent::manifest::{BYTES_MAX, Manifest, ManifestError};
use serde_json::{Value, json};

use super::{HEX, REMOVED, check_changed, check_refused, parse, set, whole};

fn texts(count: usize) -> Value {
    (0..count).map(|at| format!("t{at}")).collect::<Vec<_>>().into()
}

/// The change at the path of the error.
#[track_caller]
fn check(path: &str, value: impl Into<Value>, message: &str) {
    check_at(path, value, path, message);
}

#[track_caller]
fn check_at(changed: &str, value: impl Into<Value>, path: &str, message: &str) {
    check_changed(whole(), changed, value, path, message);
}

const TEXT: &str = "must be a string";
const KEY: &str = "must be a public key: 64 hexadecimal digits or an npub";
const LINE: &str = "must be one line, without white space around it";
const UNKNOWN: &str = "is not a known field";
const LONG_LIST: &str = "has more than 100 entries";
const HTTP: &str = "must be a URL of scheme https or http";
const NUMBER: &str = "must be a whole number, 0 or greater";
const BOOL: &str = "must be true or false";

#[test]
fn description() {
    check("schema", 2, "must be 1");
    check("schema", "1", NUMBER);
    check("name", REMOVED, "is missing");
    check("name", 1, TEXT);
    check("name", Value::Null, TEXT);
    check("name", "", "must have 1 to 64 characters");
    check("name", "x".repeat(65), "must have 1 to 64 characters");
    check("name", "two\nlines", LINE);
    check("name", " padded", LINE);
    check("name", "bell\u{7}", LINE);
    check("version", "", "must have 1 to 64 characters");
    check("version", "1".repeat(65), "must have 1 to 64 characters");
    check("about", "x".repeat(2_001), "must have at most 2000 characters");
    check("about", json!({}), TEXT);
    for url in ["picture", "homepage", "repository"] {
        check(url, "", HTTP);
        check(url, "example.com", HTTP);
        check(url, "javascript:alert(1)", HTTP);
        check(url, "ftp://example.com/a", HTTP);
        check(url, "data:image/png;base64,AAAA", HTTP);
        check(url, "file:///etc/passwd", HTTP);
        check(url, format!("https://example.com/{}", "x".repeat(1_024)), HTTP);
        check(url, "https://user:word@example.com/", "must not contain a user or password");
        check(url, "https://example.com/#part", "must not have a fragment");
    }
    check("license", "x".repeat(129), "must have 1 to 128 characters");
    check("category", "two\nlines", LINE);
    check("metadata", json!([]), "must be an object");
    let many: serde_json::Map<_, _> = (0..101).map(|at| (format!("m{at}"), Value::Null)).collect();
    check("metadata", many, LONG_LIST);
    check("tags", "one", "must be a list");
    check("tags", texts(101), LONG_LIST);
    check("tags[1]", "", "must have 1 to 64 characters");
    check("tags[1]", "x".repeat(65), "must have 1 to 64 characters");
    check("relays", texts(101), LONG_LIST);
    check("relays[0]", "https://example.com", "must be a URL of scheme wss or ws");
    check("relays[1]", "wss://user@example.com", "must not contain a user or password");
    check("announce", "yes", BOOL);
    check("encryption", 1, BOOL);
}

#[test]
fn people() {
    check("pubkey", "0".repeat(64), KEY);
    check("owner", "", KEY);
    check("owner", "alice@example.com", KEY);
    check("owner", &HEX[1..], KEY);
    check("owner", format!("{}0", &HEX[..63].replace('3', "g")), KEY);
    check("operators", HEX, "must be a list");
    check("operators[1]", "bob", KEY);
    check("operators", vec![HEX; 101], LONG_LIST);
    check("access.allow[0]", "", KEY);
    check("access.allow", vec![HEX; 101], LONG_LIST);
    check("access.deny", vec![HEX; 101], LONG_LIST);
    check("access.deny[0]", "ff", KEY);
    check("access.min_pow", 65, "must be from 0 to 64");
    check("access.min_pow", 256, "must be a whole number from 0 to 255");
    check("access.min_pow", -1, "must be a whole number from 0 to 255");
    check("access.open_jobs", Value::Null, BOOL);
    check("access.policy", "wot", UNKNOWN);
}

#[test]
fn identity() {
    check_at("identity", "derived", "identity.derived", "must be an object");
    check("identity", json!({}), "has the wrong type");
    check("identity", json!({"nip46": {}}), "must be one of: derived, imported, bunker");
    check_at("identity", json!({"derived": {"account": 1, "path": "m/0"}}), "identity.derived.path", UNKNOWN);
    check("identity.derived.account", -1, NUMBER);
    check("identity.derived.account", 1u64 << 31, "must be from 0 to 2147483647");
    check("identity.derived.account", 1u64 << 32, NUMBER);
    check_at("identity", json!({"imported": {}}), "identity.imported.secret", "is missing");
}

#[test]
fn remote_signers() {
    let manifest = |path: &str, value: Value| {
        let mut manifest = json!({
            "name": "signed",
            "pubkey": HEX,
            "identity": {"bunker": {"secret": "AGENT_BUNKER"}},
            "handlers": [{"kind": 5050, "executor": "echo", "config": {}}]
        });
        set(&mut manifest, path, value);
        manifest
    };
    let parsed = parse(&manifest("about", "".into())).expect("a manifest");
    assert_eq!(parsed.secret_names().collect::<Vec<_>>(), ["AGENT_BUNKER"]);
    let key = "is required with identity.bunker: the key for which the remote signer signs";
    check_refused(&manifest("pubkey", REMOVED.into()), "pubkey", key);
    check_refused(&manifest("identity.bunker", json!({})), "identity.bunker.secret", "is missing");
    let name =
        "must be the name of a secret, AGENT_ and upper case letters, digits or _, and not the master secret";
    for secret in ["NOSTR_PRIVATE_KEY", "AGENT_MASTER_SECRET", "OTHER"] {
        check_refused(&manifest("identity.bunker.secret", secret.into()), "identity.bunker.secret", name);
    }
    let url = format!("bunker://{HEX}?relay=wss://relay.example");
    let inline = "is or contains a secret; a manifest gives the name of a secret, whose value the host keeps";
    check_refused(&manifest("identity.bunker.secret", url.into()), "identity.bunker.secret", inline);
    let webhook = json!({"kind": 5050, "executor": "webhook", "config": {"url": "https://example.com/"}});
    check_refused(
        &manifest("handlers[0]", webhook),
        "handlers[0].executor",
        "cannot be webhook with identity.bunker: the relay must have the key that signs webhook calls (NIP-98)",
    );
}

#[test]
fn handlers() {
    let missing = "is missing";
    check("handlers", REMOVED, missing);
    check("handlers", json!([]), "needs at least one handler");
    check("handlers", json!({}), "must be a list");
    check("handlers[1]", "echo", "must be an object");
    let many: Vec<_> = (5_000..5_033).map(|kind| json!({"kind": kind, "executor": "echo"})).collect();
    check("handlers", many, "has more than 32 entries");
    check("handlers[0].kind", REMOVED, missing);
    check("handlers[0].kind", 4_999, "must be from 5000 to 5999");
    check("handlers[0].kind", 6_000, "must be from 5000 to 5999");
    check("handlers[0].kind", 65_536, "must be a whole number from 0 to 65535");
    check("handlers[0].kind", "5050", "must be a whole number from 0 to 65535");
    check("handlers[0].kind", 5050.5, "must be a whole number from 0 to 65535");
    check_at("handlers[1].kind", 5_050, "handlers[1].kind", "has a handler already");
    check("handlers[0].executor", REMOVED, missing);
    let executors =
        "must be one of: echo, text, openai_http, workers_ai, webhook, mcp, membership, blob_payment";
    check("handlers[0].executor", "shell", executors);
    check("handlers[0].executor", 1, "has the wrong type");
    check_at("handlers[0].executor", json!({"echo": {}}), "handlers[0].executor.echo", "has the wrong type");
    check("handlers[0].model", "x", UNKNOWN);
    check("handlers[0].params_schema", json!({}), UNKNOWN);
    check("handlers[0].inputs[1]", "image", "must be one of: text, event, job, url");
    check("handlers[0].inputs", vec!["text"; 101], LONG_LIST);
    check("handlers[0].inputs_min", 101, "must be from 0 to 100");
    check("handlers[0].outputs[0]", "plain", "must be a MIME type");
    check("handlers[0].outputs[0]", "text/", "must be a MIME type");
    check("handlers[0].outputs[1]", "text/pl ain", "must be a MIME type");
    check("handlers[0].outputs[1]", "", "must have 3 to 128 characters");
    check("handlers[0].outputs", vec!["text/plain"; 101], LONG_LIST);
    check(
        "handlers[0].price",
        json!({"model": "per_job", "msat": 1_000}),
        "needs payment.policy prepay, postpay, sample or hold, and a wallet (payment.wallet_ref)",
    );
    for msat in [0, 100_000_000_001u64] {
        let price = json!({"model": "per_job", "msat": msat});
        check_at("handlers[0].price", price, "handlers[0].price.msat", "must be from 1 to 100000000000");
    }
    check("handlers[0].price", json!({"model": "free", "msat": 1_000}), "a free job has no msat");
    check("handlers[0].price", json!({"model": "per_job"}), "per_job needs msat");
    check("handlers[0].price.sats", 1, UNKNOWN);
    check("handlers[0].price.model", "per_token", "must be one of: free, per_job");
}

#[test]
fn memberships() {
    let manifest = json!({
        "name": "Doorkeeper",
        "payment": {"policy": "prepay", "wallet_ref": "AGENT_WALLET"},
        "handlers": [{
            "kind": 5943, "executor": "membership", "inputs": ["text"],
            "price": {"model": "per_job", "msat": 21_000},
        }],
    });
    let parse = |manifest: &Value| Manifest::parse(manifest.to_string().as_bytes());
    assert!(parse(&manifest).is_ok(), "{:?}", parse(&manifest));
    for (pointer, value, path, message) in [
        ("/handlers/0/kind", json!(5_944), "handlers[0].kind", "must be 5943 with the executor membership"),
        (
            "/handlers/0/inputs",
            json!(["text", "url"]),
            "handlers[0].inputs",
            "must be text alone with the executor membership",
        ),
        (
            "/payment/policy",
            json!("postpay"),
            "payment.policy",
            "must be prepay, or free, with the executor membership",
        ),
    ] {
        let mut changed = manifest.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let error = parse(&changed).unwrap_err();
        assert_eq!((error.path.as_str(), error.message.as_str()), (path, message));
    }
    let mut changed = manifest;
    changed["payment"]["free_quota"] = json!(1);
    assert_eq!(parse(&changed).unwrap_err().path, "payment.free_quota");
}

#[test]
fn payments_for_blobs() {
    let manifest = json!({
        "name": "Files",
        "payment": {"policy": "prepay", "wallet_ref": "AGENT_WALLET"},
        "handlers": [{
            "kind": 5944, "executor": "blob_payment", "inputs": ["text"],
            "price": {"model": "per_job", "msat": 1_000},
        }],
    });
    let parse = |manifest: &Value| Manifest::parse(manifest.to_string().as_bytes());
    assert!(parse(&manifest).is_ok(), "{:?}", parse(&manifest));
    let check = |change: &dyn Fn(&mut Value), path: &str, message: &str| {
        let mut changed = manifest.clone();
        change(&mut changed);
        let error = parse(&changed).unwrap_err();
        let told = format!("{message} with the executor blob_payment");
        assert_eq!((error.path.as_str(), error.message.as_str()), (path, told.as_str()));
    };
    check(&|all| all["handlers"][0]["kind"] = json!(5_943), "handlers[0].kind", "must be 5944");
    check(&|all| all["handlers"][0]["inputs"] = json!([]), "handlers[0].inputs", "must be text alone");
    check(&|all| all["payment"]["policy"] = json!("postpay"), "payment.policy", "must be prepay");
    check(&|all| all["payment"]["free_quota"] = json!(1), "payment.free_quota", "must be 0");
    let free = |all: &mut Value| {
        all["handlers"][0]["price"] = json!({"model": "free"});
        all["payment"] = json!({});
    };
    check(&free, "handlers[0].price", "must be per_job (its msat are the smallest payment)");
    let mut other = manifest.clone();
    (other["handlers"][0]["executor"], other["handlers"][0]["config"]) = (json!("echo"), json!({}));
    let message = "must not be 5944 with an executor other than blob_payment";
    assert_eq!(parse(&other).unwrap_err().message, message);
}

#[test]
fn parameters() {
    let many: serde_json::Map<_, _> = (0..101).map(|at| (format!("p{at}"), json!({}))).collect();
    check("handlers[0].params", many, LONG_LIST);
    check_at("handlers[0].params.", json!({}), "handlers[0].params", "must have 1 to 64 characters");
    check("handlers[0].params.top_k", json!({}), "is a duplicate: - and _ are the same in names");
    check("handlers[0].params.lang.type", "string", UNKNOWN);
    check("handlers[0].params.lang.required", 1, BOOL);
    check("handlers[0].params.lang.values", texts(101), LONG_LIST);
    check("handlers[0].params.lang.values[0]", "x".repeat(1_025), "must have at most 1024 characters");
    check("handlers[0].params.lang.default", "fr", "must be one of values");
    check("handlers[0].params.lang.default", 1, TEXT);
    check("handlers[0].params.top-k.default", "1", "is never used: the parameter is required");
}

/// Regression: these were accepted, since serde does not refuse unknown fields where a struct is flattened into another.
#[test]
fn configurations() {
    for (at, field) in (0..6).map(|at| (at, format!("handlers[{at}].config.surprise"))) {
        check(&field, "x", UNKNOWN);
        check(&format!("handlers[{at}].config"), "x", "must be an object");
    }
    check("handlers[1].config.prefix", "x".repeat(2_001), "must have at most 2000 characters");
    check("handlers[1].config.prefix", 1, TEXT);
    check_at("handlers[2].config", REMOVED, "handlers[2].config.tool", "is missing");
    check_at("handlers[2].config", json!({}), "handlers[2].config.tool", "is missing");
    let tools = "must be one of: count, extract, uppercase, lowercase, reverse, sha256";
    check("handlers[2].config.tool", "summarise", tools);

    check("handlers[0].config.base_url", REMOVED, "is missing");
    check("handlers[0].config.base_url", "api.example.com/v1", HTTP);
    check("handlers[0].config.base_url", "https://api.example.com/v1?key=x", "must not have a query");
    check(
        "handlers[0].config.base_url",
        "https://u:p@api.example.com/v1",
        "must not contain a user or password",
    );
    check("handlers[0].config.model", "", "must have 1 to 200 characters");
    check("handlers[0].config.model", REMOVED, "is missing");
    check("handlers[0].config.system", "x".repeat(20_001), "must have at most 20000 characters");
    check("handlers[0].config.stream", "true", BOOL);
    check("handlers[0].config.max_tokens", 0, "must be from 1 to 1000000");
    check("handlers[0].config.max_tokens", 1.5, NUMBER);
    check("handlers[0].config.temperature", 2.1, "must be from 0 to 2");
    check("handlers[0].config.temperature", "hot", "must be a number");

    check("handlers[3].config.model", "x".repeat(201), "must have 1 to 200 characters");
    check("handlers[3].config.max_tokens", 1_000_001, "must be from 1 to 1000000");
    check("handlers[3].config.system", "x".repeat(20_001), "must have at most 20000 characters");
    check("handlers[4].config.url", "gopher://example.com", HTTP);
    check("handlers[4].config.url", REMOVED, "is missing");
    check("handlers[5].config.url", "/mcp", HTTP);
    check("handlers[5].config.tool", "", "must have 1 to 128 characters");
    check("handlers[5].config.input_argument", "", "must have 1 to 64 characters");
}

#[test]
fn rules() {
    check("payment.policy", "later", "must be one of: free, prepay, postpay, sample, hold");
    for (field, max) in [
        ("concurrency", 1_000),
        ("queue", 100_000),
        ("timeout_s", 3_600),
        ("attempts", 10),
        ("input_bytes", 4 << 20),
        ("output_bytes", 4 << 20),
        ("per_customer_per_min", 100_000),
        ("per_customer", 100_000),
        ("chain_depth", 32),
    ] {
        let path = format!("limits.{field}");
        let range = format!("must be from 1 to {max}");
        check(&path, 0, &range);
        check(&path, max + 1, &range);
        check(&path, -1, NUMBER);
        let mut manifest = whole();
        set(&mut manifest, &path, max.into());
        // The input of its schedule is longer than the least limit.
        assert!(parse(&manifest).is_ok(), "{path} {max}");
    }
    check("limits.daily_spend_msat", 1, "is of no use without payment.refund invoice or payment.splits");
    check("network.max_fetch_bytes", 0, "must be from 1 to 4194304");
    check("network.max_fetch_bytes", (4 << 20) + 1, "must be from 1 to 4194304");
    check("network.allow_domains", texts(101), LONG_LIST);
    for domain in [
        "",
        "https://example.com",
        "example.com/path",
        "example.com:443",
        "*.example.com",
        "Example.com",
        "-a.com",
        "a..b",
        "127.0.0.1",
        "[::1]",
        "bücher.example",
    ] {
        let message = "must be a domain in lower case, without scheme, port or path";
        check("network.allow_domains[0]", domain, message);
    }
    check("memory.ttl_days", 0, "must be from 1 to 3650");
    check("memory.messages", 1_001, "must be from 1 to 1000");
    check("memory.bytes", (4 << 20) + 1, "must be from 1 to 4194304");
    check("memory.sessions", "on", BOOL);
    check("memory.kind", "vector", UNKNOWN);
}

/// Serde also reads a struct from a list of its fields.
#[test]
fn lists_are_no_objects() {
    for path in ["limits", "memory", "payment", "access", "network"] {
        let mut manifest = whole();
        let fields = manifest[path].as_object().expect("an object");
        let in_order: &[&str] = match path {
            "limits" => &[
                "concurrency",
                "queue",
                "timeout_s",
                "attempts",
                "input_bytes",
                "output_bytes",
                "per_customer_per_min",
                "per_customer",
                "chain_depth",
            ],
            "memory" => &["sessions", "ttl_days", "messages", "bytes"],
            "payment" => &["policy"],
            "access" => &["allow", "deny", "min_pow", "open_jobs", "agent_callers"],
            _ => &["allow_domains", "max_fetch_bytes"],
        };
        let list: Vec<Value> = in_order.iter().map(|name| fields[*name].clone()).collect();
        set(&mut manifest, path, list.into());
        check_refused(&manifest, path, "must be an object");
    }
    check("schedules[0]", json!([60, 5_000, "hello", 1]), "must be an object");
    check("handlers[0].params.lang", json!([false, [], null]), "must be an object");
}

#[test]
fn schedules() {
    check("schedules[0].every_s", 59, "must be from 60 to 31622400");
    check("schedules[0].every_s", 31_622_401, "must be from 60 to 31622400");
    check("schedules[0].every_s", REMOVED, "is missing");
    check("schedules[0].kind", 5_999, "has no handler");
    check("schedules[0].input", "123456", "has more bytes than limits.input_bytes");
    check("schedules[0].cron", "* * * * *", UNKNOWN);
    for kind in [0, 5, 62, 5_000, 5_050, 6_050, 7_000, 7_007, 10_002, 10_050, 11_998, 31_990] {
        check("schedules[0].publish_kind", kind, "is a kind that no schedule publishes");
    }
    check("schedules[0].publish_kind", 65_536, "must be a whole number from 0 to 65535");
    let schedule = json!({"every_s": 60, "kind": 5_000});
    check("schedules", vec![schedule; 33], "has more than 32 entries");
}

#[test]
fn unknown_fields() {
    check("surprise", Value::Null, UNKNOWN);
    // A name is shown in one line, cut.
    let long = "x\n".repeat(300);
    let shown = "x?".repeat(100);
    check_at(&long, 1, &shown, UNKNOWN);
}

fn error_of(json: &str) -> (String, String) {
    let ManifestError { path, message } = Manifest::parse(json.as_bytes()).expect_err(json);
    (path, message)
}

#[test]
fn documents() {
    let whole = |message: &str| (".".to_owned(), message.to_owned());
    assert_eq!(error_of(""), whole("is not JSON: line 1, column 0"));
    assert_eq!(error_of("{\"name\": \"a\",\n}"), whole("is not JSON: line 2, column 1"));
    assert_eq!(error_of("{} {}"), whole("is not JSON: line 1, column 4"));
    assert_eq!(error_of("name = \"toml\""), whole("is not JSON: line 1, column 2"));
    assert_eq!(error_of("[]"), whole("must be an object"));
    assert_eq!(error_of("null"), whole("must be an object"));
    assert_eq!(error_of("\"nsec\""), whole("must be an object"));
    let big = format!("{{\"about\": \"{}\"}}", "x".repeat(BYTES_MAX));
    assert_eq!(error_of(&big), whole("has more than 65536 bytes"));
    assert_eq!(
        error_of(r#"{"name": "a", "name": "b"}"#),
        ("name".to_owned(), "is a duplicate field".to_owned())
    );
    assert_eq!(
        error_of(r#"{"handlers": [{"kind": 5050}, {"kind": 5050, "config": {"a": 1, "\u0061": 2}}]}"#),
        ("handlers[1].config.a".to_owned(), "is a duplicate field".to_owned())
    );
    let (path, message) =
        error_of(&format!("{{\"metadata\": {{\"a\": {}1{}}}}}", "[".repeat(200), "]".repeat(200)));
    assert_eq!(path, format!("metadata.a{}", "[0]".repeat(14)));
    assert_eq!(message, "is nested more than 16 deep");
    assert!(Manifest::parse(&[b'"', 0xff, b'"']).is_err());
}

/// Regression: a number was one unit in the last place off each time a manifest was written and read, so an agent
/// deployed again with the manifest it had was taken for a changed one.
#[test]
fn numbers_stay_as_they_are() {
    let mut manifest = whole();
    manifest["metadata"] = json!({"source": 1.9496395119540518e127});
    let read = parse(&manifest).expect("a manifest");
    assert_eq!(parse(&serde_json::to_value(&read).expect("JSON")), Ok(read));
}

/// A value of any sort, as it might stand in a wrong place.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,80}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"executor": "echo", "config": [], "kind": 5050})),
        Just(json!([[[[{"a": []}]]]])),
    ]
}

/// All places in a document.
fn places(value: &Value, path: &str, places: &mut Vec<String>) {
    places.push(path.to_owned());
    match value {
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, item)| self::places(item, &format!("{path}/{at}"), places));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| self::places(value, &format!("{path}/{name}"), places));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever stands where: no panic, and what is taken is the same when it is written and read again.
    #[test]
    fn any_document_is_answered(
        is_theirs: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let mut manifest = if is_theirs { super::openagents::whole() } else { whole() };
        for (place, value) in changes {
            let mut all = Vec::new();
            places(&manifest, "", &mut all);
            let place = &all[place.index(all.len())];
            *manifest.pointer_mut(place).expect("a place") = value;
        }
        match parse(&manifest) {
            Ok(read) => {
                let written = serde_json::to_value(&read).expect("JSON");
                prop_assert_eq!(parse(&written), Ok(read));
            }
            Err(error) => prop_assert!(!error.path.is_empty() && !error.message.is_empty()),
        }
    }

    #[test]
    fn any_bytes_are_answered(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut text = whole().to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = Manifest::parse(&text);
        let _ = Manifest::parse(&text[..cut.index(text.len())]);
    }
}
