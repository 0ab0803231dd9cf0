//! Encryption between two keys: NIP-44 (version 2) and NIP-04.

use relay_engine::types::PubKey;

use crate::identity::Keys;

/// A way to encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// NIP-44, version 2.
    Nip44,
    /// NIP-04, which is obsolete and still used by job clients.
    Nip04,
}

/// Why a payload cannot be read, or a text not be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherError {
    /// It is neither NIP-44 nor NIP-04, or damaged.
    Malformed,
    /// Made for another key, or tampered with.
    Unauthentic,
    /// A version of NIP-44 that is not known.
    Version(u8),
    /// NIP-44 encrypts 1 to 65,535 bytes.
    Length,
    /// The other public key is not on the curve.
    Key,
}

/// Encrypts `text` for `peer`. `nonce` must be random and used once; NIP-04 uses its first 16 bytes.
///
/// # Errors
/// [`CipherError::Length`], [`CipherError::Key`].
pub fn encrypt(
    cipher: Cipher,
    keys: &Keys,
    peer: &PubKey,
    text: &str,
    nonce: [u8; 32],
) -> Result<String, CipherError> {
    let _ = (cipher, keys.pair(), peer, text, nonce);
    todo!("keys")
}

/// Decrypts a payload from `peer`. The cipher is recognised by the payload: NIP-04 has `?iv=`.
///
/// # Errors
/// [`CipherError`].
pub fn decrypt(keys: &Keys, peer: &PubKey, payload: &str) -> Result<(Cipher, String), CipherError> {
    let _ = (keys.pair(), peer, payload);
    todo!("keys")
}
