//! The portable field for 32-bit machines and wasm32: ten limbs of 26 bits, products of 32 by 32 bits in u64.
//!
//! # Bounds
//! Magnitude m: limbs 0 to 8 at most 2m(2^26 - 1), limb 9 at most 2m(2^22 - 1). With factors of magnitude 8,
//! limbs are below 2^30, products below 2^60, sums of ten below 1.16e19, and 2^64 is 1.84e19.

use super::{Entry, Field, MAGNITUDE_MAX, Mask, Words, canonical, inverse};

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

    /// Reduces the 19 columns of a product, each below 10 * 2^60.
    #[inline(always)]
    fn reduce(mut columns: [u64; 19]) -> Self {
        // The high ones to 26 bits; what leaves column 18 is below 2^38.
        let mut carry = 0;
        for column in &mut columns[10..] {
            *column += carry;
            carry = *column >> 26;
            *column &= M26W;
        }
        // Column k + 10 weighs 2^260 times column k. Its products are below 2^40.
        let mut low: [u64; 11] = [0; 11];
        low[..10].copy_from_slice(&columns[..10]);
        for k in 0..9 {
            low[k] += columns[k + 10] * R0;
            low[k + 1] += columns[k + 10] * R1;
        }
        // The carry is column 19: below 2^52 in column 9, and 2^48 in column 10, which folds once more.
        low[9] += carry * R0;
        low[10] = carry * R1;
        low[0] += low[10] * R0;
        low[1] += low[10] * R1;
        // Column 0 had one product: 2^60 + 2^40 + 2^62. Column 1 had two.
        let mut carry = 0;
        for column in &mut low[..9] {
            *column += carry;
            carry = *column >> 26;
            *column &= M26W;
        }
        low[9] += carry;
        let top = low[9] >> 22;
        low[9] &= u64::from(M22);
        // The top is below 2^42: 2^52 in column 0, then three carries make limbs of 26 bits and a little.
        low[0] += top * FOLD0;
        low[1] += (top * FOLD1) + (low[0] >> 26);
        low[0] &= M26W;
        low[2] += low[1] >> 26;
        low[1] &= M26W;
        low[3] += low[2] >> 26;
        low[2] &= M26W;
        let limbs = std::array::from_fn(|i| low[i] as u32);
        F26(limbs)
    }
}

#[inline(always)]
fn wide(a: u32, b: u32) -> u64 {
    u64::from(a) * u64::from(b)
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
    fn load_entries<'a>(at: impl Fn(usize) -> &'a Entry) -> (Self, Self) {
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
        let (a, b) = (self.0, other.0);
        F26::reduce(std::array::from_fn(|k| {
            let mut sum = 0;
            for i in k.saturating_sub(9)..=k.min(9) {
                sum += wide(a[i], b[k - i]);
            }
            sum
        }))
    }

    #[inline]
    fn sqr(self) -> Self {
        self.check(MAGNITUDE_MAX);
        let a = self.0;
        F26::reduce(std::array::from_fn(|k| {
            let mut sum = 0;
            for i in k.saturating_sub(9)..k.div_ceil(2) {
                sum += wide(a[i], 2 * a[k - i]);
            }
            if k % 2 == 0 { sum + wide(a[k / 2], a[k / 2]) } else { sum }
        }))
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
    fn weak(self) -> Self {
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
        F26::pack(&inverse::invert(&canonical(self.unpack())))
    }
}
