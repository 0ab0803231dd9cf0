//! Events: the owned form that travels through the relay, and a view over its canonical JSON.
//!
//! Canonical JSON is the one form the relay stores and sends:
//!
//! ```text
//! {"id":"<64>","pubkey":"<64>","created_at":N,"kind":N,"tags":[...],"content":"...","sig":"<128>"}
//! 0      7     71         83    147         162
//! ```
//!
//! Everything up to the digits of `created_at` stands at a fixed offset, and the signature at a fixed offset
//! from the end, so reading the fields an index needs costs no parse.

use std::borrow::Cow;
use std::sync::Arc;

use super::hex::{EventId, PubKey, Sig};
use super::kind::{Class, Kind, is_removal_request};
use super::tags::{Tag, Tags, parse_expiration};
use super::time::Timestamp;

/// `expires_at` of an event that never does.
pub const NO_EXPIRY: Timestamp = Timestamp::MAX;

const ID_AT: usize = 7;
const PUBKEY_AT: usize = ID_AT + EventId::HEX_LEN + 12;
const CREATED_AT_AT: usize = PUBKEY_AT + PubKey::HEX_LEN + 15;
/// `,"kind":` and `,"tags":`
const FIELD_GAP: usize = 8;
/// `"}`
const TAIL: usize = 2;

/// One event and its canonical JSON. Cloning copies the head and shares the JSON.
#[derive(Clone)]
pub struct Event {
    /// SHA-256 of the NIP-01 serialisation.
    pub id: EventId,
    /// The author.
    pub pubkey: PubKey,
    /// When the author says it was made.
    pub created_at: Timestamp,
    /// What the event is.
    pub kind: Kind,
    /// NIP-40: not served from this second on; [`NO_EXPIRY`] if never.
    pub expires_at: Timestamp,
    json: Arc<[u8]>,
}

impl Event {
    /// Takes over canonical JSON, as [`crate::wire`] writes it and stores keep it.
    ///
    /// # Panics
    /// If `json` is not canonical. Never call it on bytes from a client.
    pub fn from_canonical(json: Arc<[u8]>) -> Self {
        let view = CanonicalEvent::trusted(&json);
        Event {
            id: view.id(),
            pubkey: view.pubkey(),
            created_at: view.created_at(),
            kind: view.kind(),
            expires_at: parse_expiration(view.tags()).unwrap_or(NO_EXPIRY),
            json,
        }
    }

    /// Puts together what [`crate::wire`] has just read and written, which all agree.
    pub(crate) fn from_parts(
        id: EventId,
        pubkey: PubKey,
        created_at: Timestamp,
        kind: Kind,
        expires_at: Timestamp,
        json: Arc<[u8]>,
    ) -> Self {
        let event = Event { id, pubkey, created_at, kind, expires_at, json };
        debug_assert_eq!(
            (id, pubkey, created_at, kind, expires_at),
            {
                let again = Event::from_canonical(event.shared_json());
                (again.id, again.pubkey, again.created_at, again.kind, again.expires_at)
            },
            "the parts are those of the JSON"
        );
        event
    }

    /// The canonical JSON.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The canonical JSON, shared.
    pub fn shared_json(&self) -> Arc<[u8]> {
        Arc::clone(&self.json)
    }

    /// The same event, read in place.
    pub fn view(&self) -> CanonicalEvent<'_> {
        CanonicalEvent::trusted(&self.json)
    }

    /// The tags, read in place.
    pub fn tags(&self) -> Tags<'_> {
        self.view().tags()
    }

    /// The signature.
    pub fn sig(&self) -> Sig {
        self.view().sig()
    }

    /// What NIP-01 says becomes of events of this kind.
    pub fn class(&self) -> Class {
        Class::of(self.kind)
    }

    /// The timestamp from which a store may sweep the event: when it expires; [`NO_EXPIRY`] if it never does or is a
    /// removal request ([`is_removal_request`]).
    pub fn sweep_at(&self) -> Timestamp {
        if is_removal_request(self.kind) { NO_EXPIRY } else { self.expires_at }
    }

    /// Whether NIP-40 forbids serving the event at time `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.json))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl Eq for Event {}

