//! Many filters read as one list of candidates in the order of answers.
//!
//! Each filter is a **lane** with one or many cursors over terms; a heap merges the cursors of all lanes. What
//! comes out are groups of candidates of one rank, nearly always a single event, together with the lanes that
//! they may match. Whether they do is for the caller to decide, which reads the events. The state is owned and
//! borrows nothing, so it outlives the reader of each step.
//!
//! **Wide filters.** A filter for thousands of authors has one cursor per author, and opening all of them costs a look-up
//! each, of which a page of fifty events needs few. So such a lane first makes a *broad scan*: it reads a broad term,
//! the kind's or all events', in order, with the authors as a check on each event, as long as that fills the page
//! sooner than opening the cursors would. When it does not, the cursors are opened after the position reached: everything
//! before it has been seen, so nothing is lost or repeated. The broad scan ends at the latest when it has cost as much
//! as opening the cursors, so a wide filter never costs more than twice the better way.
//!
//! **Memory.** A term has a cursor once it has been read and something was there, and all cursors of a merge together have
//! a bound on what they read ahead ([`cursor_bytes_max`]). [`Merge::release_cursors`] drops them all.

mod cursor;
mod lane;
mod source;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Bound, Posting, Rank, Reader, Seq, StoreError, TermClasses};
use crate::types::{CanonicalEvent, EventId, Filter};
use cursor::{PostingCursor, chunk_max};
use lane::{Lane, PROBE_TERMS_MAX, Progress};
use source::Source;

/// The highest sequence number there can be.
const SEQ_MAX: Seq = Seq((1 << 47) - 1);

/// What comes next in a [`Merge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeStep {
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
    cursors: Vec<PostingCursor>,
    /// Slots of `cursors` that are not in use.
    free: Vec<u32>,
    /// Postings that the lists of all cursors have the capacity for.
    capacity: usize,
    heap: BinaryHeap<Head>,
    /// Cursors to read on before anything is merged.
    dry: Vec<u32>,
    /// Cursors to open before that, next ones last.
    opening: Vec<Opening>,
    /// Lanes up to this one have their cursors, or are in `opening`.
    opened: usize,
    /// The rank of the last group; cursors that are opened later start after it.
    rank: Option<Rank>,
    /// Pairs of one rank; in the order of answers once `gathered`.
    group: Vec<(Posting, usize, bool)>,
    gathered: bool,
    /// Pairs at the front of `group` that have been dealt with.
    taken: usize,
    current: Candidate,
    scratch: Vec<Posting>,
}

/// Terms of a lane that have no cursor yet: a term under which nothing is stored has none at all.
#[derive(Debug)]
struct Opening {
    lane: usize,
    of_broad_scan: bool,
    terms: std::ops::Range<usize>,
    start: Bound,
    chunk: usize,
}

