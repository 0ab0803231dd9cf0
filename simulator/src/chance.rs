//! Where choices come from: a seed, or the bytes of a fuzzer.

use arbitrary::Unstructured;
use relay_engine::testing::Rng;

/// A source of choices.
#[derive(Debug)]
pub enum Chance<'a> {
    /// Endless.
    Seed(Rng),
    /// As many bytes a choice as its range takes, and none where there is nothing to choose. When they are used up,
    /// every choice is the last one, which ends loops.
    Bytes(Unstructured<'a>),
}

impl<'a> Chance<'a> {
    /// Choices made by `bytes`.
    pub fn of_bytes(bytes: &'a [u8]) -> Self {
        Chance::Bytes(Unstructured::new(bytes))
    }
}

impl Chance<'_> {
    /// A number below `end`.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        match self {
            Chance::Seed(rng) => rng.below(end),
            Chance::Bytes(bytes) if bytes.is_empty() => end - 1,
            Chance::Bytes(bytes) => bytes.int_in_range(0..=end - 1).expect("a range that is not empty"),
        }
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// The place of one of `len`.
    pub fn place(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Whether the bytes are used up.
    pub fn is_spent(&self) -> bool {
        matches!(self, Chance::Bytes(bytes) if bytes.is_empty())
    }
}
