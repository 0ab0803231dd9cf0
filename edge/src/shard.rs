//! Which shard a public key belongs to, and the name of the shard's Durable Object.
//!
//! A shard owns a range of the 65,536 values of the first two bytes of SHA-256(pubkey), and its object is named by the
//! start of that range: with one shard there is `relay-0000`, with two there are `relay-0000` and `relay-8000`. The number
//! of shards is a power of two, so that doubling it halves each range: the existing object keeps its name and the lower
//! half, and the upper half moves to a new object. Public keys are hashed because anybody can generate keys with a
//! chosen prefix.

use std::fmt;
use std::future::Future;

use futures_util::future::join_all;
use relay_engine::types::PubKey;
use sha2::{Digest, Sha256};

/// Values of two bytes.
const POINTS: u32 = 1 << 16;

/// How many shards there are: a power of two from 1 to [`Shards::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards(u16);

impl Shards {
    /// A single shard.
    pub const ONE: Shards = Shards(1);
    /// The largest number of shards.
    pub const MAX: u16 = 4096;

    /// `None` unless `count` is a power of two up to [`Shards::MAX`].
    pub fn new(count: u16) -> Option<Self> {
        (count.is_power_of_two() && count <= Self::MAX).then_some(Shards(count))
    }

    /// The number of shards.
    pub fn count(self) -> u16 {
        self.0
    }

    /// The size of each range.
    fn width(self) -> u32 {
        POINTS / u32::from(self.0)
    }

    /// The shard that holds an author's events.
    pub fn of(self, author: &PubKey) -> Shard {
        let hash = Sha256::digest(author.0);
        let point = match hash.as_slice() {
            [first, second, ..] => u32::from(u16::from_be_bytes([*first, *second])),
            _ => 0,
        };
        Shard((point - point % self.width()) as u16)
    }

    /// The shard whose object accepts a client's socket. It does not depend on a public key: a client has none before it
    /// authenticates.
    pub fn for_connection(self) -> Shard {
        Shard(0)
    }

    /// All shards, in the order of their ranges.
    pub fn all(self) -> impl Iterator<Item = Shard> {
        (0..=u16::MAX).step_by(self.width() as usize).map(Shard)
    }

    /// Asks all shards concurrently. The answers are in the order of [`Shards::all`]; waits for the slowest.
    pub async fn ask_all<T, F: Future<Output = T>>(self, mut ask: impl FnMut(Shard) -> F) -> Vec<(Shard, T)> {
        let answers = self.all().map(|shard| {
            let answer = ask(shard);
            async move { (shard, answer.await) }
        });
        join_all(answers).await
    }
}

/// One shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard(u16);

impl Shard {
    /// The start of its range in four hexadecimal digits; the value of the label `shard` in metrics.
    pub fn range(self) -> String {
        format!("{:04x}", self.0)
    }
}

/// The name of its Durable Object.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "relay-{:04x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn key(n: u32) -> PubKey {
        let mut bytes = [0; 32];
        bytes[28..].copy_from_slice(&n.to_be_bytes());
        PubKey(bytes)
    }

    fn names(count: u16) -> Vec<String> {
        Shards::new(count).unwrap().all().map(|shard| shard.to_string()).collect()
    }

    #[test]
    fn counts_are_powers_of_two_with_a_bound() {
        assert!(
            [0, 3, 6, 100, 4095, Shards::MAX + 1, Shards::MAX * 2]
                .map(Shards::new)
                .iter()
                .all(Option::is_none)
        );
        assert_eq!(Shards::new(1), Some(Shards::ONE));
        assert_eq!(Shards::new(Shards::MAX).unwrap().all().count(), 4096);
    }

    #[test]
    fn objects_are_named_by_the_start_of_their_ranges() {
        assert_eq!(names(1), ["relay-0000"]);
        assert_eq!(names(2), ["relay-0000", "relay-8000"]);
        assert_eq!(names(4), ["relay-0000", "relay-4000", "relay-8000", "relay-c000"]);
        assert_eq!(names(4096).last().unwrap(), "relay-fff0");
        assert_eq!(Shards::ONE.of(&key(7)), Shards::ONE.for_connection());
        // sha256 of 32 zero bytes begins with 66 68.
        let zeros = PubKey([0; 32]);
        let shard = |count: u16| Shards::new(count).unwrap().of(&zeros);
        assert_eq!(shard(1).to_string(), "relay-0000");
        assert_eq!(shard(4).to_string(), "relay-4000");
        assert_eq!(shard(256).range(), "6600");
        assert_eq!(shard(4096).range(), "6660");
    }

    #[test]
    fn keys_spread_evenly_and_a_split_moves_upper_halves_only() {
        let (four, eight) = (Shards::new(4).unwrap(), Shards::new(8).unwrap());
        let mut seen: BTreeMap<Shard, u32> = BTreeMap::new();
        let mut moved = 0;
        for n in 0..4_000 {
            let (old, new) = (four.of(&key(n)), eight.of(&key(n)));
            assert!(four.all().any(|shard| shard == old) && eight.all().any(|shard| shard == new));
            // To the same object, or to one that was not there.
            assert!(new == old || four.all().all(|shard| shard != new), "{old} to {new}");
            moved += u32::from(new != old);
            *seen.entry(old).or_default() += 1;
        }
        assert!(seen.values().all(|count| (900..1100).contains(count)), "{seen:?}");
        assert!((1_900..2_100).contains(&moved), "{moved} of 4000 moved");
    }

    #[test]
    fn all_shards_are_asked_before_any_has_answered() {
        let (asked, open) = (RefCell::new(Vec::new()), Cell::new(false));
        let all = Shards::new(4).unwrap().ask_all(|shard| {
            let (asked, open) = (&asked, &open);
            async move {
                asked.borrow_mut().push(shard.range());
                poll_fn(|_| if open.get() { Poll::Ready(()) } else { Poll::Pending }).await;
                shard.to_string()
            }
        });
        let (mut all, mut context) = (pin!(all), Context::from_waker(Waker::noop()));
        assert!(all.as_mut().poll(&mut context).is_pending());
        assert_eq!(*asked.borrow(), ["0000", "4000", "8000", "c000"]);
        open.set(true);
        let Poll::Ready(answers) = all.as_mut().poll(&mut context) else { panic!("all have answered") };
        assert!(answers.iter().all(|(shard, name)| *name == shard.to_string()));
        assert_eq!(answers.len(), 4);
    }
}
