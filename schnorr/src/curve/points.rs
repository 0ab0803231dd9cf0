//! Many independent affine additions with a single inversion: Montgomery's trick.
//!
//! An affine addition is two products, a square and the inverse of a difference. Inverting many differences
//! at once costs three products each and one inversion for all, six products an addition instead of eleven
//! in Jacobian coordinates.
//!
//! # Exceptions
//! The difference of equal or opposite points is zero, and anybody can provoke them by choosing keys and signatures. They are
//! detected if the product of a level's differences is zero, which costs one test per level. That level, and later ones while
//! there is a point at infinity, use the careful path: the same sums with tests for each, about 1.3 times as long.
//!
//! # Magnitudes
//! x has 1, y at most 2; sums come out with 1 and 1.

use crate::field::{Field, Mask};

/// Independent chains of products in scalar fields, for instruction-level parallelism. Vector fields use one chain.
const CHAINS: usize = 4;

/// One sum: `out` = `a` + `b`, indexes of points. `out` may be `a` or `b`, and nothing else the level reads.
#[derive(Clone, Copy, Debug)]
struct Sum {
    a: u32,
    b: u32,
    out: u32,
}

/// Special cases in the lanes of a careful sum.
#[derive(Clone, Copy, Debug)]
struct Case {
    a_infinite: Mask,
    b_infinite: Mask,
    /// The points are the same.
    equal: Mask,
    /// They sum to infinity.
    opposite: Mask,
}

/// Points, and the sums of the next level.
#[derive(Clone, Debug)]
pub(crate) struct Points<F> {
    pub(crate) x: Vec<F>,
    pub(crate) y: Vec<F>,
    /// Lanes at infinity; valid only if `has_infinite`.
    infinite: Vec<Mask>,
    has_infinite: bool,
    sums: Vec<Sum>,
    doubles: Vec<Sum>,
    before: Vec<F>,
    cases: Vec<Case>,
}

impl<F: Field> Points<F> {
    pub(crate) fn new() -> Self {
        Points {
            x: Vec::new(),
            y: Vec::new(),
            infinite: Vec::new(),
            has_infinite: false,
            sums: Vec::new(),
            doubles: Vec::new(),
            before: Vec::new(),
            cases: Vec::new(),
        }
    }

    /// Prepares `len` points, none of them at infinity; their coordinates must be set.
    pub(crate) fn clear(&mut self, len: usize) {
        self.x.resize(len, F::one());
        self.y.resize(len, F::one());
        self.has_infinite = false;
        self.sums.clear();
        self.doubles.clear();
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, at: usize, x: F, y: F) {
        self.x[at] = x;
        self.y[at] = y;
    }

    /// Lanes of a point that are at infinity.
    pub(crate) fn infinite(&self, at: usize) -> Mask {
        if self.has_infinite { self.infinite[at] } else { 0 }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, a: usize, b: usize, out: usize) {
        self.sums.push(Sum { a: a as u32, b: b as u32, out: out as u32 });
    }

    #[inline(always)]
    pub(crate) fn double(&mut self, a: usize, out: usize) {
        self.doubles.push(Sum { a: a as u32, b: a as u32, out: out as u32 });
    }

    /// Computes the sums of the level.
    #[inline(always)]
    pub(crate) fn level(&mut self) {
        let len = self.sums.len() + self.doubles.len();
        if self.before.len() < len {
            self.before.resize(len, F::one());
        }
        let is_done = !self.has_infinite
            && if F::WIDTH == 1 { self.level_fast::<CHAINS>() } else { self.level_fast::<1>() };
        if !is_done {
            self.level_careful();
        }
        self.sums.clear();
        self.doubles.clear();
    }

