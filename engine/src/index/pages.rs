//! A table by dense ids, in pages of 512 entries: growing copies nothing, and the memory of a page without used entries
//! is given back, wherever it is. In one long list a single entry near the end would hold the memory of all before it.

/// Entries of a page.
pub(super) const PAGE: usize = 512;

/// A page, and how many of its entries are in use.
#[derive(Debug)]
struct Page<T> {
    entries: Box<[T]>,
    used: usize,
}

/// The table. An entry that is not in use is [`Default`], and takes memory only while another of its page is.
#[derive(Debug)]
pub(super) struct Pages<T> {
    pages: Vec<Option<Page<T>>>,
    held: usize,
}

impl<T: Default> Pages<T> {
    pub(super) fn new() -> Self {
        Pages { pages: Vec::new(), held: 0 }
    }

    /// Puts an entry in use.
    pub(super) fn fill(&mut self, id: u32, entry: T) {
        let (page, offset) = (id as usize / PAGE, id as usize % PAGE);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let held = &mut self.held;
        let page = self.pages[page].get_or_insert_with(|| {
            *held += 1;
            Page { entries: (0..PAGE).map(|_| T::default()).collect(), used: 0 }
        });
        page.entries[offset] = entry;
        page.used += 1;
    }

    /// Ends the use of an entry.
    pub(super) fn clear(&mut self, id: u32) {
        let Some(slot) = self.pages.get_mut(id as usize / PAGE) else { return };
        let Some(page) = slot else { return };
        page.entries[id as usize % PAGE] = T::default();
        page.used -= 1;
        if page.used == 0 {
            *slot = None;
            self.held -= 1;
        }
    }

    /// An entry, unless its page has been given back.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.pages.get(id as usize / PAGE)?.as_ref().map(|page| &page.entries[id as usize % PAGE])
    }

    /// An entry, unless its page has been given back.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.pages.get_mut(id as usize / PAGE)?.as_mut().map(|page| &mut page.entries[id as usize % PAGE])
    }

    /// Drops the slots of pages from entry `len` on, in which nothing is in use.
    pub(super) fn truncate(&mut self, len: usize) {
        self.pages.truncate(len.div_ceil(PAGE));
        super::ids::shrink_sparse(&mut self.pages);
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        self.held * PAGE * size_of::<T>() + self.pages.capacity() * size_of::<Option<Page<T>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_lives_as_long_as_one_of_its_entries() {
        let mut pages: Pages<u64> = Pages::new();
        (0..4 * PAGE as u32).for_each(|id| pages.fill(id, u64::from(id) + 1));
        let full = pages.bytes();
        (0..4 * PAGE as u32 - 1).for_each(|id| pages.clear(id));
        assert!(pages.bytes() < full / 3, "the last entry holds its own page only");
        assert_eq!((pages.get(0), pages.get(4 * PAGE as u32 - 1)), (None, Some(&(4 * PAGE as u64))));
        pages.fill(1, 7);
        assert_eq!((pages.get(0), pages.get(1), pages.get(2)), (Some(&0), Some(&7), Some(&0)));
        pages.clear(1);
        pages.clear(4 * PAGE as u32 - 1);
        pages.truncate(0);
        assert_eq!(pages.bytes(), 0);
    }
}
