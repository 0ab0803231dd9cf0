//! The hash of tables by public key: SipHash-1-3 under a secret seed. Anybody can choose public keys, so a hash that can be
//! predicted would let them put all keys into one bucket.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use siphasher::sip::SipHasher13;

/// A map by public key.
pub(crate) type KeyMap<V> = HashMap<[u8; 32], V, KeyState>;

/// Makes hashers with one secret seed.
#[derive(Clone, Debug)]
pub(crate) struct KeyState(u64, u64);

impl KeyState {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        KeyState(seed as u64, (seed >> 64) as u64)
    }

    /// With the entropy of `std`, which has none on wasm32-unknown-unknown.
    #[inline(never)]
    pub(crate) fn random() -> Self {
        let state = RandomState::new();
        KeyState(state.hash_one(0), state.hash_one(1))
    }
}

impl BuildHasher for KeyState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(state: &KeyState) -> u64 {
        state.hash_one([7u8; 32])
    }

    #[test]
    fn hashes_depend_on_all_of_the_seed() {
        let mut seeds: Vec<[u8; 16]> = vec![[0; 16]];
        for byte in 0..16 {
            let mut seed = [0; 16];
            seed[byte] = 1;
            seeds.push(seed);
        }
        let hashes: std::collections::HashSet<u64> =
            seeds.iter().map(|seed| hash(&KeyState::new(*seed))).collect();
        assert_eq!(hashes.len(), seeds.len());
        assert_eq!(hash(&KeyState::new(seeds[3])), hash(&KeyState::new(seeds[3])));
        assert_ne!(hash(&KeyState::random()), hash(&KeyState::random()));
    }
}
