//! Counting by aggregates: filters whose matches are the postings of one term each, or of several that no event is under twice.
//!
//! A term is counted in one state of the store, without reading its postings ([`Reader::count_postings`]). What is among them and does not
//! count is subtracted: events pending removal, expired ones that are not removed yet, and events of kinds that the viewer may
//! not see all of; of the latter those that it may see are then read and added.

use super::super::merge::AccessPath;
use super::super::{
    Posting, PostingCount, Rank, Reader, Seq, StartAt, StoreError, Term, TermClasses, Viewer, cost, terms_of,
};
use crate::types::{CanonicalEvent, EventId, EventMatcher, Filter, Kind, Timestamp, parse_expiration};

/// Most events that are subtracted one by one; if there are more, matches are counted one by one.
const SUBTRACTED_MAX: usize = 256;
/// What reading them may cost.
const SUBTRACTED_COST_MAX: usize = 16_384;
/// Bytes of such an event for a unit of cost: all its terms are made.
const BYTES: usize = 256;
/// Most kinds that a viewer may not see all of.
const GUARDED_MAX: usize = 8;
/// Most filters that are compared with each other.
const FILTERS_MAX: usize = 16;
/// Postings of guarded kinds that are read at once.
const CHUNK: usize = 256;

/// A count by aggregates, and how far it has come.
#[derive(Debug)]
pub(super) struct Aggregates {
    /// The access path of each filter.
    paths: Vec<AccessPath>,
    filter: usize,
    /// The next term of the filter's path.
    term: usize,
    /// Guarded terms of the last term, to be read, and where.
    guarded: Vec<Term>,
    start: Option<StartAt>,
}

/// What a step has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregateStep {
    /// So many more, and there may be others.
    More,
    /// That is all.
    End,
    /// The store, or what it holds now, has to be read.
    Unsupported,
}

/// An event that is among postings and does not count.
pub(in crate::store) struct Subtracted {
    pub(in crate::store) seq: Seq,
    pub(in crate::store) created_at: Timestamp,
    pub(in crate::store) id: EventId,
    pub(in crate::store) kind: Kind,
    pub(in crate::store) is_expired: bool,
    pub(in crate::store) terms: Vec<Term>,
}

impl Aggregates {
    /// Of these filters, if their matches are terms' postings of which each event has only one.
    pub(super) fn new(filters: &[Filter], classes: TermClasses) -> Option<Self> {
        let mut paths = Vec::with_capacity(filters.len());
        for (index, filter) in filters.iter().enumerate() {
            paths.push(path(filter, filters.len(), classes)?);
            if filters.len() > FILTERS_MAX
                || filters[..index].iter().any(|other| !are_disjoint(filter, other))
            {
                return None;
            }
        }
        Some(Aggregates { paths, filter: 0, term: 0, guarded: Vec::new(), start: None })
    }

