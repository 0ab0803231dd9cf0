//! Fetching and sending what differs, and authentication.

use std::time::Duration;

use relay_engine::types::{Event, EventId, Timestamp};
use relay_engine::wire;

use super::{Action, End, Session, quoted};
use crate::frames::{self, Refusal, neg_id};
use crate::upload::Answer;

impl Session {
    /// Asks for and sends what there is room for. True if nothing is left.
    pub(super) fn transfer(&mut self, now: Duration) -> bool {
        while !self.is_held
            && let Some(request) = self.downloads.next()
        {
            self.answered_at = now;
            self.send(frames::req(&request.sub, &frames::ids_filter(request.ids.iter())));
        }
        let ids = self.uploads.next(now);
        if !ids.is_empty() {
            self.answered_at = now;
            self.actions.push_back(Action::Load(ids));
        }
        self.downloads.is_idle() && self.uploads.is_idle()
    }

    /// Events of [`Action::Load`], as JSON; `None` if they are not stored any more.
    pub fn loaded(&mut self, now: Duration, events: Vec<(EventId, Option<String>)>) {
        for (id, json) in events {
            let message = json.map(|json| frames::event(&json));
            let is_too_long =
                |message: &String| self.information.message_bytes_max.is_some_and(|max| message.len() > max);
            let is_too_long = message.as_ref().is_some_and(is_too_long);
            if is_too_long {
                self.progress.counts.refused += 1;
                self.progress.settled.insert(id);
                self.report(format!("event {id} is longer than a message to it may be"));
            }
            let message = message.filter(|_| !is_too_long);
            self.uploads.loaded(id, message.is_some());
            if let Some(message) = message {
                self.send(message);
            }
        }
        self.work(now);
    }

    /// Whether an event is here.
    pub(super) fn is_here(&self, created_at: Timestamp, id: &EventId) -> bool {
        let item = negentropy::Item::with_timestamp_and_id(created_at, neg_id(id));
        self.local_events.items.binary_search(&item).is_ok() || self.local_events.hidden.contains(id)
    }

    pub(super) fn handle_event(&mut self, now: Duration, sub: &str, json: &str) {
        let raw = wire::parse_event(json.as_bytes());
        let id = raw.as_ref().ok().map(|raw| raw.id);
        let is_page = self.is_page(sub);
        if !is_page && !id.is_some_and(|id| self.downloads.take(sub, &id)) {
            match (&raw, self.is_late(sub)) {
                (Ok(_), true) => {}
                (Ok(_), false) => self.progress.counts.unasked += 1,
                (Err(_), _) => self.progress.counts.invalid += 1,
            }
        } else if let Ok(raw) = raw {
            let event = raw.to_event();
            if !self.plan.scope.filter().matches(&event) {
                self.progress.counts.mismatched += 1;
                self.progress.settled.insert(event.id);
                self.note_wrong_on_page(sub);
            } else if is_page {
                self.handle_page_event(now, sub, event);
            } else {
                self.answered_at = now;
                self.actions.push_back(Action::Store(event));
            }
        } else {
            self.progress.counts.invalid += 1;
            self.note_wrong_on_page(sub);
        }
        self.check_wrong();
    }

    /// Ends with a relay that sends what is not asked for, or does not send what is.
    pub(super) fn check_wrong(&mut self) {
        if let Some(why) = self.progress.counts.lie() {
            self.fail(why);
        }
    }

    pub(super) fn handle_eose(&mut self, now: Duration, sub: &str) {
        if self.handle_page_end(now, sub) {
            return;
        }
        let Some(missing) = self.downloads.end(sub) else { return };
        self.answered_at = now;
        self.progress.counts.missing += missing.len() as u64;
        self.progress.settled.extend(missing);
        self.send(frames::close(sub));
        self.check_wrong();
    }

    pub(super) fn handle_closed(&mut self, now: Duration, sub: &str, message: &str) {
        if self.handle_closed_page(sub, message) || self.handle_closed_query(sub, message) {
            self.answered_at = now;
            return;
        }
        let refusal = Refusal::of(message);
        let Some(can_go_on) = self.downloads.closed(sub, refusal == Refusal::Final) else { return };
        self.answered_at = now;
        match refusal {
            Refusal::Auth => self.want_auth(message),
            Refusal::Temporary => self.end(End::Retry(format!("it closes REQ: {}", quoted(message)))),
            Refusal::Final if can_go_on => {}
            Refusal::Final => self.fail(format!("it refuses REQ: {}", quoted(message))),
        }
    }

    pub(super) fn handle_ok(&mut self, now: Duration, id: EventId, accepted: bool, message: &str) {
        if let Some(answered) = self.auth.answered(id, accepted, message) {
            self.answered_at = now;
            if let Err(why) = answered {
                self.fail(why);
            }
            return;
        }
        let answer = self.uploads.answered(now, id, accepted, message);
        if answer != Answer::Unknown {
            self.answered_at = now;
        }
        match answer {
            Answer::Has => {
                self.progress.counts.sent += 1;
                self.progress.steps += 1;
            }
            Answer::Refused => {
                self.progress.counts.refused += 1;
                self.progress.settled.insert(id);
                self.report(format!("it refuses {id}: {}", quoted(message)));
            }
            Answer::Auth => self.want_auth(message),
            Answer::GiveUp => self.end(End::Retry(format!("it takes no more: {}", quoted(message)))),
            Answer::Later | Answer::Unknown => {}
        }
    }

    pub(super) fn handle_challenge(&mut self, challenge: String) {
        if self.auth.challenged() {
            self.actions.push_back(Action::Authenticate(challenge));
        }
    }

    /// The AUTH event for [`Action::Authenticate`].
    pub fn authenticate(&mut self, now: Duration, event: &Event) {
        self.auth.sent(event.id);
        self.answered_at = now;
        self.send(frames::auth(&String::from_utf8_lossy(event.json())));
    }

    /// The relay does something only for clients that authenticate. What it was will be tried again.
    pub(super) fn want_auth(&mut self, message: &str) {
        if let Err(why) = self.auth.wanted(message) {
            self.fail(why);
        }
    }
}
