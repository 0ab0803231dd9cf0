//! What postings hang on: ids, authors, kinds and tag values ([`Name`]), interned to dense ids.

use hashbrown::HashTable;

use super::ids::{FreeIds, next_id, shrink_sparse};
use super::name::{COUNTERS, DIGESTS_AT, Dimension, KeyedHash, Name, TAGS_AT};
use super::postings::Group;

/// One interned key.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name, taken apart so that a key fills one cache line.
    words: [u64; 4],
    dimension: Dimension,
    /// Conditions that name this key without a posting on it.
    holders: u32,
    /// Its postings; see [`Group`].
    pub(super) groups: Vec<Group>,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Key>() == 64, "a cache line");

impl Key {
    fn is_free(&self) -> bool {
        self.dimension == Dimension::NONE
    }

    fn is_called(&self, name: &Name) -> bool {
        self.words == name.words && self.dimension == name.dimension
    }
}

/// The interning table. Names are spread over shards, so that growing one is a pause of microseconds.
#[derive(Debug)]
pub(super) struct Keys {
    keyed: KeyedHash,
    shards: Box<[HashTable<(u32, u32)>]>,
    keys: Vec<Key>,
    /// The last event that each key was a term of.
    pub(super) stamps: Vec<u32>,
    free: FreeIds,
    counts: Box<[u32; COUNTERS]>,
    table_bytes: usize,
}

const SHARDS: usize = 256;

impl Keys {
    pub(super) fn new(keyed: KeyedHash) -> Self {
        Keys {
            keyed,
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            keys: Vec::new(),
            stamps: Vec::new(),
            free: FreeIds::default(),
            counts: Box::new([0; COUNTERS]),
            table_bytes: 0,
        }
    }

    /// The hash, as the tables take it, and the shard. The tables read the lowest and the highest bits, the
    /// shard is told by bits between.
    fn place(&self, name: &Name) -> (u32, u64, usize) {
        let hash = self.keyed.hash(name);
        (hash, spread(hash), (hash >> 17) as usize % SHARDS)
    }

    pub(super) fn find(&self, name: &Name) -> Option<u32> {
        let (hash, spread, shard) = self.place(name);
        let keys = &self.keys;
        let same = |(other, id): &(u32, u32)| *other == hash && keys[*id as usize].is_called(name);
        self.shards[shard].find(spread, same).map(|(_, id)| *id)
    }

    /// The id of `name`, new if need be. Holds nothing: give it a posting or [`Keys::hold`] it.
    pub(super) fn intern(&mut self, name: &Name) -> u32 {
        if let Some(id) = self.find(name) {
            return id;
        }
        let (hash, spread_hash, shard) = self.place(name);
        let Name { words, dimension } = *name;
        let key = Key { words, dimension, holders: 0, groups: Vec::new() };
        let id = match self.free.take(self.keys.len()) {
            Some(id) => {
                self.keys[id as usize] = key;
                id
            }
            None => {
                let id = next_id(self.keys.len());
                self.keys.push(key);
                self.stamps.push(0);
                id
            }
        };
        let table = &mut self.shards[shard];
        self.table_bytes -= table.allocation_size();
        table.insert_unique(spread_hash, (hash, id), |(hash, _)| spread(*hash));
        self.table_bytes += table.allocation_size();
        self.counts[name.dimension.counter()] += 1;
        id
    }

    pub(super) fn hold(&mut self, id: u32) {
        self.keys[id as usize].holders += 1;
    }

    pub(super) fn release(&mut self, id: u32) {
        self.keys[id as usize].holders -= 1;
        self.free_unused(id);
    }

    /// Forgets the key if no posting hangs on it and no condition holds it.
    pub(super) fn free_unused(&mut self, id: u32) {
        let key = &mut self.keys[id as usize];
        if key.is_free() || key.holders > 0 || !key.groups.is_empty() {
            return;
        }
        key.groups = Vec::new();
        let dimension = std::mem::replace(&mut key.dimension, Dimension::NONE);
        let name = Name { words: key.words, dimension };
        self.counts[name.dimension.counter()] -= 1;
        let (_, spread_hash, shard) = self.place(&name);
        let table = &mut self.shards[shard];
        self.table_bytes -= table.allocation_size();
        if let Ok(entry) = table.find_entry(spread_hash, |(_, other)| *other == id) {
            entry.remove();
        }
        if table.len() * 8 < table.capacity() {
            table.shrink_to(table.len() * 2, |(hash, _)| spread(*hash));
        }
        self.table_bytes += table.allocation_size();
        self.free.give(id);
    }

    /// Drops up to `budget` free keys from the end; whether there may be more.
    pub(super) fn trim(&mut self, budget: &mut usize) -> bool {
        while self.keys.last().is_some_and(Key::is_free) {
            if *budget == 0 {
                return true;
            }
            *budget -= 1;
            self.keys.pop();
            self.stamps.pop();
        }
        shrink_sparse(&mut self.keys);
        shrink_sparse(&mut self.stamps);
        self.free.shrink(self.keys.len());
        false
    }

    pub(super) fn key(&self, id: u32) -> &Key {
        &self.keys[id as usize]
    }

    pub(super) fn groups_mut(&mut self, id: u32) -> &mut Vec<Group> {
        &mut self.keys[id as usize].groups
    }

    /// Keys, free ones included: all ids are below.
    pub(super) fn slots(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn keyed(&self) -> &KeyedHash {
        &self.keyed
    }

    pub(super) fn has(&self, dimension: Dimension) -> bool {
        self.counts[dimension.counter()] > 0
    }

    pub(super) fn has_tags(&self) -> bool {
        self.counts[TAGS_AT..].iter().any(|count| *count > 0)
    }

    /// The key of an event's tag. Spends nothing on a letter that nobody asks about, and no digest unless
    /// somebody asks for a long value of that letter.
    pub(super) fn find_tag(&self, letter: u8, value: &[u8]) -> Option<u32> {
        let long = self.counts[DIGESTS_AT + usize::from(letter)] > 0;
        if !long && self.counts[TAGS_AT + usize::from(letter)] == 0 {
            return None;
        }
        match Name::short_tag(letter, value) {
            Some(name) => self.find(&name),
            None if long => self.find(&Name::tag(letter, value)),
            None => None,
        }
    }

    /// Heap bytes without the postings.
    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<Key>()
            + self.stamps.capacity() * size_of::<u32>()
            + self.free.bytes()
            + SHARDS * size_of::<HashTable<(u32, u32)>>()
            + size_of_val(&*self.counts)
            + self.table_bytes
    }
}

/// Both halves alike: the tables take the bucket from one end and the tag byte from the other.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
