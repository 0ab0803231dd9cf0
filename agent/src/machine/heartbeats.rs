//! Heartbeats of an agent whose key a remote signer has. The router signs those of all other agents; this one is woken
//! every four minutes to have its heartbeat signed. Like a partial result, a heartbeat is not stored: if it is lost, the next one follows.

use relay_engine::sql::SqlConn;
use relay_engine::types::Now;

use super::{Agent, AgentState};
use crate::nip90::{self, HEARTBEAT_EVERY_SECONDS};
use crate::store;

impl<C: SqlConn> Agent<C> {
    pub(super) const HEARTBEAT_KEY: &'static str = "heartbeat";

    /// When the next heartbeat is due, in milliseconds since 1970. While the signer fails there is none.
    pub(super) fn heartbeat_due_at(&self) -> Option<u64> {
        let is_ready = self.signer.as_ref().is_some_and(|signer| signer.is_responding());
        let is_active = self.state() == Some(AgentState::Active) && self.event_signer().is_some();
        let is_announced = self.manifest().is_some_and(|manifest| manifest.announce);
        (is_ready && is_active && is_announced)
            .then(|| (self.heartbeat_round + 1) * HEARTBEAT_EVERY_SECONDS * 1_000)
    }

    /// Writes a heartbeat, if it is time for it.
    pub(super) fn heartbeat(&mut self, now: Now) {
        let round = now.seconds() / HEARTBEAT_EVERY_SECONDS;
        // A clock may have been set back.
        let is_due = self.heartbeat_due_at().is_some() && round != self.heartbeat_round;
        let Some(author) = self.event_signer().filter(|_| is_due).cloned() else { return };
        self.heartbeat_round = round;
        store::put_meta(&mut self.batch, Self::HEARTBEAT_KEY, &round);
        self.outbox.stage_partial(&[], nip90::heartbeat(&author, now.seconds()));
    }
}
