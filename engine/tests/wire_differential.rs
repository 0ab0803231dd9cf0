//! The parser compared with a naive model: the same verdict and the same result, on random, oddly formatted and damaged
//! messages.

mod wire_model;

use relay_engine::types::{Limits, parse_expiration, unescape};
use relay_engine::wire::{
    ClientMessage, RawEvent, WireError, parse_client_message, parse_event, parse_filter,
};
use wire_model::{Json, ModelEvent, ModelMessage, OddWriter, Rng, random_event, read_filter, read_message};

/// Compares everything about `event` with the model.
fn check_event(event: &RawEvent<'_>, model: &ModelEvent, input: &str) {
    assert_eq!(
        (event.id, event.pubkey, event.sig, event.created_at, event.kind),
        (model.id, model.pubkey, model.sig, model.created_at, model.kind),
        "{input}"
    );
    assert_eq!(event.compute_id(), model.compute_id(), "{input}");
    assert_eq!(event.tag_count(), model.tags.len(), "{input}");
    assert_eq!(event.content(), model.content, "{input}");
    assert_eq!(event.content_chars(), model.content.chars().count(), "{input}");
    let tags: Vec<Vec<String>> = event.with_tags(|tags| {
        tags.map(|tag| tag.fields().map(|f| String::from_utf8(unescape(f).into_owned()).unwrap()).collect())
            .collect()
    });
    assert_eq!(tags, model.tags, "{input}");

    let canonical = model.canonical();
    let owned = event.to_event();
    assert_eq!(std::str::from_utf8(owned.json()).unwrap(), canonical, "{input}");
    assert_eq!(event.json_len(), canonical.len(), "{input}");
    assert_eq!(owned.expires_at, parse_expiration(owned.tags()).unwrap_or(u64::MAX), "{input}");
    let again = parse_event(owned.json()).unwrap();
    assert_eq!(again.to_event().json(), owned.json(), "{input}");
}

fn same(message: &ClientMessage<'_>, model: &ModelMessage, input: &str) {
    match (message, model) {
        (ClientMessage::Event(event), ModelMessage::Event(model))
        | (ClientMessage::Auth(event), ModelMessage::Auth(model)) => check_event(event, model, input),
        (ClientMessage::Req { sub, filters }, ModelMessage::Req(id, model))
        | (ClientMessage::Count { id: sub, filters }, ModelMessage::Count(id, model)) => {
            assert_eq!((sub.as_str(), filters), (id.as_str(), model), "{input}");
        }
        (ClientMessage::Close { sub }, ModelMessage::Close(id)) => assert_eq!(sub.as_str(), id, "{input}"),
        (
            ClientMessage::NegOpen { id: query, filter, message },
            ModelMessage::NegOpen(id, expected, bytes),
        ) => {
            assert_eq!((query.as_str(), filter, &**message), (&**id, expected, &**bytes), "{input}");
        }
        (ClientMessage::NegMsg { id: query, message }, ModelMessage::NegMsg(id, bytes)) => {
            assert_eq!((query.as_str(), &**message), (&**id, &**bytes), "{input}");
        }
        (ClientMessage::NegClose { id: query }, ModelMessage::NegClose(id)) => {
            assert_eq!(query.as_str(), id, "{input}");
        }
        _ => panic!("{message:?} is not {model:?} in {input}"),
    }
}

/// Runs both parsers on the same bytes; returns whether both accept them.
fn compare(bytes: &[u8], limits: &Limits) -> bool {
    let input = String::from_utf8_lossy(bytes);
    let fast = parse_client_message(bytes, limits);
    let tree = match serde_json::from_slice::<Json>(bytes) {
        // The model cannot represent such numbers, and ignored fields may contain them.
        Err(error) if error.to_string().starts_with("number out of range") => return false,
        Ok(tree) if tree.has_huge_number() => return false,
        tree => tree.ok(),
    };
    let model = tree.and_then(|tree| read_message(&tree, limits));
    match (&fast, &model) {
        (Ok(message), Some(model)) => same(message, model, &input),
        (Err(error), None) => check_error(error, bytes),
        _ => panic!("{fast:?} against {model:?} in {input}"),
    }
    fast.is_ok()
}

fn check_error(error: &WireError, bytes: &[u8]) {
    assert!(error.at <= bytes.len(), "{error:?}");
    assert!(matches!(error.prefix(), "invalid" | "unsupported"));
    assert!(!error.to_string().is_empty());
}

