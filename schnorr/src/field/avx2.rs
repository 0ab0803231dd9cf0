//! The field in four vector lanes of AVX2: nine limbs of 29 bits, products of 32 by 32 bits in 64-bit lanes.
//!
//! For x86-64 without IFMA: four products take as long as about two of [`super::adx`].
//!
//! # Bounds
//! Magnitude m: limbs at most m(2^29 + 2^25), the top one at most m(2^24 + 2^5). Multipliers read 32 bits, so a
//! factor's limbs must be below 2^32. A column has nine terms at most, so the largest limbs of two factors may
//! multiply to 7.1 * 2^58, what magnitudes that multiply to 6 do: then a column and the carries, 2^46 at most,
//! stay below 2^64. [`Field::normalize_if_tight`] sees to that; debug builds check every product.
//!
//! # Safety of the whole file
//! The intrinsics need avx2 and nothing else: they touch no memory but arrays passed by value or reference.
//! [`F29`] is only used where [`is_available`] said so; everything here is inlined into functions that are
//! compiled for avx2 ([`crate::tier`]). Closures are not, so loops stand where `map` or `from_fn` could.
#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use super::portable64::F52;
use super::{AffinePoint, Field, Mask, Words, canonical};

const M29: u64 = (1 << 29) - 1;
const M24: u64 = (1 << 24) - 1;
/// 2^261 = R1 * 2^29 + R0 modulo p, and R1 is 2^`R1_SHIFT`.
const R0: u64 = 0x7a20;
const R1_SHIFT: i32 = 8;
/// 2^256 = 2^`FOLD1_SHIFT` * 2^29 + FOLD0 modulo p.
const FOLD0: u64 = 0x3d1;
const FOLD1_SHIFT: i32 = 3;
/// p in limbs.
const P29: [u64; 9] = [0x1fff_fc2f, 0x1fff_fff7, M29, M29, M29, M29, M29, M29, M24];

/// Four numbers, nine limbs each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F29([__m256i; 9]);

/// Whether this machine has the instructions. Without them [`F29`] must not be used.
pub(crate) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[inline(always)]
fn splat(word: u64) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_set1_epi64x(word as i64) }
}

#[inline(always)]
fn plus(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_add_epi64(a, b) }
}

#[inline(always)]
fn minus(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_sub_epi64(a, b) }
}

/// The product of the low 32 bits of each lane.
#[inline(always)]
fn times(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_mul_epu32(a, b) }
}

#[inline(always)]
fn both(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_and_si256(a, b) }
}

#[inline(always)]
fn either(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_or_si256(a, b) }
}

#[inline(always)]
fn left<const N: i32>(a: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_slli_epi64::<N>(a) }
}

#[inline(always)]
fn right<const N: i32>(a: __m256i) -> __m256i {
    // SAFETY: see the head of the file.
    unsafe { _mm256_srli_epi64::<N>(a) }
}

#[inline(always)]
fn lanes(a: __m256i) -> [u64; 4] {
    let mut words = [0; 4];
    // SAFETY: writes 32 bytes of an array of 32 bytes, at any alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), a) };
    words
}

/// Lane i of vector j is word j of `rows[i]`.
#[inline(always)]
fn transpose(rows: [&Words; 4]) -> [__m256i; 4] {
    // SAFETY: loads 32 bytes of arrays of 32 bytes, at any alignment; the rest is register to register.
    unsafe {
        let [a, b, c, d] = rows;
        let (a, b) = (_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast()));
        let (c, d) = (_mm256_loadu_si256(c.as_ptr().cast()), _mm256_loadu_si256(d.as_ptr().cast()));
        let (even_ab, odd_ab) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        let (even_cd, odd_cd) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
        [
            _mm256_permute2x128_si256::<0x20>(even_ab, even_cd),
            _mm256_permute2x128_si256::<0x20>(odd_ab, odd_cd),
            _mm256_permute2x128_si256::<0x31>(even_ab, even_cd),
            _mm256_permute2x128_si256::<0x31>(odd_ab, odd_cd),
        ]
    }
}

/// Four vectors of 64-bit words, below 2^256, as limbs.
#[inline(always)]
fn pack([a, b, c, d]: [__m256i; 4]) -> F29 {
    let mask = splat(M29);
    F29([
        both(a, mask),
        both(right::<29>(a), mask),
        both(either(right::<58>(a), left::<6>(b)), mask),
        both(right::<23>(b), mask),
        both(either(right::<52>(b), left::<12>(c)), mask),
        both(right::<17>(c), mask),
        both(either(right::<46>(c), left::<18>(d)), mask),
        both(right::<11>(d), mask),
        right::<40>(d),
    ])
}