    /// False, with nothing changed, if some difference is zero.
    #[inline(always)]
    fn level_fast<const CHAINS: usize>(&mut self) -> bool {
        let Points { x, y, before, .. } = self;
        let (sums, sums_rest) = self.sums.as_chunks::<CHAINS>();
        let split = sums.len() * CHAINS;
        let mut run = [F::one(); CHAINS];
        for (sums, before) in sums.iter().zip(before.as_chunks_mut::<CHAINS>().0) {
            for i in 0..CHAINS {
                let difference = x[sums[i].b as usize].sub::<1>(x[sums[i].a as usize]);
                before[i] = run[i];
                run[i] = run[i].mul(difference);
            }
        }
        let tail =
            || sums_rest.iter().map(|sum| (sum, false)).chain(self.doubles.iter().map(|sum| (sum, true)));
        for (n, (sum, is_double)) in tail().enumerate() {
            let divisor = divisor(x, y, sum, is_double);
            before[split + n] = run[n % CHAINS];
            run[n % CHAINS] = run[n % CHAINS].mul(divisor);
        }

        let Some(mut run) = invert_chains(run) else { return false };

        let tail_len = sums_rest.len() + self.doubles.len();
        for n in (0..tail_len).rev() {
            let (sum, is_double) = match n.checked_sub(sums_rest.len()) {
                Some(n) => (&self.doubles[n], true),
                None => (&sums_rest[n], false),
            };
            let divisor = divisor(x, y, sum, is_double);
            let inverse = run[n % CHAINS].mul(before[split + n]);
            run[n % CHAINS] = run[n % CHAINS].mul(divisor);
            let (a, b) = (sum.a as usize, sum.b as usize);
            let rise = if is_double { triple_square(x[a]) } else { y[b].sub::<2>(y[a]) };
            let slope = rise.mul(inverse);
            (x[sum.out as usize], y[sum.out as usize]) = chord(slope, x[a], x[b], y[a]);
        }
        for (sums, before) in sums.iter().zip(before.as_chunks::<CHAINS>().0).rev() {
            // Step by step for all chains, so that neighbours are independent.
            let (a, b) = (sums.map(|sum| sum.a as usize), sums.map(|sum| sum.b as usize));
            let (mut inverse, mut slope) = (run, run);
            for i in 0..CHAINS {
                inverse[i] = run[i].mul(before[i]);
            }
            for i in 0..CHAINS {
                run[i] = run[i].mul(x[b[i]].sub::<1>(x[a[i]]));
            }
            for i in 0..CHAINS {
                slope[i] = y[b[i]].sub::<2>(y[a[i]]).mul(inverse[i]);
            }
            let mut square = slope;
            for square in &mut square {
                *square = square.sqr();
            }
            for i in 0..CHAINS {
                let out = sums[i].out as usize;
                let (x_a, y_a) = (x[a[i]], y[a[i]]);
                // 1 + 2 + 2, and 1 + 3.
                let x_out = square[i].sub::<1>(x_a).sub::<1>(x[b[i]]).normalize_weak();
                x[out] = x_out;
                y[out] = slope[i].mul(x_a.sub::<1>(x_out)).sub::<2>(y_a).normalize_weak();
            }
        }
        true
    }

    #[cold]
    #[inline(never)]
    fn level_careful(&mut self) {
        self.infinite.resize(self.x.len(), 0);
        if !self.has_infinite {
            self.infinite.fill(0);
            self.has_infinite = true;
        }
        self.cases.clear();
        let mut run = F::one();
        let sums_len = self.sums.len();
        let len = sums_len + self.doubles.len();
        let mut divisors = Vec::with_capacity(len);
        for (n, sum) in self.sums.iter().chain(&self.doubles).enumerate() {
            let is_double = n >= sums_len;
            let (case, divisor) = self.case(sum, is_double);
            self.cases.push(case);
            divisors.push(divisor);
            self.before[n] = run;
            run = run.mul(divisor);
        }
        run = run.invert();
        for n in (0..len).rev() {
            let sum = if n < sums_len { self.sums[n] } else { self.doubles[n - sums_len] };
            let (a, b, out) = (sum.a as usize, sum.b as usize, sum.out as usize);
            let case = self.cases[n];
            let inverse = run.mul(self.before[n]);
            run = run.mul(divisors[n]);
            let rise = F::select(case.equal, triple_square(self.x[a]), self.y[b].sub::<2>(self.y[a]));
            let (x, y) = chord(rise.mul(inverse), self.x[a], self.x[b], self.y[a]);
            let x = F::select(case.b_infinite, self.x[a], x);
            let y = F::select(case.b_infinite, self.y[a], y);
            self.x[out] = F::select(case.a_infinite, self.x[b], x);
            self.y[out] = F::select(case.a_infinite, self.y[b], y);
            self.infinite[out] = case.a_infinite & case.b_infinite | case.opposite;
        }
    }

