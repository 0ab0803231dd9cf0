//! The connections of a shard that have output, in the order in which they are written to.
//!
//! Ten thousand writes take a tenth of a second, for which nothing else of the shard would get a turn. So an iteration of the
//! event loop makes one **round** of writes of bounded cost, and the connections that are not reached stay in front for the
//! next one. What waits for them waits in the machine, where it counts as their queue, and leaves in one write.
//!
//! Rounds make up **passes**: a pass is everybody who was in the queue when it began. Who has more than one write takes goes
//! to the end, so each connection is written to once a pass and none waits for another's second write.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The fixed cost of a write, about 10 µs, in bytes that are rendered and copied in that time. Each connection of a round is
/// charged this and the bytes of its write.
pub(super) const WRITE_COST: usize = 64 << 10;
/// Cost of a round, in bytes: about 4 ms. 256 connections with a short message each, or 51 that take 256 KiB each. The last
/// write of a round may exceed it.
pub(super) const ROUND_COST_MAX: usize = 16 << 20;

/// The connections that wait to be written to, each once.
#[derive(Debug, Default)]
pub(super) struct FlushQueue<Id> {
    waiting: VecDeque<Id>,
    queued: HashSet<Id>,
    /// How many at the front are of the pass that is under way.
    pass_left: usize,
}

/// What is left of a round.
#[derive(Debug)]
pub(super) struct Round {
    cost_left: usize,
}

impl Round {
    /// A connection was written `bytes`.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.cost_left = self.cost_left.saturating_sub(WRITE_COST + bytes);
    }
}

impl<Id: Copy + Eq + Hash> FlushQueue<Id> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a connection at the end, unless it is in the queue.
    pub(super) fn push(&mut self, id: Id) {
        if self.queued.insert(id) {
            self.waiting.push_back(id);
        }
    }

    /// Begins a round: it goes on with the pass that is under way, or begins one.
    pub(super) fn begin_round(&mut self) -> Round {
        if self.pass_left == 0 {
            self.pass_left = self.waiting.len();
        }
        Round { cost_left: ROUND_COST_MAX }
    }

    /// The next connection to write to; `None` if the round or the pass is over. What is pushed meanwhile is of the next pass.
    pub(super) fn next(&mut self, round: &Round) -> Option<Id> {
        if self.pass_left == 0 || round.cost_left == 0 {
            return None;
        }
        let id = self.waiting.pop_front()?;
        self.queued.remove(&id);
        self.pass_left -= 1;
        Some(id)
    }

    /// Whether everybody of a pass has been written to.
    pub(super) fn is_pass_over(&self) -> bool {
        self.pass_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes one round; connection `id` has `left[id]` bytes to be written, of which a write takes `write_max`. Who was written
    /// to, and what that has cost.
    fn round(queue: &mut FlushQueue<usize>, left: &mut [usize], write_max: usize) -> (Vec<usize>, usize) {
        let (mut written_to, mut cost) = (Vec::new(), 0);
        let mut round = queue.begin_round();
        while let Some(id) = queue.next(&round) {
            let bytes = left[id].min(write_max);
            left[id] -= bytes;
            round.charge(bytes);
            cost += WRITE_COST + bytes;
            if left[id] > 0 {
                queue.push(id);
            }
            written_to.push(id);
        }
        (written_to, cost)
    }

    #[test]
    fn a_round_is_bounded_by_connections_and_by_bytes() {
        let cases = [(0, 256), (300, 255), (WRITE_COST, 128), (256 << 10, 52), (ROUND_COST_MAX, 1)];
        for (bytes, writes) in cases {
            let mut queue = FlushQueue::default();
            (0..600).for_each(|id| queue.push(id));
            let (written_to, cost) = round(&mut queue, &mut [bytes; 600], usize::MAX);
            assert_eq!(written_to, Vec::from_iter(0..writes), "{bytes} bytes each");
            assert!(cost < ROUND_COST_MAX + WRITE_COST + bytes, "{cost}");
            assert!(!queue.is_pass_over());
            let (written_to, _) = round(&mut queue, &mut [bytes; 600], usize::MAX);
            assert_eq!(written_to[0], writes, "the next round goes on where this one ended");
        }
    }

    /// An event to two thousand connections of a shard, 40 of which take a megabyte too.
    #[test]
    fn each_connection_is_written_to_once_a_pass_and_nothing_is_lost() {
        const WRITE_MAX: usize = 256 << 10;
        let mut left: Vec<_> = (0..2_000).map(|id| if id % 50 == 0 { 4 * WRITE_MAX } else { 400 }).collect();
        let mut queue = FlushQueue::default();
        (0..2_000).for_each(|id| queue.push(id));
        // The machine names it again: it has more, and keeps its place.
        queue.push(7);
        let (mut rounds, mut passes, mut this_pass) = (0, Vec::new(), HashSet::new());
        while !queue.is_empty() {
            let (written_to, cost) = round(&mut queue, &mut left, WRITE_MAX);
            assert!(cost < ROUND_COST_MAX + WRITE_COST + WRITE_MAX, "{cost}");
            assert!(!written_to.is_empty(), "each round gets on");
            assert!(written_to.iter().all(|id| this_pass.insert(*id)), "twice in a pass");
            rounds += 1;
            if rounds == 1 {
                // One that was written to has another message, while others wait for their first.
                left[1] += 100;
                queue.push(1);
            }
            if queue.is_pass_over() {
                passes.push(std::mem::take(&mut this_pass).len());
            }
        }
        assert_eq!(passes, [2_000, 41, 40, 40], "who has more goes to the end, and waits for all others");
        assert!(left.iter().all(|bytes| *bytes == 0));
    }
}
