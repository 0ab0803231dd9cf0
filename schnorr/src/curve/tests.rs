//! The sums compared with plain double-and-add: all small scalars, then scalars that lead to every special case.
//!
//! Tasks are made without hashing, so that s and e can be any numbers.

use super::{G, Outcome, Task, slow};
use crate::field::{AffinePoint, Field, Words};
use crate::scalar::{N, split};
use crate::tier::{Kernel, Tier};

fn tiers() -> impl Iterator<Item = (Tier, Box<dyn Kernel>)> {
    // Miri knows no vectors and no assembly, and is slow.
    let is_tried = |tier: &Tier| !cfg!(miri) || *tier == Tier::Portable64;
    Tier::ALL.iter().copied().filter(is_tried).filter_map(|tier| Some((tier, tier.kernel()?)))
}

fn number(small: u64) -> Words {
    [small, 0, 0, 0]
}

/// n - small.
fn minus(small: u64) -> Words {
    [N[0] - small, N[1], N[2], N[3]]
}

/// The point s G + e P, if it is one, with coordinates below p.
fn sum(s: &Words, e: &Words, key: &AffinePoint) -> Option<AffinePoint> {
    let load = |entry: &AffinePoint| slow::F::load_entries(|_| entry);
    let (x, y) = slow::add(slow::times(s, load(&G)), slow::times(e, load(key)))?;
    let mut sum = AffinePoint::ZERO;
    x.store_canonical(|_, x| sum.x = x);
    y.store_canonical(|_, y| sum.y = y);
    Some(sum)
}

/// A task that is valid if the sum is a point with an even ordinate, and only then.
fn task(index: usize, s: &Words, e: &Words, key: &AffinePoint) -> (Task, bool) {
    let sum = sum(s, e, key);
    let is_valid = sum.is_some_and(|sum| sum.y[0] & 1 == 0);
    let r = sum.map_or(G.x, |sum| sum.x);
    (Task { index: index as u32, r, s: split(s), e: split(e) }, is_valid)
}

/// Decides all cases on every tier, warm and cold, in batches of `batch`.
fn check(cases: &[(Words, Words, AffinePoint)], batch: usize) {
    let tasks: Vec<(Task, bool)> =
        cases.iter().enumerate().map(|(i, (s, e, key))| task(i, s, e, key)).collect();
    let valid = tasks.iter().filter(|(_, is_valid)| *is_valid).count();
    assert!(
        cfg!(miri) || valid > 0 && valid < tasks.len(),
        "both verdicts occur: {valid} of {}",
        tasks.len()
    );
    for (tier, mut kernel) in tiers() {
        let keys: Vec<AffinePoint> = cases.iter().map(|(_, _, key)| *key).collect();
        for at in (0..tasks.len()).step_by(batch) {
            let tasks = &tasks[at..tasks.len().min(at + batch)];
            let keys = &keys[at..][..tasks.len()];
            let mut distinct: Vec<AffinePoint> = Vec::new();
            for key in keys {
                if !distinct.contains(key) {
                    distinct.push(*key);
                }
            }
            let combs = kernel.combs(&distinct);
            let comb =
                |key: &AffinePoint| &*combs[distinct.iter().position(|other| other == key).expect("listed")];
            let warm: Vec<(Task, &[AffinePoint])> =
                tasks.iter().zip(keys).map(|((task, _), key)| (*task, comb(key))).collect();
            let mut decided = 0;
            kernel.warm(&warm, &mut |task, outcome| {
                let expected = if tasks[decided].1 { Outcome::Valid } else { Outcome::Invalid };
                assert_eq!(outcome, expected, "{tier}, warm, {:x?}", cases[task.index as usize]);
                decided += 1;
            });
            assert_eq!(decided, tasks.len());
            let cold: Vec<(Task, AffinePoint)> =
                tasks.iter().zip(keys).map(|((task, _), key)| (*task, *key)).collect();
            let mut decided = 0;
            kernel.cold(&cold, &mut |task, outcome| {
                let expected = if tasks[decided].1 { Outcome::Valid } else { Outcome::Invalid };
                // Unknown is allowed where the ladder meets a special case, a wrong verdict never.
                assert!(
                    outcome == expected || outcome == Outcome::Unknown,
                    "{tier}, cold, {:x?}",
                    cases[task.index as usize]
                );
                decided += 1;
            });
            assert_eq!(decided, tasks.len());
        }
    }
}

/// Every s and e from -6 to 6, with the keys G, 2 G, 3 G and 4 G.
#[test]
fn all_small_scalars() {
    let reach = if cfg!(miri) { 2 } else { 6 };
    let mut scalars: Vec<Words> = (0..=reach).map(number).collect();
    if !cfg!(miri) {
        scalars.extend((1..=reach).map(minus));
    }
    let keys: Vec<AffinePoint> = (1..=if cfg!(miri) { 1 } else { 4 })
        .map(|k| sum(&number(k), &number(0), &G).expect("a point"))
        .collect();
    let mut cases = Vec::new();
    for key in &keys {
        for s in &scalars {
            for e in &scalars {
                cases.push((*s, *e, *key));
            }
        }
    }
    check(&cases, 64);
}

/// Scalars at the edges of windows and halves, with keys that are powers of two of G: table points of the key
/// are table points of G, and partial sums meet in every way.
#[test]
#[cfg_attr(miri, ignore = "slow, and has nothing more to look for")]
fn sums_whose_parts_are_equal_or_opposite() {
    let lambda = [0xdf02_967c_1b23_bd72, 0x122e_22ea_2081_6678, 0xa526_1c02_8812_645a, 0x5363_ad4c_c05c_30e0];
    let mut scalars = vec![number(0), number(1), minus(1), lambda, crate::scalar::negated(&lambda)];
    for bit in [1, 12, 13, 14, 26, 64, 127, 128, 129, 130, 255] {
        let mut power = [0; 4];
        power[bit / 64] = 1 << (bit % 64);
        scalars.push(power);
        scalars.push(crate::scalar::negated(&power));
    }
    let mut keys = Vec::new();
    for k in [number(1), number(2), number(1 << 13), number(1 << 19), minus(1), minus(3), lambda] {
        keys.push(sum(&k, &number(0), &G).expect("a point"));
    }
    let mut cases = Vec::new();
    for key in &keys {
        for s in &scalars {
            for e in &scalars {
                cases.push((*s, *e, *key));
            }
        }
    }
    check(&cases, 61);
}

/// A key and its double: the sum of equal points, of opposite points, and of what follows infinity.
#[test]
#[cfg_attr(miri, ignore = "slow, and has nothing more to look for")]
fn equal_and_opposite_products() {
    let mut cases = Vec::new();
    for d in 1..12 {
        let key = sum(&number(d), &number(0), &G).expect("a point");
        for e in [1, 7, 1 << 40] {
            cases.push((number(d * e), number(e), key));
            cases.push((number(d * e), minus(e), key));
            cases.push((minus(d * e), minus(e), key));
        }
    }
    check(&cases, 9);
}
