//! Scalars modulo the group order n, and their recoding: the GLV endomorphism split, and signed odd digits without zeros.
//!
//! A scalar k is split into odd k1 and k2, k = k1 + k2 * lambda modulo n, of 129 bits each and a sign. An odd
//! number below 2^L in magnitude is a sum of +-2^i for all i < L, so every window of it is an odd digit, never
//! zero: every signature takes the same sequence of steps, whatever its scalars are.

use crate::field::{Words, is_below};

/// n, little-endian words.
pub(crate) const N: Words = [0xbfd2_5e8c_d036_4141, 0xbaae_dce6_af48_a03b, 0xffff_ffff_ffff_fffe, u64::MAX];

/// Signs of a half, as bits: bit i is set if 2^i is added, clear if it is subtracted.
pub(crate) type Signs = [u64; 3];

/// A number of at most 129 bits and its sign: three words, two's complement.
pub(crate) type Half = [u64; 3];

/// The largest magnitude of a half is below 2^`HALF_BITS`.
pub(crate) const HALF_BITS: u32 = 129;

// The lattice of (a, b) with a + b * lambda = 0 modulo n has the basis (A1, -B1), (A2, A1).
const A1: [u64; 3] = [0xe86c_90e4_9284_eb15, 0x3086_d221_a7d4_6bcd, 0];
const B1: [u64; 3] = [0x6f54_7fa9_0abf_e4c3, 0xe443_7ed6_010e_8828, 0];
const A2: [u64; 3] = [0x57c1_108d_9d44_cfd8, 0x14ca_50f7_a8e2_f3f6, 1];
/// 2^384 * A1 / n and 2^384 * B1 / n, rounded down.
const G1: Words =
    [0xe893_209a_45db_b030, 0x3daa_8a14_71e8_ca7f, 0xe86c_90e4_9284_eb15, 0x3086_d221_a7d4_6bcd];
const G2: Words =
    [0x1571_b4ae_8ac4_7f71, 0x2212_08ac_9df5_06c6, 0x6f54_7fa9_0abf_e4c4, 0xe443_7ed6_010e_8828];

/// Whether the number is below n.
pub(crate) fn is_reduced(words: &Words) -> bool {
    is_below(words, &N)
}

/// A number below 2^256 modulo n: n is above 2^255, so one subtraction is enough.
pub(crate) fn reduced(words: Words) -> Words {
    if is_reduced(&words) { words } else { minus(&words, &N) }
}

/// -k modulo n, for k below n.
pub(crate) fn negated(k: &Words) -> Words {
    if *k == [0; 4] { *k } else { minus(&N, k) }
}

fn minus(a: &Words, b: &Words) -> Words {
    let mut borrow = false;
    std::array::from_fn(|i| {
        let (word, b) = a[i].borrowing_sub(b[i], borrow);
        borrow = b;
        word
    })
}

/// Odd k1 and k2 with k = k1 + k2 * lambda modulo n.
///
/// With f1, f2 the fractions that rounding down drops, both from 0 to 1 and 2^-120 at most beyond,
/// k1 = f1 A1 + f2 A2 and k2 = f2 A1 - f1 B1. Making a half odd takes one basis vector away and its fraction
/// down by 1. So |k1| < 1.28 * 2^128 and |k2| < 1.09 * 2^128.
pub(crate) fn split(k: &Words) -> [Half; 2] {
    let (c1, c2) = (high_128(k, &G1), high_128(k, &G2));
    let mut k1 = sub(&sub(&[k[0], k[1], k[2]], &times(&c1, &A1)), &times(&c2, &A2));
    let mut k2 = sub(&times(&c1, &B1), &times(&c2, &A1));
    // (A1, -B1) is odd in both, (A2, A1) in the second only.
    let odd = (k1[0] & 1).wrapping_sub(1);
    k1 = sub(&k1, &A1.map(|word| word & odd));
    k2 = add(&k2, &B1.map(|word| word & odd));
    let odd = (k2[0] & 1).wrapping_sub(1);
    k1 = sub(&k1, &A2.map(|word| word & odd));
    k2 = sub(&k2, &A1.map(|word| word & odd));
    [k1, k2]
}

/// The signs of an odd half over `bits` bits, at least [`HALF_BITS`]: (k + 2^bits - 1) / 2.
#[inline(always)]
pub(crate) fn signs(half: &Half, bits: u32) -> Signs {
    debug_assert!((HALF_BITS..192).contains(&bits) && half[0] & 1 == 1);
    let mut all = [u64::MAX, u64::MAX, 0];
    all[2] = (1 << (bits - 128)) - 1;
    let [a, b, c] = add(half, &all);
    [a >> 1 | b << 63, b >> 1 | c << 63, c >> 1]
}

/// `width` bits of the signs from bit `at` on.
#[inline(always)]
pub(crate) fn bits_at(signs: &Signs, at: u32, width: u32) -> u32 {
    let (word, shift) = ((at / 64) as usize, at % 64);
    let mut bits = signs[word] >> shift;
    if shift + width > 64 && word < 2 {
        bits |= signs[word + 1] << (64 - shift);
    }
    bits as u32 & ((1 << width) - 1)
}

