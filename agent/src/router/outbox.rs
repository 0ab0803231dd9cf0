//! Events for agents that could not take them: kept in the database, and delivered later, for each agent in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{Event, Now, PubKey};

use super::columns;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS agent_router_outbox (agent BLOB NOT NULL, \
                      number INTEGER NOT NULL, count INTEGER NOT NULL, events BLOB NOT NULL, \
                      PRIMARY KEY (agent, number)) WITHOUT ROWID";
const LOAD: &str =
    "SELECT agent, max(number), sum(count), sum(length(events)) FROM agent_router_outbox GROUP BY agent";
const INSERT: &str = "INSERT INTO agent_router_outbox (agent, number, count, events) VALUES (?, ?, ?, ?)";
const FIRST: &str =
    "SELECT number, count, events FROM agent_router_outbox WHERE agent = ? ORDER BY number LIMIT 1";
const DELETE: &str = "DELETE FROM agent_router_outbox WHERE agent = ? AND number <= ?";
const DELETE_ALL: &str = "DELETE FROM agent_router_outbox WHERE agent = ?";

/// Bytes of events in a row, unless one event is larger. Durable Objects store at most 2 MB in a value.
const ROW_BYTES: usize = 512 << 10;
/// Events that are kept for an agent, and their bytes; and the bytes of those for all agents. Further ones are dropped, and counted.
const EVENTS_MAX: u64 = 10_000;
const BYTES_MAX: u64 = 16 << 20;
const ALL_BYTES_MAX: u64 = 256 << 20;
/// Bytes of the length before each event.
const LENGTH_BYTES: usize = 4;
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
    in_flight: BTreeMap<u64, PubKey>,
    /// Bytes of all rows.
    bytes: u64,
    /// Events that there was no room for, until they are polled.
    dropped: BTreeMap<PubKey, u64>,
}

/// What waits for one agent.
#[derive(Debug, Default)]
struct Waiting {
    /// The last row.
    last: u64,
    /// In all rows.
    size: Size,
    failures: u32,
    /// The last row of the delivery under way, and what is in it.
    in_flight: Option<(u64, Size)>,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    events: u64,
    bytes: u64,
}

impl Size {
    fn of(events: &[Event]) -> Self {
        let bytes = |event: &Event| (LENGTH_BYTES + event.json().len()) as u64;
        Size { events: events.len() as u64, bytes: events.iter().map(bytes).sum() }
    }
}

impl Outbox {
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut outbox = Outbox::default();
        conn.query(LOAD, &[], &mut |row| {
            let agent = columns::pubkey(row, 0)?;
            let size = Size { events: columns::int(row, 2)?, bytes: columns::int(row, 3)? };
            let waiting = Waiting { last: columns::int(row, 1)?, size, ..Waiting::default() };
            outbox.bytes += size.bytes;
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

    /// Stores events behind those that wait for the agent already, if there is room. Memory is unchanged until
    /// [`Outbox::added`]. Returns the last row, which is no new one if they are dropped.
    pub(super) fn add(
        &self,
        conn: &impl SqlConn,
        agent: &PubKey,
        events: &[Event],
    ) -> Result<u64, StoreError> {
        let waiting = self.agents.get(agent);
        let mut number = waiting.map_or(0, |waiting| waiting.last);
        let size = waiting.map(|waiting| waiting.size).unwrap_or_default();
        if size.events >= EVENTS_MAX || size.bytes >= BYTES_MAX || self.bytes >= ALL_BYTES_MAX {
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
    pub(super) fn added(
        &mut self,
        now: Now,
        agent: PubKey,
        events: &[Event],
        last: u64,
        delivery: Option<u64>,
    ) {
        let size = Size::of(events);
        let before = self.agents.get(&agent).map_or(0, |waiting| waiting.last);
        if last <= before {
            *self.dropped.entry(agent).or_default() += size.events;
            return;
        }
        let waiting = self.agents.entry(agent).or_default();
        waiting.size.events += size.events;
        waiting.size.bytes += size.bytes;
        waiting.last = last;
        self.bytes += size.bytes;
        match delivery {
            Some(id) => {
                waiting.in_flight = Some((last, size));
                self.in_flight.insert(id, agent);
            }
            None if before == 0 => self.wait(now, agent),
            None => {}
        }
    }

    /// How many events of which agents have been dropped since this was last called.
    pub(super) fn take_dropped(&mut self) -> BTreeMap<PubKey, u64> {
        std::mem::take(&mut self.dropped)
    }

    /// Removes what waits for an agent that is deleted.
    pub(super) fn delete(conn: &impl SqlConn, agent: &PubKey) -> Result<(), StoreError> {
        conn.exec(DELETE_ALL, &[SqlValue::Blob(&agent.0)])
    }

    /// The agent is deleted.
    pub(super) fn forget(&mut self, agent: &PubKey) {
        let size = self.agents.remove(agent).map(|waiting| waiting.size).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(size.bytes);
        self.ready.retain(|own| own != agent);
        self.due.retain(|(_, own)| own != agent);
        self.in_flight.retain(|_, own| own != agent);
    }

    /// The next delivery, which has this id.
    pub(super) fn poll(&mut self, conn: &impl SqlConn, now: Now, id: u64) -> Option<(PubKey, Vec<Event>)> {
        while let Some(agent) = self.ready.pop_front() {
            match first(conn, &agent) {
                Ok(Some((number, events))) => {
                    if let Some(waiting) = self.agents.get_mut(&agent) {
                        waiting.in_flight = Some((number, Size::of(&events)));
                        self.in_flight.insert(id, agent);
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
        let Some(agent) = self.in_flight.remove(&id) else { return };
        let Some(waiting) = self.agents.get_mut(&agent) else { return };
        let Some((number, size)) = waiting.in_flight.take() else { return };
        let params = [SqlValue::Blob(&agent.0), SqlValue::Int(number as i64)];
        // If the rows stay, the events are delivered once more, and recognised.
        if !is_accepted || conn.exec(DELETE, &params).is_err() {
            waiting.failures += 1;
            self.wait(now, agent);
            return;
        }
        waiting.failures = 0;
        waiting.size.events = waiting.size.events.saturating_sub(size.events);
        waiting.size.bytes = waiting.size.bytes.saturating_sub(size.bytes);
        self.bytes = self.bytes.saturating_sub(size.bytes);
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
