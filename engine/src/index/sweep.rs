//! Removing the postings of dead subscriptions, a little at a time.
//!
//! A pass visits all keys once. A subscription that was dead when it began has no posting left when it ends; then its checked
//! filters and its slot are freed, and tables that end in free entries are cut. None is freed earlier, so no posting of an ended
//! subscription can report the next owner of its slot.

use super::Index;
use super::checked::NO_FILTER;
use super::ids::shrink_sparse;
use super::pages::PAGE;
use super::postings::{Check, Group};

/// Where a pass stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// No pass is under way.
    #[default]
    Idle,
    /// At this posting, by position, of this group of this key.
    Postings { key: usize, group: usize, position: usize },
    /// Freeing the filters and slots of those that were dead.
    Slots,
    /// Cutting tables.
    Trim,
}

/// A pass is due when one of this many references, or of this many slots, is dead. It bounds what the dead cost
/// in memory and in candidates, and makes a pass cost each released reference a constant.
const DEAD_SHARE: usize = 4;

impl Index {
    /// Whether [`Index::sweep`] would do anything.
    pub fn is_sweep_due(&self) -> bool {
        self.phase != Phase::Idle || self.is_pass_due() || self.slots.is_trim_due()
    }

    fn is_pass_due(&self) -> bool {
        self.slots.dead_unswept() > 0
            && (self.dead_references * DEAD_SHARE >= self.references()
                || self.slots.dead_unswept() * DEAD_SHARE >= self.slots.live())
    }

    pub(super) fn sweep_some(&mut self, mut budget: usize) -> bool {
        while budget > 0 && self.is_sweep_due() {
            match self.phase {
                Phase::Idle if !self.is_pass_due() => self.phase = Phase::Trim,
                Phase::Idle => {
                    std::mem::swap(&mut self.slots.unswept, &mut self.slots.being_swept);
                    self.phase = Phase::Postings { key: 0, group: 0, position: 0 };
                }
                Phase::Postings { key, group, position } => self.sweep_key(key, group, position, &mut budget),
                Phase::Slots => self.sweep_slots(&mut budget),
                Phase::Trim => {
                    let more = self.keys.trim(&mut budget)
                        || self.checked.trim(&mut budget)
                        || self.slots.trim(&mut budget);
                    if !more {
                        self.phase = Phase::Idle;
                    }
                }
            }
        }
        self.is_sweep_due()
    }

    /// Continues in one key until it or the budget is used up.
    fn sweep_key(&mut self, key: usize, mut group: usize, mut position: usize, budget: &mut usize) {
        if key >= self.keys.slots() {
            self.phase = Phase::Slots;
            return;
        }
        let Index { keys, slots, checked, kind_sets, .. } = self;
        let Some(groups) = keys.groups_mut(key as u32) else {
            *budget = budget.saturating_sub(1);
            self.phase = Phase::Postings { key: (key / PAGE + 1) * PAGE, group: 0, position: 0 };
            return;
        };
        while let Some(at) = groups.get_mut(group) {
            if *budget == 0 {
                self.phase = Phase::Postings { key, group, position };
                return;
            }
            self.posting_bytes -= at.ids.bytes();
            let (next, removed) = match at.check {
                Check::Plain => at.ids.sweep(position, budget, |slot| slots.is_dead(super::SubSlot(slot))),
                Check::Time | Check::Full => {
                    at.ids.sweep(position, budget, |id| slots.is_dead(checked.filters[id as usize].slot))
                }
            };
            self.posting_bytes += at.ids.bytes();
            self.postings -= removed;
            self.dead_references -= removed;
            let left = at.ids.as_slice().len();
            if next < left {
                position = next;
                continue;
            }
            position = 0;
            if left > 0 {
                group += 1;
                continue;
            }
            self.posting_bytes -= at.ids.bytes();
            let emptied = groups.swap_remove(group);
            kind_sets.release(emptied.kinds);
        }
        self.group_bytes -= groups.capacity() * size_of::<Group>();
        shrink_sparse(groups);
        self.group_bytes += groups.capacity() * size_of::<Group>();
        self.keys.free_unused(key as u32);
        // Paid at the end, so that a budget of one gets somewhere.
        *budget = budget.saturating_sub(1);
        self.phase = Phase::Postings { key: key + 1, group: 0, position: 0 };
    }

    fn sweep_slots(&mut self, budget: &mut usize) {
        while let Some(&slot) = self.slots.being_swept.last() {
            if *budget == 0 {
                return;
            }
            *budget -= 1;
            let filter = self.slots.filters(slot);
            if filter != NO_FILTER {
                let (next, released) = self.checked.remove(filter, &mut self.keys, &mut self.kind_sets);
                self.dead_references -= released;
                *budget = budget.saturating_sub(released);
                self.slots.set_filters(slot, next);
                continue;
            }
            self.slots.being_swept.pop();
            self.slots.release(slot);
        }
        self.phase = Phase::Trim;
    }
}
