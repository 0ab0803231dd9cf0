//! COUNT (NIP-45): distinct stored events over several filters, in steps of bounded work.
//!
//! Where a backend counts postings without reading them, terms are counted whole ([`aggregate`]). Otherwise postings alone are counted
//! wherever they prove the match. `limit` is ignored.

pub(super) mod aggregate;
mod hll;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::merge::{Merge, MergeStep};
use super::{Reader, Seq, StoreError, TermClasses, Viewer, cost};
use crate::types::{CanonicalEvent, EventMatcher, Filter, Timestamp, parse_expiration};
use aggregate::{AggregateStep, Aggregates};
pub use hll::HLL_REGISTERS;
use hll::Hll;

/// The answer to a COUNT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountResult {
    /// Events.
    pub count: u64,
    /// Whether there may be more than `count`: it cost too much to read all, or matches may be withheld from the viewer.
    pub approximate: bool,
    /// Whether all filters ask for ids, and the viewer may read no match that is stored.
    pub withheld: bool,
    /// HyperLogLog registers over the events' authors, for a query NIP-45 names.
    pub hll: Option<Box<[u8; HLL_REGISTERS]>>,
}

/// Where a step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CountStep {
    /// There is more to read.
    More,
    /// The answer.
    Done(CountResult),
}

/// One COUNT. Like a scan, it owns its position and borrows nothing between steps.
#[derive(Debug)]
pub struct Count {
    filters: Arc<[Filter]>,
    classes: TermClasses,
    horizon: Seq,
    /// How terms are counted, if all of the filters are counted so. Nothing has been merged then.
    aggregates: Option<Aggregates>,
    merge: Merge,
    count: u64,
    cost_left: u64,
    hll: Option<Hll>,
    /// Whether a filter can match what the viewer could not read when the count began.
    may_be_incomplete: Option<bool>,
    /// The viewer may not read a match.
    has_withheld_match: bool,
}

impl Count {
    /// Begins to count what matches any of `filters`, which are normalised, among events up to sequence number
    /// `horizon`. Past a cost of `cost_max` in all the answer is approximate.
    pub fn new(filters: Arc<[Filter]>, classes: TermClasses, horizon: Seq, cost_max: u64) -> Self {
        let hll = Hll::for_query(&filters);
        Count {
            merge: Merge::new(&filters, |_| u64::MAX, classes, horizon, false),
            // Registers are of authors, who are in the events.
            aggregates: Aggregates::new(&filters, classes).filter(|_| hll.is_none()),
            hll,
            classes,
            horizon,
            filters,
            count: 0,
            cost_left: cost_max,
            may_be_incomplete: None,
            has_withheld_match: false,
        }
    }

    /// Bytes of its cursors and of what they have read.
    pub fn cursor_bytes(&self) -> usize {
        self.merge.bytes()
    }

    /// What is counted.
    pub fn filters(&self) -> &Arc<[Filter]> {
        &self.filters
    }

    /// As [`super::Scan::release_cursors`].
    pub fn release_cursors(&mut self) {
        self.merge.release_cursors();
    }

    /// Spends up to `budget` units of cost, which are subtracted from it, as [`super::Scan::step`] does.
    ///
    /// # Errors
    /// The backend's. The count has lost nothing and may be stepped again.
    pub fn step<R: Reader>(
        &mut self,
        reader: &R,
        now: Timestamp,
        budget: &mut usize,
        viewer: &dyn Viewer,
    ) -> Result<CountStep, StoreError> {
        self.may_be_incomplete
            .get_or_insert_with(|| self.filters.iter().any(|filter| !viewer.sees_all_matches(filter)));
        let step_budget = usize::try_from(self.cost_left).unwrap_or(usize::MAX).min(*budget);
        let mut left = step_budget;
        let outcome = self.run(reader, now, &mut left, viewer);
        let used = step_budget - left;
        *budget -= used;
        self.cost_left -= used as u64;
        match outcome? {
            true => Ok(CountStep::Done(self.counted(false))),
            false if self.cost_left == 0 => Ok(CountStep::Done(self.counted(true))),
            false => Ok(CountStep::More),
        }
    }

    /// True when everything has been counted, false when the budget is used up.
    fn run<R: Reader>(
        &mut self,
        reader: &R,
        now: Timestamp,
        budget: &mut usize,
        viewer: &dyn Viewer,
    ) -> Result<bool, StoreError> {
        if let Some(aggregates) = &mut self.aggregates {
            let (classes, horizon) = (self.classes, self.horizon);
            let count = &mut self.count;
            match aggregates.step(&self.filters, classes, reader, now, horizon, budget, viewer, count)? {
                AggregateStep::End => return Ok(true),
                AggregateStep::More => return Ok(false),
                AggregateStep::Unsupported => (self.aggregates, self.count) = (None, 0),
            }
        }
        loop {
            match self.merge.next(&self.filters, reader, budget)? {
                MergeStep::End => return Ok(true),
                MergeStep::OutOfBudget => return Ok(false),
                MergeStep::Candidate => {}
            }
            let candidate = self.merge.candidate();
            let (posting, decided) =
                (candidate.posting, candidate.filter_scans.iter().any(|filter_scan| filter_scan.1));
            let open = viewer.sees_all_of(posting.kind);
            if decided && open && !posting.expires && self.hll.is_none() {
                self.count += u64::from(!reader.is_pending_removal(posting.seq)?);
                self.merge.advance();
                continue;
            }
            if *budget == 0 {
                return Ok(false);
            }
            *budget -= 1;
            if let Some(json) = reader.event(posting.seq)? {
                let event = CanonicalEvent::trusted(&json);
                let mut matcher = EventMatcher::new(event);
                let matches = decided
                    || candidate
                        .filter_scans
                        .iter()
                        .any(|&(filter_scan, _)| matcher.matches(&self.filters[filter_scan]));
                *budget = budget.saturating_sub(cost::of_event(json.len(), &matcher));
                let expired = posting.expires && parse_expiration(event.tags()).is_some_and(|at| at <= now);
                let visible = open || viewer.sees(event);
                self.has_withheld_match |= matches && !expired && !visible;
                if matches && !expired && visible {
                    self.count += 1;
                    if let Some(hll) = &mut self.hll {
                        hll.add(&event.pubkey());
                    }
                }
            }
            self.merge.advance();
        }
    }

    fn counted(&self, out_of_budget: bool) -> CountResult {
        let lists: Option<Vec<_>> = self.filters.iter().map(|filter| filter.ids.as_deref()).collect();
        let ids: Option<BTreeSet<_>> = lists.map(|lists| lists.into_iter().flatten().collect());
        // A viewer that asks for ids and is counted one for each lacks none.
        let may_have_withheld = || ids.as_ref().is_none_or(|ids| ids.len() as u64 != self.count);
        CountResult {
            count: self.count,
            approximate: out_of_budget || (self.may_be_incomplete.unwrap_or_default() && may_have_withheld()),
            withheld: self.has_withheld_match && self.count == 0 && ids.is_some(),
            hll: self.hll.as_ref().map(|hll| Box::new(*hll.registers())),
        }
    }
}