#[test]
fn any_json_form_of_an_event_is_the_same_event() {
    for seed in 0..6_000 {
        let mut rng = Rng(seed);
        let event = random_event(&mut rng);
        let mut writer = OddWriter { rng: &mut rng, out: String::new(), tidy: seed % 4 == 0 };
        writer.event(&event);
        let text = writer.out;
        let read = parse_event(text.as_bytes()).unwrap_or_else(|error| panic!("{error} in {text}"));
        check_event(&read, &event, &text);
        if seed % 4 == 0 {
            assert_eq!(text, event.canonical());
        }
    }
}

#[test]
fn both_parsers_agree_on_oddly_formatted_messages() {
    let limits = Limits::default();
    let mut taken = 0;
    for seed in 0..10_000 {
        let mut rng = Rng(seed ^ 0xabcd_0000);
        let mut writer = OddWriter { rng: &mut rng, out: String::new(), tidy: seed % 3 == 0 };
        writer.message();
        taken += usize::from(compare(writer.out.as_bytes(), &limits));
    }
    assert!(taken > 5_000, "most are taken, not {taken}");
}

#[test]
fn both_parsers_agree_on_damaged_messages() {
    // Small limits, so that damaged messages exceed them.
    let limits = Limits {
        event_tags_max: 4,
        list_tags_max: 4,
        filters_max: 2,
        filter_values_max: 8,
        ..Limits::default()
    };
    let mut taken = 0;
    for seed in 0..60_000 {
        let mut rng = Rng(seed ^ 0x5eed_0000_0000);
        let mut writer = OddWriter { rng: &mut rng, out: String::new(), tidy: seed % 2 == 0 };
        writer.message();
        let mut bytes = writer.out.into_bytes();
        for _ in 0..1 + rng.below(2) {
            damage(&mut bytes, &mut rng);
        }
        taken += usize::from(compare(&bytes, &limits));
    }
    assert!((1_000..50_000).contains(&taken), "some are taken, not {taken}");
}

fn damage(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.below(bytes.len());
    match rng.below(8) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.bits() as u8,
        2 => {
            bytes.remove(at);
        }
        3 => bytes.insert(at, *rng.pick(b"\"\\[]{},: 01-.eEu\ntf/#")),
        4 => bytes.insert(at, rng.bits() as u8),
        5 => bytes.truncate(at),
        6 => {
            let end = (at + rng.below(20)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = rng.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => {
            let piece: &[u8] = rng.pick::<&[u8]>(&[
                br"\ud83d",
                br"\udc9c",
                br"\ud83d\udc9c",
                br"\u0069",
                br"\u001f",
                br"\u000A",
                br"\/",
                b"\xc3\xa9",
                b"\xed\xa0\x80",
                b"\xf4\x90\x80\x80",
                b"\xc0\x80",
                b"\xef\xbf\xbf",
                br#","id":1"#,
                br#""x":null,"#,
            ]);
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

#[test]
fn both_parsers_agree_on_single_filters_and_events() {
    for seed in 0..5_000 {
        let mut rng = Rng(seed ^ 0xf1_0000_0000);
        let mut writer = OddWriter { rng: &mut rng, out: String::new(), tidy: seed % 2 == 0 };
        writer.filter();
        let mut bytes = writer.out.into_bytes();
        if rng.one_in(2) {
            damage(&mut bytes, &mut rng);
        }
        let Ok(tree) = serde_json::from_slice::<Json>(&bytes) else {
            assert!(parse_filter(&bytes).is_err());
            continue;
        };
        if !tree.has_huge_number() {
            let input = String::from_utf8_lossy(&bytes);
            assert_eq!(parse_filter(&bytes).ok(), read_filter(&tree), "{input}");
            assert_eq!(parse_event(&bytes).is_ok(), ModelEvent::read(&tree).is_some(), "{input}");
        }
    }
}

#[test]
fn every_prefix_of_a_message_is_refused() {
    for seed in 0..150 {
        let mut rng = Rng(seed ^ 0x9e);
        let mut writer = OddWriter { rng: &mut rng, out: String::new(), tidy: seed % 2 == 0 };
        writer.message();
        let text = writer.out.trim_end();
        for end in 0..text.len() {
            let error = parse_client_message(&text.as_bytes()[..end], &Limits::default()).unwrap_err();
            assert!(error.at <= end, "{error:?}");
        }
    }
}
