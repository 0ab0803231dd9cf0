//! SHA-256 of eight messages at once, one in each 32-bit lane of AVX2.
//!
//! For processors without SHA-256 instructions; with these `sha2` is as fast.
#![allow(unsafe_code, reason = "functions compiled for instructions that were looked for")]

use std::arch::x86_64::*;

/// Messages hashed at once.
pub(crate) const LANES: usize = 8;
/// From this number of messages lanes are faster than portable code.
pub(crate) const WORTH_FROM: usize = 2;

/// Whether this machine has the instructions.
pub(crate) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

/// Whether lanes are the fastest way: not if `sha2` uses SHA-256 instructions of the processor.
pub(crate) fn is_worthwhile() -> bool {
    let is_soft = cfg!(any(sha2_backend = "soft", sha2_256_backend = "soft"));
    is_available() && (is_soft || !std::arch::is_x86_feature_detected!("sha"))
}

/// FIPS 180-4, 4.2.2.
const ROUNDS: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// Puts a block into a lane; words are big-endian numbers.
pub(crate) fn set(words: &mut [[u32; LANES]; 16], lane: usize, block: &[u8; 64]) {
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        word[lane] = u32::from_be_bytes(*bytes);
    }
}

/// The states of all lanes.
pub(crate) struct State([[u32; LANES]; 8]);

impl State {
    /// The same state in all.
    pub(crate) fn from(start: &[u32; 8]) -> Self {
        State(start.map(|word| [word; LANES]))
    }

    /// Runs a block of each lane through the compression function.
    ///
    /// # Panics
    /// If the machine lacks the instructions.
    pub(crate) fn compress(&mut self, words: &[[u32; LANES]; 16]) {
        assert!(is_available(), "AVX2 is missing");
        // SAFETY: the only need is AVX2, which is there.
        unsafe { compress_avx2(&mut self.0, words) }
    }

    /// The state of a lane.
    pub(crate) fn of(&self, lane: usize) -> [u32; 8] {
        self.0.map(|word| word[lane])
    }
}

#[target_feature(enable = "avx2")]
fn compress_avx2(states: &mut [[u32; LANES]; 8], words: &[[u32; LANES]; 16]) {
    // SAFETY: reads 32 bytes of an array of 32 bytes, at any alignment.
    let load = |words: &[u32; LANES]| unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
    let mut state = [_mm256_setzero_si256(); 8];
    for (lanes, words) in state.iter_mut().zip(&*states) {
        *lanes = load(words);
    }
    let mut block = [_mm256_setzero_si256(); 16];
    for (lanes, words) in block.iter_mut().zip(words) {
        *lanes = load(words);
    }
    compress_block(&mut state, &mut block);
    for (words, lanes) in states.iter_mut().zip(state) {
        // SAFETY: writes 32 bytes of an array of 32 bytes, at any alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), lanes) };
    }
}

/// The sum of all.
macro_rules! sum {
    ($first:expr $(, $next:expr)+) => {{
        let mut sum = $first;
        $(sum = _mm256_add_epi32(sum, $next);)+
        sum
    }};
}

/// The exclusive or of two rotations and one more, given whole.
macro_rules! sigma {
    ($x:expr, $a:literal, $b:literal, $last:expr) => {
        _mm256_xor_si256(
            _mm256_xor_si256(rotated::<$a, { 32 - $a }>($x), rotated::<$b, { 32 - $b }>($x)),
            $last,
        )
    };
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotated<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn compress_block(state: &mut [__m256i; 8], words: &mut [__m256i; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (i, constant) in ROUNDS.iter().enumerate() {
        if i >= 16 {
            let (w1, w9, w14) = (words[(i + 1) % 16], words[(i + 9) % 16], words[(i + 14) % 16]);
            let low = sigma!(w1, 7, 18, _mm256_srli_epi32::<3>(w1));
            let high = sigma!(w14, 17, 19, _mm256_srli_epi32::<10>(w14));
            words[i % 16] = sum!(words[i % 16], low, w9, high);
        }
        let choice = _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g)));
        let majority = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(c, _mm256_or_si256(a, b)));
        let constant = _mm256_set1_epi32(constant.cast_signed());
        let first = sum!(h, sigma!(e, 6, 11, rotated::<25, 7>(e)), choice, constant, words[i % 16]);
        let second = sum!(sigma!(a, 2, 13, rotated::<22, 10>(a)), majority);
        (h, g, f, e) = (g, f, e, sum!(d, first));
        (d, c, b, a) = (c, b, a, sum!(first, second));
    }
    for (lanes, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *lanes = _mm256_add_epi32(*lanes, new);
    }
}
