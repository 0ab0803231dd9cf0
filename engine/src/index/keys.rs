//! The keys of posting lists: ids, authors, kinds and tag values ([`IndexTerm`]), interned to dense ids.

use hashbrown::HashTable;

use super::ids::{FreeIds, next_id, shrink_sparse};
use super::pages::{PAGE, Pages};
use super::postings::Group;
use super::term::{COUNTERS, DIGESTS_AT, IndexTerm, KeyedHash, TAGS_AT, TermKind};

/// One interned key.
#[derive(Debug)]
pub(super) struct InternedTerm {
    /// Its term, taken apart so that a key fills one cache line.
    words: [u64; 4],
    kind: TermKind,
    /// Conditions that name this key without a posting on it.
    references: u32,
    /// Its postings; see [`Group`].
    pub(super) groups: Vec<Group>,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<InternedTerm>() == 64, "a cache line");

impl InternedTerm {
    fn is_free(&self) -> bool {
        self.kind == TermKind::NONE
    }

    fn is_term(&self, term: &IndexTerm) -> bool {
        self.words == term.words && self.kind == term.kind
    }
}

impl Default for InternedTerm {
    /// One that is free.
    fn default() -> Self {
        InternedTerm { words: [0; 4], kind: TermKind::NONE, references: 0, groups: Vec::new() }
    }
}

/// The interning table. Terms are spread over partitions, so that growing one is a pause of microseconds.
#[derive(Debug)]
pub(super) struct InternedTerms {
    keyed: KeyedHash,
    partitions: Box<[HashTable<(u32, u32)>]>,
    keys: Pages<InternedTerm>,
    /// The last event that each key was a term of.
    pub(super) stamps: Vec<u32>,
    free: FreeIds,
    counts: Box<[u32; COUNTERS]>,
    table_bytes: usize,
}

const PARTITIONS: usize = 256;

impl InternedTerms {
    pub(super) fn new(keyed: KeyedHash) -> Self {
        InternedTerms {
            keyed,
            partitions: (0..PARTITIONS).map(|_| HashTable::new()).collect(),
            keys: Pages::new(),
            stamps: Vec::new(),
            free: FreeIds::default(),
            counts: Box::new([0; COUNTERS]),
            table_bytes: 0,
        }
    }

    /// The hash, as the tables take it, and the partition. The tables read the lowest and the highest bits, the partition
    /// is chosen by bits between.
    fn locate(&self, term: &IndexTerm) -> (u32, u64, usize) {
        let hash = self.keyed.hash(term);
        (hash, spread(hash), (hash >> 17) as usize % PARTITIONS)
    }

    pub(super) fn find(&self, term: &IndexTerm) -> Option<u32> {
        let (hash, spread, partition) = self.locate(term);
        let keys = &self.keys;
        let same =
            |(other, id): &(u32, u32)| *other == hash && keys.get(*id).is_some_and(|key| key.is_term(term));
        self.partitions[partition].find(spread, same).map(|(_, id)| *id)
    }

    /// The id of `term`, new if necessary. Takes no reference: add a posting or call [`InternedTerms::add_ref`].
    pub(super) fn intern(&mut self, term: &IndexTerm) -> u32 {
        if let Some(id) = self.find(term) {
            return id;
        }
        let (hash, spread_hash, partition) = self.locate(term);
        let IndexTerm { words, kind } = *term;
        let key = InternedTerm { words, kind, references: 0, groups: Vec::new() };
        let id = self.free.take(self.slots()).unwrap_or_else(|| {
            let id = next_id(self.stamps.len());
            self.stamps.push(0);
            id
        });
        self.keys.fill(id, key);
        let table = &mut self.partitions[partition];
        self.table_bytes -= table.allocation_size();
        table.insert_unique(spread_hash, (hash, id), |(hash, _)| spread(*hash));
        self.table_bytes += table.allocation_size();
        self.counts[term.kind.counter()] += 1;
        id
    }

    pub(super) fn add_ref(&mut self, id: u32) {
        if let Some(key) = self.keys.get_mut(id) {
            key.references += 1;
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        if let Some(key) = self.keys.get_mut(id) {
            key.references -= 1;
        }
        self.free_unused(id);
    }

    /// Forgets the key if it has no posting and no condition refers to it.
    pub(super) fn free_unused(&mut self, id: u32) {
        let Some(key) = self.keys.get(id) else { return };
        if key.is_free() || key.references > 0 || !key.groups.is_empty() {
            return;
        }
        let term = IndexTerm { words: key.words, kind: key.kind };
        self.keys.clear(id);
        self.counts[term.kind.counter()] -= 1;
        let (_, spread_hash, partition) = self.locate(&term);
        let table = &mut self.partitions[partition];
        self.table_bytes -= table.allocation_size();
        if let Ok(entry) = table.find_entry(spread_hash, |(_, other)| *other == id) {
            entry.remove();
        }
        if table.len() * 8 < table.capacity() {
            table.shrink_to(table.len() * 2, |(hash, _)| spread(*hash));
        }
        self.table_bytes += table.allocation_size();
        self.free.release(id);
    }

    /// Drops up to `budget` free keys from the end; whether there may be more.
    pub(super) fn trim(&mut self, budget: &mut usize) -> bool {
        while let Some(last) = self.slots().checked_sub(1) {
            let cut = match self.keys.get(last as u32) {
                None => last % PAGE + 1,
                Some(key) if key.is_free() => 1,
                Some(_) => break,
            };
            if *budget == 0 {
                return true;
            }
            *budget -= 1;
            self.stamps.truncate(self.stamps.len() - cut);
        }
        self.keys.truncate(self.slots());
        shrink_sparse(&mut self.stamps);
        self.free.shrink(self.slots());
        false
    }

    /// The postings of a key.
    #[inline]
    pub(super) fn groups(&self, id: u32) -> &[Group] {
        self.keys.get(id).map_or(&[], |key| &key.groups)
    }

    /// The postings of a key; `None` if the page of this id has been freed.
    pub(super) fn groups_mut(&mut self, id: u32) -> Option<&mut Vec<Group>> {
        self.keys.get_mut(id).map(|key| &mut key.groups)
    }

    /// Keys, free ones included: all ids are below.
    pub(super) fn slots(&self) -> usize {
        self.stamps.len()
    }

    pub(super) fn keyed(&self) -> &KeyedHash {
        &self.keyed
    }

    pub(super) fn has(&self, kind: TermKind) -> bool {
        self.counts[kind.counter()] > 0
    }

    pub(super) fn has_tags(&self) -> bool {
        self.counts[TAGS_AT..].iter().any(|count| *count > 0)
    }

    /// The key of an event's tag. Spends nothing on a letter that no filter names, and no digest unless
    /// a filter has a long value of that letter.
    pub(super) fn find_tag(&self, letter: u8, value: &[u8]) -> Option<u32> {
        let long = self.counts[DIGESTS_AT + usize::from(letter)] > 0;
        if !long && self.counts[TAGS_AT + usize::from(letter)] == 0 {
            return None;
        }
        match IndexTerm::short_tag(letter, value) {
            Some(term) => self.find(&term),
            None if long => self.find(&IndexTerm::tag(letter, value)),
            None => None,
        }
    }

    /// Heap bytes without the postings.
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.stamps.capacity() * size_of::<u32>()
            + self.free.bytes()
            + PARTITIONS * size_of::<HashTable<(u32, u32)>>()
            + size_of_val(&*self.counts)
            + self.table_bytes
    }
}

/// Repeats the hash in both halves: hashbrown takes the bucket from the low bits and the control tag from the high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
