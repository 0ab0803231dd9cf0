//! The one place that turns what happened into NIP-01 frames; [`messages`] has what they say.

use super::ids::ConnId;
use super::session::Close;
use super::{Relay, messages};
use crate::store::Backend;
use crate::types::{EventId, SubId};
use crate::wire::frames::{self, EoseHint};
use crate::wire::{ReplyTarget, WireError};

impl<B: Backend> Relay<B> {
    fn send_text(&mut self, conn: ConnId, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(session) = self.sessions.get_mut(conn).filter(|session| !session.closing) else { return };
        session.outbox.push_text(write);
        if session.queued_bytes() > self.config.limits.outbox_bytes_max {
            self.close(conn, 1008, messages::READS_TOO_SLOWLY);
        }
        self.mark_ready(conn);
    }

    pub(super) fn send_ok(&mut self, conn: ConnId, id: &EventId, accepted: bool, message: &str) {
        self.metrics.sent_ok += 1;
        self.send_text(conn, |out| frames::ok(out, id, accepted, message));
    }

    /// OK false for an id given as text, valid or not.
    fn send_not_ok(&mut self, conn: ConnId, id: &str, message: &str) {
        self.metrics.sent_ok += 1;
        self.send_text(conn, |out| frames::not_ok(out, id, message));
    }

    pub(super) fn send_neg_err(&mut self, conn: ConnId, id: &str, message: &str) {
        self.send_neg_err_with(conn, id, message, None);
    }

    /// NEG-ERR, with the most events that a set may have if it has more.
    pub(super) fn send_neg_err_with(
        &mut self,
        conn: ConnId,
        id: &str,
        message: &str,
        events_max: Option<usize>,
    ) {
        self.metrics.sent_neg_err += 1;
        self.send_text(conn, |out| frames::neg_err(out, id, message, events_max));
    }

    pub(super) fn send_neg_msg(&mut self, conn: ConnId, id: &SubId, message: &[u8]) {
        self.metrics.sent_neg_msg += 1;
        self.send_text(conn, |out| frames::neg_msg(out, id, message));
    }

    pub(super) fn send_eose(&mut self, conn: ConnId, sub: &SubId, hint: Option<EoseHint>) {
        self.metrics.sent_eose += 1;
        self.send_text(conn, |out| frames::eose(out, sub, hint));
    }

    pub(super) fn send_closed(&mut self, conn: ConnId, sub: &SubId, message: &str) {
        self.send_closed_as(conn, sub.as_str(), message);
    }

    /// CLOSED for an id given as text, valid or not.
    fn send_closed_as(&mut self, conn: ConnId, sub: &str, message: &str) {
        self.metrics.sent_closed += 1;
        self.send_text(conn, |out| frames::closed(out, sub, message));
    }

    pub(super) fn send_notice(&mut self, conn: ConnId, message: &str) {
        self.metrics.sent_notice += 1;
        self.send_text(conn, |out| frames::notice(out, message));
    }

    pub(super) fn send_count(
        &mut self,
        conn: ConnId,
        id: &SubId,
        count: u64,
        approximate: bool,
        hll: Option<&[u8; 256]>,
    ) {
        self.metrics.sent_count += 1;
        self.send_text(conn, |out| frames::count(out, id, count, approximate, hll));
    }

    /// Sends a connection its challenge (NIP-42), unless it has it: it holds for as long as the connection lives, and a
    /// client that is sent it again may ask its user again.
    pub(super) fn send_challenge(&mut self, conn: ConnId) {
        if self.sessions.get(conn).is_none_or(|session| session.auth.challenge().is_some()) {
            return;
        }
        let challenge = self.next_challenge();
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.auth.set_challenge(challenge.clone());
        self.mark_changed(conn);
        self.metrics.sent_auth += 1;
        self.send_text(conn, |out| frames::auth(out, &challenge));
    }

    /// Ends a connection once what is queued for it is out.
    pub(super) fn close(&mut self, conn: ConnId, code: u16, reason: &str) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if !session.closing {
            session.closing = true;
            session.deferred.clear();
            self.metrics.deferred_bytes -= std::mem::take(&mut session.deferred_bytes) as u64;
            self.closing.push_back((conn, Close { code, reason: reason.to_owned() }));
        }
    }

    /// A message that could not be read: answered in the frame that fits what it was about, with the id as it came,
    /// so that its sender does not wait for another answer.
    pub(super) fn handle_malformed(&mut self, conn: ConnId, error: &WireError) {
        let message = messages::malformed(error);
        match &error.reply_to {
            ReplyTarget::Event(Some(id)) | ReplyTarget::Auth(Some(id)) => {
                self.send_not_ok(conn, id, &message)
            }
            ReplyTarget::Req(id) | ReplyTarget::Close(id) => {
                // NIP-01: the REQ that is refused would have replaced the subscription, and a client that sends CLOSE
                // wants it closed.
                if let Some(sub) = SubId::new(id) {
                    self.end_subscription(conn, &sub);
                }
                self.send_closed_as(conn, id, &message);
            }
            ReplyTarget::Count(id) => self.send_closed_as(conn, id, &message),
            ReplyTarget::Neg(id) => {
                // NIP-77: a reconciliation is closed by a NEG-ERR.
                if let Some(query) = SubId::new(id) {
                    self.end_reconciliation(conn, &query);
                }
                self.send_neg_err(conn, id, &message);
            }
            // CLOSED would end a subscription that its client has open under this id.
            ReplyTarget::Unknown(id) if !self.is_open(conn, id) => self.send_closed_as(conn, id, &message),
            ReplyTarget::Event(None)
            | ReplyTarget::Auth(None)
            | ReplyTarget::Unknown(_)
            | ReplyTarget::Notice => {
                self.send_notice(conn, &message);
            }
        }
        self.count_malformed(conn);
    }

    fn is_open(&self, conn: ConnId, id: &str) -> bool {
        let session = self.sessions.get(conn);
        SubId::new(id).is_some_and(|sub| session.is_some_and(|session| session.subs.contains_key(&sub)))
    }

    pub(super) fn malformed_message(&mut self, conn: ConnId, message: &str) {
        self.send_notice(conn, message);
        self.count_malformed(conn);
    }

    /// After `malformed_messages_max` of them in a row the connection is closed; a valid message resets the count.
    fn count_malformed(&mut self, conn: ConnId) {
        self.metrics.messages_malformed += 1;
        let max = self.config.limits.malformed_messages_max;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.malformed_messages += 1;
        let too_many = session.malformed_messages >= max;
        self.mark_changed(conn);
        if too_many {
            self.close(conn, 1008, messages::ABUSE);
        }
    }
}
