//! The challenge of BIP340: SHA-256, tagged "BIP0340/challenge", of r, the key and the message.
//!
//! The first block is the tag's hash, twice, so the state after it is a constant. Two blocks remain. They are hashed by `sha2`
//! one message after another, or eight messages in vector lanes where that is faster.

use std::sync::LazyLock;

use sha2::Digest;
use sha2::block_api::compress256;

use crate::Claim;
use crate::field::{Words, words_from_be};
use crate::scalar::reduced;
use crate::sha256;
#[cfg(target_arch = "x86_64")]
use crate::sha256::lanes;

static MIDSTATE: LazyLock<[u32; 8]> = LazyLock::new(|| {
    let tag = sha2::Sha256::digest(b"BIP0340/challenge");
    let mut block = [0; 64];
    block[..32].copy_from_slice(&tag);
    block[32..].copy_from_slice(&tag);
    let mut state = sha256::START;
    compress256(&mut state, &[block]);
    state
});

/// Replaces the contents of `challenges` by the challenges of all claims, modulo n.
pub(crate) fn all(claims: &[Claim], challenges: &mut Vec<Words>) {
    challenges.clear();
    #[cfg(target_arch = "x86_64")]
    if lanes::is_worthwhile() {
        return in_lanes(claims, challenges);
    }
    challenges.extend(claims.iter().map(one));
}

/// The challenge modulo n.
pub(crate) fn one(claim: &Claim) -> Words {
    let mut state = *MIDSTATE;
    compress256(&mut state, &blocks(claim));
    number(&state)
}

/// The two blocks after the tag: r, the key, the message, the padding.
fn blocks(claim: &Claim) -> [[u8; 64]; 2] {
    let mut blocks = [[0u8; 64]; 2];
    blocks[0][..32].copy_from_slice(&claim.signature[..32]);
    blocks[0][32..].copy_from_slice(&claim.key);
    blocks[1][..32].copy_from_slice(&claim.message);
    blocks[1][32] = 0x80;
    // The length of tag block and message, 64 + 96 bytes, in bits.
    blocks[1][56..].copy_from_slice(&1280u64.to_be_bytes());
    blocks
}

fn number(state: &[u32; 8]) -> Words {
    reduced(words_from_be(&sha256::bytes(state)))
}

/// Eight at a time; a remainder that is too small is hashed by `sha2`.
#[cfg(target_arch = "x86_64")]
fn in_lanes(claims: &[Claim], challenges: &mut Vec<Words>) {
    for claims in claims.chunks(lanes::LANES) {
        if claims.len() < lanes::WORTH_FROM {
            challenges.extend(claims.iter().map(one));
            continue;
        }
        let mut words = [[[0; lanes::LANES]; 16]; 2];
        for (lane, claim) in claims.iter().enumerate() {
            for (words, block) in words.iter_mut().zip(&blocks(claim)) {
                lanes::set(words, lane, block);
            }
        }
        let mut states = lanes::State::from(&MIDSTATE);
        words.iter().for_each(|words| states.compress(words));
        challenges.extend((0..claims.len()).map(|lane| number(&states.of(lane))));
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A claim of pseudorandom bytes.
    fn claim(seed: u8) -> Claim {
        let byte = |at: usize| (at as u8).wrapping_mul(seed | 1).wrapping_add(seed) ^ (at as u8) << 3;
        Claim {
            key: std::array::from_fn(byte),
            message: std::array::from_fn(|at| byte(at + 32)),
            signature: std::array::from_fn(|at| byte(at + 64)),
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "vector instructions")]
    fn lanes_hash_as_sha2_does() {
        if !lanes::is_available() {
            eprintln!("no AVX2: nothing was compared");
            return;
        }
        let mut got = Vec::new();
        for len in 0..40 {
            let claims: Vec<Claim> =
                (0..len).map(|i: u8| claim(i.wrapping_mul(7).wrapping_add(len))).collect();
            got.clear();
            in_lanes(&claims, &mut got);
            assert_eq!(got, claims.iter().map(one).collect::<Vec<_>>(), "{len} claims");
        }
    }

    /// `cargo test --release -p relay-schnorr --lib lanes_compared -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn lanes_compared_with_sha2() {
        let claims: Vec<Claim> = (0..64).map(claim).collect();
        let mut out = Vec::new();
        let mut time = |hash: &mut dyn FnMut(&mut Vec<Words>)| {
            let mut rounds: Vec<u128> = Vec::new();
            for _ in 0..200 {
                let start = std::time::Instant::now();
                for _ in 0..20 {
                    out.clear();
                    hash(&mut out);
                }
                rounds.push(start.elapsed().as_nanos() / (20 * 64));
            }
            rounds.sort_unstable();
            rounds[100]
        };
        let alone = time(&mut |out| out.extend(claims.iter().map(one)));
        let lanes = time(&mut |out| in_lanes(&claims, out));
        eprintln!("a challenge takes {alone} ns by sha2 on this machine, {lanes} ns in lanes");
    }
}
