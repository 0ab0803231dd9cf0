//! Real events: imported, found by every kind of filter, exported byte for byte, refused when modified.

use std::collections::{BTreeMap, BTreeSet};

use relay_engine::testing::real_event_lines;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::relay;

fn real_events() -> Vec<Value> {
    real_event_lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The canonical form, written by serde_json, which the engine does not use.
fn canonical(event: &Value) -> String {
    let field = |name: &str| event[name].to_string();
    format!(
        r#"{{"id":{},"pubkey":{},"created_at":{},"kind":{},"tags":{},"content":{},"sig":{}}}"#,
        field("id"),
        field("pubkey"),
        field("created_at"),
        field("kind"),
        field("tags"),
        field("content"),
        field("sig")
    )
}

fn lines(events: &[Value]) -> Vec<u8> {
    events.iter().map(|event| event.to_string() + "\n").collect::<String>().into_bytes()
}

fn kind(event: &Value) -> u64 {
    event["kind"].as_u64().unwrap()
}

fn is_ephemeral(event: &Value) -> bool {
    (20_000..30_000).contains(&kind(event))
}

/// The address of a replaceable event: author, kind, and for addressable events the first `d`.
fn address(event: &Value) -> Option<(&Value, u64, &str)> {
    let identifier = match kind(event) {
        0 | 3 | 10_000..=19_999 => "",
        30_000..=39_999 => {
            let mut tags = event["tags"].as_array().unwrap().iter();
            tags.find(|tag| tag[0] == "d").and_then(|tag| tag[1].as_str()).unwrap_or_default()
        }
        _ => return None,
    };
    Some((&event["pubkey"], kind(event), identifier))
}

/// Whether it may not be stored any more: replaced by a newer version, deleted or expired.
fn may_be_removed(event: &Value, events: &[Value]) -> bool {
    // NIP-01: of versions of one second, the lowest id stays.
    let age = |event: &Value| {
        (event["created_at"].as_u64().unwrap(), std::cmp::Reverse(event["id"].as_str().unwrap().to_owned()))
    };
    let replaced = || {
        address(event).is_some_and(|address_of_event| {
            events.iter().any(|other| address(other) == Some(address_of_event) && age(other) > age(event))
        })
    };
    let address_text = address(event)
        .map(|(author, kind, identifier)| format!("{kind}:{}:{identifier}", author.as_str().unwrap()));
    let deleted = || {
        let names_it = |other: &Value, tag: &Value| {
            tag[0] == "e" && tag[1] == event["id"]
                || tag[0] == "a"
                    && address_text.is_some()
                    && tag[1].as_str() == address_text.as_deref()
                    && age(other).0 >= age(event).0
        };
        events.iter().any(|other| {
            kind(other) == 5
                && other["pubkey"] == event["pubkey"]
                && other["tags"].as_array().unwrap().iter().any(|tag| names_it(other, tag))
        })
    };
    let expires = || event["tags"].as_array().unwrap().iter().any(|tag| tag[0] == "expiration");
    replaced() || expires() || deleted()
}

fn import(data: &str, input: &[u8], flags: &[&str]) -> (i32, BTreeMap<String, u64>, String) {
    let mut args = vec!["import", "--data", data, "--json"];
    args.extend(flags);
    let output = relay(&args, input);
    let counts = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), counts, String::from_utf8(output.stderr).unwrap())
}

