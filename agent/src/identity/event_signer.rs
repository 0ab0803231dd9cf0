//! Who signs an agent's events: a key that is here, or a remote signer (NIP-46), which has to be asked.
//!
//! An event that a remote signer has still to sign is complete but for its signature, so its id is known. In the signature's
//! place it says what is missing: 63 zeros and a number. No signature begins so, since 0 is the x of no point on the curve.

use relay_engine::types::{Event, PubKey, Sig, unescape};

use super::keys::is_signature;
use super::{Draft, Keys};
use crate::cipher::{self, Cipher, CipherError};

/// Largest event, in bytes of JSON, that a remote signer is asked to sign. It travels as a string in a string, encrypted and in
/// base64, and must then fit into an event that relays take.
const REMOTE_EVENT_BYTES_MAX: usize = 20_000;

/// Who signs the events.
#[derive(Clone, Debug)]
pub enum EventSigner {
    /// The key is here.
    Local(Keys),
    /// A remote signer keeps the private key of this public key. Events are made [unsigned](missing).
    Remote(PubKey),
}

/// How the content of an event is to be encrypted.
#[derive(Clone, Copy, Debug)]
pub struct Encryption {
    /// The cipher.
    pub cipher: Cipher,
    /// For whom.
    pub peer: PubKey,
    /// Random and used once.
    pub nonce: [u8; 32],
}

/// Makes events of drafts.
pub trait Sign {
    /// The author of the events.
    fn pubkey(&self) -> PubKey;

    /// The event of a draft.
    fn sign(&self, draft: &Draft) -> Event;

    /// The event of a draft whose content is encrypted first. A remote signer encrypts later, for the first `p` of the draft, which
    /// must be `encryption.peer`.
    ///
    /// # Errors
    /// [`CipherError::Length`], [`CipherError::Key`].
    fn sign_encrypted(&self, draft: Draft, encryption: &Encryption) -> Result<Event, CipherError>;

    /// Largest event that it can sign, in bytes of JSON.
    fn event_bytes_max(&self) -> usize;
}

impl Sign for Keys {
    fn pubkey(&self) -> PubKey {
        Keys::pubkey(self)
    }

    fn sign(&self, draft: &Draft) -> Event {
        Keys::sign(self, draft)
    }

    fn sign_encrypted(&self, mut draft: Draft, encryption: &Encryption) -> Result<Event, CipherError> {
        draft.content =
            cipher::encrypt(encryption.cipher, self, &encryption.peer, &draft.content, encryption.nonce)?;
        Ok(Keys::sign(self, &draft))
    }

    fn event_bytes_max(&self) -> usize {
        usize::MAX
    }
}

impl Sign for EventSigner {
    fn pubkey(&self) -> PubKey {
        match self {
            EventSigner::Local(keys) => keys.pubkey(),
            EventSigner::Remote(pubkey) => *pubkey,
        }
    }

    fn sign(&self, draft: &Draft) -> Event {
        match self {
            EventSigner::Local(keys) => keys.sign(draft),
            EventSigner::Remote(pubkey) => draft.event(pubkey, |_| Missing::Signature.mark()),
        }
    }

    fn sign_encrypted(&self, draft: Draft, encryption: &Encryption) -> Result<Event, CipherError> {
        match self {
            EventSigner::Local(keys) => keys.sign_encrypted(draft, encryption),
            EventSigner::Remote(pubkey) => {
                Ok(draft.event(pubkey, |_| Missing::Encryption(encryption.cipher).mark()))
            }
        }
    }

    fn event_bytes_max(&self) -> usize {
        match self {
            EventSigner::Local(_) => usize::MAX,
            EventSigner::Remote(_) => REMOTE_EVENT_BYTES_MAX,
        }
    }
}

impl EventSigner {
    /// The key, if it is here.
    pub fn keys(&self) -> Option<&Keys> {
        match self {
            EventSigner::Local(keys) => Some(keys),
            EventSigner::Remote(_) => None,
        }
    }
}

/// What an event of [`EventSigner::Remote`] still lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its signature.
    Signature,
    /// Its content has to be encrypted for its first `p`, and then it has to be signed.
    Encryption(Cipher),
}

impl Missing {
    fn mark(self) -> Sig {
        let mut sig = [0; 64];
        sig[63] = match self {
            Missing::Signature => 0,
            Missing::Encryption(Cipher::Nip04) => 4,
            Missing::Encryption(Cipher::Nip44) => 44,
        };
        Sig(sig)
    }
}

/// What an event lacks; `None` if it is signed.
pub fn missing(event: &Event) -> Option<Missing> {
    let Sig(sig) = event.sig();
    let all = [Missing::Signature, Missing::Encryption(Cipher::Nip04), Missing::Encryption(Cipher::Nip44)];
    all.into_iter().find(|missing| missing.mark().0 == sig)
}

/// An event that lacked [`Missing::Encryption`], with its content encrypted: it lacks its signature. Its id is another one.
pub fn with_encrypted_content(event: &Event, content: &str) -> Event {
    let draft = Draft { content: content.to_owned(), ..Draft::of(event) };
    draft.event(&event.pubkey, |_| Missing::Signature.mark())
}

/// An event that lacked its signature, with it. `None` if it is not a signature of this event by its author.
pub fn signed(event: &Event, sig: &Sig) -> Option<Event> {
    is_signature(sig, &event.id, &event.pubkey)
        .then(|| Draft::of(event).event(&event.pubkey, |_| *sig))
        .filter(|signed| signed.id == event.id)
}

/// Whether an event has the id of its fields, and its author's signature.
pub fn is_authentic(event: &Event) -> bool {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    event.view().serialisation(|piece| hash.update(piece));
    hash.finalize()[..] == event.id.0 && is_signature(&event.sig(), &event.id, &event.pubkey)
}

impl Draft {
    /// What an event was made of.
    pub fn of(event: &Event) -> Self {
        let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
        Draft {
            created_at: event.created_at,
            kind: event.kind,
            tags: event.tags().map(|tag| tag.fields().map(text).collect()).collect(),
            content: text(event.view().raw_content()),
        }
    }
}