/// A view over the canonical JSON of one event.
#[derive(Clone, Copy, Debug)]
pub struct CanonicalEvent<'a> {
    json: &'a [u8],
}

impl<'a> CanonicalEvent<'a> {
    /// Trusts that `json` is what [`crate::wire`] wrote. The accessors panic on anything else.
    pub fn trusted(json: &'a [u8]) -> Self {
        debug_assert!(json.starts_with(br#"{"id":""#), "canonical JSON starts with the id");
        CanonicalEvent { json }
    }

    /// The third part of the event's address (NIP-01): empty for a replaceable event, the first `d` tag's value, or empty
    /// without one, for an addressable event, and nothing for others, which have no address.
    pub fn address_d(self) -> Option<Cow<'a, [u8]>> {
        match Class::of(self.kind()) {
            Class::Replaceable => Some(Cow::default()),
            Class::Addressable => Some(self.tags().find(b"d").unwrap_or_default()),
            Class::Regular | Class::Ephemeral => None,
        }
    }

    /// The (letter, value) pairs by which tag conditions match the event: its indexed tags, and the `d` of its address
    /// if that is empty, whether it is written or implicit. A pair may come twice.
    ///
    /// This is the one place that knows of the implicit empty `d`: `#d` finds an event by the same value as an `a` tag
    /// that names it, as strfry does.
    pub fn indexed_values(self) -> impl Iterator<Item = (u8, Cow<'a, [u8]>)> {
        self.indexed_values_in(self.tags())
    }

    /// [`CanonicalEvent::indexed_values`] over its own tags, which the caller reads from the start.
    pub(crate) fn indexed_values_in(
        self,
        tags: impl Iterator<Item = Tag<'a>>,
    ) -> impl Iterator<Item = (u8, Cow<'a, [u8]>)> {
        let unwritten = move || self.address_d().filter(|d| d.is_empty()).map(|d| (b'd', d));
        tags.filter_map(Tag::indexed).chain(std::iter::once_with(unwritten).flatten())
    }

    /// All of it.
    pub fn json(self) -> &'a [u8] {
        self.json
    }

    /// The id.
    pub fn id(self) -> EventId {
        EventId::from_hex(&self.json[ID_AT..ID_AT + EventId::HEX_LEN]).expect("canonical id")
    }

    /// The author.
    pub fn pubkey(self) -> PubKey {
        PubKey::from_hex(&self.json[PUBKEY_AT..PUBKEY_AT + PubKey::HEX_LEN]).expect("canonical pubkey")
    }

    /// The time of creation.
    pub fn created_at(self) -> Timestamp {
        digits(&self.json[CREATED_AT_AT..]).0
    }

    /// The kind.
    pub fn kind(self) -> Kind {
        self.kind_and_tags().0
    }

    /// The tags.
    pub fn tags(self) -> Tags<'a> {
        Tags::trusted(self.kind_and_tags().1)
    }

    /// The content as it is escaped, without quotes. Costs a pass over the tags.
    pub fn raw_content(self) -> &'a [u8] {
        const OPEN: &[u8] = br#","content":""#;
        const CLOSE: &[u8] = br#"","sig":""#;
        let rest = self.tags().after();
        &rest[OPEN.len()..rest.len() - TAIL - Sig::HEX_LEN - CLOSE.len()]
    }

    /// The signature.
    pub fn sig(self) -> Sig {
        let end = self.json.len() - TAIL;
        Sig::from_hex(&self.json[end - Sig::HEX_LEN..end]).expect("canonical sig")
    }

    /// The NIP-01 serialisation, whose SHA-256 is the id, piece by piece. Costs a pass over the tags.
    pub fn serialisation(self, mut put: impl FnMut(&[u8])) {
        let rest = &self.json[CREATED_AT_AT..];
        let (_, created_at_len) = digits(rest);
        let (created_at, rest) = rest.split_at(created_at_len);
        let (_, kind_len) = digits(&rest[FIELD_GAP..]);
        let (kind, rest) = rest[FIELD_GAP..].split_at(kind_len);
        let tags = &rest[FIELD_GAP..];
        let tags = &tags[..tags.len() - Tags::trusted(tags).after().len()];
        put(b"[0,\"");
        put(&self.json[PUBKEY_AT..PUBKEY_AT + PubKey::HEX_LEN]);
        put(b"\",");
        put(created_at);
        put(b",");
        put(kind);
        put(b",");
        put(tags);
        put(b",\"");
        put(self.raw_content());
        put(b"\"]");
    }

    fn kind_and_tags(self) -> (Kind, &'a [u8]) {
        let rest = &self.json[CREATED_AT_AT..];
        let (_, created_at_len) = digits(rest);
        let rest = &rest[created_at_len + FIELD_GAP..];
        let (kind, kind_len) = digits(rest);
        (kind as Kind, &rest[kind_len + FIELD_GAP..])
    }
}

