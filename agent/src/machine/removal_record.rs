//! What is kept of a deleted agent, so that its database can be removed: whose it was, and how far its versions and the times of
//! its announcements have come. Some 300 bytes, and 80 for each signed request of the last two minutes.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, PubKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::admin::AgentRecord;
use super::{Agent, AgentState, CommandError};
use crate::manifest::SPLITS_MIN_MSAT_LEAST;
use crate::store::{self, Batch};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalRecord {
    pubkey: PubKey,
    owner: PubKey,
    record: AgentRecord,
    used: Vec<(Timestamp, String)>,
}

/// A deleted agent as JSON.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    record: AgentRecord,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    used: Vec<(Timestamp, String)>,
}

impl RemovalRecord {
    fn of(record: &AgentRecord) -> Option<Self> {
        let (pubkey, owner) = (record.pubkey.parse().ok()?, record.owner.parse().ok()?);
        let used = Vec::new();
        (record.state == AgentState::Deleted).then(|| RemovalRecord {
            pubkey,
            owner,
            record: record.clone(),
            used,
        })
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
        self.record.last_version
    }

    /// When it was deployed, in Unix seconds.
    pub fn deployed_at(&self) -> u64 {
        self.record.deployed_at
    }

    /// The same with the NIP-98 events already used for requests to this agent, as (`created_at`, id). A host that remembers them in the
    /// database that it removes keeps them here, so that no request can be replayed.
    #[must_use]
    pub fn with_used(self, used: impl IntoIterator<Item = (Timestamp, EventId)>) -> Self {
        let used = used.into_iter().map(|(created_at, id)| (created_at, id.to_string())).collect();
        RemovalRecord { used, ..self }
    }

    /// The events of [`RemovalRecord::with_used`].
    pub fn used(&self) -> impl Iterator<Item = (Timestamp, EventId)> {
        let id = |id: &str| EventId::from_hex(id.as_bytes()).ok();
        self.used.iter().filter_map(move |(created_at, text)| Some((*created_at, id(text)?)))
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        let stored = Stored { record: self.record.clone(), used: self.used.clone() };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads [`RemovalRecord::to_json`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn from_json(json: &[u8]) -> Result<Self, StoreError> {
        let Stored { record, used } = serde_json::from_slice(json)
            .map_err(|error| StoreError::Corrupt(format!("a removal record: {error}")))?;
        let deleted = RemovalRecord::of(&record)
            .ok_or_else(|| StoreError::Corrupt("not a removal record".to_owned()))?;
        Ok(RemovalRecord { used, ..deleted })
    }
}

impl<C: SqlConn> Agent<C> {
    /// Its removal record; `None` unless it is deleted.
    pub fn removal_record(&self) -> Option<RemovalRecord> {
        self.record.as_ref().and_then(RemovalRecord::of)
    }

    /// Whether it is deleted, all its events are published, no invoice, refund and zap is open, no customer has credit and nobody a share that could be paid out. A host that keeps
    /// [`Agent::removal_record`] may then remove its database.
    pub fn is_removable(&self) -> bool {
        self.state() == Some(AgentState::Deleted)
            && self.is_idle()
            && self.outbox.is_empty()
            && self.payments.invoices.is_empty()
            && self.payments.refunds.is_empty()
            && self.payments.zaps.is_empty()
            && store::has_debts(&self.conn, SPLITS_MIN_MSAT_LEAST).is_ok_and(|has_debts| !has_debts)
    }

    /// Restores a deleted agent in an empty database, so that a deployment goes on from its last version. Changes
    /// nothing if the database has an agent.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    pub fn restore(&mut self, deleted: &RemovalRecord) -> Result<(), StoreError> {
        if self.record.is_some() {
            return Ok(());
        }
        self.change_record(Batch::default(), deleted.record.clone()).map_err(|error| match error {
            CommandError::Store(error) => error,
            other => StoreError::Failed(format!("{other:?}")),
        })
    }
}
