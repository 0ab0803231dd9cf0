//! Many filters read as one list of candidates in the order of answers.
//!
//! Each filter is a **filter scan** with one or many cursors over terms; a heap merges the cursors of all filter scans. What
//! comes out are groups of candidates of one rank, nearly always a single event, together with the filter scans that
//! they may match. Whether they do is for the caller to decide, which reads the events. The state is owned and
//! borrows nothing, so it outlives the reader of each step.
//!
//! **Wide filters.** A filter for thousands of authors has one cursor per author, and opening all of them costs a look-up
//! each, of which a page of fifty events needs few. So such a filter scan first makes an *ordered scan*: it reads a broad
//! term, the kind's or all events', in order, with the authors as a check on each event, as long as that fills the page
//! sooner than opening the cursors would. When it does not, the cursors are opened after the position reached: everything
//! before it has been seen, so nothing is lost or repeated. The ordered scan ends at the latest when it has cost as much
//! as opening the cursors, so a wide filter never costs more than twice the better way.
//!
//! **Memory.** A term has a cursor once it has been read and something was there, and all cursors of a merge together have
//! a bound on what they read ahead ([`cursor_bytes_max`]). [`Merge::release_cursors`] drops them all.

mod access_path;
mod cursor;
mod filter_scan;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Posting, Rank, Reader, Seq, StartAt, StoreError, TermClasses};
use crate::types::{CanonicalEvent, EventId, Filter};
pub(super) use access_path::AccessPath;
use cursor::{PostingCursor, chunk_max};
use filter_scan::{FilterScan, PROBE_TERMS_MAX, Progress};

/// The highest sequence number there can be.
const SEQ_MAX: Seq = Seq((1 << 47) - 1);

/// What comes next in a [`Merge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeStep {
    /// [`Merge::candidate`] has one.
    Candidate,
    /// The budget is used up; there may be more.
    OutOfBudget,
    /// There is no more.
    End,
}

/// One event that some filter scans may match.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) posting: Posting,
    /// The filter scans, ascending, and whether the posting alone proves that they match.
    pub(super) filter_scans: Vec<(usize, bool)>,
}

/// Candidates of all filters in the order of answers.
#[derive(Debug)]
pub(super) struct Merge {
    classes: TermClasses,
    horizon: Seq,
    filter_scans: Vec<FilterScan>,
    cursors: Vec<PostingCursor>,
    /// Slots of `cursors` that are not in use.
    free: Vec<u32>,
    /// Postings that the lists of all cursors have the capacity for.
    capacity: usize,
    heap: BinaryHeap<Head>,
    /// Cursors to read on before anything is merged.
    to_refill: Vec<u32>,
    /// Cursors to open before that, next ones last.
    opening: Vec<PendingCursors>,
    /// Filter scans up to this one have their cursors, or are in `opening`.
    opened: usize,
    /// The rank of the last group; cursors that are opened later start after it.
    rank: Option<Rank>,
    /// Pairs of one rank; in the order of answers once `gathered`.
    group: Vec<(Posting, usize, bool)>,
    gathered: bool,
    /// Pairs at the front of `group` that have been dealt with.
    handled: usize,
    current: Candidate,
    scratch: Vec<Posting>,
}

/// Terms of a filter scan that have no cursor yet: a term under which nothing is stored has none at all.
#[derive(Debug)]
struct PendingCursors {
    filter_scan: usize,
    of_ordered_scan: bool,
    terms: std::ops::Range<usize>,
    start: StartAt,
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
    let cursors = |filter| AccessPath::cursors_max(filter, filters.len(), classes, PROBE_TERMS_MAX);
    let ids = |filter: &Filter| filter.ids.as_ref().map_or(0, |ids| ids.len());
    cursor::bytes_max(filters.iter().map(cursors).sum())
        + filters.iter().map(ids).sum::<usize>() * size_of::<Posting>()
}

