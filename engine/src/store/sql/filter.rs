//! Which ids and tombstones a page may hold: a Bloom filter of ten bits each, wrong about one in a hundred that are
//! not there.
//!
//! An event that comes is looked for under its id, and under two tombstones or three, and nearly always none of them is
//! there: without filters that would cost a page of each level. All are hashes ([`Key::sought`]), so their own bytes
//! serve; pages are cut from sorted hashes, so not the first ones.
//!
//! [`Key::sought`]: crate::store::keyed::Key::sought

const BITS_A_HASH: usize = 10;
const PROBES: u64 = 7;

/// A filter of `hashes`; empty if there are none.
pub(super) fn of(hashes: &[[u8; 32]]) -> Box<[u8]> {
    let mut bytes = vec![0u8; (hashes.len() * BITS_A_HASH).div_ceil(8)].into_boxed_slice();
    for hash in hashes {
        for bit in bits(hash, bytes.len()) {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    bytes
}

/// False only if `hash` is not among those of which `filter` was made.
pub(super) fn may_hold(filter: &[u8], hash: &[u8; 32]) -> bool {
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
    fn it_holds_what_it_was_made_of_and_little_else() {
        let ids: Vec<[u8; 32]> = (0..3_000u32).map(|n| Sha256::digest(n.to_be_bytes()).into()).collect();
        let (known, others) = ids.split_at(1_000);
        let filter = of(known);
        assert!(known.iter().all(|id| may_hold(&filter, id)));
        let wrong = others.iter().filter(|id| may_hold(&filter, id)).count();
        assert!(wrong < 60, "{wrong} of 2,000");
        assert!(!may_hold(&of(&[]), &ids[0]), "a page without any");
    }
}
