//! Manifests: what is taken, and what is refused with which path and message.

mod examples;
mod fields;
mod openagents;
mod payments;
mod public;
mod secrets;

use relay_agent::api::{Caller, deployment};
use relay_agent::manifest::{Manifest, ManifestError};
use serde_json::{Value, json};

/// A public key, as an npub and in hexadecimal digits.
const NPUB: &str = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";
const HEX: &str = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d";

/// A manifest with every field.
fn whole() -> Value {
    json!({
        "schema": 1,
        "name": "all",
        "version": "1.2.3",
        "about": "Everything.\nIn two lines.",
        "picture": "https://example.com/a.png",
        "pubkey": HEX,
        "owner": NPUB,
        "operators": [NPUB, HEX],
        "license": "MIT OR Apache-2.0",
        "homepage": "https://example.com",
        "repository": "http://example.com/git",
        "category": "research",
        "metadata": {"any": [1, {"thing": null}]},
        "identity": {"derived": {"account": 7}},
        "handlers": [
            {
                "kind": 5050,
                "executor": "openai_http",
                "config": {
                    "base_url": "https://api.example.com/v1",
                    "model": "small",
                    "api_key": "AGENT_API_KEY",
                    "system": "Be brief.",
                    "stream": false,
                    "max_tokens": 100,
                    "temperature": 0.5,
                },
                "inputs": ["text", "event", "job", "url"],
                "inputs_min": 1,
                "outputs": ["text/plain", "application/json; charset=utf-8"],
                "params": {
                    "top-k": {"required": true, "values": ["1", "2"]},
                    "lang": {"values": ["en", "de"], "default": "en"},
                },
                "price": {"model": "free"},
            },
            {"kind": 5000, "executor": "echo", "config": {"prefix": "> "}},
            {"kind": 5001, "executor": "text", "config": {"tool": "extract"}},
            {
                "kind": 5002,
                "executor": "workers_ai",
                "config": {"model": "@cf/meta/llama-3.1-8b-instruct", "system": "", "max_tokens": 1},
            },
            {"kind": 5003, "executor": "webhook", "config": {"url": "http://127.0.0.1:9/hook?x=1"}},
            {
                "kind": 5004,
                "executor": "mcp",
                "config": {
                    "url": "https://example.com/mcp",
                    "tool": "search",
                    "token": "AGENT_MCP",
                    "input_argument": "query",
                },
            },
        ],
        "payment": {"policy": "free", "free_quota": 7},
        "limits": {
            "concurrency": 1,
            "queue": 2,
            "timeout_s": 3,
            "attempts": 4,
            "input_bytes": 5,
            "output_bytes": 6,
            "per_customer_per_min": 7,
            "per_customer": 8,
            "chain_depth": 9,
        },
        "access": {"allow": [HEX], "deny": [NPUB], "min_pow": 10, "open_jobs": false, "agent_callers": true},
        "network": {"allow_domains": ["example.com", "xn--bcher-kva.example"], "max_fetch_bytes": 11},
        "relays": ["wss://relay.example.com", "ws://localhost:7777"],
        "announce": false,
        "encryption": false,
        "memory": {"sessions": true, "ttl_days": 12, "messages": 13, "bytes": 14},
        "schedules": [{"every_s": 60, "kind": 5000, "input": "hello", "publish_kind": 30023}],
        "tags": ["one", "two words"],
    })
}

fn parse(manifest: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(manifest.to_string().as_bytes())
}

/// Sets what is at `path`, for instance `handlers[0].kind`; [`REMOVED`] takes the field away.
fn set(manifest: &mut Value, path: &str, value: Value) {
    let pointer: String =
        path.split(['.', '[']).map(|step| format!("/{}", step.trim_end_matches(']'))).collect();
    let (parent, field) = pointer.rsplit_once('/').expect("a path");
    match manifest.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}")) {
        Value::Array(items) => items[field.parse::<usize>().expect("a number")] = value,
        Value::Object(fields) if value == REMOVED => drop(fields.remove(field).expect("it was there")),
        Value::Object(fields) => drop(fields.insert(field.to_owned(), value)),
        other => panic!("{path}: {other}"),
    }
}

