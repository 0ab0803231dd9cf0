//! Comparing a range by NIP-77.

use std::time::Duration;

use relay_engine::types::EventId;

use super::{Action, Current, End, Session, Support, Work, quoted};
use crate::frames::{self, Refusal};
use crate::pages::Pages;
use crate::ranges::Range;
use crate::reconcile::{Problem, Reconciliation};

/// Bytes of a message, before they are hexadecimal: relays that take messages of 128 KiB take it.
const MESSAGE_BYTES: u64 = 60_000;
/// The least that the protocol works with.
const MESSAGE_BYTES_MIN: u64 = 4_096;
/// Ids that wait to be fetched; while there are more, the reconciliation pauses.
const QUEUED_IDS: usize = 20_000;
/// "blocked" refusals of NEG-OPEN in a row after which the size of the range cannot be their cause, so pages are read. Halving
/// gets from all time to a second in fewer.
const BLOCKED_MAX: u32 = 100;
/// How often reconciliations may be closed before their first answer, in a session.
const REOPENED_MAX: u32 = 5;
/// Connections without an answer to NEG-OPEN, after which the other relay is taken to have no NIP-77.
const UNANSWERED_MAX: u32 = 2;
/// Parts of notices with which relays without NIP-77 answer a NEG-OPEN.
const NOTICES: [&str; 10] = [
    "neg",
    "unknown",
    "unrecogni",
    "invalid",
    "bad m",
    "could not parse",
    "not supported",
    "unsupported",
    "disabled",
    "error",
];

/// A range that is being compared.
#[derive(Debug)]
pub(super) struct Comparison {
    query: String,
    range: Range,
    state: Reconciliation,
    /// The message that comes next, which may wait.
    next: Option<Vec<u8>>,
    is_awaiting: bool,
    is_answered: bool,
    /// Differences, when only counting.
    need: u64,
    have: u64,
}

impl Comparison {
    pub(super) fn is_awaiting(&self) -> bool {
        self.is_awaiting
    }
}

impl Session {
    pub(super) fn begin_comparing(&mut self, range: Range) {
        let by_peer = self
            .information
            .message_bytes_max
            .map_or(u64::MAX, |bytes| (bytes as u64).saturating_sub(2_000) / 2);
        let state = Reconciliation::new(MESSAGE_BYTES.min(by_peer).max(MESSAGE_BYTES_MIN));
        let opened = state.open(range.of(&self.local_events.items));
        let query = self.name('n');
        match opened {
            Ok(message) => {
                let filter = self.plan.scope.json(range, None);
                self.send(frames::neg_open(&query, &filter, &message));
            }
            Err(problem) => return self.fail(problem.to_string()),
        }
        self.current = Current::Comparing(Comparison {
            query,
            range,
            state,
            next: None,
            is_awaiting: true,
            is_answered: false,
            need: 0,
            have: 0,
        });
    }

    /// Sends the next message, if not too much waits. True if the range is done.
    pub(super) fn go_on_comparing(&mut self, now: Duration, is_transferred: bool) -> bool {
        let has_room = self.downloads.queued() <= QUEUED_IDS;
        let Current::Comparing(comparison) = &mut self.current else { return false };
        if comparison.is_awaiting {
            return false;
        }
        if let Some(message) = comparison.next.take_if(|_| has_room) {
            comparison.is_awaiting = true;
            let message = frames::neg_msg(&comparison.query, &message);
            self.answered_at = now;
            self.send(message);
            return false;
        }
        if comparison.next.is_some() || !is_transferred {
            return false;
        }
        self.progress.counts.need += comparison.need;
        self.progress.counts.have += comparison.have;
        true
    }

    pub(super) fn handle_neg_msg(&mut self, now: Duration, query: &str, message: &[u8]) {
        let Current::Comparing(comparison) = &mut self.current else { return };
        if comparison.query != query || !comparison.is_awaiting {
            return;
        }
        comparison.is_awaiting = false;
        comparison.is_answered = true;
        let items = comparison.range.of(&self.local_events.items);
        let step = match comparison.state.handle(items, message) {
            Ok(step) => step,
            Err(problem @ Problem::Version) => return self.fall_back(&problem.to_string()),
            Err(problem) => return self.fail(problem.to_string()),
        };
        comparison.next = step.next;
        let closing = comparison.next.is_none().then(|| frames::neg_close(query));
        self.answered_at = now;
        self.progress.negentropy = Support::Yes;
        self.progress.counts.rounds += 1;
        self.blocked = 0;
        self.want(step.need);
        self.offer(step.have);
        if let Some(closing) = closing {
            self.send(closing);
        }
    }

    /// Ids that are only there.
    fn want(&mut self, mut ids: Vec<EventId>) {
        if !self.plan.down {
            return;
        }
        ids.retain(|id| !self.progress.settled.contains(id) && !self.local_events.hidden.contains(id));
        match (&mut self.current, self.plan.dry_run) {
            (Current::Comparing(comparison), true) => comparison.need += ids.len() as u64,
            _ => self.downloads.push(ids),
        }
    }

