//! The postings of one key, grouped by what else has to hold.
//!
//! A group states its kinds once, so a match checks the kinds of a group and not of every posting, and
//! reads a plain list of ids after that. What the ids are of depends on the [`Check`].

use smallvec::{SmallVec, smallvec};

use super::kinds::KindsCode;

/// Most groups a key may have. It bounds what a subscription and an event cost for a key that a client
/// filled with thousands of different kind lists: further ones share one group that checks kinds singly.
pub(super) const GROUPS_MAX: usize = 64;

/// What has to be checked for each posting of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing: the posting is a slot.
    Plain,
    /// `since` and `until`: the posting is a checked filter.
    Time,
    /// All that a checked filter has.
    Full,
}

/// Postings of one key with the same kinds and the same check.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) ids: PostingIds,
    pub(super) kinds: KindsCode,
    pub(super) check: Check,
}

/// A list of ids, up to four without an allocation: most keys have no more.
#[derive(Debug)]
pub(super) struct PostingIds(SmallVec<[u32; 4]>);

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Group>() == 32, "the short lists fit where the long one's pointer is");

impl PostingIds {
    pub(super) fn one(id: u32) -> Self {
        PostingIds(smallvec![id])
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Appends; grows by half, since there are many lists and most stop growing.
    pub(super) fn push(&mut self, id: u32) {
        let list = &mut self.0;
        if list.len() == list.capacity() {
            list.reserve_exact(list.len().max(8) / 2);
        }
        list.push(id);
    }

    /// Removes those from `at` on that `is_dead`, visiting no more than `budget`. Returns where to go on
    /// and how many were removed. Order is not kept. The caller drops a list that this leaves empty.
    pub(super) fn sweep(
        &mut self,
        mut at: usize,
        budget: &mut usize,
        mut is_dead: impl FnMut(u32) -> bool,
    ) -> (usize, usize) {
        let list = &mut self.0;
        let before = list.len();
        while *budget > 0 && at < list.len() {
            *budget -= 1;
            if is_dead(list[at]) {
                list.swap_remove(at);
            } else {
                at += 1;
            }
        }
        // Memory goes back when less than a quarter of it is used, or none is needed.
        if list.spilled() && (list.len() <= list.inline_size() || list.len() * 4 < list.capacity()) {
            let spare = if list.len() <= list.inline_size() { 0 } else { list.len() };
            list.grow(list.len() + spare);
        }
        (at, before - list.len())
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<u32>() } else { 0 }
    }
}
