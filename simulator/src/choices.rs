//! The source of all choices: a seeded generator, or the bytes of a fuzzer.

use arbitrary::Unstructured;
use relay_engine::testing::Rng;

/// A source of choices.
#[derive(Debug)]
pub enum Choices<'a> {
    /// A generator, which never ends.
    Seed(Rng),
    /// A choice takes as many bytes as its range needs, and none if there is only one option. When the bytes are used
    /// up, every choice is the last of its range, which ends loops.
    Bytes(Unstructured<'a>),
}

impl<'a> Choices<'a> {
    /// Choices made by `bytes`.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Choices::Bytes(Unstructured::new(bytes))
    }
}

impl Choices<'_> {
    /// A number below `end`.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        match self {
            Choices::Seed(rng) => rng.below(end),
            Choices::Bytes(bytes) if bytes.is_empty() => end - 1,
            Choices::Bytes(bytes) => bytes.int_in_range(0..=end - 1).expect("a range that is not empty"),
        }
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Whether the bytes are used up.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Choices::Bytes(bytes) if bytes.is_empty())
    }
}
