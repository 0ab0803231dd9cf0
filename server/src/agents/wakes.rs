//! When agents that are closed are to be opened again.
//!
//! An agent is marked as awake before its file is opened, and the mark is replaced by the time of its next wake when it is
//! closed. So after a crash every agent that may have unfinished work is opened, and no other.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{Now, PubKey};

use super::sqlite::Sqlite;

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS agent_wake (agent BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID";
const LOAD: &str = "SELECT agent, at FROM agent_wake";
const PUT: &str = "INSERT INTO agent_wake (agent, at) VALUES (?, ?) \
                   ON CONFLICT (agent) DO UPDATE SET at = excluded.at";
const DELETE: &str = "DELETE FROM agent_wake WHERE agent = ?";

/// See the module.
#[derive(Debug)]
pub(super) struct Wakes {
    conn: Sqlite,
    /// Marked as awake by this process.
    awake: HashSet<PubKey>,
    /// The others that have a time.
    at: BTreeMap<PubKey, Now>,
    by_time: BTreeSet<(Now, PubKey)>,
}

impl Wakes {
    pub(super) fn open(conn: Sqlite) -> Result<Self, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut rows = Vec::new();
        conn.query(LOAD, &[], &mut |row| {
            let [SqlValue::Blob(agent), SqlValue::Int(millis)] = row else {
                return Err(StoreError::Corrupt("a row of agent_wake".to_owned()));
            };
            let agent =
                (*agent).try_into().map_err(|_| StoreError::Corrupt("a key in agent_wake".to_owned()))?;
            rows.push((PubKey(agent), Now::from_millis(millis.unsigned_abs())));
            Ok(())
        })?;
        let mut wakes = Wakes { conn, awake: HashSet::new(), at: BTreeMap::new(), by_time: BTreeSet::new() };
        rows.into_iter().for_each(|(agent, at)| wakes.plan(agent, Some(at)));
        Ok(wakes)
    }

    /// Marks agents as awake, durably.
    pub(super) fn mark_awake(&mut self, agents: &[PubKey]) -> Result<(), StoreError> {
        let asleep: Vec<PubKey> =
            agents.iter().filter(|agent| !self.awake.contains(agent)).copied().collect();
        if asleep.is_empty() {
            return Ok(());
        }
        self.conn.transaction(&mut || asleep.iter().try_for_each(|agent| self.put(agent, Now::default())))?;
        for agent in asleep {
            self.plan(agent, None);
            self.awake.insert(agent);
        }
        Ok(())
    }

    /// An agent has been closed. It is opened again at `next`, if there is one. If this is not stored, or lost with the
    /// machine's power, it is opened at the next start, which does no harm.
    pub(super) fn agent_closed(&mut self, agent: &PubKey, next: Option<Now>) {
        let stored = self.conn.wait_for_disk(false).and_then(|()| match next {
            Some(at) => self.put(agent, at),
            None => self.conn.exec(DELETE, &[SqlValue::Blob(&agent.0)]),
        });
        if let Err(error) = stored.and_then(|()| self.conn.wait_for_disk(true)) {
            tracing::debug!(%agent, %error, "when an agent wakes is not stored");
        }
        self.awake.remove(agent);
        self.plan(*agent, next);
    }

    /// Tries again later to open an agent that could not be opened.
    pub(super) fn postpone(&mut self, agent: &PubKey, next: Now) {
        self.awake.remove(agent);
        self.plan(*agent, Some(next));
    }

    /// The next time at which an agent is to be opened.
    pub(super) fn next(&self) -> Option<Now> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The agents whose time has come.
    pub(super) fn take_due(&mut self, now: Now) -> Vec<PubKey> {
        let mut due = Vec::new();
        while let Some((at, agent)) = self.by_time.pop_first() {
            if at > now {
                self.by_time.insert((at, agent));
                break;
            }
            self.at.remove(&agent);
            due.push(agent);
        }
        due
    }

    fn put(&self, agent: &PubKey, at: Now) -> Result<(), StoreError> {
        self.conn.exec(PUT, &[SqlValue::Blob(&agent.0), SqlValue::Int(at.millis() as i64)])
    }

    fn plan(&mut self, agent: PubKey, next: Option<Now>) {
        if let Some(at) = self.at.remove(&agent) {
            self.by_time.remove(&(at, agent));
        }
        if let Some(at) = next {
            self.at.insert(agent, at);
            self.by_time.insert((at, agent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_wakes_those_that_were_awake_and_a_time_those_that_sleep() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Wakes::open(Sqlite::open(&folder.path().join("wakes.sqlite")).unwrap()).unwrap();
        let agent = |n: u8| PubKey([n; 32]);
        let at = Now::from_seconds;
        let mut wakes = open();
        assert_eq!(wakes.next(), None);
        wakes.mark_awake(&[agent(1), agent(2), agent(3), agent(4)]).unwrap();
        assert_eq!(wakes.next(), None, "whoever is awake is not woken");
        wakes.agent_closed(&agent(2), None);
        wakes.agent_closed(&agent(3), Some(at(500)));
        wakes.agent_closed(&agent(4), Some(at(400)));
        assert_eq!(wakes.next(), Some(at(400)));
        // A crash.
        drop(wakes);
        let mut wakes = open();
        assert_eq!(wakes.take_due(at(1)), [agent(1)]);
        assert_eq!(wakes.next(), Some(at(400)));
        assert_eq!(wakes.take_due(at(450)), [agent(4)]);
        wakes.mark_awake(&[agent(3), agent(4)]).unwrap();
        assert_eq!(wakes.next(), None, "an agent that is opened before its time is not woken again");
        wakes.postpone(&agent(4), at(600));
        assert_eq!(wakes.next(), Some(at(600)));
        drop(wakes);
        assert_eq!(open().take_due(at(0)).len(), 3, "none of these has been closed");
    }
}
