//! Messages that lie in memory only: events until their turn, and what waits behind them or behind requests.
//!
//! The turn is asked for when they come, so the object does not sleep over them. But its instance can be
//! replaced: it is moved, or another object of its isolate panics. Nobody has answered them then, and a client
//! that still has its socket would wait for ever. So their sessions are marked beside their sockets for that
//! while, and closed if the mark is found on waking up. Clients know what to do with that.

use std::collections::BTreeMap;

use relay_engine::relay::ConnId;

use super::{CountingConn, Host, Object};

/// Whose messages are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// True: at least one waits behind another, and a turn may leave it waiting.
    conns: BTreeMap<ConnId, bool>,
    /// Those that came to be held, or no longer are, since this was last asked.
    changed: Vec<ConnId>,
}

impl Held {
    pub(super) fn hold(&mut self, id: ConnId, is_deferred: bool) {
        let changed = &mut self.changed;
        *self.conns.entry(id).or_insert_with(|| {
            changed.push(id);
            false
        }) |= is_deferred;
    }

    pub(super) fn forget(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    pub(super) fn holds(&self, id: ConnId) -> bool {
        self.conns.contains_key(&id)
    }

    pub(super) fn poll_changed(&mut self) -> Option<ConnId> {
        self.changed.pop()
    }

    fn let_go(&mut self, goes: impl Fn(bool) -> bool) {
        let changed = &mut self.changed;
        self.conns.retain(|id, is_deferred| {
            let goes = goes(*is_deferred);
            if goes {
                changed.push(*id);
            }
            !goes
        });
    }
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// All events that had come are answered.
    pub(super) fn let_go_of_events(&mut self) {
        self.held.let_go(|is_deferred| !is_deferred);
    }

    /// Lets go of everything if nothing waits any more.
    pub(super) fn let_go_at_rest(&mut self) {
        // A message waits for an event, which waits for its batch, or for a request that has not begun.
        let waits =
            || self.relay.poll_timeout().is_some() || (self.relay.has_work() && self.relay.holds_messages());
        if !self.held.conns.is_empty() && !waits() {
            self.held.let_go(|_| true);
        }
    }
}
