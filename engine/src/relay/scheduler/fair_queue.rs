//! A queue that is fair to keys by what their turns have cost (start-time fair queueing).

use std::collections::BTreeMap;

/// Keys whose turns come in the order of what they have cost, each with what waits there.
pub(super) struct FairQueue<K, W> {
    /// By clock, then by how long they have waited.
    order: BTreeMap<QueuePosition, K>,
    waiting: BTreeMap<K, (QueuePosition, W)>,
    /// The clock that is furthest ahead.
    ahead: u64,
    serial: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueuePosition {
    clock: u64,
    serial: u64,
}

impl<K: Ord + Copy, W> FairQueue<K, W> {
    pub(super) fn new() -> Self {
        FairQueue { order: BTreeMap::new(), waiting: BTreeMap::new(), ahead: 0, serial: 0 }
    }

    fn position(&mut self, clock: u64) -> QueuePosition {
        self.serial += 1;
        QueuePosition { clock, serial: self.serial }
    }

    /// What waits at `key`, which joins if nothing does.
    pub(super) fn join(&mut self, key: K, none: impl FnOnce() -> W) -> &mut W {
        if !self.waiting.contains_key(&key) {
            let position = self.position(self.ahead);
            self.order.insert(position, key);
            self.waiting.insert(key, (position, none()));
        }
        &mut self.waiting.get_mut(&key).expect("it has joined").1
    }

    /// Whose turn it is, and what waits there.
    pub(super) fn next(&mut self) -> Option<(K, &mut W)> {
        let key = *self.order.first_key_value()?.1;
        self.waiting.get_mut(&key).map(|(_, waiting)| (key, waiting))
    }

    /// What waits at the key whose turn it is.
    pub(super) fn first(&self) -> Option<&W> {
        self.get(self.order.first_key_value()?.1)
    }

    pub(super) fn get(&self, key: &K) -> Option<&W> {
        self.waiting.get(key).map(|(_, waiting)| waiting)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut W> {
        self.waiting.get_mut(key).map(|(_, waiting)| waiting)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<W> {
        let (position, waiting) = self.waiting.remove(key)?;
        self.order.remove(&position);
        Some(waiting)
    }

    /// A turn of `key` is over and has cost this much. Its other queries keep waiting, unless it `is_empty`.
    pub(super) fn charge(&mut self, key: K, cost: u64, is_empty: impl Fn(&W) -> bool) {
        let Some((position, waiting)) = self.waiting.get(&key) else { return };
        let (clock, is_empty) = (position.clock + cost, is_empty(waiting));
        self.ahead = self.ahead.max(clock);
        if is_empty {
            self.remove(&key);
        } else {
            self.move_to(key, clock);
        }
    }

    fn move_to(&mut self, key: K, clock: u64) {
        let moved = self.position(clock);
        if let Some((position, _)) = self.waiting.get_mut(&key) {
            self.order.remove(position);
            *position = moved;
            self.order.insert(moved, key);
        }
    }

    /// Whether nothing is left of any key.
    #[cfg(test)]
    pub(super) fn is_cleared(&self) -> bool {
        self.order.is_empty() && self.waiting.is_empty()
    }
}
