//! What the tasks of a relay's agents share.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_agent::api;
use relay_agent::machine::{Agent, AgentState, BlobServer};
use relay_agent::router::{Entry, Router};
use relay_agent::totals::Tally;
use relay_engine::sql::StoreError;
use relay_engine::types::PubKey;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use super::actor;
use super::http::Client;
use super::registry::{Message, Registry};
use super::relays::Relays;
use super::secrets::HostSecrets;
use super::sqlite::Sqlite;
use super::wakes::Wakes;
use crate::handle::RelayHandle;
use crate::host::now;

/// Agents of a relay on which some have been deployed.
pub(super) struct Running {
    /// `<data>/agents`.
    pub(super) folder: PathBuf,
    pub(super) relay_url: Option<String>,
    pub(super) blossom: Option<BlobServer>,
    pub(super) secrets: Arc<HostSecrets>,
    pub(super) handle: RelayHandle,
    pub(super) http: Client,
    pub(super) relays: Relays,
    pub(super) registry: Registry,
    /// Agents that may be open at a time.
    pub(super) slots: Semaphore,
    /// Agents that wait to be opened because too many are.
    pub(super) waiting: AtomicUsize,
    /// Wakes idle agents, so that they make way for those.
    pub(super) pressure: Notify,
    /// Wakes the supervisor: an entry or a wake has changed.
    pub(super) changed: Notify,
    pub(super) runtime: Handle,
    pub(super) router: Mutex<Router<Sqlite>>,
    pub(super) wakes: Mutex<Wakes>,
    pub(super) tally: Mutex<Tally>,
}

impl Running {
    /// The router. It is locked for single calls, never across a wait.
    pub(super) fn router(&self) -> MutexGuard<'_, Router<Sqlite>> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wakes(&self) -> MutexGuard<'_, Wakes> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What agents have counted since this process started.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file_of(&self, agent: &PubKey) -> PathBuf {
        self.folder.join(format!("{agent}.sqlite"))
    }

    /// Sends a message to an agent, which is opened if it is not.
    pub(super) fn send(self: &Arc<Self>, agent: PubKey, message: Message) {
        if let Some(inbox) = self.registry.send(agent, message) {
            self.runtime.spawn(actor::run(Arc::clone(self), agent, inbox));
        }
    }

    /// Writes an agent's entry into the router.
    ///
    /// # Errors
    /// If the router's store fails.
    pub(super) fn put(&self, entry: Entry) -> Result<(), StoreError> {
        let (agent, is_deleted) = (entry.pubkey, entry.state == AgentState::Deleted);
        self.router().put(now(), entry)?;
        if is_deleted {
            self.tally().deleted(&agent);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Writes an agent's entry if a crash, or a full disk, came between its last change and that of its entry.
    pub(super) fn reconcile(&self, pubkey: &PubKey, agent: &Agent<Sqlite>) {
        let known = self.router().get(pubkey).cloned();
        let entry = match (api::entry(agent), known) {
            (Some(entry), known) if known.as_ref() != Some(&entry) => entry,
            (None, Some(known)) => Entry { state: AgentState::Deleted, ..known },
            _ => return,
        };
        if let Err(error) = self.put(entry) {
            tracing::error!(agent = %pubkey, %error, "an agent's entry can't be written");
        }
    }
}
