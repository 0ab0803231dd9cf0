//! The agents of a host, by key, name and kind.

use std::collections::{BTreeMap, BTreeSet};

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{Kind, PubKey};

use super::{AgentEntry, columns};
use crate::machine::AgentState;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS agent_router_agent (pubkey BLOB PRIMARY KEY, owner BLOB NOT NULL, \
                      state INTEGER NOT NULL, version INTEGER NOT NULL, deployed_at INTEGER NOT NULL, \
                      manifest BLOB NOT NULL) WITHOUT ROWID";
const LOAD: &str = "SELECT pubkey, owner, state, version, deployed_at, manifest FROM agent_router_agent";
const PUT: &str = "INSERT INTO agent_router_agent (pubkey, owner, state, version, deployed_at, manifest) \
                   VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (pubkey) DO UPDATE SET owner = excluded.owner, \
                   state = excluded.state, version = excluded.version, deployed_at = excluded.deployed_at, \
                   manifest = excluded.manifest";
const DELETE: &str = "DELETE FROM agent_router_agent WHERE pubkey = ?";

/// All agents that are not deleted.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<PubKey, AgentEntry>,
    names: BTreeSet<(String, PubKey)>,
    /// Active agents that take open jobs, by kind, sorted.
    open_to: BTreeMap<Kind, Vec<PubKey>>,
    /// How many agents have heartbeats.
    heartbeats_count: usize,
    /// How many agents are paid by zaps.
    zaps_count: usize,
}

impl AgentEntry {
    /// Whether it is paid by zaps.
    pub(super) fn takes_zaps(&self) -> bool {
        self.manifest.payment.zap.is_some()
    }
}

impl Table {
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut table = Table::default();
        conn.query(LOAD, &[], &mut |row| {
            table.insert(read(row)?);
            Ok(())
        })?;
        Ok(table)
    }

    /// Writes an entry, or deletes it if that is its state. Memory is unchanged until [`Table::insert`].
    pub(super) fn save(conn: &impl SqlConn, entry: &AgentEntry) -> Result<(), StoreError> {
        let pubkey = SqlValue::Blob(&entry.pubkey.0);
        let Some(state) = number_of(entry.state) else { return conn.exec(DELETE, &[pubkey]) };
        let manifest =
            serde_json::to_vec(&entry.manifest).map_err(|error| StoreError::Failed(error.to_string()))?;
        conn.exec(
            PUT,
            &[
                pubkey,
                SqlValue::Blob(&entry.owner.0),
                SqlValue::Int(state),
                SqlValue::Int(entry.version.into()),
                SqlValue::Int(entry.deployed_at as i64),
                SqlValue::Blob(&manifest),
            ],
        )
    }

    /// Adds or replaces an entry; one that is deleted is removed.
    pub(super) fn insert(&mut self, entry: AgentEntry) {
        if let Some(old) = self.entries.remove(&entry.pubkey) {
            self.heartbeats_count -= usize::from(old.sends_heartbeats());
            self.zaps_count -= usize::from(old.takes_zaps());
            for handler in &old.manifest.handlers {
                if let Some(agents) = self.open_to.get_mut(&handler.kind) {
                    agents.retain(|agent| *agent != old.pubkey);
                }
            }
            self.names.remove(&(old.manifest.name, old.pubkey));
        }
        if entry.state == AgentState::Deleted {
            return;
        }
        if entry.state == AgentState::Active && entry.manifest.access.open_jobs {
            for handler in &entry.manifest.handlers {
                let agents = self.open_to.entry(handler.kind).or_default();
                if let Err(at) = agents.binary_search(&entry.pubkey) {
                    agents.insert(at, entry.pubkey);
                }
            }
        }
        self.heartbeats_count += usize::from(entry.sends_heartbeats());
        self.zaps_count += usize::from(entry.takes_zaps());
        self.names.insert((entry.manifest.name.clone(), entry.pubkey));
        self.entries.insert(entry.pubkey, entry);
    }

    pub(super) fn get(&self, agent: &PubKey) -> Option<&AgentEntry> {
        self.entries.get(agent)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether any of them has heartbeats.
    pub(super) fn any_sends_heartbeats(&self) -> bool {
        self.heartbeats_count > 0
    }

    /// Whether any of them is paid by zaps.
    pub(super) fn any_takes_zaps(&self) -> bool {
        self.zaps_count > 0
    }

    /// All, by name.
    pub(super) fn by_name(&self) -> impl Iterator<Item = &AgentEntry> {
        self.names.iter().filter_map(|(_, pubkey)| self.entries.get(pubkey))
    }

    /// Active agents that take open jobs of this kind, by key.
    pub(super) fn open_to(&self, kind: Kind) -> &[PubKey] {
        self.open_to.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// Agents whose keys begin with these bytes.
    pub(super) fn with_prefix(&self, prefix: [u8; 8]) -> impl Iterator<Item = PubKey> {
        let (mut first, mut last) = ([0; 32], [0xff; 32]);
        first[..8].copy_from_slice(&prefix);
        last[..8].copy_from_slice(&prefix);
        self.entries.range(PubKey(first)..=PubKey(last)).map(|(pubkey, _)| *pubkey)
    }
}

/// The number of a stored state; `None` for deleted agents, which are not stored.
fn number_of(state: AgentState) -> Option<i64> {
    match state {
        AgentState::Active => Some(0),
        AgentState::Paused => Some(1),
        AgentState::Draining => Some(2),
        AgentState::Deleted => None,
    }
}

fn read(row: &[SqlValue<'_>]) -> Result<AgentEntry, StoreError> {
    let pubkey = columns::pubkey(row, 0)?;
    let state = match columns::int(row, 2)? {
        0 => AgentState::Active,
        1 => AgentState::Paused,
        2 => AgentState::Draining,
        other => return Err(StoreError::Corrupt(format!("agent {pubkey} has state {other}"))),
    };
    let manifest = serde_json::from_slice(columns::blob(row, 5)?)
        .map_err(|error| StoreError::Corrupt(format!("the manifest of agent {pubkey}: {error}")))?;
    Ok(AgentEntry {
        pubkey,
        owner: columns::pubkey(row, 1)?,
        state,
        version: columns::int(row, 3)? as u32,
        manifest,
        deployed_at: columns::int(row, 4)?,
    })
}
