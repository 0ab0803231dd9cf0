//! Messages from clients: their order, those that must wait, and when reading pauses.
//!
//! Frames of one connection take effect in order. What follows an EVENT that is still on its way waits for it, but for
//! further EVENTs, which may share its batch; and whatever follows a request waits for its first step.

use super::ids::ConnId;
use super::neg::Reconciliation;
use super::session::Deferred;
use super::{Relay, messages};
use crate::store::Backend;
use crate::types::Now;
use crate::wire::{self, ClientMessage, IdScanner, ReplyTarget, WireError, WireErrorKind};

impl<B: Backend> Relay<B> {
    /// One whole text message.
    pub fn handle_text(&mut self, now: Now, conn: ConnId, text: &[u8]) {
        self.metrics.bytes_received += text.len() as u64;
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        self.costs.charge_message(now, session.address, text.len());
        if text.len() > limits.message_bytes_max {
            return self.handle_oversized(conn, text.len() as u64, IdScanner::scan(text));
        }
        let is_event = wire::is_event_message(text);
        let must_wait =
            !session.deferred.is_empty() || session.not_started > 0 || (session.in_flight > 0 && !is_event);
        if must_wait {
            session.defer(Deferred::Text { text: text.into(), is_event }, &mut self.metrics.deferred_bytes);
            self.metrics.messages_deferred += 1;
            return;
        }
        self.take_text(now, conn, text);
    }

    /// A binary message: there are none in Nostr.
    pub fn handle_binary(&mut self, conn: ConnId) {
        self.malformed_message(conn, messages::BINARY);
    }

    /// A text message that is not UTF-8, which the host has discarded.
    pub fn handle_not_utf8(&mut self, conn: ConnId) {
        self.malformed_message(conn, messages::NOT_UTF8);
    }

    /// A message of `bytes` bytes that the host skipped because it is over `message_bytes_max`. `reply_to` is what an
    /// [`IdScanner`] found in it: its type, and its id if there is one.
    pub fn handle_oversized(&mut self, conn: ConnId, bytes: u64, reply_to: ReplyTarget) {
        let bytes_max = self.config.limits.message_bytes_max;
        let error =
            WireError { at: bytes_max, kind: WireErrorKind::MessageTooLong { bytes, bytes_max }, reply_to };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.deferred.is_empty() && session.not_started == 0 {
            return self.handle_malformed(conn, &error);
        }
        session.defer(Deferred::Malformed(error), &mut self.metrics.deferred_bytes);
        self.metrics.messages_deferred += 1;
    }

    /// Whether the host should go on reading from this connection. After `false` the connection will
    /// come out of [`Relay::poll_input_resumed`].
    pub fn wants_input(&mut self, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(conn) else { return false };
        session.input_paused = true;
        self.try_resume_input(conn)
    }

    /// A connection whose reading was paused and may go on.
    pub fn poll_input_resumed(&mut self) -> Option<ConnId> {
        self.resumed.pop_front()
    }

    /// Whether a connection has sent messages that have not been answered: events, what waits for them or for a
    /// request, and those of NIP-77. They are in no snapshot.
    pub fn has_unanswered(&self, conn: ConnId) -> bool {
        self.sessions.get(conn).is_some_and(|session| {
            session.in_flight > 0
                || !session.deferred.is_empty()
                || session.reconciliations.values().any(Reconciliation::waits)
        })
    }

    /// Runs the messages of this connection that waited for its events and requests, as far as those have taken effect.
    pub(super) fn run_deferred(&mut self, now: Now, conn: ConnId) {
        loop {
            let Some(session) = self.sessions.get_mut(conn) else { return };
            let Some(next) = session.deferred.front() else { break };
            if session.not_started > 0 || (session.in_flight > 0 && next.waits_for_events()) {
                break;
            }
            match session.take_deferred(&mut self.metrics.deferred_bytes) {
                Some(Deferred::Text { text, .. }) => self.take_text(now, conn, &text),
                Some(Deferred::Malformed(error)) => self.handle_malformed(conn, &error),
                None => break,
            }
        }
        self.resume_input(conn);
    }

    /// A message whose turn has come.
    fn take_text(&mut self, now: Now, conn: ConnId, text: &[u8]) {
        self.metrics.bytes_parsed += text.len() as u64;
        let message = match wire::parse_client_message(text, &self.config.limits) {
            Ok(message) => message,
            Err(error) => return self.handle_malformed(conn, &error),
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let was_malformed = std::mem::take(&mut session.malformed_messages) > 0;
        if was_malformed || self.config.limits.counts_messages() {
            self.mark_changed(conn);
        }
        match message {
            ClientMessage::Event(raw) => self.handle_event(now, conn, &raw),
            ClientMessage::Auth(raw) => self.handle_auth(now, conn, &raw),
            ClientMessage::Req { sub, filters } => self.handle_req(now, conn, sub, filters),
            ClientMessage::Count { id, filters } => self.handle_count(now, conn, id, filters),
            ClientMessage::Close { sub } => self.handle_close(conn, &sub),
            ClientMessage::NegOpen { id, filter, message } => {
                self.handle_neg_open(now, conn, id, filter, message);
            }
            ClientMessage::NegMsg { id, message } => self.handle_neg_msg(now, conn, id, message),
            ClientMessage::NegClose { id } => self.handle_neg_close(conn, &id),
        }
    }

    /// Lets the host resume reading if it was asked to pause and the reason is gone.
    pub(super) fn resume_input(&mut self, conn: ConnId) {
        if self.try_resume_input(conn) {
            self.resumed.push_back(conn);
        }
    }

    /// Resumes reading from the connections that waited for the number of events in flight to fall.
    pub(super) fn resume_after_ingest(&mut self) {
        if self.ingest.has_capacity(0, 0, &self.config.limits) {
            for conn in std::mem::take(&mut self.waiting_for_ingest) {
                if let Some(session) = self.sessions.get_mut(conn) {
                    session.waits_for_ingest = false;
                }
                self.resume_input(conn);
            }
        }
    }

    /// Ends the pause of a connection's input if no reason for it is left. Each reason leads to another call when it
    /// ends: its own output and deferred messages always do, events in flight if the connection is on their list.
    fn try_resume_input(&mut self, conn: ConnId) -> bool {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return false };
        if !session.input_paused
            || !session.takes_input(self.queued_output, self.metrics.deferred_bytes, limits)
        {
            return false;
        }
        if self.ingest.has_capacity(session.in_flight, session.in_flight_bytes, limits) {
            session.input_paused = false;
            return true;
        }
        if !session.waits_for_ingest {
            session.waits_for_ingest = true;
            self.waiting_for_ingest.push(conn);
        }
        false
    }
}
