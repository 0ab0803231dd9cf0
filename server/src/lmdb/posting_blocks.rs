//! Sorted keys in an LMDB database; an entry holds a *block* of many postings of one term.
//!
//! ```text
//! key                      value
//! head  oldest:24          the block's newer postings:24 each, newest first, at most 170
//! id or expiry             nothing
//! ```
//!
//! A block is stored under its oldest posting. So the first entry at or after a bound holds the keys that follow the
//! bound, and adding a newer posting does not change the entry's key. If every posting were an entry, LMDB would split
//! the pages of an ordered stream into halves that stay half empty. A full block has an overflow page of its own
//! instead, which 170 postings fill to the last byte.

use std::ops::Bound;

use heed::types::Bytes;
use heed::{AnyTls, Database, RoTxn, RwTxn};
use relay_engine::store::kv::{POSTING_BYTES, posting_head};

/// An overflow page holds 4,096 bytes less a header of 16; one posting more is in the key.
const BLOCK_MAX: usize = 4080 / POSTING_BYTES + 1;

/// What follows the head of a posting's key.
type Tail = [u8; POSTING_BYTES];

/// The database of all sorted keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct PostingBlocks(pub(super) Database<'static, Bytes, Bytes>);

/// A stored block, copied out.
struct Block {
    key: Vec<u8>,
    /// Oldest last.
    tails: Vec<Tail>,
}

impl PostingBlocks {
    /// Calls `each` with up to `max` keys from `from` to `to`, both included, ascending.
    pub(super) fn keys(
        self,
        txn: &RoTxn<'_, AnyTls>,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> heed::Result<()> {
        let mut left = max;
        let mut buffer = Vec::new();
        for entry in self.0.range(txn, &(Bound::Included(from), Bound::Unbounded))? {
            let (key, value) = entry?;
            let (head, oldest) = split(key, value)?;
            let (newer, _) = value.as_chunks::<POSTING_BYTES>();
            buffer.clear();
            buffer.extend_from_slice(head);
            let skipped = match from.strip_prefix(head) {
                Some(from) if !newer.is_empty() => newer.partition_point(|tail| &tail[..] < from),
                _ => 0,
            };
            for tail in newer[skipped..].iter().map(|tail| &tail[..]).chain([oldest]) {
                buffer.truncate(head.len());
                buffer.extend_from_slice(tail);
                if left == 0 || &buffer[..] > to {
                    return Ok(());
                }
                each(&buffer);
                left -= 1;
            }
        }
        Ok(())
    }

    /// Adds keys that are not stored, in ascending order.
    pub(super) fn add<'k>(
        self,
        txn: &mut RwTxn<'_>,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> heed::Result<()> {
        let mut head: &[u8] = &[];
        let mut tails: Vec<Tail> = Vec::new();
        for key in keys {
            let Some((key_head, tail)) = posting_head(key) else {
                self.0.put(txn, key, &[])?;
                continue;
            };
            if key_head != head {
                self.add_postings(txn, head, &tails)?;
                tails.clear();
                head = key_head;
            }
            tails.push(*tail);
        }
        self.add_postings(txn, head, &tails)
    }

    fn add_postings(self, txn: &mut RwTxn<'_>, head: &[u8], mut adds: &[Tail]) -> heed::Result<()> {
        while let Some(first) = adds.first() {
            let (stored, these) = match self.block_at(txn, head, first)? {
                Some(block) => {
                    let taken = adds.partition_point(|add| Some(add) <= block.tails.last());
                    (block.tails, adds.split_off(..taken).unwrap_or_default())
                }
                None => (Vec::new(), std::mem::take(&mut adds)),
            };
            let mut tails = [&stored, these].concat();
            // Two sorted halves: the standard sort merges them.
            tails.sort();
            tails.dedup();
            let is_oldest = stored.is_empty();
            if is_oldest || tails.len() > BLOCK_MAX {
                // What does not fit moves to the newer neighbour, so that blocks fill up although events come
                // a little out of order, and although a few events dated in the future are newer than all of them.
                if let Some(newer) = self.block_before(txn, head, &tails[0])?
                    && newer.tails.len() < BLOCK_MAX
                {
                    self.0.delete(txn, &newer.key)?;
                    tails.splice(0..0, newer.tails);
                }
            }
            // The block that is not full is the one to which the next postings of an ordered stream will be added.
            match is_oldest {
                true => tails.chunks(BLOCK_MAX).try_for_each(|block| self.put_block(txn, head, block))?,
                false => tails
                    .rchunks(BLOCK_MAX)
                    .filter(|block| **block != *stored)
                    .try_for_each(|block| self.put_block(txn, head, block))?,
            }
        }
        Ok(())
    }

    fn put_block(self, txn: &mut RwTxn<'_>, head: &[u8], tails: &[Tail]) -> heed::Result<()> {
        match tails.split_last() {
            Some((oldest, newer)) => self.0.put(txn, &[head, oldest].concat(), newer.as_flattened()),
            None => Ok(()),
        }
    }

    /// Removes a key, if it is stored.
    pub(super) fn remove(self, txn: &mut RwTxn<'_>, key: &[u8]) -> heed::Result<()> {
        let Some((head, tail)) = posting_head(key) else {
            self.0.delete(txn, key)?;
            return Ok(());
        };
        let Some(mut block) = self.block_at(txn, head, tail)? else { return Ok(()) };
        let Ok(at) = block.tails.binary_search(tail) else { return Ok(()) };
        block.tails.remove(at);
        if at == block.tails.len() {
            self.0.delete(txn, &block.key)?;
        }
        self.put_block(txn, head, &block.tails)
    }

    /// The block that contains `tail`, or the next older one, to whose newer end it can be added.
    fn block_at(self, txn: &RwTxn<'_>, head: &[u8], tail: &Tail) -> heed::Result<Option<Block>> {
        let found = self.0.get_greater_than_or_equal_to(txn, &[head, tail].concat())?;
        Block::read(head, found)
    }

    /// The block that ends before `tail`.
    fn block_before(self, txn: &RwTxn<'_>, head: &[u8], tail: &Tail) -> heed::Result<Option<Block>> {
        let found = self.0.get_lower_than(txn, &[head, tail].concat())?;
        Block::read(head, found)
    }
}

