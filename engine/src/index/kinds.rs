//! Kind lists, each distinct one kept once, and the code that a posting group keeps instead.

use hashbrown::HashTable;
use slab::Slab;

use super::term::{IndexTerm, KeyedHash};
use crate::types::Kind;

/// Which kinds a group matches: any, one kind, or a set by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KindsCode(u32);

impl KindsCode {
    pub(super) const ANY: KindsCode = KindsCode(u32::MAX);
    /// From here on the code is a set's id; below, it is a kind.
    const SETS: u32 = 1 << 16;

    fn set(self) -> Option<usize> {
        (self.0 >= Self::SETS && self != Self::ANY).then(|| (self.0 - Self::SETS) as usize)
    }
}

/// The distinct kind lists of two kinds and more, reference-counted.
#[derive(Debug, Default)]
pub(super) struct KindSets {
    /// Hash and id of each.
    table: HashTable<(u32, u32)>,
    sets: Slab<KindSet>,
    list_bytes: usize,
}

#[derive(Debug)]
struct KindSet {
    /// Bit k for kind k, below 64: most events and most lists stay in there.
    low: u64,
    sorted: Box<[Kind]>,
    hash: u32,
    references: u32,
}

impl KindSets {
    /// The code of a sorted list, with one more reference.
    pub(super) fn add_ref_to_list(&mut self, kinds: Option<&[Kind]>, keyed: &KeyedHash) -> KindsCode {
        match kinds {
            None => KindsCode::ANY,
            Some([kind]) => KindsCode(u32::from(*kind)),
            Some(list) => {
                let code = self.intern(list, keyed);
                self.add_ref(code);
                code
            }
        }
    }

    fn intern(&mut self, list: &[Kind], keyed: &KeyedHash) -> KindsCode {
        let hash = hash_list(list, keyed);
        let (sets, same) = (&self.sets, |set: &KindSet| *set.sorted == *list);
        let found =
            self.table.find(u64::from(hash), |(other, id)| *other == hash && same(&sets[*id as usize]));
        if let Some((_, id)) = found {
            return KindsCode(KindsCode::SETS + id);
        }
        let low = list.iter().filter(|kind| **kind < 64).fold(0, |bits, kind| bits | 1 << kind);
        let set = KindSet { low, sorted: list.into(), hash, references: 0 };
        self.list_bytes += size_of_val(list);
        let id = self.sets.insert(set) as u32;
        self.table.insert_unique(u64::from(hash), (hash, id), |(hash, _)| u64::from(*hash));
        KindsCode(KindsCode::SETS + id)
    }

    pub(super) fn add_ref(&mut self, code: KindsCode) {
        if let Some(set) = code.set() {
            self.sets[set].references += 1;
        }
    }

    pub(super) fn release(&mut self, code: KindsCode) {
        let Some(at) = code.set() else { return };
        let set = &mut self.sets[at];
        set.references -= 1;
        if set.references > 0 {
            return;
        }
        let KindSet { sorted, hash, .. } = self.sets.remove(at);
        self.list_bytes -= size_of_val(&*sorted);
        if let Ok(entry) = self.table.find_entry(u64::from(hash), |(_, id)| *id as usize == at) {
            entry.remove();
        }
        if self.table.is_empty() {
            *self = KindSets::default();
        } else if self.table.capacity() > 64 && self.table.len() * 8 < self.table.capacity() {
            self.table.shrink_to(self.table.len() * 2, |(hash, _)| u64::from(*hash));
            self.sets.shrink_to_fit();
        }
    }

    #[inline]
    pub(super) fn allow(&self, code: KindsCode, kind: Kind) -> bool {
        if code == KindsCode::ANY || code.0 == u32::from(kind) {
            return true;
        }
        let Some(set) = code.set() else { return false };
        let set = &self.sets[set];
        if kind < 64 { set.low >> kind & 1 == 1 } else { set.sorted.binary_search(&kind).is_ok() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.sets.capacity() * size_of::<Option<KindSet>>() + self.list_bytes + self.table.allocation_size()
    }
}

/// Clients choose the lists, so they are hashed with the key as well.
fn hash_list(list: &[Kind], keyed: &KeyedHash) -> u32 {
    let mut state = [0u8; 32];
    let mut hash = list.len() as u32;
    for block in list.chunks(14) {
        state[..4].copy_from_slice(&hash.to_le_bytes());
        for (bytes, kind) in state[4..].chunks_exact_mut(2).zip(block.iter().chain(std::iter::repeat(&0))) {
            bytes.copy_from_slice(&kind.to_le_bytes());
        }
        hash = keyed.hash(&IndexTerm::block(state));
    }
    hash
}
