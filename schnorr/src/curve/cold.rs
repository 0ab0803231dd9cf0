//! Claims of authors without a comb: the key is lifted and multiplied by double-and-add, and the product is added to the points
//! of G.
//!
//! A half of a scalar is read in [`WINDOWS`] windows of [`WINDOW`] bits, odd digits that select one of [`ODD`] multiples. The
//! points of both halves in a window are summed beforehand, for all windows and claims in one level, so that the Jacobian
//! ladder has one addition per window.

use super::jacobian::Jacobian;
use super::plan::{Plan, Row};
use super::points::{Points, invert_all};
use super::tables::{G_WINDOWS, TableIndex, affine, prefetch};
use super::warm::{TableIndices, find_windows, gather, judge};
use super::{BETA, Outcome, Task};
use crate::field::{AffinePoint, Field, Mask, Words, is_odd};
use crate::scalar::{HALF_BITS, bits_at, signs};

/// Bits of a window.
const WINDOW: u32 = 5;
/// Windows of a half.
const WINDOWS: usize = HALF_BITS.div_ceil(WINDOW) as usize;
/// Odd multiples of a key: 1, 3, ... 31.
const ODD: usize = 1 << (WINDOW - 1);

/// Scratch memory, reused for all batches.
#[derive(Clone, Debug)]
pub(crate) struct Scratch<F> {
    /// For each claim the odd multiples of its key, then the same multiplied by lambda.
    tables: Vec<AffinePoint>,
    ladders: Vec<Jacobian<F>>,
    z: Vec<F>,
    before: Vec<F>,
    unknown: Vec<Mask>,
}

