//! A state machine for one connection to another relay, without the socket: messages and times in, messages and work for the
//! store out.
//!
//! Ranges of time are compared one after another, newest first, by NIP-77 (`compare`) or in pages of REQs (`paged`). What
//! differs is fetched and sent (`transfer`) before the next range begins. So when a connection is cut, what is left is the list of
//! ranges ([`Progress`]), and the next connection begins there.

mod compare;
mod paged;
mod transfer;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use relay_engine::types::{Event, EventId, Timestamp};

use self::compare::Comparison;
use self::paged::Paging;
use super::auth::Authentication;
use super::counts::Counts;
use super::download::Downloads;
use super::frames::Frame;
use super::information::Information;
use super::pages::Pages;
use super::ranges::{LocalEvents, Range, Scope};
use super::upload::Uploads;
use crate::outcome_counts::OutcomeCounts;

/// Messages of the other relay, and about it, that are printed in a session.
const MESSAGES_SHOWN_MAX: u32 = 10;
/// Longest part of a message that is printed, in characters.
const MESSAGE_CHARS_MAX: usize = 200;
/// Messages that cannot be parsed, after which the session ends.
const MALFORMED_MESSAGES_MAX: u32 = 1_000;

/// What is to be done with every relay.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The events that are to be on both sides.
    pub scope: Scope,
    /// Fetch what is there and not here.
    pub down: bool,
    /// Send what is here and not there.
    pub up: bool,
    /// Only count.
    pub dry_run: bool,
    /// Longest time without an answer.
    pub timeout: Duration,
    /// Whether AUTH can be answered.
    pub has_key: bool,
}

/// Whether a relay has NIP-77.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// It has not been asked.
    #[default]
    Unknown,
    /// It has answered by it.
    Yes,
    /// It has not.
    No,
}

/// A range that is to be compared.
#[derive(Clone, Debug)]
struct Work {
    range: Range,
    /// How far it has been read in pages.
    pages: Option<Pages>,
}

/// What is left to do with a relay, and what has been done; survives its connections. Nothing is, by default.
#[derive(Debug, Default)]
pub struct Progress {
    /// The last one is next.
    work: Vec<Work>,
    /// Ids that are not asked for, or sent, another time.
    settled: HashSet<EventId>,
    /// What has been done.
    pub counts: Counts,
    /// Whether the relay has NIP-77.
    pub negentropy: Support,
    /// Connections that ended without an answer to their first NEG-OPEN.
    unanswered: u32,
    /// Subscriptions that have had a name.
    names: u64,
    /// Grows with everything that need not be done again.
    pub steps: u64,
}

impl Progress {
    /// Everything is to be done.
    pub fn new(range: Range) -> Self {
        Progress { work: vec![Work { range, pages: None }], ..Progress::default() }
    }

    /// This range is to be done, and nothing else of what is left. What is known of the relay stays.
    pub fn begin(&mut self, range: Range) {
        self.work = vec![Work { range, pages: None }];
    }

    /// What is left: from the oldest second of it to the newest one. `None` if nothing is.
    pub fn left(&self) -> Option<Range> {
        let (oldest, newest) = (self.work.first()?, self.work.last()?);
        let until = newest.pages.as_ref().map_or(newest.range.until, Pages::until);
        Some(Range { since: oldest.range.since, until })
    }

    /// These are not asked for.
    pub fn settle(&mut self, ids: impl IntoIterator<Item = EventId>) {
        self.settled.extend(ids);
    }

    /// Ids that are not asked for another time.
    pub fn settled(&self) -> usize {
        self.settled.len()
    }
}

/// Something for whoever has the connection and the store.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send(String),
    /// Verify and store an event. Its id is only claimed.
    Store(Event),
    /// Read these events and hand them to [`Session::loaded`].
    Load(Vec<EventId>),
    /// Sign an AUTH event for this challenge and hand it to [`Session::authenticate`].
    Authenticate(String),
    /// A line for the user.
    Print(String),
    /// Nothing else comes.
    End(End),
}

/// How a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is done.
    Done,
    /// Another connection may get further.
    Retry(String),
    /// Another connection would fail too.
    Failed(String),
}

