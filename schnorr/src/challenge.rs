//! The challenge of BIP340: SHA-256, tagged "BIP0340/challenge", of r, the key and the message.
//!
//! The tag's hash, twice, is one block, the same for all: its state is a constant. What remains is two blocks.

use std::sync::LazyLock;

use sha2::Digest;
use sha2::block_api::compress256;

use crate::field::{Words, words_from_be};
use crate::scalar::reduced;

const SHA256_START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

static MIDSTATE: LazyLock<[u32; 8]> = LazyLock::new(|| {
    let tag = sha2::Sha256::digest(b"BIP0340/challenge");
    let mut block = [0; 64];
    block[..32].copy_from_slice(&tag);
    block[32..].copy_from_slice(&tag);
    let mut state = SHA256_START;
    compress256(&mut state, &[block]);
    state
});

/// The challenge modulo n.
pub(crate) fn challenge(r: &[u8; 32], key: &[u8; 32], message: &[u8; 32]) -> Words {
    let mut blocks = [[0u8; 64]; 2];
    blocks[0][..32].copy_from_slice(r);
    blocks[0][32..].copy_from_slice(key);
    blocks[1][..32].copy_from_slice(message);
    blocks[1][32] = 0x80;
    // 64 + 96 bytes in bits.
    blocks[1][56..].copy_from_slice(&1280u64.to_be_bytes());
    let mut state = *MIDSTATE;
    compress256(&mut state, &blocks);
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    reduced(words_from_be(&hash))
}
