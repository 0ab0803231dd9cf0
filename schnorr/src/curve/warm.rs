//! Claims of authors whose comb is at hand: 58 points from tables, 8 levels of sums, two doublings.

use super::plan::{Plan, Row};
use super::points::Points;
use super::tables::{COMB_BITS, COMB_COLUMNS, COMB_ROWS, G_BITS, G_WINDOWS, Teeth, window_of};
use super::{Outcome, Task};
use crate::field::{Entry, Field, Mask, is_odd};
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

/// Decides claims, each with its author's comb.
#[inline(always)]
pub(crate) fn run<F: Field>(
    plan: &Plan,
    points: &mut Points<F>,
    windows: &[Entry],
    tasks: &[(Task, &[Entry])],
    mut decide: impl FnMut(&Task, Outcome),
) {
    let groups = tasks.len().div_ceil(F::WIDTH);
    points.clear(SLOTS * groups);
    let at = |group: usize, lane: usize| &tasks[(group * F::WIDTH + lane).min(tasks.len() - 1)];
    for group in 0..groups {
        gather_windows(points, windows, groups, group, |lane| &at(group, lane).0);
        for half in 0..2 {
            let mut teeth = [Teeth::default(); 8];
            for (lane, teeth) in teeth.iter_mut().enumerate().take(F::WIDTH) {
                *teeth = Teeth::new(&signs(&at(group, lane).0.e[half], COMB_BITS));
            }
            let slot = 2 * G_WINDOWS + half * COMB_COLUMNS as usize;
            for column in 0..COMB_COLUMNS {
                let (x, y) = gather::<F>(|lane| {
                    let (place, is_negative) = teeth[lane].column(column);
                    (&at(group, lane).1[place], is_negative)
                });
                points.set((slot + column as usize) * groups + group, x, y);
            }
        }
    }
    plan.run(points, groups);
    judge(points, plan.root * groups, tasks.iter().map(|(task, _)| task), &mut decide);
}

/// Puts a group's points of G into the first slots.
#[inline(always)]
pub(crate) fn gather_windows<'a, F: Field>(
    points: &mut Points<F>,
    windows: &[Entry],
    groups: usize,
    group: usize,
    task: impl Fn(usize) -> &'a Task,
) {
    for half in 0..2 {
        let mut all = [[0; 3]; 8];
        for (lane, all) in all.iter_mut().enumerate().take(F::WIDTH) {
            *all = signs(&task(lane).s[half], G_BITS);
        }
        for i in 0..G_WINDOWS {
            let (x, y) = gather::<F>(|lane| {
                let (place, is_negative) = window_of(&all[lane], i);
                (&windows[place], is_negative)
            });
            points.set((half * G_WINDOWS + i) * groups + group, x, y);
        }
    }
}

/// Points from a table, lane by lane, negated where asked: magnitudes 1 and 2.
#[inline(always)]
pub(crate) fn gather<'a, F: Field>(at: impl Fn(usize) -> (&'a Entry, bool)) -> (F, F) {
    let mut found = [(&Entry::ZERO, false); 8];
    let mut negative: Mask = 0;
    for (lane, found) in found.iter_mut().enumerate().take(F::WIDTH) {
        *found = at(lane);
        negative |= Mask::from(found.1) << lane;
    }
    let (x, y) = F::load_entries(|lane| found[lane].0);
    (x, F::select(negative, y.neg::<1>(), y))
}

/// Compares the sums, point `root` and those after it, with what the claims say.
#[inline(always)]
pub(crate) fn judge<'a, F: Field>(
    points: &Points<F>,
    root: usize,
    tasks: impl Iterator<Item = &'a Task>,
    decide: &mut impl FnMut(&Task, Outcome),
) {
    let mut sums = [Entry::ZERO; 8];
    for (i, task) in tasks.enumerate() {
        let (group, lane) = (i / F::WIDTH, i % F::WIDTH);
        if lane == 0 {
            points.x[root + group].store_canonical(|lane, x| sums[lane].x = x);
            points.y[root + group].store_canonical(|lane, y| sums[lane].y = y);
        }
        let is_finite = points.infinite(root + group) >> lane & 1 == 0;
        let holds = is_finite && sums[lane].x == task.r && !is_odd(&sums[lane].y);
        decide(task, if holds { Outcome::Valid } else { Outcome::Invalid });
    }
}
