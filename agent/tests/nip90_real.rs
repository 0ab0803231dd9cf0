//! Real job requests of the public network, and any tags at all.

mod nip90_kit;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nip90_kit::{agent, customer, event, request};
use proptest::prelude::*;
use relay_agent::cipher::{Cipher, encrypt};
use relay_agent::identity::Draft;
use relay_agent::nip90::{
    Incoming, ReplyTo, RequestError, cancelled, is_request, is_result, named_keys, parse, read_relays,
    result, text_of,
};
use relay_agent::testing::{JobAnswerError, Status, read_answer};
use relay_engine::types::{Event, EventId};
use relay_engine::wire::parse_event;
use serde_json::Value;

/// Real events of the public network, one JSON a line: `data/real-events.jsonl` in the folder of `RELAY_SHARED`, else in `shared` beside the
/// checkout. They are not in the repository; without them the test that needs them is skipped.
fn real_events() -> Option<Vec<Event>> {
    let named = std::env::var_os("RELAY_SHARED").map(PathBuf::from);
    let is_named = named.is_some();
    let shared = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let text = std::fs::read_to_string(shared.join("data/real-events.jsonl"));
    assert!(text.is_ok() || !is_named, "RELAY_SHARED: {text:?}");
    Some(text.ok()?.lines().map(|line| parse_event(line.as_bytes()).unwrap().to_event()).collect())
}

#[test]
fn real_requests_are_read_and_real_results_answer_them() {
    let Some(events) = real_events() else {
        eprintln!("no real events: set RELAY_SHARED");
        return;
    };
    // Requests are stored themselves, and in the results that answer them.
    let in_results = events.iter().filter(|event| is_result(event.kind)).filter_map(|event| {
        let json = event.tags().find(b"request")?;
        Some((parse_event(&json).ok()?.to_event(), Some(event)))
    });
    let own = events.iter().filter(|event| is_request(event.kind)).map(|event| (event.clone(), None));
    let mut kinds: BTreeMap<u16, usize> = BTreeMap::new();
    for (request, answer) in own.chain(in_results) {
        // They name others' agents, whose keys nobody here has: told so, and read by someone whom they do not exclude.
        assert!(!named_keys(&request).is_empty());
        assert_eq!(parse(&request, &agent()), Err(RequestError::NotForUs));
        let open = customer().sign(&Draft {
            created_at: request.created_at,
            kind: request.kind,
            tags: nip90_kit::tags_of(&request).into_iter().filter(|tag| tag[0] != "p").collect(),
            content: nip90_kit::content_of(&request),
        });
        let read = parse(&open, &agent()).unwrap();
        assert_eq!((read.kind, read.is_addressed), (request.kind, false));
        if let Some(answer) = answer {
            let read = read_answer(answer, &agent()).unwrap();
            assert_eq!((read.request, read.status), (Some(request.id), Status::Success));
        }
        *kinds.entry(request.kind).or_default() += 1;
    }
    eprintln!("requests by kind: {kinds:?}");
    assert!(kinds.values().sum::<usize>() >= 18, "{kinds:?}");
    // Nothing else is a job.
    for event in events.iter().filter(|event| !is_request(event.kind)) {
        assert_eq!(parse(event, &agent()), Err(RequestError::NotForUs));
    }
}

/// Fields that requests have, whole and broken, and anything else.
fn field() -> impl Strategy<Value = String> {
    let known = [
        "i",
        "input",
        "param",
        "output",
        "bid",
        "relays",
        "relay",
        "p",
        "e",
        "r",
        "encrypted",
        "status",
        "amount",
        "content",
        "text",
        "event",
        "job",
        "url",
        "prompt",
        "data",
        "",
        "wss://nos.lol",
        "wss://",
        "ws://x",
        "https://a.example",
        "100_000",
        "18446744073709551616",
        "[]",
        "#j",
    ];
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => Just(agent().pubkey().to_string()),
        1 => Just("ab".repeat(32)),
        2 => any::<String>(),
    ]
}

fn tags() -> impl Strategy<Value = Vec<Vec<String>>> {
    prop::collection::vec(prop::collection::vec(field(), 1..6), 0..12)
}

/// JSON as an encrypted content might be: tags, or anything.
fn hidden() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        field().prop_map(Value::String),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    let any_json = leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-z]", inner, 0..3).prop_map(|map| map.into_iter().collect()),
        ]
    });
    prop_oneof![
        2 => tags().prop_map(|tags| serde_json::to_string(&tags).unwrap()),
        1 => any_json.prop_map(|value| value.to_string()),
        1 => any::<String>(),
    ]
}

/// Whoever writes what: nothing panics, and an addressed request is either done or answered.
fn check_anything(event: &Event) {
    let is_named = named_keys(event).contains(&agent().pubkey());
    match parse(event, &agent()) {
        Ok(read) => {
            assert!(read.is_addressed == is_named && read.relays.len() <= 8);
            assert!(read.relays.iter().all(|relay| relay.starts_with("wss://")));
            let to = ReplyTo::job(&read, None);
            nip90_kit::check_valid(&result(&agent(), &to, event, "x", event.created_at, [1; 32]).unwrap());
        }
        Err(error) => {
            let is_silent = !is_named || !is_request(event.kind);
            assert_eq!(error.answer().is_none(), is_silent, "{error:?}");
            if let Some((message, _)) = error.answer() {
                assert!(!message.is_empty() && message.len() < 300, "{message}");
            }
        }
    }
    let _ = (Incoming::of(event), text_of(event), read_relays(event));
    let _: Vec<EventId> = cancelled(event).collect();
    let read = read_answer(event, &agent());
    assert_eq!(read == Err(JobAnswerError::Kind), event.kind != 7000 && !is_result(event.kind));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tags_are_read_or_answered(
        kind in prop_oneof![4 => Just(5050u16), 1 => Just(7000), 1 => Just(6050), 1 => Just(5), 1 => Just(10_002), 1 => any::<u16>()],
        tags in tags(),
        content in prop_oneof![Just(String::new()), any::<String>()],
    ) {
        check_anything(&event(&customer(), kind, tags, &content));
    }

    #[test]
    fn any_encrypted_content_is_read_or_answered(
        kind in prop::sample::select(vec![5050u16, 7000, 6050]),
        cipher in prop::sample::select(vec![Cipher::Nip44, Cipher::Nip04]),
        mut tags in tags(),
        hidden in hidden().prop_filter("NIP-44 has no empty text", |text| !text.is_empty()),
    ) {
        tags.push(vec!["encrypted".to_owned()]);
        let encrypted = encrypt(cipher, &customer(), &agent().pubkey(), &hidden, [3; 32]).unwrap();
        check_anything(&event(&customer(), kind, tags, &encrypted));
    }
}

#[test]
fn a_request_of_a_megabyte_is_read_once() {
    let text = "x".repeat(1 << 20);
    check_anything(&request(&[&["i", &text, "text"]]));
    check_anything(&event(&customer(), 5050, vec![vec!["encrypted".to_owned()]], &text));
}