impl Block {
    /// Parses an entry that was found, if it belongs to the term of `head`.
    fn read(head: &[u8], found: Option<(&[u8], &[u8])>) -> heed::Result<Option<Block>> {
        let Some((key, value)) = found else { return Ok(None) };
        let Some((_, oldest)) = posting_head(key).filter(|(key_head, _)| *key_head == head) else {
            return Ok(None);
        };
        split(key, value)?;
        let (newer, _) = value.as_chunks::<POSTING_BYTES>();
        let mut tails = Vec::with_capacity(newer.len() + 2);
        tails.extend_from_slice(newer);
        tails.push(*oldest);
        Ok(Some(Block { key: key.to_vec(), tails }))
    }
}

/// Splits an entry's key into the head, with which all keys of the entry begin, and the tail.
fn split<'k>(key: &'k [u8], value: &[u8]) -> heed::Result<(&'k [u8], &'k [u8])> {
    match posting_head(key) {
        Some((head, tail)) if value.len().is_multiple_of(POSTING_BYTES) => Ok((head, tail)),
        None if value.is_empty() => Ok((key, &[])),
        _ => Err(heed::Error::Decoding("a block of postings is truncated".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::RangeInclusive;

    use heed::CommitOrAbort;

    use super::*;
    use crate::lmdb::{LmdbOptions, open};

    /// A key of one of a few terms; the lower `at`, the newer its posting.
    fn key(term: u8, at: u64) -> Vec<u8> {
        let head = match term {
            0 => b"a".to_vec(),
            1 => b"k\x00\x01".to_vec(),
            2 => b"k\x00\x02".to_vec(),
            _ => [&[b'u'; 17][..], &[0]].concat(),
        };
        [&head[..], &at.to_be_bytes(), &[term; 16]].concat()
    }

    fn id(n: u64) -> Vec<u8> {
        [&b"i"[..], &n.to_be_bytes(), &[7; 32]].concat()
    }

    struct World {
        _folder: tempfile::TempDir,
        env: heed::Env<heed::WithoutTls>,
        blocks: PostingBlocks,
        model: BTreeSet<Vec<u8>>,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let options = LmdbOptions { map_bytes_max: 1 << 30, sync: false, ..LmdbOptions::default() };
            let env = open::environment(folder.path(), &options).expect("opens");
            let txn = env.write_txn().expect("write");
            let database = env
                .create_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
                    let database = opener.create_database::<Bytes, Bytes>(txn, None)?;
                    Ok(CommitOrAbort::<_, ()>::Commit(database))
                })
                .expect("creates")
                .unwrap_commit();
            World { _folder: folder, env, blocks: PostingBlocks(database), model: BTreeSet::new() }
        }

        fn add(&mut self, keys: impl IntoIterator<Item = Vec<u8>>) {
            let keys: BTreeSet<Vec<u8>> = keys.into_iter().filter(|key| !self.model.contains(key)).collect();
            let mut txn = self.env.write_txn().expect("write");
            self.blocks.add(&mut txn, keys.iter().map(|key| &key[..])).expect("add");
            txn.commit().expect("commit");
            self.model.extend(keys);
        }

        fn remove(&mut self, key: &[u8]) {
            let mut txn = self.env.write_txn().expect("write");
            self.blocks.remove(&mut txn, key).expect("remove");
            txn.commit().expect("commit");
            self.model.remove(key);
        }

        fn check(&self, range: RangeInclusive<Vec<u8>>, max: usize) {
            let txn = self.env.read_txn().expect("read");
            let mut found = Vec::new();
            let mut each = |key: &[u8]| found.push(key.to_vec());
            self.blocks.keys(&txn, range.start(), range.end(), max, &mut each).expect("keys");
            let expected: Vec<Vec<u8>> = match range.is_empty() {
                true => Vec::new(),
                false => self.model.range(range.clone()).take(max).cloned().collect(),
            };
            assert!(found == expected, "{range:?} {max}: {} keys, not {}", found.len(), expected.len());
        }

        fn check_all(&self) {
            self.check(vec![0]..=vec![0xff; 60], usize::MAX);
        }

        fn entries(&self) -> u64 {
            self.blocks.0.len(&self.env.read_txn().expect("read")).expect("length")
        }
    }

    #[test]
    fn random_changes_read_as_a_sorted_set() {
        let mut world = World::new();
        let mut state = 1u64;
        let mut below = move |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for round in 0..400 {
            // Phases of growth and of shrinking.
            if round % 100 < 70 {
                let batch: Vec<Vec<u8>> = (0..1 + below(60))
                    .map(|_| match below(10) {
                        0 => id(below(1000)),
                        n => key((n % 4) as u8, below(3_000)),
                    })
                    .collect();
                world.add(batch);
            } else {
                for _ in 0..30 {
                    let at = below(world.model.len() as u64 + 1) as usize;
                    let gone = world.model.iter().nth(at).cloned();
                    world.remove(&gone.unwrap_or_else(|| key(1, 99_999)));
                }
            }
            for _ in 0..10 {
                let (from, to) = (key(below(4) as u8, below(3_000)), key(below(4) as u8, below(3_000)));
                world.check(from..=to, [0, 1, 2, 100, usize::MAX][below(5) as usize]);
            }
            world.check(id(below(1000))..=id(below(1000)), 3);
        }
        world.check_all();
    }

    #[test]
    fn streams_in_either_direction_fill_their_blocks() {
        const N: u64 = 5_000;
        let full = N / BLOCK_MAX as u64 + 1;
        for batch in [1, 7, 1_000] {
            let newest_first = |world: &mut World, range: std::ops::Range<u64>| {
                for first in range.clone().step_by(batch) {
                    world.add((first..range.end.min(first + batch as u64)).map(|at| key(1, at)));
                }
            };
            let newest_last = |world: &mut World, range: std::ops::Range<u64>| {
                for last in range.clone().rev().step_by(batch) {
                    world.add(
                        (range.start.max((last + 1).saturating_sub(batch as u64))..=last)
                            .map(|at| key(1, at)),
                    );
                }
            };
            let mut world = World::new();
            newest_last(&mut world, 0..N);
            assert!(world.entries() <= full, "in order of time, {batch}: {} entries", world.entries());
            world.check_all();

            let mut world = World::new();
            newest_first(&mut world, 0..N);
            assert!(world.entries() <= full, "backwards, {batch}: {} entries", world.entries());
            world.check_all();

            // As events really arrive: some seconds out of order, and after a few that are dated in the future.
            let mut world = World::new();
            world.add((0..20).map(|at| key(1, at)));
            let jittered: Vec<u64> = (100..N).rev().map(|at| at ^ (at * 31 % 32)).collect();
            for batch in jittered.chunks(batch) {
                world.add(batch.iter().map(|at| key(1, *at)));
            }
            assert!(world.entries() <= full + 1, "jittered, {batch}: {} entries", world.entries());
            world.check_all();

            // Into a gap between older and newer ones, from both sides.
            let mut world = World::new();
            newest_last(&mut world, 3 * N..4 * N);
            newest_last(&mut world, 0..N);
            newest_first(&mut world, N..2 * N);
            newest_last(&mut world, 2 * N..3 * N);
            assert!(world.entries() <= 5 * full, "into a gap, {batch}: {} entries", world.entries());
            world.check_all();
        }
    }
}
