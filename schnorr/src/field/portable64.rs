//! The portable field for 64-bit machines: five limbs of 52 bits, products in u128.
//!
//! # Bounds
//! Magnitude m: limbs 0 to 3 at most 2m(2^52 - 1), limb 4 at most 2m(2^48 - 1). With factors of magnitude 8,
//! limbs are below 2^56 (the top one below 2^52), products below 2^112 and sums of five below 2^115.

use super::{AffinePoint, FOLD, Field, MAGNITUDE_MAX, Mask, Words, canonical, inverse};

const M52: u64 = (1 << 52) - 1;
const M48: u64 = (1 << 48) - 1;
/// 2^260 modulo p.
const R: u64 = FOLD << 4;
/// p in limbs.
const P52: [u64; 5] = [0xf_fffe_ffff_fc2f, M52, M52, M52, M48];

/// One number in five 52-bit limbs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F52([u64; 5]);

#[inline(always)]
fn wide(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

impl F52 {
    /// From limbs as they are, for tests at the edges of magnitudes.
    #[cfg(test)]
    pub(crate) fn from_limbs(limbs: [u64; 5]) -> Self {
        F52(limbs)
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
        let fits = self.0[..4].iter().all(|limb| *limb <= bound * M52) && self.0[4] <= bound * M48;
        assert!(fits, "{self:x?} over {magnitude}");
    }

    #[inline(always)]
    fn pack(words: &Words) -> Self {
        let [a, b, c, d] = *words;
        F52([
            a & M52,
            (a >> 52 | b << 12) & M52,
            (b >> 40 | c << 24) & M52,
            (c >> 28 | d << 36) & M52,
            d >> 16,
        ])
    }

    /// Carries, so that the value is below 2^256; still not below p.
    #[inline(always)]
    fn carried(self) -> Self {
        self.check(2 * MAGNITUDE_MAX);
        let [mut a, mut b, mut c, mut d, mut e] = self.0;
        // Twice: the first fold may carry past 2^256 again, but then what is left is far below it.
        for _ in 0..2 {
            let top = e >> 48;
            e &= M48;
            a += top * FOLD;
            b += a >> 52;
            a &= M52;
            c += b >> 52;
            b &= M52;
            d += c >> 52;
            c &= M52;
            e += d >> 52;
            d &= M52;
        }
        debug_assert!(e <= M48);
        F52([a, b, c, d, e])
    }

    #[inline(always)]
    fn unpack(self) -> Words {
        let [a, b, c, d, e] = self.carried().0;
        [a | b << 52, b >> 12 | c << 40, c >> 24 | d << 28, d >> 36 | e << 16]
    }

    /// Reduces nine columns of a product: column 8 and 3 first, then 4 with what lies above 2^256, then from
    /// the bottom up, each low column with its high one times R.
    #[inline(always)]
    fn reduce(columns: [u128; 9]) -> Self {
        let [c0, c1, c2, c3, c4, c5, c6, c7, c8] = columns;
        // Column 3 and the low 64 bits of column 8; the high part of 8 weighs 2^64 = 2^12 * 2^52, one column on.
        let mut d = c3 + wide(R, c8 as u64);
        let t3 = d as u64 & M52;
        d >>= 52;
        d += c4 + wide(R << 12, (c8 >> 64) as u64);
        let t4 = d as u64 & M52;
        d >>= 52;
        let top = t4 >> 48;
        let t4 = t4 & M48;
        // What is at 2^260 moves down to 2^256, where its factor is FOLD.
        d += c5;
        let u = (d as u64 & M52) << 4 | top;
        d >>= 52;
        let mut c = c0 + wide(u, FOLD);
        let r0 = c as u64 & M52;
        c >>= 52;
        d += c6;
        c += c1 + wide(d as u64 & M52, R);
        d >>= 52;
        let r1 = c as u64 & M52;
        c >>= 52;
        d += c7;
        c += c2 + wide(d as u64, R);
        d >>= 64;
        let r2 = c as u64 & M52;
        c >>= 52;
        c += wide(d as u64, R << 12) + u128::from(t3);
        let r3 = c as u64 & M52;
        c >>= 52;
        F52([r0, r1, r2, r3, c as u64 + t4])
    }
}

impl Field for F52 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(words: &Words) -> Self {
        F52::pack(words)
    }

    #[inline(always)]
    fn load<'a>(at: impl Fn(usize) -> &'a Words) -> Self {
        F52::pack(at(0))
    }

    #[inline(always)]
    fn load_entries<'a>(at: impl Fn(usize) -> &'a AffinePoint) -> (Self, Self) {
        let entry = at(0);
        (F52::pack(&entry.x), F52::pack(&entry.y))
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
        let [a0, a1, a2, a3, a4] = self.0;
        let [b0, b1, b2, b3, b4] = other.0;
        F52::reduce([
            wide(a0, b0),
            wide(a0, b1) + wide(a1, b0),
            wide(a0, b2) + wide(a1, b1) + wide(a2, b0),
            wide(a0, b3) + wide(a1, b2) + wide(a2, b1) + wide(a3, b0),
            wide(a0, b4) + wide(a1, b3) + wide(a2, b2) + wide(a3, b1) + wide(a4, b0),
            wide(a1, b4) + wide(a2, b3) + wide(a3, b2) + wide(a4, b1),
            wide(a2, b4) + wide(a3, b3) + wide(a4, b2),
            wide(a3, b4) + wide(a4, b3),
            wide(a4, b4),
        ])
    }

    #[inline]
    fn sqr(self) -> Self {
        self.check(MAGNITUDE_MAX);
        let [a0, a1, a2, a3, a4] = self.0;
        let (d0, d1, d2, d3) = (2 * a0, 2 * a1, 2 * a2, 2 * a3);
        F52::reduce([
            wide(a0, a0),
            wide(d0, a1),
            wide(d0, a2) + wide(a1, a1),
            wide(d0, a3) + wide(d1, a2),
            wide(d0, a4) + wide(d1, a3) + wide(a2, a2),
            wide(d1, a4) + wide(d2, a3),
            wide(d2, a4) + wide(a3, a3),
            wide(d3, a4),
            wide(a4, a4),
        ])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        F52(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    fn sub<const M: u64>(self, other: Self) -> Self {
        other.check(M);
        F52(std::array::from_fn(|i| self.0[i] + (2 * (M + 1) * P52[i] - other.0[i])))
    }

    #[inline(always)]
    fn neg<const M: u64>(self) -> Self {
        self.check(M);
        F52(std::array::from_fn(|i| 2 * (M + 1) * P52[i] - self.0[i]))
    }

    #[inline(always)]
    fn normalize_weak(self) -> Self {
        self.check(2 * MAGNITUDE_MAX);
        let [a, b, c, d, e] = self.0;
        let a = a + (e >> 48) * FOLD;
        let b = b + (a >> 52);
        let c = c + (b >> 52);
        let d = d + (c >> 52);
        F52([a & M52, b & M52, c & M52, d & M52, (e & M48) + (d >> 52)])
    }

    #[inline(always)]
    fn half(self) -> Self {
        // Odd values take p, which is odd too; then each limb passes its lowest bit down.
        let odd = (self.0[0] & 1).wrapping_neg();
        let mut t: [u64; 5] = std::array::from_fn(|i| self.0[i] + (P52[i] & odd));
        for i in 0..4 {
            t[i] = (t[i] >> 1) + ((t[i + 1] & 1) << 51);
        }
        t[4] >>= 1;
        F52(t)
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        Mask::from(canonical(self.unpack()) == [0; 4])
    }

    #[inline(always)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        let bits = u64::from(mask & 1).wrapping_neg();
        F52(std::array::from_fn(|i| set.0[i] & bits | clear.0[i] & !bits))
    }

    #[inline]
    fn invert(self) -> Self {
        F52::pack(&inverse::by62::invert(&canonical(self.unpack())))
    }
}
