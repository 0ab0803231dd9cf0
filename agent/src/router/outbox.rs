//! Events for agents that could not take them: kept in the database, and delivered later, for each agent in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{Event, Now, PubKey};

use super::columns;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS agent_router_outbox (agent BLOB NOT NULL, \
                      number INTEGER NOT NULL, count INTEGER NOT NULL, events BLOB NOT NULL, \
                      PRIMARY KEY (agent, number)) WITHOUT ROWID";
const LOAD: &str = "SELECT agent, max(number), sum(count) FROM agent_router_outbox GROUP BY agent";
const INSERT: &str = "INSERT INTO agent_router_outbox (agent, number, count, events) VALUES (?, ?, ?, ?)";
const FIRST: &str =
    "SELECT number, count, events FROM agent_router_outbox WHERE agent = ? ORDER BY number LIMIT 1";
const DELETE: &str = "DELETE FROM agent_router_outbox WHERE agent = ? AND number <= ?";
const DELETE_ALL: &str = "DELETE FROM agent_router_outbox WHERE agent = ?";

/// Bytes of events in a row, unless one event is larger. Durable Objects store at most 2 MB in a value.
const ROW_BYTES: usize = 512 << 10;
/// Events that are kept for an agent; further ones are not delivered to it.
const EVENTS_MAX: u64 = 10_000;
/// The first wait after a failure; it doubles with each.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    agents: BTreeMap<PubKey, Waiting>,
    /// Agents to which a delivery can be made now.
    ready: VecDeque<PubKey>,
    /// When the others are to be tried again.
    due: BTreeSet<(Now, PubKey)>,
    /// The agents of deliveries under way.
    open: BTreeMap<u64, PubKey>,
}

/// What waits for one agent.
#[derive(Debug, Default)]
struct Waiting {
    /// The last row.
    last: u64,
    /// Events in all rows.
    events: u64,
    failures: u32,
    /// The last row of the delivery under way, and how many events it has.
    open: Option<(u64, u64)>,
}

