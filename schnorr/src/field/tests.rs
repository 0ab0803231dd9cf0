//! Every field compared with bitwise arithmetic, on numbers whose limbs, of any width, are all ones or zeros.

use super::lanes::FLanes;
use super::lanes::emulated::Emulated;
use super::portable32::F26;
use super::portable64::F52;
use super::{AffinePoint, Field, Mask, P, Words, canonical, inverse, is_below};

/// Naive arithmetic, one bit at a time.
mod naive {
    use super::{P, Words, is_below};

    fn add_words(a: &Words, b: &Words) -> (Words, bool) {
        let mut carry = false;
        let sum = std::array::from_fn(|i| {
            let (word, c) = a[i].carrying_add(b[i], carry);
            carry = c;
            word
        });
        (sum, carry)
    }

    fn sub_words(a: &Words, b: &Words) -> Words {
        let mut borrow = false;
        std::array::from_fn(|i| {
            let (word, b) = a[i].borrowing_sub(b[i], borrow);
            borrow = b;
            word
        })
    }

    pub(super) fn reduce(a: &Words) -> Words {
        if is_below(a, &P) { *a } else { sub_words(a, &P) }
    }

    pub(super) fn add(a: &Words, b: &Words) -> Words {
        let (sum, carry) = add_words(&reduce(a), &reduce(b));
        if carry || !is_below(&sum, &P) { sub_words(&sum, &P) } else { sum }
    }

    pub(super) fn neg(a: &Words) -> Words {
        let a = reduce(a);
        if a == [0; 4] { a } else { sub_words(&P, &a) }
    }

    pub(super) fn mul(a: &Words, b: &Words) -> Words {
        let mut product = [0; 4];
        for bit in (0..256).rev() {
            product = add(&product, &product);
            if a[bit / 64] >> (bit % 64) & 1 != 0 {
                product = add(&product, b);
            }
        }
        product
    }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Any number below 2^256: random, or runs of ones and zeros that end at limbs, or close to 0, p and 2^256.
    fn number(&mut self) -> Words {
        let random: Words = std::array::from_fn(|_| self.word());
        let near = self.word() % 5;
        match self.word() % 5 {
            0 => random,
            1 => [near, 0, 0, 0],
            2 => [P[0].wrapping_sub(near), P[1], P[2], P[3]],
            3 => [u64::MAX - near, u64::MAX, u64::MAX, u64::MAX],
            _ => {
                let mut words = [0; 4];
                let width = [26, 29, 32, 52, 64][self.word() as usize % 5];
                for limb in 0..256usize.div_ceil(width) {
                    let fill = self.word() % 4;
                    for bit in limb * width..256.min((limb + 1) * width) {
                        let is_edge = bit == limb * width || bit + 1 == (limb + 1) * width;
                        if fill == 0 || fill == 1 && is_edge {
                            words[bit / 64] |= 1 << (bit % 64);
                        }
                    }
                }
                words
            }
        }
    }
}

fn lanes<F: Field>(number: F) -> Vec<Words> {
    let mut lanes = vec![[0; 4]; F::WIDTH];
    number.store_canonical(|lane, words| lanes[lane] = words);
    // What is stored without reducing is the same number.
    number.store(|lane, words| assert_eq!(canonical(words), lanes[lane]));
    lanes
}

#[track_caller]
fn check<F: Field>(what: &str, number: F, expected: impl Fn(usize) -> Words) {
    for (lane, found) in lanes(number).into_iter().enumerate() {
        assert_eq!(found, expected(lane), "{what}, lane {lane}");
        assert!(is_below(&found, &P));
    }
}

