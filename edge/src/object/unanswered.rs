//! Connections with unanswered messages: events that wait for the next tick, and messages that wait for those events
//! or for a request.
//!
//! Such messages are in memory only. A tick is scheduled when they arrive, so the object does not hibernate before it.
//! But the platform may replace the instance at any time: it moves the object, or another object of the isolate
//! panics. Then the messages are lost and their client would wait for ever for an answer. So the attachment of its
//! socket says that messages are unanswered for as long as that is so, and a socket whose attachment says it when the
//! object wakes up is closed (1012). Its client reconnects and sends the messages again.

use std::collections::BTreeSet;

use relay_engine::relay::ConnId;

use super::{Host, Object, RowCountingConn};

/// Connections with unanswered messages.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    conns: BTreeSet<ConnId>,
    /// Connections that were added or removed and have not been polled.
    changed: Vec<ConnId>,
}

impl Unanswered {
    /// Removes a connection that is gone.
    pub(super) fn remove(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    pub(super) fn contains(&self, id: ConnId) -> bool {
        self.conns.contains(&id)
    }

    pub(super) fn poll_changed(&mut self) -> Option<ConnId> {
        self.changed.pop()
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Adds the connection if the message that it has just sent is unanswered.
    pub(super) fn mark_unanswered(&mut self, id: ConnId) {
        if self.relay.has_unanswered(id) && self.unanswered.conns.insert(id) {
            self.unanswered.changed.push(id);
        }
    }

    /// Removes the connections whose messages have all been answered.
    pub(super) fn clear_answered(&mut self) {
        let Unanswered { conns, changed } = &mut self.unanswered;
        conns.retain(|id| {
            let has_unanswered = self.relay.has_unanswered(*id);
            if !has_unanswered {
                changed.push(*id);
            }
            has_unanswered
        });
    }
}
