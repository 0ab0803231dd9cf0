//! The author cache (LRU): lifted keys and combs of authors with valid signatures, within a budget of bytes.

use crate::curve::tables::{COMB_LEN, Comb};
use crate::field::AffinePoint;
use crate::key_hash::{KeyMap, KeyState};

/// Memory of an author without a comb, including the map, in bytes.
pub(crate) const AUTHOR_BYTES: usize = 256;
/// Memory of a comb, in bytes.
pub(crate) const COMB_BYTES: usize = COMB_LEN * size_of::<AffinePoint>() + 16;

const NONE: u32 = u32::MAX;

/// An author by key.
#[derive(Clone, Debug)]
struct Author {
    key: [u8; 32],
    point: Option<AffinePoint>,
    comb: Option<Comb>,
    /// Valid claims so far.
    valid_claims: u32,
    newer: u32,
    older: u32,
}

/// The cache, with a linked list from the most to the least recently used author.
#[derive(Clone, Debug)]
pub(crate) struct Authors {
    bytes_max: usize,
    bytes: usize,
    // Clients choose the keys, so the map must have a seeded hash.
    slots: KeyMap<u32>,
    authors: Vec<Author>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
}

/// A cached author.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The lifted key, if it has been needed.
    pub(crate) point: Option<AffinePoint>,
    pub(crate) comb: Option<Comb>,
    /// Valid claims so far.
    pub(crate) valid_claims: u32,
}

/// The slot of an author, valid until the next insertion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthorSlot(u32);

impl Authors {
    pub(crate) fn new(bytes_max: usize, state: KeyState) -> Self {
        Authors {
            bytes_max,
            bytes: 0,
            slots: KeyMap::with_hasher(state),
            authors: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    #[cfg(test)]
    pub(crate) fn hasher(&self) -> &KeyState {
        self.slots.hasher()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Looks up an author. That does not count as use, because anybody can name an author in an invalid claim.
    pub(crate) fn look_up(&self, key: &[u8; 32]) -> Option<(AuthorSlot, Known)> {
        let slot = *self.slots.get(key)?;
        let Author { point, comb, valid_claims, .. } = &self.authors[slot as usize];
        Some((AuthorSlot(slot), Known { point: *point, comb: comb.clone(), valid_claims: *valid_claims }))
    }

    /// Counts valid claims of an author, who becomes the most recently used. Call it before any insertion.
    pub(crate) fn count(&mut self, AuthorSlot(slot): AuthorSlot, claims: u32) {
        self.unlink(slot);
        self.link(slot);
        let author = &mut self.authors[slot as usize];
        author.valid_claims = author.valid_claims.saturating_add(claims);
    }

    /// Inserts an author as the most recently used; evicts others if necessary.
    pub(crate) fn insert(&mut self, key: &[u8; 32], known: Known) {
        let cost = AUTHOR_BYTES + if known.comb.is_some() { COMB_BYTES } else { 0 };
        if cost > self.bytes_max {
            return;
        }
        if let Some(slot) = self.slots.get(key) {
            self.remove(*slot);
        }
        while self.bytes + cost > self.bytes_max {
            self.remove(self.oldest);
        }
        let Known { point, comb, valid_claims } = known;
        let author = Author { key: *key, point, comb, valid_claims, newer: NONE, older: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.authors[slot as usize] = author;
                slot
            }
            None => {
                self.authors.push(author);
                (self.authors.len() - 1) as u32
            }
        };
        self.slots.insert(*key, slot);
        self.link(slot);
        self.bytes += cost;
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let author = &mut self.authors[slot as usize];
        self.bytes -= AUTHOR_BYTES + if author.comb.take().is_some() { COMB_BYTES } else { 0 };
        self.slots.remove(&author.key);
        self.free.push(slot);
    }

    fn link(&mut self, slot: u32) {
        let newest = self.newest;
        let author = &mut self.authors[slot as usize];
        (author.newer, author.older) = (NONE, newest);
        if newest == NONE {
            self.oldest = slot;
        } else {
            self.authors[newest as usize].newer = slot;
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Author { newer, older, .. } = self.authors[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.authors[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.authors[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::G;

    fn key(number: u8) -> [u8; 32] {
        [number; 32]
    }

    fn known(has_comb: bool) -> Known {
        Known { point: Some(G), comb: has_comb.then(|| Comb::from(vec![])), valid_claims: 1 }
    }

    #[test]
    fn the_least_recently_used_is_evicted() {
        let mut authors = Authors::new(3 * AUTHOR_BYTES, KeyState::random());
        for number in 0..3 {
            authors.insert(&key(number), known(false));
        }
        let (slot, _) = authors.look_up(&key(0)).expect("it is kept");
        authors.count(slot, 1);
        assert_eq!(authors.look_up(&key(0)).expect("it is kept").1.valid_claims, 2);
        // A look-up does not count as use.
        assert!(authors.look_up(&key(1)).is_some());
        authors.insert(&key(3), known(false));
        assert!(authors.look_up(&key(1)).is_none());
        for kept in [0, 2, 3] {
            assert!(authors.look_up(&key(kept)).is_some());
        }
    }

    #[test]
    fn the_budget_is_never_exceeded() {
        let bytes_max = 5 * COMB_BYTES + 40 * AUTHOR_BYTES;
        let mut authors = Authors::new(bytes_max, KeyState::random());
        let mut state = 1u32;
        for _ in 0..if cfg!(miri) { 100 } else { 10_000 } {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (state >> 24) as u8;
            match state >> 16 & 3 {
                0 => authors.insert(&key(number), known(true)),
                1 => authors.insert(&key(number), known(false)),
                _ => {
                    if let Some((slot, _)) = authors.look_up(&key(number)) {
                        authors.count(slot, 1);
                    }
                }
            }
            assert!(authors.bytes() <= bytes_max);
            let listed = std::iter::successors(Some(authors.newest).filter(|slot| *slot != NONE), |slot| {
                Some(authors.authors[*slot as usize].older).filter(|slot| *slot != NONE)
            });
            let listed: Vec<u32> = listed.collect();
            assert_eq!(listed.len(), authors.len());
            let bytes: usize = listed
                .iter()
                .map(|slot| {
                    authors.authors[*slot as usize].comb.as_ref().map_or(0, |_| COMB_BYTES) + AUTHOR_BYTES
                })
                .sum();
            assert_eq!(bytes, authors.bytes());
        }
        assert!(authors.len() > 5);
    }

    #[test]
    fn an_author_larger_than_the_budget_is_not_cached() {
        let mut authors = Authors::new(AUTHOR_BYTES, KeyState::random());
        authors.insert(&key(1), known(true));
        assert_eq!(authors.len(), 0);
    }
}
