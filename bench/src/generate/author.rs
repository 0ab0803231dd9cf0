//! Key pairs derived from the seed, and their signatures.

use secp256k1::{Keypair, SecretKey, XOnlyPublicKey, schnorr};

use super::rng::digest;
use crate::hex;

/// One key pair. It is derived from a public seed: never use it for anything but tests.
#[derive(Clone, Debug)]
pub struct Author {
    keypair: Keypair,
    /// The public key in hex.
    pub pubkey: String,
}

impl Author {
    /// The author of rank `rank`; rank 0 is the most active.
    pub fn derive(seed: u64, rank: u64) -> Self {
        let secret = SecretKey::from_secret_bytes(digest("relay-bench author", seed, rank))
            .expect("a hash is a valid key but once in 2^128");
        let keypair = Keypair::from_secret_key(&secret);
        let pubkey = XOnlyPublicKey::from_keypair(&keypair).0;
        Author { keypair, pubkey: hex::encode(&pubkey.to_byte_array()) }
    }

    /// The signature of an event id, in hex. It is deterministic, without auxiliary randomness. Takes about 25 us.
    pub fn sign(&self, id: &[u8; 32]) -> String {
        hex::encode(schnorr::sign_no_aux_rand(id, &self.keypair).as_byte_array())
    }
}
