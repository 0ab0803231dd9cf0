//! Encrypted contents: opening those of others, sealing ours.

use relay_engine::types::{Event, PubKey};

use super::tags::{OwnedTag, content, inner};
use crate::cipher::{Cipher, CipherError, decrypt, encrypt};
use crate::identity::Keys;

/// Decrypts the tags in the content of an event; `peer` is the other party. The cipher is told by the payload.
///
/// # Errors
/// Words for whoever wrote it.
pub(super) fn open(event: &Event, peer: &PubKey, keys: &Keys) -> Result<(Cipher, Vec<OwnedTag>), String> {
    let (cipher, text) = open_text(event, peer, keys).map_err(|error| words(error).to_owned())?;
    match inner(&text) {
        Ok(tags) => Ok((cipher, tags)),
        Err(message) => Err(message.to_owned()),
    }
}

/// Decrypts the content of an event.
pub(super) fn open_text(event: &Event, peer: &PubKey, keys: &Keys) -> Result<(Cipher, String), CipherError> {
    decrypt(keys, peer, content(event).trim())
}

/// Encrypts a content. NIP-44 has no empty text: an empty one is sent as a line feed.
pub(super) fn seal(
    cipher: Cipher,
    keys: &Keys,
    peer: &PubKey,
    text: &str,
    nonce: [u8; 32],
) -> Result<String, CipherError> {
    let text = if text.is_empty() { "\n" } else { text };
    encrypt(cipher, keys, peer, text, nonce)
}

fn words(error: CipherError) -> &'static str {
    match error {
        CipherError::Malformed | CipherError::Length => {
            "the request cannot be decrypted: its content is neither NIP-44 nor NIP-04"
        }
        CipherError::Unauthentic => "the request cannot be decrypted: it is encrypted for another key",
        CipherError::Version(_) => "the request cannot be decrypted: only version 2 of NIP-44 is known",
        CipherError::Key => "the request cannot be decrypted: its author's key is not on the curve",
    }
}
