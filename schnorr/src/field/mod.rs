//! Integers modulo p = 2^256 - 2^32 - 977, one interface for every tier.
//!
//! A [`Field`] value holds one number for each of `WIDTH` signatures, so that a curve formula is written once
//! and runs on scalars and on vector lanes alike. It never branches on lanes: what differs between them goes
//! through masks.
//!
//! # Magnitudes
//! Additions do not reduce. Every value has a *magnitude*, a bound known when the code is written:
//! magnitude m means at most 2m times the largest reduced limb in each limb. Products have magnitude 1, sums
//! add theirs, `a.sub::<M>(b)` needs `b` of at most M and gives that of `a` plus M + 1, and factors may have
//! at most [`MAGNITUDE_MAX`]. The formulas state the magnitudes they reach; debug builds check the limbs.
//! Tiers whose limbs have no spare bits (4x64, 8 lanes) reduce in every operation instead. The four lanes of AVX2
//! have some: there the magnitudes of two factors multiply to at most 6, and
//! [`Field::normalize_if_tight`] reduces where others need not.

#[cfg(target_arch = "x86_64")]
pub(crate) mod adx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
pub(crate) mod inverse;
#[cfg(any(target_arch = "x86_64", test, feature = "testing"))]
pub(crate) mod lanes;
pub(crate) mod portable32;
pub(crate) mod portable64;
#[cfg(test)]
mod tests;

/// The largest magnitude of a factor.
pub(crate) const MAGNITUDE_MAX: u64 = 8;

/// p, little-endian words.
pub(crate) const P: [u64; 4] = [0xffff_fffe_ffff_fc2f, u64::MAX, u64::MAX, u64::MAX];

/// 2^256 - p.
pub(crate) const FOLD: u64 = 0x1_0000_03d1;

/// A number below 2^256, little-endian words.
pub(crate) type Words = [u64; 4];

/// One bit for each lane; scalars use bit 0.
pub(crate) type Mask = u8;

/// An affine point in memory: a cache line, the same for every tier. Coordinates are below 2^256, not
/// necessarily below p.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct AffinePoint {
    pub(crate) x: Words,
    pub(crate) y: Words,
}

impl AffinePoint {
    pub(crate) const ZERO: AffinePoint = AffinePoint { x: [0; 4], y: [0; 4] };

    /// All eight words, x first.
    #[cfg(any(target_arch = "x86_64", test, feature = "testing"))]
    #[inline(always)]
    pub(crate) fn words(&self) -> [u64; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (self.x, self.y);
        [a, b, c, d, e, f, g, h]
    }
}

/// `WIDTH` numbers modulo p.
pub(crate) trait Field: Copy {
    /// Numbers in a value: 1, 4 or 8.
    const WIDTH: usize;
    /// The mask of all lanes.
    const ALL: Mask = ((1u16 << Self::WIDTH) - 1) as Mask;

