//! When agents that are closed are to be opened again.
//! An agent is marked as open before its file is opened. When it is closed, the time at which to open it again
//! replaces the mark. So after a crash every agent that may have unfinished work is opened, and no other.

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
pub(super) struct ReopenTimes {
    conn: Sqlite,
    /// Marked as open by this process.
    open: HashSet<PubKey>,
    /// The others that have a time.
    at: BTreeMap<PubKey, Now>,
    by_time: BTreeSet<(Now, PubKey)>,
}

impl ReopenTimes {
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
        let mut times =
            ReopenTimes { conn, open: HashSet::new(), at: BTreeMap::new(), by_time: BTreeSet::new() };
        rows.into_iter().for_each(|(agent, at)| times.plan(agent, Some(at)));
        Ok(times)
    }

    /// Marks agents as open, durably.
    pub(super) fn mark_open(&mut self, agents: &[PubKey]) -> Result<(), StoreError> {
        let closed: Vec<PubKey> = agents.iter().filter(|agent| !self.open.contains(agent)).copied().collect();
        if closed.is_empty() {
            return Ok(());
        }
        self.conn.transaction(&mut || closed.iter().try_for_each(|agent| self.put(agent, Now::default())))?;
        for agent in closed {
            self.plan(agent, None);
            self.open.insert(agent);
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
            tracing::debug!(%agent, %error, "the time to open an agent again is not stored");
        }
        self.open.remove(agent);
        self.plan(*agent, next);
    }

    /// Tries again later to open an agent that could not be opened.
    pub(super) fn postpone(&mut self, agent: &PubKey, next: Now) {
        self.open.remove(agent);
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
    fn agents_are_opened_again_after_a_crash_and_at_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let open = || ReopenTimes::open(Sqlite::open(&folder.path().join("wakes.sqlite")).unwrap()).unwrap();
        let agent = |n: u8| PubKey([n; 32]);
        let at = Now::from_seconds;
        let mut times = open();
        assert_eq!(times.next(), None);
        times.mark_open(&[agent(1), agent(2), agent(3), agent(4)]).unwrap();
        assert_eq!(times.next(), None, "an open agent is not opened again");
        times.agent_closed(&agent(2), None);
        times.agent_closed(&agent(3), Some(at(500)));
        times.agent_closed(&agent(4), Some(at(400)));
        assert_eq!(times.next(), Some(at(400)));
        // A crash.
        drop(times);
        let mut times = open();
        assert_eq!(times.take_due(at(1)), [agent(1)]);
        assert_eq!(times.next(), Some(at(400)));
        assert_eq!(times.take_due(at(450)), [agent(4)]);
        times.mark_open(&[agent(3), agent(4)]).unwrap();
        assert_eq!(times.next(), None, "an agent that is opened before its time is not opened again");
        times.postpone(&agent(4), at(600));
        assert_eq!(times.next(), Some(at(600)));
        drop(times);
        assert_eq!(open().take_due(at(0)).len(), 3, "none of these has been closed");
    }
}
