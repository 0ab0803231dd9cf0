//! Encrypted contents: decrypting those of others.

use relay_engine::types::{Event, PubKey};

use super::tags::content;
use crate::cipher::{Cipher, CipherError, decrypt};
use crate::identity::Keys;

/// Decrypts the content of an event; `peer` is the other party. The cipher is told by the payload.
pub(crate) fn decrypt_content(
    event: &Event,
    peer: &PubKey,
    keys: &Keys,
) -> Result<(Cipher, String), CipherError> {
    decrypt(keys, peer, content(event).trim())
}

/// Why a request cannot be decrypted, for its customer.
pub(super) fn cipher_message(error: CipherError) -> &'static str {
    match error {
        CipherError::Malformed | CipherError::Version(_) => {
            "the request cannot be decrypted: its content is neither NIP-44, version 2, nor NIP-04"
        }
        CipherError::Length => "the request cannot be decrypted: its content is too long",
        CipherError::Unauthentic => "the request cannot be decrypted: it is encrypted for another key",
        CipherError::Key => "the request cannot be decrypted: its author's key is not on the curve",
    }
}
