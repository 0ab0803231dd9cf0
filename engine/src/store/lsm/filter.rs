//! What a page may hold: a Bloom filter with ten bits for each id, each tombstone and, where a shelf wants it
//! ([`Filtered`]), each head of postings; one false positive in a hundred.
//!
//! A new event is looked up by its id and by two or three tombstones, and nearly always none of them is stored: without
//! filters that would read a page of each level. Whoever asks for the events of many authors does the same with heads, of which
//! most runs have none. All of these are hashes or hold hashes, so their own bytes choose the bits; pages are cut from sorted
//! keys, so not the first ones.

use std::sync::Arc;

use super::page::Filtered;
use crate::store::kv::Key;

const BITS_PER_HASH: usize = 10;
const PROBES: u64 = 7;

/// What chooses the bits of one id, tombstone or head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash {
    first: u64,
    step: u64,
}

impl Hash {
    /// Of what a range of keys is of, if filters made of `filtered` know that.
    pub(super) fn of_range(from: &Key, to: &Key, filtered: Filtered) -> Option<Self> {
        match (from.lookup_hash(), to.lookup_hash()) {
            (Some(hash), other) => {
                let is_one = from.as_bytes().first() == to.as_bytes().first() && other == Some(hash);
                is_one.then(|| Hash::of_hash(hash))
            }
            (None, _) if filtered == Filtered::HashesAndHeads => {
                from.hashed_head().filter(|head| to.hashed_head() == Some(head)).map(Hash::of_head)
            }
            (None, _) => None,
        }
    }

    fn of_hash(hash: &[u8; 32]) -> Self {
        let part = |at: usize| hash[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        Hash { first: part(16), step: part(24) | 1 }
    }

    /// A head has half a SHA-256 or two, which a multiplication spreads over all bits.
    fn of_head(head: &[u8]) -> Self {
        let (mut first, mut step) = (0u64, 0u64);
        for chunk in head.chunks(8) {
            let part = chunk.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            first = (first.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            step = (step.rotate_left(29) ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        Hash { first: first ^ first >> 32, step: (step ^ step >> 31) | 1 }
    }

    fn bits(self, bytes: usize) -> impl Iterator<Item = usize> {
        let bits = bytes as u64 * 8;
        (0..PROBES).map(move |n| (self.first.wrapping_add(self.step.wrapping_mul(n)) % bits) as usize)
    }
}

/// The hashes of a page that is being written.
pub(super) struct Hashes {
    filtered: Filtered,
    hashes: Vec<Hash>,
}

impl Hashes {
    pub(super) fn new(filtered: Filtered) -> Self {
        Hashes { filtered, hashes: Vec::new() }
    }

    /// Keys come ascending, so those of one head come one after the other.
    pub(super) fn add(&mut self, key: &Key) {
        let hash = match key.lookup_hash() {
            Some(hash) => Some(Hash::of_hash(hash)),
            None if self.filtered == Filtered::HashesAndHeads => key.hashed_head().map(Hash::of_head),
            None => None,
        };
        if hash.is_some() && self.hashes.last() != hash.as_ref() {
            self.hashes.extend(hash);
        }
    }

    /// The filter; empty if there is nothing in it.
    pub(super) fn into_filter(self) -> Arc<[u8]> {
        let mut bytes = vec![0u8; (self.hashes.len() * BITS_PER_HASH).div_ceil(8)];
        for hash in self.hashes {
            for bit in hash.bits(bytes.len()) {
                bytes[bit / 8] |= 1 << (bit % 8);
            }
        }
        bytes.into()
    }
}

/// False only if `hash` is not among those of which `filter` was made.
pub(super) fn may_contain(filter: &[u8], hash: Hash) -> bool {
    !filter.is_empty() && hash.bits(filter.len()).all(|bit| filter[bit / 8] & 1 << (bit % 8) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// How many of the second two thirds a filter of the first third is wrong about.
    fn wrong(mut keys: Vec<Key>) -> usize {
        keys.sort();
        let of = |key: &Key| Hash::of_range(key, key, Filtered::HashesAndHeads).expect("a hash");
        let is_known = |n: usize| n.is_multiple_of(3);
        let mut hashes = Hashes::new(Filtered::HashesAndHeads);
        keys.iter().enumerate().filter(|(n, _)| is_known(*n)).for_each(|(_, key)| hashes.add(key));
        let filter = hashes.into_filter();
        let contains = |key: &Key| may_contain(&filter, of(key));
        assert!(keys.iter().enumerate().all(|(n, key)| !is_known(n) || contains(key)));
        keys.iter().enumerate().filter(|(n, key)| !is_known(*n) && contains(key)).count()
    }

    #[test]
    fn it_contains_what_it_was_built_from_and_little_else() {
        let hash = |n: u32| -> [u8; 32] { Sha256::digest(n.to_be_bytes()).into() };
        let keys = |key: &dyn Fn(u32) -> Vec<u8>| (0..3_000).map(|n| Key::read(&key(n)).unwrap()).collect();
        let author = |n: u32, rest: &[u8]| [b"u", &hash(n)[..16], rest, &[0; 24]].concat();
        for (what, key) in [
            ("ids", &(|n| [b"i", &hash(n)[..], &[0; 8]].concat()) as &dyn Fn(u32) -> Vec<u8>),
            ("authors", &|n| author(n, &[0])),
            ("kinds of authors", &|n| author(n / 50, &[1, 0, n as u8 % 50])),
            ("addresses of an author", &|n| author(0, &[&[2, 0, 1], &hash(n)[..16]].concat())),
            ("tags", &|n| [b"tp", &hash(n)[..16], &[0; 24]].concat()),
        ] {
            let wrong = wrong(keys(key));
            assert!(wrong < 60, "{wrong} of 2,000 {what}");
        }
        let none = Hashes::new(Filtered::Hashes).into_filter();
        assert!(!may_contain(&none, Hash { first: 1, step: 1 }), "a page without any");
    }
}
