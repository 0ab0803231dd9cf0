//! The set of the events that match a filter, in one state of the store.
//!
//! The filter's matches are the postings of terms, as for a count ([`aggregate`]): runs of blocks, and loose postings. What is among them and
//! does not count is subtracted: events of kinds that the viewer may not see, by their terms, and expired events and ones
//! pending removal one by one. Everything is a sum with signs, so no part knows of another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use super::runs::{Aggregate, BlockReader, SummedRun};
use super::{SumBudget, Summed, SummedPostings};
use crate::store::backend::{Posting, Rank, Reader, Seq, StoreError};
use crate::store::count::aggregate::{self, Subtracted};
use crate::store::terms::{Term, TermClasses};
use crate::types::{EventId, Filter, IdSum, Kind, Timestamp, is_removal_request};

/// Most terms that are summed: those of a filter, and those of the kinds that are subtracted.
const TERMS_MAX: usize = 64;
/// Most kinds that are subtracted.
const GUARDED_MAX: usize = 8;
/// Most events pending removal, or expired and not swept yet.
const GONE_MAX: usize = 1_024;
/// Most runs of all terms: a search for a position looks at each.
const RUNS_MAX: usize = 256;
/// Events that are listed at once.
const LISTED: usize = 512;
/// Events of a second that are looked through for the one at a position.
const SECOND: i64 = 64;
/// Ids that could be looked up in the time of a search for a position, and in that of looking at so many runs.
const SEARCH_IDS: usize = 16;
const RUNS_OF_SEARCH: usize = 8;
const RUNS_PER_ID: usize = 4;
/// What reading a block costs, and how many ids are looked up for a unit of cost.
const BLOCK_COST: usize = 4;
const IDS_PER_COST: usize = 4;

/// What opening a set has come to.
#[derive(Debug)]
pub enum OpenedSet<'a, R> {
    /// The store has no sums of such a filter, or of so many events.
    Unsupported,
    /// Too many events are just being flushed, or removed, or have just expired: it is worth trying again.
    NotNow,
    /// There are fewer events than asked for.
    Few,
    /// The budget is used up. What was found out is kept: opened often enough, there is a set.
    OutOfBudget,
    /// The set.
    Set(Box<SummedSet<'a, R>>),
}

/// An event: `created_at`, id. In the order of NIP-77.
type Member = (Timestamp, EventId);

/// A member that is known by itself.
#[derive(Debug)]
struct Loose {
    member: Member,
    is_subtracted: bool,
    /// What is before it.
    before: Aggregate,
}

/// Events in ascending order of `created_at`, then id. Positions count from 0.
#[derive(Debug)]
pub struct SummedSet<'a, R> {
    reader: BlockReader<'a, R>,
    runs: Vec<SummedRun>,
    loose: Vec<Loose>,
    total: Aggregate,
    /// No event is older, or newer.
    oldest: Timestamp,
    newest: Timestamp,
    /// Sums of all events before a position.
    sums: RefCell<BTreeMap<usize, IdSum>>,
    members: RefCell<BTreeMap<usize, Member>>,
}

