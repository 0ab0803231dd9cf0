//! One filter's part of a merge: how it is answered, and how that is chosen.

use super::access_path::AccessPath;
use super::cursor::chunk_max;
use crate::store::{Posting, Rank, Reader, Seq, StartAt, StoreError, Term, TermClasses, cost};
use crate::types::{CanonicalEvent, EventMatcher, Filter, NO_EXPIRY, Timestamp, parse_expiration};

/// More cursors than this, and a filter scan tries an ordered scan first.
const CURSORS_WIDE: usize = 64;
/// Most kinds that an ordered scan merges; for more it reads all events.
const ORDERED_SCAN_KINDS_MAX: usize = 16;
/// Candidates that an ordered scan reads before it is judged.
const ORDERED_SCAN_TRIAL: u64 = 64;
/// An ordered scan must replace at least this many cursors for each that it merges.
const ORDERED_SCAN_SAVING: usize = 4;
/// Most terms of an access path that is probed before the choice.
pub(super) const PROBE_TERMS_MAX: usize = 16;
/// Most access paths that are probed, those of the fewest terms: bounds what a step may overdraw.
const PROBE_PATHS_MAX: usize = 8;
/// Postings read as a probe of each access path.
const PROBE_COST: usize = 32;

/// One filter's state in a merge.
#[derive(Debug)]
pub(super) struct FilterScan {
    state: FilterScanState,
    /// Whether a wide filter may be answered by an ordered scan.
    may_scan_in_order: bool,
    /// Events that the filter still wants.
    wanted: u64,
    /// Cost so far.
    pub(super) cost: u64,
}

/// How a filter scan is answered, and how far that has come.
#[derive(Debug)]
enum FilterScanState {
    /// It is not opened yet.
    Unopened,
    /// Its ids are being looked up.
    LookUp(LookUp),
    /// All its ids have been looked up with the whole filter; what was found is buffered.
    Found,
    /// As `Found`, after the cursors were released: what of it had not been merged yet.
    FoundUnmerged(Vec<Posting>),
    /// A broad term is read in order, until opening the cursors of the narrow ones is the better way.
    OrderedScan(OrderedScan),
    /// These terms are read to their end.
    Terms(Terms),
    /// The filter wants nothing more.
    Closed,
}

/// Terms that are read, a cursor each.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) path: AccessPath,
    /// Whether their postings alone prove matches.
    decide: bool,
}

impl Terms {
    fn new(path: AccessPath, filter: &Filter) -> Self {
        Terms { decide: path.decides(filter), path }
    }
}

/// An ordered scan, and how it has gone.
#[derive(Debug)]
struct OrderedScan {
    broad: Terms,
    narrow: Terms,
    /// Candidates whose event was read.
    read: u64,
    /// Those that matched.
    matched: u64,
    /// Postings skipped by their kind alone.
    skipped: u64,
    /// Past this the ordered scan is over, whatever it found.
    cost_max: u64,
}

impl FilterScan {
    pub(super) fn new(filter: &Filter, wanted: u64, may_scan_in_order: bool) -> Self {
        let state = if filter.ids.is_some() {
            FilterScanState::LookUp(LookUp::default())
        } else {
            FilterScanState::Unopened
        };
        FilterScan { state, may_scan_in_order, wanted, cost: 0 }
    }

    /// Its cursors are dropped, to be opened again; of what its ids have found, `unmerged` is left.
    pub(super) fn release_cursors(&mut self, unmerged: Vec<Posting>) {
        self.state = match std::mem::replace(&mut self.state, FilterScanState::Closed) {
            FilterScanState::Found => FilterScanState::FoundUnmerged(unmerged),
            FilterScanState::OrderedScan(_) | FilterScanState::Terms(_) => FilterScanState::Unopened,
            other => other,
        };
    }

    /// Whether its ids have been looked up.
    pub(super) fn is_found(&self) -> bool {
        matches!(self.state, FilterScanState::Found)
    }

