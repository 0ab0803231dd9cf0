//! Tables of points: windows of the generator, computed once, and combs of authors.
//!
//! # Windows of G
//! Signs of [`G_BITS`] bits in windows of [`G_WINDOW`] bits; window i holds the odd multiples
//! 1, 3, 5, ... of 2^(i * G_WINDOW) G. No doublings are left to do.
//!
//! # Combs
//! Signs of [`COMB_BITS`] bits, read as [`COMB_TEETH`] teeth of [`COMB_COLUMNS`] bits. Column c takes bit c of every tooth.
//! Column c = b * COMB_ROWS + r is looked up in block b and belongs to row r, which weighs 2^r: block b holds 2^(b * COMB_ROWS)
//! times the sums of +-2^(j * COMB_COLUMNS) P, the highest tooth always +. So a key costs 38 points and two doublings for both
//! halves, and 28 KiB.
//!
//! | teeth | rows | points | doublings | KiB |
//! |---|---|---|---|---|
//! | 6 | 2 | 44 | 1 | 22 |
//! | 7 | 3 | 38 | 2 | 28 |
//! | 7 | 2 | 38 | 1 | 40 |
//! | 8 | 3 | 34 | 2 | 48 |

use std::sync::{Arc, OnceLock};

use super::G;
use super::jacobian::Jacobian;
use super::points::{Points, invert_all};
use crate::field::{AffinePoint, Field};
use crate::scalar::{HALF_BITS, Signs, bits_at};

/// Bits of a window of G: 10 windows of 4,096 points, 2.5 MiB. On wasm32 17 windows of 128, 136 KiB, since
/// every instance that needs them makes them. Under Miri few, since it is slow.
pub(crate) const G_WINDOW: u32 = if cfg!(miri) {
    4
} else if cfg!(target_arch = "wasm32") {
    8
} else {
    13
};
/// Windows of a half.
pub(crate) const G_WINDOWS: usize = HALF_BITS.div_ceil(G_WINDOW) as usize;
/// Bits that the windows cover.
pub(crate) const G_BITS: u32 = G_WINDOW * G_WINDOWS as u32;

/// Teeth of a comb.
pub(crate) const COMB_TEETH: u32 = 7;
/// Bits of a tooth.
pub(crate) const COMB_COLUMNS: u32 = HALF_BITS.div_ceil(COMB_TEETH);
/// Bits that the teeth cover.
pub(crate) const COMB_BITS: u32 = COMB_TEETH * COMB_COLUMNS;
/// Rows, one doubling fewer.
pub(crate) const COMB_ROWS: u32 = 3;
/// Blocks of a comb.
pub(crate) const COMB_BLOCKS: usize = COMB_COLUMNS.div_ceil(COMB_ROWS) as usize;
/// Points of a block.
const COMB_BLOCK: usize = 1 << (COMB_TEETH - 1);
/// Points of a comb.
pub(crate) const COMB_LEN: usize = COMB_BLOCKS * COMB_BLOCK;

/// The table of an author's key.
pub(crate) type Comb = Arc<[AffinePoint]>;

/// The index of a point in a table, and whether it must be negated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableIndex(u32);

impl TableIndex {
    pub(crate) const ZERO: TableIndex = TableIndex(0);

    /// The point that `bits` select in the part of a table that begins at `first`: if the highest bit is set, that of the other
    /// bits; if not, the negative of that of their complement.
    #[inline(always)]
    pub(crate) fn new(first: usize, bits: u32, width: u32) -> Self {
        let is_negative = bits >> (width - 1) ^ 1;
        let at = (bits ^ is_negative.wrapping_neg()) & ((1 << (width - 1)) - 1);
        TableIndex((first as u32 + at) << 1 | is_negative)
    }

    #[inline(always)]
    pub(crate) fn at(self) -> usize {
        (self.0 >> 1) as usize
    }

