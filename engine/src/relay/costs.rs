//! The highest recent costs: of client addresses by the work they cause, of authors by the bytes of their events.
//!
//! Counts are halved every minute (exponential decay), so they reflect about the last two minutes. Tables are bounded
//! ([`HeavyHitters`]).

use std::collections::{BTreeMap, BTreeSet};

use super::Relay;
use crate::store::Backend;
use crate::types::{ClientAddress, Now, PubKey};

/// Keys that are counted one by one. Whoever has more than a 64th of all costs is among them.
const KEYS_MAX: usize = 64;
/// Minutes after which nothing is left of any count.
const MINUTES_MAX: u64 = 63;

/// What an EVENT costs beside the bytes of its message: its hash, its signature, its commit.
pub(super) const EVENT_COST: u64 = 60;
/// What any message costs.
const MESSAGE_COST: u64 = 2;
/// Bytes of a message that are read for one unit of cost.
const BYTES_PER_COST: u64 = 512;

/// Those that cost the most lately, most first, each with what it cost at least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopCosts {
    /// Client addresses, by the cost of their messages and requests, in units of about a microsecond.
    pub addresses: Vec<(ClientAddress, u64)>,
    /// Authors, by the bytes of their events with valid signatures.
    pub authors: Vec<(PubKey, u64)>,
}

impl TopCosts {
    /// How many of each are reported to an operator.
    pub const REPORTED_MAX: usize = 10;

    /// The costliest of several shards together: the first [`TopCosts::REPORTED_MAX`].
    pub fn of_all<'a>(shards: impl IntoIterator<Item = &'a TopCosts> + Clone) -> Self {
        TopCosts {
            addresses: summed(shards.clone().into_iter().flat_map(|shard| &shard.addresses)),
            authors: summed(shards.into_iter().flat_map(|shard| &shard.authors)),
        }
    }
}

