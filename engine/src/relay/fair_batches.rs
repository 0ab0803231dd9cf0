//! Items that wait to be taken in batches of bounded cost; each batch is shared fairly between keys (the clients'
//! addresses).
//!
//! What fits into one batch waits in one list, so that usually nothing is sorted. What exceeds it is moved, once, into a queue
//! for each key, and the queues are listed by the cost of their first items. So an item costs the logarithm of how many wait, in
//! however many batches they are taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Capacity, in items, that the list keeps when it is emptied, so that a usual batch allocates nothing.
const CAPACITY_KEPT: usize = 256;

/// Items of keys, each key's in their order.
#[derive(Debug)]
pub(super) struct FairBatches<K, T> {
    /// Those that have not been moved into queues.
    arrived: Vec<Item<K, T>>,
    queues: BTreeMap<K, VecDeque<Item<K, T>>>,
    /// The first item of each queue: its cost, serial number and key.
    by_cost: BTreeSet<(usize, u64, K)>,
    /// The same, the oldest first.
    by_age: BTreeSet<(u64, K)>,
    /// What all items cost.
    cost: usize,
    pushed: u64,
}

#[derive(Debug)]
struct Item<K, T> {
    key: K,
    serial: u64,
    cost: usize,
    value: T,
}

impl<K: Ord + Copy, T> Default for FairBatches<K, T> {
    fn default() -> Self {
        FairBatches {
            arrived: Vec::new(),
            queues: BTreeMap::new(),
            by_cost: BTreeSet::new(),
            by_age: BTreeSet::new(),
            cost: 0,
            pushed: 0,
        }
    }
}

impl<K: Ord + Copy, T> FairBatches<K, T> {
    pub(super) fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.queues.is_empty()
    }

    /// Items that have come since the last batch.
    pub(super) fn arrived(&self) -> usize {
        self.arrived.len()
    }

    pub(super) fn push(&mut self, key: K, cost: usize, value: T) {
        self.cost += cost;
        self.pushed += 1;
        self.arrived.push(Item { key, serial: self.pushed, cost, value });
    }

    /// Takes everything, or as many items as reach `cost_max`, and hands them to `add` in the order they were pushed. Returns what
    /// they cost.
    ///
    /// The oldest is among them, so that none waits for ever. The others are those with the least cumulative cost: what an
    /// item and those before it of the same key cost together.
    pub(super) fn take(&mut self, cost_max: usize, mut add: impl FnMut(T)) -> usize {
        let before = self.cost;
        if self.queues.is_empty() && self.cost <= cost_max {
            self.cost = 0;
            self.arrived.drain(..).for_each(|item| add(item.value));
        } else {
            self.queue_arrived();
            let mut chosen = self.choose(cost_max);
            chosen.sort_unstable_by_key(|item| item.serial);
            chosen.into_iter().for_each(|item| add(item.value));
        }
        self.arrived.shrink_to(CAPACITY_KEPT);
        before - self.cost
    }

    fn queue_arrived(&mut self) {
        for item in self.arrived.drain(..) {
            let queue = self.queues.entry(item.key).or_default();
            if queue.is_empty() {
                self.by_cost.insert((item.cost, item.serial, item.key));
                self.by_age.insert((item.serial, item.key));
            }
            queue.push_back(item);
        }
    }

    fn choose(&mut self, cost_max: usize) -> Vec<Item<K, T>> {
        let mut chosen = Vec::new();
        // Next items of keys that have some in this batch, by cumulative cost. These keys are not listed meanwhile.
        let mut begun = BTreeSet::new();
        let oldest = self.by_age.first().copied();
        let mut next = oldest.and_then(|(_, key)| Some(self.queues.get(&key)?.front()?.rank(0)));
        let mut cost = 0;
        while let Some(key_of_next) = next.filter(|_| chosen.is_empty() || cost < cost_max) {
            let (own_cost, serial, key) = key_of_next;
            if !begun.remove(&key_of_next) {
                self.by_cost.remove(&key_of_next);
                self.by_age.remove(&(serial, key));
            }
            if let Some(queue) = self.queues.get_mut(&key) {
                chosen.extend(queue.pop_front().inspect(|item| cost += item.cost));
                match queue.front() {
                    Some(following) => drop(begun.insert(following.rank(own_cost))),
                    None => drop(self.queues.remove(&key)),
                }
            }
            next = self.by_cost.first().into_iter().chain(begun.first()).min().copied();
        }
        for (_, serial, key) in begun {
            let first = self.queues.get(&key).and_then(VecDeque::front);
            self.by_cost.extend(first.map(|item| item.rank(0)));
            self.by_age.insert((serial, key));
        }
        self.cost -= cost;
        chosen
    }
}

