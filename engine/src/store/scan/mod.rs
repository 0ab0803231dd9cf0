//! Stored events for a REQ: all its filters answered as one list, in steps of bounded work (NIP-01, NIP-67).
//!
//! A [`Scan`] owns its position and borrows nothing between steps: each step may read another state of the
//! store. An event is handed out once, in the order of `created_at` descending and full id ascending; events that
//! were deleted or replaced meanwhile are skipped. It never writes, and never waits.

mod limit;

use std::sync::Arc;

use super::merge::{Merge, MergeStep};
use super::{Reader, Seq, StoreError, TermClasses, Viewer, cost};
use crate::types::{CanonicalEvent, EventMatcher, Filter, Timestamp, parse_expiration};
use limit::{Limit, Stage};

/// Cost of finding out whether there is one more match, once all that was asked for is sent; past it the answer is
/// [`Completeness::Unknown`]. A page costs hundreds of units, so finding out may cost a few pages.
const LOOK_AHEAD_COST_MAX: u64 = 2_000;

/// How many events filters get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Events for a filter without `limit`.
    pub limit_default: u32,
    /// Events for a filter with a larger `limit`; also bounds how many more a filter gets so that a second
    /// is not split.
    pub limit_max: u32,
}

/// An event to send.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// Its sequence number.
    pub seq: Seq,
    /// Its canonical JSON, and what is in it.
    pub event: CanonicalEvent<'a>,
}

/// What the receiver of a [`Hit`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkResult {
    /// Go on.
    Continue,
    /// Go on: this one was sent before, so only reading it is charged.
    AlreadySent,
    /// End the step after this one: the reader is slow, or the sink wants no more.
    Pause,
}

/// Where a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanStep {
    /// There is more to read.
    More,
    /// The scan is over.
    Done(Completeness),
}

/// NIP-67: what is known about matches that were not sent. Never wrong about the states that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Every stored match was sent.
    Finish,
    /// There is a stored match that was not sent.
    More,
    /// Finding out would cost too much, or matches may be withheld from the viewer.
    Unknown,
    /// All filters ask for ids, and the viewer may read no match that is stored.
    Withheld,
}

/// The stored part of one REQ.
///
/// Each filter keeps its own limit; an event that several match is handed out once and counts for each. A
/// filter's own `limit` is kept exactly; where the relay's limit cuts, the filter continues to the end of the second
/// it has reached, so that a client can continue from there with `until` (NIP-67).
#[derive(Debug)]
pub struct Scan {
    filters: Arc<[Filter]>,
    limits: Box<[Limit]>,
    merge: Merge,
    /// A visible match was skipped.
    more: bool,
    /// Whether there is a match that was not sent will not be known.
    unknown: bool,
    hit_cost: usize,
    look_ahead_cost: u64,
    /// Some filter looks ahead.
    looking_ahead: bool,
    /// No filter wants anything more.
    over: bool,
    /// Which filters can match what the viewer could not read when the scan began.
    may_be_incomplete: Option<Box<[bool]>>,
    /// Visible matches of each filter so far.
    matched: Box<[usize]>,
    /// The viewer may not read a match.
    has_withheld_match: bool,
    /// An event was handed out.
    sent: bool,
}

impl Scan {
    /// Begins to answer `filters`, which are normalised, from events up to sequence number `horizon`, in a store that
    /// keeps terms of `classes`.
    pub fn new(filters: Arc<[Filter]>, limits: ScanLimits, classes: TermClasses, horizon: Seq) -> Self {
        let wants: Box<[Limit]> = filters.iter().map(|filter| Limit::new(filter, limits)).collect();
        let merge = Merge::new(&filters, |index| wants[index].wanted(), classes, horizon, true);
        // `limit: 0` is answered at once; whether there is anything is unknown.
        let unknown = wants
            .iter()
            .zip(&*filters)
            .any(|(limit, filter)| limit.stage == Stage::Done && !filter.matches_nothing());
        let mut scan = Scan {
            matched: vec![0; filters.len()].into(),
            filters,
            limits: wants,
            merge,
            more: false,
            unknown,
            hit_cost: 0,
            look_ahead_cost: 0,
            looking_ahead: false,
            over: false,
            may_be_incomplete: None,
            has_withheld_match: false,
            sent: false,
        };
        scan.close_done();
        scan
    }

