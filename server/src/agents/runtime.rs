//! What the tasks of a relay's agents share.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use relay_agent::api;
use relay_agent::machine::{Agent, AgentState, BlobServer, RemovalRecord};
use relay_agent::router::{AgentEntry, Router};
use relay_agent::totals::Tally;
use relay_engine::sql::StoreError;
use relay_engine::types::PubKey;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use super::agent_task;
use super::http::Client;
use super::registry::{Message, Registry};
use super::remote_relays::RemoteRelays;
use super::reopen_times::ReopenTimes;
use super::secrets::HostSecrets;
use super::sqlite::Sqlite;
use crate::handle::RelayHandle;
use crate::host::now;

/// Agents of a relay on which some have been deployed.
pub(super) struct AgentRuntime {
    /// `<data>/agents`.
    pub(super) folder: PathBuf,
    pub(super) relay_url: Option<String>,
    pub(super) blossom: Option<BlobServer>,
    pub(super) secrets: Arc<HostSecrets>,
    pub(super) handle: RelayHandle,
    pub(super) http: Client,
    pub(super) relays: RemoteRelays,
    pub(super) registry: Registry,
    /// Agents that may be open at a time.
    pub(super) slots: Semaphore,
    /// Agents that wait to be opened because too many are.
    pub(super) waiting: AtomicUsize,
    /// Tells idle agents to close, so that those can be opened.
    pub(super) evict_idle: Notify,
    /// Wakes the supervisor: an entry or a time has changed.
    pub(super) changed: Notify,
    pub(super) tokio: Handle,
    pub(super) router: Mutex<Router<Sqlite>>,
    pub(super) reopen_times: Mutex<ReopenTimes>,
    pub(super) tally: Mutex<Tally>,
}

impl AgentRuntime {
    /// The router. It is locked for single calls, never across a wait.
    pub(super) fn router(&self) -> MutexGuard<'_, Router<Sqlite>> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reopen_times(&self) -> MutexGuard<'_, ReopenTimes> {
        self.reopen_times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What agents have counted since this process started.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file_of(&self, agent: &PubKey) -> PathBuf {
        self.folder.join(format!("{agent}.sqlite"))
    }

    /// Removes the file of a deleted agent, once the router keeps its removal record. After a crash between any two steps, or an
    /// error, it is done once more when the agent is opened next.
    ///
    /// # Errors
    /// If the router's store fails, or a file cannot be removed.
    pub(super) fn remove(&self, deleted: &RemovalRecord) -> Result<(), StoreError> {
        let agent = deleted.pubkey();
        let is_kept = self.router().keep_removal_record(now(), deleted)?;
        if !is_kept {
            return Ok(());
        }
        self.tally().deleted(&agent);
        let file = self.file_of(&agent);
        // The database first: a WAL without its database is ignored, but a database without its WAL may be an earlier state.
        for suffix in ["", "-wal", "-shm"] {
            let mut name = file.clone().into_os_string();
            name.push(suffix);
            match fs::remove_file(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Failed(format!("{}: {error}", PathBuf::from(name).display())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Agents that have a file and are not in the router: deleted ones whose file could not be removed yet.
    pub(super) fn agents_with_orphaned_files(&self) -> Vec<PubKey> {
        let Ok(files) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let agents = names.filter_map(|name| name.strip_suffix(".sqlite")?.parse::<PubKey>().ok());
        let agents: Vec<PubKey> = agents.collect();
        let router = self.router();
        agents.into_iter().filter(|agent| router.get(agent).is_none()).collect()
    }

    /// Sends a message to an agent, and opens it if it is closed.
    pub(super) fn send(self: &Arc<Self>, agent: PubKey, message: Message) {
        if let Some(inbox) = self.registry.send(agent, message) {
            self.tokio.spawn(agent_task::run(Arc::clone(self), agent, inbox));
        }
    }

    /// Writes an agent's entry into the router.
    ///
    /// # Errors
    /// If the router's store fails.
    pub(super) fn put(&self, entry: AgentEntry) -> Result<(), StoreError> {
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
            (None, Some(known)) => AgentEntry { state: AgentState::Deleted, ..known },
            _ => return,
        };
        if let Err(error) = self.put(entry) {
            tracing::error!(agent = %pubkey, %error, "an agent's entry can't be written");
        }
    }
}
