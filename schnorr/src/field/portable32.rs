//! The portable field for 32-bit machines and wasm32: ten limbs of 26 bits, products of 32 by 32 bits in u64.
//!
//! # Bounds
//! Magnitude m: limbs 0 to 8 at most 2m(2^26 - 1), limb 9 at most 2m(2^22 - 1). With factors of magnitude 8,
//! limbs are below 2^30, products below 2^60, sums of ten below 1.16e19, and 2^64 is 1.84e19.

use super::{AffinePoint, Field, MAGNITUDE_MAX, Mask, Words, canonical, inverse};

const M26: u32 = (1 << 26) - 1;
const M22: u32 = (1 << 22) - 1;
const M26W: u64 = M26 as u64;
/// 2^260 = R1 * 2^26 + R0 modulo p.
const R0: u64 = 0x3d10;
const R1: u64 = 0x400;
/// 2^256 = FOLD1 * 2^26 + FOLD0 modulo p.
const FOLD0: u64 = 0x3d1;
const FOLD1: u64 = 0x40;
/// p in limbs.
const P26: [u32; 10] = [0x3ff_fc2f, 0x3ff_ffbf, M26, M26, M26, M26, M26, M26, M26, M22];

/// One number in ten 26-bit limbs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F26([u32; 10]);

impl F26 {
    /// From limbs as they are, for tests at the edges of magnitudes.
    #[cfg(test)]
    pub(crate) fn from_limbs(limbs: [u32; 10]) -> Self {
        F26(limbs)
    }

    /// Panics unless limbs are within a magnitude.
    #[cfg(test)]
    pub(crate) fn assert_magnitude(&self, magnitude: u64) {
        self.check_limbs(magnitude);
    }

    #[inline(always)]
    fn check(&self, magnitude: u64) {
        if cfg!(debug_assertions) {
            self.check_limbs(magnitude);
        }
    }

    #[inline(never)]
    fn check_limbs(&self, magnitude: u64) {
        let bound = 2 * magnitude;
        let fits = self.0[..9].iter().all(|limb| u64::from(*limb) <= bound * M26W)
            && u64::from(self.0[9]) <= bound * u64::from(M22);
        assert!(fits, "{self:x?} over {magnitude}");
    }

    #[inline(always)]
    fn pack(words: &Words) -> Self {
        F26(std::array::from_fn(|i| {
            let bit = 26 * i;
            let (word, shift) = (bit / 64, bit % 64);
            let mut limb = words[word] >> shift;
            if shift > 38 && word < 3 {
                limb |= words[word + 1] << (64 - shift);
            }
            limb as u32 & M26
        }))
    }

    /// Carries, so that the value is below 2^256; still not below p.
    #[inline(always)]
    fn carried(self) -> Self {
        self.check(2 * MAGNITUDE_MAX);
        let mut t = self.0;
        // Twice: the first fold may carry past 2^256 again, but then what is left is far below it.
        for _ in 0..2 {
            let top = t[9] >> 22;
            t[9] &= M22;
            t[0] += top * FOLD0 as u32;
            t[1] += top * FOLD1 as u32;
            for i in 0..9 {
                t[i + 1] += t[i] >> 26;
                t[i] &= M26;
            }
        }
        debug_assert!(t[9] <= M22);
        F26(t)
    }

    #[inline(always)]
    fn unpack(self) -> Words {
        let t = self.carried().0;
        let mut words = [0u64; 4];
        for (i, limb) in t.iter().enumerate() {
            let bit = 26 * i;
            let (word, shift) = (bit / 64, bit % 64);
            words[word] |= u64::from(*limb) << shift;
            if shift > 38 && word < 3 {
                words[word + 1] |= u64::from(*limb) >> (64 - shift);
            }
        }
        words
    }
}

#[inline(always)]
fn wide(a: u32, b: u32) -> u64 {
    u64::from(a) * u64::from(b)
}

/// The sum of products.
macro_rules! sum {
    ($a:expr, $b:expr) => { wide($a, $b) };
    ($a:expr, $b:expr; $($rest:tt)+) => { wide($a, $b) + sum!($($rest)+) };
}

