//! Sending what is newly stored here, in the order of the log, and ephemeral events as they come.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use relay_engine::store::Seq;
use relay_engine::types::{Event, EventId, Timestamp};

use super::super::super::frames;
use super::super::super::local::Logged;
use super::super::super::session::quoted;
use super::super::super::upload::{Answer, Uploads};
use super::{Action, End, Live};

/// Events that are read from the log and not answered, above which no more are read.
const UNANSWERED_MAX: usize = 100;
/// Ephemeral events that may be without an answer; others are not sent meanwhile.
const EPHEMERAL_MAX: usize = 100;

/// What was compared with the relay, so that it need not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Compared {
    /// All events up to this number were compared or sent before.
    pub(in super::super) sent: Seq,
    /// Events up to this number were compared now, those of before `since` excepted.
    pub(in super::super) until: Seq,
    /// The oldest second of what was compared.
    pub(in super::super) since: Timestamp,
}

/// How far the log has been sent.
#[derive(Debug)]
pub(super) struct Sending {
    /// `None`: what was missed has not been compared yet.
    compared: Option<Compared>,
    /// Up to here the log has been read.
    read: Seq,
    /// The newest number that is known.
    newest: Seq,
    is_reading: bool,
    uploads: Uploads,
    /// Events without a final answer, by number and by id.
    by_seq: BTreeMap<Seq, EventId>,
    by_id: HashMap<EventId, Seq>,
    /// Ephemeral events without an answer.
    ephemeral: HashSet<EventId>,
    /// When the relay last answered, or had nothing to answer.
    answered_at: Duration,
}

impl Sending {
    pub(super) fn new(now: Duration, newest: Seq) -> Self {
        Sending {
            compared: None,
            read: newest,
            newest,
            is_reading: false,
            uploads: Uploads::default(),
            by_seq: BTreeMap::new(),
            by_id: HashMap::new(),
            ephemeral: HashSet::new(),
            answered_at: now,
        }
    }
}

