//! Lanes of AVX-512 with IFMA: each operation is one instruction, or a few for the transposition.
//!
//! # Safety of the whole file
//! The intrinsics need avx512f and avx512ifma, nothing else: they touch no memory but arrays passed by value
//! or reference. [`Zmm`] lanes are only made where [`is_available`] said so; everything here is inlined into
//! functions that are compiled for these features ([`crate::tier`]). Closures are not, so loops stand where `map`
//! or `from_fn` could.
#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use super::{Lanes, product, square};
use crate::field::Mask;

/// Eight words in a vector register.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Zmm(__m512i);

/// Whether this machine has the instructions. Without them [`Zmm`] must not be used.
pub(crate) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512ifma")
        && std::arch::is_x86_feature_detected!("bmi2")
}

#[target_feature(enable = "avx512f,avx512ifma,bmi2")]
#[inline(never)]
fn mul(a: &[Zmm; 5], b: &[Zmm; 5]) -> [Zmm; 5] {
    product(a, b)
}

#[target_feature(enable = "avx512f,avx512ifma,bmi2")]
#[inline(never)]
fn sqr(a: &[Zmm; 5]) -> [Zmm; 5] {
    square(a)
}

/// Quarters 0 and 2 of `a`, then of `b`; a quarter has 128 bits.
#[inline(always)]
fn low(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: see the head of the file.
    unsafe { _mm512_shuffle_i64x2::<0x88>(a, b) }
}

/// Quarters 1 and 3 of `a`, then of `b`.
#[inline(always)]
fn high(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: see the head of the file.
    unsafe { _mm512_shuffle_i64x2::<0xdd>(a, b) }
}

impl Lanes for Zmm {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_set1_epi64(word as i64) })
    }

    #[inline(always)]
    fn from_array(words: [u64; 8]) -> Self {
        // SAFETY: reads 64 bytes of an array of 64 bytes, at any alignment.
        Zmm(unsafe { _mm512_loadu_si512(words.as_ptr().cast()) })
    }

    #[inline(always)]
    fn to_array(self) -> [u64; 8] {
        let mut words = [0; 8];
        // SAFETY: writes 64 bytes of an array of 64 bytes, at any alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), self.0) };
        words
    }

    #[inline(always)]
    fn transpose(rows: [[u64; 8]; 8]) -> [Self; 8] {
        // SAFETY: loads 64 bytes of arrays of 64 bytes; the rest is register to register.
        unsafe {
            let mut r = [_mm512_setzero_si512(); 8];
            for (r, row) in r.iter_mut().zip(&rows) {
                *r = _mm512_loadu_si512(row.as_ptr().cast());
            }
            // Pairs of rows: words 0, 2, 4, 6 and words 1, 3, 5, 7 of both, alternating.
            let (e01, o01) = (_mm512_unpacklo_epi64(r[0], r[1]), _mm512_unpackhi_epi64(r[0], r[1]));
            let (e23, o23) = (_mm512_unpacklo_epi64(r[2], r[3]), _mm512_unpackhi_epi64(r[2], r[3]));
            let (e45, o45) = (_mm512_unpacklo_epi64(r[4], r[5]), _mm512_unpackhi_epi64(r[4], r[5]));
            let (e67, o67) = (_mm512_unpacklo_epi64(r[6], r[7]), _mm512_unpackhi_epi64(r[6], r[7]));
            let e = [low(e01, e23), low(e45, e67), high(e01, e23), high(e45, e67)];
            let o = [low(o01, o23), low(o45, o67), high(o01, o23), high(o45, o67)];
            [
                Zmm(low(e[0], e[1])),
                Zmm(low(o[0], o[1])),
                Zmm(low(e[2], e[3])),
                Zmm(low(o[2], o[3])),
                Zmm(high(e[0], e[1])),
                Zmm(high(o[0], o[1])),
                Zmm(high(e[2], e[3])),
                Zmm(high(o[2], o[3])),
            ]
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_add_epi64(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_sub_epi64(self.0, other.0) })
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_and_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_or_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn shl<const N: u32>(self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_slli_epi64::<N>(self.0) })
    }

    #[inline(always)]
    fn shr<const N: u32>(self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_srli_epi64::<N>(self.0) })
    }

    #[inline(always)]
    fn madd_low(self, a: Self, b: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_madd52lo_epu64(self.0, a.0, b.0) })
    }

    #[inline(always)]
    fn madd_high(self, a: Self, b: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_madd52hi_epu64(self.0, a.0, b.0) })
    }

    #[inline(always)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        // SAFETY: see the head of the file.
        Zmm(unsafe { _mm512_mask_blend_epi64(mask, clear.0, set.0) })
    }

    #[inline(always)]
    fn mul(a: &[Self; 5], b: &[Self; 5]) -> [Self; 5] {
        // SAFETY: the features are there wherever a `Zmm` is.
        unsafe { mul(a, b) }
    }

    #[inline(always)]
    fn sqr(a: &[Self; 5]) -> [Self; 5] {
        // SAFETY: the features are there wherever a `Zmm` is.
        unsafe { sqr(a) }
    }
}
