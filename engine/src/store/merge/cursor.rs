//! A cursor over one term's postings.

use crate::store::{Posting, Rank, StartAt};

/// Most postings that a cursor reads at once.
const CHUNK_MAX: usize = 256;
/// What a cursor may read at once however many there are.
const CHUNK_MIN: usize = 4;
/// Postings that all cursors of a request may read at once, together, while that is more than [`CHUNK_MIN`] each.
const CHUNKS_MAX: usize = 4_096;

/// Postings that each of `cursors` may read at once: what they hold is bounded for all of them together.
pub(super) fn chunk_max(cursors: usize) -> usize {
    (CHUNKS_MAX / cursors.max(1)).clamp(CHUNK_MIN, CHUNK_MAX)
}

/// Bytes that `cursors` hold at most, with their entries in the heap. Lists may have the capacity for twice as many.
pub(super) fn bytes_max(cursors: usize) -> usize {
    let cursor_bytes = size_of::<PostingCursor>() + size_of::<super::Head>();
    cursors * (2 * cursor_bytes + chunk_max(cursors) * size_of::<Posting>())
}

/// A cursor over one term's postings, with what it has read ahead.
#[derive(Debug)]
pub(super) struct PostingCursor {
    pub(super) filter_scan: u32,
    /// Index into the filter scan's terms.
    pub(super) term: u32,
    /// Whether it reads the terms of the filter scan's ordered scan. When that is over, such a cursor is dropped.
    pub(super) of_ordered_scan: bool,
    /// Whether it has been read on before.
    is_deep: bool,
    /// Nothing comes after what is buffered.
    pub(super) exhausted: bool,
    /// Postings to read next time.
    chunk: u16,
    /// Where reading goes on.
    pub(super) start: StartAt,
    /// What has been read and not merged, last one first.
    buffered: Vec<Posting>,
}

impl PostingCursor {
    /// One that reads `chunk` postings from `start` on.
    pub(super) fn new(
        filter_scan: usize,
        of_ordered_scan: bool,
        term: usize,
        start: StartAt,
        chunk: usize,
    ) -> Self {
        PostingCursor {
            filter_scan: filter_scan as u32,
            term: term as u32,
            of_ordered_scan,
            is_deep: false,
            exhausted: false,
            chunk: chunk as u16,
            start,
            buffered: Vec::new(),
        }
    }

    /// One over postings that have been read already, in order.
    pub(super) fn of_postings(filter_scan: usize, mut postings: Vec<Posting>) -> Self {
        let nowhere = StartAt::Rank(Rank::newest(0));
        postings.reverse();
        PostingCursor {
            exhausted: true,
            buffered: postings,
            ..PostingCursor::new(filter_scan, false, 0, nowhere, 1)
        }
    }

    /// Postings to read next.
    pub(super) fn chunk(&self) -> usize {
        usize::from(self.chunk)
    }

    /// A quarter the second time, then twice as many each time, up to `max`. A page that is spread over many cursors needs
    /// a little more of most of them, and postings that are not needed are what an answer costs.
    fn grow(&mut self, max: usize) {
        let chunk = match std::mem::replace(&mut self.is_deep, true) {
            true => self.chunk() * 2,
            false => (self.chunk() / 4).max(CHUNK_MIN),
        };
        self.chunk = chunk.min(max) as u16;
    }

    /// Takes in postings that were read from `start` on, of `asked`; the first of them is returned. Next time up to
    /// `chunk_max` are read.
    pub(super) fn fill(&mut self, postings: &[Posting], asked: usize, chunk_max: usize) -> Option<Posting> {
        self.exhausted = postings.len() < asked;
        self.grow(chunk_max);
        let (first, others) = postings.split_first()?;
        let last = others.last().unwrap_or(first);
        self.start = StartAt::After(last.rank, last.seq);
        self.buffered.reserve_exact(others.len());
        self.buffered.extend(others.iter().rev());
        Some(*first)
    }

    pub(super) fn next_buffered(&mut self) -> Option<Posting> {
        self.buffered.pop()
    }

    /// What has been read and not merged, in order.
    pub(super) fn into_buffered(mut self) -> Vec<Posting> {
        self.buffered.reverse();
        self.buffered
    }

    /// Postings that its list has the capacity for.
    pub(super) fn capacity(&self) -> usize {
        self.buffered.capacity()
    }
}
