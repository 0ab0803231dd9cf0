//! The relay's own key, of which only the public half is ever told.

use relay_engine::types::PubKey;

/// A private key that is none: another length, other letters, zero, or above the order of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPrivateKey;

/// The x-only public key of a private key in 64 lowercase hexadecimal digits. `None` where the library that
/// knows is left out (feature `libsecp256k1`).
///
/// # Errors
/// If it is no private key.
pub fn public_half(secret: &str) -> Result<Option<PubKey>, NoPrivateKey> {
    // A private key is written like a public one.
    let PubKey(secret) = PubKey::from_hex(secret.as_bytes()).map_err(|_| NoPrivateKey)?;
    of(secret)
}

#[cfg(feature = "libsecp256k1")]
fn of(secret: [u8; 32]) -> Result<Option<PubKey>, NoPrivateKey> {
    let pair = secp256k1::Keypair::from_secret_bytes(secret).map_err(|_| NoPrivateKey)?;
    Ok(Some(PubKey(pair.x_only_public_key().0.to_byte_array())))
}

#[cfg(not(feature = "libsecp256k1"))]
fn of(secret: [u8; 32]) -> Result<Option<PubKey>, NoPrivateKey> {
    if secret == [0; 32] { Err(NoPrivateKey) } else { Ok(None) }
}
