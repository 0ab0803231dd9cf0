//! Encryption between two keys: NIP-44 (version 2) and NIP-04.
//!
//! Each call computes the keys' shared secret (ECDH on secp256k1), which costs about as much as a signature.

mod nip04;
mod nip44;

use std::fmt;

use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};

use crate::identity::Keys;

/// The longest text that is encrypted or decrypted, in bytes. NIP-44 allows 4 GiB and leaves the bound to its reader.
pub const TEXT_MAX: usize = 1 << 20;

/// A way to encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// A version of NIP-44 that is not known. `b'#'` stands for the encodings that NIP-44 keeps for later.
    Version(u8),
    /// Longer than [`TEXT_MAX`]; or empty, which NIP-44 cannot encrypt.
    Length,
    /// The other public key is not on the curve.
    Key,
}

impl fmt::Display for CipherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CipherError::Malformed => f.write_str("neither NIP-44 nor NIP-04, or damaged"),
            CipherError::Unauthentic => f.write_str("encrypted for another key, or changed since"),
            CipherError::Version(b'#') => f.write_str("an encoding of NIP-44 that is not known"),
            CipherError::Version(version) => write!(f, "version {version} of NIP-44 is not known"),
            CipherError::Length => f.write_str("empty or too long to be encrypted"),
            CipherError::Key => f.write_str("the other public key is not on the curve"),
        }
    }
}

impl std::error::Error for CipherError {}

/// Encrypts `text` for `peer`. `nonce` must be random and used once; NIP-04 uses its first 16 bytes.
///
/// From 65,536 bytes on NIP-44 uses its long form, which older clients cannot read.
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
    if text.len() > TEXT_MAX {
        return Err(CipherError::Length);
    }
    let shared = shared_x(keys, peer)?;
    match cipher {
        Cipher::Nip44 => nip44::encrypt(&nip44::conversation_key(&shared), text, &nonce),
        Cipher::Nip04 => Ok(nip04::encrypt(&shared, text, *nonce.first_chunk().expect("32 bytes"))),
    }
}

/// Decrypts a payload from `peer`. The cipher is recognised by the payload: NIP-04 has `?iv=`.
///
/// # Errors
/// [`CipherError`]. NIP-04 has no authentication: a payload that was changed may decrypt to another text.
pub fn decrypt(keys: &Keys, peer: &PubKey, payload: &str) -> Result<(Cipher, String), CipherError> {
    match payload.split_once("?iv=") {
        Some((text, iv)) => {
            let (text, iv) = nip04::decode(text, iv)?;
            Ok((Cipher::Nip04, nip04::decrypt(&shared_x(keys, peer)?, text, iv)?))
        }
        None => {
            let payload = nip44::decode(payload)?;
            let key = nip44::conversation_key(&shared_x(keys, peer)?);
            Ok((Cipher::Nip44, nip44::decrypt(&key, payload)?))
        }
    }
}

/// The x coordinate of the shared point, not hashed.
fn shared_x(keys: &Keys, peer: &PubKey) -> Result<[u8; 32], CipherError> {
    let peer = secp256k1::XOnlyPublicKey::from_byte_array(peer.0).map_err(|_| CipherError::Key)?;
    let peer = secp256k1::PublicKey::from_x_only_public_key(peer, secp256k1::Parity::Even);
    let point = secp256k1::ecdh::shared_secret_point(&peer, &keys.pair().secret_key());
    Ok(*point.first_chunk().expect("64 bytes"))
}