fn operations<F: Field>(rounds: usize) {
    let mut chance = Chance(F::WIDTH as u64);
    for _ in 0..rounds {
        let a: Vec<Words> = (0..F::WIDTH).map(|_| chance.number()).collect();
        let b: Vec<Words> = (0..F::WIDTH).map(|_| chance.number()).collect();
        let (x, y) = (F::load(|lane| &a[lane]), F::load(|lane| &b[lane]));
        check("load", x, |i| naive::reduce(&a[i]));
        check("mul", x.mul(y), |i| naive::mul(&a[i], &b[i]));
        check("sqr", x.sqr(), |i| naive::mul(&a[i], &a[i]));
        check("add", x.add(y), |i| naive::add(&a[i], &b[i]));
        check("sub", x.sub::<1>(y), |i| naive::add(&a[i], &naive::neg(&b[i])));
        check("neg", x.neg::<1>(), |i| naive::neg(&a[i]));
        let half = x.half();
        check("half", half.add(half), |i| naive::reduce(&a[i]));
        check("normalize_weak", x.sub::<1>(y).normalize_weak(), |i| naive::add(&a[i], &naive::neg(&b[i])));

        // As large as the formulas get: 2 and 3, 1 and 6, and sums before they are reduced.
        let (twice, difference) = (x.add(x), y.sub::<1>(x));
        let naive_twice = |i: usize| naive::add(&a[i], &a[i]);
        let naive_difference = |i: usize| naive::add(&b[i], &naive::neg(&a[i]));
        check("2 x 3", twice.mul(difference), |i| naive::mul(&naive_twice(i), &naive_difference(i)));
        check("2 x 2", twice.sqr(), |i| naive::mul(&naive_twice(i), &naive_twice(i)));
        let six = difference.sub::<2>(twice);
        let naive_six = |i: usize| naive::add(&naive_difference(i), &naive::neg(&naive_twice(i)));
        check("1 x 6", x.mul(six), |i| naive::mul(&a[i], &naive_six(i)));
        check("6, weak", six.normalize_weak(), naive_six);
        check("6, weak, squared", six.normalize_weak().sqr(), |i| naive::mul(&naive_six(i), &naive_six(i)));
        check("-6", six.neg::<6>().normalize_weak(), |i| naive::neg(&naive_six(i)));
        let (product, square) = (x.mul(y), x.sqr());
        check("3/2", square.add(square.half()).sqr(), |i| {
            let square = naive::mul(&a[i], &a[i]);
            let once_and_half = naive::mul(&square, &naive::mul(&[3, 0, 0, 0], &two_inverse()));
            naive::mul(&once_and_half, &once_and_half)
        });
        check("of products", product.sub::<1>(square).mul(product), |i| {
            let (product, square) = (naive::mul(&a[i], &b[i]), naive::mul(&a[i], &a[i]));
            naive::mul(&naive::add(&product, &naive::neg(&square)), &product)
        });

        let expected: Mask =
            (0..F::WIDTH).fold(0, |mask, i| mask | Mask::from(naive::reduce(&a[i]) == [0; 4]) << i);
        assert_eq!(x.zeros(), expected);
        assert_eq!(x.sub::<1>(x).zeros(), F::ALL);
        let mask = chance.word() as Mask & F::ALL;
        check("select", F::select(mask, x, y), |i| {
            naive::reduce(if mask >> i & 1 != 0 { &a[i] } else { &b[i] })
        });
        if expected == 0 {
            check("invert", x.invert().mul(x), |_| [1, 0, 0, 0]);
        }
        let root = x.sqr().sqrt_candidate();
        check("root", root.sqr(), |i| naive::mul(&a[i], &a[i]));

        let entries: Vec<AffinePoint> = (0..F::WIDTH).map(|i| AffinePoint { x: a[i], y: b[i] }).collect();
        let (x, y) = F::load_entries(|lane| &entries[lane]);
        check("x of entries", x, |i| naive::reduce(&a[i]));
        check("y of entries", y, |i| naive::reduce(&b[i]));
    }
}

/// 1/2 modulo p: (p + 1) / 2.
fn two_inverse() -> Words {
    [0xffff_ffff_7fff_fe18, u64::MAX, u64::MAX, u64::MAX >> 1]
}

#[test]
fn half_of_one_is_what_it_says() {
    assert_eq!(naive::mul(&[2, 0, 0, 0], &two_inverse()), [1, 0, 0, 0]);
}

const ROUNDS: usize = if cfg!(miri) { 3 } else { 2_000 };

#[test]
fn portable64_is_arithmetic() {
    operations::<F52>(ROUNDS);
}

#[test]
fn portable32_is_arithmetic() {
    operations::<F26>(ROUNDS);
}

