//! The field in vector lanes: eight numbers side by side, five limbs of 52 bits, the multiply-and-add of
//! AVX-512 IFMA. Generic over the machine: real vectors ([`ifma`]) or a software emulation (`emulated`), which
//! does to each lane exactly what the instructions do, including their truncation to 52 bits.
//!
//! # Bounds
//! The multipliers use the lowest 52 bits of a factor and silently ignore the rest, so every operation
//! leaves limbs 0 to 3 below 2^52 and limb 4 at most 2^48 + 2^6: a value below 2^256 + 2^214.
//! Magnitudes have no meaning here. Column sums of a product are at most ten 52-bit halves, below 2^56.

#[cfg(any(test, feature = "testing"))]
pub(crate) mod emulated;
#[cfg(target_arch = "x86_64")]
pub(crate) mod ifma;

use super::portable64::F52;
use super::{AffinePoint, FOLD, Field, Mask, P, Words, canonical};

const M52: u64 = (1 << 52) - 1;
const M48: u64 = (1 << 48) - 1;
/// 2^260 modulo p.
const R: u64 = FOLD << 4;
/// Twice p, limb by limb: no limb of a value is larger.
const P_TWICE: [u64; 5] = [2 * 0xf_fffe_ffff_fc2f, 2 * M52, 2 * M52, 2 * M52, 2 * M48];

/// Eight 64-bit lanes.
pub(crate) trait Lanes: Copy {
    /// The same word in every lane.
    fn splat(word: u64) -> Self;
    /// Eight words, one a lane.
    fn from_array(words: [u64; 8]) -> Self;
    /// The lanes.
    fn to_array(self) -> [u64; 8];
    /// Lane i of vector j is word j of `rows[i]`.
    fn transpose(rows: [[u64; 8]; 8]) -> [Self; 8];
    /// The sum modulo 2^64.
    fn add(self, other: Self) -> Self;
    /// The difference modulo 2^64.
    fn sub(self, other: Self) -> Self;
    /// Bits set in both.
    fn and(self, other: Self) -> Self;
    /// Bits set in either.
    fn or(self, other: Self) -> Self;
    /// Each lane `N` bits to the left.
    fn shl<const N: u32>(self) -> Self;
    /// Each lane `N` bits to the right.
    fn shr<const N: u32>(self) -> Self;
    /// Plus the low 52 bits of the product of the low 52 bits of `a` and `b`.
    fn madd_low(self, a: Self, b: Self) -> Self;
    /// Plus the high 52 bits of the 104-bit product of the low 52 bits of `a` and `b`.
    fn madd_high(self, a: Self, b: Self) -> Self;
    /// Lanes of `set` where the mask is set, of `clear` elsewhere.
    fn select(mask: Mask, set: Self, clear: Self) -> Self;

    /// [`product`], compiled once for the machine: inlined everywhere it fills the instruction cache.
    #[inline(always)]
    fn mul(a: &[Self; 5], b: &[Self; 5]) -> [Self; 5] {
        product(a, b)
    }

    /// [`square`], likewise.
    #[inline(always)]
    fn sqr(a: &[Self; 5]) -> [Self; 5] {
        square(a)
    }
}

/// Eight numbers, five limbs each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FLanes<V>([V; 5]);

/// Carries from limb 0 to 4, after what is above 2^256 was folded into limb 0.
#[inline(always)]
fn carried<V: Lanes>(mut t: [V; 5]) -> [V; 5] {
    let mask = V::splat(M52);
    // Limb 4 is below 2^57, so what is folded is below 2^9 * 2^33, which the low half holds.
    t[0] = t[0].madd_low(t[4].shr::<48>(), V::splat(FOLD));
    t[4] = t[4].and(V::splat(M48));
    for i in 0..4 {
        t[i + 1] = t[i + 1].add(t[i].shr::<52>());
        t[i] = t[i].and(mask);
    }
    t
}

/// Reduces ten columns, each a sum of at most ten 52-bit halves.
#[inline(always)]
fn reduce<V: Lanes>(mut z: [V; 10]) -> [V; 5] {
    let mask = V::splat(M52);
    let r = V::splat(R);
    // The high columns become factors: to 52 bits. Column 9 holds less than 2^46, so it needs none.
    for i in 5..9 {
        z[i + 1] = z[i + 1].add(z[i].shr::<52>());
        z[i] = z[i].and(mask);
    }
    // 2^260 times the high half, moved down.
    let over = V::splat(0).madd_high(z[9], r);
    for i in 0..5 {
        z[i] = z[i].madd_low(z[i + 5], r);
        if i < 4 {
            z[i + 1] = z[i + 1].madd_high(z[i + 5], r);
        }
    }
    // What passed 2^260 again, below 2^31.
    z[0] = z[0].madd_low(over, r);
    z[1] = z[1].madd_high(over, r);
    carried([z[0], z[1], z[2], z[3], z[4]])
}

/// The product of two values.
#[inline(always)]
pub(crate) fn product<V: Lanes>(a: &[V; 5], b: &[V; 5]) -> [V; 5] {
    let mut z = [V::splat(0); 10];
    for i in 0..5 {
        for j in 0..5 {
            z[i + j] = z[i + j].madd_low(a[i], b[j]);
            z[i + j + 1] = z[i + j + 1].madd_high(a[i], b[j]);
        }
    }
    reduce(z)
}

