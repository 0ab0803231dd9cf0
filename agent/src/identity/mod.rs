//! Keys of agents, and signing.

use std::fmt;

use relay_engine::types::{Event, PubKey, Timestamp};

use crate::manifest::Identity;
use crate::secrets::Secrets;

/// The secret from which keys are derived: a BIP-39 mnemonic, or 64 hexadecimal digits of seed.
pub const MASTER_SECRET: &str = "AGENT_MASTER_SECRET";

/// The keys of an agent of this name.
///
/// # Errors
/// A message that names the missing or malformed secret, not its value.
pub fn keys(identity: &Identity, name: &str, secrets: &dyn Secrets) -> Result<Keys, String> {
    let _ = (identity, name, secrets);
    todo!("keys")
}

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
    /// The tags.
    pub tags: Vec<Vec<String>>,
    /// The content.
    pub content: String,
}

/// Not a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

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

    /// The public key.
    pub fn pubkey(&self) -> PubKey {
        self.pubkey
    }

    /// The pair, for key agreement.
    pub(crate) fn pair(&self) -> &secp256k1::Keypair {
        &self.pair
    }

    /// Signs an event. Without auxiliary randomness, so the same draft is always the same event (BIP-340 allows it).
    pub fn sign(&self, draft: &Draft) -> Event {
        let _ = (&self.pair, draft);
        todo!("keys")
    }
}
