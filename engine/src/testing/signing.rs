//! Validly signed events, by keys whose secrets are small numbers, in any JSON form a client might write.
//!
//! Nothing here uses the engine's parser, hasher or writer, so that errors in these are found.

use std::fmt::Write as _;

use secp256k1::Keypair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A key pair whose secret is its number.
#[derive(Clone, Debug)]
pub struct Key {
    keypair: Keypair,
    hex: String,
}

/// The key pair of secret `number`.
///
/// # Panics
/// If `number` is 0.
pub fn key(number: u64) -> Key {
    let mut secret = [0; 32];
    secret[24..].copy_from_slice(&number.to_be_bytes());
    let keypair = Keypair::from_secret_bytes(secret).expect("a secret between 1 and the group order");
    let hex = lower_hex(&keypair.x_only_public_key().0.to_byte_array());
    Key { keypair, hex }
}

impl Key {
    /// The public key in hex.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The public key's bytes.
    pub fn bytes(&self) -> [u8; 32] {
        self.keypair.x_only_public_key().0.to_byte_array()
    }
}

/// Starts an event of `key`: kind 1, second 0, no tags, no content.
pub fn event(key: &Key) -> Draft {
    Draft { key: key.clone(), created_at: 0, kind: 1, tags: Vec::new(), content: String::new() }
}

/// An event before it is signed.
#[derive(Clone, Debug)]
pub struct Draft {
    key: Key,
    created_at: u64,
    kind: u16,
    tags: Vec<Vec<String>>,
    content: String,
}

impl Draft {
    /// Sets the kind.
    #[must_use]
    pub fn kind(mut self, kind: u16) -> Self {
        self.kind = kind;
        self
    }

    /// Sets `created_at`.
    #[must_use]
    pub fn at(mut self, created_at: u64) -> Self {
        self.created_at = created_at;
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag<const N: usize>(mut self, fields: [&str; N]) -> Self {
        self.tags.push(fields.map(str::to_owned).into());
        self
    }

    /// Sets the content.
    #[must_use]
    pub fn content(mut self, content: impl Into<String>) -> Self {
        self.content = content.into();
        self
    }

    /// Adds a `nonce` tag that commits to `target` (none if empty) under which the id has `bits` leading
    /// zero bits (NIP-13), and signs. Costs 2^`bits` hashes.
    pub fn mine(self, bits: u32, target: &str) -> Signed {
        for nonce in 0u64.. {
            let nonce = nonce.to_string();
            let tried = match target {
                "" => self.clone().tag(["nonce", &nonce]),
                _ => self.clone().tag(["nonce", &nonce, target]),
            };
            if leading_zero_bits(&tried.id()) >= bits {
                return tried.sign();
            }
        }
        unreachable!("some nonce of 2^64 does")
    }

    /// Signs, without auxiliary randomness: the same draft always gives the same event.
    pub fn sign(self) -> Signed {
        let id = self.id();
        let sig = secp256k1::schnorr::sign_no_aux_rand(&id, &self.key.keypair);
        Signed {
            id: lower_hex(&id),
            pubkey: self.key.hex,
            created_at: self.created_at,
            kind: self.kind,
            tags: self.tags,
            content: self.content,
            sig: lower_hex(&sig.to_byte_array()),
        }
    }

    fn id(&self) -> [u8; 32] {
        let form = json!([0, self.key.hex, self.created_at, self.kind, self.tags, self.content]);
        Sha256::digest(form.to_string()).into()
    }
}

/// A signed event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of NIP-01, hex as text")]
pub struct Signed {
    pub id: String,
    pub pubkey: String,
    pub created_at: u64,
    pub kind: u16,
    pub tags: Vec<Vec<String>>,
    pub content: String,
    pub sig: String,
}

impl Signed {
    /// Its fields in NIP-01's order, to be written in some other form.
    pub fn fields(&self) -> Fields {
        let fields = [
            ("id", json!(self.id)),
            ("pubkey", json!(self.pubkey)),
            ("created_at", json!(self.created_at)),
            ("kind", json!(self.kind)),
            ("tags", json!(self.tags)),
            ("content", json!(self.content)),
            ("sig", json!(self.sig)),
        ];
        Fields(fields.map(|(name, value)| (json!(name).to_string(), value.to_string())).into())
    }

    /// Its JSON as most clients write it.
    pub fn json(&self) -> String {
        self.fields().json()
    }