/// A cursor's first posting.
#[derive(Clone, Copy, Debug)]
struct Head {
    posting: Posting,
    cursor: u32,
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

/// Most bytes that the cursors of a scan or count over `filters`, which are normalised, come to hold; see
/// [`super::Scan::cursor_bytes`]. In a store without a term over all events, filters of every event may hold more.
pub fn cursor_bytes_max(filters: &[Filter], classes: TermClasses) -> usize {
    let cursors = |filter| Source::cursors_max(filter, filters.len(), classes, PROBE_TERMS_MAX);
    let ids = |filter: &Filter| filter.ids.as_ref().map_or(0, |ids| ids.len());
    cursor::bytes_max(filters.iter().map(cursors).sum())
        + filters.iter().map(ids).sum::<usize>() * size_of::<Posting>()
}

impl Merge {
    /// One lane a filter, of which `wanted` events are expected to be asked for. Only events up to `horizon`
    /// come out. `broad_scans` allows them for wide filters.
    pub(super) fn new(
        filters: &[Filter],
        wanted: impl Fn(usize) -> u64,
        classes: TermClasses,
        horizon: Seq,
        broad_scans: bool,
    ) -> Self {
        let lanes = filters
            .iter()
            .enumerate()
            .map(|(index, filter)| Lane::new(filter, wanted(index), broad_scans))
            .collect();
        let nowhere = Rank::newest(0);
        let none = Posting { rank: nowhere, seq: Seq(0), kind: 0, expires: false };
        Merge {
            classes,
            horizon,
            lanes,
            cursors: Vec::new(),
            free: Vec::new(),
            capacity: 0,
            heap: BinaryHeap::new(),
            dry: Vec::new(),
            opening: Vec::new(),
            opened: 0,
            rank: None,
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

    /// Bytes of its cursors and of what they have read, or ids have found. Lanes are not counted.
    pub(super) fn bytes(&self) -> usize {
        self.cursors.capacity() * size_of::<PostingCursor>()
            + (self.free.capacity() + self.dry.capacity()) * size_of::<u32>()
            + self.heap.capacity() * size_of::<Head>()
            + self.capacity * size_of::<Posting>()
    }

    /// Drops all cursors. They are opened again, at the cost of opening them, behind what has come out.
    pub(super) fn release_cursors(&mut self) {
        let mut unmerged = vec![Vec::new(); self.lanes.len()];
        if !self.gathered {
            for (posting, lane, _) in self.group.drain(..) {
                unmerged[lane].push(posting);
            }
        }
        for head in std::mem::take(&mut self.heap) {
            let cursor = &mut self.cursors[head.cursor as usize];
            let lane = cursor.lane as usize;
            if self.lanes[lane].is_found() {
                let none = PostingCursor::of_postings(lane, Vec::new());
                unmerged[lane].push(head.posting);
                unmerged[lane].extend(std::mem::replace(cursor, none).into_buffered());
            }
        }
        for (lane, unmerged) in self.lanes.iter_mut().zip(unmerged) {
            lane.release_cursors(unmerged);
        }
        (self.cursors, self.free, self.capacity) = (Vec::new(), Vec::new(), 0);
        (self.dry, self.opening, self.opened) = (Vec::new(), Vec::new(), 0);
        self.scratch = Vec::new();
    }

    /// Rows a lane's cursors have read so far.
    pub(super) fn rows_of(&self, lane: usize) -> u64 {
        self.lanes[lane].rows
    }

    /// Records whether a lane's last candidate matched, and how many more events its filter wants.
    pub(super) fn record_result(&mut self, lane: usize, matched: bool, wanted: u64) {
        self.lanes[lane].record_result(matched, wanted);
    }

    /// Reads until there is a candidate that has not been [`Merge::pass`]ed; that is a row a posting read, and
    /// one a call at least. Choosing between ways to answer one filter may overdraw `rows` by up to about 400.
    pub(super) fn next<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<MergeStep, StoreError> {
        loop {
            if self.gathered {
                if self.front() {
                    return Ok(MergeStep::Candidate);
                }
                self.leave_group(filters);
            }
            while self.opened < self.lanes.len() {
                if *rows == 0 {
                    return Ok(MergeStep::OutOfRows);
                }
                self.open(filters, reader, rows)?;
            }
            if !self.dry.is_empty() || !self.opening.is_empty() {
                if *rows == 0 {
                    return Ok(MergeStep::OutOfRows);
                }
                match self.opening.is_empty() {
                    true => self.read_on(filters, reader, rows)?,
                    false => self.open_next(filters, reader, rows)?,
                }
                continue;
            }
            match self.heap.peek() {
                Some(head) if self.group.last().is_none_or(|last| last.0.rank == head.posting.rank) => {
                    self.take_head(filters);
                }
                None if self.group.is_empty() => return Ok(MergeStep::End),
                _ => {
                    self.order_group(reader, rows)?;
                    self.gathered = true;
                    self.rank = self.group.first().map(|pair| pair.0.rank);
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
            if self.lanes[lane].is_broad_scan_over() {
                self.end_broad_scan(lane, filters, Bound::After(rank, SEQ_MAX));
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
            let index = ids.binary_search_by_key(&seq, |entry| entry.0).expect("every seq was looked up");
            ids[index].1
        };
        // A removed event sorts first, and is skipped when it is read.
        self.group.sort_unstable_by_key(|&(posting, lane, _)| (id_of(posting.seq), posting.seq, lane));
        Ok(())
    }

    fn take_head(&mut self, filters: &[Filter]) {
        let Some(Head { posting, cursor }) = self.heap.pop() else {
            return;
        };
        let PostingCursor { lane, of_broad_scan, exhausted, .. } = self.cursors[cursor as usize];
        let lane = lane as usize;
        if self.lanes[lane].is_closed() || self.lanes[lane].is_broad_scan() != of_broad_scan {
            return self.drop_cursor(cursor);
        }
        match self.cursors[cursor as usize].next_buffered() {
            Some(posting) => self.heap.push(Head { posting, cursor }),
            None if exhausted => self.drop_cursor(cursor),
            None => self.dry.push(cursor),
        }
        if posting.seq <= self.horizon && filters[lane].matches_kind(posting.kind) {
            self.group.push((posting, lane, self.lanes[lane].decides()));
        } else if self.lanes[lane].record_skip() {
            self.end_broad_scan(lane, filters, Bound::After(posting.rank, posting.seq));
        }
    }

    fn add_cursor(&mut self, cursor: PostingCursor) -> u32 {
        self.capacity += cursor.capacity();
        match self.free.pop() {
            Some(slot) => {
                self.cursors[slot as usize] = cursor;
                slot
            }
            None => {
                self.cursors.push(cursor);
                (self.cursors.len() - 1) as u32
            }
        }
    }

    fn drop_cursor(&mut self, slot: u32) {
        let nowhere = PostingCursor::of_postings(0, Vec::new());
        self.capacity -= std::mem::replace(&mut self.cursors[slot as usize], nowhere).capacity();
        self.free.push(slot);
    }

    /// Opens the cursors of the narrow terms; those of the broad scan are dropped when they are met next.
    fn end_broad_scan(&mut self, lane: usize, filters: &[Filter], start: Bound) {
        self.lanes[lane].end_broad_scan();
        self.open_terms(lane, filters, start);
    }

    /// Has the terms of a lane opened, each from `start` on.
    fn open_terms(&mut self, lane: usize, filters: &[Filter], start: Bound) {
        let filter = &filters[lane];
        let Some(terms) = self.lanes[lane].terms() else { return };
        let chunk = self.lanes[lane].first_chunk(terms, filter, filters.len());
        let terms = 0..terms.source.len(filter);
        let of_broad_scan = self.lanes[lane].is_broad_scan();
        self.opening.push(Opening { lane, of_broad_scan, terms, start, chunk });
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
        let newest = Rank::newest(filter.until.unwrap_or(u64::MAX));
        let start = match self.rank {
            Some(rank) if rank >= newest => Bound::After(rank, SEQ_MAX),
            _ => Bound::From(newest),
        };
        self.open_terms(index, filters, start);
        self.opened += 1;
        Ok(())
    }

    fn add_found(&mut self, lane: usize, mut found: Vec<Posting>) {
        found.sort_unstable();
        let mut cursor = PostingCursor::of_postings(lane, found);
        if let Some(posting) = cursor.next_buffered() {
            let cursor = self.add_cursor(cursor);
            self.heap.push(Head { posting, cursor });
        }
    }

    /// Opens a cursor.
    fn open_next<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<(), StoreError> {
        let Some(Opening { lane, of_broad_scan, terms, start, chunk }) = self.opening.last() else {
            return Ok(());
        };
        if terms.is_empty() || self.lanes[*lane].is_broad_scan() != *of_broad_scan {
            self.opening.pop();
            return Ok(());
        }
        let mut cursor = PostingCursor::new(*lane, *of_broad_scan, terms.start, *start, *chunk);
        let first = self.read(&mut cursor, filters, reader, rows)?;
        if let Some(Opening { terms, .. }) = self.opening.last_mut() {
            terms.start += 1;
        }
        if let Some(posting) = first {
            let cursor = self.add_cursor(cursor);
            self.heap.push(Head { posting, cursor });
        }
        Ok(())
    }

    /// Reads on where what was buffered has been merged.
    fn read_on<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<(), StoreError> {
        let Some(&slot) = self.dry.last() else { return Ok(()) };
        let nowhere = PostingCursor::of_postings(0, Vec::new());
        let mut cursor = std::mem::replace(&mut self.cursors[slot as usize], nowhere);
        let capacity = cursor.capacity();
        let first = self.read(&mut cursor, filters, reader, rows);
        self.capacity = self.capacity - capacity + cursor.capacity();
        self.cursors[slot as usize] = cursor;
        let first = first?;
        self.dry.pop();
        match first {
            Some(posting) => self.heap.push(Head { posting, cursor: slot }),
            None => self.drop_cursor(slot),
        }
        Ok(())
    }

    /// Reads a cursor's next postings, of which the first is returned; none if there are none, or its lane has gone over
    /// to other terms.
    fn read<R: Reader>(
        &mut self,
        cursor: &mut PostingCursor,
        filters: &[Filter],
        reader: &R,
        rows: &mut usize,
    ) -> Result<Option<Posting>, StoreError> {
        let (lane, filter) = (&mut self.lanes[cursor.lane as usize], &filters[cursor.lane as usize]);
        let Some(terms) = lane.terms().filter(|_| lane.is_broad_scan() == cursor.of_broad_scan) else {
            return Ok(None);
        };
        let asked = cursor.chunk().min(*rows);
        self.scratch.clear();
        let term = terms.source.term(filter, cursor.term as usize);
        let chunk_max = chunk_max(terms.source.len(filter) * filters.len());
        reader.postings(&term, cursor.start, filter.since.unwrap_or(0), asked, &mut self.scratch)?;
        let used = self.scratch.len().max(1);
        *rows -= used.min(*rows);
        lane.rows += used as u64;
        Ok(cursor.fill(&self.scratch, asked, chunk_max))
    }
}