/// What becomes of events in the store.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// How many, by what became of them.
    pub counts: OutcomeCounts,
    /// Events whose id or signature is wrong.
    pub invalid: u64,
    /// Those that are not stored.
    pub refused: Vec<EventId>,
    /// Sequence numbers in the store of those that are stored, also of those that were before.
    pub seqs: Vec<u64>,
    /// Valid events that are not stored because they are ephemeral.
    pub ephemeral: Vec<Event>,
}

#[derive(Debug)]
enum Current {
    Nothing,
    Comparing(Comparison),
    Paging(Paging),
}

/// A session. Times are those since some moment before it began.
#[derive(Debug)]
pub struct Session {
    plan: Arc<Plan>,
    information: Information,
    local_events: Arc<LocalEvents>,
    progress: Progress,
    /// Unix seconds at the beginning.
    unix_now: Timestamp,
    current: Current,
    downloads: Downloads,
    uploads: Uploads,
    actions: VecDeque<Action>,
    /// When the relay last did something that was asked of it.
    answered_at: Duration,
    auth: Authentication,
    messages_shown: u32,
    malformed: u32,
    /// NEG-OPENs refused because they match too much, since one was answered.
    blocked: u32,
    reopened: u32,
    /// Whether no more events are asked for at present.
    is_held: bool,
    has_ended: bool,
}

impl Session {
    /// Begins. `local_events` are those stored now, of what is left to do.
    pub fn new(
        plan: Arc<Plan>,
        information: Information,
        local_events: Arc<LocalEvents>,
        mut progress: Progress,
        now: Duration,
        unix_now: Timestamp,
    ) -> Self {
        let auth = Authentication::new(plan.has_key);
        if plan.up {
            for id in &local_events.hidden {
                progress.counts.withheld += u64::from(progress.settled.insert(*id));
            }
        }
        let mut session = Session {
            plan,
            information,
            local_events,
            progress,
            unix_now,
            current: Current::Nothing,
            downloads: Downloads::new(information.limit_max, information.message_bytes_max),
            uploads: Uploads::default(),
            actions: VecDeque::new(),
            answered_at: now,
            auth,
            messages_shown: 0,
            malformed: 0,
            blocked: 0,
            reopened: 0,
            is_held: false,
            has_ended: false,
        };
        if information.negentropy == Some(false) && session.progress.negentropy == Support::Unknown {
            session.fall_back("it does not say that it has NIP-77");
        }
        session.work(now);
        session
    }

    /// The next action.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What has been counted.
    pub fn counts(&self) -> &Counts {
        &self.progress.counts
    }

    /// What is left to do, and what has been done.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The same for the next session.
    pub fn into_progress(self) -> Progress {
        self.progress
    }

    /// Handles a message of the relay.
    pub fn handle(&mut self, now: Duration, text: &str) {
        if self.has_ended {
            return;
        }
        let Some(frame) = Frame::parse(text) else {
            self.malformed += 1;
            if self.malformed > MALFORMED_MESSAGES_MAX {
                self.fail("it sends malformed messages");
            }
            return;
        };
        match frame {
            Frame::Event { sub, json } => self.handle_event(now, &sub, json),
            Frame::Ok { id, accepted, message } => self.handle_ok(now, id, accepted, &message),
            Frame::Eose(sub) => self.handle_eose(now, &sub),
            Frame::Closed { sub, message } => self.handle_closed(now, &sub, &message),
            Frame::Notice(message) => self.handle_notice(&message),
            Frame::Auth(challenge) => self.handle_challenge(challenge),
            Frame::NegMsg { id, message } => self.handle_neg_msg(now, &id, &message),
            Frame::NegErr { id, reason } => self.handle_neg_err(now, &id, &reason),
        }
        self.work(now);
    }

    /// What became of events in the store.
    pub fn stored(&mut self, outcomes: Outcomes) {
        let settled = self.progress.settled.len();
        self.progress.counts.add_outcomes(&outcomes);
        self.progress.settled.extend(outcomes.refused);
        self.progress.steps += outcomes.counts.stored + (self.progress.settled.len() - settled) as u64;
        self.check_wrong();
    }

