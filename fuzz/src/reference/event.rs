//! The reference's event, with the id and canonical form that it computes.

use relay_engine::types::{EventId, PubKey, Sig};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::json::{Object, ReferenceResult, dropped_value, hex, integer, string};

/// Largest accepted `created_at`: one less than the largest signed 64-bit integer.
const CREATED_AT_MAX: u64 = i64::MAX as u64 - 1;
/// Number of unknown fields that are accepted.
const UNKNOWN_FIELDS_MAX: usize = 64;

const NAMES: [&str; 7] = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"];

/// One event, every field in its own allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceEvent {
    /// As claimed.
    pub id: EventId,
    /// The author.
    pub pubkey: PubKey,
    /// As claimed.
    pub sig: Sig,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// 0 to 65535.
    pub kind: u16,
    /// Unescaped.
    pub tags: Vec<Vec<String>>,
    /// Unescaped.
    pub content: String,
}

/// The fields in the order of the canonical form.
#[derive(Serialize)]
struct Canonical<'a> {
    id: String,
    pubkey: String,
    created_at: u64,
    kind: u16,
    tags: &'a [Vec<String>],
    content: &'a str,
    sig: String,
}

impl ReferenceEvent {
    /// Reads one event object with nothing but white space around it.
    pub fn read(text: &str) -> ReferenceResult<Self> {
        let Some(object) = Object::read(text) else { return ReferenceResult::Invalid };
        if object.has_repeats() {
            return ReferenceResult::Invalid;
        }
        let Some(event) = Self::from_fields(&object) else { return ReferenceResult::Invalid };
        let mut sure = true;
        let mut unknown = 0;
        for (name, value) in &object.fields {
            if NAMES.contains(&name.as_str()) {
                continue;
            }
            unknown += 1;
            match dropped_value(value.get()) {
                Some(true) => {}
                Some(false) => return ReferenceResult::Invalid,
                None => sure = false,
            }
        }
        match (unknown > UNKNOWN_FIELDS_MAX, sure) {
            (true, _) => ReferenceResult::Invalid,
            (false, true) => ReferenceResult::Valid(event),
            (false, false) => ReferenceResult::Unknown(event),
        }
    }

    fn from_fields(object: &Object<'_>) -> Option<Self> {
        Some(ReferenceEvent {
            id: EventId(hex(object.get("id")?)?),
            pubkey: PubKey(hex(object.get("pubkey")?)?),
            sig: Sig(hex(object.get("sig")?)?),
            created_at: integer(object.get("created_at")?).filter(|&second| second <= CREATED_AT_MAX)?,
            kind: integer(object.get("kind")?)?.try_into().ok()?,
            tags: serde_json::from_str(object.get("tags")?)
                .ok()
                .filter(|tags: &Vec<Vec<String>>| !tags.iter().any(Vec::is_empty))?,
            content: string(object.get("content")?)?,
        })
    }

    /// SHA-256 of NIP-01's serialisation.
    pub fn hash(&self) -> EventId {
        let parts = (0, self.pubkey.to_string(), self.created_at, self.kind, &self.tags, &self.content);
        let json = serde_json::to_string(&parts).expect("strings and numbers always serialise");
        EventId(Sha256::digest(json).into())
    }

    /// The form the relay stores and sends.
    pub fn canonical(&self) -> String {
        let event = Canonical {
            id: self.id.to_string(),
            pubkey: self.pubkey.to_string(),
            created_at: self.created_at,
            kind: self.kind,
            tags: &self.tags,
            content: &self.content,
            sig: self.sig.to_string(),
        };
        serde_json::to_string(&event).expect("strings and numbers always serialise")
    }

    /// The letter and first value of each tag that NIP-01 says to index.
    pub fn indexed_tags(&self) -> Vec<(u8, Vec<u8>)> {
        let single = |tag: &Vec<String>| match (tag.first()?.as_bytes(), tag.get(1)) {
            ([letter], Some(value)) if letter.is_ascii_alphabetic() => {
                Some((*letter, value.clone().into_bytes()))
            }
            _ => None,
        };
        self.tags.iter().filter_map(single).collect()
    }

    /// NIP-40, as the relay reads it: a number in the first `expiration` tag that has a value.
    pub fn expires_at(&self) -> Option<u64> {
        self.tags.iter().find_map(|tag| match tag.as_slice() {
            [name, value, ..] if name == "expiration" => Some(value.parse().ok()),
            _ => None,
        })?
    }
}
