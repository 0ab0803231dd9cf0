//! Many filters read as one list of candidates in the order of answers.
//!
//! Each filter is a **lane** with one or many cursors over terms; a heap merges the cursors of all lanes. What
//! comes out are groups of candidates of one rank, nearly always a single event, together with the lanes that
//! they may match. Whether they do is for the caller to decide, who reads the events. The state is owned and
//! borrows nothing, so it outlives the reader of each step.
//!
//! **Wide filters.** A filter for thousands of authors has a cursor an author, and opening all of them costs a
//! look-up each, of which a page of fifty events needs few. So such a lane first *walks* a broad term, the kind's
//! or all events', in order, with the authors as a check on each event, as long as that fills the page sooner than
//! opening the cursors would. When it does not, the cursors are opened after the place reached: everything before
//! it has been seen, so nothing is lost or repeated. The walk ends at the latest when it has cost as much as
//! opening the cursors, so a wide filter never costs more than twice the better way.

mod cursor;
mod lane;
mod source;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Bound, Posting, Rank, Reader, Seq, StoreError, TermClasses};
use crate::types::{CanonicalEvent, EventId, Filter};
use cursor::Cursor;
use lane::{Lane, Progress};

/// The highest sequence number there can be.
const SEQ_MAX: Seq = Seq((1 << 47) - 1);

/// What comes next in a [`Merge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// [`Merge::candidate`] has one.
    Candidate,
    /// The rows are used up; there may be more.
    OutOfRows,
    /// There is no more.
    End,
}

/// One event that some lanes may match.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) posting: Posting,
    /// The lanes, ascending, and whether the posting alone proves that they match.
    pub(super) lanes: Vec<(usize, bool)>,
}

/// Candidates of all filters in the order of answers.
#[derive(Debug)]
pub(super) struct Merge {
    classes: TermClasses,
    horizon: Seq,
    lanes: Vec<Lane>,
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Head>,
    /// Cursors to read on before anything is merged, next one last.
    dry: Vec<usize>,
    /// Lanes up to this one have their cursors.
    opened: usize,
    /// Pairs of one rank; in the order of answers once `gathered`.
    group: Vec<(Posting, usize, bool)>,
    gathered: bool,
    /// Pairs at the front of `group` that have been dealt with.
    taken: usize,
    current: Candidate,
    scratch: Vec<Posting>,
}

/// A cursor's first posting.
#[derive(Clone, Copy, Debug)]
struct Head {
    posting: Posting,
    cursor: usize,
}

