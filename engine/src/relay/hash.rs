//! The hash of tables whose keys clients choose: SipHash-1-3 keyed with the shard's secret seed.
//!
//! `rustc-hash` is for keys that the machine numbers itself. It mixes its seed in only after it has hashed a key's bytes
//! without it, so keys that collide under one seed collide under all, and anybody can compute them.

use std::collections::HashMap;
use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// A map whose keys clients choose.
pub(super) type KeyedMap<K, V> = HashMap<K, V, KeyedState>;

/// Makes hashers of one secret key.
#[derive(Clone)]
pub(super) struct KeyedState {
    key: (u64, u64),
}

impl KeyedState {
    /// `seed` must be secret.
    pub(super) fn new(seed: u64) -> Self {
        // Two words from one: a second secret would not make it harder to guess the first.
        KeyedState { key: (seed, !seed.rotate_left(32)) }
    }
}

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::types::{EventId, Sig};

    /// `rustc-hash` multiplies every other word of a byte string, xored with this, by the word before it: where the two are
    /// the same, the product is zero and the word before it says nothing.
    const ZEROING: u64 = 0xa409_3822_299f_31d0;

    /// Events of one id whose signatures begin with any word at all, and then with that one.
    fn colliding() -> impl Iterator<Item = (EventId, Sig)> {
        (0..5_000u64).map(|n| {
            let mut sig = [0; 64];
            sig[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            sig[8..16].copy_from_slice(&ZEROING.to_le_bytes());
            (EventId([7; 32]), Sig(sig))
        })
    }

    fn hashes(state: &impl BuildHasher) -> HashSet<u64> {
        colliding().map(|key| state.hash_one(key)).collect()
    }

    #[test]
    fn keys_that_collide_under_every_seed_of_rustc_hash_spread() {
        for seed in [0, 1, 0x1234_5678_9abc_def0] {
            let seeded = rustc_hash::FxSeededState::with_seed(seed as usize);
            assert_eq!(hashes(&seeded).len(), 1, "one hash, whatever the seed");
            let keyed = hashes(&KeyedState::new(seed));
            assert_eq!(keyed.len(), 5_000);
            // Tables choose a bucket by the lowest bits: 5,000 random hashes fall into some 2,888 of 4,096 buckets.
            let buckets: HashSet<u64> = keyed.iter().map(|hash| hash % 4_096).collect();
            assert!(buckets.len() > 2_700, "{} buckets", buckets.len());
        }
    }
}
