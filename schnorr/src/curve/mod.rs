//! The curve y^2 = x^3 + 7 and the sums of points that make up a verification, generic over [`Field`](crate::field::Field).
//!
//! A signature is valid if s G - e P is a point with x = r and an even y. Everything is a sum of points from
//! tables: 20 of G's, which is the same for all, and those of the key, either 38 from a comb of the author
//! ([`warm`]) or one product by double-and-add for an author without a comb ([`cold`]). The sums of a whole batch are
//! done level by level in affine coordinates, with one inversion a level ([`points`]).

pub(crate) mod cold;
pub(crate) mod jacobian;
pub(crate) mod plan;
pub(crate) mod points;
pub(crate) mod slow;
pub(crate) mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod warm;

use crate::field::{AffinePoint, Words};
use crate::scalar::Half;

/// A cube root of one modulo p: lambda (x, y) = (BETA x, y).
pub(crate) const BETA: Words =
    [0xc139_6c28_7195_01ee, 0x9cf0_4975_12f5_8995, 0x6e64_479e_ac34_34e9, 0x7ae9_6a2b_657c_0710];

/// The generator.
pub(crate) const G: AffinePoint = AffinePoint {
    x: [0x59f2_815b_16f8_1798, 0x029b_fcdb_2dce_28d9, 0x55a0_6295_ce87_0b07, 0x79be_667e_f9dc_bbac],
    y: [0x9c47_d08f_fb10_d4b8, 0xfd17_b448_a685_5419, 0x5da4_fbfc_0e11_08a8, 0x483a_da77_26a3_c465],
};

/// A claim whose numbers are in range, ready for computation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// Its index in the batch.
    pub(crate) index: u32,
    /// The x-coordinate that the sum must have, below p.
    pub(crate) r: Words,
    /// Halves of s.
    pub(crate) s: [Half; 2],
    /// Halves of -e.
    pub(crate) e: [Half; 2],
}

/// The result of a task's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The signature is valid.
    Valid,
    /// The signature is invalid.
    Invalid,
    /// An intermediate sum met a case that the formulas do not cover: use [`slow`].
    Unknown,
}