impl Ord for Head {
    /// Reversed, because the heap's greatest comes out first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.posting.rank, other.posting.seq, other.cursor).cmp(&(
            self.posting.rank,
            self.posting.seq,
            self.cursor,
        ))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl Merge {
    /// One lane a filter, of which `wanted` events are expected to be asked for. Only events up to `horizon`
    /// come out. `walks` allows wide filters to walk.
    pub(super) fn new(
        filters: &[Filter],
        wanted: impl Fn(usize) -> u64,
        classes: TermClasses,
        horizon: Seq,
        walks: bool,
    ) -> Self {
        let lanes = filters
            .iter()
            .enumerate()
            .map(|(index, filter)| Lane::new(filter, wanted(index), walks))
            .collect();
        let nowhere = Rank::newest(0);
        let none = Posting { rank: nowhere, seq: Seq(0), kind: 0, expires: false };
        Merge {
            classes,
            horizon,
            lanes,
            cursors: Vec::new(),
            heap: BinaryHeap::new(),
            dry: Vec::new(),
            opened: 0,
            group: Vec::new(),
            gathered: false,
            taken: 0,
            current: Candidate { posting: none, lanes: Vec::new() },
            scratch: Vec::new(),
        }
    }

    /// Takes a lane out: its filter wants nothing more.
    pub(super) fn close(&mut self, lane: usize) {
        self.lanes[lane].close();
    }

    /// Rows a lane's cursors have read so far.
    pub(super) fn rows_of(&self, lane: usize) -> u64 {
        self.lanes[lane].rows
    }

    /// Records whether a lane's last candidate matched, and how many more events its filter wants.
    pub(super) fn judged(&mut self, lane: usize, matched: bool, wanted: u64) {
        self.lanes[lane].judged(matched, wanted);
    }

    /// Reads until there is a candidate that has not been [`Merge::pass`]ed; that is a row a posting read, and
    /// one a call at least. Choosing between ways to answer one filter may overdraw `rows` by up to about 400.
    pub(super) fn next<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<Next, StoreError> {
        loop {
            if self.gathered {
                if self.front() {
                    return Ok(Next::Candidate);
                }
                self.leave_group(filters);
            }
            while self.opened < self.lanes.len() {
                if *rows == 0 {
                    return Ok(Next::OutOfRows);
                }
                self.open(filters, reader, rows)?;
            }
            if let Some(&cursor) = self.dry.last() {
                if *rows == 0 {
                    return Ok(Next::OutOfRows);
                }
                self.read_on(cursor, filters, reader, rows)?;
                continue;
            }
            match self.heap.peek() {
                Some(head) if self.group.last().is_none_or(|last| last.0.rank == head.posting.rank) => {
                    self.take_head(filters);
                }
                None if self.group.is_empty() => return Ok(Next::End),
                _ => {
                    self.order_group(reader, rows)?;
                    self.gathered = true;
                }
            }
        }
    }

    /// The candidate that [`Merge::next`] announced.
    pub(super) fn candidate(&self) -> &Candidate {
        &self.current
    }

    /// Moves past the candidate.
    pub(super) fn pass(&mut self) {
        let seq = self.current.posting.seq;
        while self.group.get(self.taken).is_some_and(|pair| pair.0.seq == seq) {
            self.taken += 1;
        }
    }

    /// Sets the current candidate from the front of the group, without lanes closed since it was gathered.
    fn front(&mut self) -> bool {
        while let Some(&(posting, ..)) = self.group.get(self.taken) {
            self.current.posting = posting;
            self.current.lanes.clear();
            for &(other, lane, decided) in &self.group[self.taken..] {
                if other.seq != posting.seq {
                    break;
                }
                if !self.lanes[lane].is_closed()
                    && self.current.lanes.last().is_none_or(|last| last.0 != lane)
                {
                    self.current.lanes.push((lane, decided));
                }
            }
            if !self.current.lanes.is_empty() {
                return true;
            }
            self.pass();
        }
        false
    }

    fn leave_group(&mut self, filters: &[Filter]) {
        let rank = self.group[0].0.rank;
        self.group.clear();
        self.taken = 0;
        self.gathered = false;
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].is_walk_over() {
                self.end_walk(lane, filters, Bound::After(rank, SEQ_MAX));
            }
        }
    }

    /// Puts the gathered pairs in the order of answers. One rank is one event but for ids that share eight
    /// bytes; then the whole ids decide, and events that have been removed are left out.
    fn order_group<R: Reader>(&mut self, reader: &R, rows: &mut usize) -> Result<(), StoreError> {
        let first = self.group[0].0.seq;
        if self.group.iter().all(|pair| pair.0.seq == first) {
            self.group.sort_unstable_by_key(|pair| pair.1);
            return Ok(());
        }
        let mut seqs: Vec<Seq> = self.group.iter().map(|pair| pair.0.seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        let mut ids: Vec<(Seq, Option<EventId>)> = Vec::with_capacity(seqs.len());
        for seq in seqs {
            *rows = rows.saturating_sub(1);
            ids.push((seq, reader.event(seq)?.map(|json| CanonicalEvent::trusted(&json).id())));
        }
        let id_of = |seq: Seq| {
            let place = ids.binary_search_by_key(&seq, |entry| entry.0).expect("every seq was looked up");
            ids[place].1
        };
        // A removed event sorts first, and is skipped when it is read.
        self.group.sort_unstable_by_key(|&(posting, lane, _)| (id_of(posting.seq), posting.seq, lane));
        Ok(())
    }

    fn take_head(&mut self, filters: &[Filter]) {
        let Some(Head { posting, cursor }) = self.heap.pop() else {
            return;
        };
        let Cursor { lane, of_walk, .. } = self.cursors[cursor];
        if self.lanes[lane].is_closed() || self.lanes[lane].is_walking() != of_walk {
            return;
        }
        match self.cursors[cursor].next_buffered() {
            Some(posting) => self.heap.push(Head { posting, cursor }),
            None if self.cursors[cursor].exhausted => {}
            None => self.dry.push(cursor),
        }
        if posting.seq <= self.horizon && filters[lane].matches_kind(posting.kind) {
            self.group.push((posting, lane, self.lanes[lane].decides()));
        } else if self.lanes[lane].skipped() {
            self.end_walk(lane, filters, Bound::After(posting.rank, posting.seq));
        }
    }

    fn end_walk(&mut self, lane: usize, filters: &[Filter], start: Bound) {
        self.lanes[lane].end_walk();
        self.dry.retain(|&cursor| self.cursors[cursor].lane != lane);
        self.add_cursors(lane, &filters[lane], start);
    }

    fn add_cursors(&mut self, lane: usize, filter: &Filter, start: Bound) {
        let Some(terms) = self.lanes[lane].terms() else { return };
        let (count, chunk) = (terms.source.len(filter), self.lanes[lane].first_chunk(terms, filter));
        let of_walk = self.lanes[lane].is_walking();
        let first = self.cursors.len();
        self.cursors.extend((0..count).map(|term| Cursor::new(lane, of_walk, term, start, chunk)));
        self.dry.extend((first..self.cursors.len()).rev());
    }

    /// Opens the next lane, or the next part of one that looks up ids.
    fn open<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<(), StoreError> {
        let (index, filter) = (self.opened, &filters[self.opened]);
        let lane = &mut self.lanes[index];
        if lane.is_closed() || filter.is_empty() {
            self.opened += 1;
            return Ok(());
        }
        match lane.look_up(filter, reader, rows)? {
            Progress::NoIds => {}
            Progress::More => return Ok(()),
            Progress::Done(found) => {
                self.add_found(index, found);
                self.opened += 1;
                return Ok(());
            }
        }
        lane.choose((filter, filters.len()), self.classes, reader, rows)?;
        self.add_cursors(index, filter, Bound::From(Rank::newest(filter.until.unwrap_or(u64::MAX))));
        self.opened += 1;
        Ok(())
    }

    fn add_found(&mut self, lane: usize, mut found: Vec<Posting>) {
        found.sort_unstable();
        let mut cursor = Cursor::of_postings(lane, found);
        if let Some(posting) = cursor.next_buffered() {
            self.heap.push(Head { posting, cursor: self.cursors.len() });
        }
        self.cursors.push(cursor);
    }

    fn read_on<R: Reader>(
        &mut self,
        index: usize,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<(), StoreError> {
        let cursor = &mut self.cursors[index];
        let lane = &mut self.lanes[cursor.lane];
        let Some(terms) = lane.terms().filter(|_| lane.is_walking() == cursor.of_walk) else {
            self.dry.pop();
            return Ok(());
        };
        let filter = &filters[cursor.lane];
        let max = cursor.chunk.min(*rows);
        self.scratch.clear();
        let term = terms.source.term(filter, cursor.term);
        reader.postings(&term, cursor.start, filter.since.unwrap_or(0), max, &mut self.scratch)?;
        let used = self.scratch.len().max(1);
        *rows -= used.min(*rows);
        lane.rows += used as u64;
        cursor.exhausted = self.scratch.len() < max;
        cursor.grow();
        cursor.buffer(&self.scratch);
        if let Some(posting) = cursor.next_buffered() {
            self.heap.push(Head { posting, cursor: index });
        }
        self.dry.pop();
        Ok(())
    }
}