    /// Its JSON, parsed.
    pub fn value(&self) -> Value {
        json!({
            "id": self.id,
            "pubkey": self.pubkey,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": self.tags,
            "content": self.content,
            "sig": self.sig,
        })
    }

    /// A copy with an invalid signature.
    #[must_use]
    pub fn forged(&self) -> Signed {
        let mut sig = self.sig.clone().into_bytes();
        // One digit of s changes: still in range, but invalid.
        sig[100] = if sig[100] == b'0' { b'1' } else { b'0' };
        Signed { sig: String::from_utf8(sig).expect("hex is ASCII"), ..self.clone() }
    }
}

/// An event's fields as JSON texts, names and values, in the order they will be written.
#[derive(Clone, Debug)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// Sets the JSON text of a field, valid or not.
    ///
    /// # Panics
    /// If there is no such field.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        let name = json!(name).to_string();
        let field = self.0.iter_mut().find(|(field, _)| *field == name).expect("a field of NIP-01");
        field.1 = value.into();
        self
    }

    /// Leaves `name` out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let name = json!(name).to_string();
        self.0.retain(|(field, _)| *field != name);
        self
    }

    /// Adds a field at the end; `name` is JSON, quotes and all.
    #[must_use]
    pub fn push(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Rotates the order by `places`.
    #[must_use]
    pub fn rotated(mut self, places: usize) -> Self {
        self.0.rotate_left(places);
        self
    }

    /// Reverses the order.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.0.reverse();
        self
    }

    /// Without white space.
    pub fn json(&self) -> String {
        self.json_with("")
    }

    /// With `space` wherever JSON allows white space around names and values.
    pub fn json_with(&self, space: &str) -> String {
        let mut json = String::from("{");
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(json, "{comma}{space}{name}{space}:{space}{value}{space}").expect("strings take any text");
        }
        json + "}"
    }
}

/// `text` as a JSON string with every character escaped as `\uXXXX`, surrogate pairs included.
pub fn escaped_throughout(text: &str) -> String {
    let units = text.encode_utf16().fold(String::new(), |mut out, unit| {
        write!(out, "\\u{unit:04x}").expect("strings take any text");
        out
    });
    format!("\"{units}\"")
}

/// Lowercase hex.
pub fn lower_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("strings take any text");
        out
    })
}

fn leading_zero_bits(id: &[u8; 32]) -> u32 {
    let zeros = id.iter().take_while(|byte| **byte == 0).count();
    zeros as u32 * 8 + id.get(zeros).map_or(0, |byte| byte.leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_signatures_are_valid() {
        use crate::types::{EventId, PubKey, Sig};
        use crate::verify::{Claim, Libsecp256k1, Verifier};
        let signed = event(&key(3)).at(17).kind(7).tag(["e", "x\n\u{1}"]).content("é\"\u{7f}").sign();
        let form = format!("[0,\"{}\",17,7,[[\"e\",\"x\\n\\u0001\"]],\"é\\\"\u{7f}\"]", signed.pubkey);
        assert_eq!(signed.id, lower_hex(&Sha256::digest(form)));
        let claim = |signed: &Signed| Claim {
            pubkey: PubKey::from_hex(signed.pubkey.as_bytes()).unwrap(),
            id: EventId::from_hex(signed.id.as_bytes()).unwrap(),
            sig: Sig::from_hex(signed.sig.as_bytes()).unwrap(),
        };
        let mut valid = [false; 2];
        Libsecp256k1.verify(&[claim(&signed), claim(&signed.forged())], &mut valid);
        assert_eq!(valid, [true, false]);
    }

    #[test]
    fn forms_differ_and_mean_the_same() {
        let signed = event(&key(1)).content("a💜").sign();
        for form in [
            signed.json(),
            signed.fields().reversed().json_with("\n\t "),
            signed.fields().set("content", escaped_throughout("a💜")).rotated(3).json(),
        ] {
            assert_eq!(serde_json::from_str::<Value>(&form).unwrap(), signed.value(), "{form}");
        }
        assert_eq!(escaped_throughout("a💜"), r#""\u0061\ud83d\udc9c""#);
    }

    #[test]
    fn mined_events_have_their_bits() {
        let mined = event(&key(1)).mine(8, "8");
        assert!(mined.id.starts_with("00"), "{}", mined.id);
        assert_eq!(mined.tags[0][2], "8");
    }
}
