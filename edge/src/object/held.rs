//! Messages that lie in memory only: events until their turn, and what waits behind them or behind requests.
//!
//! The turn is asked for when they come, so the object does not sleep over them. But its instance can be
//! replaced: it is moved, or another object of its isolate panics. Nobody has answered them then, and a client
//! that still has its socket would wait for ever. So their sessions are marked beside their sockets for that
//! while, and closed if the mark is found on waking up. Clients know what to do with that.

use std::collections::BTreeSet;

use relay_engine::relay::ConnId;

use super::{CountingConn, Host, Object};

/// Whose messages are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    conns: BTreeSet<ConnId>,
    /// Those that came to be held, or no longer are, since this was last asked.
    changed: Vec<ConnId>,
}

impl Held {
    pub(super) fn forget(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    pub(super) fn holds(&self, id: ConnId) -> bool {
        self.conns.contains(&id)
    }

    pub(super) fn poll_changed(&mut self) -> Option<ConnId> {
        self.changed.pop()
    }
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// A message of this connection has come.
    pub(super) fn hold(&mut self, id: ConnId) {
        if self.relay.has_unanswered(id) && self.held.conns.insert(id) {
            self.held.changed.push(id);
        }
    }

    /// Lets go of everybody who has been answered.
    pub(super) fn let_go(&mut self) {
        let Held { conns, changed } = &mut self.held;
        conns.retain(|id| {
            let is_held = self.relay.has_unanswered(*id);
            if !is_held {
                changed.push(*id);
            }
            is_held
        });
    }
}
