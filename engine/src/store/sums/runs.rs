//! The blocks of one run of postings: numbers and sums up to a rank. A block is read where a rank falls into it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{SummedBlock, SummedPart};
use crate::store::backend::{Posting, Rank, Reader, StoreError};
use crate::types::{EventId, IdSum};

/// Blocks that are kept, once they have been read: some ten kilobytes each.
const BLOCKS_KEPT_MAX: usize = 1_024;

/// How many events, and the sum of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Aggregate {
    pub(super) count: i64,
    pub(super) sum: IdSum,
}

impl Aggregate {
    pub(super) fn of(id: &EventId) -> Self {
        Aggregate { count: 1, sum: IdSum::of(id) }
    }

    pub(super) fn add(&mut self, other: Aggregate) {
        self.count += other.count;
        self.sum.add(other.sum);
    }

    pub(super) fn subtract(&mut self, other: Aggregate) {
        self.count -= other.count;
        self.sum.subtract(other.sum);
    }

    pub(super) fn add_signed(&mut self, other: Aggregate, is_subtracted: bool) {
        if is_subtracted { self.subtract(other) } else { self.add(other) }
    }
}

fn of_block(block: &SummedBlock) -> Aggregate {
    Aggregate { count: block.postings.into(), sum: block.sum }
}

/// The rank of a block's first key, which is a posting's.
fn rank_of(block: &SummedBlock) -> Rank {
    // A key that is not a posting would be an error of the store; it gets the last rank.
    block.first.posting().map_or(Rank { created_at: 0, prefix: u64::MAX }, |posting| posting.rank)
}

/// A block that was read.
#[derive(Debug)]
struct ReadBlock {
    postings: Vec<Posting>,
    ids: Box<[Cell<Option<EventId>>]>,
}

/// Reads blocks and ids, and counts that.
#[derive(Debug)]
pub(super) struct BlockReader<'a, R> {
    pub(super) reader: &'a R,
    read: RefCell<FxHashMap<(i64, usize), Rc<ReadBlock>>>,
    /// Blocks that were read.
    pub(super) blocks: Cell<usize>,
    /// Ids that were looked up.
    pub(super) ids: Cell<usize>,
    /// Ids that may be looked up, where each block that is read counts as 16.
    pub(super) max: usize,
}

impl<'a, R: Reader> BlockReader<'a, R> {
    pub(super) fn new(reader: &'a R) -> Self {
        let (read, blocks, ids) = (RefCell::default(), Cell::default(), Cell::default());
        BlockReader { reader, read, blocks, ids, max: usize::MAX }
    }

    /// Whether it has read more than it may.
    pub(super) fn is_exhausted(&self) -> bool {
        self.ids.get() + 16 * self.blocks.get() > self.max
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.is_exhausted() {
            true => Err(StoreError::Failed("an answer from sums reads too much".into())),
            false => Ok(()),
        }
    }

    /// Counts what takes as long as so many look-ups.
    pub(super) fn charge(&self, ids: usize) {
        self.ids.set(self.ids.get() + ids);
    }

    pub(super) fn id_of(&self, posting: &Posting) -> Result<EventId, StoreError> {
        self.ids.set(self.ids.get() + 1);
        self.check()?;
        self.reader.id_of(posting)
    }

    fn block(&self, part: &SummedPart, block: usize) -> Result<Rc<ReadBlock>, StoreError> {
        if let Some(read) = self.read.borrow().get(&(part.page, block)) {
            return Ok(Rc::clone(read));
        }
        self.blocks.set(self.blocks.get() + 1);
        self.check()?;
        let mut postings = Vec::new();
        self.reader.block_postings(part, block, &mut postings)?;
        let expected = part.of_page.blocks.get(block).map_or(0, |block| block.postings);
        if postings.len() != expected as usize {
            return Err(StoreError::Corrupt("a block has other postings than were summed".into()));
        }
        let ids = postings.iter().map(|_| Cell::new(None)).collect();
        let read = Rc::new(ReadBlock { postings, ids });
        let mut known = self.read.borrow_mut();
        if known.len() >= BLOCKS_KEPT_MAX {
            known.clear();
        }
        known.insert((part.page, block), Rc::clone(&read));
        Ok(read)
    }

    fn id_in(&self, block: &ReadBlock, at: usize) -> Result<EventId, StoreError> {
        if let Some(id) = block.ids[at].get() {
            return Ok(id);
        }
        let id = self.id_of(&block.postings[at])?;
        block.ids[at].set(Some(id));
        Ok(id)
    }

    fn sum_in(&self, block: &ReadBlock, range: std::ops::Range<usize>) -> Result<IdSum, StoreError> {
        let mut sum = IdSum::default();
        for at in range {
            sum.add(IdSum::of(&self.id_in(block, at)?));
        }
        Ok(sum)
    }
}

