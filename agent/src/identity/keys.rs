//! A key pair, and the signing of events with it.

use std::fmt;

use relay_engine::types::{Event, EventId, PubKey, Sig, Timestamp};
use relay_engine::wire::write_json_string;
use sha2::{Digest, Sha256};

use super::nip19;

/// A private key with its public key. It is never printed.
#[derive(Clone)]
pub struct Keys {
    pair: secp256k1::Keypair,
    pubkey: PubKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.pubkey).finish()
    }
}

/// An event before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Unix seconds.
    pub created_at: Timestamp,
    /// The kind.
    pub kind: u16,
    /// The tags, each of one or more strings.
    pub tags: Vec<Vec<String>>,
    /// The content.
    pub content: String,
}

/// Not a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a private key")
    }
}

impl std::error::Error for InvalidKey {}

impl Keys {
    /// The key pair of a private key.
    ///
    /// # Errors
    /// If it is zero or not below the order of the curve.
    pub fn from_secret_bytes(secret: [u8; 32]) -> Result<Self, InvalidKey> {
        let pair = secp256k1::Keypair::from_secret_bytes(secret).map_err(|_| InvalidKey)?;
        let pubkey = PubKey(pair.x_only_public_key().0.to_byte_array());
        Ok(Keys { pair, pubkey })
    }

    /// Reads a private key: an nsec (NIP-19) or 64 hexadecimal digits. White space around it is ignored.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        let secret = match nip19::decode(nip19::NSEC, text) {
            Some(secret) => secret,
            None => nip19::decode_hex(text).ok_or(InvalidKey)?,
        };
        Keys::from_secret_bytes(secret)
    }

    /// The public key.
    pub fn pubkey(&self) -> PubKey {
        self.pubkey
    }

    /// The public key as an npub (NIP-19).
    pub fn npub(&self) -> String {
        nip19::npub(&self.pubkey)
    }

    /// The **private** key as an nsec (NIP-19), for the file that keeps it.
    pub fn nsec(&self) -> String {
        nip19::encode(nip19::NSEC, &self.pair.to_secret_bytes())
    }

    /// The pair, for key agreement.
    pub(crate) fn pair(&self) -> &secp256k1::Keypair {
        &self.pair
    }

    /// Signs an event. Without auxiliary randomness, so the same draft is always the same event (BIP-340 allows it).
    ///
    /// Tags without any string, which NIP-01 does not have, are left out.
    pub fn sign(&self, draft: &Draft) -> Event {
        draft.event(&self.pubkey, |id| self.sign_id(id))
    }

    /// The signature of an event that has this id.
    pub(super) fn sign_id(&self, id: &EventId) -> Sig {
        // The id is the message: BIP-340 hashes it itself, so it is not hashed once more.
        Sig(secp256k1::schnorr::sign_no_aux_rand(&id.0, &self.pair).to_byte_array())
    }
}

/// Whether this is the signature of an event by its author.
pub(super) fn is_signature(sig: &Sig, id: &EventId, author: &PubKey) -> bool {
    let sig = secp256k1::schnorr::Signature::from_byte_array(sig.0);
    secp256k1::XOnlyPublicKey::from_byte_array(author.0)
        .is_ok_and(|key| secp256k1::schnorr::verify(&sig, &id.0, &key).is_ok())
}

impl Draft {
    /// The event of an author, with the signature that `sign` makes of its id.
    pub(super) fn event(&self, author: &PubKey, sign: impl FnOnce(&EventId) -> Sig) -> Event {
        let fields = Fields::write(self);
        let pubkey = author.to_hex();
        let mut hash = Sha256::new();
        for piece in [b"[0,\"", &pubkey[..], b"\",", &fields.created_at, b",", &fields.kind, b","] {
            hash.update(piece);
        }
        for piece in [&fields.tags[..], b",", &fields.content, b"]"] {
            hash.update(piece);
        }
        let id = EventId(hash.finalize().into());
        let sig = sign(&id);
        let mut json = Vec::with_capacity(fields.tags.len() + fields.content.len() + 360);
        for (name, value) in [
            ("{\"id\":\"", &id.to_hex()[..]),
            ("\",\"pubkey\":\"", &pubkey),
            ("\",\"created_at\":", &fields.created_at),
            (",\"kind\":", &fields.kind),
            (",\"tags\":", &fields.tags),
            (",\"content\":", &fields.content),
            (",\"sig\":\"", &sig.to_hex()),
            ("\"}", b""),
        ] {
            json.extend_from_slice(name.as_bytes());
            json.extend_from_slice(value);
        }
        Event::from_canonical(json.into())
    }
}

/// The fields of a draft in canonical JSON.
struct Fields {
    created_at: Vec<u8>,
    kind: Vec<u8>,
    tags: Vec<u8>,
    content: Vec<u8>,
}

impl Fields {
    fn write(draft: &Draft) -> Self {
        let mut tags = vec![b'['];
        for tag in draft.tags.iter().filter(|tag| !tag.is_empty()) {
            if tags.len() > 1 {
                tags.push(b',');
            }
            for (at, text) in tag.iter().enumerate() {
                tags.push(if at == 0 { b'[' } else { b',' });
                write_json_string(&mut tags, text);
            }
            tags.push(b']');
        }
        tags.push(b']');
        let mut content = Vec::with_capacity(draft.content.len() + 2);
        write_json_string(&mut content, &draft.content);
        Fields {
            created_at: draft.created_at.to_string().into_bytes(),
            kind: draft.kind.to_string().into_bytes(),
            tags,
            content,
        }
    }
}
