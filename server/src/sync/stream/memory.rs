//! Which events another relay has: it has sent them, so they are not sent back to it.
//!
//! Stored events are known by their sequence numbers, which come in runs, so a million of them take little. Events on their way
//! into the store, and ephemeral ones, which never have a number, are known by id.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_engine::store::Seq;
use relay_engine::types::EventId;

/// Runs of sequence numbers that are kept, those of the newest events. What is forgotten is sent once, and answered as a
/// duplicate.
const RUNS_MAX: usize = 65_536;
/// Ephemeral events that are kept.
const EPHEMERAL_MAX: usize = 16_384;

/// What one relay has, shared by all streams from and to it.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct PeerMemory(Arc<Mutex<Memory>>);

impl PeerMemory {
    pub(in super::super) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one relay has.
#[derive(Debug, Default)]
pub(in super::super) struct Memory {
    stored: Runs,
    /// Events on their way into the store, and how often.
    coming: HashMap<EventId, u32>,
    ephemeral: Recent,
}

impl Memory {
    /// It has the stored events with these numbers.
    pub(in super::super) fn add_all(&mut self, seqs: impl IntoIterator<Item = Seq>) {
        seqs.into_iter().for_each(|seq| self.stored.add(seq));
    }

    /// It has sent this event, which is being stored.
    pub(super) fn coming(&mut self, id: EventId) {
        *self.coming.entry(id).or_default() += 1;
    }

    /// What became of that event is known.
    pub(super) fn came(&mut self, id: &EventId) {
        if let Some(count) = self.coming.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                self.coming.remove(id);
            }
        }
    }

    /// Whether it has this stored event.
    pub(super) fn has(&self, seq: Seq, id: &EventId) -> bool {
        self.stored.contains(seq) || self.coming.contains_key(id)
    }

    /// It has this ephemeral event. False if that was known.
    pub(super) fn add_ephemeral(&mut self, id: EventId) -> bool {
        self.ephemeral.add(id)
    }
}

/// Runs of numbers, by their first; each with its last.
#[derive(Debug, Default)]
struct Runs(BTreeMap<Seq, Seq>);

impl Runs {
    fn contains(&self, seq: Seq) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last)
    }

    fn add(&mut self, seq: Seq) {
        if self.contains(seq) {
            return;
        }
        let before = self.0.range(..seq).next_back().map(|(first, last)| (*first, *last));
        let first = before.filter(|(_, last)| last.0 + 1 == seq.0).map_or(seq, |(first, _)| first);
        let last = self.0.remove(&Seq(seq.0 + 1)).unwrap_or(seq);
        self.0.insert(first, last);
        if self.0.len() > RUNS_MAX {
            self.0.pop_first();
        }
    }
}

/// The ids that were added last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    set: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Recent {
    /// False if it is among them.
    pub(super) fn add(&mut self, id: EventId) -> bool {
        if !self.set.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > EPHEMERAL_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::testing::Random;
    use super::*;

    #[test]
    fn runs_hold_what_a_set_holds() {
        let mut random = Random(0x1234_5678_9abc_def1);
        for _ in 0..50 {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for _ in 0..300 {
                let seq = random.below(400);
                runs.add(Seq(seq));
                set.insert(seq);
                assert!((0..401).all(|seq| runs.contains(Seq(seq)) == set.contains(&seq)));
            }
            let gaps = set.iter().filter(|seq| !set.contains(&(*seq + 1))).count();
            assert_eq!(runs.0.len(), gaps, "runs that touch are one");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut runs = Runs::default();
        (0..=RUNS_MAX as u64).for_each(|number| runs.add(Seq(2 * number)));
        assert!(!runs.contains(Seq(0)) && runs.contains(Seq(2)) && runs.0.len() == RUNS_MAX);
        let id = |number: usize| EventId(std::array::from_fn(|at| (number >> (8 * at.min(7))) as u8));
        let mut recent = Recent::default();
        assert!((0..=EPHEMERAL_MAX).all(|number| recent.add(id(number))));
        assert!(!recent.add(id(1)), "it is still known");
        assert!(recent.add(id(0)), "it is forgotten");
        assert!(recent.set.len() == EPHEMERAL_MAX && recent.order.len() == EPHEMERAL_MAX);
    }

    #[test]
    fn an_event_is_coming_until_each_of_its_copies_has_come() {
        let (mut memory, id) = (Memory::default(), EventId([1; 32]));
        memory.coming(id);
        memory.coming(id);
        memory.came(&id);
        assert!(memory.has(Seq(7), &id));
        memory.came(&id);
        memory.came(&id);
        assert!(!memory.has(Seq(7), &id));
        memory.add_all([Seq(7)]);
        assert!(memory.has(Seq(7), &id) && !memory.has(Seq(8), &id));
        assert!(memory.add_ephemeral(id) && !memory.add_ephemeral(id));
    }
}