    #[inline(always)]
    pub(crate) fn is_negative(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Prefetches a point's cache line.
#[inline(always)]
pub(crate) fn prefetch(table: &[AffinePoint], index: TableIndex) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code, reason = "a hint")]
        // SAFETY: every x86-64 machine has it, and it changes nothing, whatever the address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(table.as_ptr().wrapping_add(index.at()).cast());
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (table, index);
}

/// Where window `i` of G is.
#[inline(always)]
pub(crate) fn window_of(signs: &Signs, i: usize) -> TableIndex {
    TableIndex::new(i << (G_WINDOW - 1), bits_at(signs, i as u32 * G_WINDOW, G_WINDOW), G_WINDOW)
}

/// The teeth of a half, so that columns are read quickly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Teeth([u32; COMB_TEETH as usize]);

impl Teeth {
    #[inline(always)]
    pub(crate) fn new(signs: &Signs) -> Self {
        Teeth(std::array::from_fn(|j| bits_at(signs, j as u32 * COMB_COLUMNS, COMB_COLUMNS)))
    }

    /// Where column `c` is.
    #[inline(always)]
    pub(crate) fn column(&self, c: u32) -> TableIndex {
        let mut bits = 0;
        for j in 0..COMB_TEETH {
            bits |= (self.0[j as usize] >> c & 1) << j;
        }
        TableIndex::new((c / COMB_ROWS) as usize * COMB_BLOCK, bits, COMB_TEETH)
    }
}

/// The windows of G, computed at the first call, which takes a few milliseconds.
pub(crate) fn windows<F: Field>() -> &'static [AffinePoint] {
    static WINDOWS: OnceLock<Box<[AffinePoint]>> = OnceLock::new();
    WINDOWS.get_or_init(make_windows::<F>)
}

pub(crate) fn make_windows<F: Field>() -> Box<[AffinePoint]> {
    const SIZE: usize = 1 << (G_WINDOW - 1);
    let powers = powers::<F>(&[G], G_BITS as usize);
    let len = G_WINDOWS * SIZE;
    let mut points = Points::<F>::new();
    points.clear(len + powers.len());
    for (i, (x, y)) in powers.into_iter().enumerate() {
        points.set(len + i, x, y);
    }
    for window in 0..G_WINDOWS {
        let power = len + window * G_WINDOW as usize;
        points.set(window * SIZE, points.x[power], points.y[power]);
    }
    for k in 0..G_WINDOW as usize - 1 {
        for window in 0..G_WINDOWS {
            for low in 0..1 << k {
                let at = window * SIZE + low;
                points.add(at, len + window * G_WINDOW as usize + k + 1, at + (1 << k));
            }
        }
        points.level();
    }
    (0..len).map(|at| entry_of(&points, at, 0)).collect()
}