/// Reduces the 17 columns of a product.
#[inline(always)]
fn reduce(mut c: [__m256i; 17]) -> F29 {
    let mask = splat(M29);
    // The high columns become factors: to 29 bits, from column 8 so that its own carry is small later. What
    // leaves column 16, the product of the top limbs, is below 2^22.
    for i in 8..16 {
        c[i + 1] = plus(c[i + 1], right::<29>(c[i]));
        c[i] = both(c[i], mask);
    }
    let over = right::<29>(c[16]);
    c[16] = both(c[16], mask);
    // Column k + 9 weighs 2^261 times column k.
    let r = splat(R0);
    for i in 0..8 {
        c[i] = plus(c[i], times(c[i + 9], r));
        c[i + 1] = plus(c[i + 1], left::<R1_SHIFT>(c[i + 9]));
    }
    c[8] = plus(c[8], times(over, r));
    let over = left::<R1_SHIFT>(over);
    c[0] = plus(c[0], times(over, r));
    c[1] = plus(c[1], left::<R1_SHIFT>(over));
    for i in 0..8 {
        c[i + 1] = plus(c[i + 1], right::<29>(c[i]));
        c[i] = both(c[i], mask);
    }
    // Column 8 is below 2^45, so 2^30 more in limb 0, and a last carry from it.
    let top = right::<24>(c[8]);
    c[8] = both(c[8], splat(M24));
    c[0] = plus(c[0], times(top, splat(FOLD0)));
    c[1] = plus(plus(c[1], left::<FOLD1_SHIFT>(top)), right::<29>(c[0]));
    c[0] = both(c[0], mask);
    F29([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]])
}

/// The sum of products.
macro_rules! column {
    ($a:expr, $b:expr) => { times($a, $b) };
    ($a:expr, $b:expr; $($rest:tt)+) => { plus(times($a, $b), column!($($rest)+)) };
}

#[target_feature(enable = "avx2")]
#[inline(never)]
#[rustfmt::skip]
fn product(a: &[__m256i; 9], b: &[__m256i; 9]) -> F29 {
    reduce([
        column!(a[0], b[0]),
        column!(a[0], b[1]; a[1], b[0]),
        column!(a[0], b[2]; a[1], b[1]; a[2], b[0]),
        column!(a[0], b[3]; a[1], b[2]; a[2], b[1]; a[3], b[0]),
        column!(a[0], b[4]; a[1], b[3]; a[2], b[2]; a[3], b[1]; a[4], b[0]),
        column!(a[0], b[5]; a[1], b[4]; a[2], b[3]; a[3], b[2]; a[4], b[1]; a[5], b[0]),
        column!(a[0], b[6]; a[1], b[5]; a[2], b[4]; a[3], b[3]; a[4], b[2]; a[5], b[1]; a[6], b[0]),
        column!(a[0], b[7]; a[1], b[6]; a[2], b[5]; a[3], b[4]; a[4], b[3]; a[5], b[2]; a[6], b[1]; a[7], b[0]),
        column!(a[0], b[8]; a[1], b[7]; a[2], b[6]; a[3], b[5]; a[4], b[4]; a[5], b[3]; a[6], b[2]; a[7], b[1]; a[8], b[0]),
        column!(a[1], b[8]; a[2], b[7]; a[3], b[6]; a[4], b[5]; a[5], b[4]; a[6], b[3]; a[7], b[2]; a[8], b[1]),
        column!(a[2], b[8]; a[3], b[7]; a[4], b[6]; a[5], b[5]; a[6], b[4]; a[7], b[3]; a[8], b[2]),
        column!(a[3], b[8]; a[4], b[7]; a[5], b[6]; a[6], b[5]; a[7], b[4]; a[8], b[3]),
        column!(a[4], b[8]; a[5], b[7]; a[6], b[6]; a[7], b[5]; a[8], b[4]),
        column!(a[5], b[8]; a[6], b[7]; a[7], b[6]; a[8], b[5]),
        column!(a[6], b[8]; a[7], b[7]; a[8], b[6]),
        column!(a[7], b[8]; a[8], b[7]),
        column!(a[8], b[8]),
    ])
}

