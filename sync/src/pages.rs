//! A range that is read by REQ in pages, newest first, from a relay without NIP-77.
//! A relay may end a page anywhere, also within a second, by a limit that it does not announce. So the next page
//! begins with the second in which the last one ended, and the range ends with an empty page.

use std::collections::HashSet;

use relay_engine::types::{EventId, Timestamp};

use super::ranges::Range;

/// Events that are asked for in a page, unless the relay gives fewer at most.
pub(crate) const PAGE_EVENTS: u32 = 500;

/// No relay gives fewer events than this, unless it has no more.
const LIMIT_LEAST: usize = 20;

/// How far a range has been read.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    since: Timestamp,
    /// What is newer is known.
    until: Timestamp,
    /// Ids of second `until` that are known.
    border: HashSet<EventId>,
    /// The second after `until`, read just before it: no new event came of it. If older events follow, its page was cut.
    stepped_over: Option<Timestamp>,
    /// Events of the largest page, and of the one that `stepped_over` is of.
    largest: usize,
    stepped_over_len: usize,
    limit: u32,
    /// Whether the relay has told how many events it gives at most.
    is_limit_known: bool,
    /// The page that comes.
    page: Vec<(Timestamp, EventId)>,
}

/// How an event of a page compares with what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageEvent {
    /// It was not known.
    New,
    /// It was in the last page too.
    Repeated,
    /// It was not asked for.
    Unasked,
}

/// The result of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageResult {
    /// All ids of this range are known now.
    pub(crate) known: Option<Range>,
    /// The ids of that range, and others.
    pub(crate) ids: HashSet<EventId>,
    /// There is no other page.
    pub(crate) is_last: bool,
    /// A second that has more events than a page, or may have: those beyond it cannot be asked for.
    pub(crate) incomplete_second: Option<Timestamp>,
}

impl Pages {
    /// Of a range, from a relay that gives this many events at most, if that is known.
    pub(crate) fn new(range: Range, limit_max: Option<u32>) -> Self {
        Pages {
            since: range.since,
            until: range.until,
            border: HashSet::new(),
            stepped_over: None,
            largest: 0,
            stepped_over_len: 0,
            limit: PAGE_EVENTS.min(limit_max.unwrap_or(PAGE_EVENTS)).max(1),
            is_limit_known: limit_max.is_some(),
            page: Vec::new(),
        }
    }

    /// The newest second of which not all is known.
    pub(crate) fn until(&self) -> Timestamp {
        self.until
    }

    /// The range of the next page, and how many events it has at most. Discards what has come of it.
    pub(crate) fn ask(&mut self) -> (Range, u32) {
        self.page.clear();
        (Range { since: self.since, until: self.until }, self.limit)
    }

    /// Takes an event that matches the filter.
    pub(crate) fn take(&mut self, created_at: Timestamp, id: EventId) -> PageEvent {
        let range = Range { since: self.since, until: self.until };
        if self.page.len() >= self.limit as usize || !range.contains(created_at) {
            return PageEvent::Unasked;
        }
        self.page.push((created_at, id));
        if created_at == self.until && self.border.contains(&id) {
            PageEvent::Repeated
        } else {
            PageEvent::New
        }
    }

    /// The page has come.
    pub(crate) fn end(&mut self) -> PageResult {
        let page = std::mem::take(&mut self.page);
        self.largest = self.largest.max(page.len());
        let mut ids = self.border.clone();
        let is_new = page.iter().fold(false, |any, (_, id)| ids.insert(*id) | any);
        let mut result = PageResult { known: None, ids, is_last: false, incomplete_second: None };
        let Some(oldest) = page.iter().map(|(second, _)| *second).min() else {
            result.known = Some(Range { since: self.since, until: self.until });
            result.is_last = true;
            // The oldest second alone filled a page as large as any: that may be all of it, or all that the relay gives.
            let is_largest = self.stepped_over_len == self.largest && self.largest >= LIMIT_LEAST;
            let may_be_cut = is_largest && !self.is_limit_known;
            result.incomplete_second = self.stepped_over.take().filter(|_| may_be_cut);
            return result;
        };
        result.incomplete_second = self.stepped_over.take();
        if is_new && oldest == self.until {
            // Perhaps the second has others.
            self.border = result.ids.clone();
        } else if is_new {
            result.known = Some(Range { since: oldest + 1, until: self.until });
            self.border =
                page.into_iter().filter(|(second, _)| *second == oldest).map(|(_, id)| id).collect();
            self.until = oldest;
        } else {
            // Nothing but what was known of this second.
            result.known = Some(Range { since: self.until, until: self.until });
            if page.len() >= self.limit as usize {
                result.incomplete_second = Some(self.until);
            } else {
                (self.stepped_over, self.stepped_over_len) = (Some(self.until), page.len());
            }
            self.border.clear();
            result.is_last = self.until == self.since;
            self.until = self.until.saturating_sub(1);
        }
        result
    }
}
