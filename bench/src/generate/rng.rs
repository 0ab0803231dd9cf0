//! A seeded random generator, in integers only, so that a seed gives the same bytes on every machine.

use sha2::{Digest, Sha256};

/// xoshiro256++, seeded by SHA-256. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The random stream `name` of `seed`; streams of different names are independent.
    pub fn new(name: &str, seed: u64) -> Self {
        let digest = digest(name, seed, 0);
        let word = |at: usize| u64::from_le_bytes(digest[at..at + 8].try_into().expect("eight bytes"));
        Rng { state: [word(0), word(8), word(16), word(24) | 1] }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let out = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        out
    }

    /// A number below `bound`, which is not 0. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: usize) -> bool {
        self.below(1000) < permille
    }

    /// One of `choices`, uniformly.
    pub fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// A number from 1 to `max`, log-uniform by powers of two: small numbers are likelier.
    pub fn near(&mut self, max: usize) -> usize {
        let bits = self.below(max.ilog2() as usize + 1);
        (1 + self.below(2 << bits)).min(max)
    }

    /// A number from a distribution given by its quantiles: (permille, value) pairs from 0 to 1000, linearly
    /// interpolated.
    pub fn quantile(&mut self, quantiles: &[(usize, usize)]) -> usize {
        let at = self.below(1_000_000);
        let upper = quantiles.partition_point(|(permille, _)| permille * 1000 <= at);
        let ((from, low), (to, high)) = (quantiles[upper - 1], quantiles[upper]);
        low + (high - low) * (at - from * 1000) / ((to - from) * 1000)
    }

    /// A random string of this length over an alphabet of ASCII characters.
    pub fn word(&mut self, len: usize, alphabet: &[u8]) -> String {
        (0..len).map(|_| char::from(alphabet[self.below(alphabet.len())])).collect()
    }
}

/// SHA-256 of a name, a seed and a number, from which secret keys and random streams are derived.
pub(super) fn digest(name: &str, seed: u64, number: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update(seed.to_le_bytes());
    hash.update(number.to_le_bytes());
    hash.finalize().into()
}

/// Zipf's law with exponent 1: rank `n` is drawn in proportion to 1 / (n + 1).
#[derive(Clone, Debug)]
pub struct Zipf {
    cumulative: Vec<u64>,
}

impl Zipf {
    /// Over ranks 0 to `ranks` - 1; at least one.
    pub fn new(ranks: usize) -> Self {
        let weights = (1..=ranks as u64).map(|rank| (1u64 << 40) / rank);
        let cumulative = weights
            .scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        Zipf { cumulative }
    }

    /// A rank.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let total = *self.cumulative.last().expect("at least one rank");
        let at = rng.below(total as usize) as u64;
        self.cumulative.partition_point(|&sum| sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_met_and_interpolated() {
        let mut rng = Rng::new("test", 1);
        let mut drawn: Vec<usize> =
            (0..10_000).map(|_| rng.quantile(&[(0, 0), (500, 100), (1000, 1000)])).collect();
        drawn.sort_unstable();
        assert!(drawn[5_000].abs_diff(100) < 10, "median {}", drawn[5_000]);
        assert!(drawn[7_500].abs_diff(550) < 40, "p75 {}", drawn[7_500]);
        assert!(drawn[9_999] < 1000);
    }

    #[test]
    fn the_first_rank_is_twice_as_likely_as_the_second() {
        let (zipf, mut rng) = (Zipf::new(2_000), Rng::new("test", 2));
        let mut drawn = vec![0u32; 2_000];
        (0..200_000).for_each(|_| drawn[zipf.draw(&mut rng)] += 1);
        let ratio = f64::from(drawn[0]) / f64::from(drawn[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        // 1 / H(2000)
        assert!((0.119..0.126).contains(&(f64::from(drawn[0]) / 200_000.0)), "{}", drawn[0]);
    }

    #[test]
    fn streams_differ_by_name_and_by_seed() {
        let first = |name, seed| Rng::new(name, seed).bits();
        assert_eq!(first("a", 1), first("a", 1));
        assert_ne!(first("a", 1), first("a", 2));
        assert_ne!(first("a", 1), first("b", 1));
    }
}