#[target_feature(enable = "avx2")]
#[inline(never)]
#[rustfmt::skip]
fn square(a: &[__m256i; 9]) -> F29 {
    let mut d = *a;
    for d in &mut d { *d = plus(*d, *d); }
    reduce([
        column!(a[0], a[0]),
        column!(d[0], a[1]),
        column!(d[0], a[2]; a[1], a[1]),
        column!(d[0], a[3]; d[1], a[2]),
        column!(d[0], a[4]; d[1], a[3]; a[2], a[2]),
        column!(d[0], a[5]; d[1], a[4]; d[2], a[3]),
        column!(d[0], a[6]; d[1], a[5]; d[2], a[4]; a[3], a[3]),
        column!(d[0], a[7]; d[1], a[6]; d[2], a[5]; d[3], a[4]),
        column!(d[0], a[8]; d[1], a[7]; d[2], a[6]; d[3], a[5]; a[4], a[4]),
        column!(d[1], a[8]; d[2], a[7]; d[3], a[6]; d[4], a[5]),
        column!(d[2], a[8]; d[3], a[7]; d[4], a[6]; a[5], a[5]),
        column!(d[3], a[8]; d[4], a[7]; d[5], a[6]),
        column!(d[4], a[8]; d[5], a[7]; a[6], a[6]),
        column!(d[5], a[8]; d[6], a[7]),
        column!(d[6], a[8]; a[7], a[7]),
        column!(d[7], a[8]),
        column!(a[8], a[8]),
    ])
}

impl F29 {
    #[inline(always)]
    fn check(&self, magnitude: u64) {
        if cfg!(debug_assertions) {
            self.check_limbs(magnitude);
        }
    }

    #[inline(always)]
    fn check_factors(&self, other: &Self) {
        if cfg!(debug_assertions) {
            self.check_products(other);
        }
    }

    #[inline(never)]
    fn check_limbs(&self, magnitude: u64) {
        for (i, limb) in self.0.iter().enumerate() {
            let bound = magnitude * if i == 8 { (1 << 24) + (1 << 5) } else { (1 << 29) + (1 << 25) };
            assert!(lanes(*limb).iter().all(|limb| *limb <= bound), "{self:x?} over {magnitude}");
        }
    }

    /// Whatever the columns, nine terms of the largest limbs and the carries must fit.
    #[inline(never)]
    fn check_products(&self, other: &Self) {
        let largest = |number: &Self| {
            let limbs = number.0.iter().flat_map(|limb| lanes(*limb));
            u128::from(limbs.max().unwrap_or(0))
        };
        let (a, b) = (largest(self), largest(other));
        let fits = a >> 32 == 0 && b >> 32 == 0 && 9 * a * b < (1 << 64) - (1 << 46);
        assert!(fits, "{self:x?} {other:x?}");
    }

    /// From limbs as they are, for tests at the edges of magnitudes.
    #[cfg(test)]
    pub(crate) fn from_limbs(limbs: [[u64; 4]; 9]) -> Self {
        // SAFETY: loads 32 bytes of arrays of 32 bytes, at any alignment.
        F29(limbs.map(|limb| unsafe { _mm256_loadu_si256(limb.as_ptr().cast()) }))
    }

    /// Values below 2^256.
    #[inline(always)]
    fn unpack(self) -> [[u64; 4]; 4] {
        let mut t = self.0;
        let mask = splat(M29);
        // Twice: the first fold may carry past 2^256 again, but then what is left is far below it.
        for _ in 0..2 {
            let top = right::<24>(t[8]);
            t[8] = both(t[8], splat(M24));
            t[0] = plus(t[0], times(top, splat(FOLD0)));
            t[1] = plus(t[1], left::<FOLD1_SHIFT>(top));
            for i in 0..8 {
                t[i + 1] = plus(t[i + 1], right::<29>(t[i]));
                t[i] = both(t[i], mask);
            }
        }
        [
            lanes(either(t[0], either(left::<29>(t[1]), left::<58>(t[2])))),
            lanes(either(right::<6>(t[2]), either(left::<23>(t[3]), left::<52>(t[4])))),
            lanes(either(right::<12>(t[4]), either(left::<17>(t[5]), left::<46>(t[6])))),
            lanes(either(right::<18>(t[6]), either(left::<11>(t[7]), left::<40>(t[8])))),
        ]
    }
}

impl Field for F29 {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(words: &Words) -> Self {
        let [a, b, c, d] = *words;
        pack([splat(a), splat(b), splat(c), splat(d)])
    }

