//! Reading a range in pages.

use std::time::Duration;

use relay_engine::types::{Event, EventId};

use super::{Action, Current, End, Session, quoted};
use crate::frames::{self, Refusal};
use crate::pages::{PageEvent, Pages};

/// Events that may come of a page after its end, before its CLOSE has arrived.
const LATE_MAX: u32 = 1_000;

/// A range that is being read.
#[derive(Debug)]
pub(super) struct Paging {
    pages: Pages,
    /// The page that is asked for.
    sub: Option<String>,
    /// The page before it, which has been closed.
    closed: Option<String>,
    is_last: bool,
    incomplete_seconds: u64,
    /// Events of the page that are not here.
    need: u64,
    /// Events of the page that are malformed or not of the filter.
    wrong: u64,
    late: u32,
}

impl Paging {
    pub(super) fn is_awaiting(&self) -> bool {
        self.sub.is_some()
    }
}

impl Session {
    pub(super) fn begin_paging(&mut self, pages: Pages) {
        self.current = Current::Paging(Paging {
            pages,
            sub: None,
            closed: None,
            is_last: false,
            incomplete_seconds: 0,
            need: 0,
            wrong: 0,
            late: 0,
        });
        self.ask_page();
    }

    fn ask_page(&mut self) {
        let name = self.name('p');
        let Current::Paging(paging) = &mut self.current else { return };
        let (range, limit) = paging.pages.ask();
        (paging.need, paging.wrong) = (0, 0);
        paging.sub = Some(name.clone());
        let filter = self.plan.scope.json(range, Some(limit));
        self.send(frames::req(&name, &filter));
    }

    /// Asks for the next page once what differs in the last one has been sent. True if the range is done.
    pub(super) fn go_on_paging(&mut self, now: Duration, is_transferred: bool) -> bool {
        let Current::Paging(paging) = &mut self.current else { return false };
        if paging.sub.is_some() || !is_transferred || self.is_held {
            return false;
        }
        self.progress.counts.incomplete_seconds += std::mem::take(&mut paging.incomplete_seconds);
        if paging.is_last {
            return true;
        }
        // Another connection begins here.
        if let Some(work) = self.progress.work.last_mut() {
            work.pages = Some(paging.pages.clone());
        }
        self.progress.steps += 1;
        self.answered_at = now;
        self.ask_page();
        false
    }

    /// The page with this name, if it is being read.
    fn page(&mut self, sub: &str) -> Option<&mut Paging> {
        match &mut self.current {
            Current::Paging(paging) if paging.sub.as_deref() == Some(sub) => Some(paging),
            _ => None,
        }
    }

    /// Whether this is the page that is being read.
    pub(super) fn is_page(&mut self, sub: &str) -> bool {
        self.page(sub).is_some()
    }

    /// Whether this is the page before, of which new events come until the relay has read the CLOSE.
    pub(super) fn is_late(&mut self, sub: &str) -> bool {
        let Current::Paging(paging) = &mut self.current else { return false };
        if paging.closed.as_deref() != Some(sub) {
            return false;
        }
        paging.late += 1;
        paging.late <= LATE_MAX
    }

    /// Takes something of a page that is no event of the filter.
    pub(super) fn note_wrong_on_page(&mut self, sub: &str) {
        if let Some(paging) = self.page(sub) {
            paging.wrong += 1;
        }
    }

    /// Takes an event of a page, which matches the filter.
    pub(super) fn handle_page_event(&mut self, now: Duration, sub: &str, event: Event) {
        let (created_at, id) = (event.created_at, event.id);
        let is_known = self.is_here(created_at, &id) || self.progress.settled.contains(&id);
        let (down, is_dry_run) = (self.plan.down, self.plan.dry_run);
        let Some(paging) = self.page(sub) else { return };
        match paging.pages.take(created_at, id) {
            PageEvent::Unasked => self.progress.counts.unasked += 1,
            PageEvent::New if !is_known && down => {
                paging.need += 1;
                self.answered_at = now;
                if !is_dry_run {
                    self.actions.push_back(Action::Store(event));
                }
            }
            PageEvent::New | PageEvent::Repeated => self.answered_at = now,
        }
    }

    /// A page has ended. False if it is none.
    pub(super) fn handle_page_end(&mut self, now: Duration, sub: &str) -> bool {
        let is_dry_run = self.plan.dry_run;
        let Some(paging) = self.page(sub) else { return false };
        let result = paging.pages.end();
        if result.is_last && paging.wrong > 0 {
            self.fail("it sends pages without an event that was asked for");
            return true;
        }
        paging.sub = None;
        paging.closed = Some(sub.to_owned());
        paging.is_last = result.is_last;
        paging.incomplete_seconds += u64::from(result.incomplete_second.is_some());
        let need = if is_dry_run { paging.need } else { 0 };
        self.progress.counts.need += need;
        self.progress.counts.pages += 1;
        self.answered_at = now;
        self.send(frames::close(sub));
        if let Some(second) = result.incomplete_second {
            self.report(format!(
                "second {second} has more events than a page of that relay: some of them may be missing"
            ));
        }
        if let Some(known) = result.known {
            let id = |item: &negentropy::Item| EventId(*item.id);
            let only_here =
                known.of(&self.local_events.items).iter().map(id).filter(|id| !result.ids.contains(id));
            self.offer(only_here.collect());
        }
        true
    }

    /// A page is refused. False if it is none.
    pub(super) fn handle_closed_page(&mut self, sub: &str, message: &str) -> bool {
        if !self.is_page(sub) {
            return false;
        }
        match Refusal::of(message) {
            Refusal::Auth => {
                self.current = Current::Nothing;
                self.want_auth(message);
            }
            Refusal::Temporary => self.end(End::Retry(format!("it closes REQ: {}", quoted(message)))),
            Refusal::Final => self.fail(format!("it refuses REQ: {}", quoted(message))),
        }
        true
    }
}
