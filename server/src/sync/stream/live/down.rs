//! The subscription, and what comes of it.

use std::time::Duration;

use relay_engine::store::Seq;
use relay_engine::types::{Class, EventId};
use relay_engine::wire;

use super::super::super::frames::{self, Refusal};
use super::super::super::session::{Outcomes, quoted};
use super::{Action, End, Live};

/// The name of the subscription.
const SUB: &str = "live";
/// Stored events that a relay may send although none are asked for. They are not taken: what was missed is compared later.
const EARLY_MAX: u32 = 10_000;

/// The one subscription of a connection.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// When it was asked for, until it is open.
    pub(super) asked_at: Option<Duration>,
    is_open: bool,
    /// Comparing has begun; a subscription that is opened again does not begin it again.
    is_compared: bool,
    /// Stored events that came before it was open.
    early: u32,
    /// `limit` is 1: the relay refuses 0.
    asks_one: bool,
}

impl Live<'_> {
    /// Asks for what is published from now on.
    pub(super) fn subscribe(&mut self, now: Duration) {
        let limit = u32::from(self.subscription.asks_one);
        let filters: Vec<String> =
            self.plan.scopes.iter().map(|scope| scope.json(scope.range(), Some(limit))).collect();
        self.subscription.asked_at = Some(now);
        self.send(frames::req(SUB, &filters.join(",")));
    }

    /// True if it is of use.
    pub(super) fn handle_event(&mut self, sub: &str, json: &str) -> bool {
        let raw = wire::parse_event(json.as_bytes());
        let is_asked = sub == SUB && self.plan.down;
        let (Ok(raw), true) = (raw, is_asked) else {
            match is_asked {
                true => self.counts.invalid += 1,
                false => self.counts.unasked += 1,
            }
            return false;
        };
        let event = raw.to_event();
        if !self.plan.filters.iter().any(|filter| filter.matches(&event)) {
            self.counts.mismatched += 1;
            return false;
        }
        // An ephemeral event is never a stored one.
        if !self.subscription.is_open && event.class() != Class::Ephemeral {
            self.subscription.early += 1;
            self.counts.unasked += u64::from(self.subscription.early > EARLY_MAX);
            return self.subscription.early <= EARLY_MAX;
        }
        self.counts.received += 1;
        self.memory.lock().coming(event.id);
        self.actions.push_back(Action::Store(event));
        true
    }

    /// What became of events of [`Action::Store`], which had these ids; `None`: the store has failed.
    pub(in super::super) fn stored(&mut self, ids: &[EventId], outcomes: Option<&Outcomes>) {
        {
            let mut memory = self.memory.lock();
            if let Some(outcomes) = outcomes {
                memory.add_all(outcomes.seqs.iter().copied().map(Seq));
            }
            ids.iter().for_each(|id| memory.came(id));
        }
        if let Some(outcomes) = outcomes {
            self.counts.add_outcomes(outcomes);
        }
        self.check_offence();
    }

    /// True if it is of use.
    pub(super) fn handle_eose(&mut self, sub: &str) -> bool {
        if sub != SUB || self.subscription.asked_at.take().is_none() {
            return false;
        }
        self.subscription.is_open = true;
        if !std::mem::replace(&mut self.subscription.is_compared, true) {
            self.actions.push_back(Action::CatchUp);
        }
        true
    }

    /// True if it is of use.
    pub(super) fn handle_closed(&mut self, now: Duration, sub: &str, message: &str) -> bool {
        if sub != SUB || !self.plan.down {
            return false;
        }
        let was_open = std::mem::replace(&mut self.subscription.is_open, false);
        self.subscription.asked_at = None;
        let is_about_limit = message.to_lowercase().contains("limit");
        match Refusal::of(message) {
            // Nothing may be missed while the subscription is closed.
            _ if was_open => self.end(End::Retry(format!("it closes the subscription: {}", quoted(message)))),
            Refusal::Auth => {
                self.want_auth(now, message);
                // It has accepted the key since it was asked.
                if !self.has_ended && !self.auth.is_awaited() {
                    self.subscribe(now);
                }
            }
            Refusal::Final if is_about_limit && !self.subscription.asks_one => {
                self.subscription.asks_one = true;
                self.subscribe(now);
            }
            Refusal::Temporary => self.end(End::Retry(format!("it closes REQ: {}", quoted(message)))),
            Refusal::Final => self.end(End::CutOff(format!("it refuses REQ: {}", quoted(message)))),
        }
        true
    }

    /// The relay has accepted the authentication: what it refused is tried again.
    pub(super) fn subscribe_again(&mut self, now: Duration) {
        let Subscription { asked_at, is_open, .. } = self.subscription;
        if self.plan.down && !is_open && asked_at.is_none() {
            self.subscribe(now);
        }
    }
}