    #[inline(always)]
    fn load<'a>(at: impl Fn(usize) -> &'a Words) -> Self {
        pack(transpose([at(0), at(1), at(2), at(3)]))
    }

    #[inline(always)]
    fn load_entries<'a>(at: impl Fn(usize) -> &'a AffinePoint) -> (Self, Self) {
        let rows = [at(0), at(1), at(2), at(3)];
        {
            let [a, b, c, d] = rows;
            (pack(transpose([&a.x, &b.x, &c.x, &d.x])), pack(transpose([&a.y, &b.y, &c.y, &d.y])))
        }
    }

    #[inline(always)]
    fn store(self, mut to: impl FnMut(usize, Words)) {
        let words = self.unpack();
        for lane in 0..4 {
            to(lane, words.map(|word| word[lane]));
        }
    }

    #[inline(always)]
    fn store_canonical(self, mut to: impl FnMut(usize, Words)) {
        self.store(|lane, words| to(lane, canonical(words)));
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.check_factors(&other);
        // SAFETY: the features are there wherever an `F29` is.
        unsafe { product(&self.0, &other.0) }
    }

    #[inline(always)]
    fn sqr(self) -> Self {
        self.check_factors(&self);
        // SAFETY: the features are there wherever an `F29` is.
        unsafe { square(&self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut t = self.0;
        for i in 0..9 {
            t[i] = plus(t[i], other.0[i]);
        }
        F29(t)
    }

    #[inline(always)]
    fn sub<const M: u64>(self, other: Self) -> Self {
        other.check(M);
        let mut t = self.0;
        for i in 0..9 {
            t[i] = plus(t[i], minus(splat((M + 1) * P29[i]), other.0[i]));
        }
        F29(t)
    }

    #[inline(always)]
    fn neg<const M: u64>(self) -> Self {
        self.check(M);
        let mut t = self.0;
        for i in 0..9 {
            t[i] = minus(splat((M + 1) * P29[i]), t[i]);
        }
        F29(t)
    }

    #[inline(always)]
    fn normalize_weak(self) -> Self {
        self.check(8);
        let t = self.0;
        let top = right::<24>(t[8]);
        let mask = splat(M29);
        // All carries at once: what comes in is at most 2^4, or 2^7 in limb 1.
        let low = plus(t[0], times(top, splat(FOLD0)));
        let next = plus(t[1], left::<FOLD1_SHIFT>(top));
        F29([
            both(low, mask),
            plus(both(next, mask), right::<29>(low)),
            plus(both(t[2], mask), right::<29>(next)),
            plus(both(t[3], mask), right::<29>(t[2])),
            plus(both(t[4], mask), right::<29>(t[3])),
            plus(both(t[5], mask), right::<29>(t[4])),
            plus(both(t[6], mask), right::<29>(t[5])),
            plus(both(t[7], mask), right::<29>(t[6])),
            plus(both(t[8], splat(M24)), right::<29>(t[7])),
        ])
    }

    #[inline(always)]
    fn normalize_if_tight(self) -> Self {
        self.normalize_weak()
    }

    #[inline(always)]
    fn half(self) -> Self {
        // Odd values take p, which is odd too; then each limb passes its lowest bit down.
        let one = splat(1);
        let odd = minus(splat(0), both(self.0[0], one));
        let mut t = self.0;
        for i in 0..9 {
            t[i] = plus(t[i], both(splat(P29[i]), odd));
        }
        for i in 0..8 {
            t[i] = plus(right::<1>(t[i]), left::<28>(both(t[i + 1], one)));
        }
        t[8] = right::<1>(t[8]);
        F29(t)
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        let mut mask = 0;
        self.store_canonical(|lane, words| mask |= Mask::from(words == [0; 4]) << lane);
        mask
    }

    #[inline(always)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        // SAFETY: see the head of the file.
        unsafe {
            let bits = _mm256_set_epi64x(8, 4, 2, 1);
            let mask = _mm256_cmpeq_epi64(both(splat(u64::from(mask)), bits), bits);
            let mut t = clear.0;
            for i in 0..9 {
                t[i] = _mm256_blendv_epi8(t[i], set.0[i], mask);
            }
            F29(t)
        }
    }

    #[inline]
    fn invert(self) -> Self {
        let mut lanes = [[0; 4]; 4];
        self.store(|lane, words| lanes[lane] = words);
        super::invert_lanes::<F52, 4>(&mut lanes);
        F29::load(|lane| &lanes[lane])
    }
}
