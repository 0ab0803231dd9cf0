//! Lanes emulated in software, for tests on machines without the instructions. Slow.

use super::{Lanes, product, square};
use crate::field::Mask;

const M52: u64 = (1 << 52) - 1;

/// Eight words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emulated([u64; 8]);

fn zip(a: Emulated, b: Emulated, with: impl Fn(u64, u64) -> u64) -> Emulated {
    Emulated(std::array::from_fn(|lane| with(a.0[lane], b.0[lane])))
}

/// The 104-bit product of the bits that the multipliers use.
fn seen(a: u64, b: u64) -> u128 {
    u128::from(a & M52) * u128::from(b & M52)
}

impl Lanes for Emulated {
    #[inline(never)]
    fn splat(word: u64) -> Self {
        Emulated([word; 8])
    }

    fn from_array(words: [u64; 8]) -> Self {
        Emulated(words)
    }

    fn to_array(self) -> [u64; 8] {
        self.0
    }

    fn transpose(rows: [[u64; 8]; 8]) -> [Self; 8] {
        std::array::from_fn(|word| Emulated(rows.map(|row| row[word])))
    }

    #[inline(never)]
    fn add(self, other: Self) -> Self {
        zip(self, other, u64::wrapping_add)
    }

    #[inline(never)]
    fn sub(self, other: Self) -> Self {
        zip(self, other, u64::wrapping_sub)
    }

    #[inline(never)]
    fn and(self, other: Self) -> Self {
        zip(self, other, |a, b| a & b)
    }

    #[inline(never)]
    fn or(self, other: Self) -> Self {
        zip(self, other, |a, b| a | b)
    }

    #[inline(never)]
    fn shl<const N: u32>(self) -> Self {
        Emulated(self.0.map(|word| word << N))
    }

    #[inline(never)]
    fn shr<const N: u32>(self) -> Self {
        Emulated(self.0.map(|word| word >> N))
    }

    #[inline(never)]
    fn madd_low(self, a: Self, b: Self) -> Self {
        let low = zip(a, b, |a, b| seen(a, b) as u64 & M52);
        self.add(low)
    }

    #[inline(never)]
    fn madd_high(self, a: Self, b: Self) -> Self {
        let high = zip(a, b, |a, b| (seen(a, b) >> 52) as u64);
        self.add(high)
    }

    #[inline(never)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        Emulated(std::array::from_fn(|lane| if mask >> lane & 1 != 0 { set.0[lane] } else { clear.0[lane] }))
    }

    #[inline(never)]
    fn mul(a: &[Self; 5], b: &[Self; 5]) -> [Self; 5] {
        product(a, b)
    }

    #[inline(never)]
    fn sqr(a: &[Self; 5]) -> [Self; 5] {
        square(a)
    }
}
