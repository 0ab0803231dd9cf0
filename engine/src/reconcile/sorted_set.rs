//! A set in memory: 40 bytes an event, in sorted chunks that versions of the set share.
//!
//! A change copies the chunk that it is in, if another version has it too, so a version of a large set costs little more
//! than what has changed since the one before. Each chunk knows the sum of its ids, and each version the sums of all chunks
//! before each, so the sum of any range reads parts of two chunks at most.

use std::ops::Range;
use std::sync::Arc;

use super::{CountedBytes, EventSet, IdSum, Item, StoreError, TotalBytes};

/// Most events of a chunk: 20 KiB.
const CHUNK_ITEMS: usize = 512;
/// What a chunk takes beside its events.
const CHUNK_BYTES: usize = size_of::<Chunk>() + 16;
/// What a chunk's place in a version takes.
const PLACE_BYTES: usize = size_of::<Arc<Chunk>>() + size_of::<(usize, IdSum)>() + size_of::<Item>();

/// Some events that follow each other in a set; never none.
#[derive(Clone, Debug)]
struct Chunk {
    items: Vec<Item>,
    sum: IdSum,
    bytes: CountedBytes,
}

impl Chunk {
    fn new(items: Vec<Item>, total: &TotalBytes) -> Self {
        let sum = sum_of(&items);
        let mut chunk = Chunk { items, sum, bytes: total.count(0) };
        chunk.count_bytes();
        chunk
    }

    fn count_bytes(&mut self) {
        self.bytes.set(CHUNK_BYTES + self.items.capacity() * size_of::<Item>());
    }

    fn last(&self) -> &Item {
        &self.items[self.items.len() - 1]
    }

    /// The sum of its first `len` events.
    fn sum_of_first(&self, len: usize) -> IdSum {
        if len <= self.items.len() / 2 {
            return sum_of(&self.items[..len]);
        }
        let mut sum = self.sum;
        sum.subtract(sum_of(&self.items[len..]));
        sum
    }
}

fn sum_of(items: &[Item]) -> IdSum {
    let mut sum = IdSum::default();
    items.iter().for_each(|item| sum.add(IdSum::of(&item.id)));
    sum
}

/// A set that events are added to and removed from.
#[derive(Clone, Debug)]
pub struct MutableSet {
    chunks: Vec<Arc<Chunk>>,
    len: usize,
    total: TotalBytes,
}

impl MutableSet {
    /// An empty set, whose memory is counted in `total`.
    pub fn new(total: &TotalBytes) -> Self {
        MutableSet { chunks: Vec::new(), len: 0, total: total.clone() }
    }