    /// Counts term after term, up to `budget`, and adds to `count`.
    #[allow(clippy::too_many_arguments, reason = "what a count is given, and what it keeps")]
    pub(super) fn step<R: Reader>(
        &mut self,
        filters: &[Filter],
        classes: TermClasses,
        reader: &R,
        now: Timestamp,
        horizon: Seq,
        budget: &mut usize,
        viewer: &dyn Viewer,
        count: &mut u64,
    ) -> Result<AggregateStep, StoreError> {
        let mut guarded_kinds = viewer.guarded_kinds().to_vec();
        guarded_kinds.sort_unstable();
        guarded_kinds.dedup();
        if guarded_kinds.len() > GUARDED_MAX {
            return Ok(AggregateStep::Unsupported);
        }
        let mut subtracted: Option<Vec<Subtracted>> = None;
        while let Some(filter) = filters.get(self.filter) {
            let path = &self.paths[self.filter];
            if *budget == 0 {
                return Ok(AggregateStep::More);
            }
            if !self.guarded.is_empty() {
                *count += self.read_guarded(filter, reader, now, horizon, budget, viewer)?;
                continue;
            }
            if filter.matches_nothing() || self.term == path.len(filter) {
                (self.filter, self.term) = (self.filter + 1, 0);
                continue;
            }
            let term = path.term(filter, self.term);
            let Some((is_counted, guarded)) = guarded_terms(&term, &guarded_kinds, classes) else {
                return Ok(AggregateStep::Unsupported);
            };
            if is_counted {
                let (oldest, newest) = bounds(filter);
                let mut counted = |term: &Term| reader.count_postings(term, oldest, newest, horizon, budget);
                let (mut found, requests) = match counted(&term)? {
                    PostingCount::Unsupported => return Ok(AggregateStep::Unsupported),
                    PostingCount::OutOfBudget => return Ok(AggregateStep::More),
                    PostingCount::Counted { postings, expiring_requests } => (postings, expiring_requests),
                };
                for guarded in &guarded {
                    match counted(guarded)? {
                        PostingCount::Unsupported => return Ok(AggregateStep::Unsupported),
                        PostingCount::OutOfBudget => return Ok(AggregateStep::More),
                        PostingCount::Counted { postings, .. } => found = found.saturating_sub(postings),
                    }
                }
                if subtracted.is_none() {
                    subtracted = subtracted_events(reader, classes, now, horizon, SUBTRACTED_MAX, budget)?;
                }
                let Some(subtracted) = &subtracted else { return Ok(AggregateStep::Unsupported) };
                let is_guarded = |kind: Kind| guarded_kinds.binary_search(&kind).is_ok();
                let of_term = subtracted.iter().filter(|event| {
                    filter.matches_time(event.created_at)
                        && !is_guarded(event.kind)
                        && event.terms.contains(&term)
                });
                found = found.saturating_sub(of_term.count() as u64);
                for seq in requests {
                    *budget = budget.saturating_sub(1);
                    if subtracted.iter().any(|event| event.seq == seq) {
                        continue;
                    }
                    if let Some(json) = reader.event(seq)? {
                        let event = CanonicalEvent::trusted(&json);
                        let is_expired = parse_expiration(event.tags()).is_some_and(|at| at <= now);
                        found = found.saturating_sub(u64::from(is_expired && !is_guarded(event.kind())));
                    }
                }
                *count += found;
            }
            self.term += 1;
            if viewer.may_see_guarded() {
                (self.guarded, self.start) = (guarded, None);
            }
        }
        Ok(AggregateStep::End)
    }

    /// Reads some postings of guarded terms, and counts those that the viewer may see.
    fn read_guarded<R: Reader>(
        &mut self,
        filter: &Filter,
        reader: &R,
        now: Timestamp,
        horizon: Seq,
        budget: &mut usize,
        viewer: &dyn Viewer,
    ) -> Result<u64, StoreError> {
        let Some(term) = self.guarded.last() else { return Ok(0) };
        let (oldest, newest) = bounds(filter);
        let start = self.start.unwrap_or(StartAt::Rank(Rank::newest(newest)));
        let (mut postings, mut count) = (Vec::<Posting>::new(), 0);
        let asked = CHUNK.min(*budget);
        reader.postings(term, start, oldest, asked, &mut postings)?;
        let is_end = postings.len() < asked;
        for posting in postings {
            if *budget == 0 {
                return Ok(count);
            }
            self.start = Some(StartAt::After(posting.rank, posting.seq));
            *budget = budget.saturating_sub(1);
            if posting.seq > horizon {
                continue;
            }
            let Some(json) = reader.event(posting.seq)? else { continue };
            let event = CanonicalEvent::trusted(&json);
            let is_expired = posting.expires && parse_expiration(event.tags()).is_some_and(|at| at <= now);
            count += u64::from(!is_expired && viewer.sees(event));
            *budget = budget.saturating_sub(cost::of_event(json.len(), &EventMatcher::new(event)));
        }
        if is_end {
            *budget = budget.saturating_sub(1);
            self.guarded.pop();
            self.start = None;
        }
        Ok(count)
    }
}

/// The oldest and newest that a filter allows.
pub(in crate::store) fn bounds(filter: &Filter) -> (Timestamp, Timestamp) {
    (filter.since.unwrap_or(0), filter.until.unwrap_or(Timestamp::MAX))
}