    /// Ids that are only here.
    pub(super) fn offer(&mut self, mut ids: Vec<EventId>) {
        if !self.plan.up {
            return;
        }
        let progress = &mut self.progress;
        ids.retain(|id| {
            if !self.local_events.withheld.contains(id) {
                return !progress.settled.contains(id);
            }
            progress.counts.withheld += u64::from(progress.settled.insert(*id));
            false
        });
        match (&mut self.current, self.plan.dry_run) {
            (Current::Comparing(comparison), true) => comparison.have += ids.len() as u64,
            (_, true) => progress.counts.have += ids.len() as u64,
            (_, false) => self.uploads.push(ids),
        }
    }

    pub(super) fn handle_neg_err(&mut self, now: Duration, query: &str, reason: &str) {
        let Current::Comparing(comparison) = &self.current else { return };
        if comparison.query != query {
            return;
        }
        let range = comparison.range;
        let prefix = reason.split(':').next().unwrap_or_default();
        self.answered_at = now;
        match prefix {
            "auth-required" => {
                self.current = Current::Nothing;
                self.want_auth(reason);
            }
            "blocked" => {
                self.current = Current::Nothing;
                self.halve(range, reason);
            }
            // What has been fetched since the first message is not among the items here: they are scanned anew.
            "closed" if comparison.is_answered || self.reopened >= REOPENED_MAX => {
                self.end(End::Retry(format!("it closes the reconciliation: {}", quoted(reason))));
            }
            "closed" => {
                self.current = Current::Nothing;
                self.reopened += 1;
            }
            "restricted" => self.fail(format!("it refuses NEG-OPEN: {}", quoted(reason))),
            "rate-limited" | "error" => self.end(failed(reason)),
            _ if self.progress.negentropy == Support::Yes => self.end(failed(reason)),
            _ => self.fall_back(&format!("it refuses NEG-OPEN: {}", quoted(reason))),
        }
    }

    /// Two halves instead of a range that has too many events.
    fn halve(&mut self, range: Range, reason: &str) {
        self.blocked += 1;
        if self.blocked > BLOCKED_MAX {
            return self.fall_back(&format!("it refuses every NEG-OPEN: {}", quoted(reason)));
        }
        self.progress.work.pop();
        match range.halves(&self.local_events.items, self.unix_now) {
            Some((older, newer)) => {
                self.progress.work.push(Work { range: older, pages: None });
                self.progress.work.push(Work { range: newer, pages: None });
            }
            None => {
                let pages = Pages::new(range, self.information.limit_max);
                self.progress.work.push(Work { range, pages: Some(pages) });
            }
        }
    }

    /// The rest is read in pages.
    pub(super) fn fall_back(&mut self, why: &str) {
        self.progress.negentropy = Support::No;
        self.current = Current::Nothing;
        let message = format!("{why}: all its events of the filter are read in pages (REQ) to be compared");
        self.actions.push_back(Action::Print(message));
    }

    /// A relay that does not know NEG-OPEN may say so.
    pub(super) fn handle_notice(&mut self, message: &str) {
        let lower = message.to_lowercase();
        if self.is_first_unanswered()
            && self.progress.negentropy != Support::Yes
            && NOTICES.iter().any(|part| lower.contains(part))
        {
            return self.fall_back(&format!("it answers NEG-OPEN with {}", quoted(message)));
        }
        self.report(format!("it says {}", quoted(message)));
    }

    /// A relay may also close what it does not know. False if it is no reconciliation.
    pub(super) fn handle_closed_query(&mut self, query: &str, message: &str) -> bool {
        let Current::Comparing(comparison) = &self.current else { return false };
        if comparison.query != query {
            return false;
        }
        match Refusal::of(message) {
            Refusal::Auth => {
                self.current = Current::Nothing;
                self.want_auth(message);
            }
            _ if self.progress.negentropy == Support::Yes => self.end(failed(message)),
            _ => self.fall_back(&format!("it closes NEG-OPEN: {}", quoted(message))),
        }
        true
    }

    /// Whether a NEG-OPEN has no answer yet.
    pub(super) fn is_first_unanswered(&self) -> bool {
        matches!(&self.current, Current::Comparing(comparison) if comparison.is_awaiting && !comparison.is_answered)
    }

    /// The connection ends: perhaps because of the NEG-OPEN.
    pub(super) fn note_unanswered(&mut self) {
        if !self.is_first_unanswered() || self.progress.negentropy != Support::Unknown {
            return;
        }
        self.progress.unanswered += 1;
        if self.progress.unanswered >= UNANSWERED_MAX {
            self.fall_back("it does not answer NEG-OPEN");
        }
    }
}

/// The connection is made again: the relay has refused a NEG-OPEN or ended a reconciliation, for `reason`.
fn failed(reason: &str) -> End {
    End::Retry(format!("the reconciliation failed: {}", quoted(reason)))
}
