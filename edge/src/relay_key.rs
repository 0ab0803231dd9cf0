//! The relay's own key. Only its public key is ever shown.

use relay_engine::types::PubKey;

/// Not a private key: wrong length, not lowercase hexadecimal, zero, or not below the order of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPrivateKey;

/// The x-only public key (BIP-340) of a private key in 64 lowercase hexadecimal digits. `None` in builds without the
/// feature `libsecp256k1`, which cannot compute it.
///
/// # Errors
/// [`InvalidPrivateKey`].
pub fn public_key(secret: &str) -> Result<Option<PubKey>, InvalidPrivateKey> {
    // A private key has the same hexadecimal form as a public one.
    let PubKey(secret) = PubKey::from_hex(secret.as_bytes()).map_err(|_| InvalidPrivateKey)?;
    derive(secret)
}

#[cfg(feature = "libsecp256k1")]
fn derive(secret: [u8; 32]) -> Result<Option<PubKey>, InvalidPrivateKey> {
    let pair = secp256k1::Keypair::from_secret_bytes(secret).map_err(|_| InvalidPrivateKey)?;
    Ok(Some(PubKey(pair.x_only_public_key().0.to_byte_array())))
}

#[cfg(not(feature = "libsecp256k1"))]
fn derive(secret: [u8; 32]) -> Result<Option<PubKey>, InvalidPrivateKey> {
    if secret == [0; 32] { Err(InvalidPrivateKey) } else { Ok(None) }
}