/// Bits 384 and up of the product.
fn high_128(k: &Words, g: &Words) -> [u64; 2] {
    let mut product = [0u64; 8];
    for i in 0..4 {
        let mut carry = 0;
        for j in 0..4 {
            let sum = u128::from(k[i]) * u128::from(g[j]) + u128::from(product[i + j]) + u128::from(carry);
            product[i + j] = sum as u64;
            carry = (sum >> 64) as u64;
        }
        product[i + 4] = carry;
    }
    [product[6], product[7]]
}

/// The product modulo 2^192.
fn times(c: &[u64; 2], v: &[u64; 3]) -> [u64; 3] {
    let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let w0 = wide(c[0], v[0]);
    let w1 = wide(c[0], v[1]) + (w0 >> 64);
    let w2 = wide(c[1], v[0]) + u128::from(w1 as u64);
    let high = c[0].wrapping_mul(v[2]).wrapping_add(c[1].wrapping_mul(v[1]));
    [w0 as u64, w2 as u64, high.wrapping_add((w1 >> 64) as u64).wrapping_add((w2 >> 64) as u64)]
}

#[inline(always)]
fn add(a: &Half, b: &Half) -> Half {
    let (w0, c) = a[0].carrying_add(b[0], false);
    let (w1, c) = a[1].carrying_add(b[1], c);
    [w0, w1, a[2].wrapping_add(b[2]).wrapping_add(u64::from(c))]
}

#[inline(always)]
fn sub(a: &Half, b: &Half) -> Half {
    let (w0, c) = a[0].borrowing_sub(b[0], false);
    let (w1, c) = a[1].borrowing_sub(b[1], c);
    [w0, w1, a[2].wrapping_sub(b[2]).wrapping_sub(u64::from(c))]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the half is negative, and its absolute value.
    fn magnitude(half: &Half) -> (bool, Words) {
        let is_negative = half[2] >> 63 != 0;
        let half = if is_negative { sub(&[0; 3], half) } else { *half };
        (is_negative, [half[0], half[1], half[2], 0])
    }

    fn add_mod(a: &Words, b: &Words) -> Words {
        let b = negated(b);
        if is_below(a, &b) { minus(&minus(a, &b), &negated_from_zero()) } else { minus(a, &b) }
    }

    /// 2^256 - n: taking it away from a - b + 2^256 leaves a - b + n.
    fn negated_from_zero() -> Words {
        minus(&[0; 4], &N)
    }

    fn mul_mod(a: &Words, b: &Words) -> Words {
        let mut product = [0; 4];
        for bit in (0..256).rev() {
            product = add_mod(&product, &product);
            if a[bit / 64] >> (bit % 64) & 1 != 0 {
                product = add_mod(&product, b);
            }
        }
        product
    }

    const LAMBDA: Words =
        [0xdf02_967c_1b23_bd72, 0x122e_22ea_2081_6678, 0xa526_1c02_8812_645a, 0x5363_ad4c_c05c_30e0];

    fn check(k: Words) {
        let halves = split(&k);
        let mut sum = [0; 4];
        for (half, weight) in halves.iter().zip([[1, 0, 0, 0], LAMBDA]) {
            assert_eq!(half[0] & 1, 1, "odd");
            let (is_negative, words) = magnitude(half);
            assert!(words[2] < 2, "below 2^{HALF_BITS}: {words:x?}");
            let product = mul_mod(&words, &weight);
            sum = add_mod(&sum, &if is_negative { negated(&product) } else { product });
            // The signs say the same: the sum of +-2^i.
            for bits in [129, 130, 133] {
                let signs = signs(half, bits);
                assert!(signs[2] >> (bits - 128) == 0);
                let all = [u64::MAX, u64::MAX, (1 << (bits - 128)) - 1];
                let back = sub(&add(&signs, &signs), &all);
                assert_eq!(back, *half);
            }
        }
        assert_eq!(sum, k);
    }

    #[test]
    fn glv_halves_are_odd_and_bounded_and_recombine() {
        let mut state = 1u64;
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 29
        };
        for small in 0..if cfg!(miri) { 3 } else { 300 } {
            check([small, 0, 0, 0]);
            check(minus(&N, &[small + 1, 0, 0, 0]));
            check(mul_mod(&LAMBDA, &[small, 0, 0, 0]));
        }
        for _ in 0..if cfg!(miri) { 5 } else { 2_000 } {
            check(reduced([word(), word(), word(), word()]));
            let fill = |word: u64| (word & 1).wrapping_neg();
            check(reduced([fill(word() >> 9), fill(word() >> 9), fill(word() >> 9), fill(word() >> 9)]));
        }
    }

    #[test]
    fn the_order_is_reduced_to_zero() {
        assert_eq!(reduced(N), [0; 4]);
        assert_eq!(negated(&[0; 4]), [0; 4]);
        assert_eq!(negated(&[1, 0, 0, 0]), minus(&N, &[1, 0, 0, 0]));
        assert!(!is_reduced(&N));
    }
}
