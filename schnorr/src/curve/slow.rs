//! Verification of one claim by double-and-add with every special case: for claims that the fast formulas do not cover, and as
//! their reference in tests.

use super::G;
use crate::field::{AffinePoint, Field, Words, is_odd};

#[cfg(target_pointer_width = "64")]
pub(crate) type F = crate::field::portable64::F52;
#[cfg(not(target_pointer_width = "64"))]
pub(crate) type F = crate::field::portable32::F26;

/// A point in affine coordinates; `None` is the point at infinity.
pub(super) type Point = Option<(F, F)>;

/// Whether s G + e P is the point with x = r and an even y. Takes about 1 ms.
pub(crate) fn is_valid(key: &AffinePoint, r: &Words, s: &Words, e: &Words) -> bool {
    let (generator, key) = (F::load_entries(|_| &G), F::load_entries(|_| key));
    let Some((x, y)) = add(times(s, generator), times(e, key)) else { return false };
    let mut sum = AffinePoint::ZERO;
    x.store_canonical(|_, x| sum.x = x);
    y.store_canonical(|_, y| sum.y = y);
    sum.x == *r && !is_odd(&sum.y)
}

pub(super) fn times(k: &Words, point: (F, F)) -> Point {
    let mut sum = None;
    for bit in (0..256).rev() {
        sum = add(sum, sum);
        if k[bit / 64] >> (bit % 64) & 1 != 0 {
            sum = add(sum, Some(point));
        }
    }
    sum
}

pub(super) fn add(a: Point, b: Point) -> Point {
    let (Some((x_a, y_a)), Some((x_b, y_b))) = (a, b) else { return a.or(b) };
    let (rise, run) = if x_b.sub::<1>(x_a).zeros() == 0 {
        (y_b.sub::<1>(y_a), x_b.sub::<1>(x_a))
    } else if y_b.sub::<1>(y_a).zeros() != 0 {
        let square = x_a.sqr();
        (square.add(square).add(square), y_a.add(y_a))
    } else {
        return None;
    };
    let slope = rise.mul(run.invert());
    let x = slope.sqr().sub::<1>(x_a).sub::<1>(x_b).normalize_weak();
    Some((x, slope.mul(x_a.sub::<1>(x)).sub::<1>(y_a).normalize_weak()))
}
