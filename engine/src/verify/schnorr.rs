//! The `relay-schnorr` crate: a batch at a time, faster than one by one, with the same verdicts.

use std::sync::{Mutex, PoisonError};

use super::{Claim, Verifier};

/// `relay-schnorr` as a [`Verifier`], with the authors it remembers.
///
/// One call at a time: give each shard its own, so that none waits for another.
#[derive(Debug)]
pub struct Schnorr(Mutex<relay_schnorr::Verifier>);

impl Schnorr {
    /// A verifier on the fastest instructions of this machine, that remembers authors within
    /// `author_cache_bytes`: about 30 KB for one who has signed three times or more. Zero remembers none.
    pub fn new(author_cache_bytes: usize) -> Self {
        Schnorr(Mutex::new(relay_schnorr::Verifier::new().with_author_cache(author_cache_bytes)))
    }

    /// [`Schnorr::new`] whose tables of public keys are hashed under `seed`, which must be secret and random. For hosts on
    /// wasm32-unknown-unknown, where `std` has no entropy.
    pub fn with_hash_seed(author_cache_bytes: usize, seed: [u8; 16]) -> Self {
        let verifier = relay_schnorr::Verifier::new().with_hash_seed(seed);
        Schnorr(Mutex::new(verifier.with_author_cache(author_cache_bytes)))
    }
}

impl Verifier for Schnorr {
    fn verify(&self, claims: &[Claim], valid: &mut [bool]) {
        let claims: Vec<relay_schnorr::Claim> = claims
            .iter()
            .map(|claim| relay_schnorr::Claim {
                key: claim.pubkey.0,
                message: claim.id.0,
                signature: claim.sig.0,
            })
            .collect();
        // A panic elsewhere may have left a cache of authors half filled at worst, never a wrong entry.
        let mut verifier = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verifier.verify(&claims, valid);
    }

    fn prefers_batch_hashing(&self) -> bool {
        relay_schnorr::sha256::uses_simd_lanes()
    }

    fn hash(&self, messages: &[&[u8]], hashes: &mut [[u8; 32]]) {
        relay_schnorr::sha256::digest_all(messages, hashes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EventId, PubKey, Sig};

    #[test]
    fn verdicts_come_in_the_order_of_claims() {
        // Vectors 0 and 1 of BIP340.
        let key = "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9";
        let sig = "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215\
                   25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0";
        let good = Claim {
            pubkey: PubKey::from_hex(key.as_bytes()).unwrap(),
            id: EventId([0; 32]),
            sig: Sig::from_hex(sig.as_bytes()).unwrap(),
        };
        let bad = Claim { id: EventId([1; 32]), ..good };
        let verifier = Schnorr::new(1 << 20);
        for _ in 0..4 {
            let mut valid = [false, true, false, true];
            verifier.verify(&[good, bad, good, bad], &mut valid);
            assert_eq!(valid, [true, false, true, false]);
        }
    }
}
