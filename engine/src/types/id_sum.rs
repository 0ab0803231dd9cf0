//! Sums of ids: the arithmetic of fingerprints (NIP-77).

use super::EventId;

/// The sum of ids as little-endian numbers, modulo 2^256: what a fingerprint of the Negentropy protocol is the hash of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdSum([u64; 4]);

impl IdSum {
    /// The sum of one id.
    pub fn of(id: &EventId) -> Self {
        let (words, _) = id.0.as_chunks::<8>();
        IdSum(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    }

    /// Adds another sum.
    pub fn add(&mut self, other: IdSum) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = word.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, first || second);
        }
    }

    /// Takes another sum away.
    pub fn subtract(&mut self, other: IdSum) {
        let mut borrow = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (difference, first) = word.overflowing_sub(other);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (difference, first || second);
        }
    }

    /// The number's 32 bytes, little-endian.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (bytes, word) in words.iter_mut().zip(self.0) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_carry_and_wrap() {
        let id = |bytes: &[(usize, u8)]| {
            let mut id = EventId([0; 32]);
            bytes.iter().for_each(|(at, byte)| id.0[*at] = *byte);
            id
        };
        let one = IdSum::of(&id(&[(0, 1)]));
        for lane in 0..3 {
            let full = EventId(std::array::from_fn(|at| if at < 8 * (lane + 1) { 0xff } else { 0 }));
            let mut sum = IdSum::of(&full);
            sum.add(one);
            assert_eq!(sum.to_bytes(), id(&[(8 * (lane + 1), 1)]).0, "a carry out of lane {lane}");
            sum.subtract(one);
            assert_eq!(sum.to_bytes(), full.0, "a borrow into lane {lane}");
        }
        let mut sum = IdSum::of(&EventId([0xff; 32]));
        sum.add(one);
        assert_eq!(sum, IdSum::default());
        sum.subtract(one);
        assert_eq!(sum.to_bytes(), [0xff; 32]);
    }
}
