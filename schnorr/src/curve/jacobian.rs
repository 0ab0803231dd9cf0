//! Points (X, Y, Z) that stand for (X / Z^2, Y / Z^3): doubling and adding without inversions.
//!
//! # Exceptions
//! Adding an equal or opposite point gives Z = 0, and Z stays 0 from then on. So one test of Z at the end shows whether the
//! formulas were valid; if not, [`super::slow`] verifies the claim.

use crate::field::Field;

/// A point in Jacobian coordinates, of magnitudes at most 3, 3 and 1 (all 1 in fields with less headroom).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jacobian<F> {
    pub(crate) x: F,
    pub(crate) y: F,
    pub(crate) z: F,
}

impl<F: Field> Jacobian<F> {
    /// An affine point of magnitudes 1 and 2.
    #[inline(always)]
    pub(crate) fn from_affine(x: F, y: F) -> Self {
        Jacobian { x, y, z: F::one() }
    }

    /// Twice the point, of magnitudes 3, 3, 1. Three products, four squares.
    #[inline(always)]
    pub(crate) fn double(&self) -> Self {
        let z = self.z.mul(self.y);
        let s = self.y.sqr();
        let l = self.x.sqr();
        // 3/2 x^2: 1 + 1.
        let l = l.add(l.half());
        let t = s.neg::<1>().mul(self.x);
        let x = l.sqr().add(t).add(t).normalize_if_tight();
        let y = l.mul(x.add(t)).add(s.sqr()).neg::<2>().normalize_if_tight();
        Jacobian { x, y, z }
    }

    /// The sum with an affine point of magnitudes 1 and 2, of magnitudes 1, 3, 1.
    /// Eight products, three squares.
    #[inline(always)]
    pub(crate) fn add_affine(&self, x: F, y: F) -> Self {
        let zz = self.z.sqr();
        let u = x.mul(zz);
        let s = y.mul(zz.mul(self.z));
        // 1 + 4 each.
        let h = u.sub::<3>(self.x).normalize_if_tight();
        let i = s.sub::<3>(self.y).normalize_if_tight();
        let hh = h.sqr();
        let hhh = hh.mul(h);
        let t = self.x.mul(hh);
        // 1 + 2 + 3, then 1 + 2.
        let x = i.sqr().sub::<1>(hhh).sub::<2>(t.add(t)).normalize_weak();
        let y = i.mul(t.sub::<1>(x)).sub::<1>(self.y.mul(hhh)).normalize_if_tight();
        Jacobian { x, y, z: self.z.mul(h) }
    }
}
