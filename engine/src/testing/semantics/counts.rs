//! COUNT (NIP-45): exact, over all filters together, with HyperLogLog for the canonical queries.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::conn::{Conn, as_list, count_text};
use super::oracle::matches;
use super::stage::Stage;
use super::{Case, Frame, case, case_with};
use crate::testing::signing::{Signed, event, key, lower_hex};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("counts: a malformed COUNT does not end the subscription of the same id", beside_a_req),
        case("counts: many shapes agree with plain loops", shapes),
        case("counts: a refusal is CLOSED with the query's id", refusals),
        case("counts: what is gone is not counted", what_is_gone),
        case("counts: registers of the canonical queries", registers),
        case("counts: HyperLogLog only where NIP-45 says how", no_registers),
        case_with(
            "counts: too many to count is said to be approximate",
            |config| config.limits.count_cost_max = 20,
            bounded,
        ),
    ]
}

fn check(conn: &mut Conn, filters: Value, events: &[Signed]) {
    let list = as_list(filters.clone());
    let expected = events.iter().filter(|event| list.iter().any(|filter| matches(filter, event))).count();
    assert_eq!(conn.count(filters.clone()), expected as u64, "the count of {filters}");
}

fn shapes(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events: Vec<Signed> = (0..40u64)
        .map(|n| {
            let draft = event(&key(1 + n % 4)).at(stage.t - n % 6).kind([1, 7][(n % 2) as usize]);
            draft.tag(["t", ["x", "y", "z"][(n % 3) as usize]]).content(n.to_string()).sign()
        })
        .collect();
    conn.accept_all(&events);
    let a = key(1).hex().to_owned();
    for filters in [
        json!({}),
        json!({"kinds": [1]}),
        json!({"kinds": [1, 7], "authors": [a]}),
        json!({"#t": ["x", "y"]}),
        json!({"#t": ["x"], "authors": [a]}),
        json!({"since": stage.t - 2}),
        json!({"since": stage.t - 3, "until": stage.t - 2, "kinds": [7]}),
        json!({"ids": [events[0].id, events[1].id, a]}),
        json!({"kinds": [9]}),
        json!({"ids": []}),
        json!([{"kinds": [1]}, {"authors": [a]}, {"#t": ["x"]}]),
        json!([{"kinds": [1]}, {"kinds": [1]}]),
    ] {
        check(&mut conn, filters, &events);
    }
    // Query ids are any strings, and several COUNTs may be pending.
    conn.send_all(&[
        count_text("\"q\\\n💜", json!({"kinds": [1]})),
        count_text("b", json!({"kinds": [7]})),
        count_text("c", json!({"kinds": [9]})),
    ]);
    for (query, expected) in [("\"q\\\n💜", 20), ("b", 20), ("c", 0)] {
        let Frame::Count { body, .. } = conn.next_of(query) else { panic!("a COUNT of {query}") };
        assert_eq!(body["count"], expected, "{query}");
    }
    conn.expect_silence();
}

fn refusals(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (filters, prefix) in [
        (json!({"ids": ["x"]}), "invalid"),
        (json!({"kinds": "x"}), "invalid"),
        (json!({"foo": 1}), "unsupported"),
        (json!({"kinds": [1059], "#p": [key(1).hex()]}), "auth-required"),
        (json!([]), "invalid"),
    ] {
        conn.count_closed("q \"1\"", filters, prefix);
    }
    conn.expect_silence();
}

fn what_is_gone(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 1).sign();
    let old = event(&key(1)).at(stage.t - 2).kind(0).content("{}").sign();
    let new = event(&key(1)).at(stage.t - 1).kind(0).content("{}").sign();
    conn.accept_all(&[note.clone(), old, new]);
    assert_eq!(conn.count(json!({"authors": [key(1).hex()]})), 2, "an old version is not counted");
    conn.accept(&event(&key(1)).at(stage.t).kind(5).tag(["e", &note.id]).sign());
    assert_eq!(conn.count(json!({"authors": [key(1).hex()]})), 2, "the request and the profile");
    assert_eq!(conn.count(json!({"kinds": [1]})), 0);
}