/// The decimal number that `text` starts with, and its length.
fn digits(text: &[u8]) -> (u64, usize) {
    let mut number = 0u64;
    for (len, byte) in text.iter().enumerate() {
        if !byte.is_ascii_digit() {
            return (number, len);
        }
        number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
    }
    (number, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implicit_empty_d_is_indexed() {
        let (id, pubkey, sig) = ("1".repeat(64), "2".repeat(64), "3".repeat(128));
        let indexed_values = |kind: Kind, tags: &str| {
            let json = format!(
                r#"{{"id":"{id}","pubkey":"{pubkey}","created_at":17,"kind":{kind},"tags":{tags},"content":"","sig":"{sig}"}}"#
            );
            let event = Event::from_canonical(json.as_bytes().into());
            let mut found: Vec<(char, String)> = event
                .view()
                .indexed_values()
                .map(|(letter, value)| (letter as char, String::from_utf8(value.into_owned()).unwrap()))
                .collect();
            found.sort();
            found.dedup();
            found
        };
        let d = |values: &[&str]| -> Vec<(char, String)> {
            values.iter().map(|value| ('d', (*value).to_owned())).collect()
        };
        for kind in [0, 3, 10_000, 10_002, 19_999] {
            assert_eq!(indexed_values(kind, "[]"), d(&[""]), "kind {kind}");
            assert_eq!(indexed_values(kind, r#"[["d","x"]]"#), d(&["", "x"]), "kind {kind}");
        }
        for kind in [30_000, 39_999] {
            assert_eq!(indexed_values(kind, "[]"), d(&[""]), "kind {kind}");
            assert_eq!(indexed_values(kind, r#"[["d"]]"#), d(&[""]), "kind {kind}");
            assert_eq!(indexed_values(kind, r#"[["d",""]]"#), d(&[""]), "kind {kind}");
            assert_eq!(indexed_values(kind, r#"[["d","x"],["d","y"]]"#), d(&["x", "y"]), "kind {kind}");
            assert_eq!(indexed_values(kind, r#"[["d","x"],["d",""]]"#), d(&["", "x"]), "kind {kind}");
        }
        for kind in [1, 2, 4, 9_999, 20_000, 29_999, 40_000] {
            assert_eq!(indexed_values(kind, "[]"), [], "kind {kind}");
            assert_eq!(indexed_values(kind, r#"[["d",""]]"#), d(&[""]), "kind {kind}");
        }
    }

    #[test]
    fn the_view_reads_every_field_at_its_place() {
        let (id, pubkey, sig) = ("1".repeat(64), "2".repeat(64), "3".repeat(128));
        let json = format!(
            r#"{{"id":"{id}","pubkey":"{pubkey}","created_at":17,"kind":30023,"tags":[["d","a\"]"],["expiration","99"]],"content":"x\",\"sig\":\"y","sig":"{sig}"}}"#
        );
        let event = Event::from_canonical(json.as_bytes().into());
        assert_eq!(event.id.to_string(), id);
        assert_eq!(event.pubkey.to_string(), pubkey);
        assert_eq!(event.sig().to_string(), sig);
        assert_eq!((event.created_at, event.kind, event.expires_at), (17, 30023, 99));
        assert_eq!(event.tags().find(b"d").as_deref(), Some(&b"a\"]"[..]));
        assert_eq!(event.view().raw_content(), br#"x\",\"sig\":\"y"#);
        assert!(event.is_expired(99) && !event.is_expired(98));
    }
}
