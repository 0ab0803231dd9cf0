//! All agents of a host: which events go to which of them.
//!
//! The router lies beside the relay, in a database of its own (server) or the relay's (edge). It reads the relay's events from a
//! stream (`Relay::open_stream`), from the position that it has confirmed. A batch is delivered to its agents side by side; when
//! each has accepted its part, or the part of an agent that failed has been stored for later, the position is
//! confirmed, which writes one row. So an event that the relay has stored reaches its agents at least once, whatever fails.

use std::sync::Arc;

use relay_engine::sql::SqlConn;
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, Filter, Now, PubKey, Seq};

use crate::machine::AgentState;
use crate::manifest::Manifest;
use crate::secrets::Secrets;

/// An agent, as the router knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its public key.
    pub pubkey: PubKey,
    /// Its owner.
    pub owner: PubKey,
    /// Its state; only active ones get new jobs, draining ones get cancellations.
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
}

impl<C: SqlConn> Router<C> {
    /// Opens the tables in `conn`. `relay_url` is named in beats.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(
        conn: C,
        secrets: Arc<dyn Secrets + Send + Sync>,
        relay_url: Option<String>,
    ) -> Result<Self, StoreError> {
        let _ = relay_url;
        Ok(Router { conn, secrets })
    }

    /// Adds an agent or replaces its entry. Durable when it returns.
    ///
    /// # Errors
    /// If the store fails.
    pub fn put(&mut self, now: Now, entry: Entry) -> Result<(), StoreError> {
        let _ = (now, entry, &self.conn, &self.secrets);
        todo!("router")
    }

    /// All agents that are not deleted, by name.
    pub fn agents(&self) -> impl Iterator<Item = &Entry> {
        std::iter::empty()
    }

    /// An agent.
    pub fn get(&self, agent: &PubKey) -> Option<&Entry> {
        let _ = agent;
        None
    }

    /// The filters of the stream that the host has to open; `None` without agents. They change with [`Router::put`]: a host
    /// compares them afterwards, and opens its stream again from [`Router::position`] if they have.
    pub fn filters(&self) -> Option<Vec<Filter>> {
        todo!("router")
    }

    /// After which sequence number the stream begins. `None`: with the next event.
    ///
    /// # Errors
    /// If the store fails.
    pub fn position(&self) -> Result<Option<Seq>, StoreError> {
        todo!("router")
    }

    /// Whether it takes another batch: the last one has been delivered and confirmed.
    pub fn is_ready(&self) -> bool {
        todo!("router")
    }

    /// The next batch of the stream. `position`: everything up to it has come from the stream. Once it is confirmed
    /// ([`Router::is_ready`]) the next one may follow.
    pub fn accept(&mut self, now: Now, events: Vec<Event>, position: Seq) {
        let _ = (now, events, position);
        todo!("router")
    }

    /// The next delivery to make; at most one is open for each agent. Answered by [`Router::handle_delivered`].
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        todo!("router")
    }

    /// The agent has accepted a delivery (it is durable there), or has not: it is tried again later, with backoff.
    pub fn handle_delivered(&mut self, now: Now, id: u64, is_accepted: bool) {
        let _ = (now, id, is_accepted);
        todo!("router")
    }

    /// Beats (kind 11998) to publish, signed for all active announced agents whose time has come.
    pub fn poll_beats(&mut self, now: Now) -> Vec<Event> {
        let _ = now;
        todo!("router")
    }

    /// When [`Router::handle_timeout`] and [`Router::poll_beats`] are to be called.
    pub fn poll_timeout(&self) -> Option<Now> {
        todo!("router")
    }

    /// Time has passed: deliveries are tried again.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
        todo!("router")
    }
}