/// Combs of keys. The more at once, the cheaper; about as much as three verifications each.
#[inline(always)]
pub(crate) fn make_combs<F: Field>(keys: &[AffinePoint]) -> Vec<Comb> {
    let groups = keys.len().div_ceil(F::WIDTH);
    let teeth = COMB_TEETH as usize;
    let powers = powers::<F>(keys, COMB_BITS as usize);
    // Slots: the combs, then for each block the teeth that sum to its first point.
    let slots = COMB_LEN + COMB_BLOCKS * teeth;
    let mut points = Points::<F>::new();
    // After them the powers of two.
    let powers_at = slots * groups;
    points.clear(powers_at + powers.len());
    for (i, (x, y)) in powers.into_iter().enumerate() {
        points.set(powers_at + i, x, y);
    }
    let power = |exponent: usize, group: usize| powers_at + exponent * groups + group;
    let tooth_power = |block: usize, j: usize| j * COMB_COLUMNS as usize + block * COMB_ROWS as usize;
    let tooth = |block: usize, j: usize, group: usize| (COMB_LEN + block * teeth + j) * groups + group;
    let point = |block: usize, i: usize, group: usize| (block * COMB_BLOCK + i) * groups + group;
    for block in 0..COMB_BLOCKS {
        for j in 0..teeth {
            for group in 0..groups {
                let from = power(tooth_power(block, j), group);
                let (x, y) = (points.x[from], points.y[from]);
                points.set(tooth(block, j, group), x, if j + 1 < teeth { y.neg::<1>() } else { y });
            }
        }
    }
    // The first point of a block: the highest tooth less all others.
    let mut left = teeth;
    while left > 1 {
        let half = left.div_ceil(2);
        for block in 0..COMB_BLOCKS {
            for group in 0..groups {
                for i in half..left {
                    let a = tooth(block, i - half, group);
                    points.add(a, tooth(block, i, group), a);
                }
            }
        }
        points.level();
        left = half;
    }
    for block in 0..COMB_BLOCKS {
        for group in 0..groups {
            let from = tooth(block, 0, group);
            points.set(point(block, 0, group), points.x[from], points.y[from]);
        }
    }
    // A set bit changes the sign of a tooth from - to +, so twice the tooth is added.
    for k in 0..teeth - 1 {
        for block in 0..COMB_BLOCKS {
            for low in 0..1 << k {
                for group in 0..groups {
                    let twice = power(tooth_power(block, k) + 1, group);
                    points.add(point(block, low, group), twice, point(block, low + (1 << k), group));
                }
            }
        }
        points.level();
    }
    let mut combs: Vec<Vec<AffinePoint>> = keys.iter().map(|_| vec![AffinePoint::ZERO; COMB_LEN]).collect();
    for group in 0..groups {
        for at in 0..COMB_LEN {
            let from = at * groups + group;
            points.x[from].store(|lane, x| {
                if let Some(comb) = combs.get_mut(group * F::WIDTH + lane) {
                    comb[at].x = x;
                }
            });
            points.y[from].store(|lane, y| {
                if let Some(comb) = combs.get_mut(group * F::WIDTH + lane) {
                    comb[at].y = y;
                }
            });
        }
    }
    combs.into_iter().map(Comb::from).collect()
}

/// 2^i times each key for all i below `len`: that of group g at i * groups + g, magnitudes 1 and 1.
#[inline(always)]
fn powers<F: Field>(keys: &[AffinePoint], len: usize) -> Vec<(F, F)> {
    let groups = keys.len().div_ceil(F::WIDTH);
    let mut run = Vec::with_capacity(groups);
    for group in 0..groups {
        let (x, y) = F::load_entries(|lane| &keys[(group * F::WIDTH + lane).min(keys.len() - 1)]);
        run.push(Jacobian::from_affine(x, y));
    }
    let mut all = Vec::with_capacity(len * groups);
    for _ in 0..len {
        for point in &mut run {
            all.push(*point);
            *point = point.double();
        }
    }
    let mut z: Vec<F> = all.iter().map(|point| point.z).collect();
    invert_all(&mut z, &mut Vec::new());
    let mut powers = Vec::with_capacity(all.len());
    for (point, z) in all.iter().zip(z) {
        powers.push(affine(point, z));
    }
    powers
}

/// The affine point, from the inverse of Z.
#[inline(always)]
pub(crate) fn affine<F: Field>(point: &Jacobian<F>, z_inverse: F) -> (F, F) {
    let zz = z_inverse.sqr();
    (point.x.mul(zz), point.y.mul(zz.mul(z_inverse)))
}

fn entry_of<F: Field>(points: &Points<F>, at: usize, of_lane: usize) -> AffinePoint {
    let mut entry = AffinePoint::ZERO;
    points.x[at].store(|lane, x| {
        if lane == of_lane {
            entry.x = x
        }
    });
    points.y[at].store(|lane, y| {
        if lane == of_lane {
            entry.y = y
        }
    });
    entry
}
