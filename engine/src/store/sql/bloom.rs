//! Which ids and tombstones a page may hold: a Bloom filter with ten bits for each, and one false positive in a hundred.
//!
//! A new event is looked up by its id and by two or three tombstones, and nearly always none of them is stored: without
//! filters that would read a page of each level. All of them are hashes ([`Key::lookup_hash`]), so their own bytes choose the
//! bits; pages are cut from sorted hashes, so not the first ones.
//!
//! [`Key::lookup_hash`]: crate::store::kv::Key::lookup_hash

const BITS_PER_HASH: usize = 10;
const PROBES: u64 = 7;

/// A filter of `hashes`; empty if there are none.
pub(super) fn build(hashes: &[[u8; 32]]) -> Box<[u8]> {
    let mut bytes = vec![0u8; (hashes.len() * BITS_PER_HASH).div_ceil(8)].into_boxed_slice();
    for hash in hashes {
        for bit in bits(hash, bytes.len()) {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    bytes
}

/// False only if `hash` is not among those of which `filter` was made.
pub(super) fn may_contain(filter: &[u8], hash: &[u8; 32]) -> bool {
    !filter.is_empty() && bits(hash, filter.len()).all(|bit| filter[bit / 8] & 1 << (bit % 8) != 0)
}

fn bits(hash: &[u8; 32], bytes: usize) -> impl Iterator<Item = usize> {
    let part = |at: usize| hash[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (first, step, bits) = (part(16), part(24) | 1, bytes as u64 * 8);
    (0..PROBES).map(move |n| (first.wrapping_add(step.wrapping_mul(n)) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn it_contains_what_it_was_built_from_and_little_else() {
        let ids: Vec<[u8; 32]> = (0..3_000u32).map(|n| Sha256::digest(n.to_be_bytes()).into()).collect();
        let (known, others) = ids.split_at(1_000);
        let filter = build(known);
        assert!(known.iter().all(|id| may_contain(&filter, id)));
        let wrong = others.iter().filter(|id| may_contain(&filter, id)).count();
        assert!(wrong < 60, "{wrong} of 2,000");
        assert!(!may_contain(&build(&[]), &ids[0]), "a page without any");
    }
}
