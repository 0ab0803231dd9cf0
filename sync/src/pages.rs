//! A range that is read by REQ in pages, newest first, from a relay without NIP-77.
//!
//! A page may be cut anywhere, also within a second, by a limit that nobody tells. So the next page begins with the second
//! that the last one ended in, and the end is the page without an event.

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
    /// The second before `until`, all of whose events seemed to be known: if there are older ones, its page was cut.
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

/// What an event of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was not known.
    New,
    /// It was in the last page too.
    Again,
    /// It was not asked for.
    Unasked,
}

/// What a page has told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Of this range all ids are known now.
    pub(crate) known: Option<Range>,
    /// The ids of that range, and others.
    pub(crate) ids: HashSet<EventId>,
    /// There is no other page.
    pub(crate) is_last: bool,
    /// A second that has more events than a page, or may have: those beyond it cannot be asked for.
    pub(crate) cut: Option<Timestamp>,
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

    /// The range of the next page, and how many events it has at most. What had come of it is forgotten.
    pub(crate) fn ask(&mut self) -> (Range, u32) {
        self.page.clear();
        (Range { since: self.since, until: self.until }, self.limit)
    }

    /// Takes an event that matches the filter.
    pub(crate) fn take(&mut self, created_at: Timestamp, id: EventId) -> Taken {
        let range = Range { since: self.since, until: self.until };
        if self.page.len() >= self.limit as usize || !range.contains(created_at) {
            return Taken::Unasked;
        }
        self.page.push((created_at, id));
        if created_at == self.until && self.border.contains(&id) { Taken::Again } else { Taken::New }
    }

    /// The page has come.
    pub(crate) fn end(&mut self) -> Told {
        let page = std::mem::take(&mut self.page);
        self.largest = self.largest.max(page.len());
        let mut ids = self.border.clone();
        let is_new = page.iter().fold(false, |any, (_, id)| ids.insert(*id) | any);
        let mut told = Told { known: None, ids, is_last: false, cut: None };
        let Some(oldest) = page.iter().map(|(second, _)| *second).min() else {
            told.known = Some(Range { since: self.since, until: self.until });
            told.is_last = true;
            // The oldest second alone filled a page as large as any: that may be all of it, or all that the relay gives.
            let is_largest = self.stepped_over_len == self.largest && self.largest >= LIMIT_LEAST;
            let may_be_cut = is_largest && !self.is_limit_known;
            told.cut = self.stepped_over.take().filter(|_| may_be_cut);
            return told;
        };
        told.cut = self.stepped_over.take();
        if is_new && oldest == self.until {
            // Perhaps the second has others.
            self.border = told.ids.clone();
        } else if is_new {
            told.known = Some(Range { since: oldest + 1, until: self.until });
            self.border =
                page.into_iter().filter(|(second, _)| *second == oldest).map(|(_, id)| id).collect();
            self.until = oldest;
        } else {
            // Nothing but what was known of this second.
            told.known = Some(Range { since: self.until, until: self.until });
            if page.len() >= self.limit as usize {
                told.cut = Some(self.until);
            } else {
                (self.stepped_over, self.stepped_over_len) = (Some(self.until), page.len());
            }
            self.border.clear();
            told.is_last = self.until == self.since;
            self.until = self.until.saturating_sub(1);
        }
        told
    }
}