    /// How many events.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the whole set; what it shares with versions of itself is counted once in the total.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.get()).sum()
    }

    /// Adds an event; false if it is there already. Costs a move of up to a chunk, and a copy of it if a version shares it.
    /// Chunks are full where events come in descending or ascending order.
    pub fn insert(&mut self, item: Item) -> bool {
        let at = self.chunks.partition_point(|chunk| *chunk.last() < item);
        let Some(chunk) = self.chunks.get(at) else {
            return self.append(item);
        };
        let Err(position) = chunk.items.binary_search(&item) else { return false };
        if chunk.items.len() == CHUNK_ITEMS {
            if position == 0 {
                self.chunks.insert(at, Arc::new(Chunk::new(vec![item], &self.total)));
                self.len += 1;
                return true;
            }
            self.split(at);
            return self.insert(item);
        }
        self.insert_at(at, position, item);
        true
    }

    /// Adds an event that is above all others.
    fn append(&mut self, item: Item) -> bool {
        match self.chunks.last() {
            Some(chunk) if chunk.items.len() < CHUNK_ITEMS => {
                self.insert_at(self.chunks.len() - 1, chunk.items.len(), item);
            }
            _ => {
                self.chunks.push(Arc::new(Chunk::new(vec![item], &self.total)));
                self.len += 1;
            }
        }
        true
    }

    fn insert_at(&mut self, at: usize, position: usize, item: Item) {
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        let capacity = chunk.items.capacity();
        if capacity == chunk.items.len() {
            // Never more than a chunk has.
            chunk.items.reserve_exact(capacity.max(4).min(CHUNK_ITEMS - capacity));
        }
        chunk.items.insert(position, item);
        chunk.sum.add(IdSum::of(&item.id));
        chunk.count_bytes();
        self.len += 1;
    }

    fn split(&mut self, at: usize) {
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        let upper = chunk.items.split_off(chunk.items.len() / 2);
        chunk.sum = sum_of(&chunk.items);
        chunk.count_bytes();
        self.chunks.insert(at + 1, Arc::new(Chunk::new(upper, &self.total)));
    }

    /// Cost of taking an event out: a version that is held makes it copy a chunk, some twelve microseconds.
    pub fn removal_cost(&self, item: &Item) -> usize {
        const COPY_COST: usize = 12;
        let at = self.chunks.partition_point(|chunk| chunk.last() < item);
        let is_shared = self.chunks.get(at).is_some_and(|chunk| Arc::strong_count(chunk) > 1);
        1 + if is_shared { COPY_COST } else { 0 }
    }

    /// Takes an event out; false if it is not there.
    pub fn remove(&mut self, item: &Item) -> bool {
        let at = self.chunks.partition_point(|chunk| chunk.last() < item);
        let Some(position) = self.chunks.get(at).and_then(|chunk| chunk.items.binary_search(item).ok())
        else {
            return false;
        };
        self.len -= 1;
        if self.chunks[at].items.len() == 1 {
            self.chunks.remove(at);
            return true;
        }
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        chunk.items.remove(position);
        chunk.sum.subtract(IdSum::of(&item.id));
        true
    }

    /// The set as it is now. Costs some nanoseconds a chunk.
    pub fn version(&self) -> SortedSet {
        let mut before = Vec::with_capacity(self.chunks.len());
        let mut lasts = Vec::with_capacity(self.chunks.len());
        let (mut start, mut sum) = (0, IdSum::default());
        for chunk in &self.chunks {
            before.push((start, sum));
            lasts.push(*chunk.last());
            start += chunk.items.len();
            sum.add(chunk.sum);
        }
        let bytes = self.total.count(before.len() * PLACE_BYTES);
        SortedSet { chunks: self.chunks.clone(), before, lasts, len: start, bytes }
    }
}

/// A set that does not change.
#[derive(Clone, Debug)]
pub struct SortedSet {
    chunks: Vec<Arc<Chunk>>,
    /// The events before each chunk, and the sum of their ids.
    before: Vec<(usize, IdSum)>,
    /// The last event of each chunk: a search reads one chunk only.
    lasts: Vec<Item>,
    len: usize,
    /// Of its places.
    bytes: CountedBytes,
}

impl SortedSet {
    /// Bytes of the set, those included that other versions share.
    pub fn bytes(&self) -> usize {
        self.bytes.get() + self.chunks.iter().map(|chunk| chunk.bytes.get()).sum::<usize>()
    }

    /// The chunk that has the event at `position`, which is below the length.
    fn chunk_at(&self, position: usize) -> usize {
        self.before.partition_point(|(start, _)| *start <= position) - 1
    }

    /// The sum of the ids of the first `len` events.
    fn sum_of_first(&self, len: usize) -> IdSum {
        if len == 0 {
            return IdSum::default();
        }
        let at = self.chunk_at(len - 1);
        let (start, mut sum) = self.before[at];
        sum.add(self.chunks[at].sum_of_first(len - start));
        sum
    }
}

impl EventSet for SortedSet {
    fn len(&self) -> usize {
        self.len
    }

    fn position(&self, range: Range<usize>, bound: &Item) -> Result<usize, StoreError> {
        let at = self.lasts.partition_point(|last| last < bound);
        let position = match self.chunks.get(at) {
            Some(chunk) => self.before[at].0 + chunk.items.partition_point(|item| item < bound),
            None => self.len,
        };
        Ok(position.clamp(range.start, range.end))
    }

    fn list(&self, range: Range<usize>, each: &mut dyn FnMut(Item) -> bool) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        let mut left = range.len();
        let at = self.chunk_at(range.start);
        let mut skipped = range.start - self.before[at].0;
        for chunk in &self.chunks[at..] {
            for item in chunk.items.iter().skip(skipped).take(left) {
                if !each(*item) {
                    return Ok(());
                }
                left -= 1;
            }
            if left == 0 {
                break;
            }
            skipped = 0;
        }
        Ok(())
    }

    fn sum(&self, range: Range<usize>) -> Result<IdSum, StoreError> {
        let mut sum = self.sum_of_first(range.end);
        sum.subtract(self.sum_of_first(range.start));
        Ok(sum)
    }
}