impl Live<'_> {
    /// What was missed has been compared: from here on the log is sent.
    pub(in super::super) fn caught_up(&mut self, now: Duration, compared: Compared) {
        self.sending.read = compared.sent;
        self.sending.compared = Some(compared);
        self.send_more(now);
    }

    /// Up to here the relay has all that it is to have, or has refused it; `None` before that is known.
    pub(in super::super) fn sent(&self) -> Option<Seq> {
        self.sending.compared?;
        let oldest = self.sending.by_seq.keys().next();
        Some(oldest.map_or(self.sending.read, |seq| Seq(seq.0.saturating_sub(1)).min(self.sending.read)))
    }

    /// Something may have been stored here.
    pub(in super::super) fn grew(&mut self, now: Duration, newest: Seq) {
        self.sending.newest = self.sending.newest.max(newest);
        self.send_more(now);
    }

    /// A part of the log after [`Action::ReadLog`].
    pub(in super::super) fn logged(&mut self, now: Duration, logged: Logged) {
        let Some(compared) = self.sending.compared else { return };
        self.sending.is_reading = false;
        self.sending.read = self.sending.read.max(logged.covered);
        self.sending.newest = self.sending.newest.max(logged.covered);
        self.counts.withheld += logged.withheld;
        let memory = self.memory.lock();
        for entry in logged.entries {
            let is_compared = entry.seq <= compared.until && entry.created_at >= compared.since;
            if is_compared || memory.has(entry.seq, &entry.id) {
                continue;
            }
            self.sending.by_seq.insert(entry.seq, entry.id);
            self.sending.by_id.insert(entry.id, entry.seq);
            self.sending.uploads.push([entry.id]);
        }
        drop(memory);
        self.send_more(now);
    }

    /// Events of [`Action::Load`], as JSON; `None` if they are not stored any more.
    pub(in super::super) fn loaded(&mut self, now: Duration, events: Vec<(EventId, Option<String>)>) {
        for (id, json) in events {
            let message = json.map(|json| frames::event(&json));
            let is_too_long = |message: &String| {
                self.information.message_bytes_max.is_some_and(|bytes| message.len() > bytes)
            };
            let is_too_long = message.as_ref().is_some_and(is_too_long);
            let message = message.filter(|_| !is_too_long);
            self.sending.uploads.loaded(id, message.is_some());
            match message {
                Some(message) => {
                    self.counts.sent += 1;
                    self.send(message);
                }
                None => self.settle(&id),
            }
            if is_too_long {
                self.counts.rejected += 1;
                self.report(format!("event {id} is longer than a message to it may be"));
            }
        }
        self.send_more(now);
    }

    /// Sends an ephemeral event that was published here, unless it came from that relay.
    pub(in super::super) fn offer_ephemeral(&mut self, event: &Event) {
        let is_wanted = self.plan.up && self.plan.filters.iter().any(|filter| filter.matches(event));
        if self.has_ended || !is_wanted || !self.memory.lock().add_ephemeral(event.id) {
            return;
        }
        if self.sending.compared.is_none() || self.sending.ephemeral.len() >= EPHEMERAL_MAX {
            self.counts.ephemeral_missed += 1;
            return;
        }
        self.sending.ephemeral.insert(event.id);
        self.counts.sent += 1;
        self.send(frames::event(&String::from_utf8_lossy(event.json())));
    }

    /// Reads, loads and sends what there is room for.
    pub(super) fn send_more(&mut self, now: Duration) {
        if self.has_ended || !self.plan.up || self.auth.is_awaited() || self.sending.compared.is_none() {
            return;
        }
        let sending = &mut self.sending;
        let has_room = sending.by_seq.len() < UNANSWERED_MAX;
        if !sending.is_reading && has_room && sending.read < sending.newest {
            sending.is_reading = true;
            self.actions.push_back(Action::ReadLog(sending.read));
        }
        if !sending.uploads.is_awaiting() {
            sending.answered_at = now;
        }
        let ids = sending.uploads.next(now);
        if !ids.is_empty() {
            self.actions.push_back(Action::Load(ids));
        }
    }

    pub(super) fn sending_deadline(&self) -> Option<Duration> {
        let uploads = &self.sending.uploads;
        let stalled_at = uploads.is_awaiting().then_some(self.sending.answered_at + self.plan.silence);
        let paused_until = uploads.paused_until().filter(|_| !self.auth.is_awaited());
        [stalled_at, paused_until].into_iter().flatten().min()
    }

    pub(super) fn is_sending_stalled(&self, now: Duration) -> bool {
        self.sending.uploads.is_awaiting() && now >= self.sending.answered_at + self.plan.silence
    }

    /// True if it is of use.
    pub(super) fn handle_ok(&mut self, now: Duration, id: EventId, accepted: bool, message: &str) -> bool {
        match self.auth.answered(id, accepted, message) {
            Some(Ok(())) => {
                self.auth_since = None;
                self.subscribe_again(now);
                return true;
            }
            Some(Err(why)) => {
                self.end(End::CutOff(why));
                return true;
            }
            None => {}
        }
        if self.sending.ephemeral.remove(&id) {
            match accepted || message.starts_with("duplicate:") {
                true => self.counts.accepted += 1,
                false => self.counts.rejected += 1,
            }
            return true;
        }
        let answer = self.sending.uploads.answered(now, id, accepted, message);
        if answer == Answer::Unknown {
            return false;
        }
        self.sending.answered_at = now;
        match answer {
            Answer::Has => {
                self.counts.accepted += 1;
                self.settle(&id);
            }
            Answer::Refused => {
                self.counts.rejected += 1;
                self.settle(&id);
                self.report(format!("it refuses {id}: {}", quoted(message)));
            }
            Answer::Auth => self.want_auth(now, message),
            Answer::GiveUp => self.end(End::Retry(format!("it takes no more: {}", quoted(message)))),
            Answer::Later | Answer::Unknown => {}
        }
        true
    }

    /// An event need not be sent another time.
    fn settle(&mut self, id: &EventId) {
        if let Some(seq) = self.sending.by_id.remove(id) {
            self.sending.by_seq.remove(&seq);
        }
    }
}