    /// The filter wants nothing more.
    pub(super) fn close(&mut self) {
        self.state = FilterScanState::Closed;
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, FilterScanState::Closed)
    }

    pub(super) fn is_ordered_scan(&self) -> bool {
        matches!(self.state, FilterScanState::OrderedScan(_))
    }

    /// The terms that are read now.
    pub(super) fn terms(&self) -> Option<&Terms> {
        match &self.state {
            FilterScanState::OrderedScan(scan) => Some(&scan.broad),
            FilterScanState::Terms(terms) => Some(terms),
            FilterScanState::Unopened
            | FilterScanState::LookUp(_)
            | FilterScanState::Found
            | FilterScanState::FoundUnmerged(_)
            | FilterScanState::Closed => None,
        }
    }

    /// Whether the filter scan's postings alone prove matches.
    pub(super) fn decides(&self) -> bool {
        matches!(self.state, FilterScanState::Found) || self.terms().is_some_and(|terms| terms.decide)
    }

    /// Looks up the filter's ids, if it has any, until they or the budget run out. Returns the postings of those that match
    /// the whole filter when all have been looked up.
    pub(super) fn look_up<R: Reader>(
        &mut self,
        filter: &Filter,
        reader: &R,
        budget: &mut usize,
    ) -> Result<Progress, StoreError> {
        if let FilterScanState::FoundUnmerged(found) = &mut self.state {
            let found = std::mem::take(found);
            self.state = FilterScanState::Found;
            return Ok(Progress::Done(found));
        }
        let FilterScanState::LookUp(look_up) = &mut self.state else { return Ok(Progress::NoIds) };
        let before = *budget;
        let is_done = look_up.run(filter, reader, budget)?;
        self.cost += (before - *budget) as u64;
        if !is_done {
            return Ok(Progress::More);
        }
        let found = std::mem::take(&mut look_up.found);
        self.state = FilterScanState::Found;
        Ok(Progress::Done(found))
    }

    /// Chooses which terms of its filter, in a request of `filters` filters, are read. Reads the first postings of each access
    /// path where the number of terms does not decide.
    pub(super) fn choose<R: Reader>(
        &mut self,
        (filter, filters): (&Filter, usize),
        classes: TermClasses,
        reader: &R,
        budget: &mut usize,
    ) -> Result<(), StoreError> {
        let before = *budget;
        let narrow = cheapest((filter, filters), classes, reader, budget)?;
        self.cost += (before - *budget) as u64;
        let count = narrow.len(filter);
        if self.may_scan_in_order && count > CURSORS_WIDE {
            let broad = in_order(AccessPath::broad(filter, ORDERED_SCAN_KINDS_MAX), classes, reader)?;
            if broad != narrow && broad.len(filter) * ORDERED_SCAN_SAVING <= count {
                let (broad, narrow) = (Terms::new(broad, filter), Terms::new(narrow, filter));
                let cost_max = count as u64;
                self.state = FilterScanState::OrderedScan(OrderedScan {
                    broad,
                    narrow,
                    read: 0,
                    matched: 0,
                    skipped: 0,
                    cost_max,
                });
                return Ok(());
            }
        }
        self.state = FilterScanState::Terms(Terms::new(in_order(narrow, classes, reader)?, filter));
        Ok(())
    }

    /// Postings to read first from each of the cursors of `terms`; there are `filters` filter scans.
    pub(super) fn first_chunk(&self, terms: &Terms, filter: &Filter, filters: usize) -> usize {
        if terms.path == AccessPath::Address {
            return 1;
        }
        let cursors = terms.path.len(filter).max(1) as u64;
        // An expected share of the page, and two more: one to see whether it ends there, and one to have a next
        // one while that is looked at.
        let max = chunk_max(cursors as usize * filters) as u64;
        (self.wanted.saturating_add(2).div_ceil(cursors)).clamp(1, max) as usize
    }

    /// Records a candidate whose event was read.
    pub(super) fn record_result(&mut self, matched: bool, wanted: u64) {
        self.wanted = wanted;
        if let FilterScanState::OrderedScan(scan) = &mut self.state {
            scan.read += 1;
            scan.matched += u64::from(matched);
        }
    }

    /// Records a skipped posting; true when the ordered scan is over.
    pub(super) fn record_skip(&mut self) -> bool {
        if let FilterScanState::OrderedScan(scan) = &mut self.state {
            scan.skipped += 1;
        }
        self.is_ordered_scan_over()
    }

    /// Whether it is an ordered scan, and opening the narrow cursors is the better way to go on.
    pub(super) fn is_ordered_scan_over(&self) -> bool {
        let FilterScanState::OrderedScan(OrderedScan { read, matched, skipped, cost_max, .. }) = &self.state
        else {
            return false;
        };
        let cost = read + skipped / 4;
        let expected = || self.wanted.saturating_mul(cost) / (*matched).max(1);
        cost >= *cost_max || (cost >= ORDERED_SCAN_TRIAL && expected() > *cost_max)
    }

    /// Goes over to the narrow terms.
    pub(super) fn end_ordered_scan(&mut self) {
        self.state = match std::mem::replace(&mut self.state, FilterScanState::Closed) {
            FilterScanState::OrderedScan(scan) => FilterScanState::Terms(scan.narrow),
            other => other,
        };
    }
}