/// Terms whose postings are what a filter matches, each event once.
pub(in crate::store) fn path(filter: &Filter, filters: usize, classes: TermClasses) -> Option<AccessPath> {
    if filter.ids.is_some() {
        return None;
    }
    let path = match AccessPath::narrow(filter, filters, classes).into_iter().next() {
        Some(path) => path,
        // There are no postings for a `d` that is not written.
        None if !filter.tags.is_empty() => return None,
        None if filter.kinds.is_some() => AccessPath::Kind,
        None => AccessPath::All,
    };
    let is_exact = match &path {
        AccessPath::Address | AccessPath::AuthorKind | AccessPath::Kind => true,
        AccessPath::Author => filter.kinds.is_none(),
        // An event may have several values.
        AccessPath::Tag(_) => filter.kinds.is_none() && path.len(filter) <= 1,
        AccessPath::All => classes.all,
        AccessPath::Each(_) => false,
    };
    (is_exact && path.decides(filter)).then_some(path)
}

/// Whether no event matches both, as far as lists and times say.
fn are_disjoint(one: &Filter, other: &Filter) -> bool {
    fn share_none<T: Ord>(one: Option<&[T]>, other: Option<&[T]>) -> bool {
        let (Some(one), Some(other)) = (one, other) else { return false };
        one.iter().all(|value| other.binary_search(value).is_err())
    }
    let ((oldest, newest), (other_oldest, other_newest)) = (bounds(one), bounds(other));
    newest < other_oldest
        || other_newest < oldest
        || share_none(one.kinds.as_deref(), other.kinds.as_deref())
        || share_none(one.authors.as_deref(), other.authors.as_deref())
}

/// Whether any event under a term may count as a posting, and the terms of those that the viewer may not see all of; `None` if no terms
/// are theirs alone.
pub(in crate::store) fn guarded_terms(
    term: &Term,
    guarded_kinds: &[Kind],
    classes: TermClasses,
) -> Option<(bool, Vec<Term>)> {
    let each =
        |term: fn(&Term, Kind) -> Term, of: &Term| guarded_kinds.iter().map(|kind| term(of, *kind)).collect();
    match term {
        Term::Kind(kind) | Term::AuthorKind(_, kind) | Term::Address(kind, ..) => {
            let is_guarded = guarded_kinds.contains(kind);
            Some((!is_guarded, if is_guarded { vec![term.clone()] } else { Vec::new() }))
        }
        _ if guarded_kinds.is_empty() => Some((true, Vec::new())),
        Term::All => Some((true, each(|_, kind| Term::Kind(kind), term))),
        Term::Author(_) if classes.author_kind => {
            let of_author = |term: &Term, kind| match term {
                Term::Author(author) => Term::AuthorKind(*author, kind),
                other => other.clone(),
            };
            Some((true, each(of_author, term)))
        }
        Term::Author(_) | Term::Tag(..) => None,
    }
}

/// Events that have postings and don't count, though their kind may be seen; `None` if there are more than `max`, or they are too large.
pub(in crate::store) fn subtracted_events<R: Reader>(
    reader: &R,
    classes: TermClasses,
    now: Timestamp,
    horizon: Seq,
    max: usize,
    budget: &mut usize,
) -> Result<Option<Vec<Subtracted>>, StoreError> {
    let (mut seqs, mut expired) = (Vec::new(), Vec::new());
    reader.pending_removal(max + 1, &mut seqs)?;
    reader.expiring(now, max + 1, &mut expired)?;
    seqs.append(&mut expired);
    seqs.sort_unstable();
    seqs.dedup();
    if seqs.len() > max {
        return Ok(None);
    }
    let (mut events, mut cost) = (Vec::with_capacity(seqs.len()), 0);
    for seq in seqs.into_iter().filter(|seq| *seq <= horizon) {
        let Some(json) = reader.event_or_pending_removal(seq)? else { continue };
        let event = CanonicalEvent::trusted(&json);
        let of_event = 1 + json.len() / BYTES;
        (cost, *budget) = (cost + of_event, budget.saturating_sub(of_event));
        if cost > SUBTRACTED_COST_MAX {
            return Ok(None);
        }
        let (created_at, id, kind) = (event.created_at(), event.id(), event.kind());
        let is_expired = parse_expiration(event.tags()).is_some_and(|at| at <= now);
        events.push(Subtracted { seq, created_at, id, kind, is_expired, terms: terms_of(event, classes) });
    }
    Ok(Some(events))
}
