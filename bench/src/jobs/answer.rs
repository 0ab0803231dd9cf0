//! Events that answer requests.

use anyhow::{Context, Result};
use secp256k1::XOnlyPublicKey;
use secp256k1::schnorr::{self, Signature};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::hex;

/// Kind of feedback.
pub(super) const FEEDBACK: u16 = 7000;

/// An event that answers a request.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) pubkey: String,
    pub(super) created_at: u64,
    pub(super) kind: u16,
    pub(super) tags: Vec<Vec<String>>,
    pub(super) content: String,
    sig: String,
}

impl Answer {
    /// Reads the event of an `EVENT` frame.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn read(frame: &str) -> Result<Self> {
        let bad = || format!("not an event: {}", frame.chars().take(200).collect::<String>());
        // Subscription ids of ours have no brace.
        let (from, to) = frame.find('{').zip(frame.rfind('}')).with_context(bad)?;
        serde_json::from_str(frame.get(from..=to).unwrap_or_default()).with_context(bad)
    }

    /// The first value of the first tag `name`.
    pub(super) fn tag(&self, name: &str) -> Option<&str> {
        Some(self.tag_fields(name)?.get(1)?)
    }

    /// The invoice that it asks to be paid.
    pub(super) fn invoice(&self) -> Option<String> {
        self.tag_fields("amount")?.get(2).cloned()
    }

    /// The status and the message of feedback.
    pub(super) fn status(&self) -> (&str, &str) {
        let fields = self.tag_fields("status").unwrap_or_default();
        let status = fields.get(1).map_or("", String::as_str);
        (status, fields.get(2).map_or(self.content.as_str(), String::as_str))
    }

    fn tag_fields(&self, name: &str) -> Option<&[String]> {
        self.tags.iter().find(|tag| tag.first().is_some_and(|first| first == name)).map(Vec::as_slice)
    }

    /// Whether id and signature are right.
    pub(super) fn is_authentic(&self) -> bool {
        let hashed =
            serde_json::to_vec(&(0, &self.pubkey, self.created_at, self.kind, &self.tags, &self.content));
        let id: [u8; 32] = Sha256::digest(hashed.expect("strings and numbers are JSON")).into();
        let decoded = || {
            let pubkey = XOnlyPublicKey::from_byte_array(hex::decode32(self.pubkey.as_bytes())?).ok()?;
            let (first, second) = self.sig.as_bytes().split_at_checked(64)?;
            let halves = [hex::decode32(first)?, hex::decode32(second)?];
            let sig: [u8; 64] = halves.concat().try_into().ok()?;
            Some((Signature::from_byte_array(sig), pubkey))
        };
        self.id == hex::encode(&id)
            && decoded().is_some_and(|(sig, pubkey)| schnorr::verify(&sig, &id, &pubkey).is_ok())
    }
}