impl<K: Copy, T> Item<K, T> {
    /// Its rank in a batch: the cost of its key's items up to this one, then its age. `cost_before`: the cost of those
    /// before it.
    fn rank(&self, cost_before: usize) -> (usize, u64, K) {
        (cost_before + self.cost, self.serial, self.key)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;
    use crate::testing::Rng;

    /// The rule, naively: which of the waiting `(key, cost, serial)` are in the next batch.
    fn chosen_naively(waiting: &[(u64, usize, u64)], cost_max: usize) -> Vec<bool> {
        let mut chosen = vec![false; waiting.len()];
        if waiting.iter().map(|(_, cost, _)| cost).sum::<usize>() <= cost_max {
            chosen.fill(true);
            return chosen;
        }
        let cumulative = |index: usize| -> usize {
            waiting[..=index].iter().filter(|item| item.0 == waiting[index].0).map(|item| item.1).sum()
        };
        let mut order: Vec<usize> = (0..waiting.len()).collect();
        order.sort_by_key(|index| if *index == 0 { (0, 0) } else { (cumulative(*index), *index) });
        let mut cost = 0;
        for index in order {
            chosen[index] = true;
            cost += waiting[index].1;
            if cost >= cost_max {
                break;
            }
        }
        chosen
    }

    #[test]
    fn batches_are_those_of_the_rule() {
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let (keys, cost_most) = (1 + rng.below(8), 1 + rng.below(60) as usize);
            let mut batches = FairBatches::default();
            let (mut waiting, mut serial) = (Vec::new(), 0);
            for _ in 0..40 {
                for _ in 0..rng.below(12) {
                    let (key, cost) = (rng.below(keys), 1 + rng.below(cost_most as u64) as usize);
                    serial += 1;
                    waiting.push((key, cost, serial));
                    batches.push(key, cost, serial);
                }
                let mut chosen = chosen_naively(&waiting, 100).into_iter();
                let expected: Vec<_> = waiting.extract_if(.., |_| chosen.next() == Some(true)).collect();
                let mut taken = Vec::new();
                let cost = batches.take(100, |serial| taken.push(serial));
                assert_eq!(taken, expected.iter().map(|item| item.2).collect::<Vec<_>>(), "seed {seed}");
                assert_eq!(cost, expected.iter().map(|item| item.1).sum::<usize>());
                assert_eq!(batches.is_empty(), waiting.is_empty());
            }
        }
    }

    thread_local! {
        static COMPARISONS: Cell<usize> = const { Cell::new(0) };
    }

    /// A key that counts how often keys are compared.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct CountedKey(usize);

    impl Ord for CountedKey {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for CountedKey {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    /// Regression: all that waited was sorted for each batch; 4,096 items that fill 512 batches were looked up a million times.
    #[test]
    fn work_is_in_proportion_to_items() {
        for keys in [1, 100, 4_096] {
            COMPARISONS.set(0);
            let mut batches = FairBatches::default();
            (0..4_096).for_each(|n| batches.push(CountedKey(n % keys), 2_000, n));
            let (mut taken, mut count) = (0, 0);
            while !batches.is_empty() {
                batches.take(16_000, |_| taken += 1);
                count += 1;
            }
            assert_eq!((taken, count), (4_096, 512));
            let comparisons = COMPARISONS.get();
            assert!(comparisons < 4_096 * 100, "{comparisons} comparisons with {keys} keys");
        }
    }
}