fn summed<'a, K: Ord + Copy + 'a>(counts: impl Iterator<Item = &'a (K, u64)>) -> Vec<(K, u64)> {
    let mut sums = BTreeMap::<K, u64>::new();
    for (key, count) in counts {
        *sums.entry(*key).or_default() += count;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
    sums.truncate(TopCosts::REPORTED_MAX);
    sums
}

/// What a shard remembers of costs.
#[derive(Default)]
pub(super) struct Costs {
    addresses: HeavyHitters<ClientAddress>,
    authors: HeavyHitters<PubKey>,
}

impl Costs {
    /// Work for a client, in units of cost. Those without an address are exempt.
    pub(super) fn charge_address(&mut self, now: Now, address: Option<ClientAddress>, cost: u64) {
        if let Some(address) = address {
            self.addresses.add(now, address, cost);
        }
    }

    /// A message, in bytes.
    pub(super) fn charge_message(&mut self, now: Now, address: Option<ClientAddress>, bytes: usize) {
        self.charge_address(now, address, MESSAGE_COST + bytes as u64 / BYTES_PER_COST);
    }

    /// An event whose signature is valid.
    pub(super) fn charge_author(&mut self, now: Now, author: PubKey, bytes: usize) {
        self.authors.add(now, author, bytes as u64);
    }
}

/// Counts of the costliest keys, in bounded memory: a new key in a full table replaces the one with the lowest count, which becomes
/// its initial count and error bound (the Space-Saving algorithm of Metwally, Agrawal and El Abbadi, 2005).
#[derive(Debug)]
struct HeavyHitters<K> {
    counts: BTreeMap<K, Count>,
    /// By `Count::most`, the least first.
    order: BTreeSet<(u64, K)>,
    /// The minute up to which counts have been halved.
    minute: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// What the key has cost at most.
    most: u64,
    /// The error: how much of it may belong to replaced keys.
    error: u64,
}

impl<K> Default for HeavyHitters<K> {
    fn default() -> Self {
        HeavyHitters { counts: BTreeMap::new(), order: BTreeSet::new(), minute: 0 }
    }
}

impl<K: Ord + Copy> HeavyHitters<K> {
    /// Cost: the logarithm of [`KEYS_MAX`], and their number once a minute.
    fn add(&mut self, now: Now, key: K, cost: u64) {
        self.halve(now);
        let before = match self.counts.get(&key) {
            Some(count) => {
                self.order.remove(&(count.most, key));
                *count
            }
            None if self.counts.len() < KEYS_MAX => Count { most: 0, error: 0 },
            None => {
                let (least, other) = self.order.pop_first().expect("as many as are counted");
                self.counts.remove(&other);
                Count { most: least, error: least }
            }
        };
        let count = Count { most: before.most.saturating_add(cost), ..before };
        self.counts.insert(key, count);
        self.order.insert((count.most, key));
    }

    /// Keys that have cost something for certain, and how much at least; most first.
    fn at_least(&self, now: Now) -> Vec<(K, u64)> {
        let minutes = minute(now).saturating_sub(self.minute).min(MINUTES_MAX);
        let sure = |(key, count): (&K, &Count)| (*key, (count.most - count.error) >> minutes);
        let mut all: Vec<_> = self.counts.iter().map(sure).filter(|(_, count)| *count > 0).collect();
        all.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
        all
    }

    fn halve(&mut self, now: Now) {
        let minutes = minute(now).saturating_sub(self.minute).min(MINUTES_MAX);
        if minutes == 0 {
            return;
        }
        self.minute = minute(now);
        self.counts.retain(|_, count| {
            let sure = (count.most - count.error) >> minutes;
            count.error >>= minutes;
            count.most = count.error + sure;
            count.most > 0
        });
        self.order = self.counts.iter().map(|(key, count)| (count.most, *key)).collect();
    }
}

fn minute(now: Now) -> u64 {
    now.seconds() / 60
}

impl<B: Backend> Relay<B> {
    /// The addresses and authors that cost the most lately, as far as is known.
    pub fn costliest(&self, now: Now) -> TopCosts {
        TopCosts { addresses: self.costs.addresses.at_least(now), authors: self.costs.authors.at_least(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now::from_seconds(1_700_000_040);

    /// Numbers without a pattern.
    fn pseudorandom(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    /// Compared with exact counts: no reported count exceeds the true one, and every key above a 64th of the total is reported.
    #[test]
    fn reported_counts_are_bounds_and_include_heavy_hitters() {
        for seed in 0..50 {
            let (mut seed, mut heavy) = (seed, HeavyHitters::default());
            let (mut exact, mut all) = (BTreeMap::<u64, u64>::new(), 0);
            for _ in 0..20_000 {
                // Many that cost little, few that cost much.
                let (key, cost) = match pseudorandom(&mut seed) % 4 {
                    0 => (pseudorandom(&mut seed) % 7, pseudorandom(&mut seed) % 300),
                    _ => (pseudorandom(&mut seed) % 10_000, pseudorandom(&mut seed) % 40),
                };
                heavy.add(NOW, key, cost);
                *exact.entry(key).or_default() += cost;
                all += cost;
            }
            assert!(heavy.counts.len() <= KEYS_MAX && heavy.order.len() == heavy.counts.len());
            for (key, count) in &heavy.counts {
                assert!(count.most >= exact[key] && count.most - count.error <= exact[key]);
            }
            let reported = heavy.at_least(NOW);
            for (key, cost) in exact.iter().filter(|(_, cost)| **cost > all / KEYS_MAX as u64) {
                assert!(heavy.counts.contains_key(key), "{key} cost {cost} of {all}");
            }
            assert!(reported[..7].iter().all(|(key, _)| *key < 7), "{reported:?}");
        }
    }

    #[test]
    fn counts_are_halved_every_minute() {
        let mut heavy = HeavyHitters::default();
        let at = |minutes: u64| NOW.plus_millis(60_000 * minutes);
        heavy.add(at(0), 'a', 1_000);
        heavy.add(at(0), 'b', 1);
        assert_eq!(heavy.at_least(at(0)), [('a', 1_000), ('b', 1)]);
        assert_eq!(heavy.at_least(at(1)), [('a', 500)], "looking changes nothing");
        heavy.add(at(2), 'c', 400);
        assert_eq!(heavy.at_least(at(2)), [('c', 400), ('a', 250)]);
        assert_eq!(heavy.counts.len(), 2, "counts that have fallen to zero are dropped");
        heavy.add(at(500), 'd', 1);
        assert_eq!(heavy.at_least(at(500)), [('d', 1)]);
        // A clock that steps back halves nothing.
        heavy.add(at(499), 'd', 1);
        assert_eq!(heavy.at_least(at(499)), [('d', 2)]);
    }

    #[test]
    fn shards_are_added_up() {
        let key = |n: u8| ClientAddress::V4([192, 0, 2, n]);
        let shard = |counts: &[(u8, u64)]| TopCosts {
            addresses: counts.iter().map(|(n, count)| (key(*n), *count)).collect(),
            authors: Vec::new(),
        };
        let many: Vec<(u8, u64)> = (10..40).map(|n| (n, 3)).collect();
        let reported =
            TopCosts::of_all(&[shard(&[(1, 5), (2, 4)]), shard(&[(2, 4)]), shard(&many)]).addresses;
        assert_eq!(reported[..3], [(key(2), 8), (key(1), 5), (key(10), 3)]);
        assert_eq!(reported.len(), TopCosts::REPORTED_MAX);
    }
}