/// NIP-45's steps, for a filter whose first tag value is `value`.
fn hll(value: &str, events: &[Signed]) -> String {
    let hex = match value.split(':').collect::<Vec<_>>()[..] {
        [_, pubkey, _] if pubkey.len() == 64 => pubkey.to_owned(),
        _ if value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) => value.to_owned(),
        _ => lower_hex(&Sha256::digest(value)),
    };
    let offset = usize::from_str_radix(&hex[32..33], 16).expect("a hex digit") + 8;
    let mut registers = [0u8; 256];
    for event in events {
        let byte = |at: usize| u8::from_str_radix(&event.pubkey[2 * at..2 * at + 2], 16).expect("hex");
        let bits = (offset + 1..32).flat_map(|at| (0..8).rev().map(move |bit| byte(at) >> bit & 1));
        let zeros = bits.take_while(|bit| *bit == 0).count() as u8;
        let register = &mut registers[usize::from(byte(offset))];
        *register = (*register).max(zeros + 1);
    }
    lower_hex(&registers)
}

fn registers(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    // One target for each possible offset.
    let targets: Vec<String> = (0u64..16).map(|n| format!("{:032x}{n:x}{:031x}", n * 7, n)).collect();
    let queries: [(u16, &str, Value); 6] = [
        (7, "e", json!([7])),
        (6, "e", json!([6])),
        (1, "q", json!([1, 1111])),
        (1, "e", json!([1])),
        (1111, "E", json!([1111])),
        (3, "p", json!([3])),
    ];
    for (number, (kind, letter, kinds)) in queries.iter().enumerate() {
        let mut events = Vec::new();
        for n in 0..30 {
            let author = key(1 + 100 * number as u64 + n);
            let mut draft = event(&author).at(stage.t - n).kind(*kind);
            for target in &targets {
                draft = draft.tag([letter, target]);
            }
            events.push(draft.sign());
        }
        if *letter == "q" {
            events.push(event(&key(5)).at(stage.t).kind(1111).tag(["q", &targets[3]]).sign());
        }
        if *kind == 7 {
            // A second reaction of an author is counted, but changes no register.
            events.push(event(&key(1)).at(stage.t).kind(7).tag(["e", &targets[3]]).content("again").sign());
        }
        conn.accept_all(&events);
        for target in &targets {
            let filter = json!({"kinds": kinds, format!("#{letter}"): [target]});
            let matching: Vec<Signed> =
                events.iter().filter(|event| matches(&filter, event)).cloned().collect();
            let body = conn.count_body("hll", filter.clone());
            assert_eq!(body["count"], matching.len(), "{filter}");
            assert_eq!(body["hll"].as_str(), Some(&*hll(target, &matching)), "registers of {filter}");
        }
    }
    // Without reactions there are registers too, all zero.
    let nobody = "ab".repeat(32);
    let body = conn.count_body("hll", json!({"kinds": [7], "#e": [nobody]}));
    assert_eq!((&body["count"], body["hll"].as_str()), (&json!(0), Some(&*"00".repeat(256))));
}

fn no_registers(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.accept(&event(&key(1)).at(stage.t).kind(7).tag(["e", key(2).hex()]).sign());
    // Without a tag NIP-45 defines no registers.
    for filters in [json!({"kinds": [7]}), json!({}), json!({"authors": [key(1).hex()]})] {
        let body = conn.count_body("q", filters.clone());
        assert_eq!(body["count"], 1, "{filters}");
        assert!(body.get("hll").is_none(), "registers for {filters}: {body}");
        let names: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(names.is_subset(&["count", "approximate"].into()), "{body}");
    }
}

fn bounded(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for n in 0..60 {
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        conn.accept(&event(&key(1)).at(stage.t - n).tag(["t", tag]).content(n.to_string()).sign());
    }
    for (filter, exact) in [(json!({}), 60), (json!({"#t": ["even"], "authors": [key(1).hex()]}), 30)] {
        let body = conn.count_body("q", filter.clone());
        let count = body["count"].as_u64().unwrap();
        assert!(count == exact || body["approximate"] == true, "{body} for {filter}, exactly {exact}");
    }
    assert_eq!(conn.count(json!({"ids": []})), 0);
}

fn beside_a_req(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.req("same", json!({"kinds": [1]}));
    conn.send(r#"["COUNT","same",{"kinds":"x"}]"#);
    conn.expect_closed("same", "invalid");
    let note = event(&key(1)).at(stage.t).sign();
    conn.accept(&note);
    assert_eq!(conn.next_event("same"), note.id);
}
