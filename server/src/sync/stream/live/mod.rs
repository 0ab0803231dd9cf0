//! A state machine for one live connection to another relay, without the socket: messages and times in, messages and work for
//! the store out.
//!
//! First a subscription without stored events is opened ([`down`]); once it is, what was missed is compared on a connection of
//! its own ([`Action::CatchUp`]), so nothing comes between. Then what is newly stored here is sent ([`up`]).

mod down;
mod up;

use std::collections::VecDeque;
use std::time::Duration;

use relay_engine::store::Seq;
use relay_engine::types::{Event, EventId, Filter, PubKey};

use self::down::Subscription;
pub(super) use self::up::Compared;
use self::up::Sending;
use super::super::auth::Authentication;
use super::super::frames::{self, Frame};
use super::super::information::Information;
use super::super::ranges::Scope;
use super::super::session::quoted;
use super::counts::StreamCounts;
use super::memory::PeerMemory;

/// Words of the other relay that are passed on, for a connection.
const MESSAGES_SHOWN_MAX: u32 = 10;
/// Messages that are none of a relay's, for a connection.
const MALFORMED_MESSAGES_MAX: u32 = 100;

/// What is to be done with a relay.
#[derive(Clone, Debug)]
pub(super) struct LivePlan {
    pub(super) scopes: Vec<Scope>,
    /// The filters of the scopes.
    pub(super) filters: Vec<Filter>,
    /// Store what comes.
    pub(super) down: bool,
    /// Send what is stored.
    pub(super) up: bool,
    /// Longest silence, and longest time without an answer.
    pub(super) silence: Duration,
    /// The key that answers AUTH.
    pub(super) own: Option<PubKey>,
}

/// Something for whoever has the connection and the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send a message.
    Send(String),
    /// Send a ping.
    Ping,
    /// Verify an event and store it. Its id is only claimed.
    Store(Event),
    /// Compare what was missed, and call [`Live::caught_up`].
    CatchUp,
    /// Read the log after this number and hand it to [`Live::logged`].
    ReadLog(Seq),
    /// Read these events and hand them to [`Live::loaded`].
    Load(Vec<EventId>),
    /// Sign an AUTH event for this challenge and hand it to [`Live::authenticate`].
    Authenticate(String),
    /// Tell the operator.
    Print(String),
    /// Nothing else comes.
    End(End),
}

/// How a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Another connection may do better.
    Retry(String),
    /// It lies, floods or refuses: it is left alone for longer.
    CutOff(String),
}

/// A connection. Times are those since some moment before it began.
#[derive(Debug)]
pub(super) struct Live<'a> {
    plan: &'a LivePlan,
    information: Information,
    memory: PeerMemory,
    counts: &'a mut StreamCounts,
    /// As they were at the beginning.
    before: StreamCounts,
    actions: VecDeque<Action>,
    subscription: Subscription,
    sending: Sending,
    auth: Authentication,
    /// Since when an authentication is awaited.
    auth_since: Option<Duration>,
    /// When anything was last heard.
    heard_at: Duration,
    is_pinged: bool,
    messages_shown: u32,
    nonsense: u32,
    has_ended: bool,
}

impl<'a> Live<'a> {
    /// Begins. `newest` is the number of the event that was stored last.
    pub(super) fn new(
        plan: &'a LivePlan,
        information: Information,
        memory: PeerMemory,
        counts: &'a mut StreamCounts,
        now: Duration,
        newest: Seq,
    ) -> Self {
        let before = *counts;
        let mut live = Live {
            plan,
            information,
            memory,
            counts,
            before,
            actions: VecDeque::new(),
            subscription: Subscription::default(),
            sending: Sending::new(now, newest),
            auth: Authentication::new(plan.own.is_some()),
            auth_since: None,
            heard_at: now,
            is_pinged: false,
            messages_shown: 0,
            nonsense: 0,
            has_ended: false,
        };
        match plan.down {
            true => live.subscribe(now),
            false => live.actions.push_back(Action::CatchUp),
        }
        live
    }

    /// The next action.
    pub(super) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What has been counted.
    pub(super) fn counts(&mut self) -> &mut StreamCounts {
        self.counts
    }

    /// When anything was last heard.
    pub(super) fn heard_at(&self) -> Duration {
        self.heard_at
    }

    /// A sign of life of the relay.
    pub(super) fn hear(&mut self, now: Duration) {
        self.heard_at = now;
        self.is_pinged = false;
    }