/// The square of a value. Doubling happens to the sums: a doubled limb would have 53 bits.
#[inline(always)]
pub(crate) fn square<V: Lanes>(a: &[V; 5]) -> [V; 5] {
    let mut z = [V::splat(0); 10];
    for i in 0..5 {
        for j in i + 1..5 {
            z[i + j] = z[i + j].madd_low(a[i], a[j]);
            z[i + j + 1] = z[i + j + 1].madd_high(a[i], a[j]);
        }
    }
    for column in &mut z {
        *column = column.add(*column);
    }
    for i in 0..5 {
        z[2 * i] = z[2 * i].madd_low(a[i], a[i]);
        z[2 * i + 1] = z[2 * i + 1].madd_high(a[i], a[i]);
    }
    reduce(z)
}

/// Four vectors of 64-bit words, below 2^256, as limbs.
#[inline(always)]
fn pack<V: Lanes>([a, b, c, d]: [V; 4]) -> FLanes<V> {
    let mask = V::splat(M52);
    FLanes([
        a.and(mask),
        a.shr::<52>().or(b.shl::<12>()).and(mask),
        b.shr::<40>().or(c.shl::<24>()).and(mask),
        c.shr::<28>().or(d.shl::<36>()).and(mask),
        d.shr::<16>(),
    ])
}

impl<V: Lanes> FLanes<V> {
    #[cfg(test)]
    pub(crate) fn from_limbs(limbs: [[u64; 8]; 5]) -> Self {
        FLanes(limbs.map(V::from_array))
    }

    #[cfg(test)]
    pub(crate) fn limbs(self) -> [[u64; 8]; 5] {
        self.0.map(V::to_array)
    }

    /// Values below 2^256: folding limb 4 leaves little if it folds anything.
    #[inline(always)]
    fn unpack(self) -> [[u64; 8]; 4] {
        let [a, b, c, d, e] = carried(self.0);
        [
            a.or(b.shl::<52>()).to_array(),
            b.shr::<12>().or(c.shl::<40>()).to_array(),
            c.shr::<24>().or(d.shl::<28>()).to_array(),
            d.shr::<36>().or(e.shl::<16>()).to_array(),
        ]
    }
}

impl<V: Lanes> Field for FLanes<V> {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(words: &Words) -> Self {
        let [a, b, c, d] = *words;
        pack([V::splat(a), V::splat(b), V::splat(c), V::splat(d)])
    }

    #[inline(always)]
    fn load<'a>(at: impl Fn(usize) -> &'a Words) -> Self {
        let rows: [&Words; 8] = std::array::from_fn(at);
        let word = |word: usize| rows.map(|row| row[word]);
        let (a, b) = (V::from_array(word(0)), V::from_array(word(1)));
        pack([a, b, V::from_array(word(2)), V::from_array(word(3))])
    }

    #[inline(always)]
    fn load_entries<'a>(at: impl Fn(usize) -> &'a AffinePoint) -> (Self, Self) {
        let [a, b, c, d, e, f, g, h] = V::transpose(std::array::from_fn(|lane| at(lane).words()));
        (pack([a, b, c, d]), pack([e, f, g, h]))
    }

    #[inline(always)]
    fn store(self, mut to: impl FnMut(usize, Words)) {
        let words = self.unpack();
        for lane in 0..8 {
            to(lane, words.map(|word| word[lane]));
        }
    }

    #[inline(always)]
    fn store_canonical(self, mut to: impl FnMut(usize, Words)) {
        self.store(|lane, words| to(lane, canonical(words)));
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        FLanes(V::mul(&self.0, &other.0))
    }

    #[inline(always)]
    fn sqr(self) -> Self {
        FLanes(V::sqr(&self.0))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut t = self.0;
        for i in 0..5 {
            t[i] = t[i].add(other.0[i]);
        }
        FLanes(carried(t))
    }

    #[inline(always)]
    fn sub<const M: u64>(self, other: Self) -> Self {
        let mut t = self.0;
        for i in 0..5 {
            t[i] = t[i].add(V::splat(P_TWICE[i]).sub(other.0[i]));
        }
        FLanes(carried(t))
    }

    #[inline(always)]
    fn neg<const M: u64>(self) -> Self {
        let mut t = self.0;
        for i in 0..5 {
            t[i] = V::splat(P_TWICE[i]).sub(t[i]);
        }
        FLanes(carried(t))
    }

    #[inline(always)]
    fn normalize_weak(self) -> Self {
        self
    }

    #[inline(always)]
    fn half(self) -> Self {
        // Odd values take p, which is odd too; then each limb passes its lowest bit down.
        let odd = V::splat(0).sub(self.0[0].and(V::splat(1)));
        let mut t = self.0;
        for i in 0..5 {
            t[i] = t[i].add(V::splat(P_TWICE[i] / 2).and(odd));
        }
        for i in 0..4 {
            let passed = t[i + 1].and(V::splat(1)).shl::<51>();
            t[i] = t[i].shr::<1>().add(passed);
        }
        t[4] = t[4].shr::<1>();
        FLanes(carried(t))
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        let mut mask = 0;
        self.store_canonical(|lane, words| mask |= Mask::from(words == [0; 4]) << lane);
        mask
    }

    #[inline(always)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        let mut t = clear.0;
        for i in 0..5 {
            t[i] = V::select(mask, set.0[i], t[i]);
        }
        FLanes(t)
    }

    #[inline]
    fn invert(self) -> Self {
        let mut lanes = [[0; 4]; 8];
        self.store(|lane, words| lanes[lane] = words);
        super::invert_lanes::<F52, 8>(&mut lanes);
        FLanes::load(|lane| &lanes[lane])
    }
}

const _: () = assert!(P[0] & M52 == 0xf_fffe_ffff_fc2f);
