//! All agents of a host: which events go to which of them.
//!
//! The router lies beside the relay, in a database of its own (server) or the relay's (edge). It reads the relay's events from a
//! stream (`Relay::open_stream`), from the position that it has confirmed. A batch is delivered to its agents side by side; when
//! each has accepted its part, or the part of an agent that failed has been stored for later, the position is
//! confirmed, which writes one row. So an event that the relay has stored reaches its agents at least once, whatever fails.
//!
//! | event | goes to |
//! |---|---|
//! | job request (5000 to 5999) with `p` tags | the first 16 agents of this host that it names, so that those that are paused say so |
//! | without `p` tags | at most five active agents that take open jobs of its kind |
//! | job request of an agent of this host | of these, those with `access.agent_callers`; never its author |
//! | deletion request (5) | agents that were given a request that it names, if the author is the same |
//! | request to vanish (62) | agents that were given a request of its author |
//! | ping (7007) | of the first 16 that it names, the active ones |
//! | zap receipt (9735) | of the first 16 that it names, those that are paid by zaps |
//!
//! The last 16,000 requests are remembered for cancellations, across restarts.
//!
//! ```text
//! table      the agents
//! rules      the table above
//! batch      the batch under way
//! outbox     events for agents that failed
//! in_flight  deliveries that the host has not answered
//! progress   the confirmed position, and the latest requests
//! heartbeats heartbeats (kind 11998) of all agents
//! removal_records: what is kept of deleted agents
//! ```

mod batch;
mod columns;
mod heartbeats;
mod in_flight;
mod outbox;
mod progress;
mod removal_records;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use relay_engine::sql::SqlConn;
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, Filter, Now, PubKey, Seq};

use crate::machine::{AgentState, RemovalRecord};
use crate::manifest::Manifest;
use crate::nip57::KIND_ZAP_RECEIPT;
use crate::nip90::{self, Incoming};
use crate::secrets::Secrets;
use batch::{Batch, Part, Parts};
use heartbeats::Heartbeats;
use in_flight::InFlight;
use outbox::Outbox;
use progress::Progress;
use table::Table;

/// Time for a delivery, after which the batch no longer waits for it.
const SLOW_MS: u64 = 2_000;
/// Time until a write that the store failed is tried again.
const RETRY_MS: u64 = 1_000;

/// An agent, as the router knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentEntry {
    /// Its public key.
    pub pubkey: PubKey,
    /// Its owner.
    pub owner: PubKey,
    /// Its state; only active ones get open jobs.
    pub state: AgentState,
    /// The current version.
    pub version: u32,
    /// The current manifest.
    pub manifest: Manifest,
    /// When it was first deployed, in Unix seconds.
    pub deployed_at: u64,
}

/// Events for one agent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// For the answer.
    pub id: u64,
    /// The agent.
    pub agent: PubKey,
    /// In the order in which the relay stored them.
    pub events: Vec<Event>,
}

/// See the module.
pub struct Router<C> {
    conn: C,
    secrets: Arc<dyn Secrets + Send + Sync>,
    table: Table,
    progress: Progress,
    batch: Option<Batch>,
    outbox: Outbox,
    heartbeats: Heartbeats,
    in_flight: InFlight,
    /// The last delivery.
    deliveries: u64,
    /// The time of the last call that said it.
    now: Now,
}

