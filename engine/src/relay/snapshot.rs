//! Snapshots of sessions: what must survive of a connection when its host loses its memory, as plain values.
//!
//! A host that may lose its memory at any time (a Durable Object hibernates, is moved, is evicted) keeps a
//! [`SessionSnapshot`] beside each socket, and builds a new machine from them: to the client nothing has
//! happened. How it is written down is the host's business.
//!
//! A snapshot is of a machine at rest: its host has carried out what every `poll_*` handed out, and what
//! [`Relay::drain`] gave it is on its way to the client. Events that were still in flight are not in it; they
//! have not been answered. Nor are reconciliations (NIP-77), which clients open again; nor messages that wait for them or for requests. [`Relay::has_unanswered`] says which
//! connections have some: a host that loses its memory then must not restore that session, but close its socket, so
//! that the client connects and sends them again.
//!
//! Nor does it say which live events are still being delivered. A host may not hibernate meanwhile ([`Relay::has_work`]); one that
//! may lose its memory keeps [`Relay::delivered_up_to`] beside the snapshots, and applies it to them with
//! [`SessionSnapshot::mark_undelivered_after`].

use std::sync::Arc;

use super::Relay;
use super::ids::ConnId;
use super::session::Session;
use super::subscriptions::{State, SubKey};
use crate::policy::{Auth, Bucket};
use crate::store::{Backend, Seq};
use crate::types::{ClientAddress, EventId, Filter, Now, PubKey, SubId, Timestamp};

/// What must survive of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSnapshot {
    /// NIP-42: what the client was sent, if it was; never empty.
    pub challenge: Option<Box<str>>,
    /// Where the client comes from.
    pub address: Option<ClientAddress>,
    /// The URL or host that the client knows the relay by.
    pub relay: Option<Box<str>>,
    /// The keys it has proven.
    pub keys: Vec<PubKey>,
    /// Malformed messages in a row.
    pub malformed_messages: u32,
    /// Ephemeral events that it missed by reading too slowly, not yet reported to it.
    pub ephemeral_missed: u64,
    /// Thousandths of an EVENT or AUTH message that it may still send, and as of when.
    pub event_rate: (u64, Now),
    /// The same for REQ and COUNT.
    pub request_rate: (u64, Now),
    /// Its subscriptions, by id.
    pub subs: Vec<(SubId, SubSnapshot)>,
    /// COUNTs that have not been answered; they are counted again.
    pub counts: Vec<(SubId, Arc<[Filter]>)>,
}

/// What must survive of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubSnapshot {
    /// Its filters, normalised.
    pub filters: Arc<[Filter]>,
    /// How far it has come.
    pub progress: Progress,
}

/// How far a subscription has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is sent events as they come.
    Live,
    /// Events above this number are to be read back from the store.
    Lagging {
        /// The last sequence number it was sent, or could have been.
        after: Seq,
    },
    /// Stored events are being sent.
    Scanning {
        /// The last sequence number that belongs to the answer.
        horizon: Seq,
        /// `created_at` and id of the last event that was sent.
        last: Option<(Timestamp, EventId)>,
    },
}

impl SessionSnapshot {
    /// For a session whose host lost its memory while events above sequence number `after` were being delivered
    /// ([`Relay::delivered_up_to`]): its live subscriptions read them back from the store.
    pub fn mark_undelivered_after(&mut self, after: Seq) {
        for (_, sub) in &mut self.subs {
            if sub.progress == Progress::Live {
                sub.progress = Progress::Lagging { after };
            }
        }
    }
}

impl<B: Backend> Relay<B> {
    /// A connection whose snapshot is not what it was when this last named it.
    pub fn poll_changed(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.changed.pop_front() {
            if let Some(session) = self.sessions.get_mut(conn) {
                session.changed = false;
                return Some(conn);
            }
        }
        None
    }

    /// What must survive of a connection; `None` if there is no such connection. Filters are shared, not
    /// copied.
    pub fn snapshot(&mut self, conn: ConnId) -> Option<SessionSnapshot> {
        let session = self.sessions.get(conn)?;
        let counts = match session.counts {
            0 => Vec::new(),
            _ => self.queries.counts_of(conn, session.address),
        };
        // In memory only: they are reported as missed, like those that a slow reader missed.
        let pending = |key: &SubKey| match &self.subscriptions.get(*key)?.state {
            State::Scanning { pending_ephemeral, .. } => Some(pending_ephemeral.len() as u64),
            _ => None,
        };
        let lost: u64 = session.subs.values().filter_map(pending).sum();
        let subs: Vec<_> = session
            .subs
            .iter()
            .filter_map(|(sub, key)| {
                let subscription = self.subscriptions.get(*key)?;
                let progress = match &subscription.state {
                    State::Live => Progress::Live,
                    State::Lagging => Progress::Lagging { after: subscription.covered },
                    State::Scanning { last, .. } => {
                        Progress::Scanning { horizon: subscription.covered, last: *last }
                    }
                };
                Some((sub.clone(), SubSnapshot { filters: Arc::clone(&subscription.filters), progress }))
            })
            .collect();
        Some(SessionSnapshot {
            challenge: session.auth.challenge().map(Into::into),
            address: session.address,
            relay: session.auth.relay().map(Into::into),
            keys: session.auth.keys().to_vec(),
            malformed_messages: session.malformed_messages,
            ephemeral_missed: session.ephemeral_missed + lost,
            event_rate: session.event_rate.level(),
            request_rate: session.request_rate.level(),
            subs,
            counts,
        })
    }

    /// Restores a connection from its snapshot. Nothing is sent because of it but what its
    /// subscriptions still have coming, by [`Relay::work`].
    pub fn restore(&mut self, now: Now, snapshot: SessionSnapshot) -> ConnId {
        let SessionSnapshot { challenge, relay, keys, .. } = snapshot;
        let mut session = Session::new(now, Auth::new(challenge, relay), &self.config.limits);
        keys.into_iter().for_each(|key| session.auth.add(key));
        session.address = snapshot.address;
        session.malformed_messages = snapshot.malformed_messages;
        session.ephemeral_missed = snapshot.ephemeral_missed;
        session.event_rate = Bucket::restored(snapshot.event_rate);
        session.request_rate = Bucket::restored(snapshot.request_rate);
        let conn = self.sessions.insert(session);
        self.update_gauges();
        self.advance_subscriptions(now);
        for (sub, resumed) in snapshot.subs {
            self.resume(now, conn, sub, &resumed);
        }
        for (id, filters) in snapshot.counts {
            self.count(conn, id, filters);
        }
        conn
    }
}