const REMOVED: &str = "(removed)";

#[track_caller]
fn check_refused(manifest: &Value, path: &str, message: &str) {
    let expected = ManifestError { path: path.to_owned(), message: message.to_owned() };
    assert_eq!(parse(manifest), Err(expected));
}

/// A manifest that is right but for one change is refused, for what stands at `path`.
#[track_caller]
fn check_changed(mut manifest: Value, changed: &str, value: impl Into<Value>, path: &str, message: &str) {
    set(&mut manifest, changed, value.into());
    check_refused(&manifest, path, message);
}

#[test]
fn every_field_is_read_and_written() {
    let manifest = parse(&whole()).unwrap_or_else(|error| panic!("{error}"));
    let mut expected = whole();
    // Public keys are written as hexadecimal digits.
    for path in ["owner", "operators[0]", "access.deny[0]"] {
        set(&mut expected, path, HEX.into());
    }
    let written = serde_json::to_value(&manifest).expect("JSON");
    // What is written has the defaults too.
    assert_contains(&written, &expected, "");
    assert_eq!(parse(&written), Ok(manifest));
}

#[track_caller]
fn assert_contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                let inside = whole.get(name).unwrap_or_else(|| panic!("{path}.{name} is missing"));
                assert_contains(inside, value, &format!("{path}.{name}"));
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            for (at, (whole, part)) in whole.iter().zip(part).enumerate() {
                assert_contains(whole, part, &format!("{path}[{at}]"));
            }
        }
        _ => assert_eq!(whole, part, "{path}"),
    }
}

#[test]
fn two_fields_are_enough() {
    let manifest = parse(&json!({"name": "a", "handlers": [{"kind": 5050, "executor": "echo"}]}));
    let manifest = manifest.unwrap_or_else(|error| panic!("{error}"));
    assert!(manifest.announce && manifest.encryption && manifest.access.open_jobs);
    assert_eq!((manifest.schema, manifest.limits), (1, Default::default()));
    let written = serde_json::to_value(&manifest).expect("JSON");
    assert_eq!(parse(&written), Ok(manifest));
}

#[test]
fn a_manifest_may_say_which_key_it_must_have() {
    let manifest = parse(&whole()).unwrap_or_else(|error| panic!("{error}"));
    let key = HEX.parse().expect("a key");
    assert_eq!(manifest.check_pubkey(&key), Ok(()));
    let other = manifest.check_pubkey(&relay_engine::types::PubKey([1; 32])).map_err(|error| error.path);
    assert_eq!(other, Err("pubkey".to_owned()));
    let manifest = Manifest { pubkey: None, ..manifest };
    assert_eq!(manifest.check_pubkey(&relay_engine::types::PubKey([1; 32])), Ok(()));
}

/// An agent that was moved to a host with another master secret would have another key: it is refused there.
#[test]
fn a_deployment_with_another_key_is_refused() {
    let mut manifest = json!({"name": "a", "handlers": [{"kind": 5050, "executor": "echo"}]});
    let deploy = |manifest: &Value, secret: &str| {
        let secrets = |name: &str| (name == "AGENT_MASTER_SECRET").then(|| secret.to_owned());
        let admin = Caller::Admin(HEX.parse().expect("a key"));
        deployment(manifest.to_string().as_bytes(), admin, true, &secrets, None)
    };
    let deployed = deploy(&manifest, &"1".repeat(64)).expect("accepted");
    set(&mut manifest, "pubkey", deployed.pubkey.to_string().into());
    assert_eq!(deploy(&manifest, &"1".repeat(64)).expect("accepted").pubkey, deployed.pubkey);
    let refused = deploy(&manifest, &"2".repeat(64)).expect_err("refused");
    assert_eq!(refused.status, 400);
    let body: Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert!(body.to_string().contains("\"pubkey\""), "{body}");
}
