//! Sequence numbers of stored events.

/// The sequence number of a stored event: 1, 2, 3... in the order of commits, never used twice, below 2^47.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);