impl<C: SqlConn> Router<C> {
    /// Opens the tables in `conn`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(conn: C, secrets: Arc<dyn Secrets + Send + Sync>) -> Result<Self, StoreError> {
        removal_records::create(&conn)?;
        Ok(Router {
            table: Table::open(&conn)?,
            progress: Progress::open(&conn)?,
            batch: None,
            outbox: Outbox::open(&conn)?,
            heartbeats: Heartbeats::open(&conn)?,
            in_flight: InFlight::default(),
            deliveries: 0,
            now: Now::default(),
            conn,
            secrets,
        })
    }

    /// Adds an agent or replaces its entry; one that is deleted is removed, with what waits for it. Durable when it returns.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    pub fn put(&mut self, now: Now, entry: AgentEntry) -> Result<(), StoreError> {
        let agent = entry.pubkey;
        let is_deleted = entry.state == AgentState::Deleted;
        self.conn.transaction(&mut || {
            Table::save(&self.conn, &entry)?;
            match is_deleted {
                true => Outbox::delete(&self.conn, &agent),
                false => removal_records::delete(&self.conn, &agent),
            }
        })?;
        self.changed(now, entry);
        Ok(())
    }

    /// Keeps the removal record of a deleted agent ([`Agent::is_removable`](crate::machine::Agent::is_removable))
    /// until it is deployed again, and removes its entry. Durable when it returns `true`: then the host removes the agent's
    /// database. `false`: the agent has been deployed again meanwhile, or deleted again.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    pub fn keep_removal_record(&mut self, now: Now, record: &RemovalRecord) -> Result<bool, StoreError> {
        let agent = record.pubkey();
        let known = self.table.get(&agent);
        let earlier = removal_records::get(&self.conn, &agent)?;
        let versions = known.map(|entry| entry.version).into_iter();
        let mut versions = versions.chain(earlier.as_ref().map(RemovalRecord::last_version));
        if versions.any(|version| version > record.last_version()) {
            return Ok(false);
        }
        if known.is_none() && earlier.as_ref() == Some(record) {
            return Ok(true);
        }
        let deleted = known.map(|entry| AgentEntry { state: AgentState::Deleted, ..entry.clone() });
        self.conn.transaction(&mut || {
            if let Some(entry) = &deleted {
                Table::save(&self.conn, entry)?;
            }
            Outbox::delete(&self.conn, &agent)?;
            removal_records::put(&self.conn, record)
        })?;
        if let Some(entry) = deleted {
            self.changed(now, entry);
        }
        Ok(true)
    }

    /// The removal record of a deleted agent.
    ///
    /// # Errors
    /// If the store fails.
    pub fn removal_record(&self, agent: &PubKey) -> Result<Option<RemovalRecord>, StoreError> {
        removal_records::get(&self.conn, agent)
    }

    /// An entry has been written.
    fn changed(&mut self, now: Now, entry: AgentEntry) {
        let (agent, is_deleted) = (entry.pubkey, entry.state == AgentState::Deleted);
        self.heartbeats.changed(self.table.get(&agent), &entry);
        self.table.insert(entry);
        if is_deleted {
            self.outbox.forget(&agent);
            if let Some(batch) = &mut self.batch {
                batch.forget(&agent);
            }
        }
        self.advance(now);
    }

    /// All agents that are not deleted, by name.
    pub fn agents(&self) -> impl Iterator<Item = &AgentEntry> {
        self.table.by_name()
    }

    /// Whether there are no agents.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// An agent.
    pub fn get(&self, agent: &PubKey) -> Option<&AgentEntry> {
        self.table.get(agent)
    }

    /// The filters of the stream that the host has to open; `None` without agents. They may change with [`Router::put`]: a
    /// host compares them afterwards, and opens its stream again from [`Router::position`] if they have.
    ///
    /// They name every kind of job request and every ping, deletion and request to vanish, whatever the agents are:
    /// passing over the others here costs less than a new stream for each deployment. Zap receipts, which are many, they name if any agent is paid
    /// by zaps.
    pub fn filters(&self) -> Option<Vec<Filter>> {
        if self.table.is_empty() {
            return None;
        }
        // In order, as filters are compared; hosts ask after every step.
        let deletions = [nip90::KIND_DELETION, nip90::KIND_VANISH].into_iter();
        let receipts = self.table.any_takes_zaps().then_some(KIND_ZAP_RECEIPT);
        let kinds = deletions.chain(nip90::REQUEST_KINDS).chain([nip90::KIND_PING]).chain(receipts);
        Some(vec![Filter { kinds: Some(kinds.collect()), ..Filter::default() }])
    }

    /// After which sequence number the stream begins. `None`: nothing has been confirmed yet. Then the host confirms the
    /// last sequence number of its store, by an empty batch, before it adds the first agent: otherwise a crash would lose what
    /// came between the opening of its stream and the first batch.
    ///
    /// # Errors
    /// If the store fails.
    pub fn position(&self) -> Result<Option<Seq>, StoreError> {
        Ok(self.progress.position())
    }

    /// Whether it takes another batch: the last one has been delivered and confirmed.
    pub fn is_ready(&self) -> bool {
        self.batch.is_none()
    }

    /// The next batch of the stream. `position`: everything up to it has come from the stream. Once it is confirmed
    /// ([`Router::is_ready`]) the next one may follow.
    pub fn accept(&mut self, now: Now, events: Vec<Event>, position: Seq) {
        debug_assert!(self.is_ready(), "one batch at a time");
        self.batch = Some(Batch::new(events, position, now.plus_millis(SLOW_MS)));
        self.advance(now);
    }

    /// The next delivery to make: at most one is in flight for each agent, and none begins while 4 MiB or more are in flight in all.
    /// Each has to be answered by [`Router::handle_delivered`], after which there may be another.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        if self.in_flight.is_full() {
            return None;
        }
        let id = self.deliveries + 1;
        let part = self.batch.as_mut().and_then(|batch| batch.parts.pop_front());
        let delivery = match (part, &mut self.batch) {
            (Some(part), Some(batch)) => {
                let delivery = Delivery { id, agent: part.agent, events: part.events.clone() };
                batch.in_flight.insert(id, part);
                Some(delivery)
            }
            _ => {
                let next = self.outbox.poll(&self.conn, self.now, id);
                next.map(|(agent, events)| Delivery { id, agent, events })
            }
        };
        if let Some(delivery) = &delivery {
            self.deliveries = id;
            self.in_flight.insert(id, &delivery.events);
        }
        delivery
    }

    /// The agent has accepted a delivery (it is durable there), or has not: it is tried again later, with backoff.
    pub fn handle_delivered(&mut self, now: Now, id: u64, is_accepted: bool) {
        self.in_flight.remove(id);
        if let Some(batch) = &mut self.batch {
            if let Some(part) = batch.in_flight.remove(&id) {
                if !is_accepted {
                    batch.late.push((part, None));
                }
                self.advance(now);
                return;
            }
            if let Some(index) = batch.late.iter().position(|(_, open)| *open == Some(id)) {
                if is_accepted {
                    batch.late.swap_remove(index);
                } else {
                    batch.late[index].1 = None;
                }
                return;
            }
        }
        self.outbox.handle(&self.conn, now, id, is_accepted);
        self.now = now;
    }

    /// Events that have been dropped since this was last called, by agent, because too much waited for it already, or for all agents:
    /// they are never delivered. For the log and for [`Tally::dropped`](crate::totals::Tally::dropped).
    pub fn take_dropped(&mut self) -> BTreeMap<PubKey, u64> {
        self.outbox.take_dropped()
    }

    /// Heartbeats (kind 11998) to publish, signed, for active announced agents whose time has come: at most 100 at a time. If they
    /// are not published, the agent's next one is in four minutes.
    pub fn poll_heartbeats(&mut self, now: Now) -> Vec<Event> {
        self.now = now;
        self.heartbeats.poll(&self.conn, now, &self.table, &*self.secrets)
    }

    /// When [`Router::handle_timeout`] and [`Router::poll_heartbeats`] are to be called.
    pub fn poll_timeout(&self) -> Option<Now> {
        let batch = self.batch.as_ref().and_then(|batch| {
            let slow_at = batch.is_under_way().then_some(batch.slow_at);
            batch.retry_at.into_iter().chain(slow_at).min()
        });
        let times = [batch, self.outbox.poll_timeout(), self.heartbeats.poll_timeout(self.now, &self.table)];
        times.into_iter().flatten().min()
    }

    /// Time has passed: deliveries are tried again.
    pub fn handle_timeout(&mut self, now: Now) {
        self.outbox.handle_timeout(now);
        if let Some(batch) = &mut self.batch {
            if now >= batch.slow_at {
                batch.give_up_waiting();
            }
            if batch.retry_at.is_some_and(|at| now >= at) {
                batch.retry_at = None;
            }
        }
        self.advance(now);
    }

    /// Routes the batch, and confirms it once it is done.
    fn advance(&mut self, now: Now) {
        self.now = now;
        let Some(mut batch) = self.batch.take() else { return };
        if batch.retry_at.is_none() {
            let outcome = self.route(&mut batch).and_then(|()| match batch.is_done() {
                true => self.confirm(now, &batch).map(|()| true),
                false => Ok(false),
            });
            match outcome {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => batch.retry_at = Some(now.plus_millis(RETRY_MS)),
            }
        }
        self.batch = Some(batch);
    }

    /// Finds the agents of the batch's events.
    fn route(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        if batch.unrouted.is_empty() {
            return Ok(());
        }
        let mut parts = Parts::default();
        self.progress.forget_pending();
        for event in &batch.unrouted {
            for agent in self.agents_of(event)? {
                parts.push(agent, event);
            }
        }
        batch.unrouted.clear();
        for part in parts.into_vec() {
            if self.outbox.has(&part.agent) {
                batch.late.push((part, None));
            } else {
                batch.parts.push_back(part);
            }
        }
        Ok(())
    }

    fn agents_of(&mut self, event: &Event) -> Result<Vec<PubKey>, StoreError> {
        let prefixes = match Incoming::of(event) {
            Incoming::Request => {
                let agents = rules::request(&self.table, event);
                if !agents.is_empty() {
                    self.progress.note(&event.id, &event.pubkey, &agents);
                }
                return Ok(agents);
            }
            Incoming::Ping => return Ok(rules::ping(&self.table, event)),
            Incoming::ZapReceipt => return Ok(rules::zap_receipt(&self.table, event)),
            Incoming::Cancellation => {
                self.progress.assigned_agents(&self.conn, &event.pubkey, nip90::cancelled(event))?
            }
            Incoming::Vanish => self.progress.assigned_agents_of(&self.conn, &event.pubkey)?,
            Incoming::Other => return Ok(Vec::new()),
        };
        Ok(prefixes.into_iter().flat_map(|prefix| self.table.with_prefix(prefix)).collect())
    }

    /// Everything of the batch has been delivered or is stored now.
    fn confirm(&mut self, now: Now, batch: &Batch) -> Result<(), StoreError> {
        if batch.late.is_empty() && !self.progress.must_write(batch.position) {
            self.progress.advance(batch.position);
            return Ok(());
        }
        let mut rows = Vec::new();
        self.conn.transaction(&mut || {
            rows.clear();
            for (Part { agent, events }, _) in &batch.late {
                rows.push(self.outbox.add(&self.conn, agent, events)?);
            }
            self.progress.write(&self.conn, batch.position)
        })?;
        for ((part, open), row) in batch.late.iter().zip(rows) {
            self.outbox.added(now, part.agent, &part.events, row, *open);
        }
        self.progress.written(batch.position);
        Ok(())
    }
}