impl<'a, R: Reader> SummedSet<'a, R> {
    /// Opens the set of the events that match `filter` and are not of `hidden` kinds, if these are `min` or more. Pages whose sums are not known yet are
    /// read as long as `budget` [allows](SumBudget::may_learn): at least one. A call may overdraw it by that, by pages that are known and postings at their ends, and by
    /// look-ups of the ids of postings in no block, up to some ten thousand units of cost: it is up to the caller to charge them.
    ///
    /// # Errors
    /// The reader's.
    pub fn open(
        reader: &'a R,
        filter: &Filter,
        classes: TermClasses,
        hidden: &[Kind],
        now: Timestamp,
        min: usize,
        budget: &mut SumBudget,
    ) -> Result<OpenedSet<'a, R>, StoreError> {
        let path = aggregate::path(filter, 1, classes);
        let Some(path) = path.filter(|path| filter.limit.is_none() && path.len(filter) <= TERMS_MAX) else {
            return Ok(OpenedSet::Unsupported);
        };
        // A kind that is named twice is subtracted once.
        let mut hidden = hidden.to_vec();
        hidden.sort_unstable();
        hidden.dedup();
        let hidden = &hidden[..];
        if hidden.len() > GUARDED_MAX {
            return Ok(OpenedSet::Unsupported);
        }
        let terms = if filter.matches_nothing() { 0 } else { path.len(filter) };
        let terms: Vec<Term> = (0..terms).map(|index| path.term(filter, index)).collect();
        // Each with whether its events are subtracted.
        let mut summed: Vec<(Term, bool)> = Vec::with_capacity(terms.len());
        for term in &terms {
            let Some((is_counted, guarded)) = aggregate::guarded_terms(term, hidden, classes) else {
                return Ok(OpenedSet::Unsupported);
            };
            if is_counted {
                summed.push((term.clone(), false));
                summed.extend(guarded.into_iter().map(|term| (term, true)));
            }
        }
        if summed.len() > TERMS_MAX {
            return Ok(OpenedSet::Unsupported);
        }
        let (oldest, newest) = aggregate::bounds(filter);
        let (mut set, mut gone) = (Building::default(), None);
        for (term, is_subtracted) in &summed {
            match reader.summed_postings(term, oldest, newest, now, budget)? {
                Summed::Unsupported => return Ok(OpenedSet::Unsupported),
                Summed::NotNow => return Ok(OpenedSet::NotNow),
                Summed::OutOfBudget => return Ok(OpenedSet::OutOfBudget),
                Summed::Postings(postings) => set.add(postings, *is_subtracted),
            }
            if set.runs.len() > RUNS_MAX {
                return Ok(OpenedSet::Unsupported);
            }
            // Once it is known that the store has sums.
            if gone.is_none() {
                gone = Some(events_gone(reader, classes, now, budget)?);
            }
            if let Some(None) = gone {
                return Ok(OpenedSet::NotNow);
            }
        }
        let gone = gone.flatten().unwrap_or_default();
        if set.most() < min as i64 {
            return Ok(OpenedSet::Few);
        }
        let Building { runs, postings, mut loose } = set;
        let blocks = BlockReader::new(reader);
        for (posting, is_subtracted) in without_pairs(postings) {
            loose.push(((posting.rank.created_at, blocks.id_of(&posting)?), is_subtracted));
        }
        budget.spent += loose.len() / IDS_PER_COST;
        let is_hidden = |kind: Kind| hidden.contains(&kind);
        let is_member = |event: &&Subtracted| {
            filter.matches_time(event.created_at)
                && !is_hidden(event.kind)
                && event.terms.iter().any(|term| terms.contains(term))
        };
        loose.extend(gone.iter().filter(is_member).map(|event| ((event.created_at, event.id), true)));
        blocks.ids.set(0);
        let set = SummedSet::of(blocks, runs, loose, (oldest, newest));
        Ok(if set.len() < min { OpenedSet::Few } else { OpenedSet::Set(Box::new(set)) })
    }

    fn of(
        reader: BlockReader<'a, R>,
        runs: Vec<SummedRun>,
        mut loose: Vec<(Member, bool)>,
        (oldest, newest): (Timestamp, Timestamp),
    ) -> Self {
        loose.sort_unstable();
        let newest_loose = loose.last().map_or(0, |((created_at, _), _)| *created_at);
        let newest_of_runs = runs.iter().map(SummedRun::newest).max().unwrap_or(0);
        let mut total = Aggregate::default();
        let with_sums = |(member, is_subtracted): (Member, bool)| {
            let before = total;
            total.add_signed(Aggregate::of(&member.1), is_subtracted);
            Loose { member, is_subtracted, before }
        };
        let loose: Vec<Loose> = loose.into_iter().map(with_sums).collect();
        runs.iter().for_each(|run| total.add_signed(run.total, run.is_subtracted));
        let newest = newest.min(newest_loose.max(newest_of_runs));
        let (sums, members) = Default::default();
        SummedSet { reader, runs, loose, total, oldest, newest, sums, members }
    }

    /// How many events.
    pub fn len(&self) -> usize {
        usize::try_from(self.total.count).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks up no more than about `ids` ids from here on: what needs more fails.
    pub fn limit(&mut self, ids: usize) {
        self.reader.max = ids;
    }

    /// Whether something failed because of that.
    pub fn is_exhausted(&self) -> bool {
        self.reader.is_exhausted()
    }

    /// What has been read of it, in units of cost.
    pub fn cost(&self) -> usize {
        self.reader.blocks.get() * BLOCK_COST + self.reader.ids.get() / IDS_PER_COST
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> usize {
        self.runs.iter().map(SummedRun::blocks).sum()
    }

    /// The blocks that have been read of it, and the ids that have been looked up.
    pub fn reads(&self) -> (usize, usize) {
        (self.reader.blocks.get(), self.reader.ids.get())
    }

    /// The position of the first event that is not below `created_at` and `id`.
    ///
    /// # Errors
    /// The reader's.
    pub fn position(&self, created_at: Timestamp, id: &EventId) -> Result<usize, StoreError> {
        let below = self.below((created_at, *id))?;
        let at = position(below.count)?;
        self.sums.borrow_mut().insert(at, below.sum);
        Ok(at)
    }

    /// The sum of the ids of the events at these positions.
    ///
    /// # Errors
    /// The reader's.
    pub fn sum(&self, range: Range<usize>) -> Result<IdSum, StoreError> {
        let mut sum = self.sum_before(range.end)?;
        sum.subtract(self.sum_before(range.start)?);
        Ok(sum)
    }

    fn sum_before(&self, at: usize) -> Result<IdSum, StoreError> {
        if at == 0 {
            return Ok(IdSum::default());
        }
        if at >= self.len() {
            return Ok(self.total.sum);
        }
        if let Some(sum) = self.sums.borrow().get(&at) {
            return Ok(*sum);
        }
        let below = self.below(self.member(at)?)?;
        if position(below.count)? != at {
            return Err(StoreError::Corrupt("a position has another event than was summed".into()));
        }
        self.sums.borrow_mut().insert(at, below.sum);
        Ok(below.sum)
    }

    /// Shows the events at these positions, in order, until `each` says false.
    ///
    /// # Errors
    /// The reader's.
    pub fn list(
        &self,
        range: Range<usize>,
        each: &mut dyn FnMut(Timestamp, EventId) -> bool,
    ) -> Result<(), StoreError> {
        let end = range.end.min(self.len());
        if range.len() == 1 && range.start < end {
            let (created_at, id) = self.member(range.start)?;
            each(created_at, id);
            return Ok(());
        }
        let mut at = range.start;
        while at < end {
            let next = end.min(at + LISTED);
            let first = self.member(at)?;
            let last = self.member(next - 1)?;
            let members = self.members_between(first, last)?;
            if members.len() != next - at {
                return Err(StoreError::Corrupt("a range has other events than were summed".into()));
            }
            for (created_at, id) in members {
                if !each(created_at, id) {
                    return Ok(());
                }
            }
            at = next;
        }
        Ok(())
    }

    /// All events below a member, or what would be one.
    fn below(&self, member: Member) -> Result<Aggregate, StoreError> {
        let (created_at, id) = member;
        self.reader.charge(self.runs.len() / RUNS_PER_ID);
        let at = self.loose.partition_point(|loose| loose.member < member);
        let mut below = match self.loose.get(at) {
            Some(loose) => loose.before,
            None => {
                let mut all = self.loose.last().map_or(Aggregate::default(), |last| last.before);
                if let Some(last) = self.loose.last() {
                    all.add_signed(Aggregate::of(&last.member.1), last.is_subtracted);
                }
                all
            }
        };
        for run in &self.runs {
            // In the order of answers: what is newer, then its second by ids, then what is older.
            let mut found = run.total;
            if created_at > 0 {
                found.subtract(run.before(Rank::newest(created_at - 1), &self.reader)?);
            } else {
                found = Aggregate::default();
            }
            if id.0 != [0; 32] {
                let rank = Rank::of(created_at, &id);
                found.add(run.before(rank, &self.reader)?);
                found.subtract(run.before(Rank::newest(created_at), &self.reader)?);
                run.each(rank, rank, &self.reader, &mut |_, other| {
                    if other < id {
                        found.add(Aggregate::of(&other));
                    }
                })?;
            }
            below.add_signed(found, run.is_subtracted);
        }
        Ok(below)
    }

    /// The number of loose events below one.
    fn loose_below(&self, member: Member) -> i64 {
        let at = self.loose.partition_point(|loose| loose.member < member);
        self.loose.get(at).map_or_else(
            || {
                self.loose
                    .last()
                    .map_or(0, |last| last.before.count + if last.is_subtracted { -1 } else { 1 })
            },
            |loose| loose.before.count,
        )
    }

    /// Whether at most `at` events are older than `created_at`, with as few blocks read as that takes.
    fn are_at_most(&self, at: i64, created_at: Timestamp) -> Result<bool, StoreError> {
        let Some(newest) = created_at.checked_sub(1) else { return Ok(true) };
        let (rank, loose) = (Rank::newest(newest), self.loose_below((created_at, EventId([0; 32]))));
        let (mut least, mut most) = (loose, loose);
        for run in &self.runs {
            let (low, high) = run.bounds(rank);
            let (low, high) = (run.total.count - high, run.total.count - low);
            let (low, high) = if run.is_subtracted { (-high, -low) } else { (low, high) };
            (least, most) = (least + low, most + high);
        }
        if most <= at || least > at {
            return Ok(most <= at);
        }
        Ok(self.count_older(created_at)? <= at)
    }

    /// How many events are older than `created_at`.
    fn count_older(&self, created_at: Timestamp) -> Result<i64, StoreError> {
        let Some(newest) = created_at.checked_sub(1) else { return Ok(0) };
        let mut count = self.loose_below((created_at, EventId([0; 32])));
        for run in &self.runs {
            let older = run.total.count - run.count_before(Rank::newest(newest), &self.reader)?;
            count += if run.is_subtracted { -older } else { older };
        }
        Ok(count)
    }

    /// How many events of a second have ids whose prefix is below this one.
    fn count_of_second(&self, created_at: Timestamp, prefix: u64) -> Result<i64, StoreError> {
        let id = |prefix: u64| {
            let mut id = EventId([0; 32]);
            id.0[..8].copy_from_slice(&prefix.to_be_bytes());
            id
        };
        let mut count = self.loose_below((created_at, id(prefix))) - self.loose_below((created_at, id(0)));
        for run in &self.runs {
            let to = run.count_before(Rank { created_at, prefix }, &self.reader)?;
            let found = to - run.count_before(Rank::newest(created_at), &self.reader)?;
            count += if run.is_subtracted { -found } else { found };
        }
        Ok(count)
    }

    /// The event at a position, which is below the length.
    fn member(&self, at: usize) -> Result<Member, StoreError> {
        if let Some(member) = self.members.borrow().get(&at) {
            return Ok(*member);
        }
        // Its search reads little, and takes as long as some look-ups.
        self.reader.charge(SEARCH_IDS * (1 + self.runs.len() / RUNS_OF_SEARCH));
        let wrong = || StoreError::Corrupt("a position has no event".into());
        let position = at as i64;
        // The newest second that has no more than so many events before it.
        let (mut low, mut high) = (self.oldest, self.newest);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match self.are_at_most(position, middle)? {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        let created_at = low;
        let mut left = position - self.count_older(created_at)?;
        // If that second has many events: a range of id prefixes that only few of them have.
        let (mut first, mut last) = (0, u64::MAX);
        let end = match created_at.checked_add(1) {
            Some(next) => self.count_older(next)?,
            None => self.total.count,
        };
        let mut events = end - position + left;
        let all = left;
        let mut before = 0;
        while events > SECOND && first < last {
            let middle = first + (last - first) / 2 + 1;
            let below = self.count_of_second(created_at, middle)?;
            if below <= all {
                events -= below - before;
                (first, before) = (middle, below);
            } else {
                events = below - before;
                last = middle - 1;
            }
        }
        left = all - before;
        let ranks = (Rank { created_at, prefix: first }, Rank { created_at, prefix: last });
        let members = self.members_of(&[ranks])?;
        let found = usize::try_from(left).ok().and_then(|left| members.get(left));
        let member = *found.ok_or_else(wrong)?;
        self.members.borrow_mut().insert(at, member);
        Ok(member)
    }

    /// The events from one to another, both included.
    fn members_between(&self, first: Member, last: Member) -> Result<Vec<Member>, StoreError> {
        let (oldest, newest) = (first.0, last.0);
        let (first_rank, last_rank) = (Rank::of(oldest, &first.1), Rank::of(newest, &last.1));
        let end_of = |created_at| Rank { created_at, prefix: u64::MAX };
        let mut members = if oldest == newest {
            self.members_of(&[(first_rank, last_rank)])?
        } else {
            let mut ranges = vec![(Rank::newest(newest), last_rank), (first_rank, end_of(oldest))];
            if newest - oldest > 1 {
                ranges.push((Rank::newest(newest - 1), end_of(oldest + 1)));
            }
            self.members_of(&ranges)?
        };
        members.retain(|member| (first..=last).contains(member));
        Ok(members)
    }

    /// The events of these ranges of ranks, sorted.
    fn members_of(&self, ranges: &[(Rank, Rank)]) -> Result<Vec<Member>, StoreError> {
        let (mut members, mut subtracted) = (Vec::new(), Vec::new());
        for &(first, last) in ranges {
            for run in &self.runs {
                run.each(first, last, &self.reader, &mut |posting, id| {
                    let member = (posting.rank.created_at, id);
                    if run.is_subtracted {
                        subtracted.push(member);
                    } else {
                        members.push(member);
                    }
                })?;
            }
            // A range is of one second, or of whole seconds.
            let from = self.loose.partition_point(|loose| loose.member.0 < last.created_at);
            let rest = self.loose[from..].iter().take_while(|loose| loose.member.0 <= first.created_at);
            for Loose { member, is_subtracted, .. } in rest {
                let rank = Rank::of(member.0, &member.1);
                if rank < first || rank > last {
                    continue;
                }
                if *is_subtracted {
                    subtracted.push(*member);
                } else {
                    members.push(*member);
                }
            }
        }
        members.sort_unstable();
        // An event that is pending removal may have been stored again, and only one of the two may be subtracted, or both.
        subtracted.sort_unstable();
        let mut subtracted = subtracted.into_iter().peekable();
        members.retain(|member| {
            while subtracted.next_if(|gone| gone < member).is_some() {}
            subtracted.next_if_eq(member).is_none()
        });
        Ok(members)
    }
}

fn position(count: i64) -> Result<usize, StoreError> {
    usize::try_from(count)
        .map_err(|_| StoreError::Corrupt("more is subtracted from a sum than is in it".into()))
}

/// Events that are among the postings and not in the set; `None` if there are too many.
fn events_gone<R: Reader>(
    reader: &R,
    classes: TermClasses,
    now: Timestamp,
    budget: &mut SumBudget,
) -> Result<Option<Vec<Subtracted>>, StoreError> {
    let mut left = usize::MAX;
    let gone = aggregate::subtracted_events(reader, classes, now, Seq(u64::MAX), GONE_MAX, &mut left)?;
    budget.spent += usize::MAX - left;
    Ok(gone.map(|mut gone| {
        // Whether a removal request that has expired is in a sum is known with that.
        gone.retain(|event| !(event.is_expired && is_removal_request(event.kind)));
        gone
    }))
}

/// What is found of the terms.
#[derive(Default)]
struct Building {
    runs: Vec<SummedRun>,
    /// Loose postings, each with whether it is subtracted.
    postings: Vec<(Posting, bool)>,
    /// Members that are known.
    loose: Vec<(Member, bool)>,
}

impl Building {
    fn add(&mut self, postings: SummedPostings, is_subtracted: bool) {
        let SummedPostings { runs, loose, outdated } = postings;
        self.runs.extend(runs.into_iter().map(|parts| SummedRun::new(parts, is_subtracted)));
        self.postings.extend(loose.into_iter().map(|posting| (posting, is_subtracted)));
        // The sums are mended, of whichever sign.
        let outdated = outdated.into_iter().map(|request| {
            let member = (request.posting.rank.created_at, request.id);
            (member, is_subtracted != request.is_summed)
        });
        self.loose.extend(outdated);
    }

    /// How many events there may be; there are fewer if some are gone.
    fn most(&self) -> i64 {
        let signed = |count: i64, is_subtracted: bool| if is_subtracted { -count } else { count };
        let runs = self.runs.iter().map(|run| signed(run.total.count, run.is_subtracted));
        let postings = self.postings.iter().map(|(_, is_subtracted)| signed(1, *is_subtracted));
        let loose = self.loose.iter().map(|(_, is_subtracted)| signed(1, *is_subtracted));
        runs.chain(postings).chain(loose).sum()
    }
}

/// Without postings of events that are added and subtracted: their ids need not be looked up.
fn without_pairs(mut postings: Vec<(Posting, bool)>) -> Vec<(Posting, bool)> {
    if postings.iter().all(|(_, is_subtracted)| !is_subtracted) {
        return postings;
    }
    postings.sort_unstable_by_key(|(posting, is_subtracted)| (posting.seq, *is_subtracted));
    let mut left: Vec<(Posting, bool)> = Vec::with_capacity(postings.len());
    for (posting, is_subtracted) in postings {
        match left.last() {
            Some((last, false)) if is_subtracted && last.seq == posting.seq => _ = left.pop(),
            _ => left.push((posting, is_subtracted)),
        }
    }
    left
}
