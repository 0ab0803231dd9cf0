//! Subscriptions by slot: the stamp that lets each be reported once, and which are dead.

use super::SubSlot;
use super::checked::NO_FILTER;
use super::ids::{FreeIds, next_id, shrink_sparse};

/// Stamp of a slot without a living subscription. No epoch is above it, so nothing passes it.
pub(super) const DEAD: u32 = u32::MAX;

/// Up to this many slots are not worth a cut.
const SLOTS_KEPT: usize = 64;

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The last event each slot was reported for, or [`DEAD`]. The only thing a plain match touches.
    pub(super) stamps: Vec<u32>,
    subs: Vec<SlotState>,
    free: FreeIds,
    /// Unsubscribed since the sweep under way began.
    pub(super) unswept: Vec<SubSlot>,
    /// Unsubscribed before it began; free when it ends.
    pub(super) being_swept: Vec<SubSlot>,
    live: usize,
}

#[derive(Clone, Copy, Debug)]
struct SlotState {
    /// Its first checked filter.
    filters: u32,
    /// Postings, and keys that its conditions refer to.
    references: u32,
    is_free: bool,
}

impl Slots {
    pub(super) fn take(&mut self) -> SubSlot {
        self.live += 1;
        let sub = SlotState { filters: NO_FILTER, references: 0, is_free: false };
        match self.free.take(self.stamps.len()) {
            Some(slot) => {
                self.stamps[slot as usize] = 0;
                self.subs[slot as usize] = sub;
                SubSlot(slot)
            }
            None => {
                let slot = next_id(self.stamps.len());
                self.stamps.push(0);
                self.subs.push(sub);
                SubSlot(slot)
            }
        }
    }

    /// Postings of the subscription, and keys that its conditions refer to.
    pub(super) fn references(&self, slot: SubSlot) -> usize {
        self.subs[slot.0 as usize].references as usize
    }

    /// Records what the subscription turned into.
    pub(super) fn fill(&mut self, slot: SubSlot, filters: u32, references: usize) {
        let sub = &mut self.subs[slot.0 as usize];
        sub.filters = filters;
        sub.references = references as u32;
    }

    /// Marks the slot dead. Returns how many references to it remain, or `None` if it was not alive.
    pub(super) fn mark_dead(&mut self, slot: SubSlot) -> Option<usize> {
        let stamp = self.stamps.get_mut(slot.0 as usize).filter(|stamp| **stamp != DEAD)?;
        *stamp = DEAD;
        self.live -= 1;
        let references = self.references(slot);
        if references == 0 {
            self.release(slot);
        } else {
            self.unswept.push(slot);
        }
        Some(references)
    }

    /// Frees a dead slot that no posting names any more.
    pub(super) fn release(&mut self, slot: SubSlot) {
        self.subs[slot.0 as usize].is_free = true;
        self.free.release(slot.0);
    }

    pub(super) fn is_dead(&self, slot: SubSlot) -> bool {
        self.stamps[slot.0 as usize] == DEAD
    }

    pub(super) fn filters(&self, slot: SubSlot) -> u32 {
        self.subs[slot.0 as usize].filters
    }

    pub(super) fn set_filters(&mut self, slot: SubSlot, filters: u32) {
        self.subs[slot.0 as usize].filters = filters;
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Dead ones that have not been swept.
    pub(super) fn dead_unswept(&self) -> usize {
        self.unswept.len() + self.being_swept.len()
    }

    /// Forgets which event each slot was reported for.
    pub(super) fn reset_stamps(&mut self) {
        self.stamps.iter_mut().filter(|stamp| **stamp != DEAD).for_each(|stamp| *stamp = 0);
    }

    /// Whether cutting the table would help, though none waits for a sweep: subscriptions without postings
    /// are freed at once, wherever in the table they are.
    pub(super) fn is_trim_due(&self) -> bool {
        self.subs.len() > SLOTS_KEPT
            && self.live * 4 < self.subs.len()
            && self.subs.last().is_some_and(|sub| sub.is_free)
    }

    /// Drops up to `budget` free slots from the end; whether there may be more.
    pub(super) fn trim(&mut self, budget: &mut usize) -> bool {
        while self.subs.last().is_some_and(|sub| sub.is_free) {
            if *budget == 0 {
                return true;
            }
            *budget -= 1;
            self.subs.pop();
            self.stamps.pop();
        }
        shrink_sparse(&mut self.subs);
        shrink_sparse(&mut self.stamps);
        shrink_sparse(&mut self.unswept);
        shrink_sparse(&mut self.being_swept);
        self.free.shrink(self.subs.len());
        false
    }

    pub(super) fn bytes(&self) -> usize {
        self.stamps.capacity() * size_of::<u32>()
            + self.subs.capacity() * size_of::<SlotState>()
            + (self.unswept.capacity() + self.being_swept.capacity()) * size_of::<SubSlot>()
            + self.free.bytes()
    }
}