/// A run of a term's postings in a range, in the order of answers.
#[derive(Debug)]
pub(super) struct SummedRun {
    /// Its events are not in the set.
    pub(super) is_subtracted: bool,
    /// Parts, and what is before each.
    parts: Vec<(SummedPart, Aggregate)>,
    pub(super) total: Aggregate,
}

impl SummedRun {
    pub(super) fn new(parts: Vec<SummedPart>, is_subtracted: bool) -> Self {
        let mut total = Aggregate::default();
        let with_sums = |part: SummedPart| {
            let before = total;
            part.of_page.blocks[part.blocks.clone()].iter().for_each(|block| total.add(of_block(block)));
            (part, before)
        };
        let parts = parts.into_iter().map(with_sums).collect();
        SummedRun { is_subtracted, parts, total }
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.parts.iter().map(|(part, _)| part.blocks.len()).sum()
    }

    /// The newest `created_at` that it may have.
    pub(super) fn newest(&self) -> u64 {
        let first = self.parts.first().and_then(|(part, _)| part.of_page.blocks.get(part.blocks.start));
        first.map_or(0, |block| rank_of(block).created_at)
    }

    /// The part and the block in which the first posting of `rank` or after it may be, and what is before that block; `None` if no
    /// posting is before `rank`.
    fn place(&self, rank: Rank) -> Option<(usize, usize, Aggregate)> {
        let first_of = |part: &SummedPart| part.of_page.blocks.get(part.blocks.start).map(rank_of);
        let after = self.parts.partition_point(|(part, _)| first_of(part).is_some_and(|first| first < rank));
        let at = after.checked_sub(1)?;
        let (part, before) = &self.parts[at];
        let blocks = &part.of_page.blocks[part.blocks.clone()];
        let block = blocks.partition_point(|block| rank_of(block) < rank).saturating_sub(1);
        let mut before = *before;
        blocks[..block].iter().for_each(|block| before.add(of_block(block)));
        Some((at, part.blocks.start + block, before))
    }

    /// The least and the greatest number of postings before `rank`, without reading any.
    pub(super) fn bounds(&self, rank: Rank) -> (i64, i64) {
        self.place(rank).map_or((0, 0), |(part, block, before)| {
            (before.count, before.count + i64::from(self.parts[part].0.of_page.blocks[block].postings))
        })
    }

    /// How many postings are before `rank`.
    pub(super) fn count_before<R: Reader>(
        &self,
        rank: Rank,
        reader: &BlockReader<'_, R>,
    ) -> Result<i64, StoreError> {
        let Some((part, block, before)) = self.place(rank) else { return Ok(0) };
        let read = reader.block(&self.parts[part].0, block)?;
        Ok(before.count + read.postings.partition_point(|posting| posting.rank < rank) as i64)
    }

    /// The postings before `rank`.
    pub(super) fn before<R: Reader>(
        &self,
        rank: Rank,
        reader: &BlockReader<'_, R>,
    ) -> Result<Aggregate, StoreError> {
        let Some((at, block, mut before)) = self.place(rank) else { return Ok(Aggregate::default()) };
        let part = &self.parts[at].0;
        let read = reader.block(part, block)?;
        let (len, all) = (read.postings.len(), of_block(&part.of_page.blocks[block]));
        let count = read.postings.partition_point(|posting| posting.rank < rank);
        // Of the two sides the one with fewer ids to look up.
        if count <= len / 2 {
            before.add(Aggregate { count: count as i64, sum: reader.sum_in(&read, 0..count)? });
        } else {
            before.add(all);
            let after = reader.sum_in(&read, count..len)?;
            before.subtract(Aggregate { count: (len - count) as i64, sum: after });
        }
        Ok(before)
    }

    /// Calls `each` with the postings from `first` to `last`, both included, and their ids.
    pub(super) fn each<R: Reader>(
        &self,
        first: Rank,
        last: Rank,
        reader: &BlockReader<'_, R>,
        each: &mut dyn FnMut(&Posting, EventId),
    ) -> Result<(), StoreError> {
        let (mut at, mut block) = match self.place(first) {
            Some((at, block, _)) => (at, block),
            None => (0, self.parts.first().map_or(0, |(part, _)| part.blocks.start)),
        };
        while let Some((part, _)) = self.parts.get(at) {
            if block >= part.blocks.end {
                at += 1;
                block = self.parts.get(at).map_or(0, |(part, _)| part.blocks.start);
                continue;
            }
            if rank_of(&part.of_page.blocks[block]) > last {
                break;
            }
            let read = reader.block(part, block)?;
            let from = read.postings.partition_point(|posting| posting.rank < first);
            for (index, posting) in read.postings.iter().enumerate().skip(from) {
                if posting.rank > last {
                    return Ok(());
                }
                each(posting, reader.id_in(&read, index)?);
            }
            block += 1;
        }
        Ok(())
    }
}
