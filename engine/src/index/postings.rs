//! The postings of one key, grouped by what else has to hold.
//!
//! A group states its kinds once, so a match looks at the kinds of a group and not of every posting, and
//! walks a plain list of numbers after that. What the numbers are depends on the [`Check`].

use super::ids::shrink_sparse;
use super::kinds::KindsCode;

/// Most groups a key may have. It bounds what a subscription and an event pay for a key that somebody
/// filled with thousands of different kind lists: further ones share one group that checks kinds singly.
pub(super) const GROUPS_MAX: usize = 64;

/// What has to be looked at for each posting of a group.
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
    pub(super) posts: Posts,
    pub(super) kinds: KindsCode,
    pub(super) check: Check,
}

/// A list of numbers, up to four without an allocation: most keys have no more.
#[derive(Debug)]
pub(super) enum Posts {
    One([u32; 1]),
    Two([u32; 2]),
    Three([u32; 3]),
    Four([u32; 4]),
    Many(Vec<u32>),
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Group>() == 32, "the short lists fit where the long one's pointer is");

impl Posts {
    #[inline]
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Posts::One(list) => list,
            Posts::Two(list) => list,
            Posts::Three(list) => list,
            Posts::Four(list) => list,
            Posts::Many(list) => list,
        }
    }

    /// Appends; grows by half, since there are many lists and most stop growing.
    pub(super) fn push(&mut self, post: u32) {
        *self = match self {
            Posts::One([a]) => Posts::Two([*a, post]),
            Posts::Two([a, b]) => Posts::Three([*a, *b, post]),
            Posts::Three([a, b, c]) => Posts::Four([*a, *b, *c, post]),
            Posts::Four(list) => {
                let mut many = Vec::with_capacity(8);
                many.extend_from_slice(list);
                many.push(post);
                Posts::Many(many)
            }
            Posts::Many(list) => {
                if list.len() == list.capacity() {
                    list.reserve_exact(list.len().max(8) / 2);
                }
                list.push(post);
                return;
            }
        };
    }

    /// Takes out those from `at` on that `is_dead`, looking at no more than `budget`. Returns where to go on
    /// and how many are gone. Order is not kept. The caller drops a list that this leaves empty.
    pub(super) fn sweep(
        &mut self,
        mut at: usize,
        budget: &mut usize,
        mut is_dead: impl FnMut(u32) -> bool,
    ) -> (usize, usize) {
        if let Posts::Many(list) = self {
            let before = list.len();
            while *budget > 0 && at < list.len() {
                *budget -= 1;
                if is_dead(list[at]) {
                    list.swap_remove(at);
                } else {
                    at += 1;
                }
            }
            let gone = before - list.len();
            shrink_sparse(list);
            if let Some(short) = Self::short(list) {
                *self = short;
            }
            return (at, gone);
        }
        let before = self.as_slice().len();
        *budget = budget.saturating_sub(before);
        let (mut live, mut left) = ([0; 4], 0);
        for post in self.as_slice().iter().copied().filter(|post| !is_dead(*post)) {
            live[left] = post;
            left += 1;
        }
        *self = Self::short(&live[..left]).unwrap_or(Posts::Many(Vec::new()));
        (left, before - left)
    }

    fn short(list: &[u32]) -> Option<Self> {
        match *list {
            [a] => Some(Posts::One([a])),
            [a, b] => Some(Posts::Two([a, b])),
            [a, b, c] => Some(Posts::Three([a, b, c])),
            [a, b, c, d] => Some(Posts::Four([a, b, c, d])),
            _ => None,
        }
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Posts::Many(list) => list.capacity() * size_of::<u32>(),
            _ => 0,
        }
    }
}
