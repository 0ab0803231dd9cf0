//! Claims of authors with a comb: 58 points from tables, 8 levels of sums, two doublings.

use super::plan::{Plan, Row};
use super::points::Points;
use super::tables::{
    COMB_BITS, COMB_COLUMNS, COMB_ROWS, G_BITS, G_WINDOWS, TableIndex, Teeth, prefetch, window_of,
};
use super::{Outcome, Task};
use crate::field::{AffinePoint, Field, Mask, is_odd};
use crate::scalar::signs;

/// Points of a claim.
const SLOTS: usize = 2 * (G_WINDOWS + COMB_COLUMNS as usize);

/// Slots: windows of the first half of s, of the second, columns of the first half of e, of the second.
pub(crate) fn plan() -> Plan {
    let mut rows: Vec<Row> = (0..COMB_ROWS).map(|_| Row::default()).collect();
    for half in 0..2 {
        rows[0][half].extend((0..G_WINDOWS).map(|i| half * G_WINDOWS + i));
        for column in 0..COMB_COLUMNS as usize {
            let slot = 2 * G_WINDOWS + half * COMB_COLUMNS as usize + column;
            rows[column % COMB_ROWS as usize][half].push(slot);
        }
    }
    Plan::new(rows)
}

/// Groups whose table points are prefetched while those of another are read.
const AHEAD: usize = 2;

/// Decides claims, each with its author's comb.
#[inline(always)]
pub(crate) fn run<F: Field>(
    plan: &Plan,
    points: &mut Points<F>,
    windows: &[AffinePoint],
    tasks: &[(Task, &[AffinePoint])],
    mut decide: impl FnMut(&Task, Outcome),
) {
    let groups = tasks.len().div_ceil(F::WIDTH);
    points.clear(SLOTS * groups);
    let at = |group: usize, lane: usize| &tasks[(group * F::WIDTH + lane).min(tasks.len() - 1)];
    let mut indices = [[TableIndices::<SLOTS>::NONE; 8]; AHEAD + 1];
    for step in 0..groups + AHEAD {
        if step < groups {
            for (lane, indices) in indices[step % (AHEAD + 1)].iter_mut().enumerate().take(F::WIDTH) {
                let (task, comb) = at(step, lane);
                find_windows(indices, 0, task);
                for half in 0..2 {
                    let teeth = Teeth::new(&signs(&task.e[half], COMB_BITS));
                    let slot = 2 * G_WINDOWS + half * COMB_COLUMNS as usize;
                    for column in 0..COMB_COLUMNS {
                        indices.0[slot + column as usize] = teeth.column(column);
                    }
                }
                for (slot, index) in indices.0.iter().enumerate() {
                    prefetch(if slot < 2 * G_WINDOWS { windows } else { comb }, *index);
                }
            }
        }
        if let Some(group) = step.checked_sub(AHEAD) {
            let indices = &indices[group % (AHEAD + 1)];
            for slot in 0..SLOTS {
                let (x, y) = gather::<F>(|lane| {
                    let table = if slot < 2 * G_WINDOWS { windows } else { at(group, lane).1 };
                    (table, indices[lane].0[slot])
                });
                points.set(slot * groups + group, x, y);
            }
        }
    }
    plan.run(points, groups);
    judge(points, plan.root * groups, tasks.iter().map(|(task, _)| task), &mut decide);
}

/// Where a claim's points are in the tables.
#[derive(Clone, Copy)]
pub(crate) struct TableIndices<const LEN: usize>(pub(crate) [TableIndex; LEN]);

impl<const LEN: usize> TableIndices<LEN> {
    pub(crate) const NONE: Self = TableIndices([TableIndex::ZERO; LEN]);
}

/// Finds a claim's windows of G, from slot `first` on.
#[inline(always)]
pub(crate) fn find_windows<const LEN: usize>(indices: &mut TableIndices<LEN>, first: usize, task: &Task) {
    for half in 0..2 {
        let signs = signs(&task.s[half], G_BITS);
        for i in 0..G_WINDOWS {
            indices.0[first + half * G_WINDOWS + i] = window_of(&signs, i);
        }
    }
}

/// Points from tables, lane by lane, negated where asked: magnitudes 1 and 2.
#[inline(always)]
pub(crate) fn gather<'a, F: Field>(at: impl Fn(usize) -> (&'a [AffinePoint], TableIndex)) -> (F, F) {
    let mut found = [&AffinePoint::ZERO; 8];
    let mut negative: Mask = 0;
    for (lane, found) in found.iter_mut().enumerate().take(F::WIDTH) {
        let (table, index) = at(lane);
        *found = &table[index.at()];
        negative |= Mask::from(index.is_negative()) << lane;
    }
    let (x, y) = F::load_entries(|lane| found[lane]);
    (x, F::select(negative, y.neg::<1>(), y))
}

/// Compares the sums, point `root` and those after it, with the claims.
#[inline(always)]
pub(crate) fn judge<'a, F: Field>(
    points: &Points<F>,
    root: usize,
    tasks: impl Iterator<Item = &'a Task>,
    decide: &mut impl FnMut(&Task, Outcome),
) {
    let mut sums = [AffinePoint::ZERO; 8];
    for (i, task) in tasks.enumerate() {
        let (group, lane) = (i / F::WIDTH, i % F::WIDTH);
        if lane == 0 {
            points.x[root + group].store_canonical(|lane, x| sums[lane].x = x);
            points.y[root + group].store_canonical(|lane, y| sums[lane].y = y);
        }
        let is_finite = points.infinite(root + group) >> lane & 1 == 0;
        let is_valid = is_finite && sums[lane].x == task.r && !is_odd(&sums[lane].y);
        decide(task, if is_valid { Outcome::Valid } else { Outcome::Invalid });
    }
}