impl Merge {
    /// One filter scan a filter, of which `wanted` events are expected to be asked for. Only events up to `horizon`
    /// come out. `ordered_scans` allows them for wide filters.
    pub(super) fn new(
        filters: &[Filter],
        wanted: impl Fn(usize) -> u64,
        classes: TermClasses,
        horizon: Seq,
        ordered_scans: bool,
    ) -> Self {
        let filter_scans = filters
            .iter()
            .enumerate()
            .map(|(index, filter)| FilterScan::new(filter, wanted(index), ordered_scans))
            .collect();
        let nowhere = Rank::newest(0);
        let none = Posting { rank: nowhere, seq: Seq(0), kind: 0, expires: false };
        Merge {
            classes,
            horizon,
            filter_scans,
            cursors: Vec::new(),
            free: Vec::new(),
            capacity: 0,
            heap: BinaryHeap::new(),
            to_refill: Vec::new(),
            opening: Vec::new(),
            opened: 0,
            rank: None,
            group: Vec::new(),
            gathered: false,
            handled: 0,
            current: Candidate { posting: none, filter_scans: Vec::new() },
            scratch: Vec::new(),
        }
    }

    /// Takes a filter scan out: its filter wants nothing more.
    pub(super) fn close(&mut self, filter_scan: usize) {
        self.filter_scans[filter_scan].close();
    }

    /// Bytes of its cursors and of what they have read, or ids have found. The filter scans themselves are not counted.
    pub(super) fn bytes(&self) -> usize {
        self.cursors.capacity() * size_of::<PostingCursor>()
            + (self.free.capacity() + self.to_refill.capacity()) * size_of::<u32>()
            + self.heap.capacity() * size_of::<Head>()
            + self.capacity * size_of::<Posting>()
    }

    /// Drops all cursors. They are opened again, at the cost of opening them, behind what has come out.
    pub(super) fn release_cursors(&mut self) {
        let mut unmerged = vec![Vec::new(); self.filter_scans.len()];
        if !self.gathered {
            for (posting, filter_scan, _) in self.group.drain(..) {
                unmerged[filter_scan].push(posting);
            }
        }
        for head in std::mem::take(&mut self.heap) {
            let cursor = &mut self.cursors[head.cursor as usize];
            let filter_scan = cursor.filter_scan as usize;
            if self.filter_scans[filter_scan].is_found() {
                let none = PostingCursor::of_postings(filter_scan, Vec::new());
                unmerged[filter_scan].push(head.posting);
                unmerged[filter_scan].extend(std::mem::replace(cursor, none).into_buffered());
            }
        }
        for (filter_scan, unmerged) in self.filter_scans.iter_mut().zip(unmerged) {
            filter_scan.release_cursors(unmerged);
        }
        (self.cursors, self.free, self.capacity) = (Vec::new(), Vec::new(), 0);
        (self.to_refill, self.opening, self.opened) = (Vec::new(), Vec::new(), 0);
        self.scratch = Vec::new();
    }

    /// Cost of a filter scan's cursors so far.
    pub(super) fn cost_of(&self, filter_scan: usize) -> u64 {
        self.filter_scans[filter_scan].cost
    }

    /// Records whether a filter scan's last candidate matched, and how many more events its filter wants.
    pub(super) fn record_result(&mut self, filter_scan: usize, matched: bool, wanted: u64) {
        self.filter_scans[filter_scan].record_result(matched, wanted);
    }