/// Reduces the 19 columns of a product, each below 10 * 2^60, as they are summed: two carries run up, one from
/// column 0 and one from column 9, and what the second leaves in column k + 10 is at once 2^260 times column k.
macro_rules! reduce {
    ($c0:expr, $c1:expr, $c2:expr, $c3:expr, $c4:expr, $c5:expr, $c6:expr, $c7:expr, $c8:expr, $c9:expr,
     $c10:expr, $c11:expr, $c12:expr, $c13:expr, $c14:expr, $c15:expr, $c16:expr, $c17:expr, $c18:expr $(,)?) => {{
        let mut high: u64 = $c9;
        let nine = high & M26W;
        high >>= 26;
        let mut low: u64 = 0;
        let mut step = |below: u64, above: u64| {
            high += above;
            let folded = high & M26W;
            high >>= 26;
            low += below + folded * R0;
            let limb = low & M26W;
            low = (low >> 26) + folded * R1;
            limb
        };
        let t0 = step($c0, $c10);
        let t1 = step($c1, $c11);
        let t2 = step($c2, $c12);
        let t3 = step($c3, $c13);
        let t4 = step($c4, $c14);
        let t5 = step($c5, $c15);
        let t6 = step($c6, $c16);
        let t7 = step($c7, $c17);
        let t8 = step($c8, $c18);
        // The high carry is column 19, below 2^26, as both top limbs are.
        low += nine + high * R0;
        let t9 = low & u64::from(M22);
        // Times 2^256, and below 2^41: 2^51 in limb 0, and after two carries 2^21 in limb 2.
        let top = (low >> 22) + (high * R1 << 4);
        let t0 = t0 + top * FOLD0;
        let t1 = t1 + top * FOLD1 + (t0 >> 26);
        let t2 = t2 + (t1 >> 26);
        F26([
            t0 as u32 & M26,
            t1 as u32 & M26,
            t2 as u32,
            t3 as u32,
            t4 as u32,
            t5 as u32,
            t6 as u32,
            t7 as u32,
            t8 as u32,
            t9 as u32,
        ])
    }};
}

#[rustfmt::skip]
#[inline(never)]
fn product(a: &[u32; 10], b: &[u32; 10]) -> F26 {
    reduce!(
        sum!(a[0], b[0]),
        sum!(a[0], b[1]; a[1], b[0]),
        sum!(a[0], b[2]; a[1], b[1]; a[2], b[0]),
        sum!(a[0], b[3]; a[1], b[2]; a[2], b[1]; a[3], b[0]),
        sum!(a[0], b[4]; a[1], b[3]; a[2], b[2]; a[3], b[1]; a[4], b[0]),
        sum!(a[0], b[5]; a[1], b[4]; a[2], b[3]; a[3], b[2]; a[4], b[1]; a[5], b[0]),
        sum!(a[0], b[6]; a[1], b[5]; a[2], b[4]; a[3], b[3]; a[4], b[2]; a[5], b[1]; a[6], b[0]),
        sum!(a[0], b[7]; a[1], b[6]; a[2], b[5]; a[3], b[4]; a[4], b[3]; a[5], b[2]; a[6], b[1]; a[7], b[0]),
        sum!(a[0], b[8]; a[1], b[7]; a[2], b[6]; a[3], b[5]; a[4], b[4]; a[5], b[3]; a[6], b[2]; a[7], b[1]; a[8], b[0]),
        sum!(a[0], b[9]; a[1], b[8]; a[2], b[7]; a[3], b[6]; a[4], b[5]; a[5], b[4]; a[6], b[3]; a[7], b[2]; a[8], b[1]; a[9], b[0]),
        sum!(a[1], b[9]; a[2], b[8]; a[3], b[7]; a[4], b[6]; a[5], b[5]; a[6], b[4]; a[7], b[3]; a[8], b[2]; a[9], b[1]),
        sum!(a[2], b[9]; a[3], b[8]; a[4], b[7]; a[5], b[6]; a[6], b[5]; a[7], b[4]; a[8], b[3]; a[9], b[2]),
        sum!(a[3], b[9]; a[4], b[8]; a[5], b[7]; a[6], b[6]; a[7], b[5]; a[8], b[4]; a[9], b[3]),
        sum!(a[4], b[9]; a[5], b[8]; a[6], b[7]; a[7], b[6]; a[8], b[5]; a[9], b[4]),
        sum!(a[5], b[9]; a[6], b[8]; a[7], b[7]; a[8], b[6]; a[9], b[5]),
        sum!(a[6], b[9]; a[7], b[8]; a[8], b[7]; a[9], b[6]),
        sum!(a[7], b[9]; a[8], b[8]; a[9], b[7]),
        sum!(a[8], b[9]; a[9], b[8]),
        sum!(a[9], b[9]),
    )
}

