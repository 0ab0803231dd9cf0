//! Events that lack an encrypted content or a signature: how a remote signer is asked for it, and what is made of its answer.

use relay_engine::types::{Event, Sig};
use serde::Deserialize;

use crate::cipher::Cipher;
use crate::identity::{Draft, Encryption, Keys, Missing, Sign, missing, signed, with_encrypted_content};
use crate::nip46::{Method, Outcome};
use crate::nip90;

/// Characters of what a signer says.
const MESSAGE_CHARS_MAX: usize = 500;

/// What a signer says, short and in one line.
pub(super) fn cut(message: &str) -> String {
    message.chars().filter(|character| !character.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

/// A ciphertext as its cipher writes it, as far as can be seen.
fn is_ciphertext(cipher: Cipher, text: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    match cipher {
        Cipher::Nip44 => !text.is_empty() && text.bytes().all(is_base64),
        Cipher::Nip04 => text
            .split_once("?iv=")
            .is_some_and(|(text, iv)| !text.is_empty() && text.bytes().chain(iv.bytes()).all(is_base64)),
    }
}

/// The signature in a signed event.
fn signature_in(json: &str) -> Option<Sig> {
    #[derive(Deserialize)]
    struct Signed {
        sig: String,
    }
    let Signed { sig } = serde_json::from_str(json).ok()?;
    Sig::from_hex(sig.as_bytes()).ok()
}

/// Encrypts and signs an event with a key that is here by now.
pub(super) fn sign_locally(event: &Event, keys: &Keys, nonce: [u8; 32]) -> Option<Event> {
    let draft = Draft::of(event);
    match missing(event)? {
        Missing::Signature => Some(keys.sign(&draft)),
        Missing::Encryption(cipher) => {
            let peer = nip90::named_keys(event).first().copied()?;
            keys.sign_encrypted(draft, &Encryption { cipher, peer, nonce }).ok()
        }
    }
}

/// What an event of the outbox lacks, as it is asked for.
pub(super) fn signing_method(event: &Event) -> Option<Method> {
    Some(match missing(event)? {
        Missing::Signature => Method::Sign(event.clone()),
        Missing::Encryption(cipher) => {
            let peer = nip90::named_keys(event).first().copied()?;
            Method::Encrypt(cipher, peer, Draft::of(event).content)
        }
    })
}

/// An event with what it lacked; or why the answer is of no use.
pub(super) fn complete_signature(event: &Event, outcome: Outcome) -> Result<Event, String> {
    let text = match outcome {
        Outcome::Result(text) => text,
        Outcome::Refused(message) | Outcome::AuthUrl(message) => return Err(cut(&message)),
    };
    match missing(event) {
        Some(Missing::Encryption(cipher)) if is_ciphertext(cipher, &text) => {
            Ok(with_encrypted_content(event, &text))
        }
        Some(Missing::Encryption(_)) => Err("what it has encrypted cannot be read".to_owned()),
        _ => signature_in(&text)
            .and_then(|sig| signed(event, &sig))
            .ok_or_else(|| "it has not signed this event by the agent's key".to_owned()),
    }
}