    /// Handles a message of the relay.
    pub(super) fn handle(&mut self, now: Duration, text: &str) {
        if self.has_ended {
            return;
        }
        self.hear(now);
        self.counts.bytes_in += text.len() as u64;
        let is_useful = match Frame::parse(text) {
            Some(Frame::Event { sub, json }) => self.handle_event(&sub, json),
            Some(Frame::Eose(sub)) => self.handle_eose(&sub),
            Some(Frame::Closed { sub, message }) => self.handle_closed(now, &sub, &message),
            Some(Frame::Ok { id, accepted, message }) => self.handle_ok(now, id, accepted, &message),
            Some(Frame::Auth(challenge)) => {
                let signs = self.auth.challenged();
                if signs {
                    self.actions.push_back(Action::Authenticate(challenge));
                }
                signs
            }
            Some(Frame::Notice(message)) => {
                self.report(format!("it says {}", quoted(&message)));
                false
            }
            Some(Frame::NegMsg { .. } | Frame::NegErr { .. }) => false,
            None => {
                self.nonsense += 1;
                false
            }
        };
        if !is_useful {
            self.counts.bytes_wasted += text.len() as u64;
        }
        if self.nonsense > MALFORMED_MESSAGES_MAX {
            self.end(End::CutOff("it sends malformed messages".to_owned()));
        }
        self.check_offence();
        self.send_more(now);
    }

    /// The relay, or the network, has closed the connection.
    pub(super) fn closed(&mut self, why: &str) {
        self.end(End::Retry(why.to_owned()));
    }

    /// The AUTH event for [`Action::Authenticate`].
    pub(super) fn authenticate(&mut self, event: &Event) {
        self.auth.sent(event.id);
        self.send(frames::auth(&String::from_utf8_lossy(event.json())));
    }

    /// When [`Live::timeout`] is due.
    pub(super) fn deadline(&self) -> Duration {
        let silence = self.plan.silence;
        let ping_at = self.heard_at + if self.is_pinged { silence } else { silence / 2 };
        let others = [
            self.subscription.asked_at.map(|at| at + silence),
            self.auth_since.map(|at| at + silence),
            self.sending_deadline(),
        ];
        others.into_iter().flatten().fold(ping_at, Duration::min)
    }

    /// Time has passed.
    pub(super) fn timeout(&mut self, now: Duration) {
        let silence = self.plan.silence;
        let is_over = |since: Option<Duration>| since.is_some_and(|since| now >= since + silence);
        let seconds = silence.as_secs_f32();
        if now >= self.heard_at + silence {
            self.end(End::Retry(format!("nothing was heard for {seconds} s")));
        } else if is_over(self.subscription.asked_at) {
            self.end(End::Retry(format!("it does not answer REQ for {seconds} s")));
        } else if is_over(self.auth_since) {
            self.end(End::Retry(format!("it sends no challenge, or does not answer AUTH, for {seconds} s")));
        } else if self.is_sending_stalled(now) {
            self.end(End::Retry(format!("it does not answer EVENT for {seconds} s")));
        } else if now >= self.heard_at + silence / 2 && !self.is_pinged {
            self.is_pinged = true;
            self.actions.push_back(Action::Ping);
        }
        self.send_more(now);
    }

    /// Comparing cannot end, because the relay lies.
    pub(super) fn cut_off(&mut self, why: String) {
        self.end(End::CutOff(why));
    }

    fn want_auth(&mut self, now: Duration, message: &str) {
        match self.auth.wanted(message) {
            Err(why) => self.end(End::CutOff(why)),
            Ok(()) if self.auth.is_awaited() => {
                self.auth_since.get_or_insert(now);
            }
            Ok(()) => {}
        }
    }

    /// Ends with a relay that lies or floods.
    fn check_offence(&mut self) {
        if let Some(why) = self.counts.offence(&self.before) {
            self.end(End::CutOff(why.to_owned()));
        }
    }

    fn send(&mut self, message: String) {
        self.counts.bytes_out += message.len() as u64;
        self.actions.push_back(Action::Send(message));
    }

    /// Reports to the operator, up to [`MESSAGES_SHOWN_MAX`] times on a connection.
    fn report(&mut self, message: String) {
        self.messages_shown += 1;
        if self.messages_shown <= MESSAGES_SHOWN_MAX {
            self.actions.push_back(Action::Print(message));
        }
    }

    fn end(&mut self, end: End) {
        if !self.has_ended {
            self.has_ended = true;
            self.actions.push_back(Action::End(end));
        }
    }
}
