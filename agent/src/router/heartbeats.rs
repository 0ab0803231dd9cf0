//! Heartbeats: the router publishes one for each announced, active agent every four minutes, so that agents need not be loaded for them.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, VecDeque};

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{Event, Now, PubKey};

use super::table::Table;
use super::{AgentEntry, columns};
use crate::identity::{self, Keys};
use crate::machine::AgentState;
use crate::nip90::{self, HEARTBEAT_EVERY_SECONDS};
use crate::secrets::Secrets;

/// The table has the name that heartbeats once had.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS agent_router_beat (id INTEGER PRIMARY KEY, \
                      round INTEGER NOT NULL)";
const LOAD: &str = "SELECT round FROM agent_router_beat";
const PUT: &str = "INSERT INTO agent_router_beat (id, round) VALUES (0, ?) \
                   ON CONFLICT (id) DO UPDATE SET round = excluded.round";

/// Heartbeats that are signed at a time.
const HEARTBEATS_MAX: usize = 100;

/// See the module.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// The last round that is complete or under way. Rounds begin at multiples of [`HEARTBEAT_EVERY_SECONDS`].
    round: u64,
    /// Agents whose heartbeat of this round is due.
    waiting: VecDeque<PubKey>,
    /// Deriving a key costs more than signing with it.
    keys: BTreeMap<PubKey, Keys>,
}

impl AgentEntry {
    /// Whether the router publishes heartbeats for it.
    pub(super) fn sends_heartbeats(&self) -> bool {
        self.state == AgentState::Active && self.manifest.announce
    }
}

impl Heartbeats {
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut round = 0;
        conn.query(LOAD, &[], &mut |row| {
            round = columns::int(row, 0)?;
            Ok(())
        })?;
        Ok(Heartbeats { round, waiting: VecDeque::new(), keys: BTreeMap::new() })
    }

    /// An entry has changed. An agent that becomes active does not wait for the next round.
    pub(super) fn changed(&mut self, old: Option<&AgentEntry>, new: &AgentEntry) {
        self.keys.remove(&new.pubkey);
        if new.sends_heartbeats() && !old.is_some_and(AgentEntry::sends_heartbeats) {
            self.waiting.push_back(new.pubkey);
        }
    }

    /// The next heartbeats, at most [`HEARTBEATS_MAX`].
    pub(super) fn poll(
        &mut self,
        conn: &impl SqlConn,
        now: Now,
        table: &Table,
        secrets: &dyn Secrets,
    ) -> Vec<Event> {
        let round = now.seconds() / HEARTBEAT_EVERY_SECONDS;
        // A clock may have been set back.
        if round != self.round {
            self.round = round;
            self.waiting =
                table.by_name().filter(|entry| entry.sends_heartbeats()).map(|entry| entry.pubkey).collect();
            if !self.waiting.is_empty() {
                // If this fails, or the process dies, the round may be repeated, which does no harm.
                let _ = conn.exec(PUT, &[SqlValue::Int(round as i64)]);
            }
        }
        let count = self.waiting.len().min(HEARTBEATS_MAX);
        let due: Vec<PubKey> = self.waiting.drain(..count).collect();
        let entries =
            due.iter().filter_map(|agent| table.get(agent)).filter(|entry| entry.sends_heartbeats());
        entries
            .filter_map(|entry| Some(nip90::heartbeat(self.keys(entry, secrets)?, now.seconds())))
            .collect()
    }

    /// `None`: its secret is missing.
    fn keys(&mut self, entry: &AgentEntry, secrets: &dyn Secrets) -> Option<&Keys> {
        match self.keys.entry(entry.pubkey) {
            Slot::Occupied(known) => Some(known.into_mut()),
            Slot::Vacant(slot) => {
                let name = &entry.manifest.name;
                let keys = identity::keys(&entry.manifest.identity, name, secrets).ok()?;
                (keys.pubkey() == entry.pubkey).then(|| &*slot.insert(keys))
            }
        }
    }

    /// `now`: the time of a recent call; the beginning of time before the first.
    pub(super) fn poll_timeout(&self, now: Now, table: &Table) -> Option<Now> {
        if !self.waiting.is_empty() {
            return Some(Now::default());
        }
        // A clock that was ahead must not silence agents until then.
        let is_ahead = now > Now::default() && now.seconds() / HEARTBEAT_EVERY_SECONDS < self.round;
        let at = match is_ahead {
            true => now,
            false => Now::from_seconds((self.round + 1) * HEARTBEAT_EVERY_SECONDS),
        };
        table.any_sends_heartbeats().then_some(at)
    }
}
