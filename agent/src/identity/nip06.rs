//! NIP-06: keys from a mnemonic (BIP-39), by the path `m/44'/1237'/<account>'/0/0` (BIP-32).

use std::fmt;

use bip39::{Language, Mnemonic};
use hmac::{Hmac, KeyInit, Mac};
use relay_engine::types::PubKey;
use secp256k1::{PublicKey, Scalar, SecretKey};
use sha2::Sha512;

use super::{InvalidKey, Keys};

const HARDENED: u32 = 1 << 31;
const PURPOSE: u32 = 44 | HARDENED;
/// Nostr, by SLIP-44.
const COIN: u32 = 1237 | HARDENED;

/// A master secret, read. It is never printed.
pub struct Master {
    seed: Vec<u8>,
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Master")
    }
}

impl Master {
    /// Reads a BIP-39 mnemonic in English, without passphrase, or 64 or 128 hexadecimal digits of seed. White space around
    /// it is ignored.
    ///
    /// # Errors
    /// [`InvalidKey`] if it is none of these; for a mnemonic also if its checksum is wrong.
    pub fn parse(secret: &str) -> Result<Self, InvalidKey> {
        let secret = secret.trim();
        if matches!(secret.len(), 64 | 128) {
            let mut seed = vec![0; secret.len() / 2];
            if faster_hex::hex_decode(secret.as_bytes(), &mut seed).is_ok() {
                return Ok(Master { seed });
            }
        }
        let mnemonic = Mnemonic::parse_in(Language::English, secret).map_err(|_| InvalidKey)?;
        Ok(Master { seed: mnemonic.to_seed("").to_vec() })
    }

    /// The **secret** seed in hexadecimal. [`Master::parse`] takes it for the same master, without the cost of a mnemonic.
    pub fn seed_hex(&self) -> String {
        faster_hex::hex_string(&self.seed)
    }

    /// The keys of an account.
    ///
    /// # Errors
    /// [`InvalidKey`] if the account is not below 2^31, or has no key, as one in 2^127 has not.
    pub fn keys(&self, account: u32) -> Result<Keys, InvalidKey> {
        if account >= HARDENED {
            return Err(InvalidKey);
        }
        let mut node = Node::master(&self.seed)?;
        for index in [PURPOSE, COIN, account | HARDENED, 0, 0] {
            node = node.child(index)?;
        }
        Keys::from_secret_bytes(node.key.to_secret_bytes())
    }

    /// The keys by which an agent speaks to a remote signer (NIP-46): HMAC-SHA512 of both public keys under the seed. They are
    /// no account's, and the same on each host with this master.
    ///
    /// # Errors
    /// [`InvalidKey`] if there are none, as of one pair in 2^127.
    pub fn client_keys(&self, agent: &PubKey, signer: &PubKey) -> Result<Keys, InvalidKey> {
        let (key, _) = hash(&self.seed, &[b"NIP-46 client", &agent.0, &signer.0]);
        Keys::from_secret_bytes(key)
    }
}

/// A new mnemonic of 24 words, from 32 random bytes.
pub fn new_mnemonic(entropy: [u8; 32]) -> String {
    Mnemonic::from_entropy(&entropy).expect("32 bytes are 24 words").to_string()
}

/// A private key of BIP-32 with its chain code.
struct Node {
    key: SecretKey,
    chain: [u8; 32],
}

impl Node {
    fn master(seed: &[u8]) -> Result<Self, InvalidKey> {
        let (key, chain) = hash(b"Bitcoin seed", &[seed]);
        Ok(Node { key: SecretKey::from_secret_bytes(key).map_err(|_| InvalidKey)?, chain })
    }

    fn child(&self, index: u32) -> Result<Self, InvalidKey> {
        let number = index.to_be_bytes();
        let (tweak, chain) = if index >= HARDENED {
            hash(&self.chain, &[&[0], &self.key.to_secret_bytes(), &number])
        } else {
            hash(&self.chain, &[&PublicKey::from_secret_key(&self.key).serialize(), &number])
        };
        let tweak = Scalar::from_be_bytes(tweak).map_err(|_| InvalidKey)?;
        Ok(Node { key: self.key.add_tweak(&tweak).map_err(|_| InvalidKey)?, chain })
    }
}

/// HMAC-SHA512, in two halves.
fn hash(key: &[u8], pieces: &[&[u8]]) -> ([u8; 32], [u8; 32]) {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("any length");
    for piece in pieces {
        mac.update(piece);
    }
    let digest: [u8; 64] = mac.finalize().into_bytes().into();
    let (left, right) = digest.split_at(32);
    (left.try_into().expect("half of 64"), right.try_into().expect("half of 64"))
}
