//! Events that the host itself publishes: signed by the relay's own key or by an agent's, or copied from another relay.
//!
//! They are processed like a client's EVENT, from admission to fan-out, and answered by ticket instead of by a frame.

use std::collections::VecDeque;

use super::Relay;
use super::ids::Ticket;
use super::ingest::Sender;
use crate::store::{Backend, Seq};
use crate::types::{Event, Now};
use crate::wire;

/// What became of an event that a client or the host published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It is stored, under this sequence number, and survives power loss.
    Stored(Seq),
    /// It is ephemeral and has been delivered.
    Delivered,
    /// It was stored before, or the same event was on its way and has been accepted.
    Duplicate,
    /// A newer version is stored, or one of the same `created_at` with a lower id. Publishing it again is of no use.
    Superseded,
    /// Its id or its signature is wrong; the message is that of NIP-01's OK.
    Forged(String),
    /// It breaks a rule; the message is that of NIP-01's OK. Publishing it again is of no use.
    Refused(String),
    /// Not now, with a message: the store failed, or the event is further ahead of the clock than the relay takes. It can be
    /// published again.
    Failed(String),
}

impl PublishOutcome {
    /// Whether the relay has it, or has passed it on.
    pub fn is_accepted(&self) -> bool {
        matches!(self, PublishOutcome::Stored(_) | PublishOutcome::Delivered | PublishOutcome::Duplicate)
    }
}

/// Tickets, and what became of their events.
#[derive(Debug, Default)]
pub(super) struct Published {
    tickets: u64,
    outcomes: VecDeque<(Ticket, PublishOutcome)>,
    /// Those of events of other relays.
    of_peers: VecDeque<(Ticket, PublishOutcome)>,
}

impl Published {
    pub(super) fn push(&mut self, ticket: Ticket, outcome: PublishOutcome) {
        self.outcomes.push_back((ticket, outcome));
    }

    pub(super) fn push_of_peer(&mut self, ticket: Ticket, outcome: PublishOutcome) {
        self.of_peers.push_back((ticket, outcome));
    }
}

impl<B: Backend> Relay<B> {
    /// Publishes an event that one of the host's own keys has signed. It is verified, stored, replaces, deletes and
    /// is delivered like a client's. Rules that are for clients do not apply: rate limits, NIP-42, the lists
    /// of authors and kinds, proof of work. Limits of size and time do.
    ///
    /// Its outcome is returned by [`Relay::poll_published`]. A host that crashed before the outcome came must publish the
    /// event again: what is stored already is a duplicate. The queue is bounded only by what the host publishes.
    pub fn publish(&mut self, now: Now, event: &Event) -> Ticket {
        self.receive_own(now, event, Sender::Host)
    }

    /// Takes an event that the host has copied from another relay. It is admitted, verified, stored and delivered like one of a
    /// client that has not authenticated; only rate limits and `auth_required` do not apply.
    ///
    /// Its outcome is returned by [`Relay::poll_copied`].
    pub fn publish_copy(&mut self, now: Now, event: &Event) -> Ticket {
        self.receive_own(now, event, Sender::Peer)
    }

    fn receive_own(&mut self, now: Now, event: &Event, sender: fn(Ticket) -> Sender) -> Ticket {
        self.published.tickets += 1;
        let ticket = Ticket(self.published.tickets);
        match wire::parse_event(event.json()) {
            Ok(raw) => self.receive_event(now, sender(ticket), &raw),
            Err(error) => {
                let message = format!("{}: {error}", error.prefix());
                self.send_outcome(sender(ticket), &event.id, PublishOutcome::Refused(message));
            }
        }
        ticket
    }

    /// The outcome of an event that was copied, as [`Relay::poll_published`] has those of others.
    pub fn poll_copied(&mut self) -> Option<(Ticket, PublishOutcome)> {
        self.published.of_peers.pop_front()
    }

    /// The outcome of a published event. Each is handed out once, in the order in which they were decided.
    pub fn poll_published(&mut self) -> Option<(Ticket, PublishOutcome)> {
        self.published.outcomes.pop_front()
    }
}
