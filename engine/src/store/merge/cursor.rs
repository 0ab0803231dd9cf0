//! A place in one term's postings.

use std::collections::VecDeque;

use crate::store::{Bound, Posting, Rank};

/// Postings read at once by a cursor that has been read for long.
pub(super) const CHUNK_MAX: usize = 256;

/// A place in one term's postings.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) lane: usize,
    /// Whether it reads the terms of the lane's walk. When the walk is over, such a cursor is dropped.
    pub(super) of_walk: bool,
    /// Index into the lane's terms.
    pub(super) term: usize,
    /// Where the next read begins.
    pub(super) start: Bound,
    /// Postings to read next time.
    pub(super) chunk: usize,
    /// Whether it has been read on before.
    is_deep: bool,
    /// Nothing comes after what is buffered.
    pub(super) exhausted: bool,
    buffered: VecDeque<Posting>,
}

impl Cursor {
    pub(super) fn new(lane: usize, of_walk: bool, term: usize, start: Bound, chunk: usize) -> Self {
        Cursor {
            lane,
            of_walk,
            term,
            start,
            chunk,
            is_deep: false,
            exhausted: false,
            buffered: VecDeque::new(),
        }
    }

    /// One over postings that have been read already, in order.
    pub(super) fn of_postings(lane: usize, postings: Vec<Posting>) -> Self {
        let nowhere = Bound::From(Rank::newest(0));
        Cursor { exhausted: true, buffered: postings.into(), ..Cursor::new(lane, false, 0, nowhere, 1) }
    }

    /// A quarter the second time, then twice as many each time. A page that is spread over many cursors needs
    /// a little more of most of them, and rows that nobody needs are what an answer costs.
    pub(super) fn grow(&mut self) {
        self.chunk = match std::mem::replace(&mut self.is_deep, true) {
            true => (self.chunk * 2).min(CHUNK_MAX),
            false => (self.chunk / 4).max(4),
        };
    }

    /// Takes in postings that were read from `start` on.
    pub(super) fn buffer(&mut self, postings: &[Posting]) {
        if let Some(last) = postings.last() {
            self.start = Bound::After(last.rank, last.seq);
            self.buffered.extend(postings);
        }
    }

    pub(super) fn next_buffered(&mut self) -> Option<Posting> {
        self.buffered.pop_front()
    }
}
