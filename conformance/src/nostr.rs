//! Keys, signed events and authorization tokens (BUD-11), correct or not.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use secp256k1::{Keypair, SecretKey, XOnlyPublicKey, schnorr};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Unix seconds.
#[must_use]
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_secs())
}

/// Lowercase hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hex digits; `None` if there are others.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    if !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(pair).collect()
}

/// SHA-256 in lowercase hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A key pair.
#[derive(Clone, Debug)]
pub struct Key {
    pair: Keypair,
    /// The public key in hex.
    pub pubkey: String,
}

impl Key {
    /// The key of 32 secret bytes; `None` for the few that are no key.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Option<Self> {
        let pair = Keypair::from_secret_key(&SecretKey::from_secret_bytes(secret).ok()?);
        let pubkey = hex(&XOnlyPublicKey::from_keypair(&pair).0.to_byte_array());
        Some(Key { pair, pubkey })
    }

    /// Reads an `nsec` (NIP-19) or 64 hex digits.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let bytes = if text.starts_with("nsec1") {
            let (kind, bytes) = bech32::decode(text).ok()?;
            (kind.as_str() == "nsec").then_some(bytes)?
        } else {
            unhex(text)?
        };
        Key::new(bytes.try_into().ok()?)
    }

    /// A signed event (NIP-01).
    #[must_use]
    pub fn sign(&self, kind: u64, created_at: u64, tags: &[Vec<String>], content: &str) -> Value {
        let id = event_id(&self.pubkey, created_at, kind, &json!(tags), content);
        let signature = schnorr::sign_no_aux_rand(&id, &self.pair);
        json!({
            "id": hex(&id), "pubkey": self.pubkey, "created_at": created_at, "kind": kind,
            "tags": tags, "content": content, "sig": hex(signature.as_byte_array()),
        })
    }
}

/// The id of an event: SHA-256 of its canonical form.
#[must_use]
pub fn event_id(pubkey: &str, created_at: u64, kind: u64, tags: &Value, content: &str) -> [u8; 32] {
    let canonical = json!([0, pubkey, created_at, kind, tags, content]).to_string();
    Sha256::digest(canonical).into()
}

/// The four ways in which clients write base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The one of BUD-11: URL-safe, without padding.
    Url,
    /// URL-safe with padding.
    UrlPadded,
    /// The standard alphabet with padding (NIP-98).
    Standard,
    /// The standard alphabet without padding.
    StandardUnpadded,
}

/// Text as base64.
#[must_use]
pub fn base64(text: &[u8], form: Form) -> String {
    match form {
        Form::Url => URL_SAFE_NO_PAD.encode(text),
        Form::UrlPadded => URL_SAFE.encode(text),
        Form::Standard => STANDARD.encode(text),
        Form::StandardUnpadded => STANDARD_NO_PAD.encode(text),
    }
}

/// What an authorization token says. [`Token::new`] makes one that is valid for five minutes, on any server.
#[derive(Clone, Debug)]
pub struct Token {
    /// 24242.
    pub kind: u64,
    /// Unix seconds.
    pub created_at: u64,
    /// The tags, in order.
    pub tags: Vec<Vec<String>>,
    /// The text for the user.
    pub content: String,
}

impl Token {
    /// A token for `verb`, one of BUD-11's.
    #[must_use]
    pub fn new(verb: &str) -> Self {
        let token = Token {
            kind: 24242,
            created_at: now().saturating_sub(2),
            tags: Vec::new(),
            content: "Conformance test".to_owned(),
        };
        token.tag("t", verb).tag("expiration", &(now() + 300).to_string())
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.tags.push(vec![name.to_owned(), value.to_owned()]);
        self
    }

    /// Adds an `x` tag.
    #[must_use]
    pub fn x(self, sha256: &str) -> Self {
        self.tag("x", sha256)
    }

    /// Removes the tags of a name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.tags.retain(|tag| tag.first().is_none_or(|first| first != name));
        self
    }

    /// Replaces the tags of a name by one.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        self.without(name).tag(name, value)
    }

    /// The signed event.
    #[must_use]
    pub fn event(&self, key: &Key) -> Value {
        key.sign(self.kind, self.created_at, &self.tags, &self.content)
    }

    /// The value of the `Authorization` header, in the form of BUD-11.
    #[must_use]
    pub fn header(&self, key: &Key) -> String {
        header(&self.event(key), Form::Url)
    }

    /// The header in one of the four forms, which the content makes sure to be different from the three others.
    #[must_use]
    pub fn header_in(mut self, key: &Key, form: Form) -> String {
        loop {
            let text = self.event(key).to_string();
            let standard = base64(text.as_bytes(), Form::Standard);
            if standard.ends_with('=') && standard.contains(['+', '/']) {
                return format!("Nostr {}", base64(text.as_bytes(), form));
            }
            // One character at a time, so that the length takes every remainder of three.
            self.content.push(['?', '>', '~', 'o'][self.content.len() % 4]);
        }
    }
}

/// The value of an `Authorization` header with an event.
#[must_use]
pub fn header(event: &Value, form: Form) -> String {
    format!("Nostr {}", base64(event.to_string().as_bytes(), form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_are_four() {
        let key = Key::new([7; 32]).unwrap();
        let token = Token::new("upload");
        let forms = [Form::Url, Form::UrlPadded, Form::Standard, Form::StandardUnpadded];
        let mut texts: Vec<String> = forms.iter().map(|form| token.clone().header_in(&key, *form)).collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 4);
    }

    #[test]
    fn a_key_is_read_from_both_forms() {
        let bytes = [7; 32];
        let nsec = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("nsec").unwrap(), &bytes).unwrap();
        let expected = Key::new(bytes).unwrap().pubkey;
        assert_eq!(Key::read(&nsec).unwrap().pubkey, expected);
        assert_eq!(Key::read(&hex(&bytes)).unwrap().pubkey, expected);
        assert!(Key::read("nsec1").is_none() && Key::read("00").is_none());
    }
}
