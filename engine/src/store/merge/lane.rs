//! One filter's part of a merge: how it is answered, and its cursors.

use std::collections::VecDeque;

use super::source::Source;
use crate::store::{Bound, Posting, Rank, Reader, Seq, StoreError, Term, TermClasses};
use crate::types::{CanonicalEvent, Filter, NO_EXPIRY, Timestamp, parse_expiration};

/// Postings read at once by a cursor that has been read for long.
pub(super) const CHUNK_MAX: usize = 256;
/// More cursors than this, and a lane tries to walk first.
const CURSORS_WIDE: usize = 64;
/// Most kinds a walk merges; for more it walks all events.
const WALK_KINDS_MAX: usize = 16;
/// Candidates a walk looks at before it judges itself.
const WALK_TRIAL: u64 = 64;
/// A walk merges at most one cursor for as many that it may save.
const WALK_SAVING: usize = 4;
/// Most terms of a way to answer that is looked into before the choice.
const PROBE_TERMS_MAX: usize = 16;
/// Postings looked at for each way to answer before the choice.
const PROBE_ROWS: usize = 32;

/// One filter's state in a merge.
#[derive(Debug)]
pub(super) struct Lane {
    /// The terms now read.
    pub(super) source: Source,
    /// The terms to read when the walk is over.
    after_walk: Option<Source>,
    walk: Walk,
    decided: bool,
    decided_after_walk: bool,
    /// Cursors of other epochs are left over from the walk.
    pub(super) epoch: u32,
    /// The filter wants nothing more.
    pub(super) closed: bool,
    /// The ids still to be looked up, for a filter with ids.
    pub(super) points: Option<Points>,
    /// Rows read so far.
    pub(super) rows: u64,
    wanted: u64,
    walks: bool,
}

/// How a walk has gone.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// Candidates whose event was read.
    read: u64,
    /// Those that matched.
    matched: u64,
    /// Postings passed over by their kind alone.
    skipped: u64,
    /// Past this the walk is over, whatever it found.
    cost_max: u64,
}

impl Lane {
    pub(super) fn new(filter: &Filter, wanted: u64, walks: bool) -> Self {
        let source = Source::broad(filter, usize::MAX);
        let points = filter.ids.is_some().then(Points::default);
        Lane {
            // Ids are looked up with the whole filter.
            decided: points.is_some() || source.decides(filter),
            source,
            after_walk: None,
            walk: Walk::default(),
            decided_after_walk: false,
            epoch: 0,
            closed: false,
            points,
            rows: 0,
            wanted,
            walks,
        }
    }

    /// Whether the lane's postings alone prove matches.
    pub(super) fn decided(&self) -> bool {
        self.decided
    }

    /// Settles which terms of its filter, one of so many, are read, looking into the candidates where their number does not tell.
    pub(super) fn choose<R: Reader>(
        &mut self,
        (filter, filters): (&Filter, usize),
        classes: TermClasses,
        reader: &R,
        rows: &mut usize,
    ) -> Result<(), StoreError> {
        let before = *rows;
        self.source = cheapest((filter, filters), classes, reader, rows)?;
        self.rows += (before - *rows) as u64;
        self.decided = self.source.decides(filter);
        let count = self.source.len(filter);
        if self.walks && count > CURSORS_WIDE {
            let broad = in_order(Source::broad(filter, WALK_KINDS_MAX), classes, reader)?;
            if broad != self.source && broad.len(filter) * WALK_SAVING <= count {
                self.decided_after_walk = self.decided;
                self.decided = broad.decides(filter);
                self.after_walk = Some(std::mem::replace(&mut self.source, broad));
                self.walk.cost_max = count as u64;
            }
        }
        if self.source == Source::All {
            self.source = in_order(Source::All, classes, reader)?;
        }
        Ok(())
    }

    /// Postings to read first from each cursor.
    pub(super) fn first_chunk(&self, filter: &Filter) -> usize {
        let cursors = self.source.len(filter).max(1) as u64;
        if self.source == Source::Address {
            return 1;
        }
        // An expected share of the page, and two more: one to see whether it ends there, and one to have a next
        // one while that is looked at.
        (self.wanted.saturating_add(2).div_ceil(cursors)).clamp(1, CHUNK_MAX as u64) as usize
    }

    /// Takes note of a candidate whose event was read.
    pub(super) fn judged(&mut self, matched: bool, wanted: u64) {
        self.wanted = wanted;
        if self.after_walk.is_some() {
            self.walk.read += 1;
            self.walk.matched += u64::from(matched);
        }
    }

    /// Takes note of a posting passed over; true when the walk is over.
    pub(super) fn skipped(&mut self) -> bool {
        if self.after_walk.is_some() {
            self.walk.skipped += 1;
        }
        self.is_walk_over()
    }

    /// Whether the lane walks, and opening its cursors is the better way to go on.
    pub(super) fn is_walk_over(&self) -> bool {
        if self.after_walk.is_none() || self.closed {
            return false;
        }
        let Walk { read, matched, skipped, cost_max } = self.walk;
        let cost = read + skipped / 4;
        let expected = || self.wanted.saturating_mul(cost) / matched.max(1);
        cost >= cost_max || (cost >= WALK_TRIAL && expected() > cost_max)
    }