impl Outbox {
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut outbox = Outbox::default();
        conn.query(LOAD, &[], &mut |row| {
            let agent = columns::pubkey(row, 0)?;
            let waiting =
                Waiting { last: columns::int(row, 1)?, events: columns::int(row, 2)?, ..Waiting::default() };
            outbox.agents.insert(agent, waiting);
            outbox.ready.push_back(agent);
            Ok(())
        })?;
        Ok(outbox)
    }

    /// Whether anything waits for this agent, so that what comes next must wait too.
    pub(super) fn has(&self, agent: &PubKey) -> bool {
        self.agents.contains_key(agent)
    }

    /// Stores events behind those that wait for the agent already. Memory is unchanged until [`Outbox::added`]. Returns the
    /// last row.
    pub(super) fn add(
        &self,
        conn: &impl SqlConn,
        agent: &PubKey,
        events: &[Event],
    ) -> Result<u64, StoreError> {
        let waiting = self.agents.get(agent);
        let mut number = waiting.map_or(0, |waiting| waiting.last);
        if waiting.is_some_and(|waiting| waiting.events >= EVENTS_MAX) {
            return Ok(number);
        }
        let mut rest = events;
        while !rest.is_empty() {
            let (row, count) = row_of(rest);
            number += 1;
            conn.exec(
                INSERT,
                &[
                    SqlValue::Blob(&agent.0),
                    SqlValue::Int(number as i64),
                    SqlValue::Int(count as i64),
                    SqlValue::Blob(&row),
                ],
            )?;
            rest = &rest[count..];
        }
        Ok(number)
    }

    /// What [`Outbox::add`] stored is durable. `delivery` is under way with these events.
    pub(super) fn added(&mut self, now: Now, agent: PubKey, events: u64, last: u64, delivery: Option<u64>) {
        let waiting = self.agents.entry(agent).or_default();
        let is_first = waiting.last == 0;
        if last > waiting.last {
            waiting.events += events;
            waiting.last = last;
        }
        match delivery {
            Some(id) => {
                waiting.open = Some((last, events));
                self.open.insert(id, agent);
            }
            None if is_first => self.wait(now, agent),
            None => {}
        }
    }

    /// Removes what waits for an agent that is deleted.
    pub(super) fn delete(conn: &impl SqlConn, agent: &PubKey) -> Result<(), StoreError> {
        conn.exec(DELETE_ALL, &[SqlValue::Blob(&agent.0)])
    }

    /// The agent is deleted.
    pub(super) fn forget(&mut self, agent: &PubKey) {
        self.agents.remove(agent);
        self.ready.retain(|own| own != agent);
        self.due.retain(|(_, own)| own != agent);
        self.open.retain(|_, own| own != agent);
    }

    /// The next delivery, which has this id.
    pub(super) fn poll(&mut self, conn: &impl SqlConn, now: Now, id: u64) -> Option<(PubKey, Vec<Event>)> {
        while let Some(agent) = self.ready.pop_front() {
            match first(conn, &agent) {
                Ok(Some((number, events))) => {
                    if let Some(waiting) = self.agents.get_mut(&agent) {
                        waiting.open = Some((number, events.len() as u64));
                        self.open.insert(id, agent);
                        return Some((agent, events));
                    }
                }
                Ok(None) => drop(self.agents.remove(&agent)),
                Err(_) => self.wait(now, agent),
            }
        }
        None
    }

    /// A delivery has ended.
    pub(super) fn handle(&mut self, conn: &impl SqlConn, now: Now, id: u64, is_accepted: bool) {
        let Some(agent) = self.open.remove(&id) else { return };
        let Some(waiting) = self.agents.get_mut(&agent) else { return };
        let Some((number, events)) = waiting.open.take() else { return };
        let params = [SqlValue::Blob(&agent.0), SqlValue::Int(number as i64)];
        // If the rows stay, the events are delivered once more, and recognised.
        if !is_accepted || conn.exec(DELETE, &params).is_err() {
            waiting.failures += 1;
            self.wait(now, agent);
            return;
        }
        waiting.failures = 0;
        waiting.events = waiting.events.saturating_sub(events);
        if number >= waiting.last {
            self.agents.remove(&agent);
        } else {
            self.ready.push_back(agent);
        }
    }

    fn wait(&mut self, now: Now, agent: PubKey) {
        let failures = self.agents.get(&agent).map_or(0, |waiting| waiting.failures);
        let millis = RETRY_MS.saturating_mul(1 << failures.min(16)).min(RETRY_MS_MAX);
        self.due.insert((now.plus_millis(millis), agent));
    }

    pub(super) fn poll_timeout(&self) -> Option<Now> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn handle_timeout(&mut self, now: Now) {
        while let Some((at, agent)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, agent));
                return;
            }
            self.ready.push_back(agent);
        }
    }
}

/// As many events as one row takes, each with its length before it, and how many.
fn row_of(events: &[Event]) -> (Vec<u8>, usize) {
    let (mut row, mut count) = (Vec::new(), 0);
    for event in events {
        let json = event.json();
        if count > 0 && row.len() + json.len() > ROW_BYTES {
            break;
        }
        row.extend_from_slice(&(json.len() as u32).to_be_bytes());
        row.extend_from_slice(json);
        count += 1;
    }
    (row, count)
}

/// The first row of an agent.
fn first(conn: &impl SqlConn, agent: &PubKey) -> Result<Option<(u64, Vec<Event>)>, StoreError> {
    let mut found = None;
    conn.query(FIRST, &[SqlValue::Blob(&agent.0)], &mut |row| {
        let events = events_of(columns::blob(row, 2)?)
            .ok_or_else(|| StoreError::Corrupt(format!("events that wait for agent {agent}")))?;
        found = Some((columns::int(row, 0)?, events));
        Ok(())
    })?;
    Ok(found)
}

fn events_of(mut row: &[u8]) -> Option<Vec<Event>> {
    let mut events = Vec::new();
    while !row.is_empty() {
        let (len, rest) = row.split_first_chunk()?;
        let (json, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        events.push(Event::from_canonical(Arc::from(json)));
        row = rest;
    }
    Some(events)
}