    /// The same number below 2^256 in every lane.
    fn splat(words: &Words) -> Self;
    /// Lane i takes `at(i)`, below 2^256.
    fn load<'a>(at: impl Fn(usize) -> &'a Words) -> Self;
    /// Lane i of x and y take the coordinates of `at(i)`.
    fn load_entries<'a>(at: impl Fn(usize) -> &'a AffinePoint) -> (Self, Self);
    /// Gives each lane as a number below 2^256, of any magnitude up to the largest.
    fn store(self, to: impl FnMut(usize, Words));
    /// Gives each lane reduced below p.
    fn store_canonical(self, to: impl FnMut(usize, Words));

    /// The product, of magnitude 1.
    fn mul(self, other: Self) -> Self;
    /// The square, of magnitude 1.
    fn sqr(self) -> Self;
    /// The sum.
    fn add(self, other: Self) -> Self;
    /// The difference; `other` has at most magnitude `M`.
    fn sub<const M: u64>(self, other: Self) -> Self;
    /// The negative of a value of magnitude `M`; its own is `M + 1`.
    fn neg<const M: u64>(self) -> Self;
    /// The same number with magnitude 1; free for tiers that always reduce.
    fn normalize_weak(self) -> Self;
    /// [`Field::normalize_weak`] for tiers with little room, nothing for others.
    #[inline(always)]
    fn normalize_if_tight(self) -> Self {
        self
    }
    /// The half; of magnitude m it has m / 2 + 1, rounded down.
    fn half(self) -> Self;
    /// Lanes that are zero modulo p.
    fn zeros(self) -> Mask;
    /// Lanes of `set` where the mask is set, of `clear` elsewhere, without a branch.
    fn select(mask: Mask, set: Self, clear: Self) -> Self;
    /// The inverse of each lane. Every lane must be other than zero.
    fn invert(self) -> Self;

    /// The number one.
    #[inline(always)]
    fn one() -> Self {
        Self::splat(&[1, 0, 0, 0])
    }

    /// `self` to the 2^n-th power.
    #[inline(always)]
    fn sqr_n(self, n: usize) -> Self {
        let mut power = self;
        for _ in 0..n {
            power = power.sqr();
        }
        power
    }

    /// `self` to the power (p + 1) / 4: a square root if there is one. 253 squarings, 13 products.
    ///
    /// The exponent is 223 ones, a zero, 22 ones, four zeros, two ones, two zeros.
    #[inline(always)]
    fn sqrt_candidate(self) -> Self {
        let x2 = self.sqr().mul(self);
        let x3 = x2.sqr().mul(self);
        let x6 = x3.sqr_n(3).mul(x3);
        let x9 = x6.sqr_n(3).mul(x3);
        let x11 = x9.sqr_n(2).mul(x2);
        let x22 = x11.sqr_n(11).mul(x11);
        let x44 = x22.sqr_n(22).mul(x22);
        let x88 = x44.sqr_n(44).mul(x44);
        let x176 = x88.sqr_n(88).mul(x88);
        let x220 = x176.sqr_n(44).mul(x44);
        let x223 = x220.sqr_n(3).mul(x3);
        x223.sqr_n(23).mul(x22).sqr_n(6).mul(x2).sqr_n(2)
    }
}

/// Inverts numbers below 2^256, none of them zero modulo p, with one inversion: Montgomery's trick.
#[cfg(any(target_arch = "x86_64", test, feature = "testing"))]
pub(crate) fn invert_lanes<F: Field, const WIDTH: usize>(lanes: &mut [Words; WIDTH]) {
    let numbers = lanes.map(|words| F::splat(&words));
    let mut before = numbers;
    let mut all = F::one();
    for (before, number) in before.iter_mut().zip(numbers) {
        *before = all;
        all = all.mul(number);
    }
    let mut inverse = all.invert();
    for i in (0..WIDTH).rev() {
        before[i].mul(inverse).store(|_, words| lanes[i] = words);
        inverse = inverse.mul(numbers[i]);
    }
}

/// Reduces a number below 2^256 below p.
pub(crate) fn canonical(words: Words) -> Words {
    // words >= p exactly if words + FOLD carries.
    let (folded, carry) = add_small(words, FOLD);
    if carry { folded } else { words }
}

/// `words + small`, and whether it left 256 bits.
#[inline(always)]
pub(crate) fn add_small(words: Words, small: u64) -> (Words, bool) {
    let (w0, c) = words[0].overflowing_add(small);
    let (w1, c) = words[1].overflowing_add(u64::from(c));
    let (w2, c) = words[2].overflowing_add(u64::from(c));
    let (w3, c) = words[3].overflowing_add(u64::from(c));
    ([w0, w1, w2, w3], c)
}

/// Whether `a < b`.
pub(crate) fn is_below(a: &Words, b: &Words) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

/// Whether the number is odd.
pub(crate) fn is_odd(words: &Words) -> bool {
    words[0] & 1 != 0
}

/// 32 big-endian bytes as words.
pub(crate) fn words_from_be(bytes: &[u8; 32]) -> Words {
    let (chunks, _) = bytes.as_chunks::<8>();
    [
        u64::from_be_bytes(chunks[3]),
        u64::from_be_bytes(chunks[2]),
        u64::from_be_bytes(chunks[1]),
        u64::from_be_bytes(chunks[0]),
    ]
}
