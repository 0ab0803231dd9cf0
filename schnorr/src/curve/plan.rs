//! The order in which a signature's points are summed: which slots are added in which level.
//!
//! A signature is a sum over rows r of 2^r (A_r + lambda B_r), each A and B a sum of table points. Slots of a set are added in
//! pairs, level by level; a finished B is multiplied by lambda and added to its A; a finished row is doubled and added to the row
//! below. A level costs an inversion, so the plan greedily minimises their number.

use crate::curve::BETA;
use crate::curve::points::Points;
use crate::field::Field;

/// One level.
#[derive(Clone, Debug, Default)]
struct Level {
    /// Slots multiplied by lambda before the sums.
    lambda_slots: Vec<usize>,
    /// Slots summed; the first takes the sum.
    sums: Vec<(usize, usize)>,
    doubles: Vec<usize>,
}

/// The order of sums, the same for every signature of its kind.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    levels: Vec<Level>,
    /// The slot of the final sum.
    pub(crate) root: usize,
}

/// The slots of a row: those of A, and those of B, which is multiplied by lambda.
pub(crate) type Row = [Vec<usize>; 2];

impl Plan {
    /// A plan over rows, the lowest first. Every row has both kinds of slots.
    pub(crate) fn new(mut rows: Vec<Row>) -> Self {
        let mut levels = Vec::new();
        loop {
            let mut level = Level::default();
            for [direct, times_lambda] in &mut rows {
                if times_lambda.len() == 1 {
                    level.lambda_slots.push(times_lambda[0]);
                    direct.append(times_lambda);
                }
            }
            let top = rows.len() - 1;
            let is_complete = rows[top][0].len() == 1 && rows[top][1].is_empty();
            if is_complete && top == 0 {
                debug_assert!(level.lambda_slots.is_empty(), "a slot times lambda still has to be added");
                return Plan { levels, root: rows[0][0][0] };
            }
            for set in rows.iter_mut().flatten() {
                let half = set.len().div_ceil(2);
                for (i, b) in set.drain(half..).collect::<Vec<_>>().into_iter().enumerate() {
                    level.sums.push((set[i], b));
                }
            }
            if is_complete {
                let [mut direct, _] = rows.pop().expect("there is a top row");
                level.doubles.push(direct[0]);
                rows[top - 1][0].append(&mut direct);
            }
            levels.push(level);
        }
    }

    /// Sums the points of `groups` groups; slot s of group g is point s * groups + g.
    #[inline(always)]
    pub(crate) fn run<F: Field>(&self, points: &mut Points<F>, groups: usize) {
        let beta = F::splat(&BETA);
        for level in &self.levels {
            for slot in &level.lambda_slots {
                for x in &mut points.x[slot * groups..][..groups] {
                    *x = x.mul(beta);
                }
            }
            for (a, b) in &level.sums {
                for group in 0..groups {
                    points.add(a * groups + group, b * groups + group, a * groups + group);
                }
            }
            for slot in &level.doubles {
                for group in 0..groups {
                    points.double(slot * groups + group, slot * groups + group);
                }
            }
            points.level();
        }
    }
}