    /// Whether more events are asked for. While it is held, what was asked for before still comes: at most two REQs of 250 events, or a
    /// page. For hosts that cannot stop reading the connection while events wait for the store.
    pub fn hold(&mut self, now: Duration, is_held: bool) {
        if std::mem::replace(&mut self.is_held, is_held) && !is_held {
            self.work(now);
        }
    }

    /// Does not count this time as silence of the relay: its messages were not read.
    pub fn exclude_from_timeout(&mut self, time: Duration) {
        self.answered_at += time;
    }

    /// When [`Session::timeout`] is due.
    pub fn deadline(&self) -> Duration {
        let stalled_at = self.answered_at + self.plan.timeout;
        // Nothing is sent before the relay has accepted the authentication.
        let paused_until = self.uploads.paused_until().filter(|_| !self.auth.is_awaited());
        paused_until.map_or(stalled_at, |until| until.min(stalled_at))
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Duration) {
        if self.has_ended {
            return;
        }
        if now >= self.answered_at + self.plan.timeout {
            if self.is_awaiting() {
                self.stalled();
            }
            self.answered_at = now;
        }
        self.work(now);
    }

    /// The relay, or the network, has closed the connection.
    pub fn closed(&mut self, why: &str) {
        if self.has_ended {
            return;
        }
        self.note_unanswered();
        self.end(End::Retry(why.to_owned()));
    }

    /// Whether an answer of the relay is awaited.
    fn is_awaiting(&self) -> bool {
        let is_comparing = match &self.current {
            Current::Nothing => false,
            Current::Comparing(comparison) => comparison.is_awaiting(),
            Current::Paging(paging) => paging.is_awaiting(),
        };
        is_comparing || self.downloads.is_open() || self.uploads.is_awaiting() || self.auth.is_awaited()
    }

    fn stalled(&mut self) {
        let seconds = self.plan.timeout.as_secs_f32();
        if self.is_first_unanswered() && self.progress.negentropy == Support::Unknown {
            if self.information.negentropy.is_none() {
                self.fall_back("it does not answer NEG-OPEN");
                return;
            }
            self.note_unanswered();
        }
        self.end(End::Retry(format!("no answer for {seconds} s")));
    }

    /// Does what can be done now.
    fn work(&mut self, now: Duration) {
        while !self.has_ended && !self.auth.is_awaited() {
            let is_transferred = self.transfer(now);
            let is_finished = match &self.current {
                Current::Nothing => false,
                Current::Comparing(_) => self.go_on_comparing(now, is_transferred),
                Current::Paging(_) => self.go_on_paging(now, is_transferred),
            };
            if is_finished {
                self.current = Current::Nothing;
                self.progress.work.pop();
                self.progress.steps += 1;
            } else if !matches!(self.current, Current::Nothing) {
                return;
            }
            let Some(work) = self.progress.work.last().cloned() else {
                self.end(End::Done);
                return;
            };
            self.answered_at = now;
            match work.pages {
                Some(pages) => self.begin_paging(pages),
                None if self.progress.negentropy == Support::No => {
                    self.begin_paging(Pages::new(work.range, self.information.limit_max));
                }
                None => self.begin_comparing(work.range),
            }
        }
    }

    /// A new name of a subscription.
    fn name(&mut self, letter: char) -> String {
        self.progress.names += 1;
        format!("{letter}{}", self.progress.names)
    }

    fn send(&mut self, message: String) {
        self.actions.push_back(Action::Send(message));
    }

    /// Reports something to the user, unless much has been reported.
    fn report(&mut self, message: String) {
        self.messages_shown += 1;
        if self.messages_shown <= MESSAGES_SHOWN_MAX {
            self.actions.push_back(Action::Print(message));
        }
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.end(End::Failed(why.into()));
    }

    fn end(&mut self, end: End) {
        if !self.has_ended {
            self.has_ended = true;
            self.actions.push_back(Action::End(end));
        }
    }
}

/// A message of a relay, shortened, in quotes. Control characters do not reach a terminal.
pub fn quoted(message: &str) -> String {
    let chars = message.chars().filter(|char| !char.is_control());
    format!("«{}»", chars.take(MESSAGE_CHARS_MAX).collect::<String>())
}