#[rustfmt::skip]
#[inline(never)]
fn square(a: &[u32; 10]) -> F26 {
    let d = a.map(|limb| 2 * limb);
    reduce!(
        sum!(a[0], a[0]),
        sum!(d[0], a[1]),
        sum!(d[0], a[2]; a[1], a[1]),
        sum!(d[0], a[3]; d[1], a[2]),
        sum!(d[0], a[4]; d[1], a[3]; a[2], a[2]),
        sum!(d[0], a[5]; d[1], a[4]; d[2], a[3]),
        sum!(d[0], a[6]; d[1], a[5]; d[2], a[4]; a[3], a[3]),
        sum!(d[0], a[7]; d[1], a[6]; d[2], a[5]; d[3], a[4]),
        sum!(d[0], a[8]; d[1], a[7]; d[2], a[6]; d[3], a[5]; a[4], a[4]),
        sum!(d[0], a[9]; d[1], a[8]; d[2], a[7]; d[3], a[6]; d[4], a[5]),
        sum!(d[1], a[9]; d[2], a[8]; d[3], a[7]; d[4], a[6]; a[5], a[5]),
        sum!(d[2], a[9]; d[3], a[8]; d[4], a[7]; d[5], a[6]),
        sum!(d[3], a[9]; d[4], a[8]; d[5], a[7]; a[6], a[6]),
        sum!(d[4], a[9]; d[5], a[8]; d[6], a[7]),
        sum!(d[5], a[9]; d[6], a[8]; a[7], a[7]),
        sum!(d[6], a[9]; d[7], a[8]),
        sum!(d[7], a[9]; a[8], a[8]),
        sum!(d[8], a[9]),
        sum!(a[9], a[9]),
    )
}

impl Field for F26 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(words: &Words) -> Self {
        F26::pack(words)
    }

    #[inline(always)]
    fn load<'a>(at: impl Fn(usize) -> &'a Words) -> Self {
        F26::pack(at(0))
    }

    #[inline(always)]
    fn load_entries<'a>(at: impl Fn(usize) -> &'a AffinePoint) -> (Self, Self) {
        let entry = at(0);
        (F26::pack(&entry.x), F26::pack(&entry.y))
    }

    #[inline(always)]
    fn store(self, mut to: impl FnMut(usize, Words)) {
        to(0, self.unpack());
    }

    #[inline(always)]
    fn store_canonical(self, mut to: impl FnMut(usize, Words)) {
        to(0, canonical(self.unpack()));
    }

    #[inline]
    fn mul(self, other: Self) -> Self {
        self.check(MAGNITUDE_MAX);
        other.check(MAGNITUDE_MAX);
        product(&self.0, &other.0)
    }

    #[inline]
    fn sqr(self) -> Self {
        self.check(MAGNITUDE_MAX);
        square(&self.0)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        F26(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    fn sub<const M: u64>(self, other: Self) -> Self {
        other.check(M);
        F26(std::array::from_fn(|i| self.0[i] + (2 * (M as u32 + 1) * P26[i] - other.0[i])))
    }

    #[inline(always)]
    fn neg<const M: u64>(self) -> Self {
        self.check(M);
        F26(std::array::from_fn(|i| 2 * (M as u32 + 1) * P26[i] - self.0[i]))
    }

    #[inline(always)]
    fn normalize_weak(self) -> Self {
        self.check(2 * MAGNITUDE_MAX);
        let mut t = self.0;
        let top = t[9] >> 22;
        t[9] &= M22;
        t[0] += top * FOLD0 as u32;
        t[1] += top * FOLD1 as u32;
        for i in 0..9 {
            t[i + 1] += t[i] >> 26;
            t[i] &= M26;
        }
        F26(t)
    }

    #[inline(always)]
    fn half(self) -> Self {
        // Odd values take p, which is odd too; then each limb passes its lowest bit down.
        let odd = (self.0[0] & 1).wrapping_neg();
        let mut t: [u32; 10] = std::array::from_fn(|i| self.0[i] + (P26[i] & odd));
        for i in 0..9 {
            t[i] = (t[i] >> 1) + ((t[i + 1] & 1) << 25);
        }
        t[9] >>= 1;
        F26(t)
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        Mask::from(canonical(self.unpack()) == [0; 4])
    }

    #[inline(always)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        let bits = u32::from(mask & 1).wrapping_neg();
        F26(std::array::from_fn(|i| set.0[i] & bits | clear.0[i] & !bits))
    }

    #[inline]
    fn invert(self) -> Self {
        F26::pack(&inverse::by30::invert(&canonical(self.unpack())))
    }
}