/// How far looking up the ids of a filter has come.
pub(super) enum Progress {
    /// It has none.
    NoIds,
    /// The budget is used up.
    More,
    /// All have been looked up; these match.
    Done(Vec<Posting>),
}

/// `broad`, or all kinds that are stored where there is no term over all events.
fn in_order<R: Reader>(
    broad: AccessPath,
    classes: TermClasses,
    reader: &R,
) -> Result<AccessPath, StoreError> {
    Ok(match broad {
        AccessPath::All if !classes.all => AccessPath::Each(reader.kinds()?.into()),
        other => other,
    })
}

/// The access path of `filter`, in a request of `filters` filters, that reads least, judged by the density of its first postings.
fn cheapest<R: Reader>(
    (filter, filters): (&Filter, usize),
    classes: TermClasses,
    reader: &R,
    budget: &mut usize,
) -> Result<AccessPath, StoreError> {
    let mut paths = AccessPath::narrow(filter, filters, classes);
    // An author's postings that prove the match are best: each one is an answer.
    if paths.is_empty() || paths[0].decides(filter) {
        return Ok(paths.into_iter().next().unwrap_or_else(|| AccessPath::broad(filter, usize::MAX)));
    }
    paths.sort_by_key(|path| path.len(filter));
    let probed = paths.iter().take(PROBE_PATHS_MAX);
    let few = probed.take_while(|path| path.len(filter) <= PROBE_TERMS_MAX).count();
    if few < 2 {
        return Ok(paths.swap_remove(0));
    }
    let mut best = (f64::INFINITY, 0);
    for (index, path) in paths[..few].iter().enumerate() {
        let density = density(path, filter, reader, budget)?;
        if density < best.0 {
            best = (density, index);
        }
    }
    Ok(paths.swap_remove(best.1))
}

/// Postings of `path` per second, from the newest that `filter` allows back to where a few of them reach; next
/// to nothing if that is all there are.
fn density<R: Reader>(
    path: &AccessPath,
    filter: &Filter,
    reader: &R,
    budget: &mut usize,
) -> Result<f64, StoreError> {
    let (oldest, newest) = (filter.since.unwrap_or(0), filter.until.unwrap_or(u64::MAX));
    let each = PROBE_COST.div_ceil(path.len(filter).max(1));
    let mut postings = Vec::with_capacity(each);
    let mut sum = 0.0;
    for index in 0..path.len(filter) {
        postings.clear();
        let term: Term = path.term(filter, index);
        reader.postings(&term, StartAt::Rank(Rank::newest(newest)), oldest, each, &mut postings)?;
        *budget = budget.saturating_sub(postings.len().max(1));
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
struct LookUp {
    next: usize,
    /// Postings of those found that match the whole filter.
    found: Vec<Posting>,
}

impl LookUp {
    /// Looks up ids until they or the budget run out; true when it was the ids.
    fn run<R: Reader>(
        &mut self,
        filter: &Filter,
        reader: &R,
        budget: &mut usize,
    ) -> Result<bool, StoreError> {
        let ids = filter.ids.as_deref().unwrap_or(&[]);
        while let Some(id) = ids.get(self.next) {
            if *budget == 0 {
                return Ok(false);
            }
            *budget -= 1;
            if let Some(seq) = reader.seq_of(id)?
                && let Some(json) = reader.event(seq)?
            {
                let event = CanonicalEvent::trusted(&json);
                let mut matcher = EventMatcher::new(event);
                if matcher.matches(filter) {
                    self.found.push(posting(seq, event));
                }
                *budget = budget.saturating_sub(cost::of_event(json.len(), &matcher));
            }
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