    /// Reads until there is a candidate that has not been passed by [`Merge::advance`]; each posting read costs one, and
    /// each call at least one. Choosing between access paths of one filter may overdraw `budget` by up to about 400.
    pub(super) fn next<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        budget: &mut usize,
    ) -> Result<MergeStep, StoreError> {
        loop {
            if self.gathered {
                if self.front() {
                    return Ok(MergeStep::Candidate);
                }
                self.leave_group(filters);
            }
            while self.opened < self.filter_scans.len() {
                if *budget == 0 {
                    return Ok(MergeStep::OutOfBudget);
                }
                self.open(filters, reader, budget)?;
            }
            if !self.to_refill.is_empty() || !self.opening.is_empty() {
                if *budget == 0 {
                    return Ok(MergeStep::OutOfBudget);
                }
                match self.opening.is_empty() {
                    true => self.read_on(filters, reader, budget)?,
                    false => self.open_next(filters, reader, budget)?,
                }
                continue;
            }
            match self.heap.peek() {
                Some(head) if self.group.last().is_none_or(|last| last.0.rank == head.posting.rank) => {
                    self.take_head(filters);
                }
                None if self.group.is_empty() => return Ok(MergeStep::End),
                _ => {
                    self.order_group(reader, budget)?;
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
    pub(super) fn advance(&mut self) {
        let seq = self.current.posting.seq;
        while self.group.get(self.handled).is_some_and(|pair| pair.0.seq == seq) {
            self.handled += 1;
        }
    }

    /// Sets the current candidate from the front of the group, without filter scans closed since it was gathered.
    fn front(&mut self) -> bool {
        while let Some(&(posting, ..)) = self.group.get(self.handled) {
            self.current.posting = posting;
            self.current.filter_scans.clear();
            for &(other, filter_scan, decided) in &self.group[self.handled..] {
                if other.seq != posting.seq {
                    break;
                }
                if !self.filter_scans[filter_scan].is_closed()
                    && self.current.filter_scans.last().is_none_or(|last| last.0 != filter_scan)
                {
                    self.current.filter_scans.push((filter_scan, decided));
                }
            }
            if !self.current.filter_scans.is_empty() {
                return true;
            }
            self.advance();
        }
        false
    }

    fn leave_group(&mut self, filters: &[Filter]) {
        let rank = self.group[0].0.rank;
        self.group.clear();
        self.handled = 0;
        self.gathered = false;
        for filter_scan in 0..self.filter_scans.len() {
            if self.filter_scans[filter_scan].is_ordered_scan_over() {
                self.end_ordered_scan(filter_scan, filters, StartAt::After(rank, SEQ_MAX));
            }
        }
    }

    /// Puts the gathered pairs in the order of answers. One rank is one event but for ids that share eight
    /// bytes; then the whole ids decide, and events that have been removed are left out.
    fn order_group<R: Reader>(&mut self, reader: &R, budget: &mut usize) -> Result<(), StoreError> {
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
            *budget = budget.saturating_sub(1);
            ids.push((seq, reader.event(seq)?.map(|json| CanonicalEvent::trusted(&json).id())));
        }
        let id_of = |seq: Seq| {
            let index = ids.binary_search_by_key(&seq, |entry| entry.0).expect("every seq was looked up");
            ids[index].1
        };
        // A removed event sorts first, and is skipped when it is read.
        self.group.sort_unstable_by_key(|&(posting, filter_scan, _)| {
            (id_of(posting.seq), posting.seq, filter_scan)
        });
        Ok(())
    }

    fn take_head(&mut self, filters: &[Filter]) {
        let Some(Head { posting, cursor }) = self.heap.pop() else {
            return;
        };
        let PostingCursor { filter_scan, of_ordered_scan, exhausted, .. } = self.cursors[cursor as usize];
        let filter_scan = filter_scan as usize;
        if self.filter_scans[filter_scan].is_closed()
            || self.filter_scans[filter_scan].is_ordered_scan() != of_ordered_scan
        {
            return self.drop_cursor(cursor);
        }
        match self.cursors[cursor as usize].next_buffered() {
            Some(posting) => self.heap.push(Head { posting, cursor }),
            None if exhausted => self.drop_cursor(cursor),
            None => self.to_refill.push(cursor),
        }
        if posting.seq <= self.horizon && filters[filter_scan].matches_kind(posting.kind) {
            self.group.push((posting, filter_scan, self.filter_scans[filter_scan].decides()));
        } else if self.filter_scans[filter_scan].record_skip() {
            self.end_ordered_scan(filter_scan, filters, StartAt::After(posting.rank, posting.seq));
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

    /// Opens the cursors of the narrow terms; those of the ordered scan are dropped when they are met next.
    fn end_ordered_scan(&mut self, filter_scan: usize, filters: &[Filter], start: StartAt) {
        self.filter_scans[filter_scan].end_ordered_scan();
        self.open_terms(filter_scan, filters, start);
    }

    /// Has the terms of a filter scan opened, each from `start` on.
    fn open_terms(&mut self, filter_scan: usize, filters: &[Filter], start: StartAt) {
        let filter = &filters[filter_scan];
        let Some(terms) = self.filter_scans[filter_scan].terms() else { return };
        let chunk = self.filter_scans[filter_scan].first_chunk(terms, filter, filters.len());
        let terms = 0..terms.path.len(filter);
        let of_ordered_scan = self.filter_scans[filter_scan].is_ordered_scan();
        self.opening.push(PendingCursors { filter_scan, of_ordered_scan, terms, start, chunk });
    }

    /// Opens the next filter scan, or the next part of one that looks up ids.
    fn open<R: Reader>(
        &mut self,
        filters: &[Filter],
        reader: &R,
        budget: &mut usize,
    ) -> Result<(), StoreError> {
        let (index, filter) = (self.opened, &filters[self.opened]);
        let filter_scan = &mut self.filter_scans[index];
        if filter_scan.is_closed() || filter.matches_nothing() {
            self.opened += 1;
            return Ok(());
        }
        match filter_scan.look_up(filter, reader, budget)? {
            Progress::NoIds => {}
            Progress::More => return Ok(()),
            Progress::Done(found) => {
                self.add_found(index, found);
                self.opened += 1;
                return Ok(());
            }
        }
        filter_scan.choose((filter, filters.len()), self.classes, reader, budget)?;
        let newest = Rank::newest(filter.until.unwrap_or(u64::MAX));
        let start = match self.rank {
            Some(rank) if rank >= newest => StartAt::After(rank, SEQ_MAX),
            _ => StartAt::Rank(newest),
        };
        self.open_terms(index, filters, start);
        self.opened += 1;
        Ok(())
    }

    fn add_found(&mut self, filter_scan: usize, mut found: Vec<Posting>) {
        found.sort_unstable();
        let mut cursor = PostingCursor::of_postings(filter_scan, found);
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
        budget: &mut usize,
    ) -> Result<(), StoreError> {
        let Some(PendingCursors { filter_scan, of_ordered_scan, terms, start, chunk }) = self.opening.last()
        else {
            return Ok(());
        };
        if terms.is_empty() || self.filter_scans[*filter_scan].is_ordered_scan() != *of_ordered_scan {
            self.opening.pop();
            return Ok(());
        }
        let mut cursor = PostingCursor::new(*filter_scan, *of_ordered_scan, terms.start, *start, *chunk);
        let first = self.read(&mut cursor, filters, reader, budget)?;
        if let Some(PendingCursors { terms, .. }) = self.opening.last_mut() {
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
        budget: &mut usize,
    ) -> Result<(), StoreError> {
        let Some(&slot) = self.to_refill.last() else { return Ok(()) };
        let nowhere = PostingCursor::of_postings(0, Vec::new());
        let mut cursor = std::mem::replace(&mut self.cursors[slot as usize], nowhere);
        let capacity = cursor.capacity();
        let first = self.read(&mut cursor, filters, reader, budget);
        self.capacity = self.capacity - capacity + cursor.capacity();
        self.cursors[slot as usize] = cursor;
        let first = first?;
        self.to_refill.pop();
        match first {
            Some(posting) => self.heap.push(Head { posting, cursor: slot }),
            None => self.drop_cursor(slot),
        }
        Ok(())
    }

    /// Reads a cursor's next postings, of which the first is returned; none if there are none, or its filter scan has gone over
    /// to other terms.
    fn read<R: Reader>(
        &mut self,
        cursor: &mut PostingCursor,
        filters: &[Filter],
        reader: &R,
        budget: &mut usize,
    ) -> Result<Option<Posting>, StoreError> {
        let (filter_scan, filter) =
            (&mut self.filter_scans[cursor.filter_scan as usize], &filters[cursor.filter_scan as usize]);
        let Some(terms) =
            filter_scan.terms().filter(|_| filter_scan.is_ordered_scan() == cursor.of_ordered_scan)
        else {
            return Ok(None);
        };
        let asked = cursor.chunk().min(*budget);
        self.scratch.clear();
        let term = terms.path.term(filter, cursor.term as usize);
        let chunk_max = chunk_max(terms.path.len(filter) * filters.len());
        reader.postings(&term, cursor.start, filter.since.unwrap_or(0), asked, &mut self.scratch)?;
        let used = self.scratch.len().max(1);
        *budget -= used.min(*budget);
        filter_scan.cost += used as u64;
        Ok(cursor.fill(&self.scratch, asked, chunk_max))
    }
}