    /// Charges an event that is handed out with `cost` more, for what its receiver does with it.
    #[must_use]
    pub fn with_hit_cost(self, cost: usize) -> Self {
        Scan { hit_cost: cost, ..self }
    }

    /// Records what `viewer` may not read. The first step does; a scan that is resumed is given a viewer that sees
    /// no more than the one before.
    pub fn begin_for(&mut self, viewer: &dyn Viewer) {
        self.may_be_incomplete.get_or_insert_with(|| {
            self.filters.iter().map(|filter| !viewer.sees_all_matches(filter)).collect()
        });
    }

    /// Bytes of its cursors and of what they have read.
    pub fn cursor_bytes(&self) -> usize {
        self.merge.bytes()
    }

    /// Drops its cursors while its reader is slow. The next step opens them again where it stands, at the cost of opening
    /// them; the answer is the same.
    pub fn release_cursors(&mut self) {
        self.merge.release_cursors();
    }

    /// Spends up to `budget` units of cost, which are subtracted from it, and hands matches that `viewer` may see to `sink`
    /// in order. A unit of cost is about a microsecond of work: a posting or a small event; large events and those that
    /// many filters ask about cost more (`store/cost.rs`). A step ends with what uses the budget up, which may cost more
    /// than is left of it: one event, or choosing between the access paths of one filter, a cost of some 400.
    ///
    /// # Errors
    /// The backend's. The scan has lost nothing and may be stepped again.
    pub fn step<R: Reader>(
        &mut self,
        reader: &R,
        now: Timestamp,
        budget: &mut usize,
        viewer: &dyn Viewer,
        sink: &mut dyn FnMut(Hit<'_>) -> SinkResult,
    ) -> Result<ScanStep, StoreError> {
        self.begin_for(viewer);
        while !self.over {
            let next = self.merge.next(&self.filters, reader, budget);
            self.bound_look_ahead();
            match next? {
                MergeStep::OutOfBudget => return Ok(ScanStep::More),
                MergeStep::End => self.over = true,
                // The bound may have closed the filter scans it was for.
                MergeStep::Candidate if self.over => {}
                MergeStep::Candidate if *budget == 0 => return Ok(ScanStep::More),
                MergeStep::Candidate => {
                    *budget = budget.saturating_sub(1 + cost::of_filters(self.filters.len()));
                    let result = self.consider(reader, now, budget, viewer, sink)?;
                    self.merge.advance();
                    if result == SinkResult::Pause {
                        return Ok(ScanStep::More);
                    }
                }
            }
        }
        Ok(ScanStep::Done(self.completeness()))
    }

    /// Reads the candidate, and hands it out if a filter wants it. Subtracts from `budget` what that costs beyond one.
    fn consider<R: Reader>(
        &mut self,
        reader: &R,
        now: Timestamp,
        budget: &mut usize,
        viewer: &dyn Viewer,
        sink: &mut dyn FnMut(Hit<'_>) -> SinkResult,
    ) -> Result<SinkResult, StoreError> {
        let posting = self.merge.candidate().posting;
        let Some(json) = reader.event(posting.seq)? else {
            return Ok(SinkResult::Continue);
        };
        let event = CanonicalEvent::trusted(&json);
        let mut matcher = EventMatcher::new(event);
        let expired = posting.expires && parse_expiration(event.tags()).is_some_and(|at| at <= now);
        let visible = viewer.sees_all_of(posting.kind) || viewer.sees(event);
        let (mut sent, mut further, mut turned) = (false, false, false);
        for index in 0..self.merge.candidate().filter_scans.len() {
            let (filter_scan, decided) = self.merge.candidate().filter_scans[index];
            let (limit, filter) = (&mut self.limits[filter_scan], &self.filters[filter_scan]);
            let read = self.merge.cost_of(filter_scan);
            turned |= limit.advance_to(posting.rank.created_at, read);
            debug_assert!(!decided || filter.matches_stored(event), "these postings prove matches");
            let matches = !expired && (decided || matcher.matches(filter));
            self.has_withheld_match |= matches && !visible;
            let matches = matches && visible;
            self.matched[filter_scan] += usize::from(matches);
            match limit.stage {
                Stage::Sending | Stage::CompletingTimestamp(_) if matches => {
                    sent = true;
                    turned |= limit.count_sent(posting.rank.created_at, read);
                }
                Stage::LookingAhead { .. } => {
                    self.look_ahead_cost += 1;
                    further |= matches;
                }
                _ => {}
            }
            self.merge.record_result(filter_scan, matches, limit.wanted());
        }
        *budget = budget.saturating_sub(cost::of_event(json.len(), &matcher));
        self.sent |= sent;
        self.more |= further && !sent;
        if turned || self.more {
            self.close_done();
        }
        if !sent {
            return Ok(SinkResult::Continue);
        }
        let result = sink(Hit { seq: posting.seq, event });
        if result != SinkResult::AlreadySent {
            *budget = budget.saturating_sub(self.hit_cost);
        }
        Ok(result)
    }

    /// Counts what looking ahead has cost, and gives it up when that is too much.
    fn bound_look_ahead(&mut self) {
        if !self.looking_ahead {
            return;
        }
        for (filter_scan, limit) in self.limits.iter_mut().enumerate() {
            if let Stage::LookingAhead { cost_before } = &mut limit.stage {
                let cost = self.merge.cost_of(filter_scan);
                self.look_ahead_cost += cost - *cost_before;
                *cost_before = cost;
            }
        }
        if self.look_ahead_cost > LOOK_AHEAD_COST_MAX {
            self.unknown = true;
            self.close_done();
        }
    }

    /// Closes the filter scans of filters that want nothing more. Once it is known that there is more, or too expensive to
    /// know, none of them looks ahead.
    fn close_done(&mut self) {
        let give_up = self.more || self.look_ahead_cost > LOOK_AHEAD_COST_MAX;
        self.over = true;
        self.looking_ahead = false;
        for (filter_scan, limit) in self.limits.iter_mut().enumerate() {
            match limit.stage {
                Stage::LookingAhead { .. } if give_up => limit.stage = Stage::Done,
                Stage::LookingAhead { .. } => self.looking_ahead = true,
                _ => {}
            }
            match limit.stage {
                Stage::Done => self.merge.close(filter_scan),
                _ => self.over = false,
            }
        }
    }

    fn completeness(&self) -> Completeness {
        if self.more {
            return Completeness::More;
        }
        if self.has_withheld_match && !self.sent && self.filters.iter().all(|filter| filter.ids.is_some()) {
            return Completeness::Withheld;
        }
        match self.unknown || (0..self.filters.len()).any(|filter_scan| self.may_have_withheld(filter_scan)) {
            true => Completeness::Unknown,
            false => Completeness::Finish,
        }
    }

    /// Whether a match of the filter may have been withheld. A viewer that asks for ids and sees an event for each lacks none.
    fn may_have_withheld(&self, filter_scan: usize) -> bool {
        let all_ids =
            self.filters[filter_scan].ids.as_ref().is_some_and(|ids| ids.len() == self.matched[filter_scan]);
        self.may_be_incomplete.as_ref().is_some_and(|may_be_incomplete| may_be_incomplete[filter_scan])
            && !all_ids
    }
}
