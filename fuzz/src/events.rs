//! An event object: [`wire::parse_event`] compared with the reference.

use relay_engine::types::{Event, NO_EXPIRY, unescape};
use relay_engine::wire::{self, RawEvent, ReplyTarget};

use crate::reference::{ReferenceEvent, ReferenceResult};

/// Parses `data` as an event.
///
/// # Panics
/// If the parser and the reference disagree about whether it is valid, its fields, its hash or its canonical form; or if
/// parsing the canonical form does not give the same form.
pub fn events(data: &[u8]) {
    let reference_result = match std::str::from_utf8(data) {
        Ok(text) => ReferenceEvent::read(text),
        Err(_) => ReferenceResult::Invalid,
    };
    match wire::parse_event(data) {
        Ok(raw) => {
            let reference = reference_result.value().expect("what is accepted is valid by the reference");
            check_event(&raw, &reference);
            let json = raw.to_event().shared_json();
            let again = wire::parse_event(&json).expect("the canonical form is an event");
            assert_eq!(again.to_event().json(), &*json, "the canonical form is a fixed point");
        }
        Err(error) => {
            assert!(
                !matches!(reference_result, ReferenceResult::Valid(_)),
                "a valid event is refused: {error}"
            );
            assert!(error.at <= data.len(), "the offset of the error is within the bytes");
            assert!(matches!(error.reply_to, ReplyTarget::Event(_)), "it was an event");
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Compares all accessors of the parsed event with the reference.
pub(crate) fn check_event(raw: &RawEvent<'_>, reference: &ReferenceEvent) {
    assert_eq!(
        (raw.id, raw.pubkey, raw.sig, raw.created_at, raw.kind),
        (reference.id, reference.pubkey, reference.sig, reference.created_at, reference.kind),
    );
    assert_eq!(raw.content(), reference.content);
    assert_eq!(raw.content_chars(), reference.content.chars().count());
    assert_eq!(raw.tag_count(), reference.tags.len());
    assert_eq!(raw.compute_id(), reference.hash(), "the hash of the reference");
    let event = raw.to_event();
    assert_eq!(String::from_utf8_lossy(event.json()), reference.canonical());
    assert_eq!(raw.json_len(), event.json().len());
    assert_eq!(raw.tags_json(), serde_json::to_vec(&reference.tags).expect("strings serialise"));
    check_view(&event, reference);
}

/// Compares fields read at fixed offsets of the canonical form with the reference.
fn check_view(event: &Event, reference: &ReferenceEvent) {
    assert_eq!((event.id, event.pubkey, event.sig()), (reference.id, reference.pubkey, reference.sig));
    assert_eq!((event.created_at, event.kind), (reference.created_at, reference.kind));
    assert_eq!(event.expires_at, reference.expires_at().unwrap_or(NO_EXPIRY));
    assert_eq!(unescape(event.view().raw_content()), reference.content.as_bytes());
    let tags: Vec<Vec<String>> = event
        .tags()
        .map(|tag| tag.fields().map(|field| String::from_utf8_lossy(&unescape(field)).into_owned()).collect())
        .collect();
    assert_eq!(tags, reference.tags);
    let indexed: Vec<(u8, Vec<u8>)> =
        event.tags().indexed().map(|(letter, value)| (letter, value.into_owned())).collect();
    assert_eq!(indexed, reference.indexed_tags());
}
