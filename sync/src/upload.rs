//! Events that are sent, some at a time, each of which the other relay has to answer.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use relay_engine::types::EventId;

use super::frames::Refusal;

/// Events that may be without an answer.
const WINDOW: usize = 100;
/// How long nothing is sent to a relay that is asked for too much; twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pauses without an event that is accepted, after which the connection is given up.
const PAUSES_MAX: u32 = 8;

/// What is sent.
#[derive(Debug, Default)]
pub struct Uploads {
    queue: VecDeque<EventId>,
    /// Being read from the store.
    loading: usize,
    sent: HashSet<EventId>,
    paused_until: Option<Duration>,
    pauses: u32,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has the event now, or had it.
    Has,
    /// It does not want it.
    Refused,
    /// It will be sent again.
    Later,
    /// It will be sent again after authentication.
    Auth,
    /// Nothing is accepted for too long.
    GiveUp,
    /// No such event has been sent.
    Unknown,
}

impl Uploads {
    /// Sends these too, once there is room.
    pub fn push(&mut self, ids: impl IntoIterator<Item = EventId>) {
        self.queue.extend(ids);
    }

    /// Whether nothing is sent, or will be.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.loading == 0 && self.sent.is_empty()
    }

    /// The events to read from the store and to send.
    pub fn next(&mut self, now: Duration) -> Vec<EventId> {
        if self.paused_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        self.paused_until = None;
        let open = self.sent.len() + self.loading;
        // Some at a time: they are read in one transaction.
        if open > WINDOW / 2 {
            return Vec::new();
        }
        let ids: Vec<EventId> = self.queue.drain(..self.queue.len().min(WINDOW - open)).collect();
        self.loading += ids.len();
        ids
    }

    /// Until when it is paused.
    pub fn paused_until(&self) -> Option<Duration> {
        self.paused_until.filter(|_| !self.queue.is_empty())
    }

    /// Whether an answer is awaited.
    pub fn is_awaiting(&self) -> bool {
        !self.sent.is_empty()
    }

    /// One of [`Uploads::next`] has been read; `is_sent` unless it cannot be.
    pub fn loaded(&mut self, id: EventId, is_sent: bool) {
        self.loading = self.loading.saturating_sub(1);
        if is_sent {
            self.sent.insert(id);
        }
    }

    /// Handles an OK.
    pub fn answered(&mut self, now: Duration, id: EventId, accepted: bool, message: &str) -> Answer {
        if !self.sent.remove(&id) {
            return Answer::Unknown;
        }
        if accepted || message.starts_with("duplicate:") {
            self.pauses = 0;
            return Answer::Has;
        }
        if message.starts_with("rate-limited:") {
            self.queue.push_front(id);
            if self.paused_until.is_some_and(|until| now < until) {
                return Answer::Later;
            }
            self.pauses += 1;
            if self.pauses > PAUSES_MAX {
                return Answer::GiveUp;
            }
            self.paused_until = Some(now + PAUSE_MAX.min(PAUSE * (1 << (self.pauses - 1))));
            return Answer::Later;
        }
        if Refusal::of(message) == Refusal::Auth {
            self.queue.push_front(id);
            return Answer::Auth;
        }
        Answer::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(number: u8) -> EventId {
        EventId([number; 32])
    }

    #[test]
    fn a_window_is_sent_and_refilled() {
        let mut uploads = Uploads::default();
        uploads.push((0..200).map(id));
        let first = uploads.next(SECOND);
        assert_eq!((first.len(), uploads.next(SECOND).len()), (WINDOW, 0));
        for id in &first {
            uploads.loaded(*id, *id != first[0]);
        }
        assert!(uploads.next(SECOND).is_empty());
        assert_eq!(
            uploads.answered(SECOND, first[0], true, ""),
            Answer::Unknown,
            "it was not there any more"
        );
        for id in &first[1..50] {
            assert_eq!(uploads.answered(SECOND, *id, true, ""), Answer::Has);
        }
        assert_eq!(uploads.next(SECOND).len(), 50);
        for (message, want) in [
            ("duplicate: x", Answer::Has),
            ("blocked: x", Answer::Refused),
            ("error: x", Answer::Refused),
            ("auth-required: x", Answer::Auth),
        ] {
            let id = *uploads.sent.iter().next().unwrap();
            assert_eq!(uploads.answered(SECOND, id, false, message), want);
        }
    }

    #[test]
    fn a_relay_that_is_asked_for_too_much_is_left_alone_for_a_while() {
        let mut uploads = Uploads::default();
        uploads.push([id(1), id(2)]);
        let mut now = SECOND;
        let mut waited = Vec::new();
        let last = loop {
            let ids = uploads.next(now);
            assert_eq!(ids.len(), 2);
            ids.iter().for_each(|id| uploads.loaded(*id, true));
            let answer = uploads.answered(now, ids[0], false, "rate-limited: slow down");
            if answer != Answer::Later {
                break answer;
            }
            assert_eq!(uploads.answered(now, ids[1], false, "rate-limited: slow down"), Answer::Later);
            assert!(uploads.next(now).is_empty());
            let until = uploads.paused_until().unwrap();
            waited.push((until - now).as_secs());
            now = until;
        };
        assert_eq!((last, waited), (Answer::GiveUp, vec![1, 2, 4, 8, 16, 32, 60, 60]));
    }
}