    /// Goes over to the narrow terms.
    pub(super) fn end_walk(&mut self) {
        if let Some(narrow) = self.after_walk.take() {
            self.source = narrow;
            self.decided = self.decided_after_walk;
            self.epoch += 1;
        }
    }
}

/// `broad`, or all kinds that are stored where there is no term over all events.
fn in_order<R: Reader>(broad: Source, classes: TermClasses, reader: &R) -> Result<Source, StoreError> {
    Ok(match broad {
        Source::All if !classes.all => Source::Each(reader.kinds()?.into()),
        other => other,
    })
}

/// The way to answer `filter`, one of `filters`, that reads least, as far as a look at its first postings tells.
fn cheapest<R: Reader>(
    (filter, filters): (&Filter, usize),
    classes: TermClasses,
    reader: &R,
    rows: &mut usize,
) -> Result<Source, StoreError> {
    let mut sources = Source::narrow(filter, filters, classes);
    // An author's postings that prove the match are best: each one is an answer.
    if sources.is_empty() || sources[0].decides(filter) {
        return Ok(sources.into_iter().next().unwrap_or_else(|| Source::broad(filter, usize::MAX)));
    }
    sources.sort_by_key(|source| source.len(filter));
    let few = sources.iter().take_while(|source| source.len(filter) <= PROBE_TERMS_MAX).count();
    if few < 2 {
        return Ok(sources.swap_remove(0));
    }
    let mut best = (f64::INFINITY, 0);
    for (index, source) in sources[..few].iter().enumerate() {
        let density = density(source, filter, reader, rows)?;
        if density < best.0 {
            best = (density, index);
        }
    }
    Ok(sources.swap_remove(best.1))
}

/// Postings of `source` a second, from the newest that `filter` allows back to where a few of them reach; next
/// to nothing if that is all there are.
fn density<R: Reader>(
    source: &Source,
    filter: &Filter,
    reader: &R,
    rows: &mut usize,
) -> Result<f64, StoreError> {
    let (oldest, newest) = (filter.since.unwrap_or(0), filter.until.unwrap_or(u64::MAX));
    let each = PROBE_ROWS.div_ceil(source.len(filter).max(1));
    let mut postings = Vec::with_capacity(each);
    let mut sum = 0.0;
    for index in 0..source.len(filter) {
        postings.clear();
        let term: Term = source.term(filter, index);
        reader.postings(&term, Bound::From(Rank::newest(newest)), oldest, each, &mut postings)?;
        *rows = rows.saturating_sub(postings.len().max(1));
        let second = |posting: Option<&Posting>| posting.map_or(0, |posting| posting.rank.created_at);
        let span = second(postings.first()) - second(postings.last()) + 1;
        sum += match postings.len() < each {
            true => postings.len() as f64 * 1e-12,
            false => postings.len() as f64 / span as f64,
        };
    }
    Ok(sum)
}

/// Ids being looked up.
#[derive(Debug, Default)]
pub(super) struct Points {
    next: usize,
    /// Postings of those found that match the whole filter.
    pub(super) found: Vec<Posting>,
}

impl Points {
    /// Looks up ids until they or the rows run out; true when it was the ids.
    pub(super) fn look_up<R: Reader>(
        &mut self,
        filter: &Filter,
        reader: &R,
        rows: &mut usize,
    ) -> Result<bool, StoreError> {
        let ids = filter.ids.as_deref().unwrap_or(&[]);
        while let Some(id) = ids.get(self.next) {
            if *rows == 0 {
                return Ok(false);
            }
            if let Some(seq) = reader.seq_of(id)?
                && let Some(json) = reader.event(seq)?
                && filter.matches_stored(CanonicalEvent::trusted(&json))
            {
                self.found.push(posting(seq, CanonicalEvent::trusted(&json)));
            }
            *rows -= 1;
            self.next += 1;
        }
        Ok(true)
    }
}

fn posting(seq: Seq, event: CanonicalEvent<'_>) -> Posting {
    let expires_at: Timestamp = parse_expiration(event.tags()).unwrap_or(NO_EXPIRY);
    Posting {
        rank: Rank::of(event.created_at(), &event.id()),
        seq,
        kind: event.kind(),
        expires: expires_at != NO_EXPIRY,
    }
}

/// A place in one term's postings.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) lane: usize,
    pub(super) epoch: u32,
    /// Index into the lane's source.
    pub(super) term: usize,
    /// Where reading goes on.
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
    /// A quarter the second time, then twice as many each time. A page that is spread over many cursors needs
    /// a little more of most of them, and rows that nobody needs are what an answer costs.
    pub(super) fn grow(&mut self) {
        self.chunk = match std::mem::replace(&mut self.is_deep, true) {
            true => (self.chunk * 2).min(CHUNK_MAX),
            false => (self.chunk / 4).max(4),
        };
    }

    pub(super) fn new(lane: usize, epoch: u32, term: usize, start: Bound, chunk: usize) -> Self {
        Cursor {
            lane,
            epoch,
            term,
            start,
            chunk,
            is_deep: false,
            exhausted: false,
            buffered: VecDeque::new(),
        }
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
