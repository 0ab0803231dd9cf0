//! Keys, events and views of events for tests of NIP-90.
#![allow(dead_code, reason = "each test binary uses some of it")]

use relay_agent::identity::{Draft, Keys};
use relay_engine::types::{Event, unescape};
use relay_engine::verify::{Libsecp256k1, verify_one};
use relay_engine::wire::parse_event;

/// When requests are made.
pub(crate) const ASKED_AT: u64 = 1_790_000_000;

/// The agent.
pub(crate) fn agent() -> Keys {
    keys(1)
}

/// The customer.
pub(crate) fn customer() -> Keys {
    keys(2)
}

/// The keys whose secret is this byte, 32 times.
pub(crate) fn keys(secret: u8) -> Keys {
    Keys::from_secret_bytes([secret; 32]).unwrap()
}

/// Tags, owned.
pub(crate) fn owned(tags: &[&[&str]]) -> Vec<Vec<String>> {
    tags.iter().map(|tag| tag.iter().map(|field| (*field).to_owned()).collect()).collect()
}

/// A signed event.
pub(crate) fn event(keys: &Keys, kind: u16, tags: Vec<Vec<String>>, content: &str) -> Event {
    keys.sign(&Draft { created_at: ASKED_AT, kind, tags, content: content.to_owned() })
}

/// A request of the customer's that names the agent.
pub(crate) fn request(tags: &[&[&str]]) -> Event {
    let mut tags = owned(tags);
    tags.push(vec!["p".to_owned(), agent().pubkey().to_string()]);
    event(&customer(), 5050, tags, "")
}

/// The tags of an event.
pub(crate) fn tags_of(event: &Event) -> Vec<Vec<String>> {
    event.tags().map(|tag| tag.fields().map(text).collect()).collect()
}

/// The content of an event.
pub(crate) fn content_of(event: &Event) -> String {
    text(event.view().raw_content())
}

fn text(field: &[u8]) -> String {
    String::from_utf8(unescape(field).into_owned()).unwrap()
}

/// Checks that the relay would take an event: its JSON is canonical, its id its hash, its signature its author's.
pub(crate) fn check_valid(event: &Event) {
    let parsed = parse_event(event.json()).unwrap();
    assert_eq!(parsed.compute_id(), event.id);
    assert_eq!(parsed.to_event(), *event, "canonical");
    assert!(verify_one(&Libsecp256k1, event.clone()).is_some(), "signed");
}

/// Checks an event's kind, time, tags and content, exactly. `{request}`, `{agent}`, `{customer}` in the expected tags stand for the hexadecimal
/// digits, `{d}` for the first 16 of the agent's.
pub(crate) fn check_event(event: &Event, kind: u16, tags: &[&[&str]], content: &str, request: &Event) {
    check_valid(event);
    let (agent, customer) = (agent().pubkey().to_string(), customer().pubkey().to_string());
    let filled = |text: &str| {
        let pairs = [
            ("{request}", request.id.to_string()),
            ("{request-json}", String::from_utf8(request.json().to_vec()).unwrap()),
            ("{d}", agent[..16].to_owned()),
            ("{agent}", agent.clone()),
            ("{customer}", customer.clone()),
        ];
        pairs.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    };
    let expected: Vec<Vec<String>> =
        tags.iter().map(|tag| tag.iter().map(|field| filled(field)).collect()).collect();
    assert_eq!(tags_of(event), expected);
    assert_eq!(content_of(event), content);
    assert_eq!((event.kind, event.pubkey), (kind, self::agent().pubkey()));
}
