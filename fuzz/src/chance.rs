//! Where choices come from: a seed, or the bytes of a fuzzer.

use relay_engine::testing::Rng;

/// A source of choices.
#[derive(Debug)]
pub(crate) enum Chance<'a> {
    /// Endless.
    Seed(Rng),
    /// A byte a choice. When they are used up, every choice is the last one, which ends loops.
    Bytes(&'a [u8]),
}

impl Chance<'_> {
    /// A number below `end`.
    ///
    /// # Panics
    /// If `end` is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        match self {
            Chance::Seed(rng) => rng.below(end),
            Chance::Bytes(bytes) => {
                let Some(first) = bytes.split_off_first() else { return end - 1 };
                let mut number = u64::from(*first);
                if end > 256 {
                    number = number << 8 | u64::from(bytes.split_off_first().copied().unwrap_or(0));
                }
                number % end
            }
        }
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// The place of one of `len`.
    pub(crate) fn place(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Whether the bytes are used up.
    pub(crate) fn is_spent(&self) -> bool {
        matches!(self, Chance::Bytes([]))
    }
}