fn scan(data: &str, filter: &Value) -> Vec<String> {
    let output = relay(&["scan", "--data", data, &filter.to_string()], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

#[test]
fn every_real_event_is_imported_found_and_exported_unchanged() {
    let events = real_events();
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    let (code, counts, stderr) = import(&data, &lines(&events), &[]);
    assert_eq!((code, counts["refused"]), (0, 0), "{stderr}");
    assert_eq!(counts.values().sum::<u64>(), events.len() as u64, "{stderr}");

    // A second import stores nothing and refuses nothing.
    let (code, again, _) = import(&data, &lines(&events), &[]);
    assert_eq!((code, again["stored"], again["refused"]), (0, 0, 0));

    let exported = relay(&["export", "--data", &data], b"");
    let exported = String::from_utf8(exported.stdout).unwrap();
    let by_id: BTreeMap<&str, &Value> =
        events.iter().map(|event| (event["id"].as_str().unwrap(), event)).collect();
    let mut kept = Vec::new();
    for line in exported.lines() {
        let id = serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        let event = by_id[id.as_str()];
        assert_eq!(line, canonical(event), "exported byte for byte");
        kept.push(event.clone());
    }
    let ids: BTreeSet<String> = kept.iter().map(|event| event["id"].to_string()).collect();
    for event in &events {
        let lawful =
            ids.contains(&event["id"].to_string()) || is_ephemeral(event) || may_be_removed(event, &events);
        assert!(lawful, "{event} is missing");
    }
    assert_found_by_every_query(&data, &mut kept);
}

/// A query of each kind, with values of the events; the oracle is a loop over JSON values.
fn assert_found_by_every_query(data: &str, kept: &mut [Value]) {
    kept.sort_by_key(|event| {
        (std::cmp::Reverse(event["created_at"].as_u64().unwrap()), event["id"].as_str().unwrap().to_owned())
    });
    let check = |filter: Value, matches: &dyn Fn(&Value) -> bool| {
        let limit = filter.get("limit").and_then(Value::as_u64).unwrap_or(u64::MAX) as usize;
        let wanted: Vec<String> =
            kept.iter().filter(|event| matches(event)).take(limit).map(canonical).collect();
        assert_eq!(scan(data, &filter), wanted, "{filter}");
        wanted.len()
    };
    let has_tag = |event: &Value, letter: &str, value: &Value| {
        event["tags"].as_array().unwrap().iter().any(|tag| tag[0] == letter && tag[1] == *value)
    };
    assert_eq!(check(json!({}), &|_| true), kept.len());
    check(json!({"limit": 17}), &|_| true);
    for event in kept.iter().step_by(97) {
        let (id, author, kind, at) = (&event["id"], &event["pubkey"], &event["kind"], &event["created_at"]);
        check(json!({"ids": [id]}), &|other| other["id"] == *id);
        check(json!({"authors": [author]}), &|other| other["pubkey"] == *author);
        check(json!({"authors": [author], "kinds": [kind]}), &|other| {
            other["pubkey"] == *author && other["kind"] == *kind
        });
        check(json!({"since": at, "until": at}), &|other| other["created_at"] == *at);
        let until = at.as_u64().unwrap();
        check(json!({"kinds": [kind], "until": until, "limit": 9}), &|other| {
            other["kind"] == *kind && other["created_at"].as_u64().unwrap() <= until
        });
        for tag in event["tags"].as_array().unwrap().iter().take(3) {
            let (Some(name), Some(value)) = (tag[0].as_str(), tag.get(1)) else { continue };
            let hex = || {
                value.as_str().unwrap().len() == 64
                    && value
                        .as_str()
                        .unwrap()
                        .bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            };
            if name.len() != 1
                || !name.as_bytes()[0].is_ascii_alphabetic()
                || (matches!(name, "e" | "p") && !hex())
            {
                continue;
            }
            let mut filter = json!({});
            filter[format!("#{name}")] = json!([value]);
            assert!(check(filter.clone(), &|other| has_tag(other, name, value)) > 0);
            filter["authors"] = json!([author]);
            check(filter, &|other| has_tag(other, name, value) && other["pubkey"] == *author);
        }
    }
    let kinds: BTreeSet<u64> = kept.iter().map(kind).collect();
    for number in kinds {
        check(json!({"kinds": [number]}), &|other| kind(other) == number);
    }
}

#[test]
fn modified_copies_are_refused() {
    let events = real_events();
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    let tampered: Vec<Value> = events
        .iter()
        .enumerate()
        .map(|(number, event)| {
            let mut copy = event.clone();
            let turn = |text: &Value| {
                let text = text.as_str().unwrap();
                let digit = if text.ends_with('0') { "1" } else { "0" };
                json!(text[..text.len() - 1].to_owned() + digit)
            };
            match number % 6 {
                0 => copy["id"] = turn(&event["id"]),
                1 => copy["sig"] = turn(&event["sig"]),
                2 => copy["pubkey"] = turn(&event["pubkey"]),
                3 => copy["content"] = json!(event["content"].as_str().unwrap().to_owned() + " "),
                4 => copy["created_at"] = json!(event["created_at"].as_u64().unwrap() + 1),
                _ => copy["tags"].as_array_mut().unwrap().push(json!(["t", "tampered"])),
            }
            copy
        })
        .collect();
    let (code, counts, stderr) = import(&data, &lines(&tampered), &[]);
    assert_eq!((code, counts["refused"], counts["stored"]), (1, events.len() as u64, 0), "{stderr}");
    assert!(stderr.contains("line 1: invalid:"), "{stderr}");
}

#[test]
fn no_verify_accepts_modified_copies() {
    let events = real_events();
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    let mut forged = events[0].clone();
    forged["sig"] = json!("0".repeat(128));
    let (code, counts, _) = import(&data, &lines(&[forged.clone()]), &["--no-verify"]);
    assert_eq!((code, counts["stored"]), (0, 1));
    assert_eq!(scan(&data, &json!({"ids": [forged["id"]]})), [canonical(&forged)]);
}