impl<F> Scratch<F> {
    pub(crate) fn new() -> Self {
        Scratch {
            tables: Vec::new(),
            ladders: Vec::new(),
            z: Vec::new(),
            before: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

/// Slots: windows of the first half of s, of the second, and the product of the key.
pub(crate) fn plan() -> Plan {
    let mut row = Row::default();
    row[0].extend(0..G_WINDOWS);
    row[0].push(2 * G_WINDOWS);
    row[1].extend(G_WINDOWS..2 * G_WINDOWS);
    Plan::new(vec![row])
}

/// The points with these x-coordinates, below p, and even y; `None` where there is no such point.
#[inline(always)]
pub(crate) fn lift<F: Field>(keys: &[Words], mut found: impl FnMut(usize, Option<AffinePoint>)) {
    let seven = F::splat(&[7, 0, 0, 0]);
    for group in 0..keys.len().div_ceil(F::WIDTH) {
        let at = |lane: usize| (group * F::WIDTH + lane).min(keys.len() - 1);
        let x = F::load(|lane| &keys[at(lane)]);
        let square = x.sqr().mul(x).add(seven);
        let y = square.sqrt_candidate();
        let is_root = y.sqr().sub::<2>(square).zeros();
        let (mut ys, mut negatives) = ([[0; 4]; 8], [[0; 4]; 8]);
        y.store_canonical(|lane, y| ys[lane] = y);
        y.neg::<1>().store_canonical(|lane, y| negatives[lane] = y);
        for lane in 0..F::WIDTH.min(keys.len() - group * F::WIDTH) {
            let y = if is_odd(&ys[lane]) { negatives[lane] } else { ys[lane] };
            let index = at(lane);
            let is_found = is_root >> lane & 1 != 0;
            found(index, is_found.then_some(AffinePoint { x: keys[index], y }));
        }
    }
}

/// Decides claims, each with its key's point.
#[inline(always)]
pub(crate) fn run<F: Field>(
    plan: &Plan,
    points: &mut Points<F>,
    scratch: &mut Scratch<F>,
    windows: &[AffinePoint],
    tasks: &[(Task, AffinePoint)],
    mut decide: impl FnMut(&Task, Outcome),
) {
    let groups = tasks.len().div_ceil(F::WIDTH);
    let at = |group: usize, lane: usize| (group * F::WIDTH + lane).min(tasks.len() - 1);
    make_tables(points, &mut scratch.tables, groups, |group, lane| &tasks[at(group, lane)].1);
    sum_halves(points, &scratch.tables, groups, |group, lane| &tasks[at(group, lane)].0);

    scratch.ladders.clear();
    scratch.z.clear();
    scratch.unknown.clear();
    for group in 0..groups {
        let top = (WINDOWS - 1) * groups + group;
        let mut run = Jacobian::from_affine(points.x[top], points.y[top]);
        let mut unknown = points.infinite(top);
        for i in (0..WINDOWS - 1).rev() {
            for _ in 0..WINDOW {
                run = run.double();
            }
            let point = i * groups + group;
            run = run.add_affine(points.x[point], points.y[point]);
            unknown |= points.infinite(point);
        }
        scratch.ladders.push(run);
        scratch.z.push(run.z);
        scratch.unknown.push(unknown);
    }
    for (z, unknown) in scratch.z.iter_mut().zip(&mut scratch.unknown) {
        let zeros = z.zeros();
        *unknown |= zeros;
        *z = F::select(zeros, F::one(), *z);
    }
    invert_all(&mut scratch.z, &mut scratch.before);

    points.clear((2 * G_WINDOWS + 1) * groups);
    let mut indices = [TableIndices::<{ 2 * G_WINDOWS }>::NONE; 8];
    for group in 0..groups {
        for (lane, indices) in indices.iter_mut().enumerate().take(F::WIDTH) {
            find_windows(indices, 0, &tasks[at(group, lane)].0);
            indices.0.iter().for_each(|index| prefetch(windows, *index));
        }
        for slot in 0..2 * G_WINDOWS {
            let (x, y) = gather::<F>(|lane| (windows, indices[lane].0[slot]));
            points.set(slot * groups + group, x, y);
        }
        let (x, y) = affine(&scratch.ladders[group], scratch.z[group]);
        points.set(2 * G_WINDOWS * groups + group, x, y);
    }
    plan.run(points, groups);
    let mut decided = 0;
    judge(points, plan.root * groups, tasks.iter().map(|(task, _)| task), &mut |task, outcome| {
        let is_unknown = scratch.unknown[decided / F::WIDTH] >> (decided % F::WIDTH) & 1 != 0;
        decided += 1;
        decide(task, if is_unknown { Outcome::Unknown } else { outcome });
    });
}

/// The odd multiples of each key: five levels.
#[inline(always)]
fn make_tables<'a, F: Field>(
    points: &mut Points<F>,
    tables: &mut Vec<AffinePoint>,
    groups: usize,
    key: impl Fn(usize, usize) -> &'a AffinePoint,
) {
    // Slots: the odd multiples, then 2, 4, 8 and 16 times the key.
    points.clear((ODD + WINDOW as usize) * groups);
    for group in 0..groups {
        let (x, y) = F::load_entries(|lane| key(group, lane));
        points.set(group, x, y);
        points.double(group, ODD * groups + group);
    }
    points.level();
    for k in 0..WINDOW as usize - 1 {
        let power = (ODD + k) * groups;
        for group in 0..groups {
            for low in 0..1 << k {
                points.add(low * groups + group, power + group, (low + (1 << k)) * groups + group);
            }
            if k + 2 < WINDOW as usize {
                points.double(power + group, power + groups + group);
            }
        }
        points.level();
    }
    tables.resize(groups * F::WIDTH * 2 * ODD, AffinePoint::ZERO);
    let beta = F::splat(&BETA);
    for group in 0..groups {
        for i in 0..ODD {
            let (x, y) = (points.x[i * groups + group], points.y[i * groups + group]);
            let at = |lane: usize| (group * F::WIDTH + lane) * 2 * ODD + i;
            x.store(|lane, x| tables[at(lane)].x = x);
            x.mul(beta).store(|lane, x| tables[at(lane) + ODD].x = x);
            y.store(|lane, y| {
                tables[at(lane)].y = y;
                tables[at(lane) + ODD].y = y;
            });
        }
    }
}

/// The points to add in each window: slot i is window i. One level.
#[inline(always)]
fn sum_halves<'a, F: Field>(
    points: &mut Points<F>,
    tables: &[AffinePoint],
    groups: usize,
    task: impl Fn(usize, usize) -> &'a Task,
) {
    points.clear(2 * WINDOWS * groups);
    for group in 0..groups {
        for half in 0..2 {
            let mut all = [[0; 3]; 8];
            for (lane, all) in all.iter_mut().enumerate().take(F::WIDTH) {
                *all = signs(&task(group, lane).e[half], WINDOW * WINDOWS as u32);
            }
            for i in 0..WINDOWS {
                let (x, y) = gather::<F>(|lane| {
                    let bits = bits_at(&all[lane], i as u32 * WINDOW, WINDOW);
                    let first = ((group * F::WIDTH + lane) * 2 + half) * ODD;
                    (tables, TableIndex::new(first, bits, WINDOW))
                });
                points.set((half * WINDOWS + i) * groups + group, x, y);
            }
        }
    }
    for i in 0..WINDOWS {
        for group in 0..groups {
            points.add(i * groups + group, (WINDOWS + i) * groups + group, i * groups + group);
        }
    }
    points.level();
}
