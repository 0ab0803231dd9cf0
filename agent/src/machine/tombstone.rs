//! What is kept of a deleted agent, so that its database can be removed: whose it was, and how far its versions and the times of
//! its announcements have come. Some 300 bytes, and 80 for each signed request of the last two minutes.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, PubKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::admin::AgentRecord;
use super::{Agent, AgentState, CommandError};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    pubkey: PubKey,
    owner: PubKey,
    head: AgentRecord,
    used: Vec<(Timestamp, String)>,
}

/// A tombstone as JSON.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    head: AgentRecord,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    used: Vec<(Timestamp, String)>,
}

impl Tombstone {
    fn of(head: &AgentRecord) -> Option<Self> {
        let (pubkey, owner) = (head.pubkey.parse().ok()?, head.owner.parse().ok()?);
        let used = Vec::new();
        (head.state == AgentState::Deleted).then(|| Tombstone { pubkey, owner, head: head.clone(), used })
    }

    /// The key of the agent.
    pub fn pubkey(&self) -> PubKey {
        self.pubkey
    }

    /// Who owned it.
    pub fn owner(&self) -> PubKey {
        self.owner
    }

    /// The number of its last version.
    pub fn last_version(&self) -> u32 {
        self.head.last_version
    }

    /// When it was deployed, in Unix seconds.
    pub fn deployed_at(&self) -> u64 {
        self.head.deployed_at
    }

    /// The same with the events that have signed requests to the agent, their times first: a host that remembers them in the database
    /// that it removes keeps them here, for such a request must not be carried out again.
    #[must_use]
    pub fn with_used(self, used: impl IntoIterator<Item = (Timestamp, EventId)>) -> Self {
        let used = used.into_iter().map(|(created_at, id)| (created_at, id.to_string())).collect();
        Tombstone { used, ..self }
    }

    /// The events of [`Tombstone::with_used`].
    pub fn used(&self) -> impl Iterator<Item = (Timestamp, EventId)> {
        let id = |id: &str| EventId::from_hex(id.as_bytes()).ok();
        self.used.iter().filter_map(move |(created_at, text)| Some((*created_at, id(text)?)))
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        let stored = Stored { head: self.head.clone(), used: self.used.clone() };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads [`Tombstone::to_json`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn from_json(json: &[u8]) -> Result<Self, StoreError> {
        let Stored { head, used } = serde_json::from_slice(json)
            .map_err(|error| StoreError::Corrupt(format!("a tombstone: {error}")))?;
        let tombstone =
            Tombstone::of(&head).ok_or_else(|| StoreError::Corrupt("not a tombstone".to_owned()))?;
        Ok(Tombstone { used, ..tombstone })
    }
}

impl<C: SqlConn> Agent<C> {
    /// What is kept of it; `None` unless it is deleted.
    pub fn tombstone(&self) -> Option<Tombstone> {
        self.head.as_ref().and_then(Tombstone::of)
    }

    /// Whether it is deleted and waits for nothing: all that it had to publish is published. A host that keeps
    /// [`Agent::tombstone`] may then remove its database.
    pub fn is_gone(&self) -> bool {
        self.state() == Some(AgentState::Deleted) && self.is_idle() && self.outbox.is_empty()
    }

    /// Makes an agent in an empty database the deleted one that it was before its database was removed; then a deployment goes
    /// on from it. Changes nothing if an agent is there.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    pub fn restore(&mut self, tombstone: &Tombstone) -> Result<(), StoreError> {
        if self.head.is_some() {
            return Ok(());
        }
        self.change_head(tombstone.head.clone()).map_err(|error| match error {
            CommandError::Store(error) => error,
            other => StoreError::Failed(format!("{other:?}")),
        })
    }
}