#[test]
#[cfg_attr(miri, ignore = "slow, and has nothing to look for")]
fn emulated_lanes_are_arithmetic() {
    operations::<FLanes<Emulated>>(ROUNDS / 20);
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn adx_is_arithmetic() {
    if super::adx::is_available() {
        operations::<super::adx::F64>(ROUNDS);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn avx2_is_arithmetic() {
    if super::avx2::is_available() {
        operations::<super::avx2::F29>(ROUNDS / 4);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn ifma_is_arithmetic() {
    if super::lanes::ifma::is_available() {
        operations::<FLanes<super::lanes::ifma::Zmm>>(ROUNDS / 8);
    } else {
        eprintln!("this machine has no AVX-512 IFMA: its intrinsics were not run");
    }
}

#[test]
fn inverses_are_inverses() {
    let mut chance = Chance(62);
    for _ in 0..if cfg!(miri) { 10 } else { 5_000 } {
        let number = naive::reduce(&chance.number());
        let expected = if number == [0; 4] { [0; 4] } else { [1, 0, 0, 0] };
        for inverse in [inverse::by62::invert(&number), inverse::by30::invert(&number)] {
            assert!(is_below(&inverse, &P));
            assert_eq!(naive::mul(&number, &inverse), expected, "{number:x?}");
        }
    }
}

/// Limbs at every edge of a magnitude: all full, one full, all but one.
#[test]
fn portable_limbs_may_be_full_in_every_pattern() {
    let value52 = |limbs: &[u64; 5]| {
        let weight = |i: usize| -> Words {
            let mut words = [0; 4];
            words[52 * i / 64] |= 1 << (52 * i % 64);
            words
        };
        (0..5).fold([0; 4], |sum, i| naive::add(&sum, &naive::mul(&[limbs[i], 0, 0, 0], &weight(i))))
    };
    for magnitude in [1, 2, 6, 8] {
        let full =
            |i: usize| if i == 4 { 2 * magnitude * ((1 << 48) - 1) } else { 2 * magnitude * ((1 << 52) - 1) };
        for pattern in (0..32).step_by(if cfg!(miri) { 31 } else { 1 }) {
            let a: [u64; 5] = std::array::from_fn(|i| if pattern >> i & 1 != 0 { full(i) } else { 0 });
            let b: [u64; 5] = std::array::from_fn(|i| if pattern >> i & 1 == 0 { full(i) } else { 1 });
            let (x, y) = (F52::from_limbs(a), F52::from_limbs(b));
            check("mul", x.mul(y), |_| naive::mul(&value52(&a), &value52(&b)));
            check("sqr", x.sqr(), |_| naive::mul(&value52(&a), &value52(&a)));
            check("normalize_weak", x.normalize_weak(), |_| value52(&a));
            check("all", y.sqr().mul(x), |_| {
                naive::mul(&naive::mul(&value52(&b), &value52(&b)), &value52(&a))
            });
        }
    }
}

#[test]
fn portable32_limbs_may_be_full_in_every_pattern() {
    let value26 = |limbs: &[u32; 10]| {
        let weight = |i: usize| -> Words {
            let mut words = [0; 4];
            words[26 * i / 64] |= 1 << (26 * i % 64);
            words
        };
        (0..10)
            .fold([0; 4], |sum, i| naive::add(&sum, &naive::mul(&[u64::from(limbs[i]), 0, 0, 0], &weight(i))))
    };
    for magnitude in [1u32, 8] {
        let full =
            |i: usize| if i == 9 { 2 * magnitude * ((1 << 22) - 1) } else { 2 * magnitude * ((1 << 26) - 1) };
        for pattern in (0..1024).step_by(if cfg!(miri) { 341 } else { 1 }) {
            let a: [u32; 10] = std::array::from_fn(|i| if pattern >> i & 1 != 0 { full(i) } else { 0 });
            let b: [u32; 10] = std::array::from_fn(|i| if pattern >> i & 1 == 0 { full(i) } else { 1 });
            let (x, y) = (F26::from_limbs(a), F26::from_limbs(b));
            let all: [u32; 10] = std::array::from_fn(full);
            let z = F26::from_limbs(all);
            let products = [
                ("mul", x.mul(y), naive::mul(&value26(&a), &value26(&b))),
                ("mul by the largest", x.mul(z), naive::mul(&value26(&a), &value26(&all))),
                ("sqr", x.sqr(), naive::mul(&value26(&a), &value26(&a))),
            ];
            for (what, product, expected) in products {
                product.assert_magnitude(1);
                check(what, product, |_| expected);
            }
            check("normalize_weak", x.normalize_weak(), |_| value26(&a));
        }
    }
}

/// Lanes at the edges of their invariant: limbs of 52 full bits, the top one 2^48 + 2^6.
#[test]
#[cfg_attr(miri, ignore = "slow, and has nothing to look for")]
fn lane_limbs_may_be_full_in_every_pattern() {
    let full = |i: usize| if i == 4 { (1 << 48) + (1 << 6) } else { (1u64 << 52) - 1 };
    let patterns: Vec<[u64; 5]> = (0..32)
        .map(|pattern| std::array::from_fn(|i| if pattern >> i & 1 != 0 { full(i) } else { 0 }))
        .collect();
    let lane = |limbs: &[u64; 5]| FLanes::<Emulated>::from_limbs(limbs.map(|limb| [limb; 8]));
    let value = |limbs: &[u64; 5]| {
        let weight = |i: usize| -> Words {
            let mut words = [0; 4];
            words[52 * i / 64] |= 1 << (52 * i % 64);
            words
        };
        (0..5).fold([0; 4], |sum, i| naive::add(&sum, &naive::mul(&[limbs[i], 0, 0, 0], &weight(i))))
    };
    for a in &patterns {
        for b in &patterns {
            let (x, y) = (lane(a), lane(b));
            let results = [
                (x.mul(y), naive::mul(&value(a), &value(b))),
                (x.add(y), naive::add(&value(a), &value(b))),
                (x.sub::<1>(y), naive::add(&value(a), &naive::neg(&value(b)))),
            ];
            for (found, expected) in results {
                check("full lanes", found, |_| expected);
                let limbs = found.limbs();
                assert!(limbs[..4].iter().flatten().all(|limb| *limb < 1 << 52), "{limbs:x?}");
                assert!(limbs[4].iter().all(|limb| *limb <= (1 << 48) + (1 << 6)), "{limbs:x?}");
            }
        }
        check("sqr", lane(a).sqr(), |_| naive::mul(&value(a), &value(a)));
    }
}

/// The four lanes at the edges of what formulas multiply: magnitudes 1 and 5, 2 and 3, full or empty.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn avx2_limbs_may_be_full_in_every_pattern() {
    use super::avx2::{F29, is_available};
    if !is_available() {
        return;
    }
    let value = |limbs: &[u64; 9]| {
        let weight = |i: usize| -> Words {
            let mut words = [0; 4];
            words[29 * i / 64] |= 1 << (29 * i % 64);
            words
        };
        (0..9).fold([0; 4], |sum, i| naive::add(&sum, &naive::mul(&[limbs[i], 0, 0, 0], &weight(i))))
    };
    // The slack is that of limb 1 of a product.
    let full = |i: usize, magnitude: u64| match i {
        1 => magnitude * ((1 << 29) + (1 << 24)),
        8 => magnitude * ((1 << 24) + 8),
        _ => magnitude * ((1 << 29) + 8),
    };
    for (magnitude_a, magnitude_b) in [(1, 1), (1, 5), (2, 3)] {
        for pattern in 0..512u64 {
            let a: [u64; 9] = std::array::from_fn(|i| full(i, magnitude_a) * (pattern >> i & 1));
            let b: [u64; 9] = std::array::from_fn(|i| {
                if i % 3 == 0 { full(i, magnitude_b) } else { full(i, magnitude_b) - pattern }
            });
            let lanes = |limbs: &[u64; 9]| F29::from_limbs(limbs.map(|limb| [limb; 4]));
            check("mul", lanes(&a).mul(lanes(&b)), |_| naive::mul(&value(&a), &value(&b)));
            check("normalize_weak", lanes(&b).normalize_weak(), |_| value(&b));
            if magnitude_a * magnitude_a <= 6 {
                check("sqr", lanes(&a).sqr(), |_| naive::mul(&value(&a), &value(&a)));
            }
        }
    }
}