    /// The special cases of a sum, and its divisor, which is not zero in any lane.
    fn case(&self, sum: &Sum, is_double: bool) -> (Case, F) {
        let (a, b) = (sum.a as usize, sum.b as usize);
        let (a_infinite, b_infinite) = (self.infinite[a], self.infinite[b]);
        let is_finite = !(a_infinite | b_infinite);
        let difference = self.x[b].sub::<1>(self.x[a]);
        let same_x = if is_double { F::ALL } else { difference.zeros() } & is_finite;
        let same_y = if is_double || same_x == 0 { F::ALL } else { self.y[b].sub::<2>(self.y[a]).zeros() };
        let (equal, opposite) = (same_x & same_y, same_x & !same_y);
        // No point has y = 0, since n is odd.
        let divisor = F::select(equal, self.y[a].add(self.y[a]), difference);
        let nothing = !is_finite & F::ALL | opposite;
        let divisor = F::select(nothing, F::one(), divisor);
        (Case { a_infinite, b_infinite, equal, opposite }, divisor)
    }
}

/// The divisor of a sum: the difference of the x-coordinates, or twice the y of a doubled point.
#[inline(always)]
fn divisor<F: Field>(x: &[F], y: &[F], sum: &Sum, is_double: bool) -> F {
    let (a, b) = (sum.a as usize, sum.b as usize);
    if is_double { y[a].add(y[a]) } else { x[b].sub::<1>(x[a]) }
}

#[inline(always)]
fn triple_square<F: Field>(x: F) -> F {
    let square = x.sqr();
    square.add(square).add(square)
}

/// The third point of the line through a and b, mirrored.
#[inline(always)]
fn chord<F: Field>(slope: F, x_a: F, x_b: F, y_a: F) -> (F, F) {
    let x = slope.sqr().sub::<1>(x_a).sub::<1>(x_b).normalize_weak();
    (x, slope.mul(x_a.sub::<1>(x)).sub::<2>(y_a).normalize_weak())
}

/// The inverses of all chains with one inversion; `None` if a chain is zero in some lane.
#[inline(always)]
fn invert_chains<F: Field, const CHAINS: usize>(run: [F; CHAINS]) -> Option<[F; CHAINS]> {
    let mut inverses = run;
    let mut all = run[0];
    for i in 1..CHAINS {
        inverses[i] = all;
        all = all.mul(run[i]);
    }
    if all.zeros() != 0 {
        return None;
    }
    let mut inverse = all.invert();
    for i in (1..CHAINS).rev() {
        inverses[i] = inverses[i].mul(inverse);
        inverse = inverse.mul(run[i]);
    }
    inverses[0] = inverse;
    Some(inverses)
}

/// Inverts every number in place, all of them other than zero in every lane.
#[inline(always)]
pub(crate) fn invert_all<F: Field>(numbers: &mut [F], before: &mut Vec<F>) {
    before.clear();
    let mut run = F::one();
    for number in numbers.iter() {
        before.push(run);
        run = run.mul(*number);
    }
    run = run.invert();
    for (number, before) in numbers.iter_mut().zip(before.iter()).rev() {
        let inverse = run.mul(*before);
        run = run.mul(*number);
        *number = inverse;
    }
}
