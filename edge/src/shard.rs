//! Which shard a public key belongs to, and what its Durable Object is called.
//!
//! A shard owns a range of the 65,536 values of the first two bytes of SHA-256(pubkey), so that doubling the
//! number of shards splits each in two. Keys are hashed because a key can be ground to any prefix.

use std::fmt;

use relay_engine::types::PubKey;
use sha2::{Digest, Sha256};

/// How many shards there are, from 1 to [`Shards::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards(u16);

impl Shards {
    /// One shard, which has everything.
    pub const ONE: Shards = Shards(1);
    /// Most shards.
    pub const MAX: u16 = 4096;

    /// `None` for 0, and for more than [`Shards::MAX`].
    pub fn new(count: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&count).then_some(Shards(count))
    }

    /// How many.
    pub fn count(self) -> u16 {
        self.0
    }

    /// The shard that holds an author's events.
    pub fn of(self, author: &PubKey) -> Shard {
        let hash = Sha256::digest(author.0);
        let point = match hash.as_slice() {
            [first, second, ..] => u32::from(u16::from_be_bytes([*first, *second])),
            _ => 0,
        };
        Shard((point * u32::from(self.0) / 65_536) as u16)
    }

    /// The shard whose object takes a socket. A client has no key before it authenticates, so it cannot go by key;
    /// with one shard every author's shard is this one.
    pub fn for_connection(self) -> Shard {
        Shard(0)
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = Shard> {
        (0..self.0).map(Shard)
    }
}

/// One shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard(u16);

impl Shard {
    /// Its number, from 0.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// The name of its Durable Object.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "relay-{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn key(n: u32) -> PubKey {
        let mut bytes = [0; 32];
        bytes[28..].copy_from_slice(&n.to_be_bytes());
        PubKey(bytes)
    }

    #[test]
    fn counts_have_bounds() {
        assert_eq!(Shards::new(0), None);
        assert_eq!(Shards::new(Shards::MAX + 1), None);
        assert_eq!(Shards::new(Shards::MAX).unwrap().all().count(), 4096);
    }

    #[test]
    fn keys_spread_evenly_and_doubling_splits() {
        for count in [1, 2, 3, 8, 4096] {
            let (few, many) = (Shards::new(count).unwrap(), Shards::new(count).unwrap());
            assert!((0..100).all(|n| few.of(&key(n)) == many.of(&key(n))));
        }
        let (four, eight) = (Shards::new(4).unwrap(), Shards::new(8).unwrap());
        let mut seen = [0; 4];
        for n in 0..4_000 {
            let shard = four.of(&key(n)).number();
            assert_eq!(eight.of(&key(n)).number() / 2, shard);
            seen[usize::from(shard)] += 1;
        }
        assert!(seen.iter().all(|count| (900..1100).contains(count)), "{seen:?}");
        // sha256 of 32 zero bytes begins with 66 68.
        assert_eq!(Shards::new(256).unwrap().of(&PubKey([0; 32])).number(), 0x66);
        assert_eq!(Shards::ONE.of(&key(7)).to_string(), "relay-0");
        assert_eq!(Shards::ONE.for_connection(), Shards::ONE.of(&key(7)));
    }
}
